"""What labelers work at all day: the ranking board and the demonstration desk.

Two Gradio components without a build step: each is a gr.HTML with a constant template, whose script builds the page
with textContent and speaks to /api/v1 itself. A label travels by fetch with retries, not by a Gradio event: it is
several times faster, and it survives a lost connection.

desk.js     hand-out, draft, lease, retry, submit, skip: the same for both
board.js    ranking K responses by keys, clicks or dragging
writer.js   writing the ideal response
board.css   how they look
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).parent
STYLE = (FOLDER / "board.css").read_text()


def ranking_board() -> gr.HTML:
    """One ranking task after the other, for whoever is signed in."""
    return _desk("board.js")


def demonstration_desk() -> gr.HTML:
    """One demonstration task after the other, for whoever is signed in."""
    return _desk("writer.js")


def _desk(view: str) -> gr.HTML:
    # not a subclass: Gradio would write a stub file beside the source of each
    script = (FOLDER / "desk.js").read_text() + (FOLDER / view).read_text()
    return gr.HTML(html_template="<div></div>", js_on_load=script, apply_default_css=False)
