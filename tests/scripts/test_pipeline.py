"""The chain a user runs: vectors, images, report, recogniser, test; and a table of the paper, at the smallest scale."""

import json
import signal

import numpy as np
import pytest
from commands import run
from paths import PHOTOS
from processes import Script

import image_generation
from scripts import measure_dataset, sample_identities, train_fr
from scripts import test_fr as tester
from world import run_ablation
from world.ablation_tables import TABLES

SMALL = "--network 18 --width 16 --no-se --batch_size 4 --epochs 1 --workers 0 --device cpu"


def test_from_vectors_to_a_tested_recogniser(demo, tmp_path):
    run(
        sample_identities.main, "--features", demo.vectors, "--count", 4, "--max_similarity", 0.4,
        "--output", tmp_path / "people.npy",
    )  # fmt: skip
    run(
        image_generation.main, *demo.models, "--quality_weights", demo.encoder, "--center_feature",
        tmp_path / "people.npy", "--example", 3, "--batch_size", 4, "--image_quality", 20, "--max_iters", 3,
        "--min_id_similarity", 0.3, "--output_dir", tmp_path, "--name", "dataset", "--format", "lmdb",
    )  # fmt: skip
    run(
        measure_dataset.main, tmp_path / "dataset", "--id_weights", demo.encoder, "--device", "cpu",
    )  # fmt: skip
    report = json.loads((tmp_path / "dataset.report" / "report.json").read_text())
    assert report["overview"]["people"] == 4
    assert report["identity"]["similarity_to_own_centre"]["mean"] > 0.6
    run(train_fr.main, "--data", tmp_path / "dataset", *SMALL.split(), "--output_dir", tmp_path / "fr")
    run(
        tester.main, "--weights", tmp_path / "fr" / "model.pth", "--pairs", PHOTOS, "--pair_count", 12,
        "--device", "cpu", "--output", tmp_path / "test.json",
    )  # fmt: skip
    assert 0 <= json.loads((tmp_path / "test.json").read_text())["photos"]["accuracy"] <= 1


def test_rows_of_other_settings_are_not_mixed(tmp_path, capsys):
    (tmp_path / "settings.json").write_text(json.dumps({"people": 1000}))
    with pytest.raises(SystemExit):
        run(run_ablation.main, "people", "--photos", PHOTOS, "--unseen", PHOTOS, "--people", 2, "--output", tmp_path)
    assert "its rows were made with --people 1000, not 2" in capsys.readouterr().err


def test_a_stopped_training_stops_the_table(tmp_path):
    process = Script(
        "world/run_ablation.py", "real", "--photos", PHOTOS, "--unseen", PHOTOS, "--people", 2, "--images", 2,
        "--pairs", 12, "--recogniser", f"{SMALL} --batch_size 2 --epochs 9999 --log_every 1", "--output", tmp_path,
    )  # fmt: skip
    process.wait_until((tmp_path / "fr" / "real_0" / "log.jsonl").exists)
    process.signal(signal.SIGTERM)
    result = process.wait()
    assert result.returncode == 2
    assert "the training was stopped" in result.stderr


@pytest.mark.slow
def test_a_table_is_made_once(tmp_path, capfd):
    words = ["--photos", PHOTOS, "--unseen", PHOTOS, "--people", 2, "--images", 2, "--pairs", 12]
    words += ["--max_similarity", 0.99, "--recogniser", SMALL, "--image_quality", 5, "--batch_size", 2]
    words += ["--output", tmp_path]
    run(run_ablation.main, "real", *words)
    table = (tmp_path / "real.md").read_text().splitlines()
    assert table[0] == "| training data | unseen | average | gap to real, (REAL - SYN) / SYN as in UIFace |"
    assert [line.split("|")[1].strip() for line in table[2:]] == ["real", "synthetic"]
    assert len(list((tmp_path / "datasets").glob("*/*/*.jpg"))) == 4
    capfd.readouterr()
    run(run_ablation.main, "real", *words)
    assert "train_fr.py" not in capfd.readouterr().out
    assert (tmp_path / "real.md").read_text().splitlines() == table
    assert (tmp_path / "real.png").stat().st_size > 1000

    run(run_ablation.main, "separability", *words)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in (tmp_path / "separability.md").open()]
    assert [line[0] for line in lines[2:]] == ["photos of others", "synthetic", "no AttrOP", "noise .3"]
    nearest = lines[0].index("similarity to the nearest reference identity")
    assert float(lines[2][nearest]) > 0.9 > float(lines[3][nearest])  # here "others" are the known people
    assert "train_fr.py" not in capfd.readouterr().out

    run(run_ablation.main, "people", *words)
    assert len(list((tmp_path / "datasets").glob("*_attrop1_*_0"))) == 2  # noise .3 and all others: none for its parts
    (mask,) = tmp_path.glob("*_0_0.25.npy")
    assert np.load(mask).tolist() == [0, 1, 2, 3]  # of two people, none can be left out
    assert len((tmp_path / "people.md").read_text().splitlines()) == 5
    capfd.readouterr()

    run(run_ablation.main, "mixup", *words)
    assert json.loads((tmp_path / "settings.json").read_text())["people"] == 2
    assert len((tmp_path / "mixup.md").read_text().splitlines()) == 5
    assert len(list((tmp_path / "datasets").glob("mixed*_mixup/*/*.jpg"))) == 2
    log = capfd.readouterr().out
    assert "--mixed_data" in log
    assert "--real_data" in log


@pytest.mark.slow
def test_synfaces_experiments_are_one_table_with_the_variation_of_the_images(tmp_path, capfd):
    words = ["--photos", PHOTOS, "--unseen", PHOTOS, "--people", 3, "--images", 2, "--pairs", 12]
    words += ["--max_similarity", 0.99, "--recogniser", SMALL, "--image_quality", 5, "--batch_size", 2]
    run(run_ablation.main, "synface", *words, "--output", tmp_path)
    text = (tmp_path / "synface.md").read_text()
    accuracies, variation = (
        [row.split("|")[1].strip() for row in part.splitlines()[2:]] for part in text.split("\n\n")
    )
    assert accuracies == list(TABLES["synface"])
    assert variation == ["no mixup", "IM, share .8", "IM, share .6 to 1"]
    assert "similarity to the class centroid" in text
    assert len(list((tmp_path / "datasets").glob("*_attrop1_*_0"))) == 3  # domain mixup needs no further images
    log = capfd.readouterr().out
    assert "--identity_mixup linspace:0.6:1:11" in log
    assert "--mixup_loss logits --domain_mixup linspace:0:1:21 --domain_mixup_per batch" in log
    assert "--real_people 2 --real_images 2" in log
