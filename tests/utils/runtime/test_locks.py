"""Lock files between real processes, and locks held on other machines, of which only the file is visible."""

import json
import os
import signal
import time

import pytest
from foreign_locks import make_foreign
from processes import fork

from models.errors import UserError
from utils.runtime import locks
from utils.runtime.durable import atomic_write
from utils.runtime.locks import STALE_SECONDS, LockFile, LockHeld, locked, machine, read_holder


def left_by_a_dead_process(path):
    """The lock of a process that took it and was killed."""

    def take():
        LockFile(path).acquire()
        os.kill(os.getpid(), signal.SIGKILL)

    assert fork(take)() == -signal.SIGKILL
    assert path.exists()


def test_a_lock_is_held_until_it_is_released(tmp_path):
    with locked(tmp_path / "lock") as lock:
        with pytest.raises(LockHeld, match=f"pid {os.getpid()}"):
            LockFile(lock.path).acquire()
        lock.check()
    assert list(tmp_path.iterdir()) == []
    LockFile(lock.path).acquire()


def test_another_process_waits_for_the_lock(tmp_path):
    def add_one():
        for _ in range(10):
            with locked(tmp_path / "lock"):
                number = int((tmp_path / "count").read_text())
                time.sleep(0.002)
                (tmp_path / "count").write_text(str(number + 1))

    (tmp_path / "count").write_text("0")
    assert [wait() for wait in [fork(add_one) for _ in range(3)]] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "30"


def test_the_lock_of_a_killed_process_of_this_machine_is_free_at_once(tmp_path):
    left_by_a_dead_process(tmp_path / "lock")
    started = time.monotonic()
    with locked(tmp_path / "lock"):
        assert time.monotonic() - started < 5
        assert read_holder(tmp_path / "lock").pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_a_process_number_that_was_given_again_holds_nothing(tmp_path):
    lock = LockFile(tmp_path / "lock")
    lock.acquire()
    lock.path.write_text(json.dumps(lock.holder._replace(started="1")._asdict()))
    LockFile(tmp_path / "lock").acquire()


@pytest.mark.parametrize("text", [None, "", "{"])
def test_the_lock_of_another_machine_is_respected_while_it_is_touched(text, tmp_path):
    """Also one that says nothing yet, as its process is just making it."""
    path = tmp_path / "lock"
    LockFile(path).acquire()
    make_foreign(path, age=STALE_SECONDS / 2)
    if text is not None:
        path.write_text(text)
    with pytest.raises(LockHeld, match="host node7" if text is None else "host unknown"):
        LockFile(path).acquire()
    os.utime(path, (time.time() - 2 * STALE_SECONDS,) * 2)
    LockFile(path).acquire()
    assert read_holder(path).machine == machine()


def test_a_lock_that_went_stale_elsewhere_is_taken_by_exactly_one_of_those_who_race(tmp_path):
    """Also when a process was killed while taking it. All processes live until the last one has tried."""
    for number in range(6):
        folder = tmp_path / str(number)
        folder.mkdir()
        LockFile(folder / "lock").acquire()
        make_foreign(folder / "lock", age=2 * STALE_SECONDS)
        if number % 2:
            left_by_a_dead_process(folder / f"lock.{read_holder(folder / 'lock').token}")

        def take(folder=folder):
            (folder / f"ready-{os.getpid()}").touch()
            while len(list(folder.glob("ready-*"))) < 4:
                time.sleep(0)
            try:
                LockFile(folder / "lock").acquire()
                won = 1
            except LockHeld:
                won = 0
            (folder / f"tried-{os.getpid()}").touch()
            while len(list(folder.glob("tried-*"))) < 4:
                time.sleep(0.001)
            return won

        assert sorted(wait() for wait in [fork(take) for _ in range(4)]) == [0, 0, 0, 1]
        assert [path.name for path in folder.glob("lock*")] == ["lock"]


def test_a_holder_keeps_its_file_fresh_and_no_other_one(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "HEARTBEAT_SECONDS", 0.01)
    lock = LockFile(tmp_path / "lock")
    lock.acquire()
    os.utime(lock.path, (1, 1))
    deadline = time.monotonic() + 20
    while lock.path.stat().st_mtime < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    atomic_write(lock.path, lock.path.read_bytes())  # another file of the same name
    os.utime(lock.path, (1, 1))
    time.sleep(0.1)
    assert lock.path.stat().st_mtime == 1
    lock.release()


def test_a_process_that_was_suspended_while_another_took_over_gets_an_error_and_takes_nothing_back(tmp_path):
    suspended, other = LockFile(tmp_path / "lock"), LockFile(tmp_path / "lock")
    suspended.acquire()
    make_foreign(suspended.path, age=2 * STALE_SECONDS)
    other.acquire()
    with pytest.raises(UserError, match=rf"did not respond for more than 3 minutes.*taken over.*pid {os.getpid()}"):
        suspended.check()
    suspended.release()
    other.check()


def test_atomic_write_leaves_what_was_there_when_writing_fails(tmp_path):
    def write(file):
        file.write(b"half")
        raise OSError("no room")

    atomic_write(tmp_path / "x", "whole")
    with pytest.raises(OSError, match="no room"):
        atomic_write(tmp_path / "x", write)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("x", "whole")]
    atomic_write(tmp_path / "x", lambda file: file.write(b"new"))
    assert (tmp_path / "x").read_text() == "new"
