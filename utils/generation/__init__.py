"""Generation from Python: ``generate`` turns Identities into images as a Recipe says.

The names are imported on first use, because importing torch takes seconds.
"""

from importlib import import_module
from typing import Any

HOMES = {"Identity": "recipe", "Recipe": "recipe", "generate": "pipeline"}


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
