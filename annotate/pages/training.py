"""Training: start a turn of the loop and watch it. For researchers.

Reads   runs/<cycle>/ and runs/<stage run>/: state.json, metrics.jsonl, samples.jsonl, log.txt
Writes  nothing itself; cycles are started, cancelled and resumed through annotate.cycles
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import gradio as gr
import pandas as pd

from annotate.context import Context
from annotate.cycles import DEFAULT_STAGES
from annotate.gains import gains_of
from annotate.panels import QUIET, STAGE_WORDS, allow, closed_to, header, panel
from data.datasets import require_enough
from data.errors import FeedbackError, InvalidInput, TooFewLabels
from data.records import PRESETS, STAGES, CycleStatus
from data.runs import RunFolder

Blocks = list[dict[str, Any]]

SECONDS = 2.5  # between two looks at a running cycle
POINTS = 300  # at most so many in one curve
SAMPLES = 6
STAGE_NAMES = {
    "freeze": "Freeze labels",
    "pretrain": "Pretrain",
    "sft": "SFT",
    "reward": "Reward model",
    "ppo": "PPO",
    "evaluate": "Evaluate",
    "sample": "Sample",
}
CURVES = (  # title, the metric, and the stages that measure it
    ("Loss", "loss", ("pretrain", "sft", "reward")),
    ("Reward", "reward", ("ppo",)),
    ("KL from the reference, nats per response", "kl", ("ppo",)),
    ("Response length, tokens", "length", ("ppo",)),
    ("Share of responses that ended", "ended", ("ppo",)),
    ("Entropy, nats per token", "entropy", ("ppo",)),
    ("Share of tokens clipped", "clip_fraction", ("ppo",)),
    ("Variance that the value model explains", "explained_variance", ("ppo",)),
)
FIRST = 4  # curves in sight; the rest are folded away until someone asks
COLORS = {"Pretrain": "#8a8f98", "SFT": "#b7791f", "Reward model": "#8b5fbf", "PPO": "#1a9486"}
STATE_WORDS = {
    "queued": "is about to start",
    "running": "is running",
    "promoted": "ended: promoted",
    "rejected": "ended: not promoted",
    "failed": "failed",
    "cancelled": "was cancelled",
}


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows of one cycle."""

    status: Blocks
    curves: tuple[pd.DataFrame, ...]  # one for each of CURVES: step, value, stage
    samples: Blocks
    log: Blocks
    state: str  # of the cycle; "" when there is none
    mark: str  # changes when anything above may have changed


def layout(context: Context) -> None:
    """Draw the page into the Blocks that is open."""
    header(context)
    notice = panel()
    timer = gr.Timer(SECONDS, active=False)
    seen = gr.State("")
    with gr.Column(visible=False) as body:
        form = _start_form(context)
        gains = panel()
        with gr.Column(visible=False) as past:
            panel([{"kind": "heading", "text": "Cycles"}])
            with gr.Row(elem_classes="pawl-toolbar"):
                chosen = gr.Dropdown([], label="Cycle", show_label=False, container=False, interactive=True)
                cancel = gr.Button("Cancel", scale=0, min_width=110, visible=False)
                resume = gr.Button("Resume", scale=0, min_width=110, visible=False)
            status = panel()
            plots = _plots()
            samples = panel()
            with gr.Accordion("Log", open=False, elem_classes="pawl-fold"):
                log = panel()
    shown = [past, chosen, status, *plots, samples, log, cancel, resume, form["said"], gains, seen]

    def on_load(request: gr.Request) -> tuple[Any, ...]:
        if (refusal := closed_to(context, request, "researcher")) is not None:
            return refusal, gr.Column(visible=False), gr.Timer(active=False), [], *[gr.skip()] * len(shown)
        ready = readiness(context, DEFAULT_STAGES)
        return [], gr.Column(visible=True), gr.Timer(active=True), ready, *outputs(context, None, "")

    def on_tick(cycle: str | None, mark: str, request: gr.Request) -> tuple[Any, ...]:
        allow(context, request, "researcher")
        return outputs(context, cycle, mark)

    def on_choice(cycle: str | None, request: gr.Request) -> tuple[Any, ...]:
        allow(context, request, "researcher")
        return outputs(context, cycle, "")

    def on_stages(stages: list[str], request: gr.Request) -> Blocks:
        allow(context, request, "researcher")
        return readiness(context, stages)

    def on_start(preset: str, stages: list[str], overrides: str, request: gr.Request) -> tuple[Any, Blocks]:
        allow(context, request, "researcher")
        return started(context, preset, stages, overrides)

    def on_cancel(cycle: str, request: gr.Request) -> Blocks:
        allow(context, request, "researcher")
        return attempt(lambda: f"{context.cycles.cancel(cycle).id} is asked to stop. It can be resumed.")

    def on_resume(cycle: str, request: gr.Request) -> Blocks:
        allow(context, request, "researcher")
        return attempt(lambda: f"{context.cycles.resume(cycle)} goes on where it stopped.")

    gr.on(None, on_load, None, [notice, body, timer, form["ready"], *shown], **QUIET)
    timer.tick(on_tick, [chosen, seen], shown, **QUIET)
    chosen.change(on_choice, chosen, shown, **QUIET)
    form["stages"].change(on_stages, form["stages"], form["ready"], **QUIET)
    options = [form["preset"], form["stages"], form["overrides"]]
    form["start"].click(on_start, options, [chosen, form["said"]], **QUIET)
    cancel.click(on_cancel, chosen, form["said"], **QUIET)
    resume.click(on_resume, chosen, form["said"], **QUIET)


def _start_form(context: Context) -> dict[str, Any]:
    """What to train, and whether there are labels enough for it."""
    panel([{"kind": "heading", "text": "Start a cycle"}])
    stages = gr.CheckboxGroup(
        [(STAGE_NAMES[stage], stage) for stage in STAGES],
        value=list(DEFAULT_STAGES),
        label="Stages",
        info="A cycle freezes the labels first, measures the new model when PPO made one, and ends by sampling.",
    )
    with gr.Row():
        preset = gr.Radio(list(PRESETS), value=context.cycles.preset, label="Preset", scale=1, min_width=160)
        overrides = gr.Textbox(
            "{}",
            label="Options of single stages, as JSON",
            info='For instance {"ppo.steps": 10, "sft.epochs": 2}',
            lines=1,
            scale=3,
            min_width=320,
        )
    ready = panel()
    with gr.Row():
        start = gr.Button("Start", variant="primary", scale=0, min_width=140)
    said = panel()
    return {"preset": preset, "stages": stages, "overrides": overrides, "ready": ready, "start": start, "said": said}


def _plots() -> list[gr.LinePlot]:
    plots = _rows_of_plots(CURVES[:FIRST])
    with gr.Accordion("More about PPO", open=False, elem_classes="pawl-fold"):
        return plots + _rows_of_plots(CURVES[FIRST:])


def _rows_of_plots(curves: tuple[tuple[str, str, tuple[str, ...]], ...]) -> list[gr.LinePlot]:
    plots = []
    for start in range(0, len(curves), 2):
        with gr.Row():
            plots += [_plot(title) for title, _, _ in curves[start : start + 2]]
    return plots


def _plot(title: str) -> gr.LinePlot:
    return gr.LinePlot(
        x="step",
        y="value",
        color="stage",
        color_map=COLORS,
        title=title,
        x_title="step",
        y_title=" ",
        color_title=" ",
        height=220,
        visible=False,
        buttons=[],
        min_width=300,
    )


def choices(context: Context) -> list[str]:
    """The cycles there are, the newest first."""
    return [status.id for status in context.cycles.list()]


def readiness(context: Context, stages: list[str] | tuple[str, ...]) -> Blocks:
    """Whether there are labels enough for these stages, in numbers."""
    labels = context.store.stats()["labels"]
    try:
        require_enough(labels, stages)
    except TooFewLabels as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]
    written, ranked = labels["demonstrations_trainable"], labels["rankings_trainable"]
    words = f"There are {written} demonstrations and {ranked} rankings to train on."
    return [{"kind": "text", "text": words}]


def started(context: Context, preset: str, stages: list[str], overrides: str) -> tuple[Any, Blocks]:
    """Start a cycle and choose it, or say why not."""
    try:
        cycle = context.cycles.start(preset, stages, parsed(overrides))
    except FeedbackError as error:
        return gr.skip(), [{"kind": "text", "tone": "warn", "text": str(error)}]
    return gr.Dropdown(choices(context), value=cycle), [
        {"kind": "text", "tone": "good", "text": f"{cycle} has started."}
    ]


def parsed(overrides: str) -> dict[str, Any]:
    """The JSON object in the options box. Raises InvalidInput."""
    try:
        options = json.loads(overrides.strip() or "{}")
    except json.JSONDecodeError as error:
        problem = f"{error.msg} at line {error.lineno}, column {error.colno}"
        raise InvalidInput(f"The options are not JSON: {problem}. Nothing was started.") from error
    if not isinstance(options, dict):
        raise InvalidInput('The options must be a JSON object, as in {"ppo.steps": 10}. Nothing was started.')
    return options


def attempt(action: Any) -> Blocks:
    """Do it and say what came of it."""
    try:
        return [{"kind": "text", "tone": "good", "text": action()}]
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]


def outputs(context: Context, cycle: str | None, mark: str) -> tuple[Any, ...]:
    """The page's outputs for this cycle, or the newest; all left alone when nothing changed since `mark`."""
    cycles = choices(context)
    cycle = cycle if cycle in cycles else next(iter(cycles), None)
    view = view_of(context, cycle)
    now = f"{len(cycles)} {view.mark}"
    if now == mark:
        return (gr.skip(),) * (len(CURVES) + 10)
    heads = gr.Column(visible=bool(cycle)), gr.Dropdown(cycles, value=cycle)
    plots = [gr.LinePlot(curve, visible=len(curve) > 0) for curve in view.curves]
    going, stopped = view.state in ("queued", "running"), view.state in ("failed", "cancelled")
    buttons = gr.Button(visible=going), gr.Button(visible=stopped)
    # what was said of a start is over when the cycle is, and another reward model may have been measured
    told = (gr.skip(), gr.skip()) if going else ([], gains_of(context.store.checkpoints()))
    return *heads, view.status, *plots, view.samples, view.log, *buttons, *told, now


def view_of(context: Context, cycle: str | None) -> View:
    """Everything the page shows of a cycle, read from its folders."""
    if not cycle:
        return View([], tuple(_empty() for _ in CURVES), [], [], "", "none")
    status = context.cycles.status(cycle)
    folder = context.cycles.folder(cycle)
    runs = stage_runs(context, folder)
    log = folder.log_tail(60)
    files = [run.path / name for run in runs.values() for name in ("metrics.jsonl", "samples.jsonl")]
    sizes = [path.stat().st_size for path in files if path.exists()]
    mark = json.dumps(
        [cycle, status.state, status.stage, status.progress, folder.state().get("stages"), sizes, len(log)]
    )
    return View(
        status=_status_blocks(status, folder),
        curves=tuple(curve(runs, metric, stages) for _, metric, stages in CURVES),
        samples=samples_of(runs),
        log=[{"kind": "code", "text": log or "Nothing was printed yet."}],
        state=status.state,
        mark=mark,
    )


def stage_runs(context: Context, folder: RunFolder) -> dict[str, RunFolder]:
    """The runs of a cycle's own stages, by stage; a stage that reused an older checkpoint has none."""
    entries = folder.state().get("stages") or []
    return {
        entry["stage"]: RunFolder(context.workspace.runs / entry["run"])
        for entry in entries
        if entry.get("run") and entry.get("state") != "reused"
    }


def curve(runs: dict[str, RunFolder], metric: str, stages: tuple[str, ...]) -> pd.DataFrame:
    """One metric over the steps of these stages, thinned to POINTS a stage: columns step, value, stage."""
    rows = []
    for stage in stages:
        if stage in runs:
            found = [line for line in runs[stage].metrics() if line.get(metric) is not None]
            kept = found[:: max(1, -(-len(found) // POINTS))]
            if found and kept[-1] is not found[-1]:
                kept.append(found[-1])
            rows += [{"step": line["step"], "value": line[metric], "stage": STAGE_NAMES[stage]} for line in kept]
    return pd.DataFrame(rows, columns=["step", "value", "stage"]) if rows else _empty()


def samples_of(runs: dict[str, RunFolder]) -> Blocks:
    """The last responses that PPO, or before it SFT, wrote down; as plain text."""
    written = [runs[stage].path / "samples.jsonl" for stage in ("ppo", "sft") if stage in runs]
    path = next((path for path in written if path.exists()), None)
    if path is None:
        return []
    items = []
    for line in path.read_text().splitlines()[-SAMPLES:]:
        try:
            sample = json.loads(line)
        except json.JSONDecodeError:  # the line is being written
            continue
        items.append({"title": _title(sample), "prompt": sample["prompt"], "response": sample["response"]})
    return [{"kind": "heading", "text": "What it writes"}, {"kind": "samples", "items": items[::-1]}]


def _title(sample: dict[str, Any]) -> str:
    """When it was sampled, and how it was judged; SFT only shows what it writes at its end."""
    words = (("step", "Step {}"), ("score", "score {:z.2f}"), ("kl", "KL {:z.1f}"))
    found = [text.format(sample[name]) for name, text in words if sample.get(name) is not None]
    return ", ".join(found) if found else "After SFT"


def _status_blocks(status: CycleStatus, folder: RunFolder) -> Blocks:
    """Progress, the stages, and how it ended."""
    blocks: Blocks = [
        {"kind": "meter", "label": f"{status.id} {STATE_WORDS[status.state]}", "value": status.progress},
        {"kind": "stages", "items": _stages(status, folder)},
    ]
    if status.state in ("queued", "running") and status.stage:
        blocks.append({"kind": "text", "text": f"Now: {STAGE_WORDS.get(status.stage, status.stage)}."})
    if status.verdict:
        tone = "good" if status.state == "promoted" else ""
        blocks.append({"kind": "text", "tone": tone, "text": status.verdict})
    if status.error and status.state in ("failed", "cancelled"):
        what, _, end_of_log = status.error.partition("\n")
        tone = "bad" if status.state == "failed" else "warn"
        blocks.append({"kind": "text", "tone": tone, "text": what})
        if end_of_log.strip():
            blocks.append({"kind": "code", "text": end_of_log.strip()})
    return blocks


def _stages(status: CycleStatus, folder: RunFolder) -> list[dict[str, Any]]:
    """Each stage of the cycle in order, those to come included."""
    entries = {entry["stage"]: entry for entry in folder.state().get("stages") or []}
    trained = folder.config()["stages"].split(",") if (folder.path / "config.json").exists() else []
    ends = ["evaluate", "sample"] if "ppo" in trained else ["sample"]
    order = [stage for stage in STAGE_NAMES if stage in {"freeze", *trained, *ends, *entries}]
    return [_stage(stage, entries.get(stage), status) for stage in order]


def _stage(stage: str, entry: dict[str, Any] | None, status: CycleStatus) -> dict[str, Any]:
    state = (entry or {}).get("state", "waiting")
    if state in ("running", "queued") and status.state in ("failed", "cancelled"):
        state = status.state  # the cycle's process died without a word about the stage
    note = (entry or {}).get("checkpoint") or ""
    if state == "running":
        note = f"{(entry or {}).get('progress') or 0:.0%}"
    elif state == "reused":
        note = f"kept {note}"
    return {"name": STAGE_NAMES.get(stage, stage), "state": "waiting" if state == "queued" else state, "note": note}


def _empty() -> pd.DataFrame:
    return pd.DataFrame({"step": [], "value": [], "stage": []})
