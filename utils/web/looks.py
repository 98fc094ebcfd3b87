"""The looks of the page: a theme without fonts from elsewhere, and a little CSS."""

import gradio as gr

FONTS = ["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
MONOSPACE = ["ui-monospace", "Menlo", "Consolas", "monospace"]

CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
#title h1 { margin-bottom: 0; }
#title p { opacity: .7; margin-top: .2em; }
.hint { font-size: 85%; opacity: .75; padding: 0 .8em .6em; }
#people { border: none !important; }
#people .gallery-container, #people .grid-wrap { height: auto !important; max-height: none; min-height: 0;
    overflow: hidden; }
#people .grid-container { grid-template: none / repeat(6, minmax(0, 1fr)); gap: 6px; padding: 0;
    grid-auto-rows: auto; align-content: start; }
#people .gallery-item, #people .thumbnail-item { width: 100%; min-width: 0; height: auto; aspect-ratio: 1; }
#people .caption-label { font-size: 11px; padding: 0 5px; }
#run { position: sticky; bottom: 0; padding: 8px 0; background: var(--body-background-fill); z-index: 5; }
#status { min-height: 1.6em; font-variant-numeric: tabular-nums; }
.cards { display: grid; gap: 12px; grid-template-columns: repeat(4, minmax(0, 1fr)); margin: 4px 0 8px; }
.cards.path { grid-template-columns: repeat(8, minmax(0, 1fr)); gap: 8px; }
.cards.path::before { content: "The way of the first image"; grid-column: 1 / -1; font-weight: 600; font-size: 14px; }
.cards figure { margin: 0; }
.cards img { width: 100%; border-radius: 8px; display: block; }
.cards figcaption { font-size: 11.5px; line-height: 1.4; padding-top: 4px; }
.cards span { display: inline-block; white-space: nowrap; }
.cards.path span { display: block; margin: 0; font-size: 11px; }
.cards.images figcaption { display: grid; grid-template-columns: auto auto; justify-content: space-between; }
.cards.images em { grid-column: 1 / -1; }
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
