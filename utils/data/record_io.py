"""MXNet's RecordIO files, NAME.rec with NAME.idx, read and written without MXNet.

    .rec    records, one after the other: magic number, kind and length (32 bits each), content, zeros up to 4 bytes
    .idx    lines of key, tab, place of the record in the .rec
    content of an image's record: flag (32 bits), label (float32), two ids (64 bits each), ``flag`` further labels
            (float32), which then stand in the place of the first one, and the encoded image

A content that holds the magic number at a multiple of four bytes is cut there, and written as several parts.
"""

import os
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from models.errors import UserError

MAGIC = 0xCED7230A
MAGIC_BYTES = struct.pack("<I", MAGIC)
WHOLE, FIRST, MIDDLE, LAST = range(4)  # kinds of parts
LENGTH_BITS = 29
LENGTH_MASK = (1 << LENGTH_BITS) - 1
PREFIX = struct.Struct("<II")  # magic number, kind and length
HEADER = struct.Struct("<IfQQ")  # flag, label, id, second id


class ImageHeader(NamedTuple):
    """What a record says of its image: one label or several."""

    labels: tuple[float, ...]
    id: int
    is_list: bool  # the labels are stored as a list, even if there is one


def index_path(path: Path) -> Path:
    """The .idx of a .rec."""
    return path.with_suffix(".idx")


def unpack(content: bytes) -> tuple[ImageHeader, bytes]:
    """(header, encoded image) of a record's content. Raises ValueError when it is too short."""
    try:
        flag, label, number, _ = HEADER.unpack_from(content)
        labels = struct.unpack_from(f"<{flag}f", content, HEADER.size) if flag else (label,)
    except struct.error as error:
        raise ValueError(f"a record of {len(content)} bytes, too few for its header") from error
    return ImageHeader(labels, number, flag > 0), content[HEADER.size + 4 * flag :]


def pack(labels: float | tuple[float, ...], number: int, image: bytes = b"") -> bytes:
    """The content of the record of an image, with one label or a list of them."""
    if isinstance(labels, tuple):
        return HEADER.pack(len(labels), 0.0, number, 0) + struct.pack(f"<{len(labels)}f", *labels) + image
    return HEADER.pack(0, labels, number, 0) + image


class RecordReader:
    """The records of a .rec by their keys; each process opens the file on its first read.

    ``keys`` (R,) and ``places`` (R,): int64, in order of the keys. Without an .idx they are found by reading the .rec
    once. Raises UserError when a file is missing, empty, truncated or no RecordIO, or the .idx belongs to another .rec.
    """

    def __init__(self, path: Path | str):
        self.path, self.file = Path(path), None
        if not self.path.is_file():
            raise UserError(f"{path}: no such .rec file.")
        self.size = self.path.stat().st_size
        if not self.size:
            raise UserError(f"{path}: empty. Copy or make it again.")
        listed = read_index(index_path(self.path)) if index_path(self.path).exists() else self._found()
        order = listed[:, 0].argsort(kind="stable")
        self.keys, self.places = listed[order].T
        self._check()

    def __getstate__(self):
        """The state to send to another process, without the open file."""
        return self.__dict__ | {"file": None}

    def words(self) -> np.ndarray:
        """The .rec as a memory map of uint32."""
        return np.memmap(self.path, "<u4", "r", shape=self.size // 4)

    def lengths(self) -> np.ndarray:
        """(R,) bytes of each record's content, or of its first part."""
        return (self.words()[self.places // 4 + 1] & LENGTH_MASK).astype(np.int64)

    def _check(self):
        index, places = index_path(self.path), self.places
        outside = np.flatnonzero((places < 0) | (places + PREFIX.size > self.size) | (places % 4 != 0))
        if len(outside):
            key, place = self.keys[outside[0]], places[outside[0]]
            raise UserError(
                f"{index}: record {key} is said to be at byte {place} of {self.path.name}, "
                f"which has {self.size} bytes: it is truncated, or the .idx of another file."
            )
        strange = np.flatnonzero(self.words()[places // 4] != MAGIC)
        if len(strange):
            raise UserError(
                f"{self.path}: no record at byte {places[strange[0]]}, where {index.name} has record "
                f"{self.keys[strange[0]]}; it is damaged, or they do not belong together."
            )
        ends = places + PREFIX.size + self.lengths()
        if (ends > self.size).any():
            raise UserError(
                f"{self.path}: truncated, it has {self.size} bytes and needs {ends.max()}. Copy or make it again."
            )

    def _found(self):
        """(R, 2) keys, 0 to R - 1, and places of all records, from the .rec alone."""
        places, place = [], 0
        with open(self.path, "rb") as file:
            while place < self.size:
                file.seek(place)
                try:
                    kind, length = read_prefix(file)
                except ValueError as error:
                    raise UserError(f"{self.path}: {error} at byte {place}. Copy or make it again.") from error
                if kind in (WHOLE, FIRST):
                    places.append(place)
                place += PREFIX.size + -(-length // 4) * 4
        return np.column_stack([np.arange(len(places)), np.array(places, np.int64)])

    def read(self, position: int) -> bytes:
        """The content of the record at a position of ``keys``. Raises ValueError when it is damaged."""
        if self.file is None:
            self.file = open(self.path, "rb")  # noqa: SIM115, kept until close()
        self.file.seek(int(self.places[position]))
        parts = []
        while True:
            kind, length = read_prefix(self.file)
            parts.append(self.file.read(length))
            if len(parts[-1]) < length or (kind in (WHOLE, FIRST)) != (len(parts) == 1):
                raise ValueError("damaged, a part of it is missing")
            if kind in (WHOLE, LAST):
                return MAGIC_BYTES.join(parts)
            self.file.seek(-length % 4, os.SEEK_CUR)

    def close(self) -> None:
        """Close the file; the next read opens it again."""
        if self.file is not None:
            self.file.close()
            self.file = None


def read_prefix(file: BinaryIO) -> tuple[int, int]:
    """(kind, length) of the part at the file's position. Raises ValueError when there is none."""
    prefix = file.read(PREFIX.size)
    if len(prefix) < PREFIX.size:
        raise ValueError("truncated within a record")
    magic, word = PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise ValueError("damaged, or no file of MXNet: no record")
    return word >> LENGTH_BITS, word & LENGTH_MASK


def read_index(path: Path) -> np.ndarray:
    """(R, 2) int64, the keys and places in an .idx. Raises UserError when it is empty or something else."""
    try:
        numbers = np.array(path.read_bytes().split(), np.int64)
        lines = numbers.reshape(-1, 2)
    except ValueError as error:
        raise UserError(f"{path}: not an index of MXNet, lines of a key and a place ({error}).") from error
    if not len(lines):
        raise UserError(f"{path}: empty. Copy it again, or delete it: the .rec alone is read as well.")
    return lines


class RecordWriter:
    """Writes a .rec and its .idx. A context manager, because both files are complete when it is closed."""

    def __init__(self, path: Path):
        self.file, self.index, self.place = open(path, "wb"), open(index_path(path), "w"), 0  # noqa: SIM115

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()
        self.index.close()

    def write(self, key: int, content: bytes) -> None:
        """Append a record. Raises ValueError for a content of 512 MB or more."""
        if len(content) > LENGTH_MASK:
            raise ValueError(f"record {key} has {len(content)} bytes, and the format holds {LENGTH_MASK} at most")
        self.index.write(f"{key}\t{self.place}\n")
        for kind, part in parts_of(content):
            self.place += self.file.write(PREFIX.pack(MAGIC, kind << LENGTH_BITS | len(part)))
            self.place += self.file.write(part + bytes(-len(part) % 4))

    def rewrite_first(self, content: bytes) -> None:
        """Write the first record anew, with a content of the same length."""
        end = self.file.tell()
        self.file.seek(PREFIX.size)
        self.file.write(content)
        self.file.seek(end)


def parts_of(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The parts of a record, (kind, bytes): cut where it holds the magic number at a multiple of four bytes."""
    cuts, place = [-4], content.find(MAGIC_BYTES)
    while place >= 0:
        if place % 4 == 0 and place + 4 <= len(content) // 4 * 4:
            cuts.append(place)
        place = content.find(MAGIC_BYTES, place + 1)
    cuts.append(len(content))
    for number, (start, end) in enumerate(pairwise(cuts)):
        first, last = number == 0, number == len(cuts) - 2
        kind = (WHOLE if last else FIRST) if first else (LAST if last else MIDDLE)
        yield kind, content[start + 4 : end]
