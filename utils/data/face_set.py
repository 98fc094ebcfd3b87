"""Labelled face photos: a folder of identity/photo, an LMDB for training a recogniser or the generator, or a .rec."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from pathlib import Path
from typing import Literal, TypeVar

import msgpack
import numpy as np
from tqdm.auto import tqdm

from models.errors import UserError
from utils.data import heic
from utils.data.face_records import has_soft_label, label_of, soft_label_of
from utils.data.images import CONTACT_SHEET, EXTENSIONS, SIDE, decode_image, encode_jpeg, resize
from utils.data.masks import load_mask
from utils.data.rec_faces import RecFaces
from utils.data.soft_labels import SoftLabels, find_mixtures, soft_labels
from utils.data.training_lmdb import LazyLmdb
from utils.dataset.layout import ABOUT_SUFFIX, CLEANING_SUFFIX, HUB_SUFFIX, MANIFEST, REPORT_SUFFIX, SETTINGS

JPEG_QUALITY = 95  # of photos that are encoded again
BESIDE = (
    ABOUT_SUFFIX,
    REPORT_SUFFIX,
    HUB_SUFFIX,
    CLEANING_SUFFIX,
)  # suffixes of folders that belong to a dataset beside them
RECORDS = {MANIFEST, SETTINGS, "data.mdb"}  # files that mark a folder as a dataset, not as an identity
SHOWN = 5  # number of datasets named in a message

Label = TypeVar("Label")


class FaceSet:
    """N photos of C identities: FOLDER/identity/photo, an LMDB, a generated dataset in either form, or an MXNet .rec.

    A generated dataset may have its manifest, settings and contact sheet in its own folder or in NAME.about beside it.

    ``mask``: a ``.npy`` of the positions to use. ``labels`` (N,) int64: 0..C-1. ``identities``: their
    C names, each with at least one photo; with a mask only the remaining identities, relabelled from 0. Raises
    UserError when there are no photos, the folder holds several datasets, the labels are not consecutive, or the mask
    does not fit.

    ``mixtures``: what to do with images that are mixtures of two identities. "refuse": raise UserError; "first": take
    each for a photo of its first identity; "read": ``soft`` has their SoftLabels, ``labels`` are those of the first
    identities, and an identity may occur as a second one only. ``soft`` is None in all other cases.
    """

    def __init__(
        self,
        path: Path | str,
        mask: Path | str | None = None,
        mixtures: Literal["refuse", "first", "read"] = "refuse",
    ):
        self.path = Path(path)
        store = open_store(self.path)
        if mixtures == "refuse":
            refuse_mixtures(store, path)
        positions = load_mask(mask, len(store.labels), path) if mask else np.arange(len(store.labels))
        if not len(positions):
            raise UserError(f"{path}: no photos in it (looked for identity/photo{EXTENSIONS[0]} and for LMDB records).")
        self.store, self.positions, self.soft = store, positions, None
        labels = np.asarray(store.labels)[positions]
        if store.soft is not None and mixtures == "read":
            second, phi = (column[positions] for column in store.soft)  # (N,) each
            present, both = np.unique([labels, second], return_inverse=True)
            self.labels, second = both.reshape(2, -1)  # (2 N,) or (2, N), by NumPy's version -> (N,) each
            self.soft = SoftLabels(second, phi)
        else:
            present, self.labels = np.unique(labels, return_inverse=True)
        may_have_gaps = mask is not None or store.soft is not None
        if not may_have_gaps and (
            present[0] != 0 or len(present) != present[-1] + 1 or len(present) != store.class_count
        ):
            gap = next((i for i, label in enumerate(present) if i != label), len(present))
            raise UserError(
                f"{path}: labels must be 0 to C-1 with an image each: it has labels {present[0]} to {present[-1]} for "
                f"{store.class_count} identities, and "
                + (f"no image of identity {gap}." if gap < store.class_count else "so more than it says it has.")
            )
        self.identities = [store.identity_name(label) for label in present]

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, index: int) -> bytes:
        """The encoded bytes of a photo. Raises OSError or ValueError when they cannot be read."""
        return self.store.read(int(self.positions[index]))

    def image(self, index: int) -> np.ndarray:
        """A photo as (112, 112, 3) uint8 RGB. Raises OSError or ValueError when it is damaged."""
        return resize(decode_image(self.read(index)))

    def encoded(self, index: int) -> bytes:
        """The encoded bytes of a photo of 112x112 pixels; a photo of another size is resized and encoded again.

        Raises OSError or ValueError when it is damaged.
        """
        data = self.read(index)
        image = decode_image(data)
        keep = image.shape[:2] == (SIDE, SIDE) and not heic.is_heic(data)  # other readers of a dataset cannot read HEIC
        return data if keep else encode_jpeg(resize(image), JPEG_QUALITY)

    def name(self, index: int) -> str:
        """The name of a photo in messages: its path, or the LMDB and record number."""
        return self.store.name(int(self.positions[index]))

    def location(self, index: int) -> str:
        """The ``file`` or ``key`` of the photo in a manifest."""
        return self.store.location(int(self.positions[index]))

    def fingerprint(self) -> str:
        """Hexadecimal SHA-256 of the positions in use and of the names, sizes and modification times of the files."""
        digest = hashlib.sha256(self.positions.astype(np.int64).tobytes())
        for line in self.store.files():
            digest.update(f"{line}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def part(self, indices: np.ndarray) -> "FaceSet":
        """The photos ``indices`` (n,) as a set of their own, with the identities that have one, relabelled from 0."""
        part = copy(self)
        present, part.labels = np.unique(self.labels[indices], return_inverse=True)
        part.positions, part.identities = self.positions[indices], [self.identities[label] for label in present]
        return part

    def close(self) -> None:
        """Close the LMDB; reading a photo opens it again."""
        self.store.close()


class ChosenPhotos:
    """Some photos of a FaceSet, as a sequence that reads one at a time.

    ``indices`` (n,): their positions in ``faces``. Reading a photo that is damaged raises UserError with its name.
    """

    def __init__(self, faces: FaceSet, indices: np.ndarray):
        self.faces, self.indices = faces, indices

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> np.ndarray:
        index = int(self.indices[position])
        try:
            return self.faces.image(index)
        except (OSError, ValueError) as error:
            raise UserError(f"{self.faces.name(index)}: {error}") from error


def refuse_mixtures(store: "FolderFaces | LmdbFaces | RecFaces", path: Path | str) -> None:
    """Raise UserError when the images of a dataset have soft labels."""
    if store.soft is not None:
        raise UserError(
            f"{path}: each image is a mixture of two identities (--identity_mixup), and images of one identity are "
            "needed here; train_fr.py --data and measure_dataset.py read mixtures."
        )


def open_store(path: Path) -> "FolderFaces | LmdbFaces | RecFaces":
    """The store of a path. Raises UserError when there is nothing, or more than one dataset."""
    if not path.exists():
        raise UserError(f"{path}: no such folder or LMDB of photos.")
    if not path.is_dir() or (path / "data.mdb").exists():
        return open_file(path)
    people, datasets = list_people(path)
    files = sorted(file for suffix in ("lmdb", "rec") for file in path.glob(f"*.{suffix}"))
    datasets = sorted({*datasets, *(file.name for file in files)})
    if len(files) == len(datasets) == 1 and not people:
        return open_file(files[0])
    if datasets:
        more = f" and {len(datasets) - SHOWN} more" if len(datasets) > SHOWN else ""
        raise UserError(f"{path}: holds datasets, name one of them: {', '.join(datasets[:SHOWN])}{more}.")
    return FolderFaces(path, people)


def open_file(path: Path) -> "LmdbFaces | RecFaces":
    """The store of an LMDB, file or folder, or of a .rec."""
    if path.suffix in (".idx", ".lst"):
        raise UserError(f"{path}: the index of a dataset; name {path.with_suffix('.rec').name} beside it.")
    return RecFaces(path) if path.suffix == ".rec" else LmdbFaces(path)


def list_people(path: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """({identity: its photos} of FOLDER/identity/photo, names of the subfolders that are datasets)."""
    folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    described = {entry.stem for entry in folders if entry.suffix == ABOUT_SUFFIX and (entry / SETTINGS).exists()}
    people, datasets = {}, []
    for folder in folders:
        if folder.suffix in BESIDE:
            continue
        with os.scandir(folder) as entries:
            contents = list(entries)
        photos = sorted(folder / entry.name for entry in contents if is_photo(entry))
        if folder.name in described or is_dataset(contents, photos):
            datasets.append(folder.name)
        elif photos:
            people[folder.name] = photos
    return people, datasets


def is_photo(entry: os.DirEntry) -> bool:
    """Whether a folder entry is an image file, other than a contact sheet."""
    return Path(entry.name).suffix.lower() in EXTENSIONS and entry.name != CONTACT_SHEET and entry.is_file()


def is_dataset(entries: Iterable[os.DirEntry], photos: list[Path]) -> bool:
    """Whether a folder is a dataset, not an identity: it has a manifest or LMDB, or only folders of photos."""
    if any(entry.name in RECORDS or entry.name.endswith((".lmdb", ".rec")) for entry in entries):
        return True
    return not photos and any(holds_photos(entry) for entry in entries if entry.is_dir() and entry.name[0] != ".")


def holds_photos(folder: os.DirEntry) -> bool:
    """Whether there is an image file directly in a folder."""
    with os.scandir(folder) as entries:
        return any(map(is_photo, entries))


class FolderFaces:
    """FOLDER/identity/photo, identities in order of their names. ``people``: {identity: paths of its photos}."""

    def __init__(self, path: Path, people: dict[str, list[Path]]):
        self.path = path
        self.names = list(people)
        self.paths = [photo for photos in people.values() for photo in photos]
        self.labels = np.repeat(np.arange(len(people)), [len(photos) for photos in people.values()]).astype(np.int64)
        self.soft, mixtures = None, find_mixtures(path)
        if mixtures is not None:
            places = list(map(self.location, range(len(self.paths))))
            own = [photo.parent.name for photo in self.paths]
            self.names, self.labels, self.soft = soft_labels(path, places, own, mixtures)
        self.class_count = len(self.names)

    def files(self) -> Iterator[str]:
        """One line per photo, which changes when the file changes: its path, size and modification time."""
        for photo in self.paths:
            status = photo.stat()
            yield f"{photo.relative_to(self.path)} {status.st_size} {status.st_mtime_ns}"

    def read(self, position: int) -> bytes:
        """The encoded bytes of a photo. Raises OSError."""
        return self.paths[position].read_bytes()

    def name(self, position: int) -> str:
        """The path of a photo."""
        return str(self.paths[position])

    def location(self, position: int) -> str:
        """IDENTITY/PHOTO, as the ``file`` of a manifest line."""
        path = self.paths[position]
        return f"{path.parent.name}/{path.name}"

    def identity_name(self, label: int) -> str:
        """The folder of an identity."""
        return self.names[label]

    def close(self) -> None:
        """Nothing is kept open."""


class LmdbFaces:
    """An LMDB of records (image bytes, label) or (image bytes, feature, label). Raises UserError if it is not one.

    With identity mixup the records are (image bytes, label a, label b, phi).
    """

    def __init__(self, path: Path):
        self.path, self.lmdb, self.soft = path, LazyLmdb(path), None
        self.class_count, count = (self._number(key) for key in (b"__classnum__", b"__len__"))
        records = tqdm(range(count), desc="labels", unit="im", leave=False, delay=2)
        if count and self.lmdb.read(b"0", has_soft_label):
            first, second, phi = np.array([self._read(position, soft_label_of) for position in records]).T  # (N,) each
            self.labels, self.soft = first.astype(np.int64), SoftLabels(second.astype(np.int64), phi)
        else:
            self.labels = np.array([self._read(position, label_of) for position in records], np.int64)
        self.close()  # each process opens it again for itself

    def _number(self, key: bytes) -> int:
        data = self.lmdb.get(key)
        if not data:
            raise UserError(f"{self.path}: has no {key.decode()}; is it an LMDB of faces?")
        return int(msgpack.unpackb(data))

    def _read(self, position: int, label: Callable[[memoryview | bytes], Label]) -> Label:
        try:
            return self.lmdb.read(str(position).encode(), label)
        except (ValueError, IndexError, TypeError, msgpack.UnpackException) as error:
            raise UserError(f"{self.path}: record {position} is missing, or no face record ({error}).") from error

    def files(self) -> Iterator[str]:
        """One line, which changes when the LMDB changes: its name, size and modification time."""
        status = (self.path / "data.mdb" if self.path.is_dir() else self.path).stat()
        yield f"{self.path.name} {status.st_size} {status.st_mtime_ns}"

    def read(self, position: int) -> bytes:
        """The encoded image of a record."""
        return msgpack.unpackb(self.lmdb.get(str(position).encode()))[0]

    def name(self, position: int) -> str:
        """The LMDB and the number of a record, for messages."""
        return f"{self.path} record {position}"

    def location(self, position: int) -> str:
        """The ``key`` of a manifest line."""
        return str(position)

    def identity_name(self, label: int) -> str:
        """The label in six digits: an LMDB has no names of identities."""
        return f"{label:06d}"

    def close(self) -> None:
        """Close the LMDB; reading a record opens it again."""
        self.lmdb.close()
