"""Results that exist already are refused before any work, and replaced only when asked."""

import json
from pathlib import Path

import pytest
from commands import run
from paths import ROOT

from scripts import (
    attribute_sheet,
    convert_weights,
    evaluate_generator,
)
from utils.cli.outputs import report_folder
from utils.evaluation import metrics as metrics
from world import quality_curve


@pytest.mark.parametrize(
    ("script", "ending", "words"),
    [
        (attribute_sheet, ".jpg", ["--output"]),
        (attribute_sheet, ".json", ["--output"]),
        (evaluate_generator, ".json", ["--data", "x", "--model_weights", "x", "--id_weights", "x", "--output"]),
        (evaluate_generator, ".jpg", ["--data", "x", "--model_weights", "x", "--id_weights", "x", "--output"]),
        (quality_curve, ".json", ["--photos", "x", "--output"]),
        (quality_curve, ".png", ["--photos", "x", "--output"]),
        (convert_weights, "", ["--to", "own", ROOT / "weights" / "demo" / "vec2face_generator.pth"]),
    ],
)
def test_results_that_exist_are_refused_before_any_work(script, ending, words, tmp_path, capsys):
    path = tmp_path / f"x{ending}"
    path.write_text("of an hour's work")
    with pytest.raises(SystemExit):
        run(script.main, *words, tmp_path / "x")
    assert (
        capsys.readouterr().err
        == f"error: {path}: exists already; give --overwrite to replace it, or name another file.\n"
    )
    assert path.read_text() == "of an hour's work"


def test_results_are_replaced_when_asked(demo, training_lmdb, tmp_path):
    for path in (tmp_path / "e.json", tmp_path / "e.jpg", tmp_path / "own.pth"):
        path.write_text("old")
    run(convert_weights.main, demo.generator, tmp_path / "own.pth", "--to", "own", "--overwrite")
    run(
        evaluate_generator.main, "--data", training_lmdb, "--model_weights", tmp_path / "own.pth", "--id_weights",
        demo.encoder, "--count", 2, "--output", tmp_path / "e", "--overwrite",
    )  # fmt: skip
    assert json.loads((tmp_path / "e.json").read_text())["photos"] == 2
    assert (tmp_path / "e.jpg").read_bytes()[:2] == b"\xff\xd8"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("sets/x", "sets/x.report"),
        ("sets/x/", "sets/x.report"),
        ("sets/x.lmdb", "sets/x.report"),
        ("sets/x/x.lmdb", "sets/x.report"),  # a generated dataset's
        ("sets/sigma.3", "sets/sigma.3.report"),
    ],
)
def test_reports_lie_beside_the_dataset(data, expected):
    assert report_folder(data) == Path(expected)
