"""Checkpoints: every model that was made, where it came from, and what was measured. For researchers.

Reads   the store's checkpoints, and checkpoints/<id>/pawl.json for the configuration of the one that is picked
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import gradio as gr

from annotate.context import Context
from annotate.panels import QUIET, allow, closed_to, header, panel
from data.errors import NotFound
from data.records import Checkpoint

Blocks = list[dict[str, Any]]

KEY_METRICS = (  # the numbers that matter most, in words; a checkpoint shows those it has
    ("win_rate", "wins {:.0%} against its parent"),
    ("win_rate_over_best_of", "{:.0%} against best-of-n"),
    ("heldout_accuracy", "right on {:.0%} of held-out pairs"),
    ("bits_per_byte", "{:.2f} bits per byte"),
    ("eval_loss", "held-out loss {:.2f}"),
    ("reward", "reward {:.2f}"),
    ("loss", "loss {:.2f}"),
)

WIDE = ["Parents", "Snapshot", "Made (UTC)"]  # columns that a phone has no room for


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    notice = panel()
    with gr.Column(visible=False) as body:
        listed = panel()
        details = panel()

    def on_load(request: gr.Request) -> tuple[Any, ...]:
        if (refusal := closed_to(context, request, "researcher")) is not None:
            return refusal, gr.Column(visible=False), [], []
        found = context.store.checkpoints()
        promoted = context.store.promoted()
        return [], gr.Column(visible=True), table_of(found), details_of(context, promoted.id) if promoted else []

    def on_pick(event: gr.EventData, request: gr.Request) -> Blocks:
        allow(context, request, "researcher")
        return details_of(context, str(event.id))

    gr.on(None, on_load, None, [notice, body, listed, details], **QUIET)
    listed.pick(on_pick, None, details, **QUIET)


def table_of(checkpoints: list[Checkpoint]) -> Blocks:
    """One row for each checkpoint, the newest first, the promoted one picked."""
    newest = sorted(checkpoints, key=lambda checkpoint: checkpoint.created_at, reverse=True)
    rows = [
        [
            checkpoint.id,
            checkpoint.state,
            ", ".join(checkpoint.parents) or "-",
            checkpoint.snapshot or "-",
            in_words(checkpoint.metrics),
            f"{checkpoint.created_at:%Y-%m-%d %H:%M}",
        ]
        for checkpoint in newest
    ]
    columns = ["Checkpoint", "State", "Parents", "Snapshot", "Measured", "Made (UTC)"]
    empty = "No model yet. The first one is made when Pawl starts; Training shows how it stands."
    picked = next((checkpoint.id for checkpoint in newest if checkpoint.state == "promoted"), None)
    ids = [checkpoint.id for checkpoint in newest]
    return [
        {"kind": "heading", "text": "Checkpoints"},
        {"kind": "table", "columns": columns, "rows": rows, "ids": ids, "picked": picked, "wide": WIDE, "empty": empty},
    ]


def details_of(context: Context, checkpoint_id: str) -> Blocks:
    """Everything that is known of one checkpoint."""
    try:
        checkpoint = context.store.checkpoint(checkpoint_id)
    except NotFound as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]
    facts = [
        ["Verdict", f"{checkpoint.state.capitalize()}. {checkpoint.reason}".rstrip()],
        ["Stage", checkpoint.stage],
        ["Parents", ", ".join(checkpoint.parents) or "none"],
        ["Snapshot", checkpoint.snapshot or "none"],
        ["Made", f"{checkpoint.created_at:%Y-%m-%d %H:%M:%S} UTC"],
        ["Folder", str(context.workspace.checkpoints / checkpoint.id)],
    ]
    manifest = _manifest(context, checkpoint.id)
    facts += [
        [name, str(manifest[key])] for name, key in (("Seed", "seed"), ("Code", "code_version")) if key in manifest
    ]
    leaves = list(_leaves(checkpoint.metrics, ""))
    warnings = [value for name, value in leaves if value and name.rsplit(".", 1)[-1] == "warning"]
    blocks: Blocks = [{"kind": "heading", "text": checkpoint.id}]
    blocks += [{"kind": "text", "tone": "warn", "text": warning} for warning in warnings]
    blocks += [{"kind": "facts", "rows": facts}]
    measured = list(flat(checkpoint.metrics))
    if measured:
        blocks += [{"kind": "heading", "text": "Measured"}, {"kind": "facts", "rows": measured}]
    if manifest.get("config"):
        blocks += [
            {"kind": "heading", "text": "Options"},
            {"kind": "code", "text": json.dumps(manifest["config"], indent=2)},
        ]
    return blocks


def in_words(metrics: dict[str, Any]) -> str:
    """The first two of the key metrics that a checkpoint has."""
    numbers = {name.rsplit(".", 1)[-1]: value for name, value in _leaves(metrics, "")}
    found = [words.format(numbers[name]) for name, words in KEY_METRICS if isinstance(numbers.get(name), float | int)]
    return "; ".join(found[:2]) or "-"


def flat(metrics: dict[str, Any]) -> Iterator[list[str]]:
    """Metrics as rows of name and value; the names of nested ones are joined."""
    for name, value in _leaves(metrics, ""):
        yield [name.replace("_", " ").replace(".", " "), f"{value:.4g}" if isinstance(value, float) else str(value)]


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        yield name, ", ".join(f"{item:.4g}" if isinstance(item, float) else str(item) for item in value)
    else:
        yield name, value


def _manifest(context: Context, checkpoint_id: str) -> dict[str, Any]:
    """The checkpoint's pawl.json; empty when its folder is elsewhere."""
    path = context.workspace.checkpoints / checkpoint_id / "pawl.json"
    manifest: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return manifest
