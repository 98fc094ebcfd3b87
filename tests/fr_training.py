"""Short trainings of a small face recognition network on the nine photos."""

import torch
from paths import PHOTOS

from scripts import train_fr
from utils.data.fr_data import assemble


def flags(folder, *more):
    """Two epochs of four steps on the nine photos, in fp32."""
    return [
        "--data", PHOTOS, "--network", 18, "--width", 16, "--no-se", "--batch_size", 2, "--epochs", 2, "--lr", 0.01,
        "--milestones", 2, "--workers", 0, "--log_every", 2, "--no-use_amp", "--device", "cpu", "--output_dir", folder,
        *more,
    ]  # fmt: skip


def train(*words):
    train_fr.main([str(word) for word in words])


def weights(folder):
    return torch.load(folder / "checkpoint-last.pth", weights_only=True)


def assert_same(one, two):
    for part in ("backbone", "head"):
        for key, value in one[part].items():
            assert torch.equal(value, two[part][key]), f"{part} {key}"


def image_of(item):
    """The image (3, 112, 112) that the network gets of one Item."""
    return assemble(item.pixels[None], item.holes[None], torch.tensor([item.psi], dtype=torch.float64))[0]
