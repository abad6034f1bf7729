"""The last stage killed -9 in mid-run and resumed, by every algorithm: to the last bit what it would have been."""

import re
import signal
import time

import pytest

from data.runs import RunFolder
from training import ppo
from training.__main__ import parse

pytestmark = pytest.mark.slow

COMMON = "--init pretrain-0001 --reference pretrain-0001 --reward reward-0001 --steps 24 --batch-size 16 "
COMMON += "--minibatch-size 8 --microbatch 4 --max-new-tokens 8 --learning-rate 1e-3 --warmup 3 --save-every 4"
# all that a step of PPO hands to the next: KL controller, running statistics, moving average, text, value warm-up
EVERYTHING = "--kl-target 2 --running-scale --ema 0.9 --value-warmup 8 --ptx-coef 0.5 --ptx-batch 32 --ptx-text"
PACE = re.compile("time|tokens_per_second|.*_seconds|.*mfu|.*mbu")


@pytest.fixture
def start(workspace, preloaded, tmp_path):
    """Begins `python -m training ppo` with some arguments; its process is ended with the test."""
    started = []

    def begin(*arguments):
        arguments = ("ppo", "--workspace", str(workspace.root), *arguments)
        started.append(preloaded.training(*arguments, log=tmp_path / "said"))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.join()


def exit_code_of(process):
    process.join(240)
    return process.exitcode


def wait_for_step(run, step, process):
    while not any(line["step"] >= step for line in run.metrics()):
        assert process.is_alive(), run.log_tail()
        time.sleep(0.02)


def measured(run):
    """The run's log in order of steps, without what depends on the machine's pace."""
    lines = [{name: number for name, number in line.items() if not PACE.fullmatch(name)} for line in run.metrics()]
    return sorted(lines, key=lambda line: line["step"])


@pytest.mark.parametrize(
    "options",
    [
        pytest.param([*EVERYTHING.split(), "TEXT"], id="ppo"),
        pytest.param(["--lora-rank", "2", "--ema", "0.9"], id="ppo with adapters"),
        pytest.param(["--algorithm", "rloo"], id="rloo"),
        pytest.param(["--algorithm", "grpo"], id="grpo"),
        pytest.param(["--algorithm", "dpo"], id="dpo"),
    ],
)
def test_a_run_that_was_killed_and_terminated_ends_with_the_weights_of_one_that_was_not(
    options, snapshot, workspace, saved_policy, judge_checkpoint, start, tmp_path
):
    text = workspace.root / "text.txt"
    text.write_text("The cat sat on the mat. " * 50)
    options = [str(text) if option == "TEXT" else option for option in options]
    options = ["--snapshot", str(snapshot.path), *COMMON.split(), *options]
    unbroken = RunFolder.create(workspace.runs, "ppo", {})
    ppo.main(parse("ppo", ppo.Config, options)[1], unbroken, workspace)
    run = RunFolder(workspace.runs / "ppo-0002")

    process = start("--run", run.id, *options)
    wait_for_step(run, 6, process)
    process.kill()
    assert exit_code_of(process) == -signal.SIGKILL
    process = start("--resume", run.id)
    wait_for_step(run, 14, process)
    process.terminate()
    assert exit_code_of(process) == 143
    assert run.state()["state"] == "cancelled" and not (workspace.checkpoints / run.id).exists()
    assert exit_code_of(start("--resume", run.id)) == 0, (tmp_path / "said").read_text()

    whole, resumed = (workspace.checkpoints / r.id / "model.safetensors" for r in (unbroken, run))
    assert whole.read_bytes() == resumed.read_bytes()
    assert measured(unbroken) == measured(run)
    assert (unbroken.path / "samples.jsonl").read_text() == (run.path / "samples.jsonl").read_text()
