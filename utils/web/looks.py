"""The looks of the page: a theme without fonts from elsewhere, and a little CSS."""

import gradio as gr

FONTS = ["system-ui", "Segoe UI", "Roboto", "Helvetica", "Arial", "sans-serif"]
MONOSPACE = ["ui-monospace", "Menlo", "Consolas", "monospace"]

CSS = """
.gradio-container { max-width: 1280px !important; margin: 0 auto !important; }
#title h1 { margin-bottom: 0; }
#title p { opacity: .7; margin-top: .2em; }
.hint { font-size: 85%; opacity: .75; padding: 0 .8em .6em; }
.target { align-items: center; }
#people .thumbnail-lg { aspect-ratio: 1; }
#status { min-height: 1.6em; font-variant-numeric: tabular-nums; }
.cards { display: grid; gap: 10px; grid-template-columns: repeat(auto-fill, minmax(140px, 1fr)); margin: 4px 0 12px; }
.cards.path { grid-template-columns: repeat(auto-fill, minmax(84px, 1fr)); }
.cards figure { margin: 0; }
.cards img { width: 100%; border-radius: 8px; display: block; }
.cards figcaption { font-size: 12px; line-height: 1.35; padding-top: 4px; display: flex; flex-wrap: wrap; gap: 0 8px; }
.cards span { white-space: nowrap; }
.cards em { flex-basis: 100%; opacity: .7; font-style: normal; }
.cards em.missed { color: #b45309; opacity: 1; }
.portrait { display: flex; gap: 12px; align-items: center; padding: 8px; }
.portrait img { width: 84px; border-radius: 8px; }
"""


def theme() -> gr.themes.Base:
    """Gradio's quiet theme with the fonts of the visitor's system."""
    return gr.themes.Soft(font=FONTS, font_mono=MONOSPACE, primary_hue="teal", neutral_hue="slate")
