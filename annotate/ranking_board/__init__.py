"""What labelers work at all day: the ranking board and the demonstration desk.

Two Gradio components without a build step: each is a gr.HTML with a constant template, whose script builds the page
with textContent and speaks to /api/v1 itself. A label travels by fetch with retries, not by a Gradio event: it is
several times faster, and it survives a lost connection.

desk.js       hand-out, draft, lease, retry, submit, skip: the same for both
reading.js    texts formatted, from the trees of /api/v1/render
words.js      counting and comparing words
board.js      ranking K responses by keys, clicks or dragging, side by side or below each other
details.js    ratings, flags and a rewrite of one response
dragging.js   letters dragged to places
writer.js     writing the ideal response
board.css     how they look; reading.css: how formatted texts do
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).parent
STYLE = (FOLDER / "board.css").read_text() + (FOLDER / "reading.css").read_text()
SHARED = ("desk.js", "reading.js", "words.js")


def ranking_board() -> gr.HTML:
    """One ranking task after the other, for whoever is signed in."""
    return _desk("details.js", "dragging.js", "board.js")


def demonstration_desk() -> gr.HTML:
    """One demonstration task after the other, for whoever is signed in."""
    return _desk("writer.js")


def _desk(*scripts: str) -> gr.HTML:
    # not a subclass: Gradio would write a stub file beside the source of each
    script = "".join((FOLDER / name).read_text() for name in (*SHARED, *scripts))
    return gr.HTML(html_template="<div></div>", js_on_load=script, apply_default_css=False)
