"""The proof fails when the product is broken.

A microscopic proof: a policy of 15,000 parameters, sentences of twenty invented words, labels through the store, the
real reward and PPO stages, and the checks of tests/benchmarks/prove.py. As it is, the product passes. With labels in
random order, the reward or the KL turned around, a reference that follows the policy, or chosen and rejected swapped on
the way out, it must not.
"""

from __future__ import annotations

import random
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from proof import checks
from proof.significance import win_rate

from data import assembly, owner
from data.columns import batch_of, rows_of
from data.records import Message, NewPrompt, NewRanking, NewResponse
from data.runs import RunFolder
from data.store import Store
from data.workspace import Workspace
from training import checkpoints, engine, model, ppo, reward, rewards, rollouts, tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

VOCABULARY = "ana bel cor dun eli fos gam hul ivo jar kel lum mir nol ost pim rud sel tav wen".split()
WORTH = {word: -1 + 2 * place / 19 for place, word in enumerate(VOCABULARY)}  # from -1 to 1
SHAPE = model.Shape(hidden=32, layers=2, heads=4, kv_heads=2, intermediate=64, positions=64)
LONGEST = 12  # tokens
BUDGET = (1.0, 8.0)  # nats per response
PROMPTS = 400  # for each of ranking, PPO and evaluation
STEPS, KL_COEF, LR = 20, 0.1, 3e-3
CONTROLS = 3


def taste(text: str) -> float:
    """The mean worth of the words, less half where the sentence has no end."""
    words = re.findall("[a-z]+", text.lower())
    return fmean(WORTH.get(word, -1.0) for word in words) - 0.5 * (not text.endswith(".")) if words else -2.0


def prompt(number: int) -> tuple[Message, ...]:
    return (Message("user", f"{VOCABULARY[number % 20]} {number}"),)


def sentence(rng: random.Random) -> str:
    return " ".join(rng.choices(VOCABULARY, k=rng.randint(3, 6))) + "."


@pytest.fixture(scope="module")
def first_policy(tmp_path_factory):
    """A checkpoint that says random sentences and ends them."""
    rng = random.Random(0)
    sentences = [sentence(rng) for _ in range(3000)]
    words = tokenizer.train([*sentences, *(prompt(i)[0].content for i in range(3 * PROMPTS))], 400)
    torch.manual_seed(0)
    policy = model.new_policy(SHAPE, words)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 150)
    for _ in range(150):
        asked = [tokenizer.prompt_ids(words, prompt(rng.randrange(3 * PROMPTS))) for _ in range(64)]
        rows = [[*ids, *tokenizer.response_ids(words, rng.choice(sentences))] for ids in asked]
        ids, is_there = engine.padded_right(rows, words.pad_token_id, torch.device("cpu"))
        starts = torch.tensor([len(ids) for ids in asked])[:, None]
        is_response = is_there[:, 1:] & (torch.arange(1, ids.shape[1]) >= starts)
        loss = -(model.logprobs_of(policy, ids, is_there) * is_response).sum() / is_response.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    folder = tmp_path_factory.mktemp("first")
    return checkpoints.save(
        folder, "sft-0001", stage="sft", parents=[], snapshot=None, model=policy, tokenizer=words, config={},
        metrics={}, seed=0,
    )  # fmt: skip


def say(path: Path, numbers: range, place: str, samples: int = 1) -> tuple[list[str], float, rollouts.Sampled]:
    """Responses to prompts by the checkpoint."""
    words, policy = tokenizer.load(path), model.load_policy(path).eval()
    ids = [tokenizer.prompt_ids(words, prompt(number)) for number in numbers for _ in range(samples)]
    found = engine.sample(
        policy, ids, max_new_tokens=LONGEST, temperature=1.0, eos_id=words.eos_token_id, pad_id=words.pad_token_id,
        generator=engine.generator_at(0, place), batch_size=256,
    )  # fmt: skip
    sampled = rollouts.assemble(ids, found, words.pad_token_id, torch.device("cpu"))
    return sampled.texts(words), fmean(found.ended), sampled


@pytest.fixture(scope="module")
def spoken(first_policy):
    """Four responses to each prompt that is ranked."""
    texts, _, _ = say(first_policy, range(PROMPTS), "ranked", 4)
    return [tuple(dict.fromkeys(texts[start : start + 4])) for start in range(0, len(texts), 4)]


@pytest.fixture(scope="module")
def baseline(first_policy):
    """What the first policy says to the evaluation prompts."""
    return say(first_policy, range(2 * PROMPTS, 3 * PROMPTS), "baseline")[0]


def rank(texts, rng: random.Random, shuffled: bool) -> tuple[int, ...]:
    """A noisy labeler's ranks, or any order at all."""
    worth = [0.0 if shuffled else taste(text) / 0.2 for text in texts]
    found = [value + rng.gauss(0, 1) for value in worth]
    return tuple(sorted(found, reverse=True).index(value) + 1 for value in found)


@dataclass(frozen=True)
class Judged:
    """A workspace whose labels were learned from."""

    workspace: Workspace
    asked: Path  # the snapshot whose prompts PPO answers
    reward: str  # checkpoint


def judge(folder: Path, first: Path, spoken, *, shuffled: bool = False, seed: int = 0) -> Judged:
    """Labels through the store, then the reward stage."""
    workspace, rng = Workspace.at(folder), random.Random(seed)
    with Store(workspace.database) as store:
        ids = store.add_prompts([NewPrompt(prompt(number), split="train") for number in range(PROMPTS)])
        store.add_rankings([
            NewRanking(id, tuple(NewResponse(text, "sft-0001") for text in texts), rank(texts, rng, shuffled), "ana")
            for id, texts in zip(ids, spoken, strict=True)
            if len(texts) > 1
        ])  # fmt: skip
        labels = owner.freeze(store, workspace).path
        store.add_prompts([NewPrompt(prompt(number), split="train") for number in range(PROMPTS, 2 * PROMPTS)])
        asked = owner.freeze(store, workspace).path
    found = run(reward, workspace, "reward", snapshot=labels, init=str(first), epochs=2, batch_size=16, microbatch=16,
                learning_rate=3e-3, warmup=0.0, seed=seed)  # fmt: skip
    return Judged(workspace, asked, found)


def improved(judged: Judged, first: Path, baseline, *, seed: int = 0) -> dict:
    """The PPO stage, then what the policy is worth."""
    workspace = judged.workspace
    policy = run(ppo, workspace, "ppo", snapshot=judged.asked, init=str(first), reference=str(first),
                 reward=judged.reward, steps=STEPS, batch_size=64, minibatch_size=64, microbatch=64, epochs=2,
                 max_new_tokens=LONGEST, learning_rate=LR, value_learning_rate=LR, kl_coef=KL_COEF, save_every=1000,
                 seed=seed)  # fmt: skip
    path = workspace.checkpoints / policy
    texts, ended, sampled = say(path, range(2 * PROMPTS, 3 * PROMPTS), "policy")
    under = rollouts.logprobs(model.load_policy(first).eval(), sampled, temperature=1.0, microbatch=256)
    return {
        **asdict(win_rate([taste(text) for text in texts], [taste(text) for text in baseline])),
        "kl": (sampled.old_logprobs - under).sum(1).mean().item(),
        "logged_kl": RunFolder(workspace.runs / policy).metrics()[-1]["kl"],
        "ended": ended,
        "texts": texts,
    }


def run(stage, workspace: Workspace, name: str, **options: object) -> str:
    """Run a stage in this process; returns its checkpoint's id."""
    folder = RunFolder.create(workspace.runs, name, {})
    stage.main(stage.Config(**options), folder, workspace)
    return folder.id


def objections(found: list[dict], controls: list[dict]) -> list[str]:
    """What the checks of the proof have against these runs; empty when they prove that the product learns."""
    made = checks.policy_wins(found, controls) + checks.policy_stayed_near(found, BUDGET)
    return [check.line() for check in made if not check.passed]


@pytest.fixture(scope="module")
def judge_labels(first_policy, spoken, tmp_path_factory):
    """Rank and learn a reward in a folder of its own."""
    return lambda **options: judge(tmp_path_factory.mktemp("proof"), first_policy, spoken, **options)


@pytest.fixture(scope="module")
def judged(judge_labels):
    """The labels as they are, and the reward learned from them."""
    return judge_labels()


@pytest.fixture(scope="module")
def improve(first_policy, baseline):
    """Improve the first policy by what was judged."""
    return lambda judged, **options: improved(judged, first_policy, baseline, **options)


@pytest.fixture(scope="module")
def controls(judge_labels, improve):
    """The same on labels in random order."""
    return [improve(judge_labels(shuffled=True, seed=seed), seed=seed) for seed in range(CONTROLS)]


def test_the_product_as_it_is_passes(judged, judge_labels, improve, controls):
    found = [improve(judged), improve(judge_labels(seed=1), seed=1)]

    assert objections(found, controls) == []
    assert min(run["rate"] for run in found) > 0.8  # far from every threshold
    assert max(run["rate"] for run in controls) < min(run["rate"] for run in found) - 0.1


def test_shuffled_labels_do_not_pass(controls):
    for number, control in enumerate(controls):
        found = controls[:number] + controls[number + 1 :]  # one seed may win by luck, at .66 for one; two do not

        assert any("lower bound" in line for line in objections(found, [control]))


def test_a_reward_of_the_wrong_sign_does_not_pass(judged, improve, controls, monkeypatch):
    right = rewards.scores
    monkeypatch.setattr(rewards, "scores", lambda *given, **named: -right(*given, **named))

    assert any("lower bound" in line for line in objections([improve(judged)], controls))


def test_a_kl_of_the_wrong_sign_does_not_pass(judged, improve, controls, monkeypatch):
    right = ppo.token_rewards
    monkeypatch.setattr(ppo, "token_rewards", lambda *given, kl_coef, **named: right(*given, kl_coef=-kl_coef, **named))

    assert any("nats" in line for line in objections([improve(judged)], controls))


def test_a_reference_that_follows_the_policy_does_not_pass(judged, improve, controls, monkeypatch):
    right = ppo.improve

    def following(models, *given, **named):
        stats = right(models, *given, **named)
        models.reference.load_state_dict(models.policy.state_dict())
        return stats

    monkeypatch.setattr(ppo, "improve", following)

    assert any("logged" in line for line in objections([improve(judged)], controls))


def test_chosen_and_rejected_swapped_on_the_way_out_do_not_pass(judge_labels, improve, controls, monkeypatch):
    right = assembly.rankings

    def swapped(share):
        rows = rows_of(right(share))
        for row in rows:
            row["ranks"] = [len(row["ranks"]) + 1 - rank for rank in row["ranks"]]
        return batch_of(rows, "rankings")

    monkeypatch.setitem(assembly.TABLES, "rankings", swapped)

    assert any("lower bound" in line for line in objections([improve(judge_labels())], controls))
