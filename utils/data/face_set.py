"""Photos and the people on them: a folder of person/photo, or an LMDB for FR training or for the generator's."""

import hashlib
import os
from pathlib import Path

import msgpack
import numpy as np
from tqdm import tqdm

from models.errors import UserError
from utils.data import heic
from utils.data.images import CONTACT_SHEET, EXTENSIONS, SIDE, decode_image, encode_jpeg, resize
from utils.data.masks import load_mask
from utils.data.training_lmdb import LazyLmdb
from utils.dataset.layout import ABOUT_SUFFIX, HUB_SUFFIX, MANIFEST, REPORT_SUFFIX, SETTINGS

JPEG_QUALITY = 95  # where a photo has to be encoded again
BESIDE = (ABOUT_SUFFIX, REPORT_SUFFIX, HUB_SUFFIX)  # endings of folders that lie beside a dataset and belong to it
RECORDS = {MANIFEST, SETTINGS, "data.mdb"}  # files of a dataset, never of a person's folder
SHOWN = 5  # datasets named in a message


class FaceSet:
    """``path``: FOLDER/person/photo, an LMDB, or a generated dataset of either form; ``mask``: .npy of positions.

    A generated dataset may have its manifest, settings and contact sheet in its folder or in NAME.about beside it.

    ``labels`` (N,) int64: 0..C-1, ``people``: C names, every one with an image. With a mask the people are those it
    leaves, numbered anew. Raises UserError when there are no photos, the folder holds several datasets, labels leave
    a gap, or the mask does not fit.
    """

    def __init__(self, path, mask=None):
        self.path = Path(path)
        store = open_store(self.path)
        positions = load_mask(mask, len(store.labels), path) if mask else np.arange(len(store.labels))
        if not len(positions):
            raise UserError(f"{path}: no photos in it (looked for person/photo{EXTENSIONS[0]} and for LMDB records).")
        self.store, self.positions = store, positions
        labels = np.asarray(store.labels)[positions]
        present, self.labels = np.unique(labels, return_inverse=True)
        if mask is None and (present[0] != 0 or len(present) != present[-1] + 1 or len(present) != store.class_count):
            gap = next((i for i, label in enumerate(present) if i != label), len(present))
            raise UserError(
                f"{path}: labels must be 0 to C-1 with an image each: it has labels {present[0]} to {present[-1]} for "
                f"{store.class_count} people, and {'no image of' if gap < store.class_count else 'one more than'} "
                f"person {gap}."
            )
        self.people = [store.person(label) for label in present]

    def __len__(self):
        return len(self.positions)

    def read(self, index):
        """The encoded bytes of a photo. OSError or ValueError when they cannot be read."""
        return self.store.read(int(self.positions[index]))

    def image(self, index):
        """(112, 112, 3) uint8 RGB. OSError or ValueError when the photo is broken."""
        return resize(decode_image(self.read(index)))

    def encoded(self, index):
        """The encoded bytes of a 112x112 photo: as they are, or resized and encoded again. ValueError when broken."""
        data = self.read(index)
        image = decode_image(data)
        as_it_is = image.shape[:2] == (SIDE, SIDE) and not heic.is_heic(data)  # other readers know no HEIC
        return data if as_it_is else encode_jpeg(resize(image), JPEG_QUALITY)

    def name(self, index):
        """What to call a photo in a message."""
        return self.store.name(int(self.positions[index]))

    def place(self, index):
        """The ``file`` or ``key`` that a manifest gives the photo."""
        return self.store.place(int(self.positions[index]))

    def fingerprint(self):
        """Hexadecimal SHA-256 of which photos these are: names, sizes and dates of the files, and the positions."""
        digest = hashlib.sha256(self.positions.astype(np.int64).tobytes())
        for line in self.store.files():
            digest.update(f"{line}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def close(self):
        """Let go of the LMDB, until the next photo."""
        self.store.close()


def open_store(path):
    """The FolderFaces or LmdbFaces of a path. Raises UserError when there is nothing, or more than one dataset."""
    if not path.exists():
        raise UserError(f"{path}: no such folder or LMDB of photos.")
    if not path.is_dir() or (path / "data.mdb").exists():
        return LmdbFaces(path)
    people, datasets = list_people(path)
    lmdbs = sorted(path.glob("*.lmdb"))
    datasets = sorted({*datasets, *(lmdb.name for lmdb in lmdbs)})
    if len(lmdbs) == len(datasets) == 1 and not people:
        return LmdbFaces(lmdbs[0])
    if datasets:
        more = f" and {len(datasets) - SHOWN} more" if len(datasets) > SHOWN else ""
        raise UserError(f"{path}: holds datasets, name one of them: {', '.join(datasets[:SHOWN])}{more}.")
    return FolderFaces(path, people)


def list_people(path):
    """({person: photos} of FOLDER/person/photo, names of the folders that are a dataset and not a person)."""
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    told = {entry.stem for entry in folders if entry.suffix == ABOUT_SUFFIX and (entry / SETTINGS).exists()}
    people, datasets = {}, []
    for folder in folders:
        if folder.suffix in BESIDE:
            continue
        with os.scandir(folder) as entries:
            inside = list(entries)
        photos = sorted(folder / entry.name for entry in inside if is_photo(entry))
        if folder.name in told or is_dataset(inside, photos):
            datasets.append(folder.name)
        elif photos:
            people[folder.name] = photos
    return people, datasets


def is_photo(entry):
    return Path(entry.name).suffix.lower() in EXTENSIONS and entry.name != CONTACT_SHEET and entry.is_file()


def is_dataset(entries, photos):
    """Whether a folder with these entries is a dataset: by its records, an LMDB, or folders of photos but no photos."""
    if any(entry.name in RECORDS or entry.name.endswith(".lmdb") for entry in entries):
        return True
    return not photos and any(holds_photos(entry) for entry in entries if entry.is_dir() and entry.name[0] != ".")


def holds_photos(folder):
    with os.scandir(folder) as entries:
        return any(map(is_photo, entries))


class FolderFaces:
    """FOLDER/person/photo, people in the order of their names. ``people``: {name: paths of the photos}."""

    def __init__(self, path, people):
        self.path = path
        self.names = list(people)
        self.paths = [photo for photos in people.values() for photo in photos]
        self.labels = np.repeat(np.arange(len(people)), [len(photos) for photos in people.values()]).astype(np.int64)
        self.class_count = len(people)

    def files(self):
        """A line a photo that changes when it is replaced by another one."""
        for photo in self.paths:
            status = photo.stat()
            yield f"{photo.relative_to(self.path)} {status.st_size} {status.st_mtime_ns}"

    def read(self, position):
        return self.paths[position].read_bytes()

    def name(self, position):
        return str(self.paths[position])

    def place(self, position):
        path = self.paths[position]
        return f"{path.parent.name}/{path.name}"

    def person(self, label):
        return self.names[label]

    def close(self):
        pass


class LmdbFaces:
    """Records (image bytes, label) or (image bytes, feature, label)."""

    def __init__(self, path):
        self.path, self.lmdb = path, LazyLmdb(path)
        self.class_count, count = (self._number(key) for key in (b"__classnum__", b"__len__"))
        records = tqdm(range(count), desc="labels", unit="im", leave=False, delay=2)
        self.labels = np.array([self._label(position) for position in records], np.int64)
        self.close()  # each process opens it for itself

    def _number(self, key):
        data = self.lmdb.get(key)
        if not data:
            raise UserError(f"{self.path}: has no {key.decode()}; is it an LMDB of faces?")
        return int(msgpack.unpackb(data))

    def _label(self, position):
        try:
            return self.lmdb.read(str(position).encode(), label_of)
        except (ValueError, IndexError, TypeError, msgpack.UnpackException) as error:
            raise UserError(f"{self.path}: record {position} is missing, or no face record ({error}).") from error

    def files(self):
        """A line that changes when something is written to the LMDB."""
        status = (self.path / "data.mdb" if self.path.is_dir() else self.path).stat()
        yield f"{self.path.name} {status.st_size} {status.st_mtime_ns}"

    def read(self, position):
        return msgpack.unpackb(self.lmdb.get(str(position).encode()))[0]

    def name(self, position):
        return f"{self.path} record {position}"

    def place(self, position):
        return str(position)

    def person(self, label):
        return f"{label:06d}"

    def close(self):
        self.lmdb.close()


def label_of(record):
    """The label at the end of a msgpack record, without touching the pages of the image before it."""
    if record[0] not in (0x92, 0x93):
        raise ValueError("not a list of two or three")
    start = 1
    for _ in range(record[0] - 0x91):  # byte strings: the image, and perhaps the feature
        length_bytes = {0xC4: 1, 0xC5: 2, 0xC6: 4}[record[start]] if record[start] in (0xC4, 0xC5, 0xC6) else None
        if length_bytes is None:
            raise ValueError("no byte string where the image should be")
        length = int.from_bytes(record[start + 1 : start + 1 + length_bytes], "big")
        start += 1 + length_bytes + length
    label = msgpack.unpackb(bytes(record[start:]))
    if not isinstance(label, int) or label < 0:
        raise ValueError(f"label {label!r}")
    return label
