"""Folders and LMDBs of people, good and bad."""

import shutil

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paths import PHOTOS
from training_lmdbs import write_lmdb

from models.errors import UserError
from utils.data.face_records import label_of
from utils.data.face_set import FaceSet


def fr_lmdb(path, labels, classes=None, image=None):
    image = image or (PHOTOS / "person1" / "0.jpg").read_bytes()
    records = {str(i).encode(): msgpack.packb((image, label)) for i, label in enumerate(labels)}
    count = max(labels) + 1 if classes is None else classes
    return write_lmdb(path, records | {b"__len__": msgpack.packb(len(labels)), b"__classnum__": msgpack.packb(count)})


def test_folder_and_lmdb_are_the_same_set(tmp_path):
    folder = FaceSet(PHOTOS)
    records = {str(i).encode(): msgpack.packb((folder.read(i), int(folder.labels[i]))) for i in range(len(folder))}
    path = write_lmdb(tmp_path / "x.lmdb", records | {b"__len__": msgpack.packb(9), b"__classnum__": msgpack.packb(3)})
    for source in (path, tmp_path):  # a generated dataset has its LMDB inside
        faces = FaceSet(source)
        assert np.array_equal(faces.labels, folder.labels)
        assert all(faces.read(i) == folder.read(i) for i in range(9))
        faces.close()


@given(st.binary(max_size=70_000), st.integers(0, 2**31), st.booleans())
def test_labels_are_read_without_the_image(image, label, with_feature):
    record = (image, b"feature", label) if with_feature else (image, label)
    assert label_of(memoryview(msgpack.packb(record))) == label


def test_a_mask_leaves_people_out(tmp_path):
    np.save(tmp_path / "mask.npy", np.array([0, 1, 7, 8]))
    faces = FaceSet(PHOTOS, tmp_path / "mask.npy")
    assert faces.labels.tolist() == [0, 0, 1, 1]
    assert faces.identities == ["person1", "person4"]


def files(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text("")
    return folder


def copy(target):
    shutil.copytree(PHOTOS, target)
    return target


def test_a_generated_dataset_is_read_with_its_records_inside_or_beside(tmp_path):
    old = files(copy(tmp_path / "old" / "x"), "manifest.jsonl", "settings.json", "contact_sheet.jpg")
    new = copy(tmp_path / "new" / "x")
    files(tmp_path / "new" / "x.about", "manifest.jsonl", "settings.json", "contact_sheet.jpg")
    for dataset in (old, new):
        faces = FaceSet(dataset)
        assert faces.identities == ["person1", "person3", "person4"]
        assert len(faces) == 9


def test_a_folder_of_datasets_is_refused_by_their_names(tmp_path):
    generated = tmp_path / "generated"
    copy(generated / "new")
    files(generated / "new.about", "settings.json", "contact_sheet.jpg")
    files(generated / "new.report", "report.html", "contact_sheet.jpg")
    with pytest.raises(UserError, match=r"generated: holds datasets, name one of them: new\."):
        FaceSet(generated)
    files(generated / "old" / "000000", "000.jpg")
    files(generated / "old", "settings.json", "contact_sheet.jpg")
    files(generated / "begun", "manifest.jsonl", "contact_sheet.jpg")
    files(generated / "of_lmdb", "of_lmdb.lmdb", "contact_sheet.jpg")
    files(generated / "lmdb_folder", "data.mdb")
    files(generated / "somebody", "0.jpg")
    names = "begun, lmdb_folder, new, of_lmdb, old"
    with pytest.raises(UserError, match=f"generated: holds datasets, name one of them: {names}"):
        FaceSet(generated)


def test_several_lmdbs_and_a_dataset_beside_an_lmdb_are_refused(tmp_path):
    fr_lmdb(tmp_path / "a.lmdb", [0, 1])
    assert len(FaceSet(tmp_path)) == 2
    fr_lmdb(tmp_path / "b.lmdb", [0, 1])
    with pytest.raises(UserError, match=r"holds datasets, name one of them: a\.lmdb, b\.lmdb"):
        FaceSet(tmp_path)
    (tmp_path / "b.lmdb").unlink()
    copy(tmp_path / "photos")
    with pytest.raises(UserError, match=r"holds datasets, name one of them: a\.lmdb, photos"):
        FaceSet(tmp_path)


def test_files_beside_a_dataset_are_no_identities(tmp_path):
    dataset = copy(tmp_path / "x")
    for folder in ("old.about", "old.report", ".parts"):
        files(dataset / folder, "picture.jpg")
    files(dataset / "only_a_sheet", "contact_sheet.jpg")
    assert FaceSet(dataset).identities == ["person1", "person3", "person4"]


def test_bad_face_sets_are_refused(tmp_path):
    np.save(tmp_path / "far.npy", np.array([0, 99]))
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.lmdb").write_text("nothing")
    for path, mask, message in (
        (fr_lmdb(tmp_path / "gap.lmdb", [0, 2]), None, "no image of identity 1"),
        (fr_lmdb(tmp_path / "from1.lmdb", [1, 2]), None, "no image of identity 0"),
        (fr_lmdb(tmp_path / "none.lmdb", [0, 1], classes=3), None, "no image of identity 2"),
        (fr_lmdb(tmp_path / "more.lmdb", [0, 1, 2], classes=2), None, "labels must be 0 to C-1"),
        (PHOTOS, tmp_path / "far.npy", "positions 0 to 99"),
        (tmp_path / "empty", None, "no photos"),
        (tmp_path / "nowhere", None, "no such folder"),
        (tmp_path / "text.lmdb", None, "not an LMDB"),
    ):
        with pytest.raises(UserError, match=message):
            FaceSet(path, mask)
