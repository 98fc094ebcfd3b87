"""Whether the settings of a run are those of a dataset that exists."""

from pathlib import Path
from typing import Any

from models.errors import UserError
from utils.dataset.layout import read_settings, settings_path

Settings = dict[str, Any]  # plain JSON values
NAMES = {"complete": "the number of images that each identity must have, or the reserve replaces it,"}


def check_settings(root: Path, settings: Settings) -> bool:
    """Whether the existing dataset needs more images per identity. Raises UserError when its other settings differ."""
    stored = read_settings(settings_path(root))["settings"]
    old, new = flat(stored), flat(settings)
    differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    if "example" in differing and isinstance(old.get("example"), int) and new["example"] > old["example"]:
        differing.remove("example")
    if differing == ["identities"]:
        raise UserError(
            f"{root} was made of other identity vectors or photos: the file has changed, or a photo was added, "
            "removed or changed. Give another --name, or --overwrite to start again."
        )
    differing = [name for name in differing if name != "identities"]  # which other settings changed, too
    if differing:
        values = "; ".join(
            f"{NAMES.get(name, name)} is {shown(old.get(name))} there and {shown(new.get(name))} now"
            for name in differing
        )
        raise UserError(
            f"{root} holds a dataset with other settings: {values}. Give another --name, or --overwrite to start again."
        )
    return settings.get("example") != stored.get("example")


def flat(settings: Settings) -> Settings:
    """Settings without nested dictionaries: those of ``"attrop"`` by their own names."""
    nested = settings.get("attrop")
    return {name: value for name, value in settings.items() if name != "attrop"} | (nested or {"skip_attrop": True})


def shown(value: Any) -> str:
    """A setting in a message: hashes and long numbers cut short."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value[:12]}..." if isinstance(value, str) and len(value) == 64 else str(value)
