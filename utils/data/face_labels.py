"""The labels (head pose and other attributes) that world/render_faces.py writes beside its photos."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models.errors import UserError
from utils.data.face_set import FaceSet, FolderFaces
from utils.data.images import LABELS

Label = dict[str, Any]  # {"file": ..., "yaw": degrees, "pitch": degrees, ...}


def load_labels(faces: FaceSet) -> list[Label]:
    """The labels of all photos of a FaceSet, from FOLDER/labels.jsonl, or from NAME.jsonl beside NAME.lmdb.

    Raises UserError when the file is missing or lacks a photo.
    """
    if isinstance(faces.store, FolderFaces):
        paths = [faces.store.paths[position] for position in faces.positions]
        return labels_by_name(faces.path / LABELS, [str(path.relative_to(faces.path)) for path in paths])
    path = faces.path.with_suffix(".jsonl")
    lines = read_labels(path)
    if faces.positions.max() >= len(lines):
        raise UserError(f"{path}: not the labels of {faces.path}: only {len(lines)} lines.")
    return [lines[position] for position in faces.positions]


def labels_by_name(path: Path | str, names: Sequence[str]) -> list[Label]:
    """The labels of the photos called ``names``: IDENTITY/PHOTO, or paths that begin with the folder of the labels.

    Raises UserError when the file cannot be read or lacks a photo.
    """
    try:
        known = {line["file"]: line for line in read_labels(path)}
        known |= {str(Path(path).parent / file): line for file, line in known.items()}
        return [known[name] for name in names]
    except (KeyError, TypeError) as error:
        raise UserError(f"{path}: not the labels of these photos: no {error}.") from error


def read_labels(path: Path | str) -> list[Label]:
    """All lines of a label file. Raises UserError when it cannot be read."""
    try:
        return [json.loads(line) for line in Path(path).read_text().splitlines()]
    except OSError as error:
        raise UserError(f"{path}: no labels of these photos; world/render_faces.py writes them.") from error
    except ValueError as error:
        raise UserError(f"{path}: damaged labels: {error}.") from error
