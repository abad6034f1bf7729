"""One turn of the loop: freeze → sft → reward → ppo → evaluate → sample, each stage a process of its own.

Reads   the labels, through `python -m data freeze`; the promoted checkpoint, if there is one
Writes  a run and a checkpoint for each stage; the verdict on the new policy; a batch of its samples to rank.
        runs/<cycle>/state.json says at every moment which stages are done, so that a cycle that was killed
        goes on with `--resume` at the stage it was in

Exit 0: promoted. 3: measured and not promoted. 1: failed. 143: cancelled; it can be resumed.

    python -m training cycle --preset tiny
    python -m training cycle --preset tiny --stages pretrain,sft       # a first model from nothing
    python -m training cycle --stages sft --base path/to/any/causal-lm  # a first model from one you have
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data import datasets, snapshots
from data.errors import FeedbackError, InvalidInput
from data.records import STAGES
from data.runs import RunFolder
from data.workspace import Workspace
from training import checkpoints, launch
from training.metrics import Cancelled, stop_requested

SHARE = {"freeze": 1, "pretrain": 12, "sft": 4, "reward": 4, "ppo": 10, "evaluate": 3, "sample": 2}  # of the time
NOT_PROMOTED = 3
CONFIGURABLE = (*STAGES, "evaluate", "sample")  # the stages that an override may name
GIVEN = {"snapshot", "init", "reference", "reward", "policy", "parent"}  # what a cycle tells its stages itself


@dataclass(frozen=True)
class Config:
    stages: str = "sft,reward,ppo"  # which stages to train, with commas; pretrain,sft makes a first model
    base: str | None = None  # start SFT from this folder or hub id instead of the promoted model's own base
    override: tuple[str, ...] = ()  # stage.field=value, as in ppo.steps=10
    launch: str = ""  # put before each stage, as in "torchrun --standalone --nproc-per-node 8"
    seed: int = 0

    def __post_init__(self) -> None:
        wrong = [name for name in self.stages.split(",") if name not in STAGES]
        if wrong:
            raise ValueError(f"stages has {', '.join(wrong)}; choose from {', '.join(STAGES)}.")
        for text in self.override:
            if problem := problem_of(text):
                raise ValueError(f"override {text!r} {problem}")

    @property
    def trained(self) -> list[str]:
        """The chosen stages in the order they run."""
        return [name for name in STAGES if name in self.stages.split(",")]

    def overrides(self, stage: str) -> dict[str, str]:
        """The fields of a stage that this cycle sets, with their values as written; the last one of a field counts."""
        given = [text.removeprefix(f"{stage}.") for text in self.override if text.startswith(f"{stage}.")]
        pairs = [text.split("=", 1) for text in given]
        return {name.replace("-", "_"): value for name, value in pairs}

    def arguments(self, stage: str) -> list[str]:
        """The command line that this cycle's overrides add to a stage; commas part the values of a list."""
        pairs = self.overrides(stage).items()
        return [word for name, value in pairs for word in ("--" + name.replace("_", "-"), *value.split(","))]


def problem_of(override: str) -> str | None:
    """What is wrong with `stage.field=value`, in words that go on after it; None when nothing is."""
    name, equals, _ = override.partition("=")
    stage, dot, field = name.partition(".")
    field = field.replace("-", "_")
    if not (stage and dot and field and equals):
        return "is not stage.field=value, as in ppo.steps=10."
    if stage not in CONFIGURABLE:
        return f"names the stage {stage!r}; choose from {', '.join(CONFIGURABLE)}."
    options = options_of(stage)
    if field in options & GIVEN:
        return f"sets what the cycle itself tells {stage}: leave {field} out, or run `python -m training {stage}`."
    if field not in options:
        near = difflib.get_close_matches(field, sorted(options - GIVEN), n=1)
        nearest = f"; the nearest is {near[0]}" if near else ""
        return f"names no field of {stage}{nearest}. `python -m training {stage} --help` lists them."
    return None


def options_of(stage: str) -> set[str]:
    """The fields of a stage's configuration."""
    return {field.name for field in dataclasses.fields(importlib.import_module(f"training.{stage}").Config)}


class StageFailed(FeedbackError):
    """A stage ended badly; the message holds the end of its log."""

    title = "Stage failed"


class Cycle:
    """The state of one turn, kept on disk: each step writes down what it made before the next begins."""

    def __init__(self, config: Config, run: RunFolder, workspace: Workspace) -> None:
        self.config, self.run, self.workspace = config, run, workspace
        self.preset, self.report_to = run.config().get("preset", "tiny"), run.config().get("report_to", [])

    def steps(self) -> list[str]:
        """freeze, the chosen stages, evaluate where there is a policy to measure, sample."""
        trained = self.config.trained
        return ["freeze", *trained, *(["evaluate"] if "ppo" in trained else []), "sample"]

    def done(self, stage: str) -> bool:
        """Whether the stage has finished, and what it made was handed in."""
        return self.entry(stage).get("state") in ("done", "reused")

    def entry(self, stage: str) -> dict[str, Any]:
        """What a stage wrote down so far: its run, its checkpoint; empty before it began."""
        return self._entries().get(stage, {})

    def note(self, stage: str, **fields: Any) -> None:
        """Write down how a stage stands."""
        entries = self._entries()
        entries[stage] = {"stage": stage, **entries.get(stage, {}), **fields}
        self.run.update(stage=stage, stages=list(entries.values()), progress=self._progress(entries))

    def _entries(self) -> dict[str, dict[str, Any]]:
        return {entry["stage"]: entry for entry in self.run.state().get("stages", [])}

    def _progress(self, entries: dict[str, dict[str, Any]]) -> float:
        total = sum(SHARE[stage] for stage in self.steps())
        made = sum(SHARE[stage] * entry.get("progress", 0.0) for stage, entry in entries.items())
        return round(made / total, 4)

    def data(self, *arguments: str) -> str:
        """`python -m data ARGUMENTS`: the store is touched by that command, or by the app that owns it."""
        command = [sys.executable, "-m", "data", *arguments, "--workspace", str(self.workspace.root)]
        # In a session of its own: what is being handed in is handed in, also when the cycle is told to stop.
        result = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
        if result.returncode:
            raise StageFailed(f"`python -m data {' '.join(arguments)}` failed: {result.stderr.strip()[-2000:]}")
        return result.stdout

    def train(self, stage: str, *arguments: str) -> str:
        """Run a stage to its end, or resume it where it stopped; returns its run id."""
        entry = self.entry(stage)
        begun = "run" in entry and (self.workspace.runs / entry["run"] / "config.json").exists()
        run = RunFolder(self.workspace.runs / entry["run"]) if begun else self._new_run(stage)
        self._end_orphan(run)
        if begun and run.state().get("state") == "done":  # the cycle was killed before it had handed this in
            self.note(stage, progress=1.0, checkpoint=run.state().get("checkpoint"))
            return run.id
        self.note(stage, run=run.id, state="running", progress=entry.get("progress", 0.0), checkpoint=None)
        rest = ["--resume", run.id] if begun else ["--run-id", run.id, *arguments, *self.config.arguments(stage)]
        command = [stage, "--preset", self.preset, "--workspace", str(self.workspace.root), *rest]
        if self.report_to and not begun:
            command += ["--report-to", *self.report_to]
        print(f"{stage}: {self.config.launch or 'python'} -m training {shlex.join(command)}", flush=True)
        run.update(state="queued", error=None)  # what is read there later is of this attempt
        with (run.path / "log.txt").open("ab") as log:
            self._watch(stage, run, launch.start(self.config.launch, command, log))
        return run.id

    def _new_run(self, stage: str) -> RunFolder:
        run = RunFolder.reserve(self.workspace.runs, stage)
        self.note(stage, run=run.id, state="queued", progress=0.0, checkpoint=None)
        return run

    def _watch(self, stage: str, run: RunFolder, child: launch.Child) -> None:
        asked_to_stop = False
        while (code := child.poll()) is None:
            if stop_requested() and not asked_to_stop:
                asked_to_stop = True
                child.terminate()
            if (progress := run.state().get("progress", 0.0)) != self.entry(stage).get("progress"):
                self.note(stage, progress=progress)
            time.sleep(0.5)
        # A launcher of several processes has exit codes of its own: what the run says of itself counts as well.
        state = run.state().get("state")
        stopped = state == "cancelled" or (asked_to_stop and state in ("queued", "running"))
        if code in (Cancelled.exit_code, -signal.SIGTERM) or (code and stopped):
            self.note(stage, state="cancelled")
            raise Cancelled
        if code and state != "done":
            self.note(stage, state="failed")
            how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
            reason = run.state().get("error") or run.log_tail(20)
            raise StageFailed(f"The stage {stage} (run {run.id}) {how}. The end of its log:\n{reason}")
        self.note(stage, progress=1.0, checkpoint=run.state().get("checkpoint"))

    def _end_orphan(self, run: RunFolder) -> None:
        """End the stage's old process if the cycle was killed and it was not: two may not write one run."""
        while run.is_alive():
            os.kill(run.state()["pid"], signal.SIGTERM)
            time.sleep(0.5)


def freeze(cycle: Cycle) -> None:
    """Freeze the labels; refuse before anything is trained when there are too few of them."""
    answer = json.loads(cycle.data("freeze", "--json").strip().splitlines()[-1])
    datasets.require_enough(answer["counts"], cycle.config.trained)
    cycle.note("freeze", promoted=answer["promoted"], snapshot=answer["snapshot"])
    cycle.run.update(snapshot=answer["snapshot"])


def pretrain(cycle: Cycle) -> None:
    cycle.train("pretrain", "--seed", str(cycle.config.seed))
    hand_in(cycle, "pretrain")


def sft(cycle: Cycle) -> None:
    """Fine-tune the base on every demonstration, or keep the SFT model there is when nothing in them changed."""
    promoted = cycle.entry("freeze")["promoted"]
    old = lineage(cycle, promoted).get("sft") if promoted else None
    if old and not cycle.config.base and not cycle.config.arguments("sft") and same_demonstrations(cycle, old):
        cycle.note("sft", state="reused", progress=1.0, checkpoint=old, run=old)
        print(f"sft: kept {old}, the demonstrations have not changed since", flush=True)
        return
    cycle.train("sft", "--snapshot", snapshot_of(cycle), "--init", base_of(cycle), "--seed", str(cycle.config.seed))
    hand_in(cycle, "sft")


def reward(cycle: Cycle) -> None:
    cycle.train("reward", "--snapshot", snapshot_of(cycle), "--init", sft_of(cycle), "--seed", str(cycle.config.seed))
    hand_in(cycle, "reward")


def ppo(cycle: Cycle) -> None:
    """Train the policy that the new reward model judges, held to the SFT model."""
    models = ["--init", start_of(cycle), "--reference", sft_of(cycle), "--reward", made_by(cycle, "reward")]
    cycle.train("ppo", "--snapshot", snapshot_of(cycle), *models, "--seed", str(cycle.config.seed))
    hand_in(cycle, "ppo")


def evaluate(cycle: Cycle) -> None:
    """Measure the new policy against the promoted one (the SFT model, when there is none), and say which stays."""
    policy = made_by(cycle, "ppo")
    models = ["--policy", policy, "--parent", str(parent_of(cycle)), "--reward", made_by(cycle, "reward")]
    run = cycle.train("evaluate", "--snapshot", snapshot_of(cycle), *models, "--seed", str(cycle.config.seed))
    outcome = RunFolder(cycle.workspace.runs / run).state()
    checkpoints.add_metrics(cycle.workspace.checkpoints / policy, {"evaluate": outcome["metrics"]})
    cycle.data("add", "checkpoint", policy, "--state", outcome["verdict"], "--reason", outcome["reason"])
    cycle.run.update(
        checkpoint=policy, outcome=outcome["verdict"], verdict=outcome["reason"], metrics=outcome["metrics"]
    )


def sample(cycle: Cycle) -> None:
    """Responses of the promoted model become the next ranking tasks, first those the reward model is unsure of."""
    models = ["--policy", promoted_now(cycle)]
    if "reward" in cycle.config.trained:
        models += ["--reward", made_by(cycle, "reward")]
    run = cycle.train("sample", "--snapshot", snapshot_of(cycle), *models, "--seed", str(cycle.config.seed))
    cycle.data("add", "batch", run)


STEPS = {step.__name__: step for step in (freeze, pretrain, sft, reward, ppo, evaluate, sample)}


def main(config: Config, run: RunFolder, workspace: Workspace) -> int:
    """Run what is left of the turn; returns the exit code."""
    cycle = Cycle(config, run, workspace)
    run.claim(id=run.id, state="running", error=None)
    report(cycle)
    try:
        launch.launcher(config.launch)  # refused before anything is trained
        for step in cycle.steps():
            if stop_requested():
                raise Cancelled
            if not cycle.done(step):
                cycle.note(step, state="running")
                STEPS[step](cycle)
                if not cycle.done(step):  # it may say itself that it was reused
                    cycle.note(step, state="done", progress=1.0)
        return conclude(cycle)
    except Cancelled:
        run.update(state="cancelled", error=f"Cancelled in the stage {run.state().get('stage')}; it can be resumed.")
        return Cancelled.exit_code
    except FeedbackError as error:
        run.update(state="failed", error=str(error))
        print(error, file=sys.stderr)
        return 1
    finally:
        report(cycle)


def report(cycle: Cycle) -> None:
    """Tell the store how the turn stands. When it cannot be told, state.json still says it."""
    try:
        cycle.data("add", "run", cycle.run.id)
    except StageFailed as error:
        print(error, file=sys.stderr)


def conclude(cycle: Cycle) -> int:
    """The verdict of the whole turn, in its state and in its exit code. Nothing measured is nothing promoted."""
    state = cycle.run.state()
    outcome = state.get("outcome") or "rejected"
    verdict = state.get("verdict") or f"Nothing was measured, so {parent_of(cycle)} stays: that takes reward and ppo."
    cycle.run.update(state=outcome, progress=1.0, verdict=verdict)
    print(f"{outcome}: {verdict}", flush=True)
    return 0 if outcome == "promoted" else NOT_PROMOTED


def hand_in(cycle: Cycle, stage: str) -> None:
    """Tell the store of a new checkpoint. The first SFT model is promoted, since there is none before it."""
    checkpoint = made_by(cycle, stage)
    if stage != "sft" or cycle.entry("freeze")["promoted"] is not None:
        cycle.data("add", "checkpoint", checkpoint)
        return
    reason = f"{checkpoint} is the first model: there is none before it to compare it with."
    cycle.data("add", "checkpoint", checkpoint, "--state", "promoted", "--reason", reason)
    cycle.run.update(checkpoint=checkpoint, outcome="promoted", verdict=reason)


def made_by(cycle: Cycle, stage: str) -> str:
    """The checkpoint that a stage of this cycle made.

    Raises:
        InvalidInput: the cycle does not run that stage.
    """
    checkpoint = cycle.entry(stage).get("checkpoint")
    if not checkpoint:
        raise InvalidInput(
            f"This cycle has no {stage} stage, and a later one needs its checkpoint. Add it to --stages."
        )
    return str(checkpoint)


def snapshot_of(cycle: Cycle) -> str:
    return str(cycle.workspace.snapshots / cycle.run.state()["snapshot"])


def parent_of(cycle: Cycle) -> str | None:
    """The checkpoint that was promoted when the cycle began; for the first model, the SFT model it made itself."""
    promoted = cycle.entry("freeze")["promoted"]
    return promoted or cycle.entry("sft").get("checkpoint")


def promoted_now(cycle: Cycle) -> str:
    """The checkpoint that labelers rank next.

    Raises:
        InvalidInput: there is no model at all.
    """
    state = cycle.run.state()
    model = state["checkpoint"] if state.get("outcome") == "promoted" else parent_of(cycle)
    if model is None:
        raise InvalidInput("There is no model to sample from yet. Use --stages pretrain,sft, or bring one with --base.")
    return str(model)


def sft_of(cycle: Cycle) -> str:
    """The SFT model of this turn: the one it made, else the one the promoted policy grew from.

    Raises:
        InvalidInput: there is none.
    """
    if "sft" in cycle.config.trained:
        return made_by(cycle, "sft")
    promoted = parent_of(cycle)
    if promoted and (found := lineage(cycle, promoted).get("sft")):
        return found
    raise InvalidInput("There is no SFT model yet. Add sft to --stages.")


def start_of(cycle: Cycle) -> str:
    """Where PPO starts: at the promoted policy when it grew from the same SFT model, else at that model.

    With LoRA always at the SFT model: the reference is then the policy without its adapter.
    """
    promoted, reference = parent_of(cycle), sft_of(cycle)
    trains_adapter = cycle.config.overrides("ppo").get("lora_rank", "0") != "0"
    if promoted and not trains_adapter and lineage(cycle, promoted).get("sft") == reference:
        return promoted
    return reference


def base_of(cycle: Cycle) -> str:
    """What SFT starts from: --base, else this turn's pretrained model, else what the promoted model grew from.

    Raises:
        InvalidInput: there is none.
    """
    if cycle.config.base:
        return cycle.config.base
    if "pretrain" in cycle.config.trained:
        return made_by(cycle, "pretrain")
    promoted = parent_of(cycle)
    if promoted is None:
        raise InvalidInput("There is no model to start from yet. Use --stages pretrain,sft, or bring one with --base.")
    return lineage(cycle, promoted)["base"]


def lineage(cycle: Cycle, checkpoint: str) -> dict[str, str]:
    """The checkpoint's ancestors by stage, along each first parent; `base` is where the line begins.

    A checkpoint that is its own ancestor ends the line: it was replaced by one that grew from it.
    """
    line, seen = {"base": checkpoint}, {checkpoint}
    while (cycle.workspace.checkpoints / checkpoint / "pawl.json").exists():
        manifest = checkpoints.read_manifest(cycle.workspace.checkpoints / checkpoint)
        line.setdefault(manifest["stage"], checkpoint)
        if not manifest["parents"] or manifest["parents"][0] in seen:
            break
        checkpoint = manifest["parents"][0]
        seen.add(checkpoint)
        line["base"] = checkpoint
    return line


def same_demonstrations(cycle: Cycle, sft_checkpoint: str) -> bool:
    """Whether this turn's snapshot has the demonstrations that the SFT model was trained on."""
    manifest = checkpoints.read_manifest(cycle.workspace.checkpoints / sft_checkpoint)
    old = cycle.workspace.snapshots / str(manifest["snapshot"])
    if not old.exists():
        return False
    now = Path(snapshot_of(cycle))
    before, after = (datasets.demonstrations(snapshots.load(path), "train") for path in (old, now))
    return before == after
