"""A cycle is what its stages made: refused before it starts, killed and resumed, its state readable at every moment."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch

from data import owner
from data.errors import InvalidInput
from data.interchange import seed
from data.owner import open_feedback
from data.records import Checkpoint, Message, NewPrompt, NewRanking, NewResponse
from data.runs import RunFolder
from data.store import Store
from data.workspace import Workspace
from training import checkpoints, launch
from training.__main__ import config_of
from training.cycle import Config, Cycle, lineage, start_of

ROOT = Path(__file__).parents[2]
MICRO = ["reward.epochs=1", "ppo.steps=20", "ppo.save-every=1", "ppo.batch-size=16", "ppo.minibatch-size=16"]
MICRO += ["ppo.max-new-tokens=8", "evaluate.max-new-tokens=8", "evaluate.samples=2", "sample.prompts=5"]


@pytest.fixture
def start(preloaded, tmp_path):
    """Starts a cycle: start(workspace, *arguments). One that still runs when its test ends is told to stop."""
    started: list[BaseProcess] = []

    def start_one(workspace: Path, *arguments: str) -> BaseProcess:
        started.append(preloaded.training("cycle", "--workspace", str(workspace), *arguments, log=tmp_path / "said"))
        return started[-1]

    yield start_one
    for process in started:
        process.terminate()
        process.join(60)


@pytest.fixture
def said(tmp_path):
    """said(): what the cycles printed."""
    return (tmp_path / "said").read_text


def exit_code_of(process: BaseProcess) -> int | None:
    process.join(300)
    return process.exitcode


@pytest.fixture
def ranked(workspace, saved_policy, policy, words) -> Workspace:
    """A microscopic model in force, what it was fine-tuned on, and 40 rankings of what it might have said."""
    with Store(workspace.database) as store:
        asked = [NewPrompt((Message("user", f"What do {n} cats eat?"),), split="train") for n in range(30)]
        asked += [NewPrompt((Message("user", f"What do {n} dogs eat?"),), split="heldout") for n in range(10)]
        prompts = store.add_prompts(asked)
        store.add_demonstrations([(prompt, "Fish and water.") for prompt in prompts[:3]], labeler="ana", source="test")
        snapshot = owner.freeze(store, workspace).hash
        about = {"config": {}, "metrics": {}, "seed": 0, "tokenizer": words, "snapshot": snapshot}
        name, parents = "sft-0001", ["pretrain-0001"]
        checkpoints.save(workspace.checkpoints, name, stage="sft", parents=parents, model=policy, **about)
        store.add_checkpoint(Checkpoint(name, "sft", tuple(parents), snapshot, {}, "promoted", "", datetime.now(UTC)))
        said = tuple(NewResponse(text, name) for text in ("Fish.", "Fish and water."))
        store.add_rankings([NewRanking(prompt, said, (1, 2), "ana") for prompt in prompts])  # shorter is better
    return workspace


@pytest.mark.slow
def test_a_cycle_without_labels_says_how_many_are_missing_before_it_trains_anything(workspace, start, said):
    with open_feedback(workspace) as feedback:
        seed(feedback)

    assert exit_code_of(start(workspace.root)) == 1
    assert "8 rankings" in said() and "there are 0" in said()
    assert [path.name for path in workspace.runs.iterdir()] == ["cycle-0001"]


@pytest.mark.slow
def test_a_cycle_whose_ppo_was_killed_goes_on_there_and_ends(ranked, start, said):
    cycle, ppo = (RunFolder(ranked.runs / name) for name in ("cycle-0001", "ppo-0001"))

    process = start(ranked.root, "--report-to", "tensorboard", "--override", *MICRO)
    while ppo.state().get("step", 0) < 2:
        assert process.is_alive(), said()
        time.sleep(0.01)
    os.kill(ppo.state()["pid"], signal.SIGKILL)

    assert exit_code_of(process) == 1
    assert cycle.state()["state"] == "failed"
    assert "ppo-0001" in cycle.state()["error"] and "signal 9" in cycle.state()["error"]
    before = {path.name for path in ranked.runs.iterdir()}

    code = exit_code_of(start(ranked.root, "--resume", "cycle-0001"))

    assert code in (0, 3), said()
    state = cycle.state()
    assert state["state"] == {0: "promoted", 3: "rejected"}[code]
    assert state["progress"] == 1.0
    assert state["checkpoint"] == "ppo-0001"
    assert len(list((ppo.path / "tensorboard").glob("events.*"))) == 2  # of both attempts
    assert not (cycle.path / "tensorboard").exists()  # a stage killed while it wrote there left its cycle waiting
    assert [line["step"] for line in ppo.metrics()] == list(range(1, 21))
    started = [line for line in (ppo.path / "log.txt").read_text().splitlines() if line.startswith("ppo 1/20")]
    assert len(started) == 1, "the steps before the kill were made again"
    assert {path.name for path in ranked.runs.iterdir()} - before == {"evaluate-0001", "sample-0001"}
    assert next(e for e in state["stages"] if e["stage"] == "sft")["state"] == "reused"
    with Store(ranked.database) as store:
        assert store.checkpoint("ppo-0001").state == state["state"]
        assert store.run("cycle-0001")["state"] == state["state"]
    hand_in_again(ranked, cycle, start)


def hand_in_again(workspace: Workspace, cycle: RunFolder, start: Callable[..., BaseProcess]) -> None:
    """A cycle killed after a stage ended and before it was handed in hands it in when it is resumed, made only once."""
    ended = cycle.state()
    runs = {path.name for path in workspace.runs.iterdir()}
    for entry in (stages := ended["stages"]):
        entry["state"] = "running" if entry["stage"] in ("evaluate", "sample") else entry["state"]
    cycle.update(state="failed", stages=stages, outcome=None, verdict=None, checkpoint=None, progress=0.8)

    code = exit_code_of(start(workspace.root, "--resume", "cycle-0001"))

    assert code == {"promoted": 0, "rejected": 3}[ended["state"]]
    state = cycle.state()
    assert (state["state"], state["verdict"]) == (ended["state"], ended["verdict"])
    assert {path.name for path in workspace.runs.iterdir()} == runs


@pytest.mark.slow
def test_a_cycle_that_is_told_to_stop_says_so_and_can_be_resumed(workspace, tmp_path, start, said):
    with open_feedback(workspace) as feedback:
        seed(feedback)
    run = RunFolder(workspace.runs / "pretrain-0001")

    (tmp_path / "text.txt").write_text("The cat sat on the mat. " * 2000)
    process = start(workspace.root, "--stages", "pretrain,sft", "--override", f"pretrain.text={tmp_path / 'text.txt'}")
    while run.state().get("step", 0) < 1:
        assert process.is_alive(), said()
        time.sleep(0.1)
    process.terminate()

    assert exit_code_of(process) == 143
    assert RunFolder(workspace.runs / "cycle-0001").state()["state"] == "cancelled"
    assert run.state()["state"] == "cancelled"
    assert not run.is_alive()


@pytest.mark.slow
def test_a_stage_in_two_processes_is_stopped_through_torchrun_and_goes_on_in_one(tmp_path, monkeypatch):
    """torchrun ends with a code of its own, and hears of nothing but the signal."""
    from training import cycle, metrics, pretrain

    monkeypatch.chdir(ROOT)
    (tmp_path / "text").mkdir()
    for i in range(100):
        (tmp_path / "text" / f"{i}.txt").write_text(f"Story {i}. The cat sat on the mat, and the dog ran {i} times. ")
    sizes = "--vocab-size 300 --batch-size 2 --block 16 --steps 200 --save-every 1000 --log-every 1".split()
    workspace = Workspace.at(tmp_path / "var")
    config = cycle.Config(stages="pretrain", launch="torchrun --standalone --nproc-per-node 2")
    turn = cycle.Cycle(config, RunFolder.create(workspace.runs, "cycle", {"preset": "tiny"}), workspace)
    run = RunFolder(workspace.runs / "pretrain-0001")

    def stop_soon() -> None:
        while not run.metrics():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    metrics.catch_stop_signal()
    threading.Thread(target=stop_soon, daemon=True).start()
    try:
        with pytest.raises(metrics.Cancelled):
            turn.train("pretrain", "--text", str(tmp_path / "text"), *sizes)
    finally:
        metrics.catch_stop_signal()  # forgets the signal
        signal.signal(signal.SIGTERM, before)

    stopped = run.state()
    assert turn.entry("pretrain")["state"] == stopped["state"] == "cancelled", run.log_tail()
    assert 0 < stopped["step"] < 200
    assert re.search(r"pretrain 1/200", run.log_tail(1000))
    config = config_of(pretrain.Config, run.config() | {"steps": stopped["step"] + 1})
    pretrain.main(config, run, workspace)
    assert [line["step"] for line in run.metrics()] == list(range(1, stopped["step"] + 2))
    assert run.state()["state"] == "done"


def test_a_launcher_that_is_not_there_is_named():
    with pytest.raises(InvalidInput, match="'torchrum'"):
        launch.launcher("torchrum --nproc-per-node 2")
    assert launch.launcher("") == [sys.executable]
    assert Path(launch.launcher("torchrun --standalone")[0]).name == "torchrun"


def test_a_stage_is_no_copy_of_its_cycle_where_a_gpu_may_be(monkeypatch):
    assert launch.can_fork() == (sys.platform == "linux" and torch.version.cuda is None)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert not launch.can_fork()


@pytest.mark.parametrize("override", ["steps=10", "ppo.stps=10", "sft.run=../../x", "sft.workspace=/x", "ppo.init=y"])
def test_an_override_that_is_no_option_of_its_stage_is_refused(override):
    with pytest.raises(ValueError, match=re.escape(override)):
        Config(override=(override,))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "ppo.kl_coeff=1",
            "names no field of ppo; the nearest is kl_coef. `python -m training ppo --help` lists them.",
        ),
        ("ppo.kl-coeff=1", "names no field of ppo; the nearest is kl_coef."),
        ("ppo.zzz=1", "names no field of ppo. `python"),
        ("pppo.steps=1", "names the stage 'pppo'; choose from pretrain, sft, reward, ppo, evaluate, sample."),
        ("freeze.steps=1", "names the stage 'freeze'; choose from"),
        ("ppo.init=y", "sets what the cycle itself tells ppo: leave init out"),
        ("ppo.steps", "is not stage.field=value, as in ppo.steps=10."),
        ("steps=1", "is not stage.field=value"),
    ],
)
def test_what_is_wrong_with_an_override_is_said(override, said):
    with pytest.raises(ValueError, match=re.escape(f"override {override!r} {said}")):
        Config(override=(override,))


def test_a_stage_that_does_not_exist_is_named():
    with pytest.raises(ValueError, match="ppp"):
        Config(stages="sft,ppp")


def test_the_stages_run_in_their_own_order_whatever_order_they_were_asked_in():
    assert Config(stages="ppo,sft,reward").trained == ["sft", "reward", "ppo"]


def test_an_override_reaches_its_own_stage_only():
    config = Config(override=("ppo.kl_coef=0.1", "sft.epochs=2"))

    assert config.arguments("ppo") == ["--kl-coef", "0.1"]
    assert config.arguments("reward") == []


def test_commas_part_the_values_of_an_override():
    config = Config(override=("sample.temperature=0.7,1.0",))

    assert config.arguments("sample") == ["--temperature", "0.7", "1.0"]


def test_the_last_override_of_an_option_counts_however_it_is_spelled():
    config = Config(override=("ppo.lora-rank=0", "ppo.lora_rank=4", "ppo.lora-targets=q_proj,v_proj"))

    assert config.overrides("ppo") == {"lora_rank": "4", "lora_targets": "q_proj,v_proj"}
    assert config.arguments("ppo") == ["--lora-rank", "4", "--lora-targets", "q_proj", "v_proj"]


@pytest.mark.parametrize(
    ("override", "expected"),
    [((), "ppo-0001"), (("ppo.lora_rank=0",), "ppo-0001"), (("ppo.lora-rank=8",), "sft-0001")],
)
def test_ppo_goes_on_from_the_promoted_policy_but_an_adapter_starts_at_the_reference(
    override, expected, workspace, policy, words
):
    about = {"snapshot": None, "model": policy, "tokenizer": words, "config": {}, "metrics": {}, "seed": 0}
    for name, parents in (("sft-0001", []), ("ppo-0001", ["sft-0001"])):
        checkpoints.save(workspace.checkpoints, name, stage=name[:3], parents=parents, **about)
    run = RunFolder.create(workspace.runs, "cycle", {})
    cycle = Cycle(Config(stages="reward,ppo", override=override), run, workspace)
    cycle.note("freeze", promoted="ppo-0001")

    assert start_of(cycle) == expected


def test_a_checkpoint_that_became_its_own_ancestor_ends_the_line(workspace, policy, words):
    about = {"snapshot": None, "model": policy, "tokenizer": words, "config": {}, "metrics": {}, "seed": 0}
    for name, parent in (("sft-0001", "sft-0001"), ("ppo-0001", "ppo-0002"), ("ppo-0002", "ppo-0001")):
        checkpoints.save(workspace.checkpoints, name, stage=name[:3], parents=[parent], **about)
    cycle = Cycle(Config(), RunFolder.create(workspace.runs, "cycle", {}), workspace)

    assert lineage(cycle, "sft-0001") == {"base": "sft-0001", "sft": "sft-0001"}
    assert lineage(cycle, "ppo-0001") == {"base": "ppo-0002", "ppo": "ppo-0001"}
