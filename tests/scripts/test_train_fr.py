"""train_fr.py end to end: what it writes, resuming, mixtures, bad input."""

import contextlib
import json
import shutil
import signal
from functools import partial

import cv2
import numpy as np
import pytest
import torch
from fr_training import assert_same, flags, train, weights
from paths import PHOTOS
from processes import run_by_hand, run_script

import image_generation
from models.errors import UserError
from models.iresnet import IResNet, load_face_encoder
from models.recogniser import make_recogniser
from models.weight_files import load_file
from scripts import train_fr
from utils.data.face_set import FaceSet
from utils.evaluation.verification import features_of
from utils.evaluation.verification_sets import draw_pairs
from utils.runtime.distributed import Distributed
from utils.training.fr_backbone import init_head_from_centroids
from utils.training.fr_state import RecogniserState, make_optimizer
from utils.training.resuming import run_description
from utils.training.schedules import warmup_then_milestones


def test_a_training_writes_its_log_its_checkpoint_and_a_model_that_loads(trained):
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    assert [round(line["lr"], 6) for line in lines] == [0.01, 0.01, 0.001, 0.001]  # a tenth from epoch 2 on
    encoder = load_face_encoder(trained / "model.pth")
    assert encoder(torch.zeros(1, 3, 112, 112)).shape == (1, 512)
    assert torch.load(trained / "model.pth", weights_only=True)["feature_norms"]["50%"] > 0
    load_face_encoder(trained / "checkpoint-last.pth")


def test_generation_tells_a_quality_the_model_never_gives(trained, demo, tmp_path, capsys):
    """The quality model that training wrote knows the norms of its photos."""
    words = ["--center_feature", demo.vectors, "--quality_weights", trained / "model.pth", "--start_end", "0:1"]
    words += ["--example", 1, "--batch_size", 1, "--max_iters", 1, "--output_dir", tmp_path, *demo.models]
    for quality, told in ((1000, True), (1, False)):
        name = f"quality{quality}"
        image_generation.main([str(word) for word in [*words, "--image_quality", quality, "--name", name]])
        assert ("higher than that of 95 % of the photos" in capsys.readouterr().out) == told


def test_batch_norm_has_no_weight_decay():
    model = make_recogniser(3, 18, 16)
    decayed, free = make_optimizer(model, 0.1, 0.9, 5e-4).param_groups
    assert (decayed["weight_decay"], free["weight_decay"]) == (5e-4, 0)
    norms = sum(isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) for m in model.modules())
    assert len(free["params"]) == 2 * norms - 1  # the weight of the last one is fixed
    assert sum(len(group["params"]) for group in (decayed, free)) == sum(p.requires_grad for p in model.parameters())


def test_the_published_recipe_is_the_default():
    args = train_fr.fr_parser().parse_args(["--data", "x"])
    assert (args.network, args.se, args.batch_size, args.lr, args.momentum) == (50, True, 128, 0.1, 0.9)
    assert (args.weight_decay, args.clip_grad, args.epochs, args.milestones) == (5e-4, 5, 26, [12, 20, 24])
    schedule = partial(
        warmup_then_milestones, highest=args.lr, warmup_epochs=args.warmup_epochs, milestones=args.milestones
    )
    rates = [round(schedule(epoch), 6) for epoch in (0, 10.9, 11, 18.9, 19, 23)]
    assert rates == [0.1, 0.1, 0.01, 0.01, 0.001, 0.0001]


def test_a_killed_training_resumes_to_the_same_weights(trained, tmp_path):
    words = flags(tmp_path, "--save_every", 1)
    killed = run_script("scripts/train_fr.py", *words, killed_at="step 4/", check=False)
    assert killed.returncode == -signal.SIGKILL
    assert weights(tmp_path)["step"] == 3
    train(*words, "--resume", tmp_path)
    assert_same(weights(tmp_path), weights(trained))


@pytest.mark.parametrize("to_float16", [True, False])
def test_a_run_resumes_in_float16_and_back(to_float16, tmp_path):
    """A float16 run on a GPU has a loss scale; one on a CPU or in bfloat16 has none, and leaves an empty state."""

    def new_state(enabled):
        model = make_recogniser(3, 18, 16)
        scaler = torch.amp.GradScaler("cpu", 1024.0, enabled=enabled)
        optimizer = make_optimizer(model, 0.1, 0.9, 5e-4)
        return RecogniserState(model, optimizer, scaler, {}, run_description(Distributed(), [[0]]))

    state = new_state(not to_float16)
    state.step = 5
    state.save(tmp_path / "c.pth")
    state = new_state(to_float16)
    assert state.resume(load_file(tmp_path / "c.pth"), "c.pth") == []
    assert state.step == 5
    assert state.scaler.get_scale() == (1024 if to_float16 else 1)


@pytest.mark.slow
def test_a_training_on_two_ranks_resumes_to_the_same_weights(tmp_path):
    """Resumed without a launcher. The labels are read once, by rank 0: rank 1 does not look at its --data."""
    run_script("scripts/train_fr.py", *flags(tmp_path / "whole"), ranks=2)
    run_script("scripts/train_fr.py", *flags(tmp_path / "parts", "--max_steps", 3), ranks=2)
    words = flags(tmp_path / "parts", "--resume", tmp_path / "parts")
    results = run_by_hand("scripts/train_fr.py", words, [*words, "--data", "nowhere"])
    assert [result.returncode for result in results] == [0, 0], results
    assert weights(tmp_path / "whole")["step"] == 4
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


@pytest.mark.slow
def test_compiled_training_is_the_same_training(trained, tmp_path, monkeypatch, capsys):
    train(*flags(tmp_path, "--compile", "--max_steps", 2))
    compiled, eager = (json.loads((f / "log.jsonl").read_text().splitlines()[0]) for f in (tmp_path, trained))
    assert compiled["loss"] == pytest.approx(eager["loss"], rel=1e-3)
    assert compiled["norm"] == pytest.approx(eager["norm"], rel=1e-3)
    assert weights(tmp_path)["backbone"].keys() == weights(trained)["backbone"].keys()
    monkeypatch.setenv("CXX", "nowhere++")
    with pytest.raises(SystemExit):
        train(*flags(tmp_path / "other", "--compile"))
    assert "needs a C++ compiler, and there is no nowhere++" in capsys.readouterr().err


def test_se_networks_and_other_heads_train_and_load(tmp_path):
    for head in ("magface", "adaface", "cosface"):
        folder = tmp_path / head
        train(*flags(folder, "--se", "--head", head, "--max_steps", 1, "--use_amp"))
        encoder = load_face_encoder(folder / "model.pth")
        assert encoder.layer2[0].attn is not None
        assert encoder.layer2[1].attn is None


def test_training_on_three_identities_lowers_the_loss(tmp_path):
    words = flags(tmp_path, "--epochs", 8, "--milestones", 7, "--augmentation", 0, "--random_erasing", 0, "--lr", 0.05)
    train(*words, "--batch_size", 9)
    losses = [json.loads(line)["loss"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--data", "nowhere"], "no such folder"),
        (["--batch_size", 10], "9 photos are fewer"),
        (["--mixed_data", "x"], "go together"),
        (["--domain_mixup", "0.9:"], "LOW:HIGH"),
        (["--domain_mixup", "linspace:0:1"], "must be linspace:LOW:HIGH:COUNT"),
        (["--domain_mixup", "0.9:0.1"], "the lower one first"),
        (["--domain_mixup", "1.5"], "needs shares from 0 to 1"),
        (["--real_people", 2], "choose photos of --real_data, which is not given"),
        (["--real_data", PHOTOS, "--real_people", 4], "only 3 of its 3 people have as many"),
        (["--real_data", PHOTOS, "--real_images", 4], "3 people with 4 photos or more are asked for"),
        (["--sets", "lfw"], "no verification set called lfw"),
        (["--resume", "nowhere"], "no such file or folder"),
        (["--resume", "weights/demo/face_encoder.pth"], "not a checkpoint of this script"),
        (["--output_dir", "README.md"], "cannot write here"),
        (["--lr", 1e30], "the loss is"),
        (["--easy_margin"], "--easy_margin has no effect on --head arcface, only on magface"),
        (["--head", "cosface", "--straight_through"], "--straight_through has no effect on --head cosface"),
        (["--head", "magface", "--margin", 0.4], "--margin has no effect on --head magface"),
    ],
)
def test_bad_input_is_one_clear_line(more, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        train(*flags(tmp_path, *more))
    assert error.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_one_identity_alone_is_refused_and_identities_of_one_photo_are_not(tmp_path, capsys):
    shutil.copytree(PHOTOS / "person1", tmp_path / "one" / "person1")
    with pytest.raises(SystemExit):
        train(*flags(tmp_path / "run", "--data", tmp_path / "one"))
    assert "one identity only" in capsys.readouterr().err
    for person in ("person1", "person3"):
        (tmp_path / "single" / person).mkdir(parents=True)
        shutil.copy(PHOTOS / person / "0.jpg", tmp_path / "single" / person)
    with pytest.raises(UserError, match="one of them with two photos"):
        draw_pairs(FaceSet(tmp_path / "single"), 2, 0)
    train(*flags(tmp_path / "run", "--data", tmp_path / "single", "--epochs", 1))  # that is no error


def test_broken_photos_are_skipped_up_to_the_limit(tmp_path, capsys):
    shutil.copytree(PHOTOS, tmp_path / "photos")
    cv2.imwrite(str(tmp_path / "photos" / "person1" / "9.png"), np.zeros((50, 40), np.uint8))  # grey, another size
    (tmp_path / "photos" / "person1" / "1.jpg").write_bytes(b"broken")
    train(*flags(tmp_path / "a", "--data", tmp_path / "photos", "--batch_size", 10, "--epochs", 1))
    assert "1.jpg: not an image" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        train(*flags(tmp_path / "b", "--data", tmp_path / "photos", "--batch_size", 10, "--max_bad_records", 0))
    assert "more than --max_bad_records 0" in capsys.readouterr().err


@pytest.mark.parametrize("head", ["arcface", "cosface"])
def test_a_checkpoint_of_earlier_versions_goes_on_as_one_of_this(head, tmp_path):
    """Its class directions, and their momentum, lie the other way round under another name."""
    words = flags(tmp_path / "now", "--head", head)
    train(*words, "--max_steps", 3)
    content = weights(tmp_path / "now")
    directions = content["head"].pop("directions")
    content["head"]["loss.W"] = directions.T.contiguous()
    momenta = [state["momentum_buffer"] for state in content["optimizer"]["state"].values()]
    (momentum,) = (state for state in momenta if state.shape == directions.shape)
    assert momentum.any()
    momentum.set_(momentum.T.contiguous())
    (tmp_path / "earlier").mkdir()
    torch.save(content, tmp_path / "earlier" / "checkpoint-last.pth")
    train(*words, "--resume", tmp_path / "now")
    train(*flags(tmp_path / "earlier", "--head", head), "--resume", tmp_path / "earlier")
    assert weights(tmp_path / "now")["step"] == 8
    assert_same(weights(tmp_path / "now"), weights(tmp_path / "earlier"))


def test_a_head_begins_at_the_mean_features_of_its_people(trained, tmp_path):
    """In batches of many people; a broken photo does not count."""
    shutil.copytree(PHOTOS, tmp_path / "photos")
    (tmp_path / "photos" / "person1" / "1.jpg").write_bytes(b"broken")
    model, faces = make_recogniser(4, 18, 16, se=False), FaceSet(tmp_path / "photos")
    faces.identities.append("no photos")
    begun = model.head.directions.detach().clone()
    init_head_from_centroids(model, faces, contextlib.nullcontext, 0)
    for label in range(3):
        photos = []
        for index in np.flatnonzero(faces.labels == label)[:4]:
            with contextlib.suppress(ValueError):
                photos.append(faces.image(int(index)))
        features = features_of(model.backbone.eval(), photos, flip=False)
        centre = (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(0)
        assert np.allclose(model.head.directions[label].detach(), centre, atol=1e-5)
    assert torch.equal(model.head.directions[3], begun[3])


def test_a_known_backbone_is_asked_for_the_centres_of_many_people_at_once(trained, tmp_path, monkeypatch):
    sizes = []
    forward = IResNet.forward
    monkeypatch.setattr(IResNet, "forward", lambda self, x: sizes.append(len(x)) or forward(self, x))
    train(*flags(tmp_path, "--backbone", trained / "model.pth", "--max_steps", 1))
    assert sizes[:3] == [9, 9, 2]  # BatchNorm's averages, the centres, the first step


def test_the_first_step_of_float16_may_be_skipped():
    """Gradients that overflow are the rule there; the momentum must not begin with what lay in memory before."""
    model, lr, weight_decay = torch.nn.Linear(3, 2), 0.1, 5e-4
    optimizer, scaler = make_optimizer(model, lr, 0.9, weight_decay), torch.amp.GradScaler("cpu", 4.0)
    start, gradient = model.weight.detach().clone(), torch.ones(2, 3)
    for value in (torch.inf, 1.0):
        model.weight.grad, model.bias.grad = gradient * value * scaler.get_scale(), torch.zeros(2)
        scaler.scale(torch.zeros(1))
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    expected = start - lr * (1 + weight_decay * start)
    assert torch.allclose(model.weight, expected)


def test_an_encoder_with_a_readout_resumes_to_the_same_weights(rendered, tmp_path):
    """Also by the flag's former name."""
    words = ["--data", rendered, "--network", 18, "--width", 16, "--no-se", "--head", "magface"]
    words += ["--readout_weights", 6, 3, "--batch_size", 8, "--workers", 0, "--no-use_amp", "--random_erasing", 0]
    run = lambda folder, *more: train_fr.main([*map(str, words), "--output_dir", str(folder), *map(str, more)])  # noqa: E731
    run(tmp_path / "whole", "--max_steps", 3)
    run(tmp_path / "parts", "--max_steps", 2)
    run(tmp_path / "parts", "--max_steps", 3, "--resume", tmp_path / "parts", "--traces", 6, 3)
    whole, parts = (torch.load(tmp_path / name / "model.pth", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(whole["state_dict"][key], parts["state_dict"][key]) for key in whole["state_dict"])
    assert whole["feature_norms"]["50%"] <= whole["feature_norms"]["75%"]
    run(tmp_path / "on", "--max_steps", 1, "--lr", 0, "--backbone", tmp_path / "whole" / "model.pth")
    on = torch.load(tmp_path / "on" / "model.pth", weights_only=True)["state_dict"]
    assert torch.equal(on["fc.weight"], whole["state_dict"]["fc.weight"])
