"""Responses scored after a prompt that is encoded once: the scores and gradients of separate rows."""

import random

import pytest
import torch
from transformers import (
    Gemma2Config,
    Gemma2ForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MambaConfig,
    MistralConfig,
    MistralForSequenceClassification,
    PreTrainedModel,
)

from data.errors import InvalidInput
from training import scoring
from training.model import scores
from training.scoring import check_sharing, groups_of_like_length, score, score_rows

pytestmark = pytest.mark.slow

SIZES = {
    "vocab_size": 100,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "num_labels": 1,
}
GPT2_SIZES = {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 64, "vocab_size": 100, "num_labels": 1}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
MODELS = {
    "llama": lambda: LlamaForSequenceClassification(LlamaConfig(**SIZES)),
    "mistral": lambda: MistralForSequenceClassification(MistralConfig(**SIZES, sliding_window=4)),
    "gemma2": lambda: Gemma2ForSequenceClassification(Gemma2Config(**SIZES, head_dim=4, sliding_window=4)),
    "gpt2": lambda: GPT2ForSequenceClassification(GPT2Config(**GPT2_SIZES, **SPECIAL)),
}


def made(name: str) -> PreTrainedModel:
    """A microscopic model whose scores are far apart."""
    torch.manual_seed(0)
    model = MODELS[name]().eval()
    torch.nn.init.normal_(model.score.weight)
    return model


def drawn() -> tuple[list[list[int]], list[list[list[int]]]]:
    """Four prompts of unlike length, two to five responses each."""
    draw = random.Random(0)

    def words(count: int) -> list[int]:
        return [draw.randrange(5, 90) for _ in range(count)]

    return [words(n) for n in (3, 17, 8, 9)], [[words(draw.randint(1, 12)) for _ in range(k)] for k in (4, 2, 5, 3)]


def scored_and_gradient(model, share: bool):
    prompts, responses = drawn()
    model.zero_grad()
    found = score(model, prompts, responses, 0, share=share)
    (found.values * torch.linspace(-1, 2, len(found.values))).sum().backward()
    gradient = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    return found, gradient / gradient.abs().max()


@pytest.mark.parametrize("name", MODELS)
def test_a_shared_prompt_gives_the_scores_and_the_gradient_of_separate_rows(name):
    model = made(name)

    apart, gradient = scored_and_gradient(model, share=False)
    shared, shared_gradient = scored_and_gradient(model, share=True)

    torch.testing.assert_close(shared.values, apart.values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared_gradient, gradient, atol=1e-5, rtol=0)


def test_scores_of_separate_rows_are_those_of_padded_ones():
    model = made("llama")
    rows = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
    ids = torch.tensor([[5, 6, 7, 0, 0], [8, 0, 0, 0, 0], [9, 10, 11, 12, 13]])

    with torch.no_grad():
        found = score_rows(model, rows, 0)
        expected = scores(model, ids, ids != 0)

    torch.testing.assert_close(found.values, expected, atol=1e-5, rtol=1e-5)
    assert (found.tokens, found.computed) == (9, 9)  # lengths so unlike that each row goes alone


def test_a_shared_prompt_is_counted_once():
    model, prompts, responses = made("llama"), [[5] * 10], [[[6] * 4] * 3]

    apart, shared = (score(model, prompts, responses, 0, share=share) for share in (False, True))

    assert (apart.tokens, apart.computed) == (42, 42)
    assert (shared.tokens, shared.computed) == (22, 22)


def test_a_prompt_too_short_to_pay_is_not_shared():
    model, prompts, responses = made("llama"), [[5]], [[[6] * 20] * 4]

    assert score(model, prompts, responses, 0, share=True).tokens == 84  # 81 shared: 1.04 times fewer


def test_rows_of_like_length_go_together():
    lengths = [10, 100, 9, 95, 50]

    # 9 with 10 and 95 with 100: 6 of 270 tokens are padding; 50 with either pair would make it 86 or 55
    assert groups_of_like_length(lengths, 0.1) == [[2, 0], [4], [3, 1]]
    assert groups_of_like_length(lengths, 1.0) == [[2, 0, 4, 3, 1]]
    assert groups_of_like_length(lengths, 1.0, most_rows=2) == [[2, 0], [4, 3], [1]]
    assert groups_of_like_length([], 0.1) == []
    assert groups_of_like_length([1, 2, 4], 0.0) == [[0], [1], [2]]


def test_no_more_than_asked_is_padding_and_the_groups_are_few():
    draw = random.Random(0)
    lengths = [draw.randint(1, 300) for _ in range(200)]

    groups = groups_of_like_length(lengths, 0.1)

    assert sorted(index for group in groups for index in group) == list(range(200))
    padded = sum(max(lengths[index] for index in group) * len(group) for group in groups)
    assert 0.9 * padded <= sum(lengths) <= 0.95 * padded
    assert len(groups) == 9  # of even lengths from 0 to L, g groups of width L/g have a share of 1 / (g + 1) padding


def test_a_model_that_scores_alike_both_ways_may_share():
    check_sharing(made("mistral"), [5, 6, 7, 8, 9, 10], [[11, 12], [13]], 0)


def test_a_model_that_keeps_a_state_is_refused_with_the_way_out():
    model = made("llama")
    model.config = MambaConfig(vocab_size=100, hidden_size=16, num_hidden_layers=2, state_size=4)

    with pytest.raises(InvalidInput, match="keeps more of a prompt than its keys and values.*--no-share-prompts"):
        check_sharing(model, [5, 6], [[7], [8]], 0)


def test_a_model_that_scores_otherwise_after_a_shared_prompt_is_refused(monkeypatch):
    model = made("llama")
    monkeypatch.setattr(scoring, "positions_of", lambda is_token: torch.zeros_like(is_token, dtype=torch.long))

    with pytest.raises(InvalidInput, match="scores responses differently"):
        check_sharing(model, [5, 6, 7, 8], [[9, 10, 11], [12]], 0)
