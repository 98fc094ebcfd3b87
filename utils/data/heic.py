"""HEIC photos, the default format of many phones; reading them needs pillow-heif."""

import io
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

EXTENSIONS = (".heic", ".heif")
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")  # file brands of ISO/IEC 23008-12, after "ftyp"
ADVICE = "To read HEIC photos: pip install pillow-heif"


def readable_extensions() -> tuple[str, ...]:
    """The file extensions of HEIC photos if pillow-heif is installed, else none."""
    return EXTENSIONS if find_spec("pillow_heif") else ()


def is_named_heic(path: Path) -> bool:
    """Whether a file has the extension of a HEIC photo."""
    return path.suffix.lower() in EXTENSIONS


def is_heic(data: bytes) -> bool:
    """Whether the bytes of a file are a HEIC photo, whatever its extension."""
    return data[4:8] == b"ftyp" and data[8:12] in BRANDS


def decode(data: bytes) -> np.ndarray:
    """The bytes of a HEIC file -> (H, W, 3) uint8 RGB. Raises ValueError when damaged, or without pillow-heif."""
    register()
    try:
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        raise ValueError(f"a damaged HEIC photo: {error}") from error


def register() -> None:
    """Make PIL able to open HEIC files. Raises ValueError without pillow-heif."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ValueError(f"a HEIC photo. {ADVICE}") from error
    register_heif_opener()
