"""Short trainings of a tiny generator on four photos: the flags, the checkpoint, and a comparison."""

import torch

import vec2face


def flags(demo, lmdb, output, *more):
    """Two epochs of four photos, a photo a step; the second epoch in the GAN phase."""
    return [
        "--train_source", lmdb, "--mask", four_of(lmdb), "--id_weights", demo.encoder, "--lpips_weights", "none",
        "--model", "vec2face_vit_tiny", "--batch_size", 1, "--epochs", 2, "--disc_start", 1, "--warmup_epochs", 0.5,
        "--blr", 0.02, "--workers", 0, "--device", "cpu", "--log_every", 2, "--no-use_amp", "--disc_width", 8,
        "--disc_noise", 0.1, "--output_dir", output, *more,
    ]  # fmt: skip


def four_of(lmdb):
    return lmdb.with_name("four.npy")


def run(*words):
    vec2face.main([str(word) for word in words])


def checkpoint(folder):
    return torch.load(folder / "checkpoint-last.pth", weights_only=True)


def assert_same_training(one, two):
    for name in ("model_vec2face", "model_disc", "model_ema"):
        assert one[name].keys() == two[name].keys()
        for key, value in one[name].items():
            assert torch.equal(value, two[name][key]), f"{name} {key}"
    assert one["step"] == two["step"]
