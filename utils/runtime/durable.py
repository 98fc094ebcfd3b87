"""Writing files so that neither a killed process nor a power cut leaves an incomplete one.

A *kill* ends a process between any two instructions; data that it passed to the operating system is kept. A *power
cut* also loses any data that the system has not yet written to the disk, in any order, unless ``fsync`` was called.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def atomic_write(path: Path | str, content: bytes | str | Callable[[BinaryIO], None]) -> None:
    """Write a file in one step: after a kill or a power cut it has either all of ``content`` or its previous content.

    ``content``: bytes, text (written as UTF-8), or a function that writes to an open binary file. Raises OSError, or
    whatever the function raises; the file then keeps its previous content.
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
    """Append ``data`` to a file opened with O_APPEND: all of it, or nothing when an OSError is raised (disk full)."""
    rest, size = memoryview(data), os.fstat(descriptor).st_size
    try:
        while rest:
            rest = rest[os.write(descriptor, rest) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


def sync_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk. Network file systems that refuse this leave it to their server."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync_file_system(descriptor: int) -> None:
    """Flush everything written so far to the file system of an open file to the disk. Raises OSError.

    One call serves many small files: calling fsync on 500 images takes about a second, this a fraction of that.
    """
    syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if syncfs is None:  # not Linux
        os.sync()
    elif syncfs(descriptor):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
