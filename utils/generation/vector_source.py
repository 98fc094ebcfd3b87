"""Identity vectors from a file."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from models.errors import UserError
from models.weight_files import sha256
from utils.data.slices import parse_slice
from utils.generation.recipe import Identity
from utils.generation.reserve import check_apart

CHECKED_ROWS = 8192  # rows checked at a time, so that a large file is never in memory as a whole


class VectorSource:
    """Identity vectors from an ``.npy`` of floats (K, width); an identity is named by its six-digit number.

    ``start_end``: FIRST:END of the rows, None for all; ``start_class_id``: number of the identity in row 0;
    ``usual_norm``: mean norm of the vectors that the generator was trained on, if known; very different norms give a
    warning. ``reserve``: an ``.npy`` of further identities, whose rows and numbers follow those of the file;
    ``reserve_rows``: their rows. Raises UserError when a file is missing, damaged, of another shape or type, or has a
    zero, NaN or infinite row, or one vector is in both. ``any_norm``: no norm gives a warning.
    """

    def __init__(
        self, path: Path | str, start_end: str | None = None, start_class_id: int = 0, width: int = 512,
        usual_norm: float | None = None, reserve: Path | str | None = None, any_norm: bool = False,
    ):  # fmt: skip
        self.vectors = load_vectors(path, width)
        self.reserve = load_vectors(reserve, width) if reserve else self.vectors[:0]
        check_apart(self.reserve, reserve, self.vectors, str(path))
        self.slice = parse_slice(start_end, len(self.vectors))
        self.first = start_class_id
        self.reserve_rows = range(len(self.vectors), len(self.vectors) + len(self.reserve))
        self.names = {row: f"{row + start_class_id:06d}" for row in (*self.slice, *self.reserve_rows)}
        self.origin, self.fingerprint = str(path), sha256(path)
        self.warnings, self.skipped, self.note = [], [], None
        norm = float(np.median(np.linalg.norm(self.vectors[self.slice.start : self.slice.start + 1000], axis=1)))
        if any_norm:
            return
        if usual_norm and not 0.5 < norm / usual_norm < 2:
            self.warnings.append(
                f"{path}: the vectors have norm {norm:.2f}; the generator was trained on norms about {usual_norm:.1f}."
            )
        elif norm < 2:
            self.warnings.append(
                f"{path}: the vectors have norm {norm:.2f}; the generator expects unnormalised features, norm about 20."
            )

    def identities(self, rows: Iterable[int]) -> Iterator[Identity]:
        """Iterate over the identities of some rows."""
        for row in rows:
            inside = row < len(self.vectors)
            vector = self.vectors[row] if inside else self.reserve[row - len(self.vectors)]
            yield Identity(row + self.first, self.names[row], np.array(vector, np.float32))

    def everyone(self) -> tuple[list[int], np.ndarray]:
        """(rows, vectors (K, 512)) of all identities, also of those outside the slice and in reserve."""
        vectors = np.concatenate([self.vectors, self.reserve], dtype=np.float32, casting="same_kind")  # (K + R, 512)
        return list(range(len(vectors))), vectors


def load_vectors(path: Path | str, width: int) -> np.ndarray:
    """The vectors (K, width) of an ``.npy`` file, memory-mapped. Raises UserError as VectorSource does."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file of identity vectors.")
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        what = "holds Python objects" if "Python objects in dtype" in str(error) else "truncated, or not an .npy file"
        raise UserError(
            f"{path}: {what}; it needs to be a NumPy array of floats, (number of identities, {width})."
        ) from error
    if not isinstance(vectors, np.ndarray) or vectors.ndim != 2 or vectors.shape[1] != width or len(vectors) == 0:
        shape = getattr(vectors, "shape", "an archive")
        raise UserError(f"{path}: has shape {shape}; identity vectors have shape (number of identities, {width}).")
    if not np.issubdtype(vectors.dtype, np.floating):
        raise UserError(f"{path}: holds {vectors.dtype} numbers; identity vectors are floats.")
    for start in range(0, len(vectors), CHECKED_ROWS):
        block = np.asarray(vectors[start : start + CHECKED_ROWS], np.float64)
        norms = np.linalg.norm(block, axis=1)
        bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
        if bad.size:
            what = "all zero" if norms[bad[0]] == 0 else "NaN or infinite"
            raise UserError(f"{path}: row {start + bad[0]} is {what}; remove such rows and try again.")
    return vectors
