"""The losses of a reward model, their numbers worked out by hand."""

import math

import pytest
import torch

from training.ranking import (
    by_response,
    decided_pairs,
    pairs_right,
    rank_gaps,
    ranking_losses,
    rating_gaps,
    theta_of,
    tied_pairs,
)

LOG_2, LOG_3 = math.log(2), math.log(3)


def loss(scores, ranks, **options):
    return ranking_losses(torch.tensor([scores]), torch.tensor([ranks]), **options).item()


def test_a_ranking_of_four_gives_six_pairs_and_a_tie_one_fewer():
    assert decided_pairs(torch.tensor([[2, 1, 4, 3]])).sum() == 6
    assert decided_pairs(torch.tensor([[2, 1, 2, 3]])).sum() == 5


def test_a_response_without_a_rank_is_in_no_pair():
    ranks = torch.tensor([[1, 0, 2, 0, 1]])

    decided, tied = decided_pairs(ranks), tied_pairs(ranks)

    assert decided.nonzero().tolist() == [[0, 0, 2], [0, 4, 2]]
    assert tied.nonzero().tolist() == [[0, 0, 4]]  # once, and the two without a rank are no tie


def test_the_ranking_loss_is_the_mean_over_the_pairs_of_each_ranking():
    scores = torch.tensor([[1.0, 0.0, 3.0], [0.0, 2.0, 9.0]])
    ranks = torch.tensor([[1, 2, 3], [1, 2, 0]])

    # first ranking: margins 1, -2, -3 -> log(1 + e^-1), log(1 + e^2), log(1 + e^3) = 0.313262, 2.126928, 3.048587,
    # mean 1.829592; second: one pair, margin -2 -> 2.126928
    torch.testing.assert_close(ranking_losses(scores, ranks), torch.tensor([1.829592, 2.126928]))


def test_ignored_ties_cost_nothing_and_move_no_score():
    scores = torch.tensor([[1.0, 0.0], [0.0, 0.0]], requires_grad=True)

    losses = ranking_losses(scores, torch.tensor([[1, 1], [1, 2]]))
    losses.sum().backward()

    assert losses.tolist() == [0.0, pytest.approx(LOG_2)]
    assert scores.grad.tolist() == [[0.0, 0.0], [-0.5, 0.5]]


def test_a_tie_as_half_a_win_of_each_costs_least_at_equal_scores():
    # d = log 3: sigmoid = 3/4 and 1/4, so -(log 3/4 + log 1/4) / 2 = (log 4/3 + log 4) / 2 = log 4 - log 3 / 2
    assert loss([LOG_3, 0.0], [1, 1], ties="half") == pytest.approx(2 * LOG_2 - LOG_3 / 2)
    assert loss([0.0, 0.0], [1, 1], ties="half") == pytest.approx(LOG_2)


def test_a_tie_counts_as_one_pair_of_its_ranking():
    # scores log 3, log 3, 0 and the first two tied: the tie costs log 2, each win over the third -log 3/4
    assert loss([LOG_3, LOG_3, 0.0], [1, 1, 2], ties="half") == pytest.approx((LOG_2 + 2 * math.log(4 / 3)) / 3)


def test_rao_and_kuppers_win_tie_and_loss_add_up_to_one():
    # theta 2, worths 3 and 1: P(win) = 3 / (3 + 2), P(loss) = 1 / (1 + 6), P(tie) = (4 - 1) * 3 / (5 * 7) = 9/35
    win, tie, lose = (loss([LOG_3, 0.0], ranks, ties="rao-kupper", theta=2.0) for ranks in ([1, 2], [1, 1], [2, 1]))

    assert win == pytest.approx(-math.log(3 / 5), abs=1e-6)
    assert tie == pytest.approx(-math.log(9 / 35), abs=1e-6)
    assert lose == pytest.approx(-math.log(1 / 7), abs=1e-6)
    assert math.exp(-win) + math.exp(-tie) + math.exp(-lose) == pytest.approx(1.0, abs=1e-6)


def test_a_tie_pulls_unequal_scores_together():
    scores = torch.tensor([[1.0, 0.0]], requires_grad=True)

    ranking_losses(scores, torch.tensor([[1, 1]]), ties="rao-kupper", theta=1.5).sum().backward()

    assert scores.grad[0, 0] > 0 > scores.grad[0, 1]  # a step against the gradient brings them nearer


def test_with_theta_one_and_no_tie_rao_and_kupper_are_bradley_and_terry():
    assert loss([1.0, 0.0, 3.0], [1, 2, 3], ties="rao-kupper") == loss([1.0, 0.0, 3.0], [1, 2, 3])


def test_theta_makes_responses_of_equal_worth_tie_as_often_as_they_did():
    assert theta_of(0.0) == 1.0
    assert theta_of(0.2) == pytest.approx(1.5)
    assert math.exp(-loss([0.0, 0.0], [1, 1], ties="rao-kupper", theta=1.5)) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="share of ties is 1"):
        theta_of(1.0)


def test_a_tie_that_theta_makes_impossible_is_refused():
    with pytest.raises(ValueError, match="theta is 1.0; with ties it must be above 1"):
        loss([0.0, 0.0], [1, 1], ties="rao-kupper")


def test_an_unknown_way_with_ties_is_refused():
    with pytest.raises(ValueError, match="ties is 'drop'"):
        loss([0.0, 0.0], [1, 1], ties="drop")


def test_a_margin_asks_for_a_wider_lead_of_each_decided_pair():
    margins = 0.5 * rank_gaps(torch.tensor([[1, 3]]))  # two ranks apart: 1 in all

    # a lead of 1 + log 3 less the margin of 1 is log 3: -log 3/4
    assert loss([1 + LOG_3, 0.0], [1, 3], margins=margins) == pytest.approx(math.log(4 / 3), abs=1e-6)


def test_rank_gaps_stand_where_one_is_better():
    assert rank_gaps(torch.tensor([[2, 1, 0, 4]])).tolist() == [
        [[0, 0, 0, 2], [1, 0, 0, 3], [0, 0, 0, 0], [0, 0, 0, 0]]
    ]


def test_rating_gaps_are_above_zero_and_need_two_ratings():
    assert rating_gaps(torch.tensor([[6.0, math.nan, 3.5]])).tolist() == [[[0, 0, 2.5], [0, 0, 0], [0, 0, 0]]]


def test_equal_scores_are_half_right():
    right = pairs_right(torch.tensor([[2.0, 2.0, 1.0]]), torch.tensor([[1, 2, 3]]))

    assert right.tolist() == [2.5]  # 1 beats 3 and 2 beats 3; the scores of 1 and 2 are equal


def test_rankings_with_fewer_responses_are_filled_up():
    assert by_response([(1, 2, 3), (2, 1)], 0).tolist() == [[1, 2, 3], [2, 1, 0]]
