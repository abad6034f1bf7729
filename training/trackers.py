"""A stage's metrics also in a tracker of the user's own: TensorBoard, trackio or Weights & Biases.

Writes  runs/<id>/tensorboard/; trackio and wandb write where they always do, into the project "pawl"

The trackers are accelerate's, and none of them is installed with Pawl. trackio stays on this machine; wandb sends what
it gets away, unless WANDB_MODE=offline.

    pip install tensorboard
    python -m training ppo --report-to tensorboard ...
    tensorboard --logdir var/runs
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from accelerate import tracking

from data.errors import InvalidInput
from data.runs import RunFolder
from training import parallel
from training.metrics import followed_by

PROJECT = "pawl"
NAMES = ("tensorboard", "trackio", "wandb")


def require(names: Sequence[str]) -> None:
    """Raise InvalidInput when one of the trackers is not known or not installed."""
    installed = set(map(str, tracking.get_available_trackers()))
    for name in names:
        if name not in NAMES:
            raise InvalidInput(f"report_to is {name!r}; it must be one of {', '.join(NAMES)}. Nothing was started.")
        if name not in installed:
            raise InvalidInput(f"{name} is not installed: pip install {name}, or leave it out. Nothing was started.")


@contextmanager
def following(names: Sequence[str], run: RunFolder, config: Mapping[str, Any]) -> Iterator[None]:
    """Inside, these trackers get the configuration once and the numbers of each step; of several processes by one."""
    if names:
        parallel.device()  # accelerate's trackers ask for its state, which the stage would make only later
    with ExitStack() as ended:
        for name in names if parallel.is_main() else ():
            tracker = _tracker(name, run)
            tracker.start()
            ended.callback(tracker.finish)
            tracker.store_init_configuration({key: _plain(value) for key, value in config.items()})
            ended.enter_context(followed_by(tracker.log))
        yield


def _tracker(name: str, run: RunFolder) -> tracking.GeneralTracker:
    if name == "tensorboard":
        return tracking.TensorBoardTracker(name, run.path)
    kind = tracking.TrackioTracker if name == "trackio" else tracking.WandBTracker
    return kind(PROJECT, name=run.id)


def _plain(value: object) -> object:
    """What a tracker can store: numbers and strings as they are, the rest in words."""
    return value if isinstance(value, (bool, int, float, str)) else str(value)
