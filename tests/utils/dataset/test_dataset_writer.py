"""The dataset writer: layouts of folders and LMDBs, slices, merging, and what kills and full disks leave."""

import json
import resource

import msgpack
import numpy as np
import pytest
from paths import files_of
from written_datasets import FORMATS, assert_same_dataset, dataset_files, identity, images, records, write

from models.errors import UserError
from utils.data.images import decode_image
from utils.data.lmdb_files import GrowingLmdb
from utils.dataset.layout import MANIFEST, manifest_path, parts_folder, settings_path
from utils.dataset.lmdb_store import LmdbStore, reading
from utils.dataset.manifest import part_blocks
from utils.dataset.merge import next_manifest
from utils.dataset.parts import Part
from utils.dataset.writer import (
    DatasetWriter,
    compact_dataset,
    finish_dataset,
    identities_there,
    manifest_lines,
    prepare_dataset,
    read_records,
)

SLICES = ([4, 5], [2, 0], [1, 3])


@FORMATS
def test_slices_in_any_order_are_the_dataset_of_a_single_run_once_compacted(format, tmp_path):
    one, two = tmp_path / "one" / "data", tmp_path / "two" / "data"
    write(one, format, range(6))
    for part, numbers in enumerate(SLICES):
        write(two, format, numbers, str(part))
    assert [line["identity"] for line in manifest_lines(two)][::3] == [4, 5, 0, 2, 1, 3]
    assert [record.identity for record in read_records(two)][::3] == list(range(6))
    assert compact_dataset(two) == []
    assert_same_dataset(one, two)
    compact_dataset(one)
    assert_same_dataset(one, two)


@FORMATS
def test_slices_in_order_are_the_dataset_of_a_single_run(format, tmp_path):
    one, two = tmp_path / "one" / "data", tmp_path / "two" / "data"
    write(one, format, range(6))
    for part in range(3):
        write(two, format, [2 * part + 1, 2 * part], str(part))
    assert_same_dataset(one, two)


@FORMATS
def test_a_merge_leaves_what_was_merged_before_as_it_is(format, tmp_path):
    """Appending, it neither moves nor rewrites the lines and records that are there."""
    root = tmp_path / "data"
    write(root, format, [3, 4])
    inode, before = manifest_path(root).stat().st_ino, manifest_path(root).read_bytes()
    earlier = records(root) if format == "lmdb" else {}
    write(root, format, [1], part="b")
    assert manifest_path(root).stat().st_ino == inode
    assert manifest_path(root).read_bytes().startswith(before)
    if format == "lmdb":
        there = records(root)
        assert all(there[str(i).encode()] == earlier[str(i).encode()] for i in range(6))
        assert msgpack.unpackb(there[b"__keys__"]) == [str(i).encode() for i in range(9)]
        assert [msgpack.unpackb(there[str(i).encode()])[1] for i in range(9)] == [0] * 3 + [1] * 3 + [2] * 3
        assert (msgpack.unpackb(there[b"__len__"]), msgpack.unpackb(there[b"__classnum__"])) == (9, 3)


def test_an_lmdb_has_the_layout_of_fr_training(tmp_path):
    write(tmp_path / "data", "lmdb", [7, 3])
    content = records(tmp_path / "data")
    assert msgpack.unpackb(content[b"__len__"]) == 6
    assert msgpack.unpackb(content[b"__classnum__"]) == 2
    keys = msgpack.unpackb(content[b"__keys__"])
    assert keys == [b"0", b"1", b"2", b"3", b"4", b"5"]
    labels = [msgpack.unpackb(content[key])[1] for key in keys]
    assert labels == [0, 0, 0, 1, 1, 1]  # running numbers, in order of identity
    pixels = decode_image(msgpack.unpackb(content[b"3"])[0]).astype(int)
    assert np.abs(pixels - images(7)[0].pixels).max() < 4
    lines = list(manifest_lines(tmp_path / "data"))
    assert [(line["key"], line["identity"]) for line in lines] == [(str(i), 3 if i < 3 else 7) for i in range(6)]


def test_a_folder_holds_its_images_and_the_folder_beside_it_the_records(tmp_path):
    write(tmp_path / "data", "folder", [12])
    pictures = [f"000012/00{i}.jpg" for i in range(3)]
    assert sorted(files_of(tmp_path / "data")) == pictures
    assert sorted(files_of(tmp_path / "data.about")) == [
        "contact_sheet.jpg",
        "manifest.jsonl",
        "manifest.jsonl.index",
        "settings.json",
    ]
    assert [line["file"] for line in manifest_lines(tmp_path / "data")] == pictures


@FORMATS
def test_unmerged_parts_count_as_finished(format, tmp_path):
    root = tmp_path / "data"
    write(root, format, [0, 2], finish=False)
    assert set(identities_there(root, format)) == {"000000", "000002"}
    write(root, format, [1], part="b")
    assert [line["identity"] for line in manifest_lines(root)] == [0] * 3 + [1] * 3 + [2] * 3
    assert not parts_folder(root).exists()


@FORMATS
def test_lines_without_images_do_not_count(format, tmp_path):
    """Killed between the two steps of a commit, and within a line."""
    root = tmp_path / "data"
    write(root, format, [0], finish=False)
    manifest = parts_folder(root) / "a" / MANIFEST
    line = json.loads(manifest.read_text().splitlines()[0]) | {"identity": 1, "name": "000001"}
    manifest.write_text(manifest.read_text() + json.dumps(line) + "\n" + '{"identity": 2, "na')
    assert set(identities_there(root, format)) == {"000000"}
    write(root, format, [1, 2])
    write(tmp_path / "whole" / "data", format, range(3))
    ours, whole = dataset_files(root), dataset_files(tmp_path / "whole" / "data")
    assert ours.keys() == whole.keys()
    assert ours[f"about/{MANIFEST}"] == whole[f"about/{MANIFEST}"]


def test_half_written_folder_is_written_anew(tmp_path):
    root = tmp_path / "data"
    prepare_dataset(root, {"format": "folder", "seed": 0}, {})
    (root / "000000").mkdir()
    (root / "000000" / "000.jpg").write_bytes(b"half")
    assert set(identities_there(root, "folder")) == set()
    write(root, "folder", [0])
    assert len(list((root / "000000").iterdir())) == 3


@pytest.mark.parametrize("renamed", [False, True])
def test_a_kill_while_an_lmdb_is_merged_loses_nothing(renamed, tmp_path):
    """Before or after the new LMDB got its name: the next run ends in the same dataset."""
    root = tmp_path / "data"
    write(root, "lmdb", [0, 1])
    write(root, "lmdb", [2], part="b", finish=False)
    next_file = LmdbStore.next_images(root)
    lmdb, part = LmdbStore.path(root), parts_folder(root) / "b"
    lmdb_before, manifest_before, part_before = lmdb.read_bytes(), manifest_path(root).read_bytes(), files_of(part)
    finish_dataset(root, "lmdb")
    after, after_records = dataset_files(root), records(root)

    # Rebuild what a kill would have left: the next files, not yet or half put in place.
    next_manifest(root).write_bytes(manifest_path(root).read_bytes())
    if not renamed:
        next_file.write_bytes(lmdb.read_bytes())
        lmdb.write_bytes(lmdb_before)
    manifest_path(root).write_bytes(manifest_before)
    part.mkdir(parents=True)
    for name, data in part_before.items():
        (part / name).write_bytes(data)

    write(root, "lmdb", [])
    assert records(root) == after_records
    assert dataset_files(root).keys() == after.keys()
    assert dataset_files(root)[f"about/{MANIFEST}"] == after[f"about/{MANIFEST}"]


@FORMATS
def test_other_settings_are_refused_by_name(format, tmp_path):
    root = tmp_path / "data"
    write(root, format, [0])
    before = dataset_files(root)
    with pytest.raises(UserError, match=r"seed is 0 there and 1 now"):
        write(root, format, [1], seed=1)
    assert dataset_files(root) == before
    write(root, format, [1], seed=1, overwrite=True)
    assert [line["identity"] for line in manifest_lines(root)] == [1, 1, 1]
    assert not list(tmp_path.glob(".*"))


def test_foreign_folders_are_left_alone(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="not a dataset to add to"):
            prepare_dataset(tmp_path / "data", {"format": "folder"}, {}, overwrite=overwrite)
    assert (tmp_path / "data" / "thesis.tex").read_text() == "years of work"


def test_damaged_settings_are_refused(tmp_path):
    write(tmp_path / "data", "folder", [0])
    settings_path(tmp_path / "data").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        prepare_dataset(tmp_path / "data", {"format": "folder"}, {})


def test_one_slice_has_one_writer(tmp_path):
    root = tmp_path / "data"
    prepare_dataset(root, {"format": "folder"}, {})
    with DatasetWriter(root, "folder", "a"):
        with pytest.raises(UserError, match="another process is writing the same slice"):
            DatasetWriter(root, "folder", "a")
        with DatasetWriter(root, "folder", "b") as writer:
            writer.write(identity(0), images(0))
        finish_dataset(root, "folder")
        assert (parts_folder(root) / "a").exists()  # a living process keeps its part
    assert set(identities_there(root, "folder")) == {"000000"}


def test_a_torn_line_does_not_spoil_the_next(tmp_path):
    """No room for the second identity's lines: they vanish whole, and the third fits again."""
    write(tmp_path / "data", "folder", [0], finish=False)
    part = Part(tmp_path / "data", "a", lambda key, block, tail: True)
    size = (part.folder / MANIFEST).stat().st_size
    previous = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, previous[1]))
    try:
        with pytest.raises(OSError, match="large"):
            part.append((1, "000001"), [{"identity": 1, "name": "000001", "index": 0}])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, previous)
    assert (part.folder / MANIFEST).stat().st_size == size
    part.append((2, "000002"), [{"identity": 2, "name": "000002", "index": 0}])
    part.close()
    assert [key[0] for key, _, _ in part_blocks(part.folder / MANIFEST)] == [0, 2]


def test_an_lmdb_grows_beyond_its_first_size(tmp_path):
    lmdb = GrowingLmdb(tmp_path / "x.lmdb")
    size = lmdb.env.info()["map_size"]
    value = bytes(1 << 20)
    for i in range(70):
        lmdb.put([(str(i).encode(), value)])
    assert lmdb.env.info()["map_size"] > size
    lmdb.close()
    with reading(tmp_path / "x.lmdb") as transaction:
        assert transaction.stat()["entries"] == 70


def test_an_error_of_the_writing_thread_reaches_the_caller(tmp_path):
    root = tmp_path / "data"
    prepare_dataset(root, {"format": "folder"}, {})

    def write_where_a_file_is_in_the_way():
        with DatasetWriter(root, "folder", "a") as writer:
            writer.store.unfinished.write_text("a file where a folder is needed")
            for number in range(30):
                writer.write(identity(number), images(number, count=1))

    with pytest.raises(UserError, match="cannot write"):
        write_where_a_file_is_in_the_way()
