"""What a tracker hears: the numbers of each step, read back from TensorBoard's own file."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from accelerate import PartialState
from accelerate.logging import get_logger
from accelerate.tracking import GeneralTracker
from tensorboardX.proto.event_pb2 import Event

from data.errors import InvalidInput
from training import trackers
from training.metrics import Progress


def told(folder: Path) -> list[tuple[int, str, float]]:
    """The numbers in TensorBoard's files: records of a length, its checksum, an event and its checksum."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            at += 12 + length + 4
    return [line for line in found if line[1] in ("loss", "kl")]


def test_a_tracker_hears_each_step_and_no_number_that_is_none(run):
    with trackers.following(["tensorboard"], run, {"steps": 2, "text": (Path("a"),), "ema": None}):
        progress = Progress(run, "ppo", 2)
        progress.log(1, loss=0.5, kl=float("nan"))
        progress.log(2, loss=0.25, kl=3.0)
    progress.log(3, loss=9.0)  # nobody follows any more

    assert told(run.path / "tensorboard") == [(1, "loss", 0.5), (2, "loss", 0.25), (2, "kl", 3.0)]


class Speaking(GeneralTracker):
    """A tracker that says so when it starts, as accelerate's of trackio does."""

    name, requires_logging_directory, main_process_only = "speaking", False, False

    def start(self):
        get_logger("accelerate.tracking").debug("started")

    def store_init_configuration(self, values):
        pass

    def log(self, values, step):
        pass


def test_a_tracker_may_be_the_first_to_ask_for_accelerates_state(run, monkeypatch):
    monkeypatch.setattr(trackers, "_tracker", lambda name, run: Speaking(_blank=True))
    PartialState._reset_state()  # as in a process that has just begun

    with trackers.following(["trackio"], run, {}):
        Progress(run, "ppo", 1).log(1, loss=0.5)


def test_another_process_tells_no_tracker(run, monkeypatch):
    monkeypatch.setattr(trackers.parallel, "is_main", lambda: False)
    with trackers.following(["tensorboard"], run, {}):
        Progress(run, "ppo", 1).log(1, loss=0.5)

    assert not (run.path / "tensorboard").exists()


def test_a_tracker_that_is_not_known_or_not_installed_is_refused_by_name():
    with pytest.raises(InvalidInput, match="'excel'; it must be one of tensorboard, trackio, wandb"):
        trackers.require(["excel"])
    with pytest.raises(InvalidInput, match="wandb is not installed: pip install wandb"):
        trackers.require(["tensorboard", "wandb"])
