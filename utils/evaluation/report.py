"""A report in one file: text, tables, charts and pictures in self-contained HTML."""

import base64
import html
import io

import matplotlib

matplotlib.use("Agg")  # no window system needed
import matplotlib.pyplot as plt

from utils.data.images import contact_sheet, encode_jpeg

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 960px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.6em } h2 { margin-top: 2em; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: 1em 0 } td, th { padding: .25em .8em; border-bottom: 1px solid #ddd }
td { text-align: right } td:first-child, th { text-align: left } img { max-width: 100% } .note { color: #666 }
"""


class Report:
    """Sections are added top to bottom; ``html()`` is the whole page."""

    def __init__(self, title):
        self.title, self.parts = title, []

    def heading(self, text):
        self.parts.append(f"<h2>{html.escape(text)}</h2>")

    def note(self, text):
        self.parts.append(f'<p class="note">{html.escape(text)}</p>')

    def table(self, rows, head=None):
        """``rows``: lists of cells, see ``shown``."""
        lines = [head] if head else []
        cells = [
            "<tr>" + "".join(f"<{tag}>{html.escape(shown(cell))}</{tag}>" for cell in row) + "</tr>"
            for tag, part in (("th", lines), ("td", rows))
            for row in part
        ]
        self.parts.append("<table>" + "".join(cells) + "</table>")

    def chart(self, draw, alt):
        """``draw(axes)`` draws one chart."""
        figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
        draw(axes)
        axes.grid(alpha=0.3)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=110)
        plt.close(figure)
        self._image("png", buffer.getvalue(), alt)

    def pictures(self, rows, alt):
        """Rows of (112, 112, 3) uint8 images."""
        if any(rows):
            self._image("jpeg", encode_jpeg(contact_sheet(rows), 85), alt)

    def _image(self, kind, data, alt):
        code = base64.b64encode(data).decode()
        self.parts.append(f'<p><img alt="{html.escape(alt)}" src="data:image/{kind};base64,{code}"></p>')

    def html(self):
        return (
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(self.title)}</title>'
            f"<style>{STYLE}</style><h1>{html.escape(self.title)}</h1>{''.join(self.parts)}</html>\n"
        )


def shown(value):
    """A table cell as text: numbers that are not whole, such as similarities, with three decimals."""
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def percent(value):
    """A fraction as a percentage, "-" for None."""
    return "-" if value is None else f"{value:.2%}"
