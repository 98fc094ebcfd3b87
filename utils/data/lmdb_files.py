"""Writing LMDB files, and the LMDB format of FR training: key ``b"0"``.. -> msgpack (image bytes, label).

With identity mixup the value is (image bytes, label a, label b, phi): the image shows the share phi of a. The keys
``__keys__`` (the list of keys), ``__len__`` and ``__classnum__`` have msgpack values as well.
"""

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import lmdb
import msgpack

from models.errors import UserError

Label = int | tuple[int, int, float]  # of an identity; of a mixture: label a, label b, phi
Records = Sequence[tuple[bytes, bytes]]  # (key, value)

FIRST_MAP_SIZE = 1 << 26  # bytes
RECORDS_PER_TRANSACTION = 2000


def check_whole(env: lmdb.Environment, path: Path | str) -> None:
    """Raise UserError when the file of an open LMDB is shorter than the pages in use: reading those would crash."""
    file = Path(path) / "data.mdb" if Path(path).is_dir() else Path(path)
    size, needed = file.stat().st_size, (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if size < needed:
        env.close()
        raise UserError(f"{path}: truncated, it has {size} bytes and needs {needed}. Copy or make it again.")


class GrowingLmdb:
    """A single-file LMDB for writing, whose map grows when it is full. Raises UserError when the file is truncated."""

    def __init__(self, path: Path | str):
        size = max(FIRST_MAP_SIZE, 2 * Path(path).stat().st_size if Path(path).exists() else 0)
        self.env = lmdb.open(str(path), subdir=False, map_size=size, lock=False)
        if Path(path).stat().st_size:
            check_whole(self.env, path)

    def put(self, records: Records) -> None:
        """Write (key, value) pairs in one transaction. ``records`` is read again if the map had to grow."""
        while True:
            try:
                with self.env.begin(write=True) as transaction:
                    for key, value in records:
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self.env.set_mapsize(2 * self.env.info()["map_size"])

    def close(self) -> None:
        """Close the file."""
        self.env.close()


def pack_fr_record(image: bytes, label: Label) -> bytes:
    """The value of a record for FR training."""
    return msgpack.packb((image, *label) if isinstance(label, tuple) else (image, label))


def write_fr_lmdb(path: Path | str, records: Iterable[tuple[Label, bytes]], people: int) -> int:
    """Write (label, encoded image) pairs of ``people`` identities as an LMDB for FR training.

    Returns the number of images.
    """
    number, pending = 0, []
    with closing(GrowingLmdb(path)) as target:
        for label, image in records:
            pending.append((str(number).encode(), pack_fr_record(image, label)))
            number += 1
            if len(pending) >= RECORDS_PER_TRANSACTION:
                target.put(pending)
                pending = []
        target.put(pending + closing_records(number, people))
    return number


def closing_records(count: int, people: int) -> list[tuple[bytes, bytes]]:
    """The records beside the numbered ones, for ``count`` images of ``people`` identities."""
    keys = [str(i).encode() for i in range(count)]
    return [
        (b"__keys__", msgpack.packb(keys)),
        (b"__len__", msgpack.packb(count)),
        (b"__classnum__", msgpack.packb(people)),
    ]
