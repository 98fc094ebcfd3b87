"""Masks: which records of a dataset to use, an ``.npy`` of positions in the published form.

A mask of ours also keeps how many records there were. It stands behind the positions as a second array, which
``np.load`` leaves alone (``np.save`` twice into one file), so it cannot be lost when the file is moved or renamed.
"""

import io
from pathlib import Path

import numpy as np

from models.errors import UserError


def save_mask(path, positions, count):
    """Write ``positions`` (n,) integers into ``count`` records. A file that holds something else is left alone.

    Raises UserError when there is one; the same mask once more changes nothing.
    """
    content = io.BytesIO()
    np.save(content, np.asarray(positions, np.int64))
    np.save(content, np.int64(count))
    path = Path(path)
    if path.exists() and path.read_bytes() != content.getvalue():
        raise UserError(f"{path}: exists and is another mask; delete it, or choose another folder.")
    path.write_bytes(content.getvalue())


def load_mask(path, count, source):
    """Positions to use, (n,) integers, of the ``count`` records of ``source``.

    Raises UserError when the file is no mask, or one of another number of records.
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


def read_mask(path):
    """(positions, number of records or None) of a mask file. Raises OSError, ValueError or TypeError if none."""
    with open(path, "rb") as file:
        mask = np.lib.format.read_array(file, allow_pickle=False)
        rest = file.read()  # nothing in a published mask, or one made elsewhere
    return mask, int(np.lib.format.read_array(io.BytesIO(rest), allow_pickle=False)) if rest else None
