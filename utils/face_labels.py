"""The labels that render_faces.py writes beside its photos."""

import json

from utils.errors import UserError
from utils.face_set import FolderFaces

LABELS = "labels.jsonl"


def load_labels(faces):
    """[{"yaw", "pitch", ...}] of the photos of a FaceSet: from FOLDER/labels.jsonl, or NAME.jsonl beside NAME.lmdb.

    Raises UserError when there is no such file, or it does not have every photo.
    """
    in_folder = isinstance(faces.store, FolderFaces)
    path = faces.path / LABELS if in_folder else faces.path.with_suffix(".jsonl")
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if in_folder:
            known = {line["file"]: line for line in lines}
            paths = [faces.store.paths[position] for position in faces.positions]
            return [known[str(photo.relative_to(faces.path))] for photo in paths]
        return [lines[position] for position in faces.positions]
    except OSError as error:
        raise UserError(f"{path}: no labels of these photos; scripts/render_faces.py writes them.") from error
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not the labels of {faces.path}, or damaged: {error}.") from error
