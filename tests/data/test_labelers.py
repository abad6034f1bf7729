"""What labels say of labelers: every expected number was worked out by hand."""

import pytest

from data.agreement import wilson
from data.labelers import agreement_by_labeler, as_json, effect, excludes_even, match


def test_agreement_is_summed_over_everyone_else_and_every_task():
    # the first task: 2 of 3 pairs of responses. The second: tie against first 0.5, first and first 1, first against
    # tie 0.5, so 2 of 3 as well
    found = agreement_by_labeler([{"ana": [1, 2, 3], "ben": [1, 3, 2]}, {"ana": [1, 1, 2], "cem": [1, 2, 2]}])

    assert {labeler: (share.value, share.n) for labeler, share in found.items()} == {
        "ana": (pytest.approx(4 / 6), 6),
        "ben": (pytest.approx(2 / 3), 3),
        "cem": (pytest.approx(2 / 3), 3),
    }


def test_with_three_labelers_each_is_held_against_both_others():
    found = agreement_by_labeler([{"ana": [1, 2], "ben": [1, 2], "cem": [2, 1]}])

    assert [(found[name].value, found[name].n) for name in ("ana", "ben", "cem")] == [(0.5, 2), (0.5, 2), (0.0, 2)]


def test_who_ranked_alone_or_found_everything_unrankable_has_no_agreement():
    assert agreement_by_labeler([{"ana": [1, 2]}, {"ben": [1, None], "cem": [1, 2]}]) == {}


def test_the_interval_of_agreement_takes_the_pairs_of_a_task_as_one_cluster():
    # ana agrees wholly on one task (3 of 3) and not at all on the other (0 of 3): residuals 1.5 and -1.5, variance
    # 2 / 1 * 4.5 / 36 = 0.25, which is that of 0.25 / 0.25 = one independent pair
    found = agreement_by_labeler([{"ana": [1, 2, 3], "ben": [1, 2, 3]}, {"ana": [1, 2, 3], "cem": [3, 2, 1]}])

    assert found["ana"].interval == pytest.approx(wilson(0.5, 1))
    assert found["ben"].interval == pytest.approx(wilson(1, 1))  # one task tells as much as one pair


def test_a_match_with_gold_counts_a_tie_for_half():
    share = match([([1, 2], [1, 2]), ([1, 1], [1, 2]), ([2, 1], [1, 2])])

    # residuals 0.5, 0, -0.5: variance 3 / 2 * 0.5 / 9 = 1 / 12, that of 0.25 * 12 = three independent pairs
    assert (share.value, share.n) == (0.5, 3)
    assert share.interval == pytest.approx(wilson(1.5, 3))


def test_a_match_with_nothing_is_no_number():
    assert as_json(match([])) == {"value": None, "interval": None, "pairs": 0}


def test_the_earlier_of_two_wins_where_the_ranks_say_so():
    assert effect([((1, 2, 3), range(3), 1)]).value == 1.0
    assert effect([((3, 2, 1), range(3), 1)]).value == 0.0
    assert effect([((2, 1, 3), range(3), 1)]).value == pytest.approx(2 / 3)


def test_ties_unrankable_responses_and_equal_keys_are_no_pairs_of_an_effect():
    tied = effect([((1, 1, None, 2), range(4), 1)])  # the first two each beat the last; their tie decides nothing
    equal = effect([((2, 1, 3), (0, 0, 2), 1)])  # two of one length: only their pairs with the third count

    assert (tied.value, tied.n) == (1.0, 2)
    assert (equal.value, equal.n) == (1.0, 2)


def test_rankings_counted_together_are_the_same_as_one_by_one():
    together = effect([((1, 2), (0, 1), 3), ((2, 1), (0, 1), 1)])

    assert together == effect([((1, 2), (0, 1), 1)] * 3 + [((2, 1), (0, 1), 1)])
    assert (together.value, together.n) == (0.75, 4)


@pytest.mark.parametrize("won, sways", [(59, False), (60, True)])
def test_an_effect_is_a_warning_where_its_interval_leaves_even_chances_out(won, sways):
    # of 100 rankings of two: a share of 0.60 has an interval from 0.502, one of 0.59 from 0.491
    share = effect([((1, 2), (0, 1), won), ((2, 1), (0, 1), 100 - won)])

    assert excludes_even(share) is sways
    assert as_json(share, even=True)["warning"] is sways


def test_nobody_is_warned_of_an_effect_without_pairs():
    assert as_json(effect([]), even=True) == {"value": None, "interval": None, "pairs": 0, "warning": False}
