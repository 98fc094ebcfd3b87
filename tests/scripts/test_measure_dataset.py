"""measure_dataset.py: the report, where it lies, and how carefully it words its verdicts."""

import json
import re
import shutil

import numpy as np
import pytest
from attributes import write_estimator
from filled import filled, manifest
from paths import PHOTOS, files_of

from scripts import measure_dataset
from utils.evaluation import metrics as metrics
from utils.evaluation.identity_statistics import verdict_on


def measure(demo, output, *words):
    measure_dataset.main(
        [str(w) for w in [*words, "--id_weights", demo.encoder, "--device", "cpu", "--precision", "fp32"]]
        + ["--output", str(output)]
    )
    return json.loads((output / "report.json").read_text()), (output / "report.html").read_text()


def test_a_report_has_every_section_and_the_same_figures_when_it_is_made_again(demo, filled_files, tmp_path, capsys):
    import torch

    shutil.copytree(PHOTOS, tmp_path / "photos")
    (tmp_path / "photos" / "person1" / "2.jpg").write_bytes(b"broken")
    torch.save(filled(manifest("vgg16_features")), tmp_path / "vgg16.pth")
    words = [tmp_path / "photos", "--quality_weights", demo.encoder, "--pose_weights", filled_files["sixdrepnet"]]
    words += ["--lpips_weights", tmp_path / "vgg16.pth", "--reference", PHOTOS]
    report, page = measure(demo, tmp_path / "report", *words)
    assert report["overview"]["images"] == 9
    assert report["overview"]["unreadable_images"] == 1
    assert report["people"]["separate"] >= 2
    assert report["identity"]["closer_to_another_person"] == 0
    assert report["identity"]["similarity_to_own_centre"]["mean"] > 0.6
    assert report["leakage"][0]["largest"] > 0.8  # they are the same people
    assert {"quality", "yaw", "pitch"} <= report["variety"].keys()
    assert report["variety"]["between_images_of_a_person"]["measure"] == "LPIPS (VGG16)"
    assert "1 unreadable" in capsys.readouterr().out
    assert page.count("<img") >= 8
    assert not re.findall(r'(?:src|href)="(?!data:)', page), "self-contained"
    again, _ = measure(demo, tmp_path / "report", *words)  # features are taken from the first run
    assert again == report


def test_single_people_and_single_images(demo, tmp_path):
    shutil.copytree(PHOTOS / "person1", tmp_path / "one" / "person1")
    report, _ = measure(demo, tmp_path / "r1", tmp_path / "one")
    assert report["people"]["largest_similarity"] is None
    for person in ("person1", "person3"):
        (tmp_path / "two" / person).mkdir(parents=True)
        shutil.copy(PHOTOS / person / "0.jpg", tmp_path / "two" / person)
    report, _ = measure(demo, tmp_path / "r2", tmp_path / "two")
    assert report["identity"] is None


def test_a_dataset_measured_against_itself_has_precision_and_recall_1(demo, tmp_path):
    for copy in range(2):
        for person in PHOTOS.iterdir():
            shutil.copytree(person, tmp_path / "more" / f"{person.name}-{copy}")
    report, _ = measure(demo, tmp_path / "r", tmp_path / "more", "--reference", tmp_path / "more")
    assert report["fidelity"]["precision"] == report["fidelity"]["recall"] == 1
    assert report["fidelity"]["neighbours"] == 3


def test_the_report_lies_beside_the_dataset_and_replaces_nothing_else(demo, tmp_path, capsys):
    def run(*words):
        measure_dataset.main([str(w) for w in [*words, "--id_weights", demo.encoder, "--device", "cpu"]])

    def refused(*words):
        with pytest.raises(SystemExit) as error:
            run(*words)
        assert error.value.code == 2
        return capsys.readouterr().err

    shutil.copytree(PHOTOS, tmp_path / "x")
    before = files_of(tmp_path / "x")
    run(tmp_path / "x")
    report = tmp_path / "x.report" / "report.json"
    assert json.loads(report.read_text())["overview"]["precision"] == "fp32"
    assert (tmp_path / "x.report" / "report.html").exists()
    run(tmp_path / "x")  # the same dataset again
    assert files_of(tmp_path / "x") == before

    assert "lies inside the dataset" in refused(tmp_path / "x", "--output", tmp_path / "x" / "report")
    shutil.copytree(PHOTOS, tmp_path / "y")
    assert "holds the report on x" in refused(tmp_path / "y", "--output", tmp_path / "x.report")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "features.txt").write_text("mine")
    assert "is there and no report of this script" in refused(tmp_path / "y", "--output", tmp_path / "mine")
    assert files_of(tmp_path / "x") == files_of(tmp_path / "y") == before
    assert "holds datasets, name one of them: x, y" in refused(tmp_path)
    np.save(tmp_path / "half.npy", np.arange(6))
    assert "holds the report on x; name" in refused(tmp_path / "x", "--mask", tmp_path / "half.npy")
    assert json.loads(report.read_text())["overview"]["dataset"] == "x"


def clones(folder, people):
    """``people`` folders, each of the same two photos."""
    for person in range(people):
        (folder / f"{person:03d}").mkdir(parents=True)
        for index in range(2):
            shutil.copy(PHOTOS / "person1" / f"{index}.jpg", folder / f"{person:03d}")
    return folder


def test_the_verdict_says_no_more_than_the_people_show(demo, tmp_path, capsys):
    report, _ = measure(demo, tmp_path / "alone", PHOTOS)
    out = capsys.readouterr().out
    assert "holds for those vectors, not for the images" in out
    assert "verdict: none without --reference" in out
    assert report["people"]["compared_with"] == []

    report, page = measure(demo, tmp_path / "few", clones(tmp_path / "clones", 9), "--reference", PHOTOS)
    out = capsys.readouterr().out
    (compared,) = report["people"]["compared_with"]
    assert (compared["people"], compared["separate"]) == (3, 1)  # as many as the reference has
    assert "verdict: 3 identities are too few to tell them from identities of photos (p = " in out
    assert compared["p_value"] > 0.05
    assert f"of as many identities of photos: {compared['separate_in_reference']} (" in out
    assert "are too few to tell them from identities of photos" in page


@pytest.mark.parametrize(
    ("separate", "count", "verdict"),
    [
        ((42, 60), 60, "they are separate less often than"),
        ((60, 42), 60, "they are separate more often than"),
        ((42, 47), 60, "60 identities show no difference"),
        ((420, 470), 600, "they are separate less often than"),
    ],
)
def test_a_difference_is_told_when_the_counts_show_it(separate, count, verdict):
    chance = metrics.chance_of_difference(*separate, count)
    assert verdict_on(separate, count, chance, "photos").startswith(verdict)


def test_shares_are_percentages_and_the_title_names_the_dataset(demo, tmp_path, capsys):
    shutil.copytree(PHOTOS, tmp_path / "dataset")
    report, page = measure(demo, tmp_path / "r", tmp_path / "dataset", "--reference", PHOTOS)
    assert "<h1>dataset: 9 images of 3 identities</h1>" in page
    cells = dict(re.findall(r"<tr><td>([^<]*)</td><td>([^<]*)</td></tr>", page))
    assert cells["equal error rate of random pairs"] == f"{report['identity']['equal_error_rate']:.2%}"
    assert f"equal error rate {report['identity']['equal_error_rate']:.2%}" in capsys.readouterr().out
    similarities = [value for name, value in cells.items() if name.startswith(("similarity to", "mean similarity"))]
    assert similarities
    assert all(re.fullmatch(r"-?[01]\.[0-9]{3}", value) for value in similarities)


def test_attributes_have_entropies_beside_photos_and_figures_by_group(demo, tmp_path, capsys):
    words = [PHOTOS, "--attribute_weights", write_estimator(tmp_path / "estimator.pth"), "--group_by", "smile"]
    report, page = measure(demo, tmp_path / "r", *words, "--reference", PHOTOS)
    said = capsys.readouterr().out
    entropies = report["variety"]["entropy"]
    assert entropies.keys() == {"smile", "light_azimuth"}
    assert all(pair["dataset"] == pair["reference"] for pair in entropies.values())
    assert "verdict: the images vary as those of photos do" in said
    groups = report["groups"]["smile"]
    assert sum(group["identities"] for group in groups.values()) == 3
    assert sum(group["images"] for group in groups.values()) == report["overview"]["images"]
    assert "too few to compare" in said
    assert "Are all groups equally good?" in page


def test_consistency_is_compared_with_that_of_the_reference(demo, tmp_path, capsys):
    report, _ = measure(demo, tmp_path / "r", PHOTOS, "--reference", PHOTOS)
    (compared,) = report["identity"]["compared_with"]
    assert compared["consistency_of_reference"] == pytest.approx(report["identity"]["consistency"])
    assert "verdict: the identities are as consistent as those of photos, as far as 3 and 3 show" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--group_by", "age"], "--group_by age: no model here reads it; give --attribute_weights"),
        (["--group_by", "age", "--attribute_weights", "own"], "those with a range are smile, light_azimuth"),
        (["--group_by", "smile", "--attribute_weights", "other"], "was trained on another face encoder"),
        (["--attribute_weights", "missing.pth"], "missing.pth"),
    ],
)
def test_values_that_no_model_reads_are_refused_before_any_work(words, message, demo, tmp_path, capsys):
    (tmp_path / "other.encoder").write_bytes(b"another file")
    files = {
        "own": write_estimator(tmp_path / "own.pth"),
        "other": write_estimator(tmp_path / "other.pth", tmp_path / "other.encoder"),
    }
    with pytest.raises(SystemExit) as error:
        measure(demo, tmp_path / "r", PHOTOS, *(files.get(word, word) for word in words))
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
