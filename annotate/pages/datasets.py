"""Datasets: what has been said so far, frozen into snapshots, brought in from files or taken home. For researchers."""

from __future__ import annotations

from typing import Any

import gradio as gr

from annotate import exports
from annotate.context import Context
from annotate.panels import allow, closed_to, header, importer, panel
from data import owner, snapshots
from data.errors import FeedbackError

Blocks = list[dict[str, Any]]

EXPORTS = (
    (
        "Comparisons",
        "comparisons",
        "one row for each decided pair: prompt, chosen, rejected",
        ("trl", "trl-parquet", "jsonl", "parquet", "arrow", "csv"),
    ),
    (
        "Verdicts",
        "unpaired",
        "single responses, true or false, as KTO takes them",
        ("trl", "trl-parquet", "jsonl", "parquet", "arrow", "csv"),
    ),
    (
        "Demonstrations",
        "demonstrations",
        "prompt and ideal response",
        ("trl", "trl-parquet", "jsonl", "parquet", "arrow", "csv"),
    ),
    (
        "Rankings",
        "rankings",
        "everything a labeler said of one task, ties included",
        ("jsonl", "parquet", "arrow", "csv"),
    ),
    ("Prompts", "prompts", "what the model is asked", ("jsonl", "parquet", "arrow", "csv")),
    ("Conversations", "conversations", "what labelers and a model said, and which were attacks", ("jsonl",)),
)
WIDE = ["Labelers", "Agreement", "Model then"]  # columns that a phone has no room for
NAMED = 100  # labelers; an import may bring thousands
FORMATS = {
    "trl": "TRL",
    "trl-parquet": "TRL Parquet",
    "jsonl": "JSONL",
    "parquet": "Parquet",
    "arrow": "Arrow",
    "csv": "CSV",
}


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    notice = panel()
    with gr.Column(visible=False) as body:
        counts = panel()
        with gr.Row(elem_classes="pawl-toolbar"):
            freeze = gr.Button("Freeze a snapshot", variant="primary", scale=0, min_width=200)
            refresh = gr.Button("Refresh", scale=0, min_width=110, elem_id="pawl-refresh")  # pressed by importer.js
        said = panel()
        kept = panel()
        importer()
        panel(_exports())

    def on_load(request: gr.Request) -> tuple[Any, ...]:
        if (refusal := closed_to(context, request, "researcher")) is not None:
            return refusal, gr.Column(visible=False), [], []
        return [], gr.Column(visible=True), counts_of(context), snapshots_of(context)

    def on_freeze(request: gr.Request) -> tuple[Blocks, Blocks, Blocks]:
        allow(context, request, "researcher")
        return freeze_now(context), counts_of(context), snapshots_of(context)

    def on_refresh(request: gr.Request) -> tuple[Blocks, Blocks, Blocks]:
        allow(context, request, "researcher")
        return [], counts_of(context), snapshots_of(context)

    gr.on(None, on_load, None, [notice, body, counts, kept], api_visibility="private", show_progress="hidden")
    freeze.click(on_freeze, None, [said, counts, kept], api_visibility="private", show_progress="minimal")
    refresh.click(on_refresh, None, [said, counts, kept], api_visibility="private", show_progress="hidden")


def freeze_now(context: Context) -> Blocks:
    """Freeze the labels there are, and say what came of it."""
    before = {snapshot.hash for snapshot in snapshots.listing(context.workspace.snapshots)}
    try:
        with exports.one_at_a_time:
            snapshot = owner.freeze(context.store, context.workspace)
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]
    counts = snapshot.counts
    contents = f"{counted(counts['rankings'], 'ranking')} and {counted(counts['demonstrations'], 'demonstration')}"
    if snapshot.hash in before:
        return [
            {"kind": "text", "tone": "good", "text": f"Nothing changed since snapshot {snapshot.hash}: {contents}."}
        ]
    return [{"kind": "text", "tone": "good", "text": f"Snapshot {snapshot.hash} holds {contents}."}]


def counts_of(context: Context) -> Blocks:
    """The store's counts as tiles, and who labeled how much."""
    stats = context.store.stats()
    labels, tasks, prompts = stats["labels"], stats["tasks"], stats["prompts"]
    tiles = [
        _tile("Rankings", labels["rankings"], f"{labels['rankings_trainable']} can be trained on"),
        _tile("Demonstrations", labels["demonstrations"], counted(tasks["demonstration"]["open"], "open task")),
        _tile("Waiting to be ranked", tasks["ranking"]["open"], f"{counted(tasks['ranking']['done'], 'task')} done"),
        _tile("Prompts", prompts["train"] + prompts["heldout"], f"{prompts['heldout']} held out to measure on"),
        _agreement(stats["agreement"]),
        _tile(
            "Labels, last hour", round(stats["tasks_per_hour"]), f"{counted(labels['skips'], 'task')} skipped in all"
        ),
    ]
    people = sorted(stats["labelers"].items(), key=lambda item: -sum(item[1].values()))
    return [
        {"kind": "heading", "text": "Labels"},
        {"kind": "tiles", "items": tiles},
        {"kind": "heading", "text": "Labelers"},
        {
            "kind": "table",
            "columns": ["Labeler", "Rankings", "Demonstrations"],
            "rows": [[name, str(done["rankings"]), str(done["demonstrations"])] for name, done in people[:NAMED]],
            "empty": "Nobody has labeled anything yet.",
        },
        *([{"kind": "text", "text": f"and {len(people) - NAMED:,} more"}] if len(people) > NAMED else []),
    ]


def snapshots_of(context: Context) -> Blocks:
    """The snapshots there are, the newest first."""
    found = reversed(snapshots.listing(context.workspace.snapshots))
    rows = []
    for snapshot in found:
        counts, manifest = snapshot.counts, snapshot.manifest
        share = (manifest.get("agreement") or {}).get("pairwise")
        rows.append(
            [
                snapshot.hash,
                manifest["created_at"][:16].replace("T", " "),
                str(counts["rankings"]),
                str(counts["demonstrations"]),
                str(len(manifest["labelers"])),
                "-" if share is None else f"{share:.0%}",
                manifest["promoted"] or "-",
            ]
        )
    columns = ["Snapshot", "Frozen (UTC)", "Rankings", "Demonstrations", "Labelers", "Agreement", "Model then"]
    empty = "No snapshot yet. A cycle freezes one by itself; freeze one here to train or share it elsewhere."
    return [
        {"kind": "heading", "text": "Snapshots"},
        {"kind": "table", "columns": columns, "rows": rows, "wide": WIDE, "empty": empty},
    ]


def _exports() -> Blocks:
    rows = [
        {
            "name": name,
            "note": note,
            "links": [[FORMATS[form], f"/api/v1/export/{kind}?format={form}"] for form in formats],
        }
        for name, kind, note, formats in EXPORTS
    ]
    return [{"kind": "heading", "text": "Take it with you"}, {"kind": "links", "rows": rows}]


def _agreement(agreement: dict[str, Any]) -> dict[str, str]:
    if agreement.get("pairwise") is None:
        return _tile("Agreement", "-", "needs tasks that two people ranked")
    low, high = agreement["interval"]
    return _tile("Agreement", f"{agreement['pairwise']:.0%}", f"{low:.0%} to {high:.0%}, on {agreement['pairs']} pairs")


def counted(number: int, word: str) -> str:
    """1 ranking, 2 rankings."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _tile(label: str, value: object, note: str) -> dict[str, str]:
    return {"label": label, "value": str(value), "note": note}
