"""Several processes and machines at one dataset: killed at any step, living, dead, or lost for a while."""

import os
import shutil
import signal
import sys
import time
from functools import partial

import msgpack
import pytest
from foreign_locks import make_foreign
from processes import fork
from written_datasets import FORMATS, assert_same_dataset, identity, images, records, write

from models.errors import UserError
from scripts import convert_dataset
from utils.dataset import writer as dataset_writer
from utils.dataset.layout import about_folder, manifest_path, parts_folder
from utils.dataset.lmdb_store import LmdbStore
from utils.dataset.manifest import index_path, read_index
from utils.dataset.parts import LOCK, OWNER
from utils.dataset.writer import (
    DatasetWriter,
    compact_dataset,
    finish_dataset,
    identities_there,
    identities_to_keep,
    manifest_lines,
    prepare_dataset,
    unmerged_note,
)
from utils.runtime.locks import STALE_SECONDS

STEPS_BETWEEN_KILLS = 11


def extend(root, format, numbers, part="a", finish=True):
    """From three images an identity to five."""
    prepare_dataset(root, {"format": format, "seed": 0, "example": 5}, {})
    with DatasetWriter(root, format, part) as writer:
        for number in numbers:
            writer.write(identity(number), images(number, count=5, first=3))
    if finish:
        finish_dataset(root, format)


def begun(root, format, numbers, part="a", finish=True):
    prepare_dataset(root, {"format": format, "seed": 0, "example": 3}, {})
    with DatasetWriter(root, format, part) as writer:
        for number in numbers:
            writer.write(identity(number), images(number))
    if finish:
        finish_dataset(root, format)


def copy_dataset(root, target):
    for folder in (root, about_folder(root)):
        shutil.copytree(folder, target.parent / folder.name)
    return target


def killed_before_step(step, work):
    """Run ``work`` in a process that is killed before its ``step``-th call to the system or to LMDB; whether it was."""

    def counted():
        done = 0

        def count(frame, event, function):
            nonlocal done
            if event != "c_call":
                return
            owner = type(getattr(function, "__self__", None)).__module__
            if getattr(function, "__module__", None) in ("posix", "fcntl") or owner.startswith("lmdb"):
                done += 1
                if done > step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.setprofile(count)
        work()
        sys.setprofile(None)

    code = fork(counted)()
    assert code in (0, -signal.SIGKILL)
    return code != 0


def assert_readable(root, format):
    """By readers without the manifest: every record that an LMDB lists is there, and every image is complete."""
    if format == "lmdb":
        there = records(root)
        count, people = (msgpack.unpackb(there[key]) for key in (b"__len__", b"__classnum__"))
        keys = msgpack.unpackb(there[b"__keys__"])
        assert keys == [str(i).encode() for i in range(count)]
        assert {msgpack.unpackb(there[key])[1] for key in keys} == set(range(people))
    for path in root.glob("*/*.jpg"):
        assert path.read_bytes().endswith(b"\xff\xd9")


@FORMATS
@pytest.mark.parametrize("kind", ["append", "compact", pytest.param("extend", marks=pytest.mark.slow)])
def test_a_merge_that_is_killed_before_any_of_its_steps_loses_nothing(kind, format, tmp_path):
    """Every eleventh step, beginning with another one for each kind."""
    root = tmp_path / "begun" / "data"
    begun(root, format, [2, 3], "a")
    if kind == "extend":
        extend(root, format, [3, 2], "b", finish=False)
    else:
        begun(root, format, [1, 0], "b", finish=False)
    merge = (lambda root: compact_dataset(root)) if kind == "compact" else partial(finish_dataset, format=format)
    (tmp_path / "whole").mkdir()
    whole = copy_dataset(root, tmp_path / "whole" / "data")
    merge(whole)
    kills = 0
    for step in range(len(kind) % STEPS_BETWEEN_KILLS, 1000, STEPS_BETWEEN_KILLS):
        folder = tmp_path / str(step)
        folder.mkdir()
        there = copy_dataset(root, folder / "data")
        if not killed_before_step(step, lambda there=there: merge(there)):
            break
        kills += 1
        assert_readable(there, format)
        prepare_dataset(there, {"format": format, "seed": 0, "example": 5 if kind == "extend" else 3}, {})
        assert len(identities_there(there, format)) == (2 if kind == "extend" else 4)
        assert_readable(there, format)
        merge(there)
        assert_same_dataset(there, whole)
        shutil.rmtree(folder)
    assert kills > 3


@FORMATS
def test_a_writer_that_is_killed_before_any_of_its_steps_leaves_whole_identities(format, tmp_path):
    def fill(root, format):
        with DatasetWriter(root, format, "a", workers=1) as writer:
            for number in range(3):
                writer._commit(identity(number), images(number))  # in this thread, whose steps are counted
                writer.part.sync()

    prepare_dataset(tmp_path / "whole" / "data", {"format": format}, {})
    fill(tmp_path / "whole" / "data", format)
    finish_dataset(tmp_path / "whole" / "data", format)
    kills = 0
    for step in range(0, 1000, STEPS_BETWEEN_KILLS):
        root = tmp_path / str(step) / "data"
        prepare_dataset(root, {"format": format}, {})
        if not killed_before_step(step, partial(fill, root, format)):
            break
        kills += 1
        assert_readable(root, format) if format == "folder" else None
        there = identities_to_keep(root, format, [identity(n).name for n in range(3)], 3)
        assert set(there.values()) <= {3}
        with DatasetWriter(root, format, "a") as writer:
            for number in range(3):
                if identity(number).name not in there:
                    writer.write(identity(number), images(number))
        finish_dataset(root, format)
        assert_same_dataset(root, tmp_path / "whole" / "data")
        shutil.rmtree(root.parent)
    assert kills > 3


@FORMATS
def test_what_a_power_cut_left_half_written_is_made_again(format, tmp_path):
    """The images of an identity that the index does not name yet have lost their content."""
    root = tmp_path / "data"
    write(root, format, [0], "a", finish=False)

    def be_killed():
        writer = DatasetWriter(root, format, "a")
        for number in (1, 2):
            writer._commit(identity(number), images(number))
        os.kill(os.getpid(), signal.SIGKILL)

    assert fork(be_killed)() == -signal.SIGKILL
    assert set(identities_there(root, format)) == {"000000", "000001", "000002"}
    if format == "folder":
        os.truncate(root / "000002" / "001.jpg", 0)
        manifest = parts_folder(root) / "a" / "manifest.jsonl"
        manifest.write_bytes(manifest.read_bytes() + bytes(4096))
    write(root, format, [], "other")
    left = {"000000", "000001"} | ({"000002"} if format == "lmdb" else set())
    assert set(identities_there(root, format)) == left
    write(root, format, [2])
    write(tmp_path / "whole" / "data", format, range(3))
    compact_dataset(root)
    assert_same_dataset(root, tmp_path / "whole" / "data")


@FORMATS
def test_jobs_that_begin_and_end_at_the_same_time_make_one_dataset(format, tmp_path):
    root = tmp_path / "data"

    def job(number):
        def work():
            write(root, format, range(2 * number, 2 * number + 2), f"part{number}")

        return work

    assert [wait() for wait in [fork(job(number)) for number in range(4)]] == [0] * 4
    assert not parts_folder(root).exists()
    write(tmp_path / "whole" / "data", format, range(8))
    compact_dataset(root)
    assert_same_dataset(root, tmp_path / "whole" / "data")
    assert not list(about_folder(root).glob(LOCK + "*"))


@FORMATS
def test_the_part_of_a_job_on_another_machine_is_merged_only_once_that_is_silent(format, tmp_path, capsys):
    root = tmp_path / "data"
    write(root, format, [0, 1], "elsewhere", finish=False)
    owner = parts_folder(root) / "elsewhere" / OWNER
    DatasetWriter(root, format, "elsewhere").part.lock.released.set()  # it gives no sign any more
    make_foreign(owner, age=STALE_SECONDS / 2)
    write(root, format, [2], "here", finish=False)
    others = finish_dataset(root, format)
    assert {line["identity"] for line in manifest_lines(root)} == {2}
    assert "1 part is still being written (host node7, pid" in unmerged_note(root, others)
    assert set(identities_there(root, format)) == {"000000", "000001", "000002"}
    with pytest.raises(UserError, match=r"is writing the same slice \(host node7"):
        DatasetWriter(root, format, "elsewhere")
    with pytest.raises(UserError, match="let it end before --overwrite"):
        prepare_dataset(root, {"format": format, "seed": 0}, {}, overwrite=True)
    convert_dataset.main([str(root), "--compact"])
    assert "1 part is still being written" in capsys.readouterr().out
    os.utime(owner, (1, 1))
    convert_dataset.main([str(root), "--compact"])
    assert "9 images of 3 identities" in capsys.readouterr().out
    write(tmp_path / "whole" / "data", format, range(3))
    assert_same_dataset(root, tmp_path / "whole" / "data")


@FORMATS
@pytest.mark.parametrize("by", ["merge", "same slice"])
def test_a_job_whose_part_was_taken_over_stops_and_spoils_nothing(by, format, tmp_path):
    root = tmp_path / "data"
    prepare_dataset(root, {"format": format, "seed": 0}, {})

    def be_suspended():
        with DatasetWriter(root, format, "a") as suspended:
            suspended._commit(identity(0), images(0))
            (tmp_path / "begun").touch()
            while not (tmp_path / "taken").exists():
                time.sleep(0.001)
            for number in (2, None):
                with pytest.raises(UserError, match="did not respond for more than 3 minutes"):
                    suspended.part.sync() if number is None else suspended._commit(identity(number), images(number))
            raise UserError("as its caller would")

    wait = fork(be_suspended)
    while not (tmp_path / "begun").exists():
        time.sleep(0.001)
    make_foreign(parts_folder(root) / "a" / OWNER, age=2 * STALE_SECONDS)
    if by == "same slice":
        with DatasetWriter(root, format, "a") as other:
            (tmp_path / "taken").touch()
            assert wait() == 99
            other.write(identity(1), images(1))
    finish_dataset(root, format)
    if by == "merge":
        (tmp_path / "taken").touch()
        assert wait() == 99
    there = {0} if by == "merge" else {0, 1}
    assert {line["identity"] for line in manifest_lines(root)} == there
    write(root, format, sorted({0, 1, 2} - there))
    write(tmp_path / "whole" / "data", format, range(3))
    assert_same_dataset(root, tmp_path / "whole" / "data")


@FORMATS
def test_a_manifest_without_index_or_changed_by_hand_is_indexed_anew(format, tmp_path):
    root = tmp_path / "data"
    write(root, format, range(3))
    index = index_path(manifest_path(root)).read_bytes()
    for damage in (b"", index[:-5], b"\0" * 40 + b"\n", None):
        index_path(manifest_path(root)).write_bytes(damage) if damage else index_path(manifest_path(root)).unlink()
        assert len(identities_there(root, format)) == 3 or damage == index[:-5]
    prepare_dataset(root, {"format": format, "seed": 0}, {})
    assert index_path(manifest_path(root)).read_bytes() == index
    lines = manifest_path(root).read_bytes().splitlines(keepends=True)
    if format == "folder":
        manifest_path(root).write_bytes(b"".join(lines[:3] + lines[6:]))
        prepare_dataset(root, {"format": format, "seed": 0}, {})
        assert list(read_index(manifest_path(root))) == [(0, "000000"), (2, "000002")]
        manifest_path(root).write_bytes(b"".join([*lines[:3], b"{\n", *lines[6:]]))
        with pytest.raises(UserError, match=r"manifest.jsonl: damaged at byte"):
            prepare_dataset(root, {"format": format, "seed": 0}, {})
        assert manifest_path(root).read_bytes() == b"".join([*lines[:3], b"{\n", *lines[6:]])


def test_an_lmdb_with_fewer_images_than_the_manifest_names_is_refused(tmp_path):
    write(tmp_path / "data", "lmdb", range(2))
    lmdb = LmdbStore.path(tmp_path / "data")
    two = lmdb.read_bytes()
    write(tmp_path / "data", "lmdb", [2], "b")
    lmdb.write_bytes(two)
    with pytest.raises(UserError, match=r"has 6 images and .* names 9"):
        write(tmp_path / "data", "lmdb", [3], "c")
    assert lmdb.read_bytes() == two


@FORMATS
def test_what_is_written_is_named_in_the_index_while_a_run_goes_on(format, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_writer, "SYNC_SECONDS", 0.0)
    root = tmp_path / "data"
    prepare_dataset(root, {"format": format}, {})
    with DatasetWriter(root, format, "a") as writer:
        for number in range(3):
            writer._commit(identity(number), images(number))
        assert len(read_index(parts_folder(root) / "a" / "manifest.jsonl")) == 3
