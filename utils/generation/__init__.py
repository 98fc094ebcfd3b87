"""Generation from Python: ``generate`` turns Identities into images as a Recipe says.

The names are imported when they are first used, as loading torch takes seconds.
"""

from importlib import import_module

HOMES = {"Identity": "recipe", "Recipe": "recipe", "generate": "pipeline"}


def __getattr__(name):
    if name not in HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{HOMES[name]}"), name)
