"""A run's folder says how far it is, whoever reads it and whenever."""

import os
import subprocess
import sys
from pathlib import Path

from data.runs import RunFolder

ROOT = Path(__file__).parents[2]


def test_runs_are_numbered_one_above_the_highest(tmp_path):
    (tmp_path / "sft-0007").mkdir()

    assert RunFolder.create(tmp_path, "sft", {"steps": 3}).id == "sft-0008"
    assert RunFolder.create(tmp_path, "ppo", {}).id == "ppo-0001"
    assert RunFolder(tmp_path / "sft-0008").config() == {"steps": 3}


def test_the_numbers_of_checkpoints_brought_from_elsewhere_are_taken_too(tmp_path):
    for name in ("sft-0004", "sft-0009-copy", "reward-0007"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
    (tmp_path / "runs" / "sft-0002").mkdir(parents=True)

    assert RunFolder.create(tmp_path / "runs", "sft", {}).id == "sft-0005"
    assert RunFolder.create(tmp_path / "runs", "reward", {}).id == "reward-0008"


def test_a_change_keeps_the_other_fields(tmp_path):
    run = RunFolder.create(tmp_path, "sft", {})

    run.update(state="running", step=1)
    run.update(step=2)

    assert (run.state()["state"], run.state()["step"]) == ("running", 2)
    assert not list(run.path.glob(".state.json*"))


def test_a_run_that_goes_on_forgets_the_steps_it_makes_again_and_a_line_that_a_kill_cut_short(tmp_path):
    run = RunFolder.create(tmp_path, "ppo", {})
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "reward": step / 10})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "rew')

    run.drop_metrics_after(2)
    run.append_metrics({"step": 3, "reward": 0.5})

    assert (run.path / "metrics.jsonl").read_text().count("\n") == 3
    assert run.metrics() == [{"step": 1, "reward": 0.1}, {"step": 2, "reward": 0.2}, {"step": 3, "reward": 0.5}]


def test_a_process_that_has_the_number_and_is_not_the_runs_does_not_count(tmp_path):
    run = RunFolder.create(tmp_path, "sft", {})
    assert not run.is_alive()

    run.claim(state="running")
    assert run.is_alive() and run.state()["state"] == "running"
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    run.update(pid=other.pid)  # born at another time
    assert not run.is_alive() and run.worked_on_by() is None
    other.kill()
    other.wait()


def test_a_process_that_was_killed_is_not_alive_even_before_anybody_heard_of_its_end(tmp_path):
    run = RunFolder.create(tmp_path, "sft", {})
    claims = "import sys, time; from pathlib import Path; from data.runs import RunFolder\n"
    claims += "RunFolder(Path(sys.argv[1])).claim(); print('claimed', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", claims, run.path], stdout=subprocess.PIPE, cwd=ROOT) as own:
        assert own.stdout.readline() == b"claimed\n"
        assert run.is_alive()
        for state, worker in (("running", own.pid), ("failed", None), ("cancelled", None), ("done", None)):
            run.update(
                state=state
            )  # a process lives on after the last word on its run where it does other work as well
            assert run.worked_on_by() == worker, state

        run.update(state="running")
        own.kill()
        os.waitid(os.P_PID, own.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and is a zombie until it is waited for
        assert not run.is_alive() and run.worked_on_by() is None
    assert not run.is_alive()
