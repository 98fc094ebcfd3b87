"""Where a generated dataset's files lie. ``NAME/`` holds the people and nothing else, as the released code leaves it.

The manifest, the settings, the contact sheet and the parts of running processes lie in ``NAME.about/`` beside it, so
that a reader which takes every entry of a dataset's folder for a person finds only people. Earlier versions kept these
files in ``NAME/`` itself; utils/dataset/migration.py moves them.
"""

import json
from pathlib import Path

from models.errors import UserError
from utils.data.images import CONTACT_SHEET

ABOUT_SUFFIX = ".about"
REPORT_SUFFIX = ".report"  # of the folder that scripts write their reports on a dataset into
HUB_SUFFIX = ".hub"  # of the folder that holds what scripts/push_dataset.py uploads
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
    root = root if root.name not in ("", "..") else root.resolve()  # the current folder has no name of its own
    return root.with_name(root.name + suffix)


def about_folder(root: Path | str) -> Path:
    """The folder that holds what is known of the dataset ``root``."""
    return beside(root, ABOUT_SUFFIX)


def hub_folder(root: Path | str) -> Path:
    """The folder that holds the export of the dataset ``root`` for the Hugging Face Hub."""
    return beside(root, HUB_SUFFIX)


def manifest_path(root: Path | str) -> Path:
    return about_folder(root) / MANIFEST


def settings_path(root: Path | str) -> Path:
    return about_folder(root) / SETTINGS


def parts_folder(root: Path | str) -> Path:
    return about_folder(root) / PARTS


def contact_sheet_path(root: Path | str) -> Path:
    return about_folder(root) / CONTACT_SHEET


def find_settings(root: Path | str) -> Path | None:
    """The settings of a dataset of either layout, None where there are none."""
    paths = (settings_path(root), Path(root) / SETTINGS)
    return next((path for path in paths if path.is_file()), None)


def has_old_layout(root: Path | str) -> bool:
    """Whether an earlier version wrote this dataset, with its settings among the people."""
    return (Path(root) / SETTINGS).is_file()


def find_manifest(root: Path | str) -> Path | None:
    """The manifest of a dataset of either layout, None where there is none."""
    paths = (manifest_path(root), Path(root) / MANIFEST)
    return next((path for path in paths if path.is_file()), None)


def read_settings(path: Path) -> dict:
    """``{"settings": ..., "environment": ...}`` of a dataset. Raises UserError when the file is damaged."""
    try:
        content = json.loads(path.read_text())
        if isinstance(content["settings"], dict):
            return content
    except (ValueError, KeyError, TypeError):
        pass
    raise UserError(f"{path} is damaged: restore it, or start again with --overwrite.")
