"""The LMDB that the generator is trained on: key ``b"0"``.. -> msgpack (image bytes, .npy bytes of feature, label).

Records of Vec2Face+ have a fourth field, the bytes of a landmark picture.
"""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import lmdb
import msgpack
import numpy as np

from models.errors import UserError
from utils.data.images import decode_image, resize
from utils.data.lmdb_files import GrowingLmdb, check_whole

Value = TypeVar("Value")

RECORDS_PER_TRANSACTION = 1000
NEXT_SOURCE = b"__next_source__"
SOURCE = b"__source__"
ENCODER = b"__encoder__"  # SHA-256 of the face encoder that the features are of, where it is known
NAME = b"__name__"  # + record number: the photo's name. Readers of the published format ignore these keys.


def open_lmdb(path: Path | str) -> lmdb.Environment:
    """Open an LMDB file or folder for reading. Raises UserError when it is missing, damaged or not an LMDB."""
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


def unpack_record(data: bytes) -> tuple[bytes, np.ndarray, int]:
    """msgpack bytes -> (encoded image, feature (D,) float32, label). Raises ValueError when the record is broken."""
    try:
        image, feature, label, *_ = msgpack.unpackb(data)
        if isinstance(feature, int):
            raise ValueError("it has labels where the feature should be, as images of FR training have")
        feature = np.load(io.BytesIO(feature), allow_pickle=False).astype(np.float32).reshape(-1)
    except (ValueError, TypeError, EOFError, OSError, msgpack.UnpackException) as error:
        raise ValueError(f"not a training record: {error}") from error
    return image, feature, label


def landmark_field(data: bytes) -> bytes:
    """msgpack bytes of a record -> the encoded landmark picture in it. Raises ValueError when there is none."""
    fields = msgpack.unpackb(data)
    if len(fields) < 4:
        raise ValueError("a record without a landmark picture, which would be its fourth field")
    return fields[3]


def decode_record(data: bytes, width: int) -> tuple[np.ndarray, np.ndarray, int]:
    """msgpack bytes -> (image (112, 112, 3) uint8 RGB, feature (width,) float32, label).

    Raises ValueError when the record is broken, or its feature has another width, is not finite or is all zero.
    """
    image, feature, label = unpack_record(data)
    if feature.shape != (width,):
        raise ValueError(f"a feature of {feature.size} numbers where {width} are needed")
    if not np.isfinite(feature).all():
        raise ValueError("a feature with NaN or infinite numbers")
    if not feature.any():
        raise ValueError("a feature of zeros, which has no direction")
    return resize(decode_image(image)), feature, int(label)


def photo_names(path: Path | str) -> list[str]:
    """The name of the photo that each record was made from, in order of the records.

    Names are relative to the folder of photos (IDENTITY/PHOTO), or as in the list of photos. Raises UserError when the
    LMDB has none: it was made by other code or by an earlier version.
    """
    env = open_lmdb(path)
    with env, env.begin() as transaction:
        count = msgpack.unpackb(transaction.get(b"__len__", b"\0"))
        names = [transaction.get(NAME + str(position).encode()) for position in range(count)]
    if None in names:
        raise UserError(f"{path}: does not say which photo record {names.index(None)} is; make it anew to know.")
    return [os.fsdecode(name) for name in names]


class LazyLmdb:
    """An LMDB that each process opens on its first read, because a process must not open an LMDB twice."""

    def __init__(self, path: Path | str):
        self.path, self.env = path, None

    def __getstate__(self) -> dict[str, Any]:
        """The state to send to another process: the path, because an open LMDB cannot be sent."""
        return {"path": self.path, "env": None}

    def get(self, key: bytes) -> bytes:
        """The value of a key, empty if there is none."""
        return self.read(key, bytes)

    def read(self, key: bytes, how: Callable[[memoryview | bytes], Value]) -> Value:
        """The result of ``how`` on the value of a key, a buffer that is valid only during the call."""
        if self.env is None:
            self.env = open_lmdb(self.path)
        with self.env.begin(buffers=True) as transaction:
            return how(transaction.get(key) or b"")

    def close(self) -> None:
        """Close the LMDB; the next read opens it again."""
        if self.env is not None:
            self.env.close()
            self.env = None


class TrainingLmdbWriter:
    """Appends records to a training LMDB, and continues where an earlier run stopped.

    ``fingerprint``: bytes that identify the source photos; ``encoder``: SHA-256 of the face encoder that computes the
    features, where it is known. ``count``: number of records; ``next_source``: number of the first source photo that
    has not been processed. Raises UserError when the LMDB was begun with other photos or another encoder.
    """

    def __init__(self, path: Path | str, fingerprint: bytes, encoder: str | None = None):
        self.lmdb, self.pending = GrowingLmdb(path), []
        self.origin = {SOURCE: fingerprint} | ({ENCODER: encoder.encode()} if encoder else {})
        with self.lmdb.env.begin() as transaction:
            differing = [key for key, value in self.origin.items() if transaction.get(key, value) != value]
            self.count, self.next_source = (
                msgpack.unpackb(transaction.get(key, b"\0")) for key in (b"__len__", NEXT_SOURCE)
            )
        if differing:
            self.lmdb.close()
            what = "another face encoder" if differing == [ENCODER] else "other photos"
            raise UserError(f"{path}: was begun with {what}; delete it, or choose another --file_name.")

    def add(self, source: int, name: str, image: bytes, feature: np.ndarray, label: int) -> None:
        """Append a record: an encoded ``image``, its ``feature`` (512,) and its ``label``.

        ``source`` and ``name``: number and name of the photo among the source photos.
        """
        buffer, key = io.BytesIO(), str(self.count).encode()
        np.save(buffer, np.asarray(feature, np.float32), allow_pickle=False)
        self.pending.append((key, msgpack.packb((image, buffer.getvalue(), int(label)))))
        self.pending.append((NAME + key, os.fsencode(name)))
        self.count, self.next_source = self.count + 1, source + 1
        if len(self.pending) >= 2 * RECORDS_PER_TRANSACTION:  # a record and its name
            self.flush()

    def flush(self) -> None:
        """Write the pending records and the counts in one transaction."""
        counts = [(b"__len__", msgpack.packb(self.count)), (NEXT_SOURCE, msgpack.packb(self.next_source))]
        self.lmdb.put([*self.pending, *counts, *self.origin.items()])
        self.pending = []

    def close(self, class_count: int) -> None:
        """Write what is pending, the list of keys and the number of identities, and close the file."""
        keys = msgpack.packb([str(i).encode() for i in range(self.count)])
        self.flush()
        self.lmdb.put([(b"__keys__", keys), (b"__classnum__", msgpack.packb(class_count))])
        self.lmdb.close()
