"""Writing files so that neither a killed process nor a power cut leaves half of one.

A *kill* ends a process between any two of its instructions; what it gave to the system is kept. A *power cut* also
loses what the system had not yet written to the disk, in any order, unless ``fsync`` was called.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def atomic_write(path: Path | str, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Write a file in one step: after a kill or a power cut it holds all of ``content``, or what it held before.

    ``content``: bytes, text (UTF-8), or a function that writes to a binary file. Raises OSError, or what the function
    raises; the file then holds what it held before.
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".next")
    try:
        with open(temporary, "wb") as file:
            if callable(content):
                content(file)
            else:
                file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def append_whole(descriptor: int, data: bytes) -> None:
    """Append to a file opened with O_APPEND: all of ``data``, or none of it when there is no room (OSError)."""
    rest, size = memoryview(data), os.fstat(descriptor).st_size
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk. Some network file systems refuse, where the server sees to it."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file_system(descriptor: int) -> None:
    """Have everything that was written so far to the file system of an open file on the disk.

    One call for many small files: fsync of each of 500 images takes about a second, this a fraction of one.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # not Linux
        os.sync()
    elif syncfs(descriptor):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
