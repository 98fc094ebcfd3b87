"""The file layout of a generated dataset. ``NAME/`` holds only the identities, as in the released code.

The manifest, the settings, the contact sheet and the parts of running processes are in ``NAME.about/`` beside it, for
readers that take every entry of a dataset's folder for an identity. Earlier versions kept these files in ``NAME/``
itself; utils/dataset/migration.py moves them.
"""

import json
from pathlib import Path
from typing import Any

from models.errors import UserError
from utils.data.images import CONTACT_SHEET

ABOUT_SUFFIX = ".about"
REPORT_SUFFIX = ".report"  # suffix of the folder for reports on a dataset
CLEANING_SUFFIX = ".cleaning"  # suffix of the folder that scripts/clean_dataset.py writes
HUB_SUFFIX = ".hub"  # suffix of the folder that scripts/push_dataset.py uploads
MANIFEST = "manifest.jsonl"
SETTINGS = "settings.json"
PARTS = "parts"


def dataset_root(path: Path | str) -> Path:
    """The folder of a generated dataset, which the user may have named by its LMDB, NAME/NAME.lmdb."""
    path = Path(path)
    return path.parent if path.is_file() else path


def beside(root: Path | str, suffix: str) -> Path:
    """The folder beside the dataset ``root`` that has its name and a suffix."""
    root = Path(root)
    root = root if root.name not in ("", "..") else root.resolve()  # Path(".") and Path("..") have no name
    return root.with_name(root.name + suffix)


def about_folder(root: Path | str) -> Path:
    """The folder ``NAME.about`` of the dataset ``root``."""
    return beside(root, ABOUT_SUFFIX)


def hub_folder(root: Path | str) -> Path:
    """The folder ``NAME.hub`` with the export of the dataset ``root`` for the Hugging Face Hub."""
    return beside(root, HUB_SUFFIX)


def manifest_path(root: Path | str) -> Path:
    """The manifest of a dataset: a line of JSON for every image."""
    return about_folder(root) / MANIFEST


def settings_path(root: Path | str) -> Path:
    """The settings of a dataset, from which its images follow."""
    return about_folder(root) / SETTINGS


def parts_folder(root: Path | str) -> Path:
    """The folder of the parts that running processes are writing."""
    return about_folder(root) / PARTS


def contact_sheet_path(root: Path | str) -> Path:
    """The preview of a dataset: images of its first identities."""
    return about_folder(root) / CONTACT_SHEET


def find_settings(root: Path | str) -> Path | None:
    """The settings of a dataset of either layout, None where there are none."""
    paths = (settings_path(root), Path(root) / SETTINGS)
    return next((path for path in paths if path.is_file()), None)


def has_old_layout(root: Path | str) -> bool:
    """Whether an earlier version wrote this dataset, with its settings in the folder of the identities."""
    return (Path(root) / SETTINGS).is_file()


def find_manifest(root: Path | str) -> Path | None:
    """The manifest of a dataset in either layout, None if there is none."""
    paths = (manifest_path(root), Path(root) / MANIFEST)
    return next((path for path in paths if path.is_file()), None)


def read_settings(path: Path) -> dict[str, Any]:
    """``{"settings": ..., "environment": ...}`` of a dataset. Raises UserError when the file is damaged."""
    try:
        content = json.loads(path.read_text())
        if isinstance(content["settings"], dict):
            return content
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} is damaged: restore it, or start again with --overwrite.")
