"""The soft labels of images that are mixtures of two identities: where a folder of identities has them.

An LMDB has them in its records. For a folder they are in the manifest of a generated dataset, or in the labels.jsonl of
a rendered one.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from models.errors import UserError
from utils.data.images import LABELS
from utils.data.mixup import MIXTURE, SETTING
from utils.dataset.layout import find_manifest, find_settings


class SoftLabels(NamedTuple):
    """Beside the label of each of N images: that of its second identity, (N,), and the share of the first, (N,)."""

    second: np.ndarray
    phi: np.ndarray


def find_mixtures(root: Path) -> dict[str, dict[str, Any]] | None:
    """{IDENTITY/PHOTO: its ``mixture_entry``} of a folder of identities; None where the images are no mixtures.

    Raises UserError when the settings say that they are, and the file that names the mixtures is missing or damaged.
    """
    settings = find_settings(root)
    if settings is None or SETTING not in content_of(settings):
        return None
    path = find_manifest(root) or root / LABELS
    try:
        return {line["file"]: line[MIXTURE] for line in lines_of(path) if line["file"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: missing or damaged, and nothing else says which identities the images of {root} are mixtures of."
        ) from error


def content_of(settings: Path) -> dict[str, Any]:
    """The settings of a generated or a rendered dataset, empty where the file is of neither."""
    try:
        content = json.loads(settings.read_text())
        return content.get("settings", content) if isinstance(content, dict) else {}
    except ValueError:
        return {}


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a file of JSON lines."""
    with open(path) as file:
        yield from map(json.loads, file)


def soft_labels(
    root: Path, locations: list[str], own: list[str], mixtures: dict[str, dict[str, Any]]
) -> tuple[list[str], np.ndarray, SoftLabels]:
    """(names of all identities, labels (N,), SoftLabels) of images, labels being positions among the names.

    ``locations``: IDENTITY/PHOTO of each image; ``own``: the name of its first identity; ``mixtures``: the result of
    ``find_mixtures``. An identity may occur as a second one only. Raises UserError for an image without an entry.
    """
    unknown = next((location for location in locations if location not in mixtures), None)
    if unknown is not None:
        raise UserError(f"{root}: its images are mixtures of two identities, but nothing says which {unknown} mixes.")
    others = [mixtures[location]["name"] for location in locations]
    names = sorted({*own, *others})
    number = {name: label for label, name in enumerate(names)}
    labels, second = (np.array([number[name] for name in column], np.int64) for column in (own, others))
    phi = np.array([mixtures[location]["phi"] for location in locations], np.float64)
    return names, labels, SoftLabels(second, phi)
