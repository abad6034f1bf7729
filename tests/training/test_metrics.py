import json
import os
import signal

import pytest

from training.metrics import Cancelled, Progress, catch_stop_signal


@pytest.fixture
def stop_signal():
    """SIGTERM is heard during the test, and as before after it."""
    before = signal.getsignal(signal.SIGTERM)
    catch_stop_signal()
    yield
    catch_stop_signal()  # forgets a signal that came
    signal.signal(signal.SIGTERM, before)


def test_a_step_is_one_line_of_json_and_one_for_people(run, capsys):
    Progress(run, "sft", 20).log(5, loss=2.5, tokens=128)

    (line,) = [json.loads(text) for text in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert line["step"] == 5 and line["loss"] == 2.5 and line["tokens"] == 128
    assert capsys.readouterr().out == "sft 5/20  loss 2.5  tokens 128\n"


def test_numbers_that_come_later_for_a_step_join_those_before(run, capsys):
    progress = Progress(run, "sft", 20)
    progress.log(5, loss=2.5)
    progress.log(5, eval_loss=3.0)
    progress.log(6, loss=2.0)

    assert [{k: line[k] for k in line if k != "time"} for line in run.metrics()] == [
        {"step": 5, "loss": 2.5, "eval_loss": 3.0},
        {"step": 6, "loss": 2.0},
    ]


def test_the_state_says_how_far_the_run_is(run):
    progress = Progress(run, "sft", 20)
    assert (run.state()["state"], run.state()["steps"], run.state()["progress"]) == ("running", 20, 0.0)

    progress.log(5, loss=1.0)

    assert (run.state()["step"], run.state()["progress"]) == (5, 0.25)


def test_the_state_is_not_written_for_each_of_many_quick_steps_but_for_the_last(run):
    progress = Progress(run, "sft", 1000)
    for step in range(1, 1000):
        progress.at(step)
    assert run.state()["step"] < 999

    progress.at(1000)

    assert run.state()["progress"] == 1.0


def test_numbers_that_json_does_not_know_become_null(run):
    Progress(run, "sft", 1).log(1, loss=float("nan"), kl=float("inf"), reward=None)

    (line,) = [json.loads(text) for text in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert line["loss"] is None and line["kl"] is None and line["reward"] is None


def test_sigterm_is_a_wish_that_the_stage_reads(run, stop_signal):
    progress = Progress(run, "sft", 1)
    assert not progress.stop_requested

    os.kill(os.getpid(), signal.SIGTERM)

    assert progress.stop_requested
    assert Cancelled.exit_code == 143
