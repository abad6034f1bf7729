"""What labelers work at all day: the ranking board, the demonstration desk, and talking to the model.

Gradio components without a build step: each is a gr.HTML with a constant template, whose script builds the page
with textContent and speaks to /api/v1 itself. A label travels by fetch with retries, not by a Gradio event: it is
several times faster, and it survives a lost connection.

desk.js     hand-out, draft, lease, retry, submit, skip: the same for the first two
board.js    ranking K responses by keys, clicks or dragging
writer.js   writing the ideal response
converse.js talking, replies that stream, and the board for each turn
board.css   how they look
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).parent
STYLE = (FOLDER / "board.css").read_text()


def ranking_board() -> gr.HTML:
    """One ranking task after the other, for whoever is signed in."""
    return _desk("board.js", 'runDesk(element, "ranking", rankingView());')


def demonstration_desk() -> gr.HTML:
    """One demonstration task after the other, for whoever is signed in."""
    return _desk("writer.js", 'runDesk(element, "demonstration", demonstrationView());')


def conversation_desk() -> gr.HTML:
    """Conversations with the model, for whoever is signed in."""
    return _desk("board.js", "converse.js", "runConversation(element);")


def _desk(*parts: str) -> gr.HTML:
    # not a subclass: Gradio would write a stub file beside the source of each
    *files, start = parts
    script = "".join((FOLDER / name).read_text() for name in ("desk.js", *files)) + start
    return gr.HTML(html_template="<div></div>", js_on_load=script, apply_default_css=False)
