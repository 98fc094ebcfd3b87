"""Identity mixup from the command to the training set: mixtures, soft labels, and who refuses them."""

import json
import shutil

import fr_training
import msgpack
import numpy as np
import pytest
from commands import refused, run
from generation_runs import manifest
from paths import PHOTOS
from training_lmdbs import write_lmdb
from written_datasets import assert_same_dataset

import image_generation
import vec2face
from models.errors import UserError
from scripts import convert_dataset, inspect_dataset, measure_dataset, small_portion_training_mask, train_fr
from utils.data.face_set import FaceSet
from utils.data.mixup import Shares
from utils.dataset.layout import about_folder, settings_path
from utils.dataset.lmdb_store import LmdbStore, reading
from utils.dataset.writer import compact_dataset
from utils.generation.identity_mixup import IdentityMixup
from utils.generation.pipeline import image_jobs
from utils.generation.recipe import Identity, Recipe

PEOPLE = 4
MIXUP = ["--identity_mixup", "linspace:0.6:1:3"]


@pytest.fixture(scope="module")
def people(vectors, tmp_path_factory):
    """A file of four identity vectors."""
    path = tmp_path_factory.mktemp("people") / "people.npy"
    np.save(path, vectors[:PEOPLE])
    return path


def command(demo, people, folder, *words, example=3):
    flags = [*demo.models, "--center_feature", people, "--skip_attrop", "--no-measure", "--batch_size", 4]
    return [*flags, "--example", example, "--output_dir", folder, "--name", "test", *words]


@pytest.fixture(scope="module")
def mixed(demo, people, tmp_path_factory):
    """A dataset of mixtures, a folder per identity."""
    folder = tmp_path_factory.mktemp("mixed")
    run(image_generation.main, *command(demo, people, folder, *MIXUP))
    return folder / "test"


@pytest.fixture(scope="module")
def mixed_lmdb(demo, people, tmp_path_factory):
    """The same as an LMDB, made in two slices, the second one first, with further images later."""
    folder = tmp_path_factory.mktemp("lmdb")
    for slice_, example in (("2:4", 2), ("0:2", 2), ("0:4", 3)):
        words = ["--start_end", slice_, "--format", "lmdb", *MIXUP]
        run(image_generation.main, *command(demo, people, folder, *words, example=example))
    return folder / "test"


def labels_of(faces):
    return list(zip(faces.labels.tolist(), faces.soft.second.tolist(), faces.soft.phi.tolist(), strict=True))


def test_each_image_has_a_partner_and_a_share_of_its_own(mixed):
    lines = manifest(mixed)
    assert len(lines) == 3 * PEOPLE
    assert {line["mixture"]["phi"] for line in lines} == {0.6, 0.8, 1.0}
    assert all(line["mixture"]["identity"] != line["identity"] for line in lines)
    assert all(line["mixture"]["name"] == f"{line['mixture']['identity']:06d}" for line in lines)
    assert len({line["mixture"]["identity"] for line in lines if line["identity"] == 0}) > 1
    settings = json.loads(settings_path(mixed).read_text())["settings"]
    assert settings["identity_mixup"] == {"phi": "linspace:0.6:1.0:3", "identities": PEOPLE}


def test_soft_labels_are_the_same_in_folder_and_lmdb_whatever_the_slices(mixed, mixed_lmdb):
    folder, lmdb = FaceSet(mixed, mixtures="read"), FaceSet(mixed_lmdb, mixtures="read")
    images = [{faces.read(i): label for i, label in enumerate(labels_of(faces))} for faces in (folder, lmdb)]
    assert images[0] == images[1]
    assert len(images[0]) == 3 * PEOPLE
    assert folder.identities == lmdb.identities == [f"{number:06d}" for number in range(PEOPLE)]
    lmdb.close()
    lines = [line["mixture"] for line in manifest(mixed)]
    assert [label[1:] for label in labels_of(folder)] == [(line["identity"], line["phi"]) for line in lines]
    with reading(LmdbStore.path(mixed_lmdb)) as transaction:
        assert msgpack.unpackb(transaction.get(b"__classnum__")) == PEOPLE
        assert len(msgpack.unpackb(transaction.get(b"0"))) == 4


@pytest.mark.slow
def test_slices_make_the_dataset_of_a_single_run(demo, people, mixed, tmp_path):
    for slice_ in ("2:4", "0:2"):
        run(image_generation.main, *command(demo, people, tmp_path, *MIXUP, "--start_end", slice_))
    compact_dataset(tmp_path / "test")
    assert_same_dataset(tmp_path / "test", mixed)


def test_a_part_of_the_people_has_the_others_as_second_identities(mixed, tmp_path):
    np.save(tmp_path / "mask.npy", np.arange(3))
    part = FaceSet(mixed, tmp_path / "mask.npy", mixtures="read")
    assert set(part.labels) == {part.identities.index("000000")}
    names = [part.identities[label] for label in part.soft.second]
    assert names == [line["mixture"]["name"] for line in manifest(mixed)[:3]]
    assert FaceSet(mixed, tmp_path / "mask.npy", mixtures="first").identities == ["000000"]


def test_a_share_of_one_is_no_mixture_of_the_images(demo, people, mixed, tmp_path):
    run(image_generation.main, *command(demo, people, tmp_path))
    whole = [line for line in manifest(mixed) if line["mixture"]["phi"] == 1]
    assert whole
    same = [(mixed / line["file"]).read_bytes() == (tmp_path / "test" / line["file"]).read_bytes() for line in whole]
    others = [line for line in manifest(mixed) if line["mixture"]["phi"] < 1]
    assert all(same)
    for line in others:
        assert (mixed / line["file"]).read_bytes() != (tmp_path / "test" / line["file"]).read_bytes()


def test_a_mixture_is_the_weighted_sum_of_two_vectors_of_their_mean_norm(vectors):
    """Of the vector that AttrOP made; the image should show the mixture of those before it."""
    mixup = IdentityMixup(Shares.parse("0.75"), vectors, first=1000)
    recipe = Recipe(4, (0.0,), mixup=mixup)
    optimised = vectors[2] + 0.1
    (job, *others) = image_jobs([(Identity(1002, "001002", vectors[2]), optimised, None)], recipe)
    for start, mixture in ((optimised, job.vector), (vectors[2], job.wanted)):
        partner = vectors[job.mixture.number - 1000]
        total = 0.75 * start + 0.25 * partner
        norm = 0.75 * np.linalg.norm(start) + 0.25 * np.linalg.norm(partner)
        assert np.allclose(mixture, total * norm / np.linalg.norm(total), rtol=1e-4, atol=1e-5)
    assert len({other.mixture.number for other in (job, *others)}) > 1


def test_partners_are_all_others_equally_often_and_shares_those_of_the_flag():
    mixup = IdentityMixup(Shares.parse("linspace:0:1:5"), np.ones((5, 2), np.float32))
    drawn = [mixup.draw(0, 3, index) for index in range(2000)]
    counts = np.bincount([mixture.number for mixture in drawn], minlength=5)
    assert counts[3] == 0
    assert np.delete(counts, 3).min() > 430
    assert sorted({mixture.phi for mixture in drawn}) == [0, 0.25, 0.5, 0.75, 1]
    shares = Shares.parse("uniform:0.2:0.4")
    values = [shares.draw(np.random.default_rng(seed)) for seed in range(500)]
    assert 0.2 <= min(values) < 0.21 < 0.39 < max(values) <= 0.4


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["1.2"], "needs shares from 0 to 1"),
        (["uniform:-0.1:1"], "needs shares from 0 to 1"),
        (["uniform:0.8:0.6"], "the lower one first"),
        (["uniform:0.8"], "must be linspace:LOW:HIGH:COUNT, uniform:LOW:HIGH or a number"),
        (["linspace:0.6:1"], "must be linspace:LOW:HIGH:COUNT, uniform:LOW:HIGH or a number"),
        (["linspace:0.6:1:1"], "must be linspace:LOW:HIGH:COUNT, uniform:LOW:HIGH or a number"),
        (["linspace:a:1:5"], "must be linspace:LOW:HIGH:COUNT, uniform:LOW:HIGH or a number"),
        (["0.8", "--noise", "cone"], "--identity_mixup: does not go with --noise cone"),
        (["0.8", "--reserve", "PEOPLE"], "--identity_mixup: does not go with --reserve"),
    ],
)
def test_wrong_mixups_are_refused_before_anything_is_written(demo, people, words, message, tmp_path, capsys):
    np.save(tmp_path / "others.npy", np.load(demo.vectors)[10:12])
    words = [tmp_path / "others.npy" if word == "PEOPLE" else word for word in words]
    reserve = ["--min_quality", 1] if "--reserve" in words else []
    line = refused(
        image_generation.main, command(demo, people, tmp_path / "out", "--identity_mixup", *words, *reserve), capsys
    )
    assert message in line
    assert not (tmp_path / "out").exists()


def test_one_person_alone_cannot_be_mixed(demo, vectors, tmp_path, capsys):
    np.save(tmp_path / "one.npy", vectors[:1])
    line = refused(image_generation.main, command(demo, tmp_path / "one.npy", tmp_path / "out", *MIXUP), capsys)
    assert "there is only one identity vector" in line
    assert not (tmp_path / "out").exists()


def test_another_mixup_is_refused_by_name(demo, people, mixed, capsys):
    words = command(demo, people, mixed.parent, "--identity_mixup", 0.8)
    assert "identity_mixup is {'phi': 'linspace:0.6:1.0:3'" in refused(image_generation.main, words, capsys)


def test_who_needs_images_of_one_identity_refuses_mixtures(mixed, mixed_lmdb, tmp_path, capsys):
    for dataset in (mixed, mixed_lmdb):
        line = refused(convert_dataset.main, [dataset, tmp_path / "x"], capsys)
        assert "each image is a mixture of two identities (--identity_mixup)" in line
    words = ["--data", mixed, "-d", tmp_path, "--identities", 2]
    assert "mixture of two identities" in refused(small_portion_training_mask.main, words, capsys)
    lmdb = LmdbStore.path(mixed_lmdb)
    line = refused(vec2face.main, ["--train_source", lmdb, "--output_dir", tmp_path / "run"], capsys)
    assert "holds mixtures of two identities with soft labels, which only train_fr.py reads" in line
    with pytest.raises(SystemExit):
        run(inspect_dataset.main, lmdb, "--output", tmp_path / "sheet.jpg")
    assert "it has labels where the feature should be" in capsys.readouterr().out


def training(folder, data, *words):
    """Two epochs of two steps with both mixups as SynFace's code has them."""
    flags = fr_training.flags(folder, "--data", data, "--batch_size", 6, "--real_data", PHOTOS, "--real_people", 2)
    flags += ["--real_images", 2, "--domain_mixup", "linspace:0:1:21", "--domain_mixup_per", "batch"]
    fr_training.train(*flags, "--mixup_loss", "logits", *words)


def test_both_mixups_train_together(mixed_lmdb, tmp_path):
    training(tmp_path, mixed_lmdb, "--max_steps", 1)
    assert len(fr_training.weights(tmp_path)["head"]["directions"]) == PEOPLE + 2


@pytest.mark.slow
def test_a_training_with_both_mixups_resumes_to_the_same_weights(mixed, tmp_path):
    training(tmp_path / "whole", mixed)
    training(tmp_path / "parts", mixed, "--max_steps", 2)
    training(tmp_path / "parts", mixed, "--resume", tmp_path / "parts")
    whole = fr_training.weights(tmp_path / "whole")
    assert whole["step"] == 4
    fr_training.assert_same(whole, fr_training.weights(tmp_path / "parts"))


def test_photos_that_are_mixed_in_must_be_of_one_person_each(mixed, tmp_path, capsys):
    for flags in (["--real_data", mixed], ["--mixed_data", mixed, "--mixed_labels", "x.npy"]):
        line = refused(train_fr.main, fr_training.flags(tmp_path / "other", *flags), capsys)
        assert "each image is a mixture of two identities" in line


@pytest.mark.slow
def test_a_report_on_mixtures_counts_each_for_its_first_identity(demo, mixed, tmp_path, capsys):
    words = ["--id_weights", demo.encoder, "--device", "cpu", "--output", tmp_path / "report"]
    run(measure_dataset.main, mixed, *words)
    assert "here each counts for the first of them" in capsys.readouterr().out
    overview = json.loads((tmp_path / "report" / "report.json").read_text())["overview"]
    assert (overview["people"], overview["images"]) == (PEOPLE, 3 * PEOPLE)


def test_a_folder_without_the_names_of_its_mixtures_is_refused(mixed, tmp_path):
    shutil.copytree(mixed, tmp_path / "test")
    shutil.copytree(about_folder(mixed), tmp_path / "test.about")
    (tmp_path / "test" / "000000" / "extra.jpg").write_bytes((PHOTOS / "person1" / "0.jpg").read_bytes())
    with pytest.raises(UserError, match=r"nothing says which 000000/extra\.jpg mixes"):
        FaceSet(tmp_path / "test", mixtures="read")
    (tmp_path / "test.about" / "manifest.jsonl").unlink()
    with pytest.raises(UserError, match="missing or damaged, and nothing else says"):
        FaceSet(tmp_path / "test", mixtures="read")


def test_an_lmdb_of_mixtures_with_damaged_labels_is_refused(tmp_path):
    image = (PHOTOS / "person1" / "0.jpg").read_bytes()
    for number, label in enumerate([(0, 1, 1.5), (0, -1, 0.5), (0, 1)]):
        records = {b"0": msgpack.packb((image, 0, 1, 0.5)), b"1": msgpack.packb((image, *label))}
        ends = {b"__len__": msgpack.packb(2), b"__classnum__": msgpack.packb(2)}
        path = write_lmdb(tmp_path / f"{number}.lmdb", records | ends)
        with pytest.raises(UserError, match="record 1 is missing, or no face record"):
            FaceSet(path, mixtures="read")
