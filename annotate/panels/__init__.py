"""The parts of pages that only show: the header with its progress strip, and panels drawn from plain values.

Each is a gr.HTML whose template is constant and whose script builds the page with textContent, so that a text from a
person or a model is shown as text whatever it holds (Gradio would compile `${...}` in a template's value).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from annotate.rendering import render
from data.errors import FeedbackError

if TYPE_CHECKING:
    from annotate.context import Context
    from data.records import Role, User

FOLDER = Path(__file__).parent
COLOURS = (FOLDER / "colours.css").read_text()
STYLE = "".join(
    (FOLDER / name).read_text() for name in ("panels.css", "plots.css", "formatted.css", "importer.css", "leaves.css")
)
DRAWING = "".join((FOLDER / name).read_text() for name in ("make.js", "tree.js"))  # every script begins with it
STAGE_WORDS = {
    "freeze": "gathering the labels",
    "pretrain": "reading text and code",
    "sft": "learning from demonstrations",
    "reward": "learning what labelers prefer",
    "ppo": "practising",
    "evaluate": "being measured",
    "sample": "writing responses to rank",
}
# what an event of a page is given: it is no part of a public API, and needs no spinner
QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
# what Gradio asks a gr.HTML for, and it has not
ABSENT = "self every inputs server_functions _selectable _undoable _retryable likeable".split()
FRESH_SECONDS = 1.0  # many labelers ask how the model stands; the disk is asked once a second


def header(context: Context) -> gr.HTML:
    """The head of a page, and below it how the model in the making stands."""
    return drawn_by(FOLDER, "header.js", server_functions=[_asked_of(context)])


def guideline(context: Context, *, open: bool = False) -> None:
    """What labelers are asked to do, to fold away: the present wording whenever the page is opened."""

    def on_guideline(request: gr.Request) -> list[dict[str, Any]]:
        allow(context, request, "labeler")
        version = context.store.project.guideline()
        return [prose(version.text if version else "This project has no guidelines yet.")]

    with gr.Accordion("Guidelines", open=open, elem_classes="pawl-fold"):
        text = panel()
    gr.on(None, on_guideline, None, text, **QUIET)


def panel(value: list[dict[str, Any]] | None = None) -> gr.HTML:
    """A part of a page, drawn from a list of blocks; panel.js says which there are.

    Clicking a row fires `pick`, and a button in a row `act`.
    """
    return drawn_by(FOLDER, "plots.js", "answers.js", "leaves.js", "panel.js", value=value)


def prose(markdown: str) -> dict[str, Any]:
    """The block of a panel that shows this text formatted."""
    return {"kind": "prose", "tree": render(markdown)}


def importer() -> gr.HTML:
    """Files in: choose one, look at what it would become, import it. It talks to the API, not to Gradio."""
    return drawn_by(FOLDER, "importer.js")


def drawn_by(folder: Path, *scripts: str, start: str = "", **options: Any) -> gr.HTML:
    """A part of a page that these scripts in `folder` draw, one after the other, and then `start`."""
    # not a subclass: Gradio would write a stub file beside the source of each
    text = DRAWING + "".join((folder / script).read_text() for script in scripts) + start
    part = gr.HTML(html_template="<div></div>", js_on_load=text, apply_default_css=False, **options)
    for name in ABSENT:  # else it looks through the script for each, whenever somebody opens a page: 2 ms a part
        setattr(part, name, None)
    return part


def allow(context: Context, request: gr.Request, role: Role) -> User:
    """The person behind this event, who may do what `role` may; every event handler begins with this.

    Raises gr.Error, which ends the event without any output.
    """
    try:
        return context.auth.require(request, role)
    except FeedbackError as error:
        raise gr.Error(str(error), title=error.title, print_exception=False) from error


def progress_of(context: Context) -> dict[str, Any]:
    """How the model in the making stands, fit to show anyone signed in: it names no checkpoint.

    state: first (the first model is being made), running (a later one), failed (the first could not be made),
    none (no model, and nothing is making one), idle. progress: 0 to 1. words: for the strip; empty when idle.
    """
    running = context.cycles.running()
    if running is not None:
        first = context.store.promoted() is None
        doing = STAGE_WORDS.get(running.stage or "", "getting ready")
        words = f"The first model is being made: {doing}" if first else f"A new model is being trained: {doing}"
        return {"state": "first" if first else "running", "progress": running.progress, "words": words}
    if context.store.promoted() is not None:
        return {"state": "idle", "progress": 1.0, "words": ""}
    if context.cycles.list():
        words = "The first model could not be made. A researcher can see why, and go on, under Training."
        return {"state": "failed", "progress": 0.0, "words": words}
    return {
        "state": "none",
        "progress": 0.0,
        "words": "There is no model yet. A researcher can start one under Training.",
    }


def _asked_of(context: Context) -> Callable[[Any, gr.Request], dict[str, Any]]:
    """The server function of the header: `progress_of`, remembered for a second."""
    kept: dict[str, Any] = {}
    until = 0.0

    def progress(_: Any, request: gr.Request) -> dict[str, Any]:
        nonlocal kept, until
        allow(context, request, "labeler")
        if time.monotonic() >= until:
            kept, until = progress_of(context), time.monotonic() + FRESH_SECONDS
        return kept

    return progress


def closed_to(context: Context, request: gr.Request, role: Role) -> list[dict[str, Any]] | None:
    """What a page says instead of its contents to somebody who may not see them; None when they may."""
    try:
        context.auth.require(request, role)
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": f"This page is for researchers. {error}"}]
    return None
