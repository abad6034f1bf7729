import random

import pytest
import torch

from training import engine, model
from training.engine import padded_right
from training.rollouts import (
    Rollouts,
    Sampling,
    assemble,
    logprobs,
    logprobs_and_entropy_in,
    logprobs_in,
    response_logprobs,
    sample,
    scores,
    values_in,
)

CPU = torch.device("cpu")


@pytest.fixture
def sampled():
    """Prompts of 3 and 1 tokens; responses of 1 and 2 tokens, the first of which ended."""
    samples = engine.Samples([[1], [8, 9]], [[-0.5], [-1.0, -2.0]], [True, False])
    return assemble([[5, 6, 7], [4]], samples, 0, CPU)


def test_prompts_are_padded_on_the_left_and_responses_on_the_right(sampled):
    assert sampled.input_ids.tolist() == [[5, 6, 7, 1, 0], [0, 0, 4, 8, 9]]
    assert sampled.is_token.int().tolist() == [[1, 1, 1, 1, 0], [0, 0, 1, 1, 1]]
    assert sampled.is_response.tolist() == [[True, False], [True, True]]
    assert sampled.old_logprobs.tolist() == [[-0.5, 0.0], [-1.0, -2.0]]
    assert sampled.ended.tolist() == [True, False]
    assert sampled.response_ids == [[1], [8, 9]]


def test_chosen_rows_lose_the_columns_that_are_padding_in_all_of_them(sampled):
    first, second = sampled.rows(torch.tensor([0])), sampled.rows(torch.tensor([1]))

    assert first.input_ids.tolist() == [[5, 6, 7, 1]] and first.is_response.tolist() == [[True]]
    assert second.input_ids.tolist() == [[4, 8, 9]] and second.old_logprobs.tolist() == [[-1.0, -2.0]]
    assert sampled.rows(torch.tensor([1, 0])).input_ids.tolist() == [[0, 0, 4, 8, 9], [5, 6, 7, 1, 0]]


def test_sequences_join_prompt_and_response_and_pad_on_the_right_alone(sampled):
    ids, is_response = sampled.sequences()

    assert ids.tolist() == [[5, 6, 7, 1], [4, 8, 9, 0]]
    assert is_response.int().tolist() == [[0, 0, 0, 1], [0, 1, 1, 0]]


def test_numbers_of_response_tokens_go_to_their_places_and_their_gradients_come_back(sampled):
    numbers = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)

    spread = sampled.spread(numbers)
    (spread * torch.tensor([[1.0, 10.0], [20.0, 30.0]])).sum().backward()

    assert spread.tolist() == [[1.0, 0.0], [2.0, 3.0]]
    assert numbers.grad.tolist() == [1.0, 20.0, 30.0]


def of_lengths(prompts, responses):
    samples = engine.Samples([[1] * n for n in responses], [[0.0] * n for n in responses], [True] * len(responses))
    return assemble([[5] * n for n in prompts], samples, 0, CPU)


def test_groups_hold_every_row_once_no_more_than_asked_for_and_put_like_lengths_together():
    four = of_lengths([1, 1, 1, 1], [1, 9, 1, 9])

    assert [rows.tolist() for rows in four.groups(2)] == [[0, 2], [1, 3]]
    assert [rows.tolist() for rows in four.groups(1)] == [[0], [2], [1], [3]]
    assert [rows.tolist() for rows in four.groups(2, torch.tensor([3, 0]))] == [[0], [3]]


@pytest.mark.parametrize("seed", range(3))
def test_under_a_tenth_of_what_is_computed_is_padding_also_of_one_small_minibatch(seed):
    draw = random.Random(seed)
    prompts = [min(500, max(4, int(draw.lognormvariate(3.3, 0.8)))) for _ in range(64)]  # median 27, some of hundreds
    responses = [min(48, 1 + int(draw.expovariate(1 / 20))) for _ in range(64)]
    whole = of_lengths(prompts, responses)

    groups = whole.groups(32)

    computed = sum(whole.rows(rows).sequences()[0].numel() for rows in groups)
    assert sorted(torch.cat(groups).tolist()) == list(range(64))
    assert sum(prompts) + sum(responses) > 0.9 * computed
    assert len(groups) < 32  # and not each row on its own


def test_the_kl_of_a_response_is_the_sum_of_its_log_ratios(sampled):
    zeros = torch.zeros(2, 2)
    ref_logprobs = torch.tensor([[-1.5, 0.0], [-1.5, -2.25]])
    judged = Rollouts(
        **vars(sampled),
        engine_logprobs=zeros,
        entropy=zeros,
        ref_logprobs=ref_logprobs,
        scores=torch.zeros(2),
        values=zeros,
    )

    assert judged.kl.tolist() == [1.0, 0.75]  # -0.5 + 1.5; (-1 + 1.5) + (-2 + 2.25)


def test_padding_on_the_right_keeps_the_type():
    ids, is_there = padded_right([[1, 2], [3]], 0, CPU)

    assert ids.tolist() == [[1, 2], [3, 0]] and ids.dtype == torch.long
    assert is_there.tolist() == [[True, True], [True, False]]


@pytest.fixture
def drawn(policy, words):
    """Sixteen real responses of the micro policy."""
    prompts = [words("What do cats eat?").input_ids, words("Cats").input_ids] * 8
    return sample(policy, words, prompts, Sampling(10, 0.8, 16), torch.Generator().manual_seed(0)), prompts


@pytest.fixture
def scalar(saved_policy, words):
    torch.manual_seed(1)
    return model.scalar_from_policy(saved_policy, words).eval()


def test_the_engine_and_a_forward_pass_agree_about_what_was_sampled(drawn, policy):
    rolled, _ = drawn

    torch.testing.assert_close(logprobs(policy, rolled, temperature=0.8, microbatch=5), rolled.old_logprobs)


def test_log_probs_at_another_temperature_are_others(drawn, policy):
    rolled, _ = drawn

    assert (
        engine.largest_gap(
            rolled.old_logprobs, logprobs(policy, rolled, temperature=1.0, microbatch=5), rolled.is_response
        )
        > 0.01
    )


def test_log_probs_in_the_same_microbatches_are_equal_to_the_last_bit(drawn, policy):
    rolled, _ = drawn
    groups = rolled.groups(5)

    alone = logprobs_in(groups, policy, rolled, temperature=0.8)
    again, entropy = logprobs_and_entropy_in(groups, policy, rolled, temperature=0.8)

    part = rolled.rows(groups[0])
    assert torch.equal(response_logprobs(policy, part, 0.8), alone[groups[0], : part.is_response.shape[1]])
    torch.testing.assert_close(again, alone)
    assert not entropy[~rolled.is_response].any() and entropy[rolled.is_response].min() > 0


def test_the_value_of_a_token_is_read_before_it_is_chosen(drawn, scalar):
    rolled, prompts = drawn
    values = values_in(rolled.groups(5), scalar, rolled)
    with torch.no_grad():
        ids = torch.tensor([prompts[0] + rolled.response_ids[0]])
        alone = model.token_values(scalar, ids, torch.ones_like(ids))[0]

    length, start = len(rolled.response_ids[0]), len(prompts[0])
    torch.testing.assert_close(values[0, :length], alone[start - 1 : -1], atol=1e-5, rtol=1e-5)
    assert not values[~rolled.is_response].any()


def test_scores_do_not_depend_on_the_microbatch(drawn, scalar, words):
    rolled, prompts = drawn
    texts = rolled.texts(words)

    together, alone = (scores(scalar, words, prompts, texts, microbatch=size) for size in (5, 1))

    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_a_score_is_read_at_the_end_of_the_response(drawn, scalar, words):
    _, prompts = drawn
    ids = torch.tensor([[*prompts[0], *words("Fish.").input_ids, words.eos_token_id]])

    found = scores(scalar, words, [prompts[0], prompts[1]], ["Fish.", "Fish and water, every day."], microbatch=2)

    torch.testing.assert_close(found[0], model.token_values(scalar, ids, torch.ones_like(ids))[0, -1])


def test_the_reward_model_does_not_see_special_tokens_that_nobody_reads(drawn, words):
    _, prompts = drawn
    ids = words("Fish.").input_ids
    hidden = [words.convert_tokens_to_ids("<|user|>"), *ids, words.pad_token_id, words.eos_token_id]
    one = assemble(prompts[:1], engine.Samples([hidden], [[0.0] * len(hidden)], [True]), words.pad_token_id, CPU)

    assert one.texts(words) == ["Fish."]


def test_the_offset_of_a_reward_model_is_taken_off_its_scores(drawn, scalar, words):
    _, prompts = drawn
    before = scores(scalar, words, prompts[:1], ["Fish."], microbatch=1)
    scalar.config.score_offset = 2.5

    after = scores(scalar, words, prompts[:1], ["Fish."], microbatch=1)

    torch.testing.assert_close(after, before - 2.5)
