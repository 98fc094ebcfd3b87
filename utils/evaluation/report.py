"""A report in a single HTML file, with its text, tables, charts and pictures."""

import base64
import html
import io
from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.data.images import contact_sheet, encode_jpeg

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.6em } h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .25em .8em; border-bottom: 1px solid #ddd }
td { text-align: right } td:first-child, th { text-align: left } img { max-width: 100% } .note { color: #666 }
"""


class Report:
    """Text, tables, charts and pictures are appended; ``html()`` returns the page."""

    def __init__(self, title: str):
        self.title, self.parts = title, []

    def heading(self, text: str) -> None:
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def note(self, text: str) -> None:
        self.parts.append(f'<p class="note">{html.escape(text)}</p>')

    def table(self, rows: list[list], head: list[str] | None = None) -> None:
        """``rows``: lists of cells, which ``shown`` turns into text."""
        lines = [head] if head else []
        cells = [
            "<tr>" + "".join(f"<{tag}>{html.escape(shown(cell))}</{tag}>" for cell in row) + "</tr>"
            for tag, part in (("th", lines), ("td", rows))
            for row in part
        ]
        self.parts.append("<table>" + "".join(cells) + "</table>")

    def chart(self, draw: Callable[[Axes], object], alt: str) -> None:
        """A chart that ``draw(axes)`` draws; ``alt``: its textual alternative."""
        # Without pyplot: no window system is needed, and the backend of a notebook stays as it is.
        figure = Figure(figsize=(6.4, 3.2), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        self._image("png", buffer.getvalue(), alt)

    def pictures(self, rows: list[list[np.ndarray]], alt: str) -> None:
        """Rows of (112, 112, 3) uint8 images."""
        if any(rows):
            self._image("jpeg", encode_jpeg(contact_sheet(rows), 85), alt)

    def _image(self, kind: str, data: bytes, alt: str) -> None:
        code = base64.b64encode(data).decode()
        self.parts.append(f'<p><img alt="{html.escape(alt)}" src="data:image/{kind};base64,{code}"></p>')

    def html(self) -> str:
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f"<style>{STYLE}</style><h1>{html.escape(self.title)}</h1>{''.join(self.parts)}</html>\n"
        )


def shown(value: object) -> str:
    """A table cell as text: floats with three decimals, "-" for None."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def percent(value: float | None) -> str:
    """A fraction as a percentage, "-" for None."""
    return "-" if value is None else f"{value:.2%}"
