"""pose_image_generation.py with the published pose network."""

import json

import pytest
from commands import run
from generation_runs import command, manifest

import pose_image_generation
from utils.dataset.layout import settings_path


@pytest.mark.slow
def test_yaw_pitch_and_verdict_of_every_image_are_recorded(demo, filled_files, tmp_path):
    """6DRepNet with filled weights says nothing about faces; that it is asked, capped and recorded can be seen."""
    flags = [*command(demo, start_end="0:2"), "--output_dir", tmp_path, "--pose_weights", filled_files["sixdrepnet"]]
    run(pose_image_generation.main, *flags, "--pose", 45, "--pitch", 10, "--signed_pose")
    lines = manifest(tmp_path / "test-45")
    assert len(lines) == 4
    for line in lines:
        assert -90 <= line["yaw"] <= 90
        assert "pitch" in line
        assert line["attrop"]["iterations"] <= 4
        assert line["attrop"]["measured_on"] == "image"
        assert line["sigma"] == 0.7
    settings = json.loads(settings_path(tmp_path / "test-45").read_text())["settings"]["attrop"]
    assert settings == {"image_quality": 26, "max_iters": 4, "pose": 45, "signed_pose": True, "pitch": 10}
