import pytest
import torch

from training import engine, model, rollouts
from training.rollouts import Rollouts, Sampling, assemble, judge, padded_right, sample, scores

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


def test_batches_hold_every_row_once_and_put_like_lengths_together(sampled):
    samples = engine.Samples([[1], [1] * 9, [1, 1], [1] * 8], [[0.0], [0.0] * 9, [0.0] * 2, [0.0] * 8], [True] * 4)
    four = assemble([[5]] * 4, samples, 0, CPU)

    assert [rows.tolist() for rows in four.batches(torch.arange(4), 2)] == [[0, 2], [3, 1]]


def test_the_kl_of_a_response_is_the_sum_of_its_log_ratios(sampled):
    zeros = torch.zeros(2, 2)
    ref_logprobs = torch.tensor([[-1.5, 0.0], [-1.5, -2.25]])
    judged = Rollouts(**vars(sampled), ref_logprobs=ref_logprobs, scores=torch.zeros(2), values=zeros)

    assert judged.kl.tolist() == [1.0, 0.75]  # -0.5 + 1.5; (-1 + 1.5) + (-2 + 2.25)


def test_padding_on_the_right_keeps_the_type():
    ids, is_there = padded_right([[1, 2], [3]], 0, CPU)

    assert ids.tolist() == [[1, 2], [3, 0]] and ids.dtype == torch.long
    assert is_there.tolist() == [[True, True], [True, False]]


@pytest.fixture
def judged(policy, words, saved_policy):
    """Sixteen real responses of the micro policy, judged by itself as the reference and by two scalar models."""
    prompts = [words("What do cats eat?").input_ids, words("Cats").input_ids] * 8
    drawn = sample(policy, words, prompts, Sampling(10, 0.8, 16), torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    reward_model, value_model = (model.scalar_from_policy(saved_policy, words).eval() for _ in range(2))
    models = {"reference": policy, "reward_model": reward_model, "value_model": value_model}
    return judge(drawn, words, prompts, **models, temperature=0.8, microbatch=5), models, prompts


def test_the_policy_as_its_own_reference_has_a_kl_of_zero(judged):
    rolled, _, _ = judged

    torch.testing.assert_close(rolled.kl, torch.zeros(16), atol=1e-4, rtol=0)


def test_the_value_of_a_token_is_read_before_it_is_chosen(judged):
    rolled, models, prompts = judged
    with torch.no_grad():
        ids = torch.tensor([prompts[0] + rolled.response_ids[0]])
        alone = model.token_values(models["value_model"], ids, torch.ones_like(ids))[0]

    length, start = len(rolled.response_ids[0]), len(prompts[0])
    torch.testing.assert_close(rolled.values[0, :length], alone[start - 1 : -1], atol=1e-5, rtol=1e-5)
    assert not rolled.values[~rolled.is_response].any()


def test_scores_do_not_depend_on_the_microbatch(judged, words):
    rolled, models, prompts = judged

    alone = scores(models["reward_model"], words, prompts, rolled.texts(words), microbatch=1)

    torch.testing.assert_close(rolled.scores, alone, atol=1e-5, rtol=1e-5)


def test_the_reward_model_does_not_see_special_tokens_that_nobody_reads(judged, words):
    _, models, prompts = judged
    ids = words("Fish.").input_ids
    hidden = [words.convert_tokens_to_ids("<|user|>"), *ids, words.pad_token_id, words.eos_token_id]
    drawn = assemble(prompts[:1], engine.Samples([hidden], [[0.0] * len(hidden)], [True]), words.pad_token_id, CPU)

    assert drawn.texts(words) == ["Fish."]


def test_the_offset_of_a_reward_model_is_taken_off_its_scores(judged, words):
    _, models, prompts = judged
    before = scores(models["reward_model"], words, prompts[:1], ["Fish."], microbatch=1)
    models["reward_model"].config.score_offset = 2.5

    after = scores(models["reward_model"], words, prompts[:1], ["Fish."], microbatch=1)

    torch.testing.assert_close(after, before - 2.5)


def test_rows_of_a_batch_give_the_same_logprobs_as_the_whole(judged):
    rolled, models, _ = judged
    part = rolled.rows(torch.tensor([3, 0]))

    found = rollouts.logprobs(models["reference"], part, temperature=0.8, microbatch=2)

    torch.testing.assert_close(found, part.old_logprobs, atol=1e-4, rtol=0)
