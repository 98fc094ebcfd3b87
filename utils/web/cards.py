"""Images with their values as HTML, drawn into the page itself: no files are written for them."""

import base64
from collections.abc import Sequence
from html import escape

import cv2
import numpy as np

from utils.web.making import Face

MINUS = "\N{MINUS SIGN}"
UNITS = {  # name and format of each measure
    "id_similarity": ("similarity", "{:.2f}"), "quality": ("quality", "{:.1f}"), "yaw": ("yaw", "{:.0f}°"),
    "pitch": ("pitch", "{:.0f}°"),
}  # fmt: skip


def image_tag(pixels: np.ndarray, description: str) -> str:
    """An <img> of pixels (H, W, 3) uint8 RGB, as a lossless PNG. ``description``: its alternative text."""
    png = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes()
    return f'<img src="data:image/png;base64,{base64.b64encode(png).decode()}" alt="{escape(description)}">'


def face_cards(faces: Sequence[Face], kind: str) -> str:
    """A grid of faces with their values below. ``kind``: class of the grid, "images" or "path"."""
    return f'<div class="cards {kind}">{"".join(map(card, faces))}</div>' if faces else ""


def card(face: Face) -> str:
    """One face, its values, and what AttrOP has to say of it."""
    known = {key: face.values[key] for key in (*UNITS, *face.values) if key in face.values}
    shown = ((*UNITS.get(key, (key.replace("_", " "), "{:.2g}")), value) for key, value in known.items())
    values = [f"<span>{name} <b>{as_text(value, text)}</b></span>" for name, text, value in shown]
    note = f'<em class="{"missed" if face.missed else "note"}">{escape(face.note)}</em>' if face.note else ""
    caption = f"<figcaption>{''.join(values)}{note}</figcaption>"
    return f"<figure>{image_tag(face.pixels, 'generated face')}{caption}</figure>"


def as_text(value: float, text: str) -> str:
    """A value in its format, with a minus sign, and never a negative zero."""
    line = text.format(value).replace("-", MINUS)
    return line.removeprefix(MINUS) if not any(digit in line for digit in "123456789") else line


def portrait(pixels: np.ndarray | None, note: str = "") -> str:
    """One face with a line beside it; nothing without pixels."""
    if pixels is None:
        return ""
    return f'<div class="portrait">{image_tag(pixels, "face")}<span>{escape(note)}</span></div>'
