"""Locks that hold across the machines of a cluster: a file that exists while the lock is held.

``flock`` does not do on shared file systems: depending on the mount NFS keeps it local to a machine, and some systems
refuse it. Creating a file that must not exist yet (O_EXCL) is atomic on all of them. The file tells who holds the lock,
and a thread of the holder keeps its modification time fresh. The holder is gone

- on this machine, when its process has ended (noticed at once);
- on another one, or in another container, when the file was not touched for STALE_SECONDS. Both times are of the file
  system's own clock, as the clocks of two machines differ.

A holder that was suspended for longer may find that another process took the lock over: ``check`` tells, and is to be
called before whatever must not be done twice.
"""

import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from models.errors import UserError

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 180.0  # NFS may show attributes that are a minute old
NOTICE_SECONDS = 10.0  # of waiting, until the user is told for whom


class Holder(NamedTuple):
    """Who holds a lock. ``machine`` and ``started`` tell whether ``pid`` still means the same process."""

    token: str
    host: str = "unknown"
    machine: str = ""
    pid: int = 0
    started: str = ""

    def __str__(self):
        return f"host {self.host}, pid {self.pid}"


class LockHeld(Exception):
    """A living process holds the lock: ``holder``."""

    def __init__(self, holder: Holder):
        super().__init__(str(holder))
        self.holder = holder


class LockFile:
    """A lock on a path whose folder exists. ``acquire`` it once; any thread may ``check`` it."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.holder = Holder(uuid.uuid4().hex, socket.gethostname(), machine(), os.getpid(), start_of(os.getpid()))
        self.descriptor = None
        self.released = threading.Event()

    def acquire(self) -> None:
        """Take the lock, from a holder that is gone if need be. Raises LockHeld, or OSError when that is impossible."""
        while not self._create():
            holder = read_holder(self.path)
            if holder is None:
                continue  # it was released meanwhile
            if not is_gone(self.path, holder):
                raise LockHeld(holder)
            if self._replace(holder):
                break
        self.descriptor = os.open(self.path, os.O_RDONLY)
        threading.Thread(target=self._beat, daemon=True).start()

    def _create(self) -> bool:
        try:
            write_holder(self.path, self.holder)
        except FileExistsError:
            return False
        return True

    def _replace(self, gone: Holder) -> bool:
        """Put our file in the place of that of a holder which is gone; False when another process did so.

        The right to replace a holder is a lock of its own, named after it, so that of two processes which find it gone
        the slower one cannot replace the faster one.
        """
        right = LockFile(self.path.with_name(f"{self.path.name}.{gone.token}"))
        try:
            right.acquire()
        except LockHeld as held:
            raise LockHeld(held.holder) from None  # it is about to hold the lock
        try:
            present = read_holder(self.path)
            if present is None or present.token != gone.token:
                return False
            ours = self.path.with_name(f"{self.path.name}.{self.holder.token}")
            write_holder(ours, self.holder)
            os.replace(ours, self.path)
            return True
        finally:
            right.release()

    def _beat(self):
        while not self.released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the file may have been taken over and be gone; check() tells
                os.utime(self.descriptor)

    def is_ours(self) -> bool:
        present = read_holder(self.path)
        return present is not None and present.token == self.holder.token

    def check(self) -> None:
        """Raise UserError when another process took the lock over."""
        if not self.is_ours():
            taker = read_holder(self.path)
            raise UserError(
                f"{self.path}: this process did not respond for more than {STALE_SECONDS / 60:g} minutes, and its work "
                f"was taken over{f' ({taker})' if taker else ''}. Finished identities are safe; run the same command "
                "again to do what is missing."
            )

    def release(self) -> None:
        """Give the lock back, unless another process took it over."""
        self.released.set()
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        if self.is_ours():
            self.path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path | str) -> Iterator[LockFile]:
    """Hold a lock, after waiting for it; whoever waits long is told for whom."""
    lock, pause, told = LockFile(path), 0.02, False
    started = time.monotonic()
    while True:
        try:
            lock.acquire()
            break
        except LockHeld as held:
            if not told and time.monotonic() - started > NOTICE_SECONDS:
                print(f"waiting for another process that has {lock.path} ({held.holder})", file=sys.stderr, flush=True)
                told = True
            time.sleep(pause)
            pause = min(1.5 * pause, 1.0)
    try:
        yield lock
    finally:
        lock.release()


def write_holder(path: Path, holder: Holder) -> None:
    """Make a lock's file. Raises FileExistsError when there is one.

    It appears with its content where the system can do that, so that a killed process leaves none that says nothing.
    """
    text = json.dumps(holder._asdict()).encode()
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o644)
    except (AttributeError, OSError):  # not Linux, or a network file system
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        nameless = False
    else:
        nameless = True
    try:
        os.write(descriptor, text)
        if nameless:  # src_dir_fd has no meaning for a whole path, but lets the link to the file be followed
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
    except OSError:
        if not nameless:
            path.unlink()
        raise
    finally:
        os.close(descriptor)  # from here on other machines see what it says


def read_holder(path: Path) -> Holder | None:
    """Who holds a lock, None when nobody does. A file that says nothing stands for a holder whom nobody knows."""
    try:
        with open(path, "rb") as file:
            text, number = file.read(), os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return Holder(f"unknown-{number}")  # killed, or still busy, between making the file and writing into it


def is_gone(path: Path, holder: Holder) -> bool:
    """Whether the process that holds a lock has ended, or gave no sign for STALE_SECONDS."""
    if holder.machine and holder.machine == machine():
        return not is_alive(holder)
    try:
        with open(path, "rb") as file:
            touched = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return False  # released: the next attempt sees that
    return now_of_file_system(path) - touched > STALE_SECONDS


def now_of_file_system(path: Path) -> float:
    """The time by the clock that sets the modification times beside ``path``, in seconds."""
    probe = path.with_name(f"{path.name}.clock-{uuid.uuid4().hex}")
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def machine() -> str:
    """What tells the process numbers of two machines, boots or containers apart."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def is_alive(holder: Holder) -> bool:
    """Whether a process of this machine lives. A number that was given to a later process does not count."""
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # of another user
    started = start_of(holder.pid)
    return started != "ended" and (not started or not holder.started or started == holder.started)


def start_of(pid: int) -> str:
    """When a process began, in clock ticks since the machine did; "ended" for a zombie, "" where nobody tells."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]
