"""One execution of a stage, as a folder: what it was asked, how far it is, what it measured.

runs/<id>/config.json     the stage and its configuration, written once
runs/<id>/state.json      replaced whole at each change: state, stage, step, steps, progress, pid, checkpoint, error
runs/<id>/metrics.jsonl   one object per step
runs/<id>/log.txt         everything the stage printed

training writes these, annotate shows them; neither needs the other.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ENDED = ("done", "promoted", "rejected")  # the states of a run with nothing left to do; a cycle ends in its verdict
AT_WORK = ("queued", "running")


def write_whole(path: Path, text: str) -> None:
    """Replace the file's text in one step: a reader sees the old or the new, never half."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    with os.fdopen(handle, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The folder `runs/<id>`."""

    path: Path

    @classmethod
    def create(cls, runs: Path, stage: str, config: dict[str, Any]) -> RunFolder:
        """A new run `<stage>-<n>`, n one above the highest of the runs and of the checkpoints beside them."""
        run = cls.reserve(runs, stage)
        run.begin(config)
        return run

    @classmethod
    def reserve(cls, runs: Path, stage: str) -> RunFolder:
        """An empty folder `<stage>-<n>`, for a process that is yet to start."""
        taken = (*runs.glob(f"{stage}-[0-9]*"), *(runs.parent / "checkpoints").glob(f"{stage}-[0-9]*"))
        number = 1 + max((_number(path.name) for path in taken), default=0)
        while True:
            folder = runs / f"{stage}-{number:04d}"
            try:
                folder.mkdir(parents=True)
                return cls(folder)
            except FileExistsError:  # another process took this number
                number += 1

    def begin(self, config: dict[str, Any]) -> None:
        """Write down what the run is asked to do."""
        write_whole(self.path / "config.json", json.dumps(config, indent=2, default=str))

    @property
    def id(self) -> str:
        return self.path.name

    def config(self) -> dict[str, Any]:
        """What the run was asked to do."""
        config: dict[str, Any] = json.loads((self.path / "config.json").read_text())
        return config

    def state(self) -> dict[str, Any]:
        """How the run stands; empty before it has started."""
        path = self.path / "state.json"
        state: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        return state

    def update(self, **changes: Any) -> None:
        """Change fields of the state; `updated_at` (Unix seconds) is set here."""
        state = {**self.state(), **changes, "updated_at": time.time()}
        write_whole(self.path / "state.json", json.dumps(state, indent=2))

    def append_metrics(self, line: dict[str, Any]) -> None:
        """Append one object to metrics.jsonl."""
        with (self.path / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def drop_metrics_after(self, step: int) -> None:
        """Forget the lines of later steps: a run that goes on after `step` makes them again."""
        path = self.path / "metrics.jsonl"
        if path.exists():
            kept = [line for line in self._lines() if line.get("step", 0) <= step]
            write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, one per step: of a step written twice (after a resume) the last counts."""
        return list({line.get("step", -i): line for i, line in enumerate(self._lines(), 1)}.values())

    def _lines(self) -> Iterator[dict[str, Any]]:
        path = self.path / "metrics.jsonl"
        if not path.exists():
            return
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except json.JSONDecodeError:  # the last line of a run that was killed while writing it
                continue

    def claim(self, **changes: Any) -> None:
        """Change fields of the state, and say that this process now works on the run."""
        self.update(pid=os.getpid(), born=_born(os.getpid()), **changes)

    def is_alive(self) -> bool:
        """Whether the process that claimed the run still runs (pids are used again, so its birth counts too)."""
        state = self.state()
        pid = state.get("pid")
        if not isinstance(pid, int):
            return False
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # somebody else's process: the number was used again
            return False
        return _born(pid) == state.get("born")

    def worked_on_by(self) -> int | None:
        """The other process that works on the run now; None when there is none, or it is this one."""
        state = self.state()
        at_work = state.get("state") in AT_WORK and state.get("pid") != os.getpid() and self.is_alive()
        return int(state["pid"]) if at_work else None

    def has_ended(self) -> bool:
        """Whether the run did all that it was asked to do; one that failed or was stopped can go on."""
        return self.state().get("state") in ENDED

    def log_tail(self, lines: int = 20) -> str:
        """The last lines of log.txt."""
        path = self.path / "log.txt"
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:]) if path.exists() else ""


def _number(name: str) -> int:
    """The n of `<stage>-<n>`; 0 of a name that goes on behind its number."""
    number = name.partition("-")[2]
    return int(number) if number.isdecimal() else 0


def _born(pid: int) -> str | None:
    """When the process began, in the kernel's ticks; "ended" if nobody has heard of its end yet, None without /proc."""
    path = Path(f"/proc/{pid}/stat")
    if not path.exists():
        return None
    fields = path.read_text().rpartition(")")[2].split()  # before it stands the name, which may hold anything
    return "ended" if fields[0] in "ZX" else fields[19]
