"""What labelers work at all day: the ranking board, the demonstration desk, and talking to the model.

Gradio components without a build step: each is a gr.HTML with a constant template, whose script builds the page
with textContent and speaks to /api/v1 itself. A label travels by fetch with retries, not by a Gradio event: it is
several times faster, and it survives a lost connection.

elements.js   a conversation, who is typing       calls.js    requests, sent again until they are answered
drafts.js     work that is not sent yet, seconds   dialogs.js  why a task is skipped, which keys there are
desk.js       hand-out, lease, submit, undo, skip: the same for the first two
reading.js    texts formatted, from the trees of /api/v1/render, which panels/tree.js draws
words.js      counting and comparing words
board.js      ranking K responses by keys, clicks or dragging, side by side or below each other
details.js    ratings, flags and a rewrite of one response
dragging.js   letters dragged to places
writer.js     writing the ideal response
streaming.js  the model's answer as it comes       continuing.js  which reply continues      attack.js  attacks marked
converse.js   talking, and the board for each turn
history.js    what one said before, each with a way to change it
review.js     tasks on which labelers disagree, and the reviewer's own answer
board.css     how the board looks; desk.css, the rest
"""

from __future__ import annotations

from pathlib import Path

import gradio as gr

from annotate.panels import drawn_by

FOLDER = Path(__file__).parent
STYLE = "".join((FOLDER / name).read_text() for name in ("board.css", "desk.css"))
SHARED = ("elements.js", "calls.js", "drafts.js", "dialogs.js", "desk.js", "reading.js", "words.js")
BOARD = ("details.js", "dragging.js", "board.js")
TALK = ("streaming.js", "continuing.js", "attack.js", "converse.js")


def ranking_board() -> gr.HTML:
    """One ranking task after the other, for whoever is signed in."""
    return drawn_by(FOLDER, *SHARED, *BOARD, start='runDesk(element, "ranking", rankingView());')


def demonstration_desk() -> gr.HTML:
    """One demonstration task after the other, for whoever is signed in."""
    return drawn_by(FOLDER, *SHARED, "writer.js", start='runDesk(element, "demonstration", demonstrationView());')


def conversation_desk() -> gr.HTML:
    """Conversations with the model, for whoever is signed in."""
    return drawn_by(FOLDER, *SHARED, *BOARD, *TALK, start="runConversation(element);")


def own_history() -> gr.HTML:
    """What the person signed in said before."""
    return drawn_by(FOLDER, *SHARED, "history.js")


def review_desk() -> gr.HTML:
    """Tasks on which labelers disagree, for a reviewer."""
    return drawn_by(FOLDER, *SHARED, *BOARD, "review.js")
