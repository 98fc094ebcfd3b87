"""A training checkpoint of the released code goes on here: weights, optimisers by name, epochs as steps."""

import argparse

import pytest
import torch
from filled import filled, manifest
from generator_training import assert_same_training, checkpoint, flags, run

from models.discriminator import Discriminator
from models.released_weights import UNUSED, from_released, released_key, to_released
from models.vec2face import PRESETS, Vec2Face
from utils.training.released import is_released_training, to_native_training

BUFFER = "token_emb.position_ids"  # the one key of the released state dict that is no parameter


def released_order(state):
    """A released state dict in the order of the released model."""
    return {key: state[key] for key in manifest("generator") if key in state}


def released_optimizer(states, names):
    """An optimiser's state dict over one group of ``names``; ``states``: {name: state} of those that were ever used."""
    group = {"lr": 3e-5, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False, "foreach": None,
             "maximize": False, "capturable": False, "differentiable": False, "fused": None}  # fmt: skip
    numbered = {index: states[name] for index, name in enumerate(names) if name in states}
    return {"state": numbered, "param_groups": [group | {"params": list(range(len(names)))}]}


def as_released(content, epoch):
    """The file that the released code would have written in the place of one of ours, and the sizes of its preset."""
    state = {key: value.contiguous() for key, value in to_released(content["model_vec2face"]).items()}
    state = released_order(state)
    with torch.device("meta"):
        names = [name for name, _ in Vec2Face(PRESETS[content["model"]]).named_parameters()]
    decoder_last = sorted(names, key=lambda name: name.startswith("image_decoder."))  # our two groups
    moments = {
        released_key(n): contiguous(content["optimizer_vec2face"]["state"][i]) for i, n in enumerate(decoder_last)
    }
    disc = list(content["model_disc"])
    moments_disc = {n: contiguous(s) for n, s in zip(disc, content["optimizer_disc"]["state"].values(), strict=False)}
    return {
        "model_vec2face": state,
        "model_disc": {key: value.contiguous() for key, value in content["model_disc"].items()},
        "model_ema": None,
        "optimizer_vec2face": released_optimizer(moments, [name for name in state if name != BUFFER]),
        "optimizer_disc": released_optimizer(moments_disc, disc),
        "epoch": epoch,
        "scaler": {"scale": 4096.0, "growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 2000,
                   "_growth_tracker": 7},
        "args": argparse.Namespace(batch_size=32, blr=4e-5, amp_dtype=torch.float16, resume=""),
        "architecture": content["architecture"],  # the tiny preset is ours: its files say how it is normalised
    }  # fmt: skip


def contiguous(state):
    return {key: value.contiguous() for key, value in state.items()}


@pytest.fixture(scope="module")
def training(demo, training_lmdb, tmp_path_factory):
    """Two epochs of four steps with the GAN: the released form of the first one, and what the second one ends with."""
    folder = tmp_path_factory.mktemp("whole")
    words = flags(demo, training_lmdb, folder, "--disc_start", 0, "--resume", folder)
    run(*words, "--max_steps", 4)
    released = as_released(checkpoint(folder), epoch=0)
    run(*words)
    return released, checkpoint(folder)


@pytest.fixture
def first_epoch(training):
    return training[0]


def test_it_goes_on_as_if_the_whole_training_had_been_ours(
    demo, training_lmdb, training, tmp_path, capsys
):  # fmt: skip
    first_epoch, expected = training
    torch.save(first_epoch, tmp_path / "checkpoint-0.pth")
    words = flags(demo, training_lmdb, tmp_path / "run", "--disc_start", 0)
    run(*words, "--resume", tmp_path / "checkpoint-0.pth")
    output = capsys.readouterr().out
    assert "continuing a training of the released code after 1 epochs" in output
    assert "resumed at step 4 of 8" in output
    saved = checkpoint(tmp_path / "run")
    assert_same_training(saved | {"model_ema": {}}, expected | {"model_ema": {}})
    assert saved["optimizer_vec2face"]["param_groups"] == expected["optimizer_vec2face"]["param_groups"]
    run(*words, "--epochs", 3, "--max_steps", 9, "--resume", tmp_path / "run")  # from then on it is one of ours
    assert checkpoint(tmp_path / "run")["step"] == 9


def test_averaging_begins_with_its_weights(demo, training_lmdb, first_epoch, tmp_path):
    torch.save(first_epoch, tmp_path / "checkpoint-0.pth")
    run(*flags(demo, training_lmdb, tmp_path / "run", "--disc_start", 0, "--max_steps", 5, "--ema", 0.5),
        "--resume", tmp_path / "checkpoint-0.pth")  # fmt: skip
    saved, before = checkpoint(tmp_path / "run"), from_released(first_epoch["model_vec2face"])
    for key, value in saved["model_vec2face"].items():
        assert torch.allclose(saved["model_ema"][key], (before[key] + value) / 2, atol=1e-6), key


def test_an_optimiser_that_cannot_be_told_apart_is_refused_with_what_to_do(
    demo, training_lmdb, first_epoch, tmp_path, capsys
):  # fmt: skip
    path = tmp_path / "checkpoint-0.pth"
    optimizer = first_epoch["optimizer_vec2face"]
    (group,) = optimizer["param_groups"]
    split = optimizer | {
        "param_groups": [group | {"params": group["params"][:9]}, group | {"params": group["params"][9:]}]
    }
    partial = optimizer | {"state": {k: v for k, v in optimizer["state"].items() if k != 5}}
    moved = optimizer | {"state": {k + 1: v for k, v in optimizer["state"].items()}}
    for other, reason in (
        (split, "in one group"),
        (partial, "no state that fits"),
        (moved, "in one group"),
    ):
        torch.save(first_epoch | {"optimizer_vec2face": other}, path)
        with pytest.raises(SystemExit):
            run(*flags(demo, training_lmdb, tmp_path / "run", "--resume", path))
        message = capsys.readouterr().err
        assert reason in message
        assert f"--start_from {path}" in message
    run(*flags(demo, training_lmdb, tmp_path / "run", "--start_from", path, "--max_steps", 1))  # which does work


def test_every_parameter_of_the_base_model_gets_its_own_moments():
    """At the released size, without memory for it: the state of every parameter has its shape and its number."""
    keys = manifest("generator")
    names = [name for name in keys if name != BUFFER]
    with torch.device("meta"):
        generator, discriminator = Vec2Face(PRESETS["vec2face_vit_base_patch16"]), Discriminator()
        used = [name for name in names if not name.startswith(UNUSED)]
        states = {name: moments(keys[name][0], names.index(name)) for name in used}
        disc = {
            name: moments(shape, number) for number, (name, (shape, _)) in enumerate(manifest("discriminator").items())
        }
    content = {
        "model_vec2face": keys, "model_disc": disc, "epoch": 79,
        "optimizer_vec2face": released_optimizer(states, names), "optimizer_disc": released_optimizer(disc, list(disc)),
    }  # fmt: skip
    assert is_released_training(content)
    reversed_groups = [{"params": [p]} for p in reversed(list(generator.parameters()))]  # any order of ours
    optimizers = torch.optim.AdamW(reversed_groups), torch.optim.AdamW(discriminator.parameters())
    ours = to_native_training(content, "x.pth", generator, discriminator, *optimizers, steps_per_epoch=1000)
    assert ours["step"] == 80_000
    parameters = list(generator.named_parameters())[::-1]
    assert len(parameters) == len(ours["optimizer_vec2face"]["state"]) == len(used)
    for (name, parameter), state in zip(parameters, ours["optimizer_vec2face"]["state"].values(), strict=True):
        assert state["exp_avg"].shape == parameter.shape
        assert state["step"] == names.index(released_key(name))
    assert [state["step"] for state in ours["optimizer_disc"]["state"].values()] == list(range(34))


def moments(shape, step):
    return {"step": step, "exp_avg": torch.empty(shape), "exp_avg_sq": torch.empty(shape)}


def test_the_order_of_the_state_dict_is_that_of_the_parameters():
    """What the mapping rests on, for the discriminator, whose names are the released ones."""
    with torch.device("meta"):
        names = [name for name, _ in Discriminator().named_parameters()]
    assert names == list(manifest("discriminator")) == list(filled(manifest("discriminator")))
