"""The same commands make the same datasets as when tests/reference_datasets was made.

On the machine that made them the files are equal byte for byte. Elsewhere a CPU may round differently, so pixels and
measured values have a tolerance here; everything that is drawn or decided has none.
"""

import json

import numpy as np
import pytest
from commands import run
from paths import PHOTOS, ROOT, Demo

import image_generation
import image_generation_with_reference
import pose_image_generation
from utils.data.images import read_image

REFERENCE = ROOT / "tests" / "reference_datasets"
VECTORS = ["--center_feature", Demo.vectors, "--example", 2, "--max_iters", 2, "--quality_weights", Demo.encoder]
POSE = ["--pose", 30, "--image_quality", 20, "--pose_weights", ROOT / "weights" / "demo" / "head_pose.pth"]
COMMANDS = {
    "identity": (image_generation, [*VECTORS, "--start_end", "1:3", "--image_quality", 26, "--measure"]),
    "reference": (
        image_generation_with_reference,
        ["--image_file", PHOTOS / "person1", "--example", 2, "--per_person"],
    ),
    "pose-30": (pose_image_generation, [*VECTORS, "--start_end", "0:1", *POSE]),
}
TOLERANCE = {"id_similarity": 0.02, "quality": 0.3, "yaw": 1.5, "pitch": 1.5}
GREY_LEVELS = 2.0  # mean difference of two images


def assert_same_line(line, expected):
    assert line.keys() == expected.keys()
    for name, value in line.items():
        if name == "attrop":
            assert_same_line(value, expected[name])
        elif name in TOLERANCE:
            assert value == pytest.approx(expected[name], abs=TOLERANCE[name])
        else:
            assert value == expected[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_the_dataset_is_the_one_that_was_made_before(name, tmp_path):
    script, words = COMMANDS[name]
    run(script.main, *Demo.models, *words, "--output_dir", tmp_path, "--name", name.removesuffix("-30"))
    about = f"{name}.about"
    settings, expected = (
        json.loads((folder / about / "settings.json").read_text())["settings"] for folder in (tmp_path, REFERENCE)
    )
    assert settings == expected
    lines, expected = (
        list(map(json.loads, (folder / about / "manifest.jsonl").read_text().splitlines()))
        for folder in (tmp_path, REFERENCE)
    )
    for line, expected_line in zip(lines, expected, strict=True):
        assert_same_line(line, expected_line)
        image, expected_image = (
            read_image(folder / name / line["file"]).astype(float) for folder in (tmp_path, REFERENCE)
        )
        assert np.abs(image - expected_image).mean() < GREY_LEVELS
