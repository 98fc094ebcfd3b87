"""Weight files: damaged or hostile ones are refused, other layouts are read, and saving never harms the old file."""

import argparse
import os
import pickle
from pathlib import Path

import pytest
import torch
from commands import refused
from generation_runs import command

import image_generation
from models import load_face_encoder, load_vec2face
from models.errors import UserError
from models.weight_files import load_file, save_file


class Hostile:
    """Unpickling this runs a command."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


def test_weights_with_other_keys_shapes_or_nan_are_refused_by_name(demo, tmp_path):
    file = torch.load(demo.generator, weights_only=True)
    state = file["model_vec2face"]
    removed = {key: value for key, value in state.items() if key != "decoder.blocks.2.attn.qkv.weight"}
    reshaped = state | {"encoder.norm.weight": torch.ones(7)}
    added = state | {"surprise.weight": torch.ones(7)}
    broken = state | {"encoder.norm.weight": torch.full((256,), torch.nan)}
    for content, message in (
        (removed, "missing decoder.blocks.2.attn.qkv.weight"),
        (reshaped, r"encoder.norm.weight is \(7,\) instead of \(256,\)"),
        (added, "unexpected surprise.weight"),
        (broken, "NaN or infinite weights in encoder.norm.weight"),
    ):
        torch.save(file | {"model_vec2face": content}, tmp_path / "w.pth")
        with pytest.raises(UserError, match=f"w.pth: .*{message}"):
            load_vec2face(tmp_path / "w.pth")


def test_damaged_weight_files_are_refused_by_name(demo, tmp_path):
    data = Path(demo.encoder).read_bytes()
    path = tmp_path / "w.pth"
    for content in (b"", b"hello", data[: len(data) // 2], data[:-3000]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="not a weight file"):
            load_face_encoder(path)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_hostile_pickle_is_refused_and_does_not_run(legacy, tmp_path, capsys, demo):
    proof, path = tmp_path / "proof", tmp_path / "w.pth"
    torch.save({"model_vec2face": Hostile(proof)}, path, _use_new_zipfile_serialization=not legacy)
    line = refused(image_generation.main, [*command(demo), "--model_weights", path], capsys)
    assert "contains code" in line
    path.write_bytes(pickle.dumps(Hostile(proof)))
    with pytest.raises(UserError, match=r"w\.pth"):
        load_file(path)
    assert not proof.exists()


def test_released_checkpoints_with_arguments_load(demo, tmp_path):
    content = torch.load(demo.generator, weights_only=True)
    content["args"] = argparse.Namespace(batch_size=32, blr=4e-5)
    torch.save(content, tmp_path / "checkpoint.pth")
    load_vec2face(tmp_path / "checkpoint.pth")


def test_the_prefix_of_data_parallel_training_is_dropped(demo, tmp_path):
    state = torch.load(demo.encoder, weights_only=True)["state_dict"]
    torch.save({f"module.{key}": value for key, value in state.items()}, tmp_path / "w.pth")
    images = torch.rand(1, 3, 112, 112)
    assert torch.equal(load_face_encoder(tmp_path / "w.pth")(images), load_face_encoder(demo.encoder)(images))


def test_a_save_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "w.pth"
    save_file({"a": torch.ones(3)}, path)
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError), match=r"[Cc]an't (get|pickle) local object"):
        save_file({"a": torch.zeros(1 << 20), "b": lambda: None}, path)  # the function cannot be pickled
    assert path.read_bytes() == before
    assert load_file(path)["a"].tolist() == [1, 1, 1]
