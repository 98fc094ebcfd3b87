"""Images that must pass a gate: what is written, what is drawn again, what the manifest says."""

import json

import msgpack
import numpy as np
import pytest
import torch
from paths import PHOTOS
from written_datasets import dataset_files

import image_generation
import image_generation_with_reference
import pose_image_generation
from models.attrop import AttrOP
from models.iresnet import load_face_encoder
from utils.data.images import read_image
from utils.dataset.lmdb_store import reading
from utils.dataset.writer import compact_dataset
from utils.generation.gate import Gate
from utils.generation.image_measures import ImageMeasures
from utils.generation.pipeline import generate
from utils.generation.recipe import Identity, Recipe


def run(script, demo, folder, *words):
    weights = ["--quality_weights", demo.encoder, "--batch_size", 4, "--output_dir", folder, "--name", "gated"]
    script.main([str(word) for word in [*demo.models, *weights, *words]])
    about = next(path.parent for path in folder.rglob("manifest.jsonl"))
    root = about.with_name(about.name.removesuffix(".about"))
    return root, [json.loads(line) for line in (about / "manifest.jsonl").read_text().splitlines()]


def people(vectors, count):
    return [Identity(i, f"{i:06d}", np.asarray(vectors[i], np.float32)) for i in range(count)]


def test_a_failure_names_the_measure_that_is_missing_or_missed():
    gate = Gate({"faces": 1}, max_tries=2, maximums={"landmark_error": 6})
    assert gate.failures({"faces": 0.0}) == "faces 0.000 below 1, no landmark_error"
    assert gate.failures({"faces": 1.0, "landmark_error": 7.5}) == "landmark_error 7.500 above 6"


def test_what_is_written_passes_and_the_rest_says_why(demo, encoder, vectors, tmp_path, capsys):
    words = ["--center_feature", demo.vectors, "--start_end", "0:4", "--example", 5, "--skip_attrop", "--max_tries", 3]
    root, lines = run(image_generation, demo, tmp_path, *words, "--min_id_similarity", 0.65)
    assert len(lines) == 20
    passed = [line for line in lines if line["passed"]]
    failed = [line for line in lines if not line["passed"]]
    again = [line for line in passed if "tries" in line]
    assert passed, "a threshold that some images pass at once"
    assert again, "and some at a second try"
    for line in passed:
        image = torch.from_numpy(read_image(root / line["file"])).permute(2, 0, 1)[None] / 127.5 - 1
        with torch.no_grad():
            similarity = torch.cosine_similarity(encoder(image), torch.from_numpy(vectors[line["identity"]][None]))
        assert float(similarity) == pytest.approx(line["id_similarity"], abs=0.08)  # JPEG came between
        assert line["id_similarity"] >= 0.65
    for line in failed:
        assert line["file"] is None
        assert len(line["tries"]) == 3
    for line in failed + again:
        assert all("id_similarity 0." in one["reason"] and "below 0.65" in one["reason"] for one in line["tries"])
        assert len({one["id_similarity"] for one in line["tries"]}) == len(line["tries"])  # fresh draws
    assert len(list(root.glob("*/*.jpg"))) == len(passed)
    assert ("left out" in capsys.readouterr().out) == bool(failed)


def test_the_first_try_is_the_image_without_a_gate(generator, encoder, vectors):
    recipe = Recipe(3, (0.3, 0.5))
    plain = list(generate(generator, people(vectors, 3), recipe, 4))
    options = {"measures": ImageMeasures(encoder), "gate": Gate({"id_similarity": 0}, 5)}
    gated = list(generate(generator, people(vectors, 3), recipe, 4, **options))
    for (_, images), (_, other) in zip(plain, gated, strict=True):
        assert all(np.array_equal(a.pixels, b.pixels) for a, b in zip(images, other, strict=True))
        assert all(image.record.passed and not image.record.tries for image in other)


def test_nobody_passes_and_the_lmdb_has_no_empty_class(demo, tmp_path, capsys):
    words = ["--center_feature", demo.vectors, "--example", 2, "--skip_attrop", "--format", "lmdb", "--max_tries", 2]
    root, lines = run(image_generation, demo, tmp_path, *words, "--start_end", "0:3", "--min_quality", 100)
    assert all(line["key"] is None and len(line["tries"]) == 2 for line in lines)
    out = capsys.readouterr().out
    assert "the dataset has 0 images of 0 identities" in out
    assert "quality below 100 at every try: 6 images; 90% of the images would pass at --min_quality" in out
    assert "Without a single image, and so without a folder or class: 3 identities (000000, 000001, 000002)" in out
    with reading(root / "gated.lmdb") as transaction:
        assert msgpack.unpackb(transaction.get(b"__len__")) == 0
        assert msgpack.unpackb(transaction.get(b"__classnum__")) == 0


@pytest.mark.parametrize("format", [pytest.param("folder", marks=pytest.mark.slow), "lmdb"])
def test_slices_at_different_times_give_the_same_dataset(demo, tmp_path, format):
    """Images that are missing, and an LMDB that is merged twice."""
    words = ["--center_feature", demo.vectors, "--example", 4, "--skip_attrop", "--max_tries", 2, "--format", format]
    words += ["--min_id_similarity", 0.84]
    whole, _ = run(image_generation, demo, tmp_path / "whole", *words, "--start_end", "0:5")
    for part in ("3:5", "0:3"):
        parts, lines = run(image_generation, demo, tmp_path / "parts", *words, "--start_end", part)
    assert any(not line["passed"] for line in lines)
    compact_dataset(parts)
    if format == "folder":
        assert dataset_files(whole) == dataset_files(parts)
    else:
        with reading(whole / "gated.lmdb") as one, reading(parts / "gated.lmdb") as two:
            assert list(map(tuple, one.cursor())) == list(map(tuple, two.cursor()))


@pytest.mark.slow
def test_images_are_gated_in_reference_and_pose_mode_too(demo, tmp_path, filled_files):
    words = ["--image_file", PHOTOS, "--example", 2, "--max_tries", 2, "--min_id_similarity", 0.5, "--min_quality", 15]
    _, lines = run(image_generation_with_reference, demo, tmp_path / "reference", *words)
    assert len(lines) == 18
    assert all({"id_similarity", "quality", "passed"} <= line.keys() for line in lines)

    words = ["--center_feature", demo.vectors, "--start_end", "0:2", "--example", 2, "--max_iters", 2, "--pose", 10]
    words += ["--pose_weights", filled_files["sixdrepnet"], "--max_tries", 2, "--min_id_similarity", 0.99]
    _, lines = run(pose_image_generation, demo, tmp_path / "pose", *words)
    assert all(not line["passed"] and len(line["tries"]) == 2 for line in lines)
    assert all(line["attrop"]["iterations"] == 2 for line in lines)


def test_attrop_rows_that_come_back_are_worked_on(generator, encoder, vectors):
    """The last rows fail the gate when nothing else waits: they still get their second try."""
    attrop = AttrOP(generator, encoder, batch_size=2, max_iters=1)
    measures, gate = ImageMeasures(encoder), Gate({"id_similarity": 2.0}, 3)
    result = list(generate(generator, people(vectors, 3), Recipe(1, (0.5,)), 2, attrop, "image", measures, gate))
    assert len(result) == 3
    assert all(len(images[0].record.tries) == 3 and images[0].pixels is None for _, images in result)


def test_images_from_attrop_pass_or_are_drawn_again_as_well_when_they_are_measured_in_batches(
    generator, demo, vectors, monkeypatch
):
    """As on a GPU; with three at a time the last batch is not full, and brings images back when AttrOP had ended."""
    calls, encoder = [], load_face_encoder(demo.encoder)
    encoder.register_forward_hook(lambda module, inputs, output: calls.append(len(inputs[0])))

    def make(size):
        calls.clear()
        monkeypatch.setattr("utils.generation.pipeline.measured_rows", lambda batch_size, device: size)
        attrop = AttrOP(generator, encoder, batch_size=4, max_iters=1)
        options = {"attrop": attrop, "attrop_on": "image", "measures": ImageMeasures(encoder)}
        gate = Gate({"id_similarity": 0.55}, 3)
        found = generate(generator, people(vectors, 3), Recipe(2, (0.7,)), 4, **options, gate=gate)
        records = {identity.number: [image.record for image in images] for identity, images in found}
        return records, [count for count in calls if count != attrop.batch_size]

    alone, calls_alone = make(1)
    together, calls_together = make(3)
    assert set(calls_alone) == {1}
    assert set(calls_together) == {3}
    assert len(calls_together) < len(calls_alone)
    tries = [len(record.tries) for records in alone.values() for record in records]
    assert 0 < sum(tries) < 18, "some images were drawn again, not all in vain"
    for number, records in alone.items():
        for one, other in zip(records, together[number], strict=True):
            assert (one.passed, len(one.tries), one.index) == (other.passed, len(other.tries), other.index)
            assert one.measured == pytest.approx(other.measured, abs=1e-3)
