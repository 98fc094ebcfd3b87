"""What a user sees while AttrOP works."""

import io

import numpy as np
from grey_generator import grey_attrop, grey_rows
from paths import DEMO
from tqdm import tqdm

import image_generation
from models import quality_target
from utils.generation.attrop_progress import AttrOPProgress


def grey_run(levels, quality, progress):
    """AttrOP on grey images whose quality is their level; images are clipped at 1."""
    attrop = grey_attrop(quality, batch_size=2, max_iters=3, on_iteration=progress)
    attrop.targets = [quality_target(lambda images: images[:, 0, 0, :1], quality, tolerance=0.01)]
    return attrop.run(grey_rows(levels))


def test_the_hint_comes_when_the_first_rows_have_ended_and_only_once(capsys):
    progress = AttrOPProgress(quality=5, flag="--image_quality", tolerance=0.01)
    with tqdm(disable=True) as progress.bar:
        results = grey_run([0.1, 0.4, 0.2, 0.3], 5, progress)
        next(results)
        hint = "hint: no image came near quality 5 so far, the best had 0.6; lower --image_quality.\n"
        assert capsys.readouterr().out == hint
        list(results)
    assert capsys.readouterr().out == ""


def test_no_hint_when_images_are_accepted_or_near(capsys):
    for wanted, tolerance in ((0.5, 0.01), (5, 4.6)):
        progress = AttrOPProgress(wanted, tolerance=tolerance)
        with tqdm(disable=True) as progress.bar:
            list(grey_run([0.1, 0.3], wanted, progress))
    assert capsys.readouterr().out == ""


def test_progress_counts_iterations_and_results():
    progress = AttrOPProgress()
    list(grey_run([0.9, 0.2, 0.85], 0.9, progress))
    assert str(progress) == "AttrOP 3 iterations, 2 accepted, 1 not"


def test_the_last_state_of_a_bar_counts_all_results():
    drawn, progress = io.StringIO(), AttrOPProgress()
    with tqdm(file=drawn) as progress.bar:
        list(grey_run([0.9, 0.2, 0.85], 0.9, progress))
    assert "AttrOP 3 iterations, 2 accepted, 1 not" in drawn.getvalue().split("\r")[-1]


def test_the_bar_of_a_run_shows_the_iterations(demo, tmp_path, capsys):
    words = [*demo.models, "--quality_weights", demo.encoder, "--center_feature", demo.vectors, "--start_end", "0:2"]
    words += ["--image_quality", 90, "--max_iters", 2, "--example", 1, "--name", "x", "--output_dir", tmp_path]
    image_generation.main([str(word) for word in words])
    printed = capsys.readouterr()
    assert "AttrOP 2 iterations, 0 accepted, 2 not" in printed.err
    assert printed.out.count("hint: no image came near quality 90") == 1


def test_a_sheet_says_that_quality_is_at_least_the_value(demo, tmp_path, capsys):
    import cv2

    from scripts import attribute_sheet

    words = [*demo.models, "--quality_weights", DEMO / "face_encoder.pth", "--center_feature", demo.vectors]
    words += [
        "--attribute",
        "quality",
        "--values",
        10,
        12,
        "--count",
        2,
        "--max_iters",
        1,
        "--output",
        tmp_path / "sheet",
    ]
    attribute_sheet.main([str(word) for word in words])
    printed = capsys.readouterr()
    assert "quality at least 10: " in printed.out
    assert "4/4" in printed.err
    assert "AttrOP" in printed.err
    sheet = cv2.imread(str(tmp_path / "sheet.jpg"))
    height, width = sheet.shape[0] - 2 * 112, sheet.shape[1] - 2 * 112
    assert (sheet[:height, width : width + 112] < 128).any()  # ink above the first column,
    assert (sheet[height : height + 112, :width] < 128).any()  # beside the first row,
    assert (sheet[:height, :width] > 250).all()  # and none in the corner
    assert np.ptp(sheet[height:, width:]) > 100
