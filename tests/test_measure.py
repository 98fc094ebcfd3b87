"""measure_dataset.py, convert_dataset.py and compare.py."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import PHOTOS, files_of
from filled import filled, manifest

from models.errors import UserError
from scripts import compare, convert_dataset, measure_dataset
from utils.cli.outputs import report_folder
from utils.data.face_set import FaceSet
from utils.evaluation import metrics as metrics
from utils.evaluation.comparison import accuracy_table
from utils.evaluation.identity_measures import verdict_on


def measure(demo, output, *words):
    measure_dataset.main(
        [str(w) for w in [*words, "--id_weights", demo.encoder, "--device", "cpu", "--precision", "fp32"]]
        + ["--output", str(output)]
    )
    return json.loads((output / "report.json").read_text()), (output / "report.html").read_text()


def test_a_whole_report(demo, filled_files, tmp_path, capsys):
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


def test_features_go_on_after_a_kill(demo, encoder, tmp_path):
    from utils.evaluation.feature_cache import FeatureCache

    faces = FaceSet(PHOTOS)
    whole = FeatureCache(tmp_path / "whole", faces, encoder, "hash", "fp32")
    features = whole.fill(4).values
    assert features.dtype == np.float32
    part = FeatureCache(tmp_path / "part", faces, encoder, "hash", "fp32")
    part.array[:4], part.done = whole.array[:4], 4
    part._save()
    part.array[4:] = 7  # written and not saved
    again = FeatureCache(tmp_path / "part", faces, encoder, "hash", "fp32")
    assert again.done == 4
    assert np.array_equal(again.fill(4).values, features)
    assert FeatureCache(tmp_path / "part", faces, encoder, "another encoder", "fp32").done == 0


def test_features_of_other_photos_or_precision_are_not_used_again(encoder, tmp_path):
    from utils.evaluation.feature_cache import FeatureCache

    def done(faces, precision="fp32"):
        """How many images are there before any work; then all are."""
        cache = FeatureCache(tmp_path / "cache", faces, encoder, "hash", precision)
        before = cache.done
        cache.fill(9)
        return before

    shutil.copytree(PHOTOS, tmp_path / "photos")
    assert (done(FaceSet(tmp_path / "photos")), done(FaceSet(tmp_path / "photos"))) == (0, 9)
    assert done(FaceSet(tmp_path / "photos"), "bf16") == 0
    assert done(FaceSet(tmp_path / "photos")) == 0

    for name, middle in (("one", 3), ("two", 4)):  # as many, and the same first and last one
        np.save(tmp_path / f"{name}.npy", np.array([0, middle, 8]))
    assert done(FaceSet(tmp_path / "photos", tmp_path / "one.npy")) == 0
    assert done(FaceSet(tmp_path / "photos", tmp_path / "two.npy")) == 0
    assert done(FaceSet(tmp_path / "photos", tmp_path / "two.npy")) == 3

    assert done(FaceSet(tmp_path / "photos")) == 0
    shutil.copy(PHOTOS / "person4" / "0.jpg", tmp_path / "photos" / "person3" / "1.jpg")  # the dataset was made anew
    assert done(FaceSet(tmp_path / "photos")) == 0


def test_a_kill_while_other_photos_are_measured_does_not_leave_their_features(encoder, tmp_path):
    from utils.evaluation.feature_cache import FeatureCache

    np.save(tmp_path / "mask.npy", np.array([8, 7, 6, 5, 4, 3, 2, 1, 0]))
    forward, backward = FaceSet(PHOTOS), FaceSet(PHOTOS, tmp_path / "mask.npy")
    FeatureCache(tmp_path / "cache", forward, encoder, "hash", "fp32").fill(9)
    FeatureCache(tmp_path / "cache", backward, encoder, "hash", "fp32")  # killed before it saved anything
    assert FeatureCache(tmp_path / "cache", forward, encoder, "hash", "fp32").done == 0


def test_single_people_and_single_images(demo, tmp_path):
    shutil.copytree(PHOTOS / "person1", tmp_path / "one" / "person1")
    report, _ = measure(demo, tmp_path / "r1", tmp_path / "one")
    assert report["people"]["largest_similarity"] is None
    for person in ("person1", "person3"):
        (tmp_path / "two" / person).mkdir(parents=True)
        shutil.copy(PHOTOS / person / "0.jpg", tmp_path / "two" / person)
    report, _ = measure(demo, tmp_path / "r2", tmp_path / "two")
    assert report["identity"] is None


def test_fidelity_needs_enough_images(demo, tmp_path):
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
def test_where_reports_lie(data, expected):
    assert report_folder(data) == Path(expected)


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
    assert "verdict: 3 identities show no difference from identities of photos (p = " in out
    assert compared["p_value"] > 0.05
    assert f"of as many identities of photos: {compared['separate_in_reference']} (" in out
    assert "show no difference from identities of photos" in page


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


def convert(*words):
    convert_dataset.main([str(word) for word in words])


def test_convert_there_and_back_merge_and_split(tmp_path):
    convert(PHOTOS, tmp_path / "a.lmdb")
    convert(tmp_path / "a.lmdb", tmp_path / "a")
    assert [data for _, data in sorted(files_of(tmp_path / "a").items())] == [
        path.read_bytes() for path in sorted(PHOTOS.rglob("*.jpg"))
    ]
    convert(tmp_path / "a.lmdb", PHOTOS, tmp_path / "both.lmdb")
    both = FaceSet(tmp_path / "both.lmdb")
    assert len(both.people) == 6
    assert both.read(9) == both.read(0)
    both.close()
    convert(tmp_path / "both.lmdb", tmp_path / "part", "--people", "2:4")
    part = FaceSet(tmp_path / "part")
    assert (len(part), part.people) == (6, ["000000", "000001"])
    assert part.read(0) == (PHOTOS / "person4" / "0.jpg").read_bytes()


def test_convert_refuses_and_leaves_nothing_half_done(tmp_path, capsys):
    (tmp_path / "there").mkdir()
    for words, message in (
        ([PHOTOS, tmp_path / "there"], "exists already"),
        ([tmp_path / "nowhere", tmp_path / "x"], "no such folder"),
        ([PHOTOS, tmp_path / "x", "--people", "2:9"], "--start_end 2:9: goes past the end"),
        ([PHOTOS, PHOTOS, tmp_path / "x", "--mask", "m.npy"], "one source"),
    ):
        with pytest.raises(SystemExit):
            convert(*words)
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_the_table_of_the_paper(tmp_path, capsys):
    for name, values in (("real", (0.9, 0.8)), ("a", (0.8, 0.6)), ("b", (0.9, 0.7))):
        figures = dict(zip(("lfw", "cfp_fp"), ({"accuracy": v} for v in values), strict=True))
        (tmp_path / f"{name}.json").write_text(json.dumps(figures))
    words = [f"real={tmp_path}/real.json", f"syn={tmp_path}/a.json", f"syn={tmp_path}/b.json", "--real", "real"]
    compare.main(words)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("| gap to real, (REAL - SYN) / SYN as in UIFace |")
    assert lines[2] == "| real | 90.00% | 80.00% | 85.00% | - |"
    assert lines[3] == "| syn | 85.00% ± 7.07% | 65.00% ± 7.07% | 75.00% ± 7.07% | 13.33% |"
    (tmp_path / "b.json").write_text("{}")
    with pytest.raises(UserError, match="was tested on"):
        accuracy_table({"a": [{"lfw": 1.0}], "b": [{"cfp": 1.0}]})
    with pytest.raises(SystemExit):
        compare.main(["nothing"])
    assert "NAME=FILE" in capsys.readouterr().err


def test_datasets_side_by_side(tmp_path, capsys):
    def report(name, separate, judge="judge", leak=None):
        values = {
            "overview": {"judge": judge},
            "people": {"separate_share": separate, "mean_similarity": 0.1},
            "identity": {
                "closer_to_another_person": 0,
                "equal_error_rate": None,
                "similarity_to_own_centre": {"mean": 1},
            },
        }
        values |= {"leakage": [{"mean_of_largest": leak, "above": {"0.5": 0.25}}]} if leak else {}
        (tmp_path / name).write_text(json.dumps(values))
        return tmp_path / name

    words = [f"a={report('1', 0.5)}", f"b={report('2', 1, leak=0.3)}", f"b={report('3', 0.8, leak=0.3)}"]
    compare.main([*words, "--output", str(tmp_path / "table.md")])
    text = (tmp_path / "table.md").read_text()
    assert text == capsys.readouterr().out
    assert text.splitlines()[2] == "| a | 50.00% | 0.00% | - | - | 0.100 | 1.000 | - |"
    assert text.splitlines()[3] == (
        "| b | 90.00% ± 14.14% | 0.00% ± 0.00% | - | 25.00% ± 0.00% | 0.100 ± 0.000 | 1.000 ± 0.000 | 0.300 ± 0.000 |"
    )
    fidelity = {"reference": "r", "features": "x", "images": [9, 9], "neighbours": 3, "precision": 0.5, "recall": 0.25}
    distance = {"distance_name": "Fréchet distance (features of x)", "frechet_distance": 7.0}
    compared = []
    for number, changes in enumerate(({}, {}, {"neighbours": 10})):
        path = report(f"f{number}", 1)
        path.write_text(json.dumps(json.loads(path.read_text()) | {"fidelity": fidelity | distance | changes}))
        compared.append(f"{number}={path}")
    compare.main(compared[:2])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("| precision | recall | Fréchet distance (features of x) |")
    assert lines[2].endswith("| 0.500 | 0.250 | 7 |")
    compare.main(compared)  # 10 neighbours are not 3
    assert "Fréchet" not in capsys.readouterr().out
    for word, message in (
        (f"c={report('4', 1, 'another')}", "different FR models"),
        (f"c={PHOTOS}/nothing.json", "not a report.json"),
        ("nothing", "NAME=FILE"),
    ):
        with pytest.raises(SystemExit):
            compare.main([*words, word])
        assert message in capsys.readouterr().err
