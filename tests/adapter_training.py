"""Short trainings of an adapter for landmark control: data, flags, the checkpoint, and a comparison."""

import json

import msgpack
import torch
from training_lmdbs import content, write_lmdb

from scripts import train_pose_control
from utils.data.images import encode_jpeg
from utils.data.landmarks import draw_landmarks, landmarks_at
from utils.data.training_lmdb import photo_names

YAWS = [10 * number - 40 for number in range(9)]  # labels of the nine photos, which need not be true here


def write_labels(lmdb, folder):
    """A labels.jsonl of the photos in a training LMDB."""
    lines = [{"file": name, "yaw": yaw, "pitch": 5} for name, yaw in zip(photo_names(lmdb), YAWS, strict=True)]
    path = folder / "labels.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def with_pictures(lmdb, folder):
    """A copy of a training LMDB whose records have landmark pictures, as Vec2Face+ publishes them."""
    records = content(lmdb)
    for number, yaw in enumerate(YAWS):
        key = str(number).encode()
        picture = encode_jpeg(draw_landmarks(landmarks_at(yaw)), 95)
        records[key] = msgpack.packb([*msgpack.unpackb(records[key]), picture])
    return write_lmdb(folder / "landmarks.lmdb", records)


def flags(demo, lmdb, output, *more):
    """Two epochs of nine photos, two a step: eight steps."""
    return [
        "--data", lmdb, "--model_weights", demo.generator, "--id_weights", demo.encoder, "--lpips_weights", "none",
        "--landmark_width", 4, "--lora_r", 2, "--batch_size", 2, "--epochs", 2, "--warmup_epochs", 0.5, "--lr", 1e-3,
        "--workers", 0, "--device", "cpu", "--log_every", 2, "--no-use_amp", "--output_dir", output, *more,
    ]  # fmt: skip


def train(*words):
    train_pose_control.main([str(word) for word in words])


def checkpoint(folder, name="checkpoint-last.pth"):
    return torch.load(folder / name, weights_only=True)


def assert_same_adapter(one, two):
    for part in ("model_vec2face", "pose_model"):
        assert one[part].keys() == two[part].keys()
        for key, value in one[part].items():
            assert torch.equal(value, two[part][key]), f"{part} {key}"
    assert [one[name] for name in ("model", "lora", "condition")] == [
        two[name] for name in ("model", "lora", "condition")
    ]
