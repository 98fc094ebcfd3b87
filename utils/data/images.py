"""Reading, aligning and encoding face images; contact sheets."""

import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from models.errors import UserError
from utils.data import heic
from utils.data.image_format import check_complete

SIDE = 112
CONTACT_SHEET = "contact_sheet.jpg"  # drawn beside a dataset, not part of it
EXTENSIONS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", *heic.readable_extensions())

cv2.setNumThreads(1)  # images are handled by several threads of ours


def list_images(source, extensions=EXTENSIONS, what="images"):
    """The image files of a folder (with all folders below), a ``.txt`` of paths, or one file: sorted, without repeats.

    Paths in a list are taken as they stand, or else relative to the list. Raises UserError when there are none.
    ``extensions`` and ``what``: to list other files than images, and what to call them.
    """
    source = Path(source)
    if source.is_dir():
        paths = [path for path in files_below(source) if path.suffix.lower() in extensions and path.is_file()]
        paths = [path for path in paths if path.name != CONTACT_SHEET]
    elif source.suffix.lower() == ".txt" and source.is_file():
        lines = [Path(line.strip()) for line in source.read_text().splitlines() if line.strip()]
        paths = [line if line.exists() or line.is_absolute() else source.parent / line for line in lines]
    elif source.is_file():
        paths = [source]
    else:
        raise UserError(f"{source}: no such file or folder of {what}.")
    if not paths:
        advice = f" {heic.ADVICE}" if source.is_dir() and any(map(heic.is_named_heic, files_below(source))) else ""
        raise UserError(f"{source}: no {what} in it (looked for {', '.join(extensions)}).{advice}")
    return sorted(set(paths))


def name_in(source, photo):
    """What to call one of ``list_images(source)``: its path in the folder, or as it stands in the list."""
    return str(photo.relative_to(source)) if Path(source).is_dir() else str(photo)


def files_left_out(source, extensions=EXTENSIONS):
    """Lines on the files of a folder that ``list_images`` leaves out; hidden files go without saying."""
    if not Path(source).is_dir():
        return []
    suffixes = Counter(
        path.suffix.lower()
        for path in files_below(source)
        if path.suffix.lower() not in extensions and not path.name.startswith(".")
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


def files_below(folder):
    """All files of a folder and those below it, also of linked folders, as subsets are often made of links."""
    for parent, folders, files in os.walk(folder, followlinks=True):
        parent = Path(parent)
        folders[:] = [name for name in folders if not leads_back(parent / name)]
        yield from (parent / name for name in files)


def leads_back(folder):
    """Whether a folder is a link to one that it lies in."""
    return folder.is_symlink() and folder.parent.resolve().is_relative_to(folder.resolve())


def read_image(path):
    """An image file -> (H, W, 3) uint8 RGB; grey, alpha, 16-bit and CMYK are converted. ValueError when damaged."""
    return decode_image(Path(path).read_bytes())


def decode_image(data):
    """Encoded bytes -> (H, W, 3) uint8 RGB; bytes after the end of the image do no harm.

    Raises ValueError when they are no image or a truncated one.
    """
    check_complete(data)
    if heic.is_heic(data):
        return heic.decode(data)
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise ValueError("not an image, or damaged")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def resize(image, side=SIDE):
    """(H, W, 3) -> (side, side, 3), without antialiasing artefacts when it shrinks."""
    if image.shape[:2] == (side, side):
        return image
    shrinks = image.shape[0] > side and image.shape[1] > side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def encode_jpeg(image, quality):
    """(H, W, 3) uint8 RGB -> JPEG bytes."""
    return cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])[
        1
    ].tobytes()


def contact_sheet(rows):
    """Rows of (112, 112, 3) uint8 RGB images -> one picture, a row a person; short rows end in white."""
    columns = max(map(len, rows))
    sheet = np.full((len(rows) * SIDE, columns * SIDE, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            sheet[y * SIDE : (y + 1) * SIDE, x * SIDE : (x + 1) * SIDE] = image
    return sheet
