"""Verification sets: pairs of photos of one identity or of two, read without executing anything in the files."""

import io
import lzma
import pickle
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO

import numpy as np

from models.errors import UserError
from utils.data.face_labels import load_labels
from utils.data.face_set import FaceSet
from utils.data.images import SIDE, decode_image, resize

ENDINGS = (".bin", ".xz", ".npz", ".npy")
ADMITTED = {  # names in pickles of arrays and of bytes, of old and new NumPy
    ("numpy", "ndarray"), ("numpy", "dtype"), ("numpy", "bool_"), ("_codecs", "encode"),
    *((f"numpy.{core}.multiarray", name) for core in ("core", "_core") for name in ("_reconstruct", "scalar")),
    *((f"numpy.{core}.numeric", "_frombuffer") for core in ("core", "_core")),
}  # fmt: skip


BYTEARRAYS = {("builtins", "bytearray"), ("__builtin__", "bytearray")}  # of Python 3 and 2


class PairSet:
    """P pairs of 2P ``images``, (112, 112, 3) uint8 RGB. A photo that is in several pairs is stored and encoded once.

    ``photos``: the U different photos; ``numbers`` (2P,): the photo of each image, pair p being 2p and 2p + 1; ``same``
    (P,) bool: whether a pair shows one identity.
    """

    def __init__(self, name, images, same):
        self.name, self.same = name, np.asarray(same, bool)
        kept = {}
        self.numbers = np.array([kept.setdefault(image.tobytes(), len(kept)) for image in images])  # (2P,)
        self.photos = [np.frombuffer(pixels, np.uint8).reshape(SIDE, SIDE, 3) for pixels in kept]


class PlainUnpickler(pickle.Unpickler):
    """Reads lists, bytes, booleans, numbers and NumPy arrays; refuses to execute anything else."""

    def find_class(self, module, name):
        if (module, name) in BYTEARRAYS:
            return bytes_of_bytearray
        if (module, name) not in ADMITTED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}")
        return super().find_class(module, name)


def bytes_of_bytearray(content: bytes | str = b"", encoding: str | None = None) -> bytes:
    """The bytes of a pickled bytearray, which old pickles store as text with one character per byte."""
    if isinstance(content, str):
        return content.encode("latin-1")
    if not isinstance(content, bytes):
        raise pickle.UnpicklingError("a bytearray of something else than bytes")
    return content


def load_pairs(path: Path | str) -> PairSet:
    """A PairSet from an InsightFace ``.bin``, a released ``.xz`` (the same, compressed), ``.npz`` (ours), or ``.npy``.

    The ``.npy`` holds images (2P, 112, 112, 3) or (2P, 3, 112, 112), with ``issame.txt`` or ``<name>_issame.txt``
    beside it: one line per pair, True/False or 1/0. Raises UserError when the file is damaged or hostile,
    or lacks pairs of either kind.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such verification set.")
    try:
        images, same = READERS[path.suffix](path)
    except KeyError as error:
        raise UserError(f"{path}: a verification set ends in {', '.join(ENDINGS)}.") from error
    except pickle.UnpicklingError as error:
        raise UserError(f"{path}: refused, or truncated: {error}.") from error
    except UserError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise UserError(f"{path}: not a verification set, or damaged ({error}).") from error
    if len(images) != 2 * len(same) or not len(same):
        raise UserError(f"{path}: {len(images)} images for {len(same)} pairs; every pair needs two.")
    if len(set(same)) < 2:
        raise UserError(f"{path}: needs pairs of one identity and pairs of two.")
    try:
        return PairSet(path.stem, map(as_image, images), same)
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}.") from error


def find_set(name: str, folder: Path | str) -> Path:
    """The file of a verification set by its name, with or without its ending, in a folder, or by its own path.

    NAME/NAME.npy is found as well, where the FR-training repository keeps sets. Raises UserError when there is none.
    """
    inside = Path(folder) / name
    array = f"{Path(name).name}.npy"
    with_endings = [Path(f"{inside}{ending}") for ending in ENDINGS]
    for path in (Path(name), inside, *with_endings, inside / array, Path(name, array)):
        if path.is_file():
            return path
    raise UserError(
        f"{folder}: no verification set called {name} "
        f"(looked for {name}, {name}{{{','.join(ENDINGS)}}} and {name}/{array})."
    )


def unpickle(file: BinaryIO) -> tuple[list, list[bool]]:
    """(images, issame), which files hold in either order."""
    first, second = PlainUnpickler(file, encoding="bytes").load()
    if len(first) < len(second):
        first, second = second, first
    return first, [bool(value) for value in second]


def read_bin(path: Path) -> tuple[list, list[bool]]:
    with open(path, "rb") as file:
        return unpickle(file)


def read_xz(path: Path) -> tuple[list, list[bool]]:
    with lzma.open(path) as file:
        return unpickle(file)


def read_npz(path: Path) -> tuple[list, np.ndarray]:
    content = np.load(path, allow_pickle=False)
    offsets = content["offsets"]
    data = content["data"].tobytes()
    return [data[a:b] for a, b in pairwise(offsets)], content["same"].tolist()


def read_npy(path: Path) -> tuple[np.ndarray, list[bool]]:
    candidates = (path.with_name(f"{path.stem}_issame.txt"), path.with_name("issame.txt"))
    listed = next((candidate for candidate in candidates if candidate.exists()), None)
    if listed is None:
        raise UserError(f"{path}: needs issame.txt beside it, with one line per pair.")
    words = {"true": True, "1": True, "false": False, "0": False}
    words |= {f"{value:.18e}": bool(value) for value in (0, 1)}  # as np.savetxt writes them
    lines = [line.strip().lower() for line in listed.read_text().splitlines() if line.strip()]
    if wrong := next((line for line in lines if line not in words), None):
        raise UserError(f"{listed}: a line is True or False (or 1, 0), not {wrong!r}.")
    return np.load(path, mmap_mode="r", allow_pickle=False), [words[line] for line in lines]


READERS = {".bin": read_bin, ".xz": read_xz, ".npz": read_npz, ".npy": read_npy}


def as_image(image: bytes | np.ndarray) -> np.ndarray:
    """Encoded bytes, also as an array, or pixels (H, W, 3) or (3, H, W), uint8 or in [-1, 1] -> (112, 112, 3) uint8."""
    if isinstance(image, (bytes, bytearray)):  # in a pickle of protocol 5 a bytearray is one
        return resize(decode_image(bytes(image)))
    image = np.asarray(image)
    if image.dtype == np.uint8 and image.size == max(image.shape):  # encoded: (N,), or (N, 1) by older OpenCV
        return resize(decode_image(image.tobytes()))
    if image.ndim == 3 and image.shape[0] == 3:
        image = image.transpose(1, 2, 0)  # (3, H, W) -> (H, W, 3)
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image of shape {image.shape}")
    if image.dtype != np.uint8:
        image = ((np.clip(image, -1, 1) + 1) * 127.5).round().astype(np.uint8)
    return resize(np.ascontiguousarray(image))


STYLES = {  # style of pairs -> conditions on the labels of the first photo and of the second
    "random": None,  # LFW
    "frontal_profile": (lambda one: abs(one["yaw"]) < 15, lambda one: abs(one["yaw"]) > 55),  # CFP-FP
    "light": (lambda one: one["light_azimuth"] < -30, lambda one: one["light_azimuth"] > 30),
    "quality": (lambda one: one["quality"] > 0.8, lambda one: one["quality"] < 0.4),
}


def draw_pairs(
    source: FaceSet | Path | str, count: int, seed: int, style: str = "random"
) -> tuple[np.ndarray, np.ndarray]:
    """``count`` different random pairs, half of them of one identity: (photo numbers (2 count,), same (count,) bool).

    ``style``: a key of STYLES; all but random need the labels of world/render_faces.py. Raises UserError when there are
    too few identities or photos.
    """
    faces = source if isinstance(source, FaceSet) else FaceSet(source)
    if style != "random":
        return draw_styled_pairs(faces, count, seed, *STYLES[style])
    rng = np.random.default_rng(seed)
    photos = [np.flatnonzero(faces.labels == label) for label in range(len(faces.identities))]
    with_pairs = [own for own in photos if len(own) > 1]
    if len(photos) < 2 or not with_pairs:
        raise UserError(f"{faces.path}: pairs need two identities, and one of them with two photos.")
    possible = (sum(len(own) * (len(own) - 1) // 2 for own in with_pairs), len(faces) * (len(faces) - 1) // 2)
    genuine, impostor = count - count // 2, count // 2
    if genuine > possible[0] or impostor > (possible[1] - possible[0]) // 2:
        raise UserError(f"{faces.path}: too few photos for {count} different pairs.")
    pairs = {}
    while len(pairs) < genuine:
        own = with_pairs[rng.integers(len(with_pairs))]
        pairs[tuple(sorted(rng.choice(own, 2, replace=False).tolist()))] = True
    while len(pairs) < count:
        a, b = sorted(rng.choice(len(photos), 2, replace=False).tolist())
        pairs[int(rng.choice(photos[a])), int(rng.choice(photos[b]))] = False
    order = rng.permutation(count)
    numbers, same = np.array(list(pairs))[order], np.array(list(pairs.values()))[order]
    return numbers.reshape(-1), same


def draw_styled_pairs(
    faces: FaceSet, count: int, seed: int, is_first: Callable[[dict], bool], is_second: Callable[[dict], bool]
) -> tuple[np.ndarray, np.ndarray]:
    """``draw_pairs`` of photos whose labels satisfy ``is_first`` and ``is_second``, one of each in a pair."""
    rng, labels = np.random.default_rng(seed), load_labels(faces)
    firsts, seconds = (of_each_identity(faces, [fits(line) for line in labels]) for fits in (is_first, is_second))
    both = [label for label in range(len(faces.identities)) if len(firsts[label]) and len(seconds[label])]
    possible = sum(len(firsts[label]) * len(seconds[label]) for label in both)
    if len(both) < 2 or possible < count - count // 2 or possible * (len(both) - 1) < count:
        raise UserError(f"{faces.path}: too few photos of this kind for {count} different pairs.")
    pairs = {}
    while len(pairs) < count:
        same = len(pairs) < count - count // 2
        a = both[rng.integers(len(both))]
        b = a if same else both[rng.integers(len(both))]
        if same or a != b:
            pairs[int(rng.choice(firsts[a])), int(rng.choice(seconds[b]))] = same
    order = rng.permutation(count)
    numbers, same = np.array(list(pairs))[order], np.array(list(pairs.values()))[order]
    return numbers.reshape(-1), same


def of_each_identity(faces: FaceSet, chosen: list[bool]) -> list[np.ndarray]:
    """The numbers of the chosen photos of each identity. ``chosen``: (N,)."""
    return [np.flatnonzero((faces.labels == label) & chosen) for label in range(len(faces.identities))]


def save_pairs(path: Path | str, encoded: list[bytes], same: np.ndarray) -> None:
    """Write pairs of 2P encoded images as ``.npz``, which needs no pickle. ``same``: (P,) bool."""
    offsets = np.cumsum([0] + [len(data) for data in encoded])
    buffer = io.BytesIO()
    np.savez(buffer, data=np.frombuffer(b"".join(encoded), np.uint8), offsets=offsets, same=np.asarray(same, bool))
    Path(path).write_bytes(buffer.getvalue())
