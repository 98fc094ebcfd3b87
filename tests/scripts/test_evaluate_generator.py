"""The scores of a generator that reconstructs photos."""

import json

from commands import run

from scripts import (
    evaluate_generator,
)


def test_the_scores_of_a_generator_and_a_sheet_are_written(demo, training_lmdb, tmp_path):
    words = ["--model_weights", demo.generator, "--id_weights", demo.encoder, "--output", tmp_path / "e"]
    run(evaluate_generator.main, "--data", training_lmdb, *words, "--precision", "fp32")
    scores = json.loads((tmp_path / "e.json").read_text())
    assert scores["photos"] == 9
    assert scores["psnr"] > 10
    assert scores["id_similarity_mean"] > 0.6
    assert 0 < scores["residual_peak"] < 127
    assert (tmp_path / "e.jpg").exists()
    assert (tmp_path / "e-residual.jpg").exists()
