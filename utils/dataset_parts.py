"""What several processes may write into one dataset at the same time: each its own part, merged at the end.

A part is a folder ``NAME.about/parts/<name>``, locked while its process lives. It holds the process's manifest lines
and whatever its store has not put in place yet.
"""

import fcntl
import json
import os
import shutil
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from utils.dataset_layout import MANIFEST, about_folder, parts_folder
from utils.errors import UserError


@contextmanager
def locked(folder, wait):
    """Hold the lock of a folder; BlockingIOError when another process holds it and ``wait`` is false."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(descriptor)


class Part:
    """This process's part. ``append`` is safe to call from several threads when they hold the writer's lock."""

    def __init__(self, root, name):
        self.folder = parts_folder(root) / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = locked(self.folder, wait=False)
        try:
            self._lock.__enter__()
        except BlockingIOError as error:
            raise UserError(
                f"{root}: another process is writing the same slice; let it end, or give another --start_end."
            ) from error
        cut_torn_line(self.folder / MANIFEST)
        self.manifest = os.open(self.folder / MANIFEST, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def append(self, lines):
        """Add one identity's lines, or nothing of them when there is no room (OSError)."""
        data = memoryview("".join(json.dumps(line) + "\n" for line in lines).encode())
        size = os.fstat(self.manifest).st_size
        try:
            while data:
                data = data[os.write(self.manifest, data) :]
        except OSError:
            os.ftruncate(self.manifest, size)
            raise

    def close(self):
        os.close(self.manifest)
        self._lock.__exit__(None, None, None)


def cut_torn_line(path):
    """Remove what a killed process left behind the last whole line."""
    if path.exists():
        data = path.read_bytes()
        os.truncate(path, data.rfind(b"\n") + 1)


def idle_parts(root):
    """The parts whose process has ended."""
    idle = []
    for folder in sorted(parts_folder(root).glob("*")):
        with suppress(BlockingIOError, FileNotFoundError), locked(folder, wait=False):
            idle.append(folder)
    return idle


class IdentityLines(NamedTuple):
    """Where one identity's lines stand: ``manifest`` file, first byte and end; how many lines and images these are."""

    manifest: Path
    start: int
    end: int
    lines: int
    images: int

    def text(self) -> bytes:
        with open(self.manifest, "rb") as file:
            file.seek(self.start)
            return file.read(self.end - self.start)

    def read(self) -> list[dict]:
        return [json.loads(line) for line in self.text().splitlines()]


def identities_in_place(root, parts, in_place):
    """{(number, name): IdentityLines} of the identities whose images are where their lines say, in order.

    The merged manifest comes first, then ``parts`` (default: all). An identity that is in several counts where it has
    most lines: one that was extended by further images is in the merged manifest without them. ``in_place(key, lines)``
    tells whether the images are there: lines are written first, and a kill may have come between.
    """
    parts = sorted(parts_folder(root).glob("*")) if parts is None else parts
    identities = {}
    for folder in (about_folder(root), *parts):
        if not (folder / MANIFEST).exists():
            continue
        for key, lines in index_manifest(folder / MANIFEST).items():
            if (key not in identities or lines.lines > identities[key].lines) and in_place(key, lines):
                identities[key] = lines
    return dict(sorted(identities.items()))


def index_manifest(path) -> dict[tuple[int, str], IdentityLines]:
    """{(number, name): IdentityLines} of the whole lines; of an identity that was written twice the last one."""
    index, start = {}, 0
    with open(path, "rb") as file:
        for line in file:
            end = start + len(line)
            if line.endswith(b"\n"):
                record = json.loads(line)
                key = (record["identity"], record["name"])
                has_image = record.get("passed") is not False
                if record["index"] == 0 or key not in index:
                    index[key] = IdentityLines(path, start, end, 1, int(has_image))
                else:
                    before = index[key]
                    index[key] = IdentityLines(path, before.start, end, before.lines + 1, before.images + has_image)
            start = end
    return index


def remove_parts(parts):
    """Delete merged parts, and the folder of parts with the last one."""
    for folder in parts:
        shutil.rmtree(folder, ignore_errors=True)
    for folder in {folder.parent for folder in parts}:
        with suppress(OSError):
            folder.rmdir()
