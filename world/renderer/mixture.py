"""A person between two others: identity mixup of the parameters that the renderer makes a person of.

Pose, expression, light and everything else of a photo are no parameters of a person, and stay as they are.
"""

from typing import Any

import numpy as np

from world.renderer.person import Traits
from world.renderer.regions import Look

# What belongs to a hair cut: the length of one means nothing in another, and there is no cut between two.
HAIR = (
    "cut", "hair_cover", "hair_waves", "hairline", "recession", "peak", "sideburn", "bald_top", "length", "thickness",
    "fade", "fringe", "part", "opening", "wild", "locks", "curl", "curl_rate",
)  # fmt: skip


def mix_traits(first: Traits, second: Traits, phi: float) -> Traits:
    """phi ``first`` + (1 - phi) ``second`` of all numbers and colours.

    Hair cut and moles are those of the larger share, with equal shares of the first.
    """
    phenotypes, shapes = (
        {name: mixed(value, theirs[name], phi) for name, value in own.items()}
        for own, theirs in ((first.phenotypes, second.phenotypes), (first.shapes, second.shapes))
    )
    return Traits(phenotypes, shapes, mix_looks(first.look, second.look, phi))


def mix_looks(first: Look, second: Look, phi: float) -> Look:
    """The appearance of ``mix_traits``."""
    main = first if phi >= 0.5 else second
    whole = {*HAIR, "moles"}
    return {name: main[name] if name in whole else mixed(value, second[name], phi) for name, value in first.items()}


def mixed(first: Any, second: Any, phi: float) -> Any:
    """phi ``first`` + (1 - phi) ``second``: of two numbers, of two colours, or of two tuples of numbers."""
    if isinstance(first, tuple):
        return tuple(mixed(a, b, phi) for a, b in zip(first, second, strict=True))
    if isinstance(first, np.ndarray):
        return (phi * first + (1 - phi) * second).astype(first.dtype)
    return phi * first + (1 - phi) * second
