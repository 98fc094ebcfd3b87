"""The training LMDB, read and written: key ``b"0"``.. -> msgpack (image bytes, .npy bytes of the FR feature, label)."""

import io
import os
from pathlib import Path

import lmdb
import msgpack
import numpy as np

from models.errors import UserError
from utils.data.images import decode_image, resize
from utils.data.lmdb_files import GrowingLmdb, check_whole

RECORDS_PER_TRANSACTION = 1000
NEXT_SOURCE = b"__next_source__"
SOURCE = b"__source__"
NAME = b"__name__"  # and the number of a record: which photo it is. Readers of the published form never ask for it.


def open_lmdb(path):
    """Open an LMDB file or folder for reading. Raises UserError when it is missing or none."""
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path}: no such LMDB.")
    if path.is_dir() and not (path / "data.mdb").exists():
        raise UserError(
            f"{path}: a folder without an LMDB in it. scripts/prepare_training_set.py makes a training LMDB from a "
            "folder of photos."
        )
    try:
        env = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False, meminit=False)
    except lmdb.Error as error:
        raise UserError(f"{path}: not an LMDB, or damaged ({error}).") from error
    check_whole(env, path)
    return env


def unpack_record(data):
    """msgpack bytes -> (encoded image, feature (D,) float32, label). ValueError when broken."""
    try:
        image, feature, label = msgpack.unpackb(data)
        feature = np.load(io.BytesIO(feature), allow_pickle=False).astype(np.float32).reshape(-1)
    except (ValueError, TypeError, EOFError, OSError, msgpack.UnpackException) as error:
        raise ValueError(f"not a training record: {error}") from error
    return image, feature, label


def decode_record(data, width):
    """msgpack bytes -> (image (112, 112, 3) uint8 RGB, feature (width,) float32, label). ValueError when broken."""
    image, feature, label = unpack_record(data)
    if feature.shape != (width,):
        raise ValueError(f"a feature of {feature.size} numbers where {width} are needed")
    if not np.isfinite(feature).all():
        raise ValueError("a feature with NaN or infinite numbers")
    if not feature.any():
        raise ValueError("a feature of zeros, which has no direction")
    return resize(decode_image(image)), feature, int(label)


def photo_names(path):
    """The name of the photo that each record was made from, in the order of the records.

    Relative to the folder of photos (PERSON/PHOTO), or as in the list of photos. Raises UserError when the LMDB has
    none: it was made by other code, or by this script before it kept them.
    """
    env = open_lmdb(path)
    with env, env.begin() as transaction:
        count = msgpack.unpackb(transaction.get(b"__len__", b"\0"))
        names = [transaction.get(NAME + str(position).encode()) for position in range(count)]
    if None in names:
        raise UserError(f"{path}: does not say which photo record {names.index(None)} is; make it anew to know.")
    return [os.fsdecode(name) for name in names]


class LazyLmdb:
    """An LMDB that is opened by the process that reads it, when it reads: a process can have it open only once."""

    def __init__(self, path):
        self.path, self.env = path, None

    def __getstate__(self):
        """What goes to another process: the path, since an open LMDB cannot."""
        return {"path": self.path, "env": None}

    def get(self, key):
        """The value of a key as bytes, empty when there is none."""
        return self.read(key, bytes)

    def read(self, key, how):
        """``how`` of the value's buffer, which is valid during the call only."""
        if self.env is None:
            self.env = open_lmdb(self.path)
        with self.env.begin(buffers=True) as transaction:
            return how(transaction.get(key) or b"")

    def close(self):
        """Let go of it, until it is read again."""
        if self.env is not None:
            self.env.close()
            self.env = None


class TrainingLmdbWriter:
    """Appends records to a training LMDB, and knows where an earlier run stopped.

    ``fingerprint``: bytes that tell its source; UserError when it was begun with another one. ``count``: records in
    it; ``next_source``: number of the first source photo that was not dealt with yet.
    """

    def __init__(self, path, fingerprint):
        self.lmdb, self.pending, self.fingerprint = GrowingLmdb(path), [], fingerprint
        with self.lmdb.env.begin() as transaction:
            is_another = transaction.get(SOURCE, fingerprint) != fingerprint
            self.count, self.next_source = (
                msgpack.unpackb(transaction.get(key, b"\0")) for key in (b"__len__", NEXT_SOURCE)
            )
        if is_another:
            self.lmdb.close()
            raise UserError(f"{path}: was begun with other photos; delete it, or choose another --file_name.")

    def add(self, source, name, image, feature, label):
        """Append a record: ``image`` as encoded bytes, ``feature`` (512,) float32, ``label`` a whole number.

        ``source`` and ``name``: number of the photo in its source, and what it is called there.
        """
        buffer, key = io.BytesIO(), str(self.count).encode()
        np.save(buffer, np.asarray(feature, np.float32), allow_pickle=False)
        self.pending.append((key, msgpack.packb((image, buffer.getvalue(), int(label)))))
        self.pending.append((NAME + key, os.fsencode(name)))
        self.count, self.next_source = self.count + 1, source + 1
        if len(self.pending) >= 2 * RECORDS_PER_TRANSACTION:  # a record and its name
            self.flush()

    def flush(self):
        counts = [(b"__len__", msgpack.packb(self.count)), (NEXT_SOURCE, msgpack.packb(self.next_source))]
        self.lmdb.put([*self.pending, *counts, (SOURCE, self.fingerprint)])
        self.pending = []

    def close(self, class_count):
        keys = msgpack.packb([str(i).encode() for i in range(self.count)])
        self.flush()
        self.lmdb.put([(b"__keys__", keys), (b"__classnum__", msgpack.packb(class_count))])
        self.lmdb.close()
