"""The measures of a reward model, their numbers worked out by hand."""

import hashlib
import math

import pytest

from training import calibration
from training.calibration import (
    Judged,
    Pair,
    accuracy,
    against_agreement,
    best_temperature,
    by_distance,
    by_margin,
    by_policies,
    calibration_error,
    ceiling_of,
    decided,
    kendall_tau,
    leak_warning,
    length_correlation,
    mean_kendall_tau,
    of_heldout,
    score_gap,
    tie_share,
)

LOG_3 = math.log(3)  # sigmoid(log 3) = 3/4
SIGNS = (1, 1, 1, -1)


def judged(prompt="a", ranks=(1, 2), scores=(1.0, 0.0), lengths=None, sources=None, labeler="ana"):
    return Judged(prompt, ranks, scores, lengths or (1,) * len(ranks), sources or ("sft",) * len(ranks), labeler)


def pair(margin, prompt="a", distance=1, sources=("sft", "sft"), labeler="ana"):
    return Pair(prompt, margin, distance, sources, labeler)


def test_pairs_are_the_better_against_the_worse_without_ties_and_the_unranked():
    one = judged(ranks=(3, 1, 1, 0), scores=(0.5, 2.0, -1.0, 9.0), sources=("ppo", "sft", "base", "sft"))

    assert decided([one]) == [
        Pair("a", 1.5, 2, ("ppo", "sft"), "ana"),  # in the order of the alphabet, whoever won
        Pair("a", -1.5, 2, ("base", "ppo"), "ana"),
    ]
    assert tie_share([one]) == pytest.approx(1 / 3)


def test_accuracy_counts_pairs_and_its_error_is_clustered_by_prompt():
    rankings = [judged("a", (1, 2, 3), (3.0, 2.0, 1.0)), judged("b", (1, 2), (0.0, 1.0))]

    share, error = accuracy(decided(rankings))

    # prompt a: 3 of 3 pairs right, prompt b: 0 of 1; residuals 3 - 0.75*3 = 0.75 and 0 - 0.75 = -0.75
    assert share == 0.75
    assert error == pytest.approx(math.sqrt((0.75**2 + 0.75**2) * 2 / 1) / 4)


def test_two_rankings_of_one_prompt_say_nothing_of_the_spread_between_prompts():
    assert accuracy([pair(1.0), pair(-1.0)]) == (0.5, None)


def test_equal_scores_are_half_right_and_without_a_pair_there_is_no_accuracy():
    assert accuracy([pair(0.0), pair(2.0, "b")])[0] == 0.75
    assert accuracy([]) == (None, None)
    assert tie_share([]) is None


def test_the_accuracy_is_told_apart_by_the_distance_of_the_ranks():
    found = by_distance([pair(1.0, distance=1), pair(-1.0, distance=1), pair(1.0, distance=3)])

    assert {distance: (row["accuracy"], row["pairs"]) for distance, row in found.items()} == {
        "1": (0.5, 2),
        "3": (1.0, 1),
    }


def test_the_accuracy_is_told_apart_by_how_sure_the_model_is():
    found = by_margin([pair(LOG_3), pair(-0.0), pair(0.0), pair(-LOG_3)], bins=2)

    assert (found["1"]["from"], found["1"]["to"], found["1"]["expected"], found["1"]["accuracy"]) == (0, 0, 0.5, 0.5)
    assert found["2"]["expected"] == pytest.approx(0.75) and found["2"]["accuracy"] == 0.5


def test_the_accuracy_is_told_apart_by_who_wrote_the_two():
    pairs = [pair(1.0, sources=("ppo", "sft"))] * 3 + [pair(-1.0)] * 2 + [pair(1.0, sources=("base", "sft"))]

    found = by_policies(pairs, most=2)

    assert list(found) == ["ppo / sft", "sft / sft", "other"]
    assert [row["accuracy"] for row in found.values()] == [1.0, 0.0, 1.0]


def test_kendalls_tau_of_a_ranking_with_a_tie():
    # ranks 1 2 2 3, scores 4 3 1 2: of the five pairs not tied in rank four agree and one (1 against 2) does not;
    # all six scores differ: (4 - 1) / sqrt(5 * 6)
    assert kendall_tau((1, 2, 2, 3), (4.0, 3.0, 1.0, 2.0)) == pytest.approx(3 / math.sqrt(30))
    assert kendall_tau((1, 2, 3), (3.0, 2.0, 1.0)) == 1.0
    assert kendall_tau((1, 2, 0), (1.0, 2.0, 9.0)) == -1.0
    assert kendall_tau((1, 1), (1.0, 2.0)) is None


def test_rankings_without_a_tau_are_left_out_of_the_mean():
    assert mean_kendall_tau([judged(), judged(ranks=(1, 1)), judged(scores=(0.0, 1.0))]) == 0.0
    assert mean_kendall_tau([judged(ranks=(1, 1))]) is None


def test_the_calibration_error_is_the_distance_of_accuracy_and_confidence():
    # the model says 3/4 of each. The two bins: half of the first are right, all of the second: |1/2 - 3/4| and
    # |1 - 3/4|, the mean of both 1/4
    assert calibration_error([LOG_3, -LOG_3, LOG_3, LOG_3], bins=2) == pytest.approx(0.25)
    # one bin: 3 of 4 are right, as the model says
    assert calibration_error([LOG_3, -LOG_3, LOG_3, LOG_3], bins=1) == pytest.approx(0.0)
    assert calibration_error([1.0], bins=2) is None


def test_the_bins_of_the_calibration_error_go_by_confidence():
    # the sure ones, 3/4, are both right, the unsure ones, 1/2, one of two: |1 - 3/4| and |1/2 - 1/2|
    assert calibration_error([LOG_3, 0.0, LOG_3, 0.0], bins=2) == pytest.approx(0.125)


def test_a_calibration_error_takes_enough_pairs():
    assert calibration.calibration([pair(LOG_3)] * 149)["calibration_error"] is None
    assert calibration.calibration([pair(LOG_3)] * 150)["calibration_error"] == pytest.approx(0.25)


def test_many_rankings_of_two_prompts_are_still_two_prompts():
    # the error is at least sqrt(.9 * .1 / 2) = .21: all right is no leak
    rankings = [judged(prompt) for prompt in "ab" for _ in range(50)]

    assert against_agreement(rankings, {"decided": 0.82})["warning"] is None


def test_the_best_temperature_makes_the_confidence_the_accuracy():
    # a margin of 2 log 3 that is right three times in four: sigmoid(2 log 3 / T) = 3/4 at T = 2
    assert best_temperature([2 * LOG_3, 2 * LOG_3, 2 * LOG_3, -2 * LOG_3]) == pytest.approx(2.0)


def test_scores_that_are_always_or_never_right_have_no_best_temperature():
    assert best_temperature([1.0, 2.0]) is None
    assert best_temperature([1.0, -2.0]) is None
    assert best_temperature([]) is None


def test_the_temperature_is_fitted_on_half_of_the_prompts_and_tried_on_the_other():
    names = sorted((f"p{n}" for n in range(80)), key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    # three of four pairs are right; of the first half of the prompts the model says 9/10, of the second 3/4
    pairs = [
        pair(sign * size * LOG_3, name)
        for size, half in ((2, names[:40]), (1, names[40:]))
        for name in half
        for sign in SIGNS
    ]

    found = calibration.calibration(pairs)

    # the first half wants T = 2, at which the second says sigmoid(log 3 / 2) = 0.634: 0.116 too little. Bins of 10, 11
    # pairs are not right in three of four exactly, which adds a little.
    assert found["temperature"] == pytest.approx(2.0)
    assert found["calibration_error_before"] < 0.06
    assert found["calibration_error_after"] == pytest.approx(0.116, abs=0.02)
    # over all pairs: 0.15 on the first half, next to nothing on the second
    assert found["calibration_error"] == pytest.approx(0.075, abs=0.02)


def test_too_few_pairs_have_no_calibration():
    assert set(calibration.calibration([pair(1.0), pair(-1.0)]).values()) == {None}


def test_the_length_correlation_is_taken_within_rankings():
    # between the two prompts longer goes with more, within each with less
    rankings = [
        judged("a", scores=(1.0, 0.0), lengths=(10, 20)),
        judged("b", scores=(11.0, 10.0), lengths=(110, 120)),
    ]

    assert length_correlation(rankings) == pytest.approx(-1.0)
    assert length_correlation([judged(lengths=(5, 5))]) is None


def test_the_score_gap_is_in_standard_deviations():
    # scores 3, 1, 2, 2: margins 2 and 0, mean 1; variance (1 + 1 + 0 + 0) / 4
    rankings = [judged("a", scores=(3.0, 1.0)), judged("b", scores=(2.0, 2.0))]

    assert score_gap(rankings) == pytest.approx(1 / math.sqrt(0.5))
    assert score_gap([]) is None


def test_labelers_who_were_not_trained_on_are_measured_apart():
    rankings = [judged("a"), judged("b", scores=(0.0, 1.0), labeler="ben"), judged("c", labeler="ben")]

    found = of_heldout(rankings, {"ana"})

    assert found["heldout_accuracy"] == pytest.approx(2 / 3) and found["heldout_pairs"] == 3
    assert found["unseen_labelers_accuracy"] == 0.5 and found["unseen_labelers_pairs"] == 2


def test_picking_the_longer_is_scored_like_a_model():
    rankings = [judged("a", lengths=(9, 4)), judged("b", lengths=(1, 2)), judged("c", lengths=(3, 3))]

    assert of_heldout(rankings, set())["longer_wins"] == 0.5  # right, wrong, half


def test_two_labels_that_agree_82_percent_cap_a_perfect_judge_at_90():
    assert ceiling_of(0.82) == pytest.approx(0.9)  # 0.9^2 + 0.1^2 = 0.82
    assert ceiling_of(0.4) == 0.5  # worse than chance is chance
    assert ceiling_of(None) is None


def test_an_accuracy_that_no_honest_judge_reaches_is_called_a_leak():
    assert leak_warning(0.94, 0.01, 0.9) is not None
    assert leak_warning(0.92, 0.01, 0.9) is None
    assert leak_warning(0.925, 0.01, 0.9) is None  # two and a half errors above are no alarm yet
    assert leak_warning(0.94, 0.01, None) is None


def test_the_ceiling_comes_from_the_pairs_that_both_labelers_decided():
    rankings = [judged("a"), judged("b")]

    found = against_agreement(rankings, {"pairwise": 0.6, "decided": 0.82})

    assert found["agreement"] == 0.82 and found["ceiling"] == pytest.approx(0.9)
    assert against_agreement(rankings, {"pairwise": 0.82, "decided": None})["agreement"] == 0.82
    assert against_agreement(rankings, {}) == {"agreement": None, "ceiling": None, "warning": None}


def test_only_many_prompts_that_are_all_right_are_called_a_leak():
    agreement = {"pairwise": 0.82, "decided": 0.82}

    # under a ceiling of 0.9, 100 prompts are right by chance to 0.9 +- 0.03, so 1.0 is more than 3 errors above it
    assert against_agreement([judged(f"p{n}") for n in range(100)], agreement)["warning"] is not None
    assert against_agreement([judged("a"), judged("b")], agreement)["warning"] is None
