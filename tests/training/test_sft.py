import copy
import dataclasses
import json
import os
import random
import signal

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import LlamaMLP

from data.datasets import Demonstrated
from data.errors import InvalidInput, NotFound, TooFewLabels
from data.records import Message
from data.runs import RunFolder
from training import checkpoints, sft
from training import trainer as adapter
from training.metrics import Cancelled, catch_stop_signal
from training.sft import IGNORED, Config, batches, tokenised


def demonstrated(response, *turns):
    roles = ("user", "assistant")
    messages = tuple(Message(roles[i % 2], turn) for i, turn in enumerate(turns))
    return Demonstrated("p", messages, response, "test")


def test_only_the_response_and_its_end_are_targets(words):
    (row,), too_long = tokenised(words, [demonstrated("Fish.", "What do cats eat?")], 100)

    targets = [label for label in row.labels if label != IGNORED]
    assert words.decode(targets) == "Fish.<|end|>"
    assert words.decode(row.input_ids) == "<|user|>What do cats eat?<|assistant|>Fish.<|end|>"
    assert row.labels[-len(targets) :] == targets == row.input_ids[-len(targets) :]
    assert too_long == 0


def test_earlier_responses_of_the_conversation_are_only_read(words):
    (row,), _ = tokenised(words, [demonstrated("c", "a", "Earlier.", "b")], 100)

    assert words.decode([label for label in row.labels if label != IGNORED]) == "c<|end|>"
    assert "Earlier.<|end|>" in words.decode(row.input_ids)


def test_an_end_that_the_labeler_typed_does_not_end_the_response(words):
    (row,), _ = tokenised(words, [demonstrated("a<|end|>b", "x")], 100)

    assert row.labels.count(words.eos_token_id) == 1
    assert row.labels[-1] == words.eos_token_id


def test_a_long_demonstration_is_left_out_whole_and_counted(words):
    short, long = demonstrated("a", "b"), demonstrated("a " * 50, "b")

    rows, too_long = tokenised(words, [long, short], 20)

    assert [len(row.input_ids) for row in rows] == [5] and too_long == 1  # user, b, assistant, a, end


def test_a_row_that_just_fits_is_kept(words):
    assert len(tokenised(words, [demonstrated("a", "b")], 5)[0]) == 1
    with pytest.raises(InvalidInput, match="All 1 demonstrations are longer than 4 tokens"):
        tokenised(words, [demonstrated("a", "b")], 4)


@pytest.fixture
def config(snapshot, saved_policy):
    return Config(
        snapshot.path, "pretrain-0001", epochs=3, batch_size=2, learning_rate=3e-3, max_new_tokens=8, log_every=1
    )


@pytest.mark.slow
def test_sft_makes_a_checkpoint_that_prefers_the_demonstrations(config, workspace, run, words, saved_policy):
    from training.model import logprobs_of

    sft.main(dataclasses.replace(config, epochs=20, learning_rate=3e-2), run, workspace)

    folder = workspace.checkpoints / run.id
    manifest = checkpoints.read_manifest(folder)
    assert (manifest["stage"], manifest["parents"], manifest["snapshot"]) == (
        "sft",
        ["pretrain-0001"],
        config.snapshot.name,
    )
    assert manifest["metrics"]["demonstrations"] == 4 and manifest["metrics"]["eval_loss"] is not None
    (row,), _ = tokenised(words, [demonstrated("Fish and water.", "What do cats eat?")], 100)
    ids = torch.tensor([row.input_ids])
    response = len(row.labels) - row.labels.count(IGNORED)
    before, after = (
        logprobs_of(AutoModelForCausalLM.from_pretrained(path), ids, torch.ones_like(ids))[0, -response:].sum().item()
        for path in (saved_policy, folder)
    )
    assert before < -5 * response  # about ln 300 = 5.7 nats a token
    assert after > -1 * response
    assert run.state()["state"] == "done" and run.state()["checkpoint"] == run.id
    assert [line["step"] for line in run.metrics() if "loss" in line][-1] == 40  # 4 demonstrations, 2 a step, 20 epochs
    assert not (run.path / "trainer").exists()
    shown = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert {line["prompt"] for line in shown} == {"What do foxes eat?", "What do mice eat?"}


def test_fewer_steps_than_are_logged_together_still_say_the_loss(config, policy, words, run):
    rows = [sft.Row([6, 7, 8], [IGNORED, 7, 8])] * 6

    _, found = sft.train(dataclasses.replace(config, epochs=1, log_every=5), policy, words, rows, [], run)

    assert found["steps"] == 3 and found["loss"] > 0
    assert [line["step"] for line in run.metrics()] == [3]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_very_same_weights(config, workspace, monkeypatch):
    whole, broken = (RunFolder.create(workspace.runs, "sft", {}) for _ in range(2))
    sft.main(config, whole, workspace)

    every_step = dataclasses.replace(config, save_every=1)
    before = signal.getsignal(signal.SIGTERM)
    catch_stop_signal()
    try:
        monkeypatch.setattr(sft, "Progress", progress_that_stops_at(3))
        with pytest.raises(Cancelled):
            sft.main(every_step, broken, workspace)
    finally:
        catch_stop_signal()
        signal.signal(signal.SIGTERM, before)
    assert broken.state()["step"] == 3
    (broken.path / "trainer" / "checkpoint-99").mkdir()  # half written: the newest by name, but not whole
    monkeypatch.undo()
    sft.main(every_step, broken, workspace)

    wanted, got = (
        AutoModelForCausalLM.from_pretrained(workspace.checkpoints / r.id).state_dict() for r in (whole, broken)
    )
    for name, weight in wanted.items():
        assert torch.equal(weight, got[name]), name  # bit for bit


def progress_that_stops_at(step):
    """The real Progress, with a real SIGTERM sent at this step."""
    from training.metrics import Progress

    class Stopping(Progress):
        def at(self, now, *, always=False):
            super().at(now, always=always)
            if now == step:
                os.kill(os.getpid(), signal.SIGTERM)

    return Stopping


def test_every_epoch_has_an_order_of_its_own_and_whole_batches(config):
    lengths = [9, 2, 5, 7, 3]
    order = batches(lengths, dataclasses.replace(config, epochs=2, batch_size=3))

    first, second = order[:6], order[6:]
    assert sorted(first) == sorted(second) == [0, 1, 2, 3, 4, 5]  # 5 is the row that teaches nothing
    assert first[3] == second[3] == 5 and first != second
    assert batches(lengths, dataclasses.replace(config, epochs=3, batch_size=3))[:12] == order


def test_within_a_step_the_short_rows_come_first(config):
    lengths = [9, 2, 5, 7, 3, 8, 1, 4]
    order = batches(lengths, dataclasses.replace(config, epochs=3, batch_size=4))

    steps = [[lengths[row] for row in order[start : start + 4]] for start in range(0, 24, 4)]
    assert steps == [sorted(step) for step in steps]
    assert len({frozenset(step) for step in steps}) > 2  # which rows meet in a step changes from epoch to epoch


def test_adam_has_the_epsilon_of_the_original_in_fine_tuning(config, policy, words, run, monkeypatch):
    made = []
    monkeypatch.setattr(adapter, "fit", lambda trainer, run: made.append(trainer) or trainer.model)
    sft.train(config, policy, words, [sft.Row([6, 7, 8], [IGNORED, 7, 8])], [], run)

    assert {group["eps"] for group in made[0].create_optimizer().param_groups} == {1e-5}


@pytest.mark.slow
def test_microbatches_change_nothing_that_is_learned(config, workspace):
    runs = [RunFolder.create(workspace.runs, "sft", {}) for _ in range(2)]
    for run, size in zip(runs, (3, 1), strict=True):  # 3 does not divide 4
        sft.main(dataclasses.replace(config, batch_size=4, microbatch=size), run, workspace)

    one, other = ([line["loss"] for line in run.metrics()] for run in runs)
    assert one == pytest.approx(other, rel=1e-5)
    ends = [checkpoints.read_manifest(workspace.checkpoints / run.id)["metrics"]["eval_loss"] for run in runs]
    assert ends[0] == pytest.approx(ends[1], rel=1e-5)


def padded(rows):
    """What the collator makes of rows of (length, targets): tokens 5, targets at the end."""
    longest = max(length for length, _ in rows)
    places = torch.arange(longest)
    mask = torch.stack([(places < length).long() for length, _ in rows])
    targets = torch.stack([(places >= length - count) & (places < length) for length, count in rows])
    ids = 5 * mask
    return {"input_ids": ids, "labels": ids.masked_fill(~targets, IGNORED), "attention_mask": mask}


def test_a_batch_is_cut_into_passes_of_like_length_without_the_rows_that_teach_nothing():
    passes = sft.Passes(most=2)

    first, second = passes(padded([(2, 0), (9, 3), (4, 1), (10, 2), (4, 2)]))

    assert first["attention_mask"].tolist() == [[1, 1, 1, 1]] * 2
    assert first["labels"].tolist() == [[IGNORED] * 3 + [5], [IGNORED, IGNORED, 5, 5]]
    assert second["input_ids"].tolist() == [[5] * 9 + [0], [5] * 10]
    assert passes.padding() == pytest.approx(1 / 28)  # 2 * 4 and 2 * 10 tokens, one of them padding


def test_a_batch_without_any_target_still_makes_a_pass():
    (only,) = sft.Passes(most=4)(padded([(2, 0), (2, 0)]))

    assert only["labels"].tolist() == [[IGNORED, IGNORED]]


def test_a_process_with_fewer_passes_than_another_makes_up_for_them_with_a_row_that_teaches_nothing(monkeypatch):
    monkeypatch.setattr(sft.parallel, "largest", lambda passes: [passes + 1])

    first, idle = sft.Passes(most=4)(padded([(3, 1), (3, 2)]))

    assert first["labels"].tolist() == [[IGNORED, IGNORED, 5], [IGNORED, 5, 5]]
    assert idle["labels"].tolist() == [[IGNORED] * 3]


def test_less_than_a_tenth_of_what_is_computed_is_padding(policy, words, run):
    draw = random.Random(0)
    lengths = [min(128, max(4, round(draw.lognormvariate(3.4, 0.6)))) for _ in range(64)]  # as of real answers
    rows = [sft.Row([5] * length, [IGNORED] * (length // 3) + [5] * (length - length // 3)) for length in lengths]
    config = Config(run.path, "", epochs=1, batch_size=16, log_every=1)

    sft.train(config, policy, words, rows, [], run)

    padding = [line["padding"] for line in run.metrics()]
    assert len(padding) == 4 and all(0 <= share < 0.1 for share in padding)
    at_once = [1 - sum(part) / (16 * max(part)) for part in (lengths[i : i + 16] for i in range(0, 64, 16))]
    assert min(at_once) > 0.3  # what it would be in one pass each


def test_the_gradient_of_a_step_is_that_of_the_mean_over_its_targets_however_it_is_cut(config, policy, words, run):
    from training.model import logprobs_of

    rows = [sft.Row([7, *range(6, 6 + n)], [IGNORED, *range(6, 6 + n)]) for n in (1, 2, 9, 20)]
    alone = copy.deepcopy(policy)
    nats = [-logprobs_of(alone, torch.tensor([row.input_ids]), None) for row in rows]
    torch.cat(nats, 1).mean().backward()  # over 1 + 2 + 9 + 20 targets
    norm = torch.nn.utils.get_total_norm([weight.grad for weight in alone.parameters()]).item()

    sft.train(dataclasses.replace(config, epochs=1, batch_size=4, microbatch=3), policy, words, rows, [], run)

    (line,) = run.metrics()
    assert line["loss"] == pytest.approx(torch.cat(nats, 1).mean().item(), rel=1e-5)
    assert line["grad_norm"] == pytest.approx(norm, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"lora_rank": 2, "lora_dropout": 0.2}])
def test_layers_that_are_computed_again_teach_the_same(config, workspace, monkeypatch, more):
    calls, forward = [], LlamaMLP.forward
    monkeypatch.setattr(LlamaMLP, "forward", lambda self, x: calls.append(self.training) or forward(self, x))
    found = []
    for again in (False, True):
        run = RunFolder.create(workspace.runs, "sft", {})
        sft.main(dataclasses.replace(config, gradient_checkpointing=again, **more), run, workspace)
        folder = workspace.checkpoints / run.id
        found.append((load_file(folder / "model.safetensors"), sum(calls), (folder / "config.json").read_text()))
        calls.clear()

    (once, passes, shape), (twice, passes_again, same_shape) = found
    assert [name for name in once if not torch.equal(once[name], twice[name])] == []
    assert passes_again == 2 * passes and same_shape == shape


def test_a_batch_that_processes_cannot_share_is_refused_before_anything_is_read(config, workspace, run, monkeypatch):
    monkeypatch.setattr(sft.parallel, "count", lambda: 4)
    with pytest.raises(InvalidInput, match="6 rows do not divide by 4. Take 4 or 8."):
        sft.main(dataclasses.replace(config, batch_size=6), run, workspace)


@pytest.mark.slow
def test_the_heldout_loss_is_the_mean_over_tokens_and_not_over_rows(config, workspace, run, words, rows):
    from training.model import logprobs_of

    said = {"What do foxes eat?": "Fish.", "What do mice eat?": "The mat and the door and the water."}
    shown = [rows.demonstration(i, prompt, text, "heldout") for i, (prompt, text) in enumerate(said.items())]
    learned = [rows.demonstration(9, "What do cats eat?", "Fish.")]
    snapshot = rows.freeze(workspace, prompts=[rows.prompt("What do cats eat?")], demonstrations=[*shown, *learned])

    sft.main(dataclasses.replace(config, snapshot=snapshot.path, epochs=1), run, workspace)

    made = AutoModelForCausalLM.from_pretrained(workspace.checkpoints / run.id)
    nats = []
    for prompt, text in said.items():
        (row,), _ = tokenised(words, [demonstrated(text, prompt)], 100)
        ids, response = torch.tensor([row.input_ids]), len(row.labels) - row.labels.count(IGNORED)
        nats += (-logprobs_of(made, ids, torch.ones_like(ids))[0, -response:]).tolist()
    found = checkpoints.read_manifest(workspace.checkpoints / run.id)["metrics"]["eval_loss"]
    assert found == pytest.approx(sum(nats) / len(nats), rel=1e-5)


def test_a_snapshot_without_demonstrations_is_refused(workspace, run, saved_policy, rows):
    heldout = [rows.demonstration(1, "b", "c", "heldout")]
    empty = rows.freeze(workspace, prompts=[rows.prompt("a")], demonstrations=heldout)

    with pytest.raises(TooFewLabels, match="demonstration"):
        sft.main(Config(empty.path, "pretrain-0001"), run, workspace)


def test_a_model_that_is_not_there_is_named(workspace, run, snapshot):
    with pytest.raises(NotFound, match="pretrain-0009"):
        sft.main(Config(snapshot.path, "pretrain-0009"), run, workspace)


def test_settings_that_cannot_train_are_refused():
    with pytest.raises(ValueError, match="epochs is 0"):
        Config("s", "i", epochs=0)


@pytest.mark.slow
def test_a_model_from_outside_gets_what_it_lacks_and_keeps_its_name(workspace, run, snapshot, tmp_path):
    alphabet = {c: i for i, c in enumerate(["<s>", *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    bpe = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    bpe.pre_tokenizer, bpe.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    theirs = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<s>", pad_token="<s>")  # pads with its end
    theirs.save_pretrained(tmp_path / "theirs")
    GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=16, n_layer=1, n_head=2)).save_pretrained(tmp_path / "theirs")

    sft.main(Config(snapshot.path, str(tmp_path / "theirs"), epochs=1, max_new_tokens=4), run, workspace)

    folder = workspace.checkpoints / run.id
    made, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    tokens = AutoTokenizer.from_pretrained(folder)
    assert not told["missing_keys"]
    assert made.config.vocab_size == len(tokens) == 257 + 4  # padding and three roles
    assert tokens.pad_token_id != tokens.eos_token_id
    assert made.generation_config.eos_token_id in (tokens.eos_token_id, [tokens.eos_token_id])  # as releases write it
    assert tokens.chat_template
    assert checkpoints.read_manifest(folder)["parents"] == [str(tmp_path / "theirs")]


def test_in_training_too_only_the_response_and_its_end_are_targets(config, policy, words, run, monkeypatch):
    made = []
    monkeypatch.setattr(adapter, "fit", lambda trainer, run: made.append(trainer) or trainer.model)
    sft.train(config, policy, words, [sft.Row([6, 7, 8], [IGNORED, 7, 8])], [], run)

    batch = next(iter(made[0].get_train_dataloader()))

    # a batch of two: the row that fills it up comes first and has no target
    assert batch["labels"].tolist() == [[IGNORED] * 3, [IGNORED, 7, 8]]


def trainer_of(config, policy, words, run, monkeypatch, rows):
    made = []
    monkeypatch.setattr(adapter, "fit", lambda trainer, run: made.append(trainer) or trainer.model)
    sft.train(config, policy, words, rows, [], run)
    return made[0]


def test_fine_tuning_reads_the_rows_in_the_order_that_was_drawn(config, policy, words, run, monkeypatch):
    config = dataclasses.replace(config, epochs=2, batch_size=2)
    rows = [sft.Row([6, 7, n], [IGNORED, IGNORED, n]) for n in range(8, 16)]

    trainer = trainer_of(config, policy, words, run, monkeypatch, rows)

    read = [row[-1] for batch in trainer.get_train_dataloader() for row in batch["labels"].tolist()]
    assert read == [8 + place for place in batches([3] * 8, config)]


def test_the_learning_rate_of_fine_tuning_rises_and_falls_along_a_cosine(config, policy, words, run, monkeypatch):
    config = dataclasses.replace(config, epochs=4, batch_size=2, learning_rate=1.0, warmup=0.25, weight_decay=0.1)
    rows = [sft.Row([6, 7, 8], [IGNORED, 7, 8])] * 4

    trainer = trainer_of(config, policy, words, run, monkeypatch, rows)
    trainer.create_optimizer_and_scheduler(8)

    rates = [trainer.lr_scheduler.lr_lambdas[0](step) for step in (0, 1, 2, 5, 8)]
    assert rates == pytest.approx([0, 0.5, 1, 0.5, 0])  # 2 of 8 steps up, then half a cosine
    assert {group["weight_decay"] for group in trainer.optimizer.param_groups} == {0.0, 0.1}  # none for norms


@pytest.mark.slow
def test_a_demonstration_longer_than_the_models_positions_is_left_out(config, workspace, run, rows, saved_policy):
    long = rows.demonstration(1, "a", "b" * 200)
    short = rows.demonstration(2, "c", "d")
    snapshot = rows.freeze(workspace, prompts=[rows.prompt("a"), rows.prompt("c")], demonstrations=[long, short])

    sft.main(dataclasses.replace(config, snapshot=snapshot.path, epochs=1, max_length=512), run, workspace)

    assert run.state()["metrics"]["too_long"] == 1  # the model has 128 positions
