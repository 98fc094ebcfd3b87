"""Reading, aligning and encoding face images; contact sheets."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from models.errors import UserError
from utils.data import heic
from utils.data.image_format import check_complete

SIDE = 112  # pixels, of all images that the models see
CONTACT_SHEET = "contact_sheet.jpg"  # a preview beside a dataset, not one of its images
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", *heic.readable_extensions())

cv2.setNumThreads(1)  # the project uses threads and processes of its own
LABELS = "labels.jsonl"  # what rendered photos show, beside them
OWN_FILES = {LABELS, "manifest.jsonl", "settings.json"}  # that rendering and generation write beside photos


def list_images(source: Path | str, extensions: Sequence[str] = EXTENSIONS, what: str = "images") -> list[Path]:
    """The image files of a folder and its subfolders, of a ``.txt`` list of paths, or one file; sorted, each once.

    Paths in a list are relative to the current folder or, if no such file exists, to the list. ``extensions`` and
    ``what``: the file types to list, and their name in messages. Raises UserError when there are none.
    """
    source = Path(source)
    if source.is_dir():
        paths = [path for path in files_below(source) if path.suffix.lower() in extensions and path.is_file()]
        paths = [path for path in paths if path.name != CONTACT_SHEET]
    elif source.suffix.lower() == ".txt" and source.is_file():
        paths = listed_paths(source)
    elif source.is_file():
        paths = [source]
    else:
        raise UserError(f"{source}: no such file or folder of {what}.")
    if not paths:
        advice = f" {heic.ADVICE}" if source.is_dir() and any(map(heic.is_named_heic, files_below(source))) else ""
        raise UserError(f"{source}: no {what} in it (looked for {', '.join(extensions)}).{advice}")
    return sorted(set(paths))


def listed_paths(path: Path) -> list[Path]:
    """The paths in a text file, in its order, each line one; for relative ones see ``list_images``."""
    lines = [Path(line.strip()) for line in path.read_text().splitlines() if line.strip()]
    return [line if line.exists() or line.is_absolute() else path.parent / line for line in lines]


def name_in(source: Path | str, photo: Path) -> str:
    """The name of one of ``list_images(source)``: its path relative to the folder, or its path in the list."""
    return str(photo.relative_to(source)) if Path(source).is_dir() else str(photo)


def files_left_out(source: Path | str, extensions: Sequence[str] = EXTENSIONS) -> list[str]:
    """Lines for the user on the files of a folder that ``list_images`` ignores, but hidden ones and OWN_FILES."""
    if not Path(source).is_dir():
        return []
    suffixes = Counter(
        path.suffix.lower()
        for path in files_below(source)
        if path.suffix.lower() not in extensions and not path.name.startswith(".") and path.name not in OWN_FILES
    )
    unread = [suffix for suffix in heic.EXTENSIONS if suffixes[suffix]]
    lines = [
        f"{source}: skipped, as they cannot be read: {suffixes.pop(suffix)} {suffix}. {heic.ADVICE}"
        for suffix in unread
    ]
    if suffixes:
        kinds = ", ".join(f"{count} {suffix or 'without an extension'}" for suffix, count in suffixes.most_common())
        lines.append(f"{source}: ignored, as they are not images: {kinds}.")
    return lines


def files_below(folder: Path) -> Iterator[Path]:
    """All files of a folder and its subfolders, without hidden ones, such as those of an unfinished rendering.

    Links are followed, because subsets are often made of links.
    """
    for parent, folders, files in os.walk(folder, followlinks=True):
        parent = Path(parent)
        folders[:] = [name for name in folders if not name.startswith(".") and not leads_back(parent / name)]
        yield from (parent / name for name in files if not name.startswith("."))


def leads_back(folder: Path) -> bool:
    """Whether a folder is a link to one of its own parents."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def read_image(path: Path | str) -> np.ndarray:
    """Read an image file as (H, W, 3) uint8 RGB; grey, alpha, 16-bit and CMYK images are converted.

    Raises OSError, or ValueError when the image is damaged.
    """
    return decode_image(Path(path).read_bytes())


def decode_image(data: bytes) -> np.ndarray:
    """Decode an image to (H, W, 3) uint8 RGB; bytes after its end are ignored.

    Raises ValueError when the bytes are not an image, or a truncated one.
    """
    check_complete(data)
    if heic.is_heic(data):
        return heic.decode(data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError("not an image, or damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def resize(image: np.ndarray, side: int = SIDE) -> np.ndarray:
    """(H, W, 3) -> (side, side, 3): area averaging when both sides shrink, so that nothing aliases, else bilinear."""
    if image.shape[:2] == (side, side):
        return image
    shrinks = image.shape[0] > side and image.shape[1] > side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def encode_jpeg(image: np.ndarray, quality: int) -> bytes:
    """(H, W, 3) uint8 RGB -> JPEG bytes. ``quality``: 1 to 100."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()


def contact_sheet(rows: Sequence[Sequence[np.ndarray]]) -> np.ndarray:
    """Rows of (112, 112, 3) uint8 RGB images -> one image, one row per identity; short rows end in white."""
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * SIDE, columns * SIDE, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] = image
    return sheet
