"""Project: what labelers are asked to do, tasks whose answer is known, and tasks they would not do. For researchers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gradio as gr

from annotate.context import Context
from annotate.known import candidates_of, done, known_of
from annotate.panels import QUIET, allow, closed_to, header, panel, prose
from data.errors import FeedbackError
from data.records import FLAGS, Settings

Blocks = list[dict[str, Any]]
SHARES = {  # settings that are shares, with what a person calls them
    "double_share": "Given to two labelers, so that agreement can be measured",
    "uniform_share": "Of a batch in random order; the rest starts where the reward model is least sure",
    "gold_share": "Gold: tasks whose answer is known, silently among the work",
    "repeat_share": "Repeats: tasks the labeler ranked before, in another order",
    "review_below": "Agreement under which a task goes to review",
    "qualify_at": "Agreement with the qualification tasks that lets a labeler work",
}


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    notice = panel()
    with gr.Column(visible=False) as body:
        panel([{"kind": "heading", "text": "Guideline"}])
        text = gr.Textbox(label="What labelers are asked to do, in Markdown", lines=14, max_lines=40)
        with gr.Row(elem_classes="pawl-toolbar"):
            publish = gr.Button("Publish this wording", variant="primary", scale=0, min_width=250)
        with gr.Accordion("Preview", open=False, elem_classes="pawl-fold"):
            preview = panel()
        versions = panel()
        panel([{"kind": "heading", "text": "What is asked of labelers"}])
        fields = _fields()
        with gr.Row(elem_classes="pawl-toolbar"):
            save = gr.Button("Save these settings", variant="primary", scale=0, min_width=250)
        said = panel()
        known = _known_answers(context)
        resting = _resting_tasks(context, said)

    def on_load(request: gr.Request) -> list[Any]:
        if (refusal := closed_to(context, request, "researcher")) is not None:
            return [refusal, gr.Column(visible=False), "", [], [], [], *(gr.skip() for _ in fields)]
        present = context.store.project.guideline()
        values = _values(context.store.project.settings())
        wording = present.text if present else ""
        tables = versions_of(context), known_of(context), resting_of(context)
        return [[], gr.Column(visible=True), wording, *tables, *values]

    def on_publish(wording: str, request: gr.Request) -> tuple[Blocks, Blocks]:
        user = allow(context, request, "researcher")
        return publish_now(context, wording, user.name), versions_of(context)

    def on_preview(wording: str, request: gr.Request) -> Blocks:
        allow(context, request, "researcher")
        return [prose(wording)]

    def on_save(given: dict[Any, Any], request: gr.Request) -> Blocks:
        user = allow(context, request, "researcher")
        return save_now(context, {name: given[field] for name, field in fields.items()}, user.name)

    gr.on(None, on_load, None, [notice, body, text, versions, known, resting, *fields.values()], **QUIET)
    text.change(on_preview, text, preview, trigger_mode="always_last", **QUIET)
    publish.click(on_publish, text, [said, versions], **QUIET)
    save.click(on_save, set(fields.values()), said, **QUIET)


def _known_answers(context: Context) -> gr.HTML:
    """The tasks with a known answer, to be filled when the page is opened, and those that one can be made of."""
    known, made = panel(), panel()
    with gr.Accordion("Make one from a ranked task", open=False, elem_classes="pawl-fold") as offered:
        candidates = panel()

    def on_unfold(request: gr.Request) -> Blocks:
        allow(context, request, "researcher")
        return candidates_of(context)

    def on_check(event: gr.EventData, request: gr.Request) -> tuple[Blocks, Blocks, Blocks]:
        user = allow(context, request, "researcher")
        return done(context, str(event.id), str(event.act), user.name), known_of(context), candidates_of(context)

    offered.expand(on_unfold, None, candidates, **QUIET)
    known.act(on_check, None, [made, known, candidates], **QUIET)
    candidates.act(on_check, None, [made, known, candidates], **QUIET)
    return known


def _resting_tasks(context: Context, said: gr.HTML) -> gr.HTML:
    """The tasks that rest, to be filled when the page is opened, and what becomes of the one that is picked."""
    resting = panel()
    picked = gr.State("")
    with gr.Row(elem_classes="pawl-toolbar", visible=False) as decide:
        offer = gr.Button("Offer it again", scale=0, min_width=160)
        retire = gr.Button("Retire it", scale=0, min_width=120)

    def on_pick(event: gr.EventData, request: gr.Request) -> tuple[str, gr.Row]:
        allow(context, request, "researcher")
        return str(event.id), gr.Row(visible=True)

    def on_offer(task_id: str, request: gr.Request) -> tuple[Blocks, Blocks, gr.Row]:
        allow(context, request, "researcher")
        return _decided(context, lambda: context.store.project.give_back(task_id), "It is offered again.")

    def on_retire(task_id: str, request: gr.Request) -> tuple[Blocks, Blocks, gr.Row]:
        allow(context, request, "researcher")
        return _decided(context, lambda: context.store.project.retire(task_id), "It is retired; its labels are kept.")

    resting.pick(on_pick, None, [picked, decide], **QUIET)
    offer.click(on_offer, picked, [said, resting, decide], **QUIET)
    retire.click(on_retire, picked, [said, resting, decide], **QUIET)
    return resting


def _fields() -> dict[str, Any]:
    """A form field for each setting, by the setting's name."""
    default = Settings()
    with gr.Row():
        asked = {
            "ask_ratings": gr.Checkbox(default.ask_ratings, label="Ratings: helpful, harmless, honest, 1 to 7"),
            "ask_rewrite": gr.Checkbox(default.ask_rewrite, label="A rewrite of the best response"),
            "ask_comment": gr.Checkbox(default.ask_comment, label="A comment"),
        }
    flags = gr.CheckboxGroup([(flag.replace("_", " "), flag) for flag in FLAGS], label="Flags")
    with gr.Row():
        numbers = {
            "overlap": gr.Number(default.overlap, label="Labelers for each task", precision=0, minimum=1, maximum=100),
            "repeat_after_minutes": gr.Number(default.repeat_after_minutes, label="Minutes until a repeat", minimum=0),
        }
    shares = {}
    for pair in (list(SHARES)[0:2], list(SHARES)[2:4], list(SHARES)[4:6]):
        with gr.Row():
            for name in pair:
                shares[name] = gr.Slider(0, 1, getattr(default, name), step=0.01, label=SHARES[name])
    return {**asked, "ask_flags": flags, **numbers, **shares}


def _values(settings: Settings) -> list[Any]:
    """What the form fields show, in their order."""
    names = ("ask_ratings", "ask_rewrite", "ask_comment", "ask_flags", "overlap", "repeat_after_minutes", *SHARES)
    values = {name: getattr(settings, name) for name in names}
    return list((values | {"ask_flags": list(settings.ask_flags)}).values())


def save_now(context: Context, changes: dict[str, Any], author: str) -> Blocks:
    """Change the settings, and say what came of it."""
    try:
        context.store.project.change_settings(changes, author)
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]
    return [{"kind": "text", "tone": "good", "text": "Saved. Labelers see it from their next task on."}]


def publish_now(context: Context, wording: str, author: str) -> Blocks:
    """Make this the guideline, and say what came of it."""
    before = context.store.project.guideline()
    try:
        version = context.store.project.set_guideline(wording.strip(), author)
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]
    if before is not None and before.hash == version.hash:
        return [{"kind": "text", "tone": "good", "text": "This is the wording that labelers have already."}]
    words = f"Published as version {version.hash}. Each labeler is shown it once, before their next task."
    return [{"kind": "text", "tone": "good", "text": words}]


def versions_of(context: Context) -> Blocks:
    """The wordings there were, the newest first."""
    found = list(reversed(context.store.project.guidelines()))
    rows = [
        [
            version.hash,
            f"{version.created_at:%Y-%m-%d %H:%M}",
            version.author,
            _shortened(version.text.strip().splitlines()[0], 80),
        ]
        for version in found
    ]
    columns = ["Version", "Since (UTC)", "By", "Begins"]
    return [{"kind": "table", "columns": columns, "rows": rows, "wide": ["By", "Begins"], "empty": "No version yet."}]


def resting_of(context: Context) -> Blocks:
    """The tasks that three people skipped, with their reasons."""
    found = context.store.resting()
    rows = [
        [task["task_id"], task["kind"], _shortened(task["prompt"][-1]["content"], 120), "; ".join(task["reasons"])]
        for task in found
    ]
    columns = ["Task", "Kind", "Prompt", "Why it was skipped"]
    empty = "No task rests. One that three labelers skip waits here until you look."
    return [
        {"kind": "heading", "text": "Skipped by three"},
        {
            "kind": "table",
            "columns": columns,
            "rows": rows,
            "ids": [task["task_id"] for task in found],
            "picked": None,
            "wide": ["Kind"],
            "empty": empty,
        },
    ]


def _decided(context: Context, decide: Callable[[], None], done: str) -> tuple[Blocks, Blocks, gr.Row]:
    try:
        decide()
        said = {"kind": "text", "tone": "good", "text": done}
    except FeedbackError as error:
        said = {"kind": "text", "tone": "warn", "text": str(error)}
    return [said], resting_of(context), gr.Row(visible=False)


def _shortened(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1].rstrip() + "…"
