"""Every stage of `make world` at toy size, from rendered photos to a generator."""

import importlib
import json
import shlex
import subprocess
from glob import glob
from pathlib import Path

import pytest
from paths import ROOT


@pytest.mark.slow
def test_every_stage_of_make_world(tmp_path, capsys):
    """All the commands of the whole chain, in this process."""
    world = tmp_path / "world"
    sizes = {
        "WORLD": world, "PY": "python", "PEOPLE": 5, "UNSEEN_PEOPLE": 4, "IMAGES": 10, "PAIRS": 4, "VECTORS": 2,
        "WORLD_FR": "--network 18 --width 16 --batch_size 8 --max_steps 2 --workers 0",
        "WORLD_JUDGE": "--network 18 --width 16 --batch_size 8 --max_steps 2 --workers 0",
        "WORLD_POSE": "--batch_size 8 --max_steps 2 --workers 0", "WORLD_SIMILARITY": "--max_similarity 0.999",
        "WORLD_GENERATOR": "--batch_size 2 --max_steps 2 --warmup_epochs 0 --workers 0",
        "WORLD_GAN": "--batch_size 2 --max_steps 2 --disc_width 8 --warmup_epochs 0 --workers 0",
        "WORLD_POLISH": "--batch_size 2 --max_steps 1 --disc_width 8 --warmup_epochs 0 --workers 0",
        "WORLD_DATASET": "--example 3", "WORLD_ATTROP": "--max_iters 1 --batch_size 2",
    }  # fmt: skip
    listed = subprocess.run(
        ["make", "-n", *(word for extra in ("render", "train-demo") for word in ("-o", f".venv/.installed-{extra}")),
         "world", *(f"{name}={value}" for name, value in sizes.items())],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for line in listed.replace("\\\n", " ").splitlines():
        program, *words = shlex.split(line)
        if program == "python":
            words = [match for word in words for match in (glob(word) if "*" in word else [word])]
            importlib.import_module(words[0].removesuffix(".py").replace("/", ".")).main(words[1:])
        elif program == "mv":
            Path(words[0]).rename(words[1])
    for name in ("fr", "judge", "quality", "pose/scores", "generator", "yaw"):
        assert json.loads((world / f"{name}.json").read_text())
    scores = json.loads((world / "generator.json").read_text())
    assert {"judge_similarity_mean", "recognised_with_noise", "sharpness"} <= scores.keys()
    assert (world / "dataset" / "report.html").exists()
    assert sum(path.stat().st_size for path in (world / "weights").iterdir()) < 45e6
