"""Shared by the checks that train: a training set made of tests/photos, command lines and results."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch

from scripts.gpu_checks.setting import DEMO, Setting, photo_folder

AMP = {"fp32": ["--no-use_amp"], "fp16": ["--amp_dtype", "float16"], "bf16": ["--amp_dtype", "bfloat16"]}
COPIES = 10  # of each of the nine photos, so that an epoch has some steps
RECORDS = 9 * COPIES


def preparation(setting: Setting) -> tuple[list, Path]:
    """Words of scripts/prepare_training_set.py that make the training LMDB, and its path."""
    photos = photo_folder(setting, COPIES)
    words = ["--images", photos, "--encoder", DEMO / "face_encoder.pth", "--device", "cpu", "-d", setting.folder, "-n"]
    return [*words, "faces"], setting.folder / "faces.lmdb"


def training_words(setting: Setting, lmdb: Path, output: Path, preset: str, *more: object) -> list[str]:
    """Words of vec2face.py: no dropout, whose draws depend on the device, and no warm-up."""
    words = [
        "--train_source", lmdb, "--id_weights", DEMO / "face_encoder.pth", "--lpips_weights", "encoder",
        "--model", preset, "--workers", 0, "--dropout", 0, "--warmup_epochs", 0, "--device", setting.device,
        "--output_dir", output, *more,
    ]  # fmt: skip
    return list(map(str, words))


def log_lines(folder: Path) -> Iterator[dict]:
    """The lines of a training's log."""
    return map(json.loads, (folder / "log.jsonl").read_text().splitlines())


def last_checkpoint(folder: Path) -> dict:
    """What the last checkpoint of a training holds, on the CPU."""
    return torch.load(folder / "checkpoint-last.pth", map_location="cpu", weights_only=True)


def weights(checkpoint: dict) -> torch.Tensor:
    """The weights of both networks in one vector."""
    return torch.cat(
        [value.flatten().float() for name in ("model_vec2face", "model_disc") for value in checkpoint[name].values()]
    )


def relative_difference(values: torch.Tensor, expected: torch.Tensor) -> float:
    """Norm of the difference as a share of the norm of the expected values."""
    return float((values - expected).norm() / expected.norm())
