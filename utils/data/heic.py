"""HEIC photos, as phones take them: read where pillow-heif is installed."""

import io
from importlib.util import find_spec

import numpy as np
from PIL import Image

EXTENSIONS = (".heic", ".heif")
BRANDS = (b"heic", b"heix", b"heim", b"heis", b"mif1", b"msf1")  # ISO/IEC 23008-12; they follow "ftyp"
ADVICE = "To read HEIC photos: pip install pillow-heif"


def readable_extensions() -> tuple[str, ...]:
    """The file extensions of HEIC photos where they can be read, else none."""
    return EXTENSIONS if find_spec("pillow_heif") else ()


def is_named_heic(path) -> bool:
    return path.suffix.lower() in EXTENSIONS


def is_heic(data: bytes) -> bool:
    return data[4:8] == b"ftyp" and data[8:12] in BRANDS


def decode(data: bytes) -> np.ndarray:
    """The bytes of a HEIC file -> (H, W, 3) uint8 RGB. Raises ValueError when damaged, or without pillow-heif."""
    register()
    try:
        return np.array(Image.open(io.BytesIO(data)).convert("RGB"))
    except (OSError, ValueError, SyntaxError, RuntimeError) as error:
        raise ValueError(f"a damaged HEIC photo: {error}") from error


def register():
    """Let PIL open HEIC files. Raises ValueError without pillow-heif."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise ValueError(f"a HEIC photo. {ADVICE}") from error
    register_heif_opener()
