"""Masks mean the photos that they were made for: in our own LMDBs, in published ones, and for other tools."""

import json
import shutil

import lmdb
import msgpack
import numpy as np
import pytest
from paths import PHOTOS
from training_lmdbs import content, prepare, write_lmdb

from models.errors import UserError
from scripts import small_portion_training_mask
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.data.masks import save_mask
from utils.data.training_data import TrainingData
from utils.data.training_lmdb import NAME, photo_names


@pytest.fixture(scope="module")
def damaged(demo, tmp_path_factory):
    """A training LMDB of tests/photos whose second photo cannot be read: FOLDER/faces.lmdb, FOLDER/photos."""
    folder = tmp_path_factory.mktemp("damaged")
    shutil.copytree(PHOTOS, folder / "photos")
    broken = folder / "photos" / "person1" / "1.jpg"
    broken.write_bytes(broken.read_bytes()[:900])
    prepare(demo, folder / "photos", folder)
    return folder


def make(*words):
    small_portion_training_mask.main([str(word) for word in words])


def make_error(capsys, *words):
    with pytest.raises(SystemExit):
        make(*words)
    return capsys.readouterr().err


def people_at(mask, folder):
    """The people of the records of a mask, by the names of their photos."""
    names = photo_names(folder / "faces.lmdb")
    return {names[position].split("/")[0] for position in np.load(mask)}


def test_the_published_form_is_the_choice_of_the_legacy_random_generator(tmp_path, capsys):
    make("-im", PHOTOS, "-d", tmp_path, "--identities", 2)
    np.random.seed(0)
    chosen = np.random.choice(["person1", "person3", "person4"], 2, replace=False)
    expected = [i for i, path in enumerate(sorted(PHOTOS.rglob("*.jpg"))) if path.parent.name in chosen]
    assert np.load(tmp_path / "2_ids_6_ims.npy").tolist() == expected
    assert "only if every photo is in it; --data" in capsys.readouterr().out
    with pytest.raises(UserError, match="only 3 identities"):
        small_portion_training_mask.choose(["a", "b", "c"], 4, 0)


def test_the_mask_of_everybody_else_says_so_in_its_name(tmp_path):
    make("--data", PHOTOS, "-d", tmp_path, "--identities", 2, "--rest")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1_ids_3_ims_rest.npy", "2_ids_6_ims.npy"]
    chosen, rest = (np.load(path) for path in (tmp_path / "2_ids_6_ims.npy", tmp_path / "1_ids_3_ims_rest.npy"))
    assert sorted([*chosen, *rest]) == list(range(9))
    labels = FaceSet(PHOTOS).labels
    assert not set(labels[chosen]) & set(labels[rest])


def test_a_photo_left_out_does_not_mix_people(damaged, tmp_path, capsys):
    """The masks of an LMDB count its records: 8 of 9 photos here."""
    make("--data", damaged / "faces.lmdb", "-d", tmp_path, "--identities", 2, "--rest")
    (chosen,), (rest,) = tmp_path.glob("*_ims.npy"), tmp_path.glob("*_rest.npy")
    assert len(people_at(chosen, damaged)) == 2
    assert len(people_at(rest, damaged)) == 1
    assert not people_at(chosen, damaged) & people_at(rest, damaged)
    assert sorted([*np.load(chosen), *np.load(rest)]) == list(range(8))
    for mask in (chosen, rest):
        TrainingData(damaged / "faces.lmdb", mask)


def test_a_mask_of_another_count_is_refused_with_both_counts(damaged, training_lmdb, tmp_path):
    make("-im", damaged / "photos", "-d", tmp_path, "--identities", 2)
    (mask,) = tmp_path.glob("*.npy")
    message = r"was made for 9 photos, .*faces.lmdb has 8.*--data"
    for reader in (TrainingData, FaceSet):
        with pytest.raises(UserError, match=message):
            reader(damaged / "faces.lmdb", mask)
    with pytest.raises(UserError, match=message):
        TrainingData(damaged / "faces.lmdb").with_mask(mask)
    assert len(TrainingData(training_lmdb, mask)) == 6  # it has nine records


def test_prepare_says_how_many_photos_were_left_out(demo, damaged, capsys):
    prepare(demo, damaged / "photos", damaged)
    out = capsys.readouterr().out
    assert "1 of 9 photos were left out" in out
    assert "small_portion_training_mask.py --data" in out


def test_the_same_people_from_the_lmdb_and_from_the_list(training_lmdb, tmp_path):
    make("--data", training_lmdb, "-d", tmp_path / "a", "--identities", 2, "--seed", 3)
    make("-im", PHOTOS, "-d", tmp_path / "b", "--identities", 2, "--seed", 3)
    one, other = ((tmp_path / folder / "2_ids_6_ims.npy").read_bytes() for folder in "ab")
    assert one == other


def test_another_mask_is_not_overwritten_and_the_same_may_be_made_again(tmp_path, capsys):
    words = ("--data", PHOTOS, "-d", tmp_path, "--identities", 2)
    make(*words)
    make(*words)
    before = np.load(tmp_path / "2_ids_6_ims.npy").tolist()
    seed = next(s for s in range(1, 20) if small_portion_training_mask.choose("aaabbbccc", 2, s).tolist() != before)
    assert "exists and is another mask" in make_error(capsys, *words, "--seed", seed)
    assert np.load(tmp_path / "2_ids_6_ims.npy").tolist() == before


@pytest.mark.parametrize("content", [b"", b"hello", b"\x93NUMPY\x01\x00"])
def test_files_that_are_no_mask_are_refused(training_lmdb, tmp_path, content):
    (tmp_path / "mask.npy").write_bytes(content)
    with pytest.raises(UserError, match=r"mask.npy: not a mask"):
        TrainingData(training_lmdb, tmp_path / "mask.npy")
    np.savez(tmp_path / "mask.npz", np.arange(3))
    with pytest.raises(UserError, match=r"mask.npz: not a mask"):
        TrainingData(training_lmdb, tmp_path / "mask.npz")


def read_as_published(path, mask):
    """(count, classes, records at the mask's positions), by FR-training code's own keys and nothing else."""
    env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False, meminit=False)
    with env, env.begin() as transaction:
        keys, count, classes = (
            msgpack.loads(transaction.get(key)) for key in (b"__keys__", b"__len__", b"__classnum__")
        )
        return count, classes, [msgpack.loads(transaction.get(keys[position])) for position in np.load(mask)]


def test_published_loaders_read_lmdb_and_masks(damaged, tmp_path):
    make("--data", damaged / "faces.lmdb", "-d", tmp_path, "--identities", 2)
    (mask,) = tmp_path.glob("*.npy")
    count, classes, records = read_as_published(damaged / "faces.lmdb", mask)
    assert (count, classes) == (8, 3)
    assert len({label for _, _, label in records}) == 2
    names = photo_names(damaged / "faces.lmdb")
    photos = [(damaged / "photos" / names[position]).read_bytes() for position in np.load(mask)]
    assert [image for image, _, _ in records] == photos
    assert np.load(mask, mmap_mode="r").tolist() == np.load(mask).tolist()


def test_good_photos_of_an_lmdb_are_found_by_their_names(damaged, tmp_path, capsys):
    names = [str(path.relative_to(PHOTOS)) for path in sorted(PHOTOS.rglob("*.jpg"))]
    lines = [{"file": name, "quality": number / 10} for number, name in enumerate(names)]
    (tmp_path / "labels.jsonl").write_text("".join(json.dumps(line) + "\n" for line in reversed(lines)))
    words = ("--data", damaged / "faces.lmdb", "-d", tmp_path, "--identities", 3, "--min_quality", "0.35")
    assert "give --labels" in make_error(capsys, *words)
    make(*words, "--labels", tmp_path / "labels.jsonl")
    (mask,) = tmp_path.glob("*.npy")
    found = [photo_names(damaged / "faces.lmdb")[position] for position in np.load(mask)]
    assert found == names[4:]


def test_an_lmdb_without_names_says_so(training_lmdb, tmp_path, capsys):
    records = {key: value for key, value in content(training_lmdb).items() if not key.startswith(NAME)}
    path = write_lmdb(tmp_path / "old.lmdb", records)
    make("--data", path, "-d", tmp_path, "--identities", 2)  # needs labels only
    (tmp_path / "labels.jsonl").write_text("")
    words = ("--identities", 2, "--min_quality", "0.5", "--labels", tmp_path / "labels.jsonl")
    assert "does not say which photo record 0 is" in make_error(capsys, "--data", path, "-d", tmp_path, *words)


def test_a_mask_without_a_count_keeps_working(damaged, tmp_path):
    np.save(tmp_path / "published.npy", np.array([7, 2]))
    assert len(TrainingData(damaged / "faces.lmdb", tmp_path / "published.npy")) == 2
    save_mask(tmp_path / "ours.npy", [7, 2], 8)
    assert len(TrainingData(damaged / "faces.lmdb", tmp_path / "ours.npy")) == 2


def test_a_mask_can_be_limited_to_photos_of_good_quality(rendered, tmp_path, capsys):
    words = ["-im", str(rendered), "-d", str(tmp_path), "--identities", "3", "--min_quality"]
    small_portion_training_mask.main([*words, "0.5", "--rest"])
    masks = [np.load(path) for path in tmp_path.glob("*.npy")]
    good = [i for i, label in enumerate(load_labels(FaceSet(rendered))) if label["quality"] >= 0.5]
    assert sorted(np.concatenate(masks)) == good
    with pytest.raises(SystemExit):
        small_portion_training_mask.main([*words, "2"])
    assert "no photo of" in capsys.readouterr().err
