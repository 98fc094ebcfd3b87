"""What README, docs, docstrings and makefiles show can be run as it stands."""

import json
import os
import pickle
import re
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
from commands import run
from documented_commands import docstring_commands, make_commands, page_commands
from paths import DEMO, PHOTOS, ROOT

from utils.cli.flags import Parser

TARGETS = ("demo", "page", "train-demo", "pipeline", "table-noise", "world", "bench", "gpu-check")


class Parsed(BaseException):
    """A command line was understood; what it asks for is not done."""


def main_of(script):
    return import_module(script.removesuffix(".py").replace("/", ".")).main


def assert_understood(command, monkeypatch):
    parse = Parser.parse_args

    def parse_alone(self, *words):
        parse(self, *words)
        raise Parsed

    monkeypatch.setattr(Parser, "parse_args", parse_alone)
    with pytest.raises(Parsed):
        run(main_of(command.script), *command.words)


@pytest.mark.parametrize("command", [*page_commands(), *docstring_commands()], ids=lambda c: f"{c.page}:{c.script}")
def test_every_command_that_is_shown_is_understood(command, monkeypatch):
    words = ["0:2" if word == "$FIRST:$((FIRST" else word for word in command.words if word not in ("+", "N))")]
    assert_understood(command._replace(words=words), monkeypatch)


@pytest.mark.parametrize("target", TARGETS)
def test_every_command_of_make_is_understood(target, tmp_path, monkeypatch):
    commands = make_commands(target)
    assert commands
    (tmp_path / "rendered_world").mkdir()  # of which one command reads a threshold
    (tmp_path / "rendered_world" / "judge.json").write_text(json.dumps({"random": {"threshold": 0.3}}))
    monkeypatch.chdir(tmp_path)
    for command in commands:
        with monkeypatch.context() as patch:
            assert_understood(command, patch)


def test_the_python_example_runs_from_any_folder(tmp_path):
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    example = example.replace("AttrOP(generator, encoder,", "AttrOP(generator, encoder, max_iters=2, targets=")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # where the project is not installed
    command = [sys.executable, "-c", example]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert [line.split()[:4] for line in result.stdout.splitlines()] == [
        [f"{number:06d}", "(112,", "112,", "3)"] for number in range(4)
    ]


# What makes a command of the README small: options that come last and so take the place of those before them.
TRAINING = "--model vec2face_vit_tiny --batch_size 2 --max_steps 1 --lpips_weights none --disc_width 8 --workers 0"
SMALL = {
    "image_generation.py": "--start_end 0:2 --example 2 --max_iters 1",
    "pose_image_generation.py": "--start_end 0:1 --max_iters 1",
    "image_generation_with_reference.py": "--example 1",
    "scripts/sample_identities.py": "--count 20 --max_similarity 0.4",
    "vec2face.py": TRAINING,
    "scripts/train_fr.py": "--network 18 --width 16 --batch_size 2 --epochs 1 --milestones 1 --workers 0",
}
OUTCOMES = [
    "generated_images/ten_thousand/000001/001.jpg", "generated_pose_images/test-45/000000/000.jpg", "people.npy",
    "generated_images_ref/images-of-references/person1_0/000.jpg", "lmdb_dataset/faces.lmdb",
    "workspace/pixel_generator/checkpoint-last.pth", "fr/model.pth",
]  # fmt: skip


def test_the_recipes_of_the_readme_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    """At toy size, with the demo models, as whoever has no released weights would; all but the download."""
    monkeypatch.chdir(tmp_path)
    photos = ("person1/0.jpg", "person1/1.jpg", "person1/0.jpg", "person3/1.jpg")
    pairs = [(PHOTOS / photo).read_bytes() for photo in photos]
    (tmp_path / "test_sets").mkdir()
    for name in ("lfw", "cfp_fp", "agedb_30", "calfw", "cplfw"):
        (tmp_path / "test_sets" / f"{name}.bin").write_bytes(pickle.dumps((pairs * 10, [True, False] * 10)))
    places = {"PHOTOS": PHOTOS, "path/of/the/image/file or folder": PHOTOS}
    for command in page_commands():
        if command.page != "README.md" or command.script == "download_vec2face_weights.py":
            continue
        words = [places.get(word, word) for word in command.words]
        run(main_of(command.script), *words, *SMALL.get(command.script, "").split())
        if command.script == "scripts/center_features.py":  # of more identities than the test photos show
            np.save(tmp_path / "photos_center_feature.npy", np.load(DEMO / "identity_vectors.npy"))
        if command.script == "scripts/sample_identities.py":
            assert np.load("people.npy").shape == (20, 512)
    assert [path for path in OUTCOMES if not (tmp_path / path).is_file()] == []
