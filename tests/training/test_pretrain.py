import copy
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from transformers import AutoModelForCausalLM

from data.runs import RunFolder
from training import checkpoints, corpus, pretrain
from training.muon import MuonAndAdamW
from training.presets import MODELS
from training.pretrain import Config, rate, sources_of

CONFIG = Config(vocab_size=300, steps=6, batch_size=2, block=32, log_every=2, save_every=3)


@pytest.fixture
def text(tmp_path):
    """A folder of 300 small documents."""
    folder = tmp_path / "text"
    folder.mkdir()
    for i in range(300):
        (folder / f"{i}.txt").write_text(
            f"Story {i}. The cat sat on the mat, and the dog ran {i} times to the door. " * 2
        )
    return folder


def test_ones_own_text_replaces_the_python_installations(text):
    assert [(s.name, s.weight) for s in sources_of(Config(text=(text,)))] == [("text", 1.0)]
    own = Config(text=(text,), code_weight=0.5)
    assert [(s.name, s.weight) for s in sources_of(own)] == [("text", 1.0), ("code", 0.5)]


def test_the_learning_rate_rises_and_falls_to_nothing():
    share = rate(Config(steps=100))

    assert [round(share(step), 3) for step in (0, 1, 4)] == [0.2, 0.4, 1.0]  # 1/5, 2/5, 5/5 of the way up
    assert share(52) == pytest.approx(0.48 / 0.95)
    assert share(100) == 0.0


def test_the_clock_brings_the_learning_rate_down_too(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    share = rate(Config(steps=1000, minutes=1.0))
    now[0] += 45  # three quarters of the time at a tenth of the steps

    assert share(100) == pytest.approx(0.25 / 0.95)


def test_settings_that_fit_no_model_are_refused():
    with pytest.raises(ValueError, match="'huge'"):
        Config(model="huge")
    with pytest.raises(ValueError, match="block is 5000"):
        Config(block=5000)


def test_the_shapes_have_the_sizes_they_say():
    def size(name, vocab):
        s = MODELS[name]
        attention = 2 * s.hidden**2 + 2 * s.hidden * (s.hidden // s.heads) * s.kv_heads
        return vocab * s.hidden + s.layers * (attention + 3 * s.hidden * s.intermediate)

    assert 1.0e6 < size("tiny", 2048) < 1.5e6
    assert 123e6 < size("small", 32768) < 125e6


def test_muon_takes_the_matrices_inside_the_layers_and_nothing_else(policy):
    optimizer = MuonAndAdamW(policy, learning_rate=0.01, weight_decay=0.1)

    muon, adamw = optimizer.param_groups
    assert len(muon["params"]) == 2 * 7  # q, k, v, o, gate, up, down in 2 layers
    assert len(adamw["params"]) == 1 + 2 * 2 + 1  # tied embeddings, two gains a layer, the last gain
    assert (muon["weight_decay"], adamw["weight_decay"]) == (0.1, 0.0)
    assert (muon["lr"], adamw["lr"]) == (0.01, 0.02)


def test_muon_goes_on_from_its_state_bit_for_bit(policy):
    def step(model, optimizer):
        ids = torch.arange(20).view(2, 10)
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    def start():
        model = type(policy)(policy.config)
        model.load_state_dict(policy.state_dict())
        return model, MuonAndAdamW(model, learning_rate=0.01, weight_decay=0.1)

    model, optimizer = start()
    step(model, optimizer)
    again, other = start()
    again.load_state_dict(model.state_dict())
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # loading shares tensors
    for group in (*optimizer.param_groups, *other.param_groups):
        group["lr"] = 0.003  # as a schedule does: it must reach the optimizers inside
    step(model, optimizer)
    step(again, other)

    for name, weight in model.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name]), name


@pytest.mark.slow
def test_pretraining_makes_a_model_that_knows_the_text_better_than_nothing(text, workspace):
    run = RunFolder.create(workspace.runs, "pretrain", {})

    pretrain.main(dataclasses.replace(CONFIG, text=(text,), steps=40), run, workspace)

    folder = workspace.checkpoints / run.id
    manifest = checkpoints.read_manifest(folder)
    assert manifest["parents"] == [] and manifest["snapshot"] is None
    assert manifest["metrics"]["tokens"] == 40 * 2 * 32
    loaded, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not told["missing_keys"] and loaded.config.vocab_size <= 300
    assert corpus.heldout_texts(folder, workspace.checkpoints) == [
        json.loads(line)["text"] for line in (folder / "heldout.jsonl").read_text().splitlines()
    ]
    lines = run.metrics()
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
    assert {"step", "loss", "bits_per_byte", "tokens_per_second"} <= set(lines[0])
    assert run.state()["state"] == "done" and not (run.path / "trainer").exists()


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_to_the_very_same_weights(text, workspace, monkeypatch):
    config = dataclasses.replace(CONFIG, text=(text,))
    whole, broken = (RunFolder.create(workspace.runs, "pretrain", {}) for _ in range(2))
    pretrain.main(config, whole, workspace)

    class Killed(BaseException):
        pass

    def die(self, step, **numbers):
        if step == 6:
            raise Killed  # after the checkpoint of step 3

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(pretrain.Progress, "log", die)
        pretrain.main(config, broken, workspace)
    pretrain.main(config, broken, workspace)

    wanted, got = (
        AutoModelForCausalLM.from_pretrained(workspace.checkpoints / r.id).state_dict() for r in (whole, broken)
    )
    for name, weight in wanted.items():
        assert torch.equal(weight, got[name]), name


@pytest.mark.slow
def test_a_run_ends_when_its_time_is_over(text, workspace):
    run = RunFolder.create(workspace.runs, "pretrain", {})

    pretrain.main(dataclasses.replace(CONFIG, text=(text,), steps=5000, minutes=0.02), run, workspace)

    made = checkpoints.read_manifest(workspace.checkpoints / run.id)["metrics"]
    assert 0 < made["steps"] < 5000 and made["tokens"] == made["steps"] * 64


@pytest.mark.slow
def test_sigterm_ends_the_command_with_143_and_resume_finishes_it(text, workspace):
    command = [sys.executable, "-m", "training", "pretrain", "--workspace", str(workspace.root)]
    sizes = ["--vocab-size", "300", "--batch-size", "2", "--block", "16", "--steps", "400", "--save-every", "1000"]
    sizes += ["--minutes", "30"]  # the preset's two would end it early on a busy machine
    run = RunFolder(workspace.runs / "pretrain-0001")
    child = subprocess.Popen([*command, *sizes, "--text", str(text)], env=os.environ | {"OMP_NUM_THREADS": "1"})
    try:
        deadline = time.monotonic() + 120
        while run.state().get("step", 0) < 1 and time.monotonic() < deadline:
            time.sleep(0.1)
        child.send_signal(signal.SIGTERM)
        assert child.wait(60) == 143
    finally:
        child.kill()
    stopped = run.state()
    assert stopped["state"] == "cancelled" and 0 < stopped["step"] < 400

    subprocess.run([*command, "--resume", run.id], check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})

    assert run.state()["state"] == "done"
    steps = [line["step"] for line in run.metrics()]
    assert steps == sorted(steps) and steps[-1] == 400
    assert "pretrain 400/400" in (run.path / "log.txt").read_text()
    AutoModelForCausalLM.from_pretrained(workspace.checkpoints / run.id)
