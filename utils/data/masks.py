"""Masks: which records of a dataset to use, an ``.npy`` of positions in the published form.

Masks written by this project also store the number of records of the dataset, as a second array after the positions
(``np.save`` called twice on one file). ``np.load`` ignores it, and it stays with the file when that is moved.
"""

import io
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from models.errors import UserError


def save_mask(path: Path | str, positions: ArrayLike, count: int) -> None:
    """Write a mask: ``positions`` (n,), integers from 0 to ``count`` - 1, of a dataset of ``count`` records.

    Raises UserError when the file exists with other content.
    """
    content = io.BytesIO()
    np.save(content, np.asarray(positions, np.int64))
    np.save(content, np.int64(count))
    path = Path(path)
    if path.exists() and path.read_bytes() != content.getvalue():
        raise UserError(f"{path}: exists and is another mask; delete it, or choose another folder.")
    path.write_bytes(content.getvalue())


def load_mask(path: Path | str, count: int, source: Path | str) -> np.ndarray:
    """The positions to use, (n,) integers, among the ``count`` records of ``source``.

    Raises UserError when the file is not a mask, or was made for another number of records.
    """
    try:
        mask, made_for = read_mask(path)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a mask (.npy of whole numbers): {error}") from error
    if mask.ndim != 1 or not np.issubdtype(mask.dtype, np.integer) or mask.size == 0:
        raise UserError(f"{path}: a mask is a list of whole numbers, this is {mask.dtype} of shape {mask.shape}.")
    if made_for not in (None, count):
        raise UserError(
            f"{path}: was made for {made_for} photos, {source} has {count}, so its positions mean other photos. "
            f"Make it anew: scripts/small_portion_training_mask.py --data {source}"
        )
    if mask.min() < 0 or mask.max() >= count:
        raise UserError(f"{path}: has positions {mask.min()} to {mask.max()}; {source} has {count} records.")
    return mask


def read_mask(path: Path | str) -> tuple[np.ndarray, int | None]:
    """(positions, number of records or None) of a file. Raises OSError, ValueError or TypeError if it is not a mask."""
    with open(path, "rb") as file:
        mask = np.lib.format.read_array(file, allow_pickle=False)
        rest = file.read()  # empty in published masks and in those of other tools
    return mask, int(np.lib.format.read_array(io.BytesIO(rest), allow_pickle=False)) if rest else None
