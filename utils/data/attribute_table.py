"""Tables of what photos show: a value a photo in each column, from labels.jsonl, another JSONL file, or a CSV file."""

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.errors import UserError
from utils.data.face_labels import read_labels
from utils.data.face_set import FaceSet, FolderFaces
from utils.data.images import LABELS

PHOTO = "file"  # the column that names the photo: IDENTITY/PHOTO
SHOWN = 12  # number of columns named in a message


class Labelled(NamedTuple):
    """The photos of a FaceSet that have a value in all columns: their indices (N,), and their values (N, A) float32."""

    indices: np.ndarray
    values: np.ndarray


def labelled_photos(faces: FaceSet, columns: Sequence[str], table: Path | str | None = None) -> Labelled:
    """Read some columns of a table of the photos of ``faces``.

    ``table``: a ``.csv`` file with a line of column names, or JSON lines; the column "file" names the photo as
    IDENTITY/PHOTO, or in an LMDB line k is that of record k. By default FOLDER/labels.jsonl, or NAME.jsonl beside
    NAME.lmdb. A value is a number, or true or false, which are 1 and 0. Columns may lie in a dictionary, such as
    "expression" in labels.jsonl: where that leaves one out, its value is 0. Photos that the table leaves out are left
    out. Raises UserError for a table that cannot be read, an unknown column, or a value that is not a number.
    """
    is_folder = isinstance(faces.store, FolderFaces)
    path = Path(table or (faces.path / LABELS if is_folder else faces.path.with_suffix(".jsonl")))
    lines = read_table(path)
    known = dict.fromkeys(name for line in lines for name in flat(line))
    for column in columns:
        if column not in known:
            names = ", ".join(list(known)[:SHOWN]) + (", ..." if len(known) > SHOWN else "")
            raise UserError(f"{path}: no column {column}; it has {names}.")
    of_photo = {line.get(PHOTO): line for line in lines} if is_folder else dict(enumerate(lines))
    places = [faces.location(index) if is_folder else int(faces.positions[index]) for index in range(len(faces))]
    rows = {index: of_photo[place] for index, place in enumerate(places) if place in of_photo}
    values = {index: [value_in(line, column, path) for column in columns] for index, line in rows.items()}
    indices = [index for index, row in values.items() if None not in row]
    if not indices:
        raise UserError(f"{path}: names no photo of {faces.path}; its column {PHOTO} has to hold IDENTITY/PHOTO.")
    return Labelled(np.array(indices), np.array([values[index] for index in indices], np.float32))


def read_table(path: Path) -> list[dict[str, Any]]:
    """The lines of a table. Raises UserError when it cannot be read."""
    if path.suffix.lower() != ".csv":
        return read_labels(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{path}: not a readable table: {getattr(error, 'strerror', None) or error}.") from error


def flat(line: dict[str, Any]) -> dict[str, Any]:
    """A line with the contents of its dictionaries beside its other columns."""
    inner = {name: value for part in line.values() if isinstance(part, dict) for name, value in part.items()}
    return {name: value for name, value in line.items() if not isinstance(value, dict)} | inner


def value_in(line: dict[str, Any], column: str, path: Path) -> float | None:
    """A value of a line, None where it has none. Raises UserError when it is not a number."""
    has_parts = any(isinstance(part, dict) for part in line.values())
    text = flat(line).get(column, 0.0 if has_parts else None)
    if text is None or text == "":
        return None
    try:
        value = {"true": 1.0, "false": 0.0}.get(text.lower()) if isinstance(text, str) else float(text)
        value = float(text) if value is None else value
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{path}: {column} of {line.get(PHOTO, 'a photo')} is {text!r}, which is not a number.")
    return value
