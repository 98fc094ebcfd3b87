"""The protocols of TinyFace, IJB and RFW on small stand-ins, against plain loops and scikit-learn."""

import json
import re

import numpy as np
import pytest
from commands import refused, run
from protocols import make_ijb, make_rfw, make_tinyface
from sklearn.metrics import roc_curve

from models.errors import UserError
from scripts import evaluate_protocols
from utils.data.images import read_image
from utils.evaluation.identification import identification_rates, match_ranks, rank_rates, unit_rows
from utils.evaluation.ijb import FALSE_ACCEPT_RATES, evaluate_ijb, similarities_of, template_features, true_accept_rates
from utils.evaluation.rfw import evaluate_rfw
from utils.evaluation.tinyface import evaluate_tinyface
from utils.evaluation.verification import features_of


@pytest.fixture(scope="module")
def tests(tmp_path_factory):
    folder = tmp_path_factory.mktemp("protocols")
    make_tinyface(folder / "tinyface")
    make_rfw(folder / "rfw")
    make_ijb(folder / "IJBB")
    make_ijb(folder / "IJBC", "ijbc")
    return folder


@pytest.fixture(scope="module")
def results(tests, demo):
    """The results of all tests with the demo encoder, from the file that the script writes."""
    words = ["--id_weights", demo.encoder, "--tinyface", tests / "tinyface", "--rfw", tests / "rfw", "--device", "cpu"]
    words += ["--ijb", tests / "IJBB", tests / "IJBC", "--precision", "fp32", "--output", tests / "results.json"]
    run(evaluate_protocols.main, *words)
    return json.loads((tests / "results.json").read_text())


def feature(encoder, path):
    one = features_of(encoder, [read_image(path)])[0]
    return one / np.linalg.norm(one)


def test_tinyface_counts_the_probes_whose_identity_is_among_the_most_similar(results, tests, encoder):
    root = tests / "tinyface" / "Testing_Set"
    gallery = [(path, path.name[0]) for path in root.glob("Gallery_Match/*.jpg")]
    gallery += [(path, "none") for path in root.glob("Gallery_Distractor/*.jpg")]
    vectors = [(feature(encoder, path), name) for path, name in gallery]
    hits = {1: 0, 5: 0}
    for probe in root.glob("Probe/*.jpg"):
        own = feature(encoder, probe)
        names = [name for _, name in sorted(vectors, key=lambda other: -float(own @ other[0]))]
        for k in hits:
            hits[k] += probe.name[0] in names[:k]
    assert {k: results["tinyface"]["rank"][str(k)] for k in hits} == {k: n / 4 for k, n in hits.items()}
    assert (results["tinyface"]["probes"], results["tinyface"]["gallery"]) == (4, 5)


def test_rfw_has_the_accuracy_of_each_group_and_their_spread(results):
    rfw = results["rfw"]
    accuracies = [rfw[group]["accuracy"] for group in ("African", "Asian", "Caucasian", "Indian")]
    assert accuracies[0] == accuracies[1] == accuracies[2] > accuracies[3]  # whose photos are not all of one person
    assert rfw["average"] == pytest.approx(np.mean(accuracies))
    assert rfw["spread"] == pytest.approx(np.std(accuracies))


def test_ijb_b_and_c_are_one_protocol_in_files_of_other_names(results):
    for key in ("tpr", "rank", "tpir"):
        assert results["IJBB"][key] == results["IJBC"][key]
    assert (results["IJBB"]["templates"], results["IJBB"]["pairs"]) == (6, 15)
    assert results["IJBB"]["rank"]["5"] == 1
    assert results["IJBB"]["tpr"]["1e-06"] is None


def test_templates_average_the_photos_of_a_medium_first():
    rng = np.random.default_rng(0)
    features, templates, media = rng.normal(size=(60, 8)), rng.integers(0, 9, 60) * 7, rng.integers(0, 4, 60)
    numbers, found = template_features(features, templates, media)
    assert numbers.tolist() == sorted(set(templates.tolist()))
    for number, row in zip(numbers, found, strict=True):
        total = np.zeros(8)
        for medium in set(media[templates == number].tolist()):
            total += features[(templates == number) & (media == medium)].mean(0)
        assert np.allclose(row, total / np.linalg.norm(total))


def test_true_accept_rates_are_those_at_the_nearest_false_accept_rate():
    rng = np.random.default_rng(1)
    same = rng.random(30_000) < 0.1
    scores = rng.normal(size=30_000) + 2 * same
    fpr, tpr, _ = roc_curve(same, scores)
    fpr, tpr = fpr[::-1], tpr[::-1]
    found = true_accept_rates(scores, same)
    for rate in FALSE_ACCEPT_RATES:
        nearest = min(zip(abs(fpr - rate), range(len(fpr)), strict=True))[1]
        assert found[f"{rate:g}"] == (tpr[nearest] if rate >= 1e-4 else None)


@pytest.mark.parametrize("unmated", [0, 20])
def test_identification_is_that_of_plain_loops(unmated, monkeypatch):
    monkeypatch.setattr("utils.evaluation.identification.BLOCK", 7)
    rng = np.random.default_rng(2)
    gallery, gallery_ids = unit_rows(rng.normal(size=(40, 6))).astype(np.float32), np.arange(40) // 2
    probe_ids = np.concatenate([rng.integers(0, 20, 50), np.full(unmated, 99)])
    centres = np.concatenate([gallery, rng.normal(size=(170, 6))])[2 * probe_ids]
    probes = unit_rows(centres + 0.3 * rng.normal(size=centres.shape)).astype(np.float32)
    similarities = probes @ gallery.T
    ranks, best = match_ranks(probes, probe_ids, gallery, gallery_ids)
    hits, pairs = np.zeros(11), []
    for row, own in zip(similarities, probe_ids, strict=True):
        order = np.argsort(-row)
        for k in range(1, 11):
            hits[k] += own in gallery_ids[order[:k]]
        pairs += [s for s, other in zip(row, gallery_ids, strict=True) if other != own]
    assert rank_rates(ranks, 40, (1, 5, 10)) == {str(k): hits[k] / 50 for k in (1, 5, 10)}
    allowed = int(np.ceil(0.1 * len(probes)))
    threshold = sorted(pairs)[-allowed]
    expected = np.mean([s > threshold for s in best[:50]])
    assert identification_rates(probes, probe_ids, gallery, gallery_ids, [0.1]) == {"0.1": pytest.approx(expected)}


def test_similarities_of_pairs_in_blocks(monkeypatch):
    monkeypatch.setattr("utils.evaluation.ijb.BLOCK", 3)
    unit = unit_rows(np.random.default_rng(3).normal(size=(5, 4)))
    pairs = np.array([(a, b) for a in range(5) for b in range(5)])
    assert np.allclose(similarities_of(unit, pairs), (unit @ unit.T).flatten())


def change(file, edit):
    def damage(root):
        path = root / file
        path.write_text(edit(path.read_text()))

    return damage


def break_file(file):
    return lambda root: (root / file).write_bytes(b"x")


def delete(file):
    return lambda root: (root / file).unlink()


@pytest.mark.parametrize(
    ("test", "damage", "message"),
    [
        ("tinyface", delete("Testing_Set/probe_img_ID_pairs.mat"), "no such list; give the folder of TinyFace"),
        ("tinyface", break_file("Testing_Set/probe_img_ID_pairs.mat"), "no list of TinyFace, or damaged"),
        ("tinyface", delete("Testing_Set/Probe/1_1.jpg"), "1_1.jpg: cannot be read: No such file"),
        ("rfw", change("txts/Asian/Asian_pairs.txt", lambda text: text + "a 1\n"), "Asian_pairs.txt, line 13: a pair"),
        ("rfw", change("txts/Asian/Asian_pairs.txt", lambda text: text + "a b c\n"), "'b' is no number of a photo"),
        ("rfw", change("txts/Asian/Asian_pairs.txt", lambda text: ""), "Asian_pairs.txt: empty"),
        ("rfw", delete("txts/Indian/Indian_pairs.txt"), "cannot read the pairs of RFW"),
        ("ijb", change("meta/ijbb_template_pair_label.txt", lambda t: t + "10 99 1\n"), "template 99 has no photos"),
        ("ijb", change("meta/ijbb_template_pair_label.txt", lambda t: t + "10 20\n"), "no list of pairs"),
        ("ijb", change("meta/ijbb_template_pair_label.txt", lambda t: t + "10 20 2\n"), "two templates and 1 or 0"),
        ("ijb", change("meta/ijbb_template_pair_label.txt", lambda t: "10 20 0\n"), "pairs of one person"),
        ("ijb", change("meta/ijbb_1N_probe_mixed.csv", lambda t: t + "77,1,x\n"), "template 77 has no photos"),
        ("ijb", change("meta/ijbb_1N_probe_mixed.csv", lambda t: t + "11,x,y\n"), "should be a number is not"),
        ("ijb", change("meta/ijbb_1N_probe_mixed.csv", lambda t: t + "11,2,y\n"), "a template of two subjects"),
        ("ijb", change("meta/ijbb_face_tid_mid.txt", lambda t: t + "9.jpg 3\n"), "line 10: has 2 columns"),
        ("ijb", change("meta/ijbb_face_tid_mid.txt", lambda t: t + "9.jpg 3 4\n"), "names other photos than"),
        ("ijb", delete("meta/ijbb_face_tid_mid.txt"), "no meta/ijbb_face_tid_mid.txt"),
        ("ijb", delete("loose_crop/4.jpg"), "4.jpg: cannot be read: No such file"),
    ],
)
def test_files_that_are_missing_or_odd_are_told(test, damage, message, tmp_path, encoder):
    make, evaluate = {
        "tinyface": (make_tinyface, evaluate_tinyface), "rfw": (make_rfw, evaluate_rfw), "ijb": (make_ijb, evaluate_ijb)
    }[test]  # fmt: skip
    damage(make(tmp_path / "root"))
    with pytest.raises(UserError, match=re.escape(message)):
        evaluate(encoder, tmp_path / "root")


def test_a_command_that_names_no_test_or_no_folder_is_one_clear_line(demo, tmp_path, capsys):
    assert "name a test" in refused(evaluate_protocols.main, ["--id_weights", demo.encoder], capsys)
    words = ["--id_weights", demo.encoder, "--rfw", tmp_path, "--device", "cpu"]
    assert "African_pairs.txt: cannot read the pairs of RFW" in refused(evaluate_protocols.main, words, capsys)
