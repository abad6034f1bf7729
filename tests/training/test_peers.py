"""RLOO, GRPO and DPO by TRL's trainers: what they are given is what PPO sees, and each learns and resumes."""

import dataclasses
import json
import os
import signal
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
from packaging.requirements import Requirement
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from data import datasets
from data.errors import InvalidInput, TooFewLabels
from data.records import Message
from data.runs import RunFolder
from data.snapshots import load as load_snapshot
from training import checkpoints, peers, ppo, rollouts, tokenizer
from training.metrics import Cancelled, catch_stop_signal
from training.peer_inputs import answerable, as_trl_reads, check_padding, decided_pairs, turns_of
from training.peers import OURS, numbers_of
from training.ppo import Config, judge_options

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def config_for(algorithm, path, **changes):
    options = {
        "steps": 2,
        "batch_size": 8,
        "minibatch_size": 8,
        "microbatch": 4,
        "epochs": 2,
        "max_new_tokens": 8,
        "max_prompt_tokens": 64,
        "temperature": 0.8,
        "learning_rate": 3e-3,
        "save_every": 1,
    }
    names = "pretrain-0001", "pretrain-0001", "reward-0001"
    init, reference, reward = changes.pop("init", names[0]), *names[1:]
    return Config(path, init, reference, reward, algorithm=algorithm, **(options | changes))


@pytest.fixture
def saved_policy(workspace, policy, words):
    """checkpoints/pretrain-0001: about half of its responses end at once, the others are cut off."""
    with torch.no_grad():
        ids = torch.tensor([tokenizer.prompt_ids(words, [Message("user", "What do cats eat?")])])
        policy.get_input_embeddings().weight[words.eos_token_id] = 0.35 * policy.base_model(ids)[0][0, -1]
    return save(workspace, "pretrain-0001", "pretrain", policy, words)


def save(workspace, name, stage, model, words):
    return checkpoints.save(
        workspace.checkpoints,
        name,
        stage=stage,
        parents=["pretrain-0001"],
        snapshot=None,
        model=model,
        tokenizer=words,
        config={},
        metrics={},
        seed=0,
    )


def new_run(workspace):
    return RunFolder.create(workspace.runs, "ppo", {})


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def test_the_tested_releases_of_trl_are_those_that_pawl_asks_for_and_one_is_installed():
    asked = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    (trl,) = [found for found in map(Requirement, asked) if found.name == "trl"]

    assert trl.specifier == peers.SpecifierSet(peers.TRL)
    assert trl.specifier.contains(version("trl"))


def test_another_release_of_trl_is_refused_by_its_number(monkeypatch):
    monkeypatch.setattr(peers, "TRL", ">=9.0,<9.1")

    with pytest.raises(InvalidInput, match=rf"TRL {version('trl')} is installed.*tested with >=9.0,<9.1 only"):
        peers.trl_classes("rloo")


def test_a_trainer_that_trl_lacks_is_named():
    with pytest.raises(InvalidInput, match="needs TRL's PPOTrainer, and it is not there"):
        peers.trl_classes("ppo")  # TRL has deleted its own


def test_ppo_has_every_option_that_its_peers_read():
    fields = {field.name for field in dataclasses.fields(ppo.Config)}

    assert {*peers.Config.__annotations__, *peers.OFF} <= fields
    assert {name: getattr(config_for("ppo", Path("s")), name) for name in peers.OFF} == peers.OFF  # off by default


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kl_target": 6.0}, "--kl-target 6.0 is PPO's own, and rloo cannot follow it"),
        ({"group_size": 3}, "batch_size 8 is not a multiple of group_size 3"),
        ({"group_size": 1}, "group_size is 1"),
    ],
)
def test_an_option_that_the_algorithm_cannot_follow_is_refused(change, words):
    with pytest.raises(InvalidInput, match=words):
        peers.check(config_for("rloo", Path("s"), **change))


def ranked(snapshot, question, texts, ranks):
    any_other = datasets.rankings(snapshot, "train")[0]
    return dataclasses.replace(any_other, messages=(Message("user", question),), responses=texts, ranks=ranks)


def test_every_decided_pair_of_a_ranking_is_learned_from(snapshot, words):
    texts = ("Fish.", "Water.", "The door.", "The mat.")
    ranking = ranked(snapshot, "What do cats eat?", texts, (2, 1, 2, None))

    pairs = decided_pairs([ranking], words, 100, 100)

    # the second beats the first and the third, which are tied; the fourth has no rank
    said = [(words.decode(pair["chosen_ids"]), words.decode(pair["rejected_ids"])) for pair in pairs]
    assert said == [("Water.<|end|>", "Fish.<|end|>"), ("Water.<|end|>", "The door.<|end|>")]
    assert {words.decode(pair["prompt_ids"]) for pair in pairs} == {"<|user|>What do cats eat?<|assistant|>"}


def test_pairs_that_are_too_long_are_left_out_and_none_at_all_is_refused(snapshot, words):
    ranking = ranked(snapshot, "a", ("b", "c" * 50), (1, 2))

    with pytest.raises(TooFewLabels, match="there is none \\(1 were too long\\)"):
        decided_pairs([ranking], words, 100, 20)


def test_prompts_that_trl_would_read_as_other_ids_are_left_out(snapshot, rows, workspace, words, capsys):
    kept, hostile = "What do cats eat?", "What does <|end|> mean?"
    prompts = datasets.prompts(rows.freeze(workspace, prompts=[rows.prompt(kept), rows.prompt(hostile)]), "train")

    ((prompt, ids),) = answerable(prompts, words, 64)

    assert prompt.messages[0].content == kept and ids == tokenizer.prompt_ids(words, prompt.messages)
    assert (
        "1 prompts, 0 left out as longer than 64 tokens, 1 because they spell a special token" in capsys.readouterr()[0]
    )


def test_a_model_with_learned_positions_is_refused(words, policy):
    torch.manual_seed(0)
    learned = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_positions=64, n_embd=16, n_layer=1, n_head=2))

    check_padding(policy, words, [5, 6, 7])  # rotary
    with pytest.raises(InvalidInput, match="of this gpt2 model by"):
        check_padding(learned, words, [5, 6, 7])


def test_the_numbers_of_a_step_have_ppos_names():
    logs = {"loss": 0.5, "kl": 0.25, "completions/mean_length": 8.0, "step_time": 1.5, f"{OURS}reward": 0.75, "x": 1}

    # 8 tokens of 0.25 nats are 2 nats a response; two updates of 1.5 s are 3 s
    assert numbers_of(logs, 2) == {"policy_loss": 0.5, "length": 8.0, "reward": 0.75, "kl": 2.0, "step_seconds": 3.0}


def given_for(algorithm, snapshot, workspace, **changes):
    config = config_for(algorithm, snapshot.path, **changes)
    return peers.load(config, judge_options(config), new_run(workspace), workspace, load_snapshot(snapshot.path))


def trainer_of(given):
    make = peers.dpo_trainer if given.config.algorithm == "dpo" else peers.group_trainer
    reporter = peers.Reporter(peers.Progress(given.run, "ppo", given.config.steps), given.updates)
    return make(given, *peers.trl_classes(given.config.algorithm), reporter)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "dpo"])
def test_two_steps_move_the_weights_into_a_checkpoint_that_plain_transformers_loads(
    algorithm, snapshot, workspace, saved_policy, judge_checkpoint
):
    run = new_run(workspace)

    ppo.main(config_for(algorithm, snapshot.path), run, workspace)

    folder = workspace.checkpoints / run.id
    manifest = checkpoints.read_manifest(folder)
    assert (manifest["stage"], manifest["config"]["algorithm"]) == ("ppo", algorithm)
    assert manifest["parents"] == ["pretrain-0001", "reward-0001"]
    assert {"reward", "score", "kl", "length", "ended"} <= manifest["metrics"].keys()
    _, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    before, after = weights(saved_policy), weights(folder)
    assert all(torch.isfinite(after[name]).all() for name in after)
    assert any(not torch.equal(before[name], after[name]) for name in after)
    assert not (folder / "README.md").exists() and not (run.path / "trainer").exists()
    lines = run.metrics()
    assert [line["step"] for line in lines] == [1, 2] and lines[0]["policy_grad_norm"] > 0
    assert run.state()["state"] == "done"
    wanted = "accuracy margin" if algorithm == "dpo" else "reward score kl length ended entropy clip_fraction"
    assert {*wanted.split(), "policy_loss", "policy_grad_norm"} <= lines[0].keys()
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert samples[-1].keys() == {"step", "prompt", "response", "score", "kl"} and samples[-1]["step"] == 2


@pytest.mark.slow
def test_dpo_needs_no_judge_and_its_samples_then_have_no_score(snapshot, workspace, saved_policy):
    run = new_run(workspace)

    ppo.main(dataclasses.replace(config_for("dpo", snapshot.path), reward=""), run, workspace)

    manifest = checkpoints.read_manifest(workspace.checkpoints / run.id)
    assert manifest["parents"] == ["pretrain-0001"]
    assert {"kl", "length", "ended"} <= manifest["metrics"].keys() and "reward" not in manifest["metrics"]
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert [line["score"] for line in samples] == [None] * 4


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_without_a_judge_nothing_can_be_learned_from_samples(algorithm, snapshot, workspace, saved_policy):
    with pytest.raises(InvalidInput, match="Nothing would judge the responses"):
        ppo.main(dataclasses.replace(config_for(algorithm, snapshot.path), reward=""), new_run(workspace), workspace)


@pytest.mark.slow
def test_a_group_answers_the_prompts_that_ppo_would_in_the_same_order(
    snapshot, workspace, saved_policy, judge_checkpoint
):
    given = given_for("rloo", snapshot, workspace, steps=4)  # 2 prompts a step of 6: into a second epoch
    seen = [given.prompts[row["number"]][0] for row in trainer_of(given).train_dataset]

    steps = [rollouts.prompts_of_step(given.prompts, 2, step, seed=0) for step in range(4)]
    assert seen == [prompt for step in steps for prompt, _ in step]


@pytest.mark.slow
def test_the_ids_of_prompts_and_pairs_are_those_that_ppo_sees(
    snapshot, workspace, saved_policy, judge_checkpoint, words
):
    from datasets import Dataset

    given = given_for("grpo", snapshot, workspace)
    sampling = trainer_of(given)
    seen = [ids for _, ids in given.prompts]
    paired = given_for("dpo", snapshot, workspace)
    learning = trainer_of(paired)

    assert sampling._tokenize_prompts([turns_of(prompt) for prompt, _ in given.prompts])[0] == seen
    several = [Message("system", "Be brief."), Message("user", "a"), Message("assistant", "b"), Message("user", " c")]
    assert as_trl_reads(words, [vars_of(m) for m in several]) == tokenizer.prompt_ids(words, several)
    assert [dict(row) for row in learning.train_dataset] == paired.pairs
    turn = {"role": "user", "content": "What do cats eat?"}
    text = Dataset.from_list([{"prompt": [turn], "chosen": [assistant("Fish.")], "rejected": [assistant("Water.")]}])
    (read,) = learning._prepare_dataset(text, words, learning.args, "train")
    assert {name: read[name] for name in ("prompt_ids", "chosen_ids", "rejected_ids")} == paired.pairs[0]
    assert paired.pairs[0]["chosen_ids"][-1] == words.eos_token_id


def vars_of(message):
    return {"role": message.role, "content": message.content}


def assistant(text):
    return {"role": "assistant", "content": text}


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rloo", "grpo", "dpo"])
def test_the_reference_is_the_one_that_was_named_and_not_the_policy(
    algorithm, snapshot, workspace, saved_policy, judge_checkpoint, words, policy
):
    with torch.no_grad():
        policy.get_output_embeddings().weight.mul_(2)
    save(workspace, "ppo-0009", "ppo", policy, words)

    trainer = trainer_of(given_for(algorithm, snapshot, workspace, init="ppo-0009"))

    wanted = weights(saved_policy)["model.embed_tokens.weight"]
    assert torch.equal(trainer.ref_model.get_input_embeddings().weight, wanted)
    assert torch.equal(trainer.model.get_input_embeddings().weight, 2 * wanted)
    assert trainer.args.learning_rate == pytest.approx(6e-4 if algorithm == "dpo" else 3e-3)  # dpo takes a fifth


@pytest.mark.slow
def test_a_response_is_worth_what_ppo_gives_it(snapshot, workspace, saved_policy, judge_checkpoint, words):
    given = given_for("rloo", snapshot, workspace)
    said = [tokenizer.response_ids(words, "Fish."), tokenizer.response_ids(words, "The cat sat."), [7, 8]]
    logged = {}

    class State:
        global_step = 4  # two steps of 2 updates are done

    worth = peers.score_function(given)(
        completion_ids=said, number=[0, 1, 2], trainer_state=State, log_metric=logged.__setitem__
    )

    texts = ["Fish.", "The cat sat.", words.decode([7, 8]).strip()]
    prompts = [ids for _, ids in given.prompts[:3]]
    (model,), (unit,) = given.rewards.models.values(), given.rewards.units.models
    raw = rollouts.scores(model, words, prompts, texts, microbatch=3)
    in_units = ((raw - unit.mean) / unit.std).tolist()
    assert worth[:2] == pytest.approx(in_units[:2])
    assert worth[2] == pytest.approx(min(-1.0, *in_units))  # it was cut off
    assert logged[f"{OURS}ended"] == pytest.approx(2 / 3) and logged[f"{OURS}score"] == pytest.approx(raw.mean().item())
    shown = [json.loads(line) for line in (given.run.path / "samples.jsonl").read_text().splitlines()]
    assert [(line["step"], line["response"]) for line in shown] == [(3, "Fish.")]  # one of a group


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["rloo", "dpo"])
def test_a_run_that_was_stopped_goes_on_to_the_very_same_weights(
    algorithm, snapshot, workspace, saved_policy, judge_checkpoint, monkeypatch
):
    whole, broken = new_run(workspace), new_run(workspace)
    config = config_for(algorithm, snapshot.path, steps=3, minibatch_size=(4, 8)[algorithm == "rloo"], save_every=5)
    ppo.main(config, whole, workspace)

    before = signal.getsignal(signal.SIGTERM)
    catch_stop_signal()
    try:
        monkeypatch.setattr(peers, "Reporter", reporter_that_stops_after(3))
        with pytest.raises(Cancelled):
            ppo.main(config, broken, workspace)
    finally:
        catch_stop_signal()
        signal.signal(signal.SIGTERM, before)
    monkeypatch.undo()
    assert broken.metrics()[-1]["step"] == 2  # of two updates each: it finished the step
    ppo.main(config, broken, workspace)

    wanted, got = (weights(workspace.checkpoints / r.id) for r in (whole, broken))
    for name, weight in wanted.items():
        assert torch.equal(weight, got[name]), name  # bit for bit
    kept = [[line["step"] for line in r.metrics()] for r in (whole, broken)]
    assert kept[0] == kept[1] == [1, 2, 3]
    assert (whole.path / "samples.jsonl").read_text() == (broken.path / "samples.jsonl").read_text()


def reporter_that_stops_after(updates):
    """The real Reporter, with a real SIGTERM sent within a step."""

    class Stopping(peers.Reporter):
        def on_step_end(self, args, state, control, **_):
            if state.global_step == updates:
                os.kill(os.getpid(), signal.SIGTERM)
            super().on_step_end(args, state, control)

    return Stopping
