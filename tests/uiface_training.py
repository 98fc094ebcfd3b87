"""Short trainings of UIFace's networks on the photos of a training LMDB: flags, the checkpoint, and a comparison."""

import torch
from generator_training import four_of

WEIGHTS = ("model_uiface", "model_vq", "model_ema")


def flags(lmdb, output, *more):
    """Two epochs of four photos, two a step: four steps."""
    return [
        "--train_source", lmdb, "--mask", four_of(lmdb), "--model", "uiface_tiny", "--batch_size", 2, "--epochs", 2,
        "--workers", 0, "--device", "cpu", "--log_every", 1, "--no-use_amp", "--output_dir", output, *more,
    ]  # fmt: skip


def checkpoint(folder, name="checkpoint-last.pth"):
    return torch.load(folder / name, weights_only=True)


def assert_same_training(one, two):
    for name in WEIGHTS:
        assert (one.get(name) or {}).keys() == (two.get(name) or {}).keys()
        for key, value in (one.get(name) or {}).items():
            assert torch.equal(value, two[name][key]), f"{name} {key}"
    assert one["step"] == two["step"]
