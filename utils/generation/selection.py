"""Which of an identity's finished images are kept: the best of them, and with a reserve only complete identities."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

import numpy as np

from utils.dataset.image_record import INCOMPLETE, NOT_BEST, ImageRecord


class Finished(Protocol):
    """An image, (112, 112, 3) uint8 or None if no attempt passed the gate, with its record. A dataclass."""

    pixels: np.ndarray | None
    record: ImageRecord


Image = TypeVar("Image", bound=Finished)


@dataclass(frozen=True)
class Selection:
    """``keep``: the most images of an identity that are kept, those of the highest ``score``, the name of a measure.

    Without a score they are the first ones. ``complete``: an identity with fewer images than ``keep`` has none at all.
    """

    keep: int
    score: str | None = None
    complete: bool = False

    def __call__(self, images: Sequence[Image]) -> list[Image]:
        """The images of one identity, in order, with those that are not kept left out as the gate leaves them out."""
        passed = [place for place, image in enumerate(images) if image.pixels is not None]
        if self.complete and len(passed) < self.keep:
            reason = f"{INCOMPLETE}: {len(passed)} of {self.keep} images"
            return [image if image.pixels is None else left_out(image, reason) for image in images]
        if self.score is not None:
            passed.sort(key=lambda place: (-images[place].record.measured[self.score], place))
        kept, reason = set(passed[: self.keep]), f"{NOT_BEST} {self.keep}"
        return [
            kept_image(image) if place in kept else image if image.pixels is None else left_out(image, reason)
            for place, image in enumerate(images)
        ]


def kept_image(image: Image) -> Image:
    """An image that is written, marked as accepted."""
    return replace(image, record=replace(image.record, passed=True))


def left_out(image: Image, reason: str) -> Image:
    """An image that is not written; what was measured of it moves to its attempts, with the reason."""
    record = image.record
    tries = (*record.tries, record.measured | {"reason": reason})
    return replace(image, pixels=None, record=replace(record, measured={}, passed=False, tries=tries))
