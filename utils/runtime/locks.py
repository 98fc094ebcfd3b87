"""Locks that work across the machines of a cluster: a file that exists while the lock is held.

``flock`` is unreliable on shared file systems: depending on the mount options, NFS keeps it local to one machine, and
some systems refuse it. Creating a file with O_EXCL is atomic on all of them. The file names the holder of the lock, and
a thread of the holder keeps its modification time up to date. The lock counts as abandoned

- if its holder ran on this machine: as soon as that process has ended;
- if its holder runs on another machine or in another container: when the file has not been touched for STALE_SECONDS.
  Both times are taken from the file system's clock, because the clocks of two machines differ.

A holder that was suspended for longer than that may have lost the lock to another process. ``check`` detects this, and
must be called before anything that must not be done twice.
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
STALE_SECONDS = 180.0  # NFS may report attributes that are a minute old
NOTICE_SECONDS = 10.0  # waiting time after which the user is told who holds the lock


class Holder(NamedTuple):
    """The process that holds a lock. ``machine`` and ``started`` tell it from a later process with the same ``pid``."""

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
    """A lock file at ``path``, whose folder must exist. Call ``acquire`` once; any thread may call ``check``."""

    def __init__(self, path: Path | str):
        self.path = Path(path)
        self.holder = Holder(uuid.uuid4().hex, socket.gethostname(), machine(), os.getpid(), start_of(os.getpid()))
        self.descriptor = None
        self.released = threading.Event()

    def acquire(self) -> None:
        """Take the lock, also from a holder that is gone. Raises LockHeld, or OSError when no file can be created."""
        while not self._create():
            holder = read_holder(self.path)
            if holder is None:
                continue  # released meanwhile: try again
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
        """Replace the lock file of a holder that is gone by our own; False if another process has done so.

        Replacing needs a second lock, named after the holder that is gone. Otherwise, of two processes that find the
        lock abandoned, the slower one could take it from the faster one.
        """
        replacement = LockFile(self.path.with_name(f"{self.path.name}.{gone.token}"))
        try:
            replacement.acquire()
        except LockHeld as held:
            raise LockHeld(held.holder) from None  # that process is about to hold the lock
        try:
            present = read_holder(self.path)
            if present is None or present.token != gone.token:
                return False
            own_file = self.path.with_name(f"{self.path.name}.{self.holder.token}")
            write_holder(own_file, self.holder)
            os.replace(own_file, self.path)
            return True
        finally:
            replacement.release()

    def _beat(self) -> None:
        while not self.released.wait(HEARTBEAT_SECONDS):
            with suppress(OSError):  # the file may be gone after a takeover, which check() reports
                os.utime(self.descriptor)

    def is_ours(self) -> bool:
        """Whether the lock file is still that of this LockFile."""
        present = read_holder(self.path)
        return present is not None and present.token == self.holder.token

    def check(self) -> None:
        """Raise UserError when another process has taken the lock over."""
        if not self.is_ours():
            taker = read_holder(self.path)
            raise UserError(
                f"{self.path}: this process did not respond for more than {STALE_SECONDS / 60:g} minutes, and its work "
                f"was taken over{f' ({taker})' if taker else ''}. Finished identities are safe; run the same command "
                "again to do what is missing."
            )

    def release(self) -> None:
        """Release the lock, unless another process has taken it over."""
        self.released.set()
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None
        if self.is_ours():
            self.path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path | str) -> Iterator[LockFile]:
    """Wait for a lock and hold it. After NOTICE_SECONDS of waiting a line on stderr names its holder."""
    lock, pause, noticed = LockFile(path), 0.02, False
    started = time.monotonic()
    while True:
        try:
            lock.acquire()
            break
        except LockHeld as held:
            if not noticed and time.monotonic() - started > NOTICE_SECONDS:
                print(f"waiting for another process that has {lock.path} ({held.holder})", file=sys.stderr, flush=True)
                noticed = True
            time.sleep(pause)
            pause = min(1.5 * pause, 1.0)
    try:
        yield lock
    finally:
        lock.release()


def write_holder(path: Path, holder: Holder) -> None:
    """Create a lock file. Raises FileExistsError if there is one.

    Where the system supports it the file appears together with its content, so that a kill cannot leave an empty file.
    """
    text = json.dumps(holder._asdict()).encode()
    try:
        descriptor = os.open(path.parent, os.O_TMPFILE | os.O_WRONLY, 0o644)
    except (AttributeError, OSError):  # not Linux, or a network file system
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        unnamed = False
    else:
        unnamed = True
    try:
        os.write(descriptor, text)
        if unnamed:  # src_dir_fd makes Python call linkat, which follows the link; the path is absolute
            os.link(f"/proc/self/fd/{descriptor}", path, src_dir_fd=descriptor, follow_symlinks=True)
    except OSError:
        if not unnamed:
            path.unlink()
        raise
    finally:
        os.close(descriptor)  # from here on other machines see the content


def read_holder(path: Path) -> Holder | None:
    """The holder of a lock, None if it is free. A file without readable content stands for an unknown holder."""
    try:
        with open(path, "rb") as file:
            text, number = file.read(), os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return None
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return Holder(f"unknown-{number}")  # its process is between creating and writing the file, or was killed there


def is_gone(path: Path, holder: Holder) -> bool:
    """Whether the holder of a lock has ended or, on another machine, has not touched the file for STALE_SECONDS."""
    if holder.machine and holder.machine == machine():
        return not is_alive(holder)
    try:
        with open(path, "rb") as file:
            touched = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return False  # released; the next attempt will notice
    return now_of_file_system(path) - touched > STALE_SECONDS


def now_of_file_system(path: Path) -> float:
    """The current time in seconds, by the clock that sets modification times in the folder of ``path``."""
    probe = path.with_name(f"{path.name}.clock-{uuid.uuid4().hex}")
    descriptor = os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    try:
        os.utime(descriptor)
        return os.fstat(descriptor).st_mtime
    finally:
        os.close(descriptor)
        probe.unlink(missing_ok=True)


def machine() -> str:
    """An identifier of this machine, boot and container, within which process numbers are unique."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def is_alive(holder: Holder) -> bool:
    """Whether a process of this machine is running. A later process with the same number does not count."""
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it belongs to another user
    started = start_of(holder.pid)
    return started != "ended" and (not started or not holder.started or started == holder.started)


def start_of(pid: int) -> str:
    """The start time of a process in clock ticks since boot; "ended" for a zombie, "" where it is unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]
