import copy
import dataclasses
import json
import time

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.models.llama.modeling_llama import LlamaMLP

from data.errors import InvalidInput
from data.runs import RunFolder
from training import checkpoints, corpus, model, pretrain
from training.model import Shape
from training.muon import MuonAndAdamW, adamw
from training.presets import MODELS
from training.pretrain import Config, rate, sources_of
from training.trainer import Clock

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


@pytest.fixture
def micro(monkeypatch):
    """The tiny model is microscopic: Muon on a million parameters takes seconds here."""
    shape = Shape(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=64, positions=128)
    monkeypatch.setitem(MODELS, "tiny", shape)


@pytest.mark.slow
def test_ones_own_text_replaces_the_python_installations(text):
    assert [(s.name, s.weight) for s in sources_of(Config(text=(text,)))] == [("text", 1.0)]
    own = Config(text=(text,), code_weight=0.5)
    assert [(s.name, s.weight) for s in sources_of(own)] == [("text", 1.0), ("code", 0.5)]


def test_the_learning_rate_rises_and_falls_to_nothing():
    config = Config(steps=100)

    assert [round(rate(config, step), 3) for step in (0, 1, 4)] == [0.2, 0.4, 1.0]  # 1/5, 2/5, 5/5 of the way up
    assert rate(config, 52) == pytest.approx(0.48 / 0.95)
    assert rate(config, 100) == 0.0


def test_the_clock_brings_the_learning_rate_down_too(monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(minutes=1.0)
    now[0] += 45  # three quarters of the time at a tenth of the steps
    clock.tick(False)

    assert rate(Config(steps=1000, minutes=1.0), 100, clock.share) == pytest.approx(0.25 / 0.95)


def test_a_run_that_goes_on_has_only_the_minutes_that_were_left(monkeypatch, tmp_path):
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    clock = Clock(minutes=2.0)
    now[0] += 90
    clock.tick(False)
    clock.save(tmp_path)
    now[0] += 3600  # an hour until somebody resumes it

    again = Clock(minutes=2.0)
    again.load(tmp_path)
    now[0] += 15
    again.tick(False)

    assert again.share == pytest.approx((90 + 15) / 120)


def test_settings_that_fit_no_model_are_refused():
    with pytest.raises(ValueError, match="'huge'"):
        Config(model="huge")
    with pytest.raises(ValueError, match="block is 5000"):
        Config(block=5000)
    with pytest.raises(ValueError, match="optimizer is 'sgd'; choose from muon, adamw"):
        Config(optimizer="sgd")


def test_a_batch_that_does_not_divide_into_microbatches_is_refused_before_anything_is_read(workspace, run):
    with pytest.raises(
        InvalidInput, match="microbatch 4 does not divide the 6 rows of one process. Take .* 1, 2, 3, 6"
    ):
        pretrain.main(dataclasses.replace(CONFIG, batch_size=6, microbatch=4), run, workspace)


def test_the_shapes_have_the_sizes_they_say():
    def size(name, vocab):
        s = MODELS[name]
        attention = 2 * s.hidden**2 + 2 * s.hidden * (s.hidden // s.heads) * s.kv_heads
        return vocab * s.hidden + s.layers * (attention + 3 * s.hidden * s.intermediate)

    assert 1.0e6 < size("tiny", 2048) < 1.5e6
    assert 123e6 < size("small", 32768) < 125e6


def test_muon_takes_the_matrices_inside_the_layers_and_nothing_else(policy):
    optimizer = MuonAndAdamW(policy, learning_rate=0.01, weight_decay=0.1)

    muon, others = optimizer.param_groups
    assert len(muon["params"]) == 2 * 7  # q, k, v, o, gate, up, down in 2 layers
    assert len(others["params"]) == 1 + 2 * 2 + 1  # tied embeddings, two gains a layer, the last gain
    assert (muon["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert (muon["lr"], others["lr"]) == (0.01, 0.02)


def test_adamw_alone_lets_the_same_matrices_decay(policy):
    matrices, others = adamw(policy, learning_rate=3e-3, weight_decay=0.1).param_groups

    assert (len(matrices["params"]), len(others["params"])) == (14, 6)
    assert (matrices["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert matrices["lr"] == others["lr"] == 3e-3


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


def trained_on(blocks, policy, run, **changes):
    """The policy after a step on each two of these blocks, and what was logged."""
    steps = len(blocks) // 2
    config = dataclasses.replace(CONFIG, block=blocks.shape[1], steps=steps, optimizer="adamw", **changes)
    made, _ = pretrain.train(
        config, copy.deepcopy(policy), corpus.Blocks(blocks, 2.0), pretrain.Progress(run, "pretrain", steps), run
    )
    return made, run.metrics()


@pytest.fixture
def blocks():
    """Two blocks of forty tokens: a step."""
    return np.random.default_rng(0).integers(6, 300, (2, 40)).astype(np.uint16)


def test_a_step_learns_from_the_mean_over_all_tokens_but_the_first_of_each_block(policy, blocks, workspace):
    ids = torch.from_numpy(blocks.astype(np.int64))
    expected = policy(ids, labels=ids).loss  # transformers' own, over 2 * 39 tokens
    expected.backward()
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in policy.parameters()]).item()

    for size in (None, 1):
        run = RunFolder.create(workspace.runs, "pretrain", {})
        made, (line,) = trained_on(blocks, policy, run, microbatch=size, log_every=1)

        assert line["loss"] == pytest.approx(expected.item(), rel=1e-5)
        assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)
        assert made(ids).logits.shape == (2, 40, 300)  # an ordinary model again


def test_layers_that_are_computed_again_teach_the_same(policy, blocks, workspace, monkeypatch):
    calls, forward = [], LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, hidden: calls.append(self) or forward(self, hidden))
    found = []
    for again in (False, True):
        run = RunFolder.create(workspace.runs, "pretrain", {})
        found.append(trained_on(np.tile(blocks, (3, 1)), policy, run, gradient_checkpointing=again)[0].state_dict())
        found.append(len(calls))
        calls.clear()

    once, passes, twice, passes_again = found
    assert [name for name in once if not torch.equal(once[name], twice[name])] == []
    assert (passes, passes_again) == (3 * 2, 3 * 2 * 2)  # 3 steps, 2 layers, forward and backward


def test_no_tensor_over_the_batch_its_tokens_and_the_vocabulary_is_made(
    policy, blocks, run, monkeypatch, largest_tensor
):
    monkeypatch.setattr(model, "MAX_LOGITS", 4 * 300)

    with largest_tensor as largest:
        trained_on(blocks, policy, run)

    # A batch has 2 * 40 * 300 = 24,000 logits, a slice 4 * 300. The largest weights are the embeddings, 300 * 16.
    assert 2 * 40 * 32 <= largest.numel <= 300 * 16


@pytest.mark.slow
def test_pretraining_makes_a_model_that_knows_the_text_better_than_nothing(micro, text, workspace):
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
    assert run.state()["state"] == "done"
    assert not (run.path / "trainer").exists() and not (run.path / "corpus").exists()


@pytest.mark.slow
def test_a_run_ends_when_its_time_is_over(micro, text, workspace):
    run = RunFolder.create(workspace.runs, "pretrain", {})

    pretrain.main(dataclasses.replace(CONFIG, text=(text,), steps=5000, minutes=0.02), run, workspace)

    made = checkpoints.read_manifest(workspace.checkpoints / run.id)["metrics"]
    assert 0 < made["steps"] < 5000 and made["tokens"] == made["steps"] * 64


def test_the_last_step_is_logged_whatever_comes_before(policy, blocks, workspace):
    for steps, logged in ((3, [3]), (8, [5, 8]), (10, [5, 10])):
        run = RunFolder.create(workspace.runs, "pretrain", {})
        _, lines = trained_on(np.tile(blocks, (steps, 1)), policy, run, log_every=5)

        assert [line["step"] for line in lines] == logged
        assert all(line["loss"] > 0 for line in lines)


def test_the_last_step_before_the_time_is_over_is_logged(policy, blocks, run):
    _, (line,) = trained_on(np.tile(blocks, (9, 1)), policy, run, log_every=5, minutes=1e-6)

    assert line["step"] == 1 and line["loss"] > 0


@pytest.mark.slow
def test_the_minutes_before_a_run_was_killed_count_when_it_goes_on(micro, text, workspace, monkeypatch):
    run = RunFolder.create(workspace.runs, "pretrain", {})
    config = dataclasses.replace(CONFIG, text=(text,), minutes=60, log_every=1)

    class Killed(BaseException):
        pass

    def die(self, step, **numbers):
        if step == 4:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(pretrain.Progress, "log", die)
        pretrain.main(config, run, workspace)
    clock = run.path / "trainer" / "checkpoint-3" / "clock.json"
    assert 0 < json.loads(clock.read_text())["seconds"] < 3600
    clock.write_text(json.dumps({"seconds": 3600.0}))
    pretrain.main(config, run, workspace)

    assert checkpoints.read_manifest(workspace.checkpoints / run.id)["metrics"]["steps"] == 4
