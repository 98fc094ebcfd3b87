"""A head pose estimator: its rotations, its training, and the fused network."""

import json

import pytest
import torch

from models.sixdrepnet import SMALL, SixDRepNet, euler_angles, load_pose_estimator
from world import train_pose
from world.train_pose import geodesic_loss, rotation_of


def test_rotations_and_angles_are_inverse():
    angles = torch.tensor([[0.0, 0, 0], [10, 60, -5], [-20, -85, 30]])
    assert torch.allclose(torch.rad2deg(euler_angles(rotation_of(angles))), angles, atol=1e-3)
    turned = rotation_of(torch.tensor([[0.0, 40, 0]]))
    assert torch.rad2deg(geodesic_loss(rotation_of(torch.zeros(1, 3)), turned)).item() == pytest.approx(40, abs=0.01)


def test_a_pose_estimator_learns_resumes_and_is_read(rendered, tmp_path, capsys):
    words = [
        "--data",
        rendered,
        "--test",
        rendered,
        "--batch_size",
        16,
        "--workers",
        0,
        "--warmup_steps",
        2,
        "--log_every",
        2,
    ]
    run = lambda folder, *more: train_pose.main([*map(str, words), "--output_dir", str(folder), *map(str, more)])  # noqa: E731
    run(tmp_path / "whole", "--epochs", 3)
    run(tmp_path / "parts", "--epochs", 3, "--max_steps", 4)
    with pytest.raises(SystemExit):
        run(tmp_path / "parts", "--epochs", 3, "--resume", tmp_path / "parts", "--batch_size", 15)
    assert "--batch_size is 15, the run to resume has 16" in capsys.readouterr().err
    run(tmp_path / "parts", "--epochs", 3, "--resume", tmp_path / "parts")
    whole, parts = (load_pose_estimator(tmp_path / name / "model.pth") for name in ("whole", "parts"))
    images = torch.rand(2, 3, 112, 112)
    assert torch.equal(whole(images), parts(images))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"]
    scores = json.loads((tmp_path / "whole" / "scores.json").read_text())
    assert scores["photos"] == 60
    run(tmp_path / "whole", "--epochs", 3, "--resume", tmp_path / "whole")  # nothing left to do
    assert json.loads((tmp_path / "whole" / "scores.json").read_text()) == scores


def test_fusing_changes_no_angle():
    torch.manual_seed(0)
    model = SixDRepNet(**SMALL).for_training()
    model(torch.rand(8, 3, 112, 112))  # moves the running statistics
    images = torch.rand(2, 3, 112, 112)
    before = model.eval()(images)
    assert torch.allclose(model.fuse()(images), before, atol=1e-3)
