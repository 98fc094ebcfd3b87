"""Writing LMDB files, and the format of FR training: key ``b"0"``.. -> msgpack (image bytes, label).

Beside them ``__keys__`` (a list of keys), ``__len__`` and ``__classnum__``, msgpacked too.
"""

from contextlib import closing
from pathlib import Path

import lmdb
import msgpack

from models.errors import UserError

FIRST_MAP_SIZE = 1 << 26


RECORDS_PER_TRANSACTION = 2000


def check_whole(env, path):
    """Raise UserError when an open LMDB's file is shorter than the pages it uses: reading one would end the process."""
    file = Path(path) / "data.mdb" if Path(path).is_dir() else Path(path)
    size, needed = file.stat().st_size, (env.info()["last_pgno"] + 1) * env.stat()["psize"]
    if size < needed:
        env.close()
        raise UserError(f"{path}: truncated, it has {size} bytes and needs {needed}. Copy or make it again.")


class GrowingLmdb:
    """An LMDB in one file whose map grows when it is full."""

    def __init__(self, path):
        size = max(FIRST_MAP_SIZE, 2 * Path(path).stat().st_size if Path(path).exists() else 0)
        self.env = lmdb.open(str(path), subdir=False, map_size=size, lock=False)
        if Path(path).stat().st_size:
            check_whole(self.env, path)

    def put(self, records):
        """Write (key, value) pairs of bytes in one transaction."""
        while True:
            try:
                with self.env.begin(write=True) as transaction:
                    for key, value in records:
                        transaction.put(key, value)
                return
            except lmdb.MapFullError:
                self.env.set_mapsize(2 * self.env.info()["map_size"])

    def close(self):
        self.env.close()


def write_fr_lmdb(path, records, people):
    """Write (label, encoded image) pairs as an FR-training LMDB of ``people`` people; how many images."""
    number, pending = 0, []
    with closing(GrowingLmdb(path)) as target:
        for label, image in records:
            pending.append((str(number).encode(), msgpack.packb((image, label))))
            number += 1
            if len(pending) >= RECORDS_PER_TRANSACTION:
                target.put(pending)
                pending = []
        target.put(pending + closing_records(number, people))
    return number


def closing_records(count, people):
    """What stands beside the numbered records."""
    keys = [str(i).encode() for i in range(count)]
    return [
        (b"__keys__", msgpack.packb(keys)),
        (b"__len__", msgpack.packb(count)),
        (b"__classnum__", msgpack.packb(people)),
    ]
