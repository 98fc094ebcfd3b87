"""Whether photos look like aligned face crops, judged by their size."""

from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from utils.data import heic
from utils.data.images import SIDE

LARGEST = 2 * SIDE  # pixels; a square photo up to this side may be an aligned crop


def unaligned_photos(paths: Iterable[Path]) -> list[str]:
    """A line for the user on photos that are not square or are much larger than a crop, with an example; or no line.

    Files that cannot be opened are ignored here; reading them reports the error.
    """
    paths = list(paths)
    sizes = ((path, size) for path in paths if (size := image_size(path)) is not None)
    unaligned = [(path, size) for path, size in sizes if size[0] != size[1] or size[0] > LARGEST]
    if not unaligned:
        return []
    path, (width, height) = unaligned[0]
    return [
        f"{len(unaligned)} of {len(paths)} photos are not aligned {SIDE}x{SIDE} face crops, for example {path} "
        f"({width}x{height}). They are squeezed to {SIDE}x{SIDE} as they are; --align finds and aligns the face first."
    ]


def image_size(path: Path) -> tuple[int, int] | None:
    """(width, height) in pixels from a photo's header, None if it cannot be opened."""
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # only the header is read, however large the photo
    try:
        if heic.is_named_heic(path):
            heic.register()
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError):
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = limit
