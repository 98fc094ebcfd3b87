"""Uploaded photos: checked before they are decoded, and deleted afterwards."""

import io
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from models.errors import UserError
from utils.data import heic
from utils.data.images import SIDE, decode_image, resize
from utils.generation.photo_source import feature_rows, features_of
from utils.web.order import Photo
from utils.web.session import Session

LARGEST_FILE = 10 * 2**20  # bytes
LARGEST_IMAGE = 50_000_000  # pixels; phones have up to 50 million
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", *(("HEIF",) if heic.readable_extensions() else ()))
FEATURE_BATCH = 64  # photos, the default of scripts/extract_features.py


def read_photo(session: Session, upload: Path | str, name: str = "") -> Photo:
    """The person in an uploaded photo, which is deleted in any case. ``name``: of the file at its owner's.

    A photo of 112x112 pixels counts as aligned; in any other the largest face is detected and aligned. Raises UserError
    when it is too large, damaged, no photo, or shows no face.
    """
    path = Path(upload)
    name = Path(name or path.name).name
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise UserError(f"{name}: larger than {LARGEST_FILE // 2**20} MB.")
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror}.") from error
    finally:
        path.unlink(missing_ok=True)
    check_header(data, name)
    try:
        return session.worker.call(lambda: find_person(session, data, name))
    except (ValueError, MemoryError) as error:
        raise UserError(f"{name}: {error}.") from error


def check_header(data: bytes, name: str) -> None:
    """Raise UserError unless the header of a file is that of a photo of bounded size, in a format that can be read."""
    if heic.is_heic(data) and not heic.readable_extensions():
        raise UserError(f"{name}: a HEIC photo. {heic.ADVICE}")
    if "HEIF" in FORMATS:
        heic.register()  # Pillow knows no format of this name before
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # only the header is read; our own limit follows
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, RuntimeError) as error:
        formats = ", ".join(FORMATS).replace("HEIF", "HEIC")
        raise UserError(f"{name}: not a photo, or damaged. These can be read: {formats}.") from error
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    if width * height > LARGEST_IMAGE:
        raise UserError(
            f"{name}: {width} x {height} pixels; a photo may have {LARGEST_IMAGE // 1_000_000} million pixels."
        )


def find_person(session: Session, data: bytes, name: str) -> Photo:
    """Decode a photo, align its largest face, and compute its FR feature. Raises ValueError."""
    image = decode_image(data)
    align, faces = image.shape[:2] != (SIDE, SIDE), []
    if align:
        faces = session.aligner.faces(image)
        if not faces:
            raise ValueError("no face found. Try a photo in which the face is larger and seen from the front")
        image = session.aligner.warp(image, faces[0])
    encoder = session.exact["id"]
    size = feature_rows(encoder, FEATURE_BATCH)
    vector = features_of([resize(image)], encoder, size)[0]  # (512,)
    return Photo(name, align, image, vector, max(1, len(faces)))
