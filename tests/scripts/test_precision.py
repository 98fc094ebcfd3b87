"""What is stored or quoted is computed in fp32 unless --precision says otherwise, and JSON files say the precision."""

import json

import numpy as np
import pytest
import torch
from paths import PHOTOS

from models.iresnet import load_face_encoder
from scripts import evaluate_generator, extract_features, prepare_training_set, train_fr
from scripts import test_fr as tester
from utils.data.face_set import FaceSet
from utils.data.training_data import TrainingData
from utils.evaluation.verification import norm_percentiles


def run(main, *words):
    main([str(word) for word in (*words, "--device", "cpu")])


def extract(demo, folder, *more):
    run(extract_features.main, "--images", PHOTOS, "--encoder", demo.encoder, "--one_file", "-d", folder, *more)
    return np.load(folder / "features.npy")


def test_stored_features_are_computed_in_fp32(demo, tmp_path, capsys):
    features = extract(demo, tmp_path / "default")
    assert "computed in fp32" in capsys.readouterr().out
    assert np.array_equal(features, extract(demo, tmp_path / "fp32", "--precision", "fp32"))
    assert not np.allclose(features, extract(demo, tmp_path / "bf16", "--precision", "bf16"), atol=1e-3)

    words = ["--images", PHOTOS, "--encoder", demo.encoder, "-d", tmp_path, "-n", "faces"]
    run(prepare_training_set.main, *words)
    data = TrainingData(tmp_path / "faces.lmdb")
    assert np.array_equal([data[0, row][1] for row in range(9)], features)
    data.close()


@pytest.mark.parametrize(("words", "precision"), [([], "fp32"), (["--precision", "bf16"], "bf16")])
def test_figures_say_their_precision(words, precision, demo, training_lmdb, tmp_path):
    run(
        tester.main, "--weights", demo.encoder, "--pairs", PHOTOS, "--pair_count", 12, "--output",
        tmp_path / "test.json", *words,
    )  # fmt: skip
    figures = json.loads((tmp_path / "test.json").read_text())["photos"]
    formats = {"fp32": "float32", "bf16": "bfloat16"}
    assert figures["precision"] == precision
    assert (figures["number_formats"]["weights"], figures["number_formats"]["tf32"]) == (formats[precision], False)
    run(
        evaluate_generator.main, "--model_weights", demo.generator, "--id_weights", demo.encoder, "--data",
        training_lmdb, "--count", 2, "--output", tmp_path / "e", *words,
    )  # fmt: skip
    scores = json.loads((tmp_path / "e.json").read_text())
    assert (scores["precision"], scores["number_formats"]["weights"]) == (precision, formats[precision])


def test_feature_norms_in_a_model_file_are_of_fp32(tmp_path):
    """Also after a training with 16-bit arithmetic."""
    run(
        train_fr.main, "--data", PHOTOS, "--network", 18, "--width", 16, "--no-se", "--batch_size", 4, "--epochs", 1,
        "--workers", 0, "--output_dir", tmp_path,
    )  # fmt: skip
    stored = torch.load(tmp_path / "model.pth", weights_only=True)["feature_norms"]
    faces = FaceSet(PHOTOS)
    measured = norm_percentiles(load_face_encoder(tmp_path / "model.pth"), [faces.image(i) for i in range(9)])
    assert stored == pytest.approx(measured, rel=1e-4)
