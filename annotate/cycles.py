"""Turns of the loop, started and watched from the app: `python -m training cycle` as a child process.

Reads   runs/cycle-<n>/state.json and log.txt, which the cycle writes
Writes  runs/cycle-<n>/ (config.json, and everything the child prints to log.txt)

What is running is found on disk, not remembered, so an app that was restarted goes on watching the same cycle.
A child outlives a crash of the app; a clean stop of the app ends it with SIGTERM, after which it can be resumed.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.errors import Conflict, InvalidInput, NotFound
from data.records import CYCLE_STATES, PRESETS, STAGES, CycleStatus
from data.runs import RunFolder

if TYPE_CHECKING:
    from data.store import Store
    from data.workspace import Workspace

MEASURING = ("evaluate", "sample")  # run at the end of a cycle; their options can be overridden too
FILES = ("pretrain.text", "pretrain.dataset")  # options that only who has a shell on the machine may set
DEFAULT_STAGES = ("sft", "reward", "ppo")
ENVIRONMENT = {"PYTHONUNBUFFERED": "1"}  # log.txt is read while it grows; the rest training sets itself
COMMAND = (sys.executable, "-m", "training", "cycle")
NICE = ("nice", "-n", "10")  # training yields the processor to labelers
CANCELLED = (-signal.SIGTERM, 128 + signal.SIGTERM)
STOP_SECONDS = 10.0  # given to a cycle to write down where it is


class Cycles:
    """The cycles of one workspace: one runs at a time."""

    def __init__(
        self,
        workspace: Workspace,
        store: Store,
        *,
        preset: str = "tiny",
        base: str | None = None,
        launch: str = "",
        command: Sequence[str] = COMMAND,
    ) -> None:
        self.workspace, self.preset = workspace, preset
        self._store, self._base, self._launch, self._command = store, base, launch, command
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._lock = threading.Lock()

    # what there is

    def list(self) -> list[CycleStatus]:
        """Every cycle, the newest first."""
        folders = [path for path in self.workspace.runs.glob("cycle-*") if re.fullmatch(r"cycle-\d+", path.name)]
        return [self._status(RunFolder(path)) for path in sorted(folders, key=_number, reverse=True)]

    def status(self, cycle_id: str) -> CycleStatus:
        """How this cycle stands. One whose process is gone without a verdict has failed; `error` says how.

        Raises NotFound.
        """
        return self._status(self.folder(cycle_id))

    def folder(self, cycle_id: str) -> RunFolder:
        """The run folder of this cycle. Raises NotFound."""
        path = self.workspace.runs / cycle_id
        if not re.fullmatch(r"cycle-\d+", cycle_id) or not path.is_dir():
            raise NotFound(f"There is no cycle {cycle_id[:80]!r}. GET /cycles lists those there are.")
        return RunFolder(path)

    def running(self) -> CycleStatus | None:
        """The cycle that runs now, or None."""
        return next((status for status in self.list() if status.state in ("queued", "running")), None)

    # what one can do

    def start(
        self,
        preset: str | None = None,
        stages: Sequence[str] = DEFAULT_STAGES,
        overrides: Mapping[str, Any] | None = None,
    ) -> str:
        """Begin one turn of the loop and return its id.

        `overrides` sets options of single stages: {"ppo.steps": 10}, or the same nested, {"ppo": {"steps": 10}}.
        Raises InvalidInput, Conflict when a cycle is running, TooFewLabels with the numbers that are needed.
        """
        from data.datasets import require_enough  # pyarrow takes its time to load

        preset = self.preset if preset is None else preset
        flat = _flat(overrides or {})
        _check(preset, stages, flat)
        with self._lock:
            self._refuse_a_second()
            require_enough(self._store.stats()["labels"], stages)
            return self._begin(preset, stages, override=flat)

    def start_first_model(self) -> str | None:
        """Make the first model when none was promoted yet: go on with the cycle that was making it, else begin one.

        Returns the cycle's id, or None when there is a model, or one is being made.
        """
        with self._lock:
            if self._store.promoted() is not None or self.running() is not None:
                return None
            for status in self.list():
                run = self.folder(status.id)
                if status.state in ("failed", "cancelled") and "ppo" not in _stages(run):
                    return self._launch_child(run, ["--resume", run.id])
            stages = ["sft"] if self._base else ["pretrain", "sft"]
            return self._begin(self.preset, stages, base=self._base)

    def resume(self, cycle_id: str) -> str:
        """Go on with a cycle that failed or was cancelled, at the stage it was in.

        Raises NotFound, or Conflict when it has ended with a verdict or one is running.
        """
        with self._lock:
            run = self.folder(cycle_id)
            self._refuse_a_second()
            if (state := self._status(run).state) not in ("failed", "cancelled"):
                raise Conflict(f"{cycle_id} has ended: {state}. Nothing was started; start a new cycle instead.")
            if self._is_alive(run):
                raise Conflict(f"{cycle_id} is still stopping. Nothing was started; try again in a moment.")
            return self._launch_child(run, ["--resume", run.id])

    def cancel(self, cycle_id: str) -> CycleStatus:
        """Ask the cycle and its stage to stop. They write down where they are, so it can be resumed.

        Raises NotFound, or Conflict when it is not running.
        """
        run = self.folder(cycle_id)
        if (state := self._status(run).state) not in ("queued", "running"):
            raise Conflict(f"{cycle_id} is not running: {state}. Nothing was changed.")
        self._terminate(run)
        return self._status(run)

    def stop(self) -> None:
        """The app stops: end the cycle that an app started and wait a little for it. It can be resumed."""
        status = self.running()
        if status is not None and self._is_ours(run := self.folder(status.id)):
            self._terminate(run)
        deadline = time.monotonic() + STOP_SECONDS  # one inside a long step stops by itself after it
        while any(self._is_alive(self.folder(name)) for name in self._children) and time.monotonic() < deadline:
            time.sleep(0.02)

    # how

    def _begin(
        self, preset: str, stages: Sequence[str], *, base: str | None = None, override: Sequence[str] = ()
    ) -> str:
        config = {"preset": preset, "stages": ",".join(stages), "base": base, "override": list(override)}
        config["launch"] = self._launch
        run = RunFolder.create(self.workspace.runs, "cycle", config)
        return self._launch_child(run, ["--run", run.id, *_arguments(config)])

    def _launch_child(self, run: RunFolder, arguments: Sequence[str]) -> str:
        command = [*NICE, *self._command, "--workspace", str(self.workspace.root), *arguments]
        run.update(id=run.id, state="queued", error=None)
        with (run.path / "log.txt").open("ab") as log:
            log.write(f"$ {shlex.join(command)}\n".encode())
            log.flush()
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # its own process group: Ctrl-C in the app's terminal does not reach it
                env={**os.environ, **ENVIRONMENT},
            )
        self._children[run.id] = child
        return run.id

    def _refuse_a_second(self) -> None:
        if (running := self.running()) is not None:
            raise Conflict(
                f"{running.id} is running (stage {running.stage}, {running.progress:.0%}). One cycle runs at a time; "
                "wait for its end or cancel it."
            )

    def _is_alive(self, run: RunFolder) -> bool:
        child = self._children.get(run.id)
        return child.poll() is None if child is not None else run.is_alive()

    def _is_ours(self, run: RunFolder) -> bool:
        """Whether an app started it, this one or one before. A cycle from a terminal belongs to who typed it."""
        return self._session_of(run) == self._pid_of(run)

    def _terminate(self, run: RunFolder) -> None:
        try:
            if self._is_ours(run):
                os.killpg(self._pid_of(run), signal.SIGTERM)
            else:
                os.kill(self._pid_of(run), signal.SIGTERM)
        except ProcessLookupError:
            return  # it ended by itself just now

    def _pid_of(self, run: RunFolder) -> int:
        child = self._children.get(run.id)
        return child.pid if child is not None else int(run.state()["pid"])

    def _session_of(self, run: RunFolder) -> int | None:
        try:
            return os.getsid(self._pid_of(run))
        except ProcessLookupError:
            return None

    def _status(self, run: RunFolder) -> CycleStatus:
        alive = self._is_alive(run)  # asked before the state is read: a process that ends has written its last word
        state = run.state()
        name, error = state.get("state", "queued"), state.get("error")
        if name not in CYCLE_STATES:
            name = "running"
        if name in ("queued", "running") and not alive:
            child = self._children.get(run.id)
            name = "cancelled" if child is not None and child.returncode in CANCELLED else "failed"
            error = f"The process ended without a verdict. The last lines of its log:\n{run.log_tail()}"
        return CycleStatus(
            id=run.id,
            state=name,
            stage=state.get("stage"),
            progress=float(state.get("progress") or 0.0),
            metrics=state.get("metrics") or {},
            checkpoint=state.get("checkpoint"),
            verdict=state.get("verdict"),
            error=error,
        )


def _number(path: Any) -> int:
    return int(path.name.removeprefix("cycle-"))


def _arguments(config: Mapping[str, Any]) -> list[str]:
    """The command line that says what the config says."""
    arguments = ["--preset", config["preset"], "--stages", config["stages"]]
    if config["base"]:
        arguments += ["--base", config["base"]]
    if config["launch"]:
        arguments += ["--launch", config["launch"]]
    if config["override"]:
        arguments += ["--override", *config["override"]]
    return arguments


def _stages(run: RunFolder) -> list[str]:
    """The stages that the cycle was asked to train."""
    config = run.config() if (run.path / "config.json").exists() else {}
    return str(config.get("stages", "")).split(",")


def _flat(overrides: Mapping[str, Any]) -> list[str]:
    """{"ppo.steps": 10} and {"ppo": {"steps": 10}} both become ["ppo.steps=10"]."""
    flat = []
    for key, value in overrides.items():
        options = value if isinstance(value, Mapping) else {"": value}
        for name, inner in options.items():
            text = ",".join(map(str, inner)) if isinstance(inner, list) else str(inner)
            flat.append(f"{key}{'.' if name else ''}{name}={text}")
    return flat


def _check(preset: str, stages: Sequence[str], overrides: Sequence[str]) -> None:
    """Raise one InvalidInput that names all that is wrong with a request for a cycle."""
    problems = []
    if preset not in PRESETS:
        problems.append(f"preset must be one of {', '.join(PRESETS)}, not {preset[:80]!r}")
    if not stages or (unknown := [stage for stage in stages if stage not in STAGES]):
        named = "it is empty" if not stages else f"it has {', '.join(repr(stage[:80]) for stage in unknown)}"
        problems.append(f"stages must be some of {', '.join(STAGES)}; {named}")
    pattern = re.compile(rf"(?:{'|'.join((*STAGES, *MEASURING))})\.[a-z_]+=[^\x00-\x1f]{{1,1000}}")
    for text in overrides:
        if not pattern.fullmatch(text):
            problems.append(f"overrides must be named stage.option, as in ppo.steps; {text[:80]!r} is not")
        if text.partition("=")[0] in FILES:
            problems.append(f"{text.partition('=')[0]} reads files of the server; set it with `python -m training`")
    if problems:
        raise InvalidInput("; ".join(problems) + ". Nothing was started.")
