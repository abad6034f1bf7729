"""Text of the pretraining corpus mixed into PPO's updates."""

from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from data.errors import InvalidInput
from training import checkpoints, corpus, ptx, sharding
from training.model import logprobs_of
from training.ppo import Config
from training.ptx import COEF, Mix, add_gradient, pretrained_ancestor, prose_sample, sources_of

pytestmark = pytest.mark.slow

PRETRAINED = {
    "text": [],
    "dataset": None,
    "text_column": "text",
    "prose_weight": None,
    "code_weight": None,
    "block": 16,
}


def a_config(init="grown", **changes):
    return Config(Path("s"), init, "grown", "c", **({"ptx_coef": None, "ptx_batch": 64} | changes))


@pytest.fixture
def own_text(tmp_path):
    """A folder of text."""
    folder = tmp_path / "books"
    folder.mkdir()
    for number in range(20):
        (folder / f"{number:02}.txt").write_text(f"The cat number {number} sat on the mat. " * 5)
    return folder


@pytest.fixture
def grown(workspace, policy, words, own_text):
    """checkpoints/grown, whose grandparent was pretrained on that folder; `made` saves further ones."""

    def made(name, stage, parents, config):
        fields = {"snapshot": None, "model": policy, "tokenizer": words, "metrics": {}, "seed": 0}
        return checkpoints.save(workspace.checkpoints, name, stage=stage, parents=parents, config=config, **fields)

    made("base", "pretrain", [], {**PRETRAINED, "text": [str(own_text)]})
    made("tuned", "sft", ["base"], {})
    made("grown", "ppo", ["tuned", "reward-that-is-gone"], {})
    return made


def words_in(mix, tokens):
    return tokens.decode(mix.blocks.flatten())


def gradients(policy):
    return torch.cat([weight.grad.flatten() for weight in policy.parameters()])


def test_the_texts_gradient_is_added_at_a_ratio_of_norms(policy):
    text, other = torch.randint(6, 300, (4, 16)), torch.randint(6, 300, (4, 16))
    (-logprobs_of(policy, text, None).mean()).backward()
    of_text = gradients(policy)
    policy.zero_grad()
    (logprobs_of(policy, other, None).mean() * 37).backward()  # stands for PPO's
    of_ppo = gradients(policy)

    found = add_gradient(policy, text, 0.25, 3, Accelerator(cpu=True))

    wanted = of_ppo + 0.25 * of_ppo.norm() / of_text.norm() * of_text
    torch.testing.assert_close(gradients(policy), wanted, atol=1e-5, rtol=1e-4)
    assert found["ptx_grad_norm"] == pytest.approx(of_text.norm().item(), rel=1e-4)
    assert found["ptx_loss"] == pytest.approx(-logprobs_of(policy, text, None).mean().item(), rel=1e-4)


def test_where_ppo_has_nothing_to_say_the_text_says_nothing_either(policy):
    (logprobs_of(policy, torch.tensor([[7, 8]]), None).sum() * 0).backward()

    add_gradient(policy, torch.randint(6, 300, (2, 8)), 0.5, 2, Accelerator(cpu=True))

    assert not gradients(policy).any()


def test_frozen_weights_get_no_gradient(policy):
    policy.model.embed_tokens.weight.requires_grad_(False)
    logprobs_of(policy, torch.tensor([[7, 8]]), None).sum().backward()

    add_gradient(policy, torch.randint(6, 300, (2, 8)), 0.5, 2, Accelerator(cpu=True))

    assert policy.model.embed_tokens.weight.grad is None
    assert sharding.norm([weight.grad for weight in policy.parameters() if weight.grad is not None]) > 0


def test_an_update_always_reads_the_same_blocks_and_the_next_one_others():
    mix = Mix(torch.arange(10).view(5, 2), rows=2, coef=0.1)

    assert mix.of_update(0).tolist() == [[0, 1], [2, 3]]
    assert mix.of_update(1).tolist() == [[4, 5], [6, 7]]
    assert mix.of_update(2).tolist() == [[8, 9], [0, 1]]  # all were read: from the start again


def test_the_corpus_is_that_of_the_pretrained_ancestor(grown, workspace, words, own_text):
    config = a_config()

    mix = ptx.load(config, workspace, words, updates=10)

    assert mix.blocks.shape == (40, 16) and mix.rows == 4 and mix.coef == COEF  # 64 tokens are 4 blocks of 16
    assert "sat on the mat" in words_in(mix, words)
    again = ptx.load(config, workspace, words, updates=10)
    assert torch.equal(mix.blocks, again.blocks)
    other = ptx.load(a_config(seed=1), workspace, words, updates=10)
    assert not torch.equal(mix.blocks, other.blocks)


def test_what_is_held_out_is_never_mixed_in(grown, workspace, words, own_text):
    (own_text / "secret.txt").write_text(next(f"secret {n}" for n in range(999) if corpus.is_heldout(f"secret {n}")))

    assert "secret" not in words_in(ptx.load(a_config(), workspace, words, updates=200), words)


def test_a_long_run_reads_its_text_again(grown, workspace, words, monkeypatch):
    monkeypatch.setattr(ptx, "MOST_TOKENS", 100)

    assert len(ptx.load(a_config(), workspace, words, updates=10**9).blocks) == 6


def test_the_nearest_pretraining_counts_and_parents_that_are_gone_are_passed_over(grown, workspace):
    grown("again", "pretrain", ["grown"], {"block": 99})
    grown("late", "sft", ["again"], {})

    assert pretrained_ancestor(workspace.checkpoints / "late", workspace.checkpoints) == {"block": 99}
    assert pretrained_ancestor(workspace.checkpoints / "grown", workspace.checkpoints)["block"] == 16


def test_a_model_from_outside_takes_the_text_it_is_given(saved_policy, workspace, words, own_text):
    (saved_policy / checkpoints.MANIFEST).unlink()
    config = a_config(init=str(saved_policy), ptx_text=(own_text,), ptx_coef=0.3)

    mix = ptx.load(config, workspace, words, updates=2)

    assert mix.coef == 0.3 and "sat on the mat" in words_in(mix, words)


def test_a_model_from_outside_without_text_is_said_to_go_without_and_refused_when_it_was_asked_for(
    saved_policy, workspace, words, capsys
):
    (saved_policy / checkpoints.MANIFEST).unlink()

    assert ptx.load(a_config(init=str(saved_policy)), workspace, words, updates=2) is None
    assert "--ptx-text" in capsys.readouterr().out
    with pytest.raises(InvalidInput, match="--ptx-text"):
        ptx.load(a_config(init=str(saved_policy), ptx_coef=0.1), workspace, words, updates=2)


def test_with_a_coefficient_of_zero_nothing_is_read(workspace, words):
    assert ptx.load(a_config(ptx_coef=0.0, init="nowhere"), workspace, words, updates=2) is None


def test_weights_of_the_corpus_are_those_of_the_pretraining(own_text):
    def shares(**changes):
        return {s.name: s.weight for s in sources_of({**PRETRAINED, **changes}, size=100, seed=0)}

    assert shares() == {"prose": 0.8, "code": 0.2}
    assert shares(prose_weight=0.0) == {"code": 0.2}
    assert shares(text=[str(own_text)]) == {"text": 1.0}
    assert shares(text=[str(own_text)], code_weight=0.5) == {"text": 1.0, "code": 0.5}


def test_a_part_of_pythons_own_prose_is_enough_of_it_and_always_the_same():
    found = prose_sample(20_000, seed=0)

    assert 20_000 <= sum(map(len, found)) < 400_000
    assert found == prose_sample(20_000, seed=0) != prose_sample(20_000, seed=1)
    assert all(len(text) >= corpus.SHORTEST for text in found[-20:]) and isinstance(np.array(found), np.ndarray)
