"""How a stage tells what it does: one JSON line per step, the same for people, and the wish to stop.

Writes  runs/<id>/metrics.jsonl (one object per step), runs/<id>/state.json (step, steps, progress), a line to stdout;
        whoever follows hears the same numbers

SIGTERM sets a flag that stages read between steps; they save and raise `Cancelled`, and the process exits with 143.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from data.runs import RunFolder

_stop = threading.Event()
_followers: list[Callable[[dict[str, float | int], int], None]] = []


class Cancelled(Exception):
    """SIGTERM came and what can be resumed is saved."""

    exit_code = 128 + signal.SIGTERM


def catch_stop_signal() -> None:
    """From now on SIGTERM asks the stage to stop at its next clean point. Call from the main thread."""
    _stop.clear()
    signal.signal(signal.SIGTERM, _on_sigterm)


def stop_requested() -> bool:
    """Whether SIGTERM has come since `catch_stop_signal`."""
    return _stop.is_set()


def _on_sigterm(signum: int, frame: FrameType | None) -> None:
    _stop.set()


@contextmanager
def followed_by(follower: Callable[[dict[str, float | int], int], None]) -> Iterator[None]:
    """Inside, `follower` is called with the numbers of each step, those that are finite, and the step."""
    _followers.append(follower)
    try:
        yield
    finally:
        _followers.remove(follower)


class Progress:
    """The steps of one run as they are made. `steps` is how many there will be."""

    def __init__(self, run: RunFolder, stage: str, steps: int) -> None:
        self.run, self.stage, self.steps = run, stage, steps
        self._said = 0.0
        self._logged: tuple[int, dict[str, float | int | None]] = (-1, {})
        run.update(state="running", stage=stage, step=0, steps=steps, progress=0.0)

    @property
    def stop_requested(self) -> bool:
        """Whether SIGTERM has come: save, then raise `Cancelled`."""
        return stop_requested()

    def log(self, step: int, **numbers: float | int | None) -> None:
        """Record the numbers of a step (counted from 1); NaN and infinity as null, since JSON has no such numbers.

        A second call for the same step writes its numbers with the first's, since of a step the last line counts.
        """
        numbers = {name: finite(value) for name, value in numbers.items()}
        before = self._logged[1] if self._logged[0] == step else {}
        self._logged = step, {**before, **numbers}
        self.run.append_metrics({"step": step, "time": round(time.time(), 3), **self._logged[1]})
        self.at(step)
        print(
            f"{self.stage} {step}/{self.steps}  " + "  ".join(f"{k} {_short(v)}" for k, v in numbers.items()),
            flush=True,
        )
        for follower in _followers:
            follower({name: value for name, value in numbers.items() if value is not None}, step)

    def at(self, step: int, *, always: bool = False) -> None:
        """Say how far the run is, without numbers; at most about twice a second, unless `always` or at the end."""
        now = time.monotonic()
        if now - self._said < 0.5 and step < self.steps and not always:
            return
        self._said = now
        self.run.update(step=step, steps=self.steps, progress=round(min(1.0, step / max(1, self.steps)), 4))


def finite(value: float | int | None) -> float | int | None:
    """The number, or None for NaN and infinity, which JSON does not have."""
    return None if value is None or not math.isfinite(value) else value


def _short(value: float | int | None) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
