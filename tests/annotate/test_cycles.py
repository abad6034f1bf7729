"""Starting, watching, cancelling and resuming cycles: real child processes that behave as training does."""

from __future__ import annotations

import os
import signal
import time

import pytest

from annotate.cycles import Cycles
from data.errors import Conflict, InvalidInput, NotFound, TooFewLabels
from data.records import Checkpoint, Message, NewPrompt
from data.store import Store, utc_now
from data.workspace import Workspace

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has


@pytest.fixture
def store():
    """One demonstration to train on, and no rankings."""
    with Store(None) as store:
        [prompt] = store.add_prompts([NewPrompt((Message("user", "What is a pawl?"),), split="train")])
        store.add_demonstrations([(prompt, "A catch.")], labeler="ana", source="seed")
        yield store


@pytest.fixture
def make(tmp_path, store, cycle_commands):
    """Cycles of one workspace; each call is like another start of the app."""
    made = []

    def cycles(command=cycle_commands.sleeps, **options) -> Cycles:
        made.append(Cycles(Workspace.at(tmp_path), store, command=command, **options))
        return made[-1]

    yield cycles
    for each in made:
        each.stop()


def wait_for(cycles: Cycles, cycle_id: str, state: str, log: str = ""):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        status = cycles.status(cycle_id)
        if status.state == state and log in cycles.folder(cycle_id).log_tail():
            return status
        time.sleep(0.02)
    raise AssertionError(cycles.status(cycle_id))


def resume_once_stopped(cycles: Cycles, cycle_id: str) -> None:
    """A cycle that says it was cancelled may still be about to end."""
    for _ in range(200):
        try:
            cycles.resume(cycle_id)
            return
        except Conflict as error:
            assert "still stopping" in str(error)
            time.sleep(0.05)
    raise AssertionError(f"{cycle_id} does not end")


def test_a_cycle_runs_as_a_nice_child_and_ends_with_its_verdict(make, cycle_commands):
    cycles = make(cycle_commands.promotes)

    cycle_id = cycles.start(stages=["sft"], overrides={"sft": {"epochs": 2}, "ppo.steps": 10})
    status = wait_for(cycles, cycle_id, "promoted")

    assert cycle_id == "cycle-0001"
    assert (status.progress, status.checkpoint, status.verdict, status.metrics) == (
        1.0,
        "ppo-0001",
        "better",
        {"kl": 2.5},
    )
    log = cycles.folder(cycle_id).log_tail()
    assert "the cycle's own words begun 10" in log
    assert "--stages sft --override sft.epochs=2 ppo.steps=10" in log
    assert cycles.running() is None


def test_too_few_labels_are_told_with_the_numbers_before_anything_starts(make):
    cycles = make()

    with pytest.raises(TooFewLabels, match="8 rankings.* 0"):
        cycles.start(stages=["sft", "reward", "ppo"])

    assert cycles.list() == []


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"preset": "huge"}, "preset"),
        ({"stages": ["sft", "dpo"]}, "dpo"),
        ({"stages": []}, "stages"),
        ({"stages": ["sft"], "overrides": {"steps": 1}}, "steps"),
        ({"stages": ["sft"], "overrides": {"ppo.steps": "1\n--launch"}}, "ppo.steps"),
        ({"stages": ["sft"], "overrides": {"cycle.base": "/etc"}}, "cycle.base"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused_by_name(make, arguments, word):
    with pytest.raises(InvalidInput, match=word):
        make().start(**arguments)


def test_one_cycle_runs_at_a_time(make):
    cycles = make()
    first = cycles.start(stages=["sft"])

    with pytest.raises(Conflict, match=first):
        cycles.start(stages=["sft"])


def test_a_cancelled_cycle_can_be_resumed(make):
    cycles = make()
    cycle_id = cycles.start(stages=["sft"])
    wait_for(cycles, cycle_id, "running")

    cycles.cancel(cycle_id)
    wait_for(cycles, cycle_id, "cancelled")
    with pytest.raises(Conflict):
        cycles.cancel(cycle_id)
    resume_once_stopped(cycles, cycle_id)

    wait_for(cycles, cycle_id, "running", log="resumed")


def test_a_cycle_that_crashed_has_failed_with_the_last_lines_of_its_log(make, cycle_commands):
    cycles = make(cycle_commands.crashes)
    cycle_id = cycles.start(stages=["sft"])

    status = wait_for(cycles, cycle_id, "failed")

    assert "out of memory, it said" in status.error


def test_a_cycle_that_was_killed_has_failed_and_another_can_start(make):
    cycles = make()
    cycle_id = cycles.start(stages=["sft"])
    wait_for(cycles, cycle_id, "running")

    os.killpg(cycles.folder(cycle_id).state()["pid"], signal.SIGKILL)

    wait_for(cycles, cycle_id, "failed")
    assert cycles.start(stages=["sft"]) == "cycle-0002"


def test_an_app_that_starts_again_goes_on_watching_the_same_cycle(make):
    cycle_id = make().start(stages=["sft"])
    wait_for(make(), cycle_id, "running")

    another = make()
    with pytest.raises(Conflict, match=cycle_id):
        another.start(stages=["sft"])
    another.cancel(cycle_id)

    wait_for(another, cycle_id, "cancelled")


def test_stopping_the_app_ends_the_cycle_so_that_it_can_be_resumed(make):
    cycles = make()
    cycle_id = cycles.start(stages=["sft"])
    wait_for(cycles, cycle_id, "running")

    cycles.stop()

    assert make().status(cycle_id).state == "cancelled"


def test_the_first_model_is_made_once_and_gone_on_with_after_a_restart(make, store):
    cycles = make()
    cycle_id = cycles.start_first_model()
    wait_for(cycles, cycle_id, "running")
    assert "--stages pretrain,sft" in cycles.folder(cycle_id).log_tail()
    assert cycles.start_first_model() is None  # it is being made

    cycles.stop()
    again = make()
    assert again.start_first_model() == cycle_id
    wait_for(again, cycle_id, "running", log="resumed")
    again.stop()

    store.add_checkpoint(Checkpoint("sft-0001", "sft", (), None, {}, "promoted", "the first", utc_now()))
    assert make().start_first_model() is None


def test_the_first_model_can_start_from_another_with_a_launcher_before_each_stage(make):
    cycles = make(base="/models/some base", launch="torchrun --nproc-per-node 8")

    log = cycles.folder(cycles.start_first_model()).log_tail()

    assert "--stages sft --base '/models/some base' --launch 'torchrun --nproc-per-node 8'" in log


@pytest.mark.parametrize("name", ["cycle-0009", "../feedback", "sft-0001", "", "cycle-1/../../x"])
def test_an_unknown_cycle_is_not_found(make, name):
    with pytest.raises(NotFound):
        make().status(name)


def test_a_cycle_over_http(world):
    [prompt] = world.store.add_prompts([NewPrompt((Message("user", "What is a pawl?"),), split="train")])
    world.store.add_demonstrations([(prompt, "A catch.")], labeler="ana", source="seed")

    refused = world.call("POST", "/cycles", "researcher", json={"preset": "tiny"})
    started = world.call("POST", "/cycles", "researcher", json={"stages": "sft", "overrides": {"sft.epochs": 1}}).json()
    cycle_id = started["cycle_id"]
    wait_for(world.context.cycles, cycle_id, "running")
    running = world.call("GET", f"/cycles/{cycle_id}", "researcher").json()
    world.call("POST", f"/cycles/{cycle_id}/cancel", "researcher")

    assert (refused.status_code, refused.json()["title"]) == (409, "Too few labels")
    assert {key: running[key] for key in ("state", "stage", "progress")} == {
        "state": "running",
        "stage": "sft",
        "progress": 0.25,
    }
    assert {"metrics", "checkpoint", "verdict"} <= set(running)
    wait_for(world.context.cycles, cycle_id, "cancelled")
    assert [cycle["id"] for cycle in world.call("GET", "/cycles", "researcher").json()] == [cycle_id]
