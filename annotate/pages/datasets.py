"""Datasets: what has been said so far, brought in from files, taken home, or frozen into snapshots to be looked at.

Reads   the store's counts, and the snapshots of the workspace
Writes  a snapshot, when asked to; files come in by the API

For researchers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gradio as gr

from annotate import exports, looking
from annotate.context import Context
from annotate.leaves import leaves_of, place_of
from annotate.look import definitions_of, look_of, manifest_of
from annotate.panels import QUIET, allow, closed_to, header, importer, panel
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
NAMED = 12  # labelers, those who gave most: an import may bring thousands
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
        importer()
        panel(_exports())
        panel([{"kind": "heading", "text": "Snapshots"}])
        with gr.Row(elem_classes="pawl-toolbar"):
            freeze = gr.Button("Freeze a snapshot", variant="primary", scale=0, min_width=200)
            refresh = gr.Button("Refresh", scale=0, min_width=110, elem_id="pawl-refresh")  # pressed by importer.js
        said = panel()
        kept = panel()
        view = _view(context, kept)

    def on_load(request: gr.Request) -> Iterator[Any]:
        if (refusal := closed_to(context, request, "researcher")) is not None:
            yield refusal, gr.Column(visible=False), *[[]] * (2 + len(view))
            return
        reading = [{"kind": "text", "text": "The newest snapshot is being read..."}]
        yield [], gr.Column(visible=True), counts_of(context), snapshots_of(context), reading, *[[]] * (len(view) - 1)
        yield *[gr.skip()] * 4, *view_of(context)

    def on_freeze(request: gr.Request) -> tuple[Blocks, ...]:
        allow(context, request, "researcher")
        return freeze_now(context), counts_of(context), snapshots_of(context)

    def on_frozen(request: gr.Request) -> tuple[Blocks, ...]:
        allow(context, request, "researcher")
        return view_of(context)

    def on_refresh(request: gr.Request) -> tuple[Blocks, ...]:
        allow(context, request, "researcher")
        return [], counts_of(context), snapshots_of(context), *view_of(context)

    gr.on(None, on_load, None, [notice, body, counts, kept, *view], **QUIET)
    frozen = freeze.click(on_freeze, None, [said, counts, kept], api_visibility="private", show_progress="minimal")
    frozen.then(on_frozen, None, view, **QUIET)  # apart: while an event goes on, another click of its button is lost
    refresh.click(on_refresh, None, [said, counts, kept, *view], **QUIET)


def _view(context: Context, kept: gr.HTML) -> list[gr.HTML]:
    """The panels that show one snapshot, in the order of `view_of`: the newest, until one is picked in `kept`."""
    look, leaves = panel(), panel()
    manifest = panel()
    with gr.Accordion("What these numbers mean", open=False, elem_classes="pawl-fold"):
        panel(definitions_of())

    def on_pick(event: gr.EventData, request: gr.Request) -> tuple[Blocks, Blocks, Blocks]:
        allow(context, request, "researcher")
        return view_of(context, str(event.id))

    def on_turn(event: gr.EventData, request: gr.Request) -> Blocks:
        allow(context, request, "researcher")
        return turned(context, str(event.id))

    def on_verify(event: gr.EventData, request: gr.Request) -> Blocks:
        allow(context, request, "researcher")
        return said_of(context, str(event.id), verify=True)

    kept.pick(on_pick, None, [look, leaves, manifest], api_visibility="private", show_progress="minimal")
    leaves.pick(on_turn, None, leaves, **QUIET)
    manifest.act(on_verify, None, manifest, api_visibility="private", show_progress="minimal")
    return [look, leaves, manifest]


def view_of(context: Context, name: str | None = None) -> tuple[Blocks, Blocks, Blocks]:
    """What the labels of a snapshot, else of the newest, look like; a sample of them; and what its manifest says."""
    try:
        snapshot = looking.newest(context) if name is None else snapshots.named(context.workspace.snapshots, name)
        if snapshot is None:
            return [], [], []
        heading = {"kind": "heading", "text": f"Snapshot {snapshot.hash}"}
        drawn = look_of(looking.seen(snapshot), looking.changed(context, snapshot))
        kind = "rankings" if snapshot.counts["rankings"] else "demonstrations"
        sample = [{"kind": "heading", "text": "A sample, to be read"}, leaves_of(snapshot, kind)]
        return [heading, *drawn], sample, said_of(context, snapshot.hash)
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}], [], []


def turned(context: Context, id: str) -> Blocks:
    """Another page of the sample."""
    try:
        name, kind, start = place_of(id)
        snapshot = snapshots.named(context.workspace.snapshots, name)
        return [{"kind": "heading", "text": "A sample, to be read"}, leaves_of(snapshot, kind, start)]
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]


def said_of(context: Context, name: str, *, verify: bool = False) -> Blocks:
    """What the manifest of a snapshot says, and whether its rows are as they were frozen."""
    try:
        snapshot = snapshots.named(context.workspace.snapshots, name)
        written = {each.hash: f"{each.created_at:%Y-%m-%d}" for each in context.store.project.guidelines()}
        return manifest_of(snapshot, looking.verified(snapshot, now=verify), written)
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]


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
    found = snapshots.listing(context.workspace.snapshots)[::-1]
    ids = [snapshot.hash for snapshot in found]
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
        {
            "kind": "table",
            "columns": columns,
            "rows": rows,
            "ids": ids,
            "picked": next(iter(ids), None),
            "wide": WIDE,
            "empty": empty,
        },
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
