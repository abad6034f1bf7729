import math

import pytest
import torch

from training.losses import (
    clipped_policy_loss,
    clipped_share,
    clipped_value_loss,
    decided_pairs,
    masked_mean,
    pairs_right,
    pairwise_ranking_loss,
)


def test_a_masked_mean_ignores_what_is_not_in_the_mask():
    values = torch.tensor([[1.0, 5.0, float("nan")]])

    assert masked_mean(values, torch.tensor([[True, True, False]])).item() == 3.0


def test_a_masked_mean_over_nothing_is_zero():
    assert masked_mean(torch.ones(2), torch.zeros(2, dtype=torch.bool)).item() == 0.0


def test_a_ranking_of_four_gives_six_pairs_and_a_tie_one_fewer():
    assert decided_pairs(torch.tensor([[2, 1, 4, 3]])).sum() == 6
    assert decided_pairs(torch.tensor([[2, 1, 2, 3]])).sum() == 5


def test_a_response_without_a_rank_is_in_no_pair():
    pairs = decided_pairs(torch.tensor([[1, 0, 2]]))

    assert pairs.sum() == 1 and pairs[0, 0, 2]


def test_the_ranking_loss_is_the_mean_over_pairs_then_over_rankings():
    scores = torch.tensor([[1.0, 0.0, 3.0], [0.0, 2.0, 9.0]])
    ranks = torch.tensor([[1, 2, 3], [1, 2, 0]])

    # first ranking: margins 1, -2, -3 -> log(1 + e^-1), log(1 + e^2), log(1 + e^3) = 0.313262, 2.126928, 3.048587,
    # mean 1.829592; second: one pair, margin -2 -> 2.126928. Were all pairs pooled, the mean would be 1.903926.
    torch.testing.assert_close(pairwise_ranking_loss(scores, ranks), torch.tensor((1.829592 + 2.126928) / 2))


def test_a_ranking_of_ties_alone_counts_for_nothing():
    scores = torch.tensor([[1.0, 0.0], [0.0, 0.0]])

    loss = pairwise_ranking_loss(scores, torch.tensor([[1, 1], [1, 2]]))

    assert loss.item() == pytest.approx(math.log(2))


def test_a_batch_of_ties_alone_has_no_loss_and_no_gradient():
    scores = torch.tensor([[1.0, 0.0]], requires_grad=True)

    loss = pairwise_ranking_loss(scores, torch.tensor([[1, 1]]))
    loss.backward()

    assert loss.item() == 0.0 and scores.grad.tolist() == [[0.0, 0.0]]


def test_equal_scores_are_half_right():
    right = pairs_right(torch.tensor([[2.0, 2.0, 1.0]]), torch.tensor([[1, 2, 3]]))

    assert right.tolist() == [2.5]  # 1 beats 3 and 2 beats 3; 1 against 2 is undecided


def test_the_policy_loss_takes_the_worse_of_clipped_and_not():
    ratio = torch.tensor([[1.5, 0.5, 1.5, 0.5, 7.0]])
    advantages = torch.tensor([[1.0, 1.0, -1.0, -1.0, 100.0]])
    is_response = torch.tensor([[True, True, True, True, False]])

    loss = clipped_policy_loss(ratio.log(), torch.zeros(1, 5), advantages, is_response, clip=0.2)

    # max(-1.5, -1.2) = -1.2; max(-0.5, -0.8) = -0.5; max(1.5, 1.2) = 1.5; max(0.5, 0.8) = 0.8; padding left out
    torch.testing.assert_close(loss, torch.tensor((-1.2 - 0.5 + 1.5 + 0.8) / 4))


def test_padding_that_would_overflow_leaves_the_policy_gradient_finite():
    logprobs = torch.tensor([[0.0, 1e4]], requires_grad=True)

    clipped_policy_loss(
        logprobs, torch.zeros(1, 2), torch.ones(1, 2), torch.tensor([[True, False]]), clip=0.2
    ).backward()

    assert logprobs.grad.tolist() == [[-1.0, 0.0]]


def test_the_clipped_share_counts_response_tokens_alone():
    ratio = torch.tensor([[1.5, 1.1, 0.7, 9.0]])
    is_response = torch.tensor([[True, True, True, False]])

    share = clipped_share(ratio.log(), torch.zeros(1, 4), is_response, clip=0.2)

    assert share.item() == pytest.approx(2 / 3)


def test_the_value_loss_takes_the_worse_of_clipped_and_not():
    values, old_values, returns = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 0.9]]), torch.tensor([[1.0, 0.0]])

    loss = clipped_value_loss(values, old_values, returns, torch.tensor([[True, True]]), clip=0.2)

    # moved from 0 to 1: clipped to 0.2, (0.2 - 1)^2 = 0.64; moved from 0.9 to 1: not clipped, 1. Half of the mean.
    torch.testing.assert_close(loss, torch.tensor(0.5 * (0.64 + 1.0) / 2))
