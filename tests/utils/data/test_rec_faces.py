"""MXNet's .rec files: what is written is what its documentation says, and what is damaged is refused."""

import shutil
import signal
import struct
from itertools import pairwise

import numpy as np
import pytest
from commands import refused, run
from paths import PHOTOS
from processes import Script
from training_lmdbs import content, prepare

from models.errors import UserError
from scripts import convert_dataset, train_fr
from utils.data.face_set import FaceSet
from utils.data.rec_faces import write_rec
from utils.data.record_io import MAGIC_BYTES, RecordReader, RecordWriter


@pytest.fixture(scope="module")
def rec(tmp_path_factory):
    """The nine photos as a folder with a .rec."""
    folder = tmp_path_factory.mktemp("rec") / "photos"
    run(convert_dataset.main, PHOTOS, folder, "--to", "rec")
    return folder


@pytest.fixture
def copy(rec, tmp_path):
    return shutil.copytree(rec, tmp_path / "copy")


def records_of(path):
    """{key: (flag, label, labels, image)}, read by the description of the format and the .idx alone."""
    data, records = path.read_bytes(), {}
    for line in path.with_suffix(".idx").read_text().splitlines():
        key, place = map(int, line.split("\t"))
        magic, length = struct.unpack_from("<II", data, place)
        assert magic == 0xCED7230A
        assert length >> 29 == 0
        content = data[place + 8 : place + 8 + length]
        flag, label, number, _ = struct.unpack_from("<IfQQ", content)
        assert number == key
        records[key] = flag, label, struct.unpack_from(f"<{flag}f", content, 24), content[24 + 4 * flag :]
    return records


def test_the_files_are_those_that_insightface_reads(rec):
    records = records_of(rec / "train.rec")
    assert sorted(records) == list(range(13))  # the first one, nine photos, three identities
    assert records[0] == (2, 0, (10, 13), b"")
    assert [records[key][:2] for key in range(1, 10)] == [(0, label) for label in (0, 0, 0, 1, 1, 1, 2, 2, 2)]
    assert [records[key] for key in range(10, 13)] == [(2, 0, r, b"") for r in ((1, 4), (4, 7), (7, 10))]
    assert [records[key][3] for key in range(1, 10)] == [p.read_bytes() for p in sorted(PHOTOS.rglob("*.jpg"))]
    assert (rec / "property").read_text() == "3,112,112\n"
    assert (rec / "train.lst").read_text().splitlines()[3] == "4\t1\tperson3/4"


def test_photos_and_labels_survive_the_way_there_and_back_byte_for_byte(rec, tmp_path):
    run(convert_dataset.main, rec, tmp_path / "a.lmdb")
    run(convert_dataset.main, tmp_path / "a.lmdb", tmp_path / "again", "--to", "rec")
    for name in ("train.rec", "train.idx", "property"):
        assert (rec / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    faces, photos = FaceSet(rec / "train.rec"), FaceSet(PHOTOS)
    assert np.array_equal(faces.labels, photos.labels)
    assert [faces.read(i) for i in range(9)] == [photos.read(i) for i in range(9)]


def test_files_of_im2rec_are_read_with_and_without_an_index(tmp_path):
    """Every record is an image there; labels may be lists, and a content with the magic number is cut."""
    images = [b"one", MAGIC_BYTES, b"12345678" + 2 * MAGIC_BYTES + b"x", b"", b"1" + MAGIC_BYTES + b"23"]
    path = tmp_path / "im2rec.rec"
    with RecordWriter(path) as records:
        for key, image in enumerate(images):
            flag, labels = (0, b"") if key % 2 else (2, struct.pack("<2f", key, 7))
            records.write(key, struct.pack("<IfQQ", flag, key, key, 0) + labels + image)
    assert path.stat().st_size % 4 == 0
    for _ in range(2):
        faces = FaceSet(path)
        assert faces.labels.tolist() == [0, 1, 2, 3, 4]
        assert [faces.read(i) for i in range(5)] == images
        path.with_suffix(".idx").unlink(missing_ok=True)
    kinds = [word >> 29 for magic, word in pairs_of_words(path) if magic == 0xCED7230A]
    assert sorted(kinds) == [0, 0, 0, 1, 1, 2, 3, 3]


def pairs_of_words(path):
    words = np.frombuffer(path.read_bytes(), "<u4").tolist()
    return pairwise(words)


def test_a_recogniser_trains_on_a_rec(rec, tmp_path):
    from fr_training import flags, weights

    run(train_fr.main, *flags(tmp_path, "--data", rec, "--max_steps", 1, "--workers", 2))
    assert weights(tmp_path)["head"]["directions"].shape[0] == 3


def test_a_training_lmdb_is_made_of_a_rec_as_of_the_photos(rec, training_lmdb, demo, tmp_path):
    prepare(demo, rec, tmp_path)
    names = lambda path: {k: v for k, v in content(path).items() if k.isdigit()}  # noqa: E731
    assert names(tmp_path / "faces.lmdb") == names(training_lmdb)


def test_a_killed_conversion_leaves_no_target_and_can_be_repeated(rec, tmp_path):
    words = [rec] * 200 + [tmp_path / "x", "--to", "rec"]
    process = Script("scripts/convert_dataset.py", *words)
    process.wait_until((tmp_path / "x.unfinished" / "train.rec").exists)
    process.signal(signal.SIGKILL)
    assert process.wait().returncode == -signal.SIGKILL
    assert not (tmp_path / "x").exists()
    run(convert_dataset.main, rec, tmp_path / "x", "--to", "rec")
    assert not (tmp_path / "x.unfinished").exists()
    assert (tmp_path / "x" / "train.rec").read_bytes() == (rec / "train.rec").read_bytes()


def cut(folder):
    path = folder / "train.rec"
    path.write_bytes(path.read_bytes()[:-20])


def cut_without_index(folder):
    cut(folder)
    (folder / "train.idx").unlink()


def replace(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def shift_places(folder):
    lines = [line.split() for line in (folder / "train.idx").read_text().splitlines()]
    (folder / "train.idx").write_text("".join(f"{key}\t{int(place) + 4}\n" for key, place in lines))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "train.rec: truncated, it has"),
        (cut_without_index, "train.rec: truncated, it has"),
        (replace("train.rec", b""), "train.rec: empty. Copy or make it again"),
        (replace("train.rec", b"\x0a\x23"), "which has 2 bytes: it is truncated"),
        (replace("train.idx", b"0\t0\n1\t99999996\n"), "train.idx: record 1 is said to be at byte 99999996"),
        (replace("train.idx", b""), "train.idx: empty"),
        (replace("train.idx", b"0\t0\n1"), "train.idx: not an index of MXNet"),
        (replace("train.idx", b"a\tb\n"), "train.idx: not an index of MXNet"),
        (shift_places, "no record at byte 4, where train.idx has record 0"),
    ],
)
def test_a_damaged_rec_is_one_clear_line(copy, damage, message, capsys):
    damage(copy)
    line = refused(convert_dataset.main, [copy, copy.with_name("x")], capsys)
    assert message in line
    assert not copy.with_name("x").exists()


def test_labels_that_are_no_whole_numbers_and_files_beside_a_rec_are_refused(tmp_path, rec):
    with RecordWriter(tmp_path / "x.rec") as records:
        records.write(0, struct.pack("<IfQQ", 0, 1.5, 0, 0) + b"image")
    with pytest.raises(UserError, match=r"record 0 has the label 1.5, no whole number"):
        FaceSet(tmp_path / "x.rec")
    with pytest.raises(UserError, match=r"the index of a dataset; name train.rec"):
        FaceSet(rec / "train.idx")
    with pytest.raises(UserError, match=r"no such folder or LMDB"):
        FaceSet(tmp_path / "missing.rec")


def test_an_identity_without_photos_and_a_damaged_part_are_told(tmp_path):
    write_rec(tmp_path / "rec", [(0, "a", b"1"), (2, "c", b"3")], 3)
    with pytest.raises(UserError, match="no image of identity 1"):
        FaceSet(tmp_path / "rec")
    with RecordWriter(tmp_path / "x.rec") as records:
        records.write(0, bytes(24) + MAGIC_BYTES)
    (tmp_path / "x.rec").write_bytes((tmp_path / "x.rec").read_bytes()[:-8])
    with pytest.raises(ValueError, match="truncated within a record"):
        RecordReader(tmp_path / "x.rec").read(0)
