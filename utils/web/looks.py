"""The looks of the page: a theme without fonts from elsewhere, and a little CSS."""

import gradio as gr

FONTS = ["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
MONOSPACE = ["ui-monospace", "Menlo", "Consolas", "monospace"]

CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
#title h1 { margin-bottom: 0; }
#title p { opacity: .7; margin-top: .2em; }
.hint { font-size: 85%; opacity: .75; padding: 0 .8em .6em; }
#people .grid-wrap { height: auto !important; max-height: none !important; overflow: visible !important; }
#people .grid-container { grid-template-columns: repeat(6, 1fr) !important; gap: 6px; height: auto !important; }
#people .caption-label { font-size: 11px; padding: 0 5px; }
#status { min-height: 1.6em; font-variant-numeric: tabular-nums; }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(4, 1fr); margin: 4px 0 8px; }
.cards.path { grid-template-columns: repeat(8, 1fr); gap: 8px; }
.cards.path::before { content: "The way of the first image"; grid-column: 1 / -1; font-weight: 600; font-size: 14px; }
.cards figure { margin: 0; }
.cards img { width: 100%; border-radius: 8px; display: block; }
.cards figcaption { font-size: 12px; line-height: 1.4; padding-top: 4px; }
.cards span { white-space: nowrap; margin-right: 8px; }
.cards.path span { display: block; margin: 0; font-size: 11px; }
.cards em { display: block; opacity: .7; font-style: normal; }
.cards em.missed { color: #b45309; opacity: 1; }
.portrait { display: flex; gap: 12px; align-items: center; padding: 8px; }
.portrait img { width: 84px; border-radius: 8px; }
"""


def theme() -> gr.themes.Base:
    """Gradio's plain theme with the fonts of the visitor's system."""
    return gr.themes.Default(
        font=FONTS, font_mono=MONOSPACE, primary_hue="teal", neutral_hue="slate", spacing_size="sm", radius_size="md"
    ).set(button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700",
          button_primary_text_color="white")  # fmt: skip
