"""Agreement: every expected number was worked out by hand or is Krippendorff's own."""

import pytest

from data.agreement import Tally, alpha, identical, pairwise, summary, wilson


def test_two_labelers_who_swap_two_of_three_responses_agree_on_two_pairs_of_three():
    aware, decided = pairwise([[[1, 2, 3], [1, 3, 2]]])

    assert (aware.value, aware.n) == (pytest.approx(2 / 3), 3)
    assert decided == aware


def test_a_tie_against_a_choice_counts_half_and_is_no_decided_pair():
    aware, decided = pairwise([[[1, 1], [1, 2]]])

    assert (aware.value, aware.n) == (0.5, 1)
    assert (decided.value, decided.interval, decided.n) == (None, None, 0)


def test_two_ties_agree_wholly_and_decide_nothing():
    aware, decided = pairwise([[[2, 2], [1, 1]]])

    assert (aware.value, decided.n) == (1.0, 0)


def test_identical_answers_are_those_that_say_the_same_ties_included():
    # of the first task two pairs of three are alike; of the second a tie is beside a choice; of the third both are ties
    share = identical([[[1, 2, 3], [1, 3, 2]], [[1, 1], [1, 2]], [[1, 1], [2, 2]]])

    assert (share.value, share.n) == (3 / 5, 5)


def test_pairs_with_an_unrankable_response_are_left_out():
    aware, _ = pairwise([[[1, 2, None], [2, 1, 3]]])  # only the pair of the first two was ranked by both

    assert (aware.value, aware.n) == (0.0, 1)


def test_three_labelers_of_a_task_make_three_pairs_of_labels():
    aware, _ = pairwise([[[1, 2], [1, 2], [2, 1]], [[1, 2]]])  # agree, disagree, disagree; and one label alone

    assert (aware.value, aware.n) == (pytest.approx(1 / 3), 3)


def test_wilsons_interval_of_two_in_three():
    # z2 = 3.8415: centre (2/3 + z2/6) / (1 + z2/3) = 1.30691 / 2.28049, margin 1.95996 * sqrt(2/27 + z2/36) / 2.28049
    assert wilson(2, 3) == (pytest.approx(0.2077, abs=1e-4), pytest.approx(0.9385, abs=1e-4))


@pytest.mark.parametrize("successes, n", [(0, 5), (5, 5)])
def test_wilsons_interval_stays_between_nought_and_one(successes, n):
    low, high = wilson(successes, n)

    assert 0 <= low < high <= 1


def test_cases_of_one_cluster_tell_less_than_independent_ones():
    tally = Tally()
    tally.add(3, 3)
    tally.add(0, 3)

    # residuals 1.5 and -1.5: variance 2 / 1 * 4.5 / 36 = 0.25, that of one independent case. Wilson's for 0.5 of one:
    # centre 0.5, margin 1.95996 * sqrt(0.25 + 3.8415 / 4) / 4.8415
    assert tally.share().interval == (pytest.approx(0.0546, abs=1e-4), pytest.approx(0.9454, abs=1e-4))


def test_clusters_that_differ_as_independent_cases_would_have_wilsons_interval():
    tally = Tally()
    for successes in (3, 2, 1, 2):  # residuals 1, 0, -1, 0: variance 4 / 3 * 2 / 144, that of 12 independent cases
        tally.add(successes, 3)

    assert tally.share().interval == pytest.approx(wilson(8, 12))


def test_clusters_that_are_all_alike_are_worth_no_more_than_their_cases():
    tally = Tally()
    tally.add(2, 4, times=3)

    assert tally.share().interval == pytest.approx(wilson(6, 12))


@pytest.mark.parametrize("successes, clusters", [(2, 1), (3, 4), (0, 4)])
def test_one_cluster_or_unanimous_ones_count_once_each(successes, clusters):
    tally = Tally()
    tally.add(successes, 3, times=clusters)

    share = successes / 3
    assert tally.share().interval == pytest.approx(wilson(share * clusters, clusters))


def test_nominal_alpha_of_three_units():
    # coincidences 11: 2, 22: 2, 12 and 21: 1 each; observed 2, expected (3*3 + 3*3) / 5 = 3.6
    assert alpha([(1, 1), (1, 2), (2, 2)], "nominal").value == pytest.approx(1 - 2 / 3.6)


def test_ordinal_alpha_weighs_a_distance_by_the_values_between():
    # 1, 2, 3 occur 3, 2, 3 times: d(1,3) = (8 - 3)^2 = 25, d(1,2) = d(2,3) = (5 - 2.5)^2 = 6.25
    # observed 2 * 25 = 50, expected 2 * (3*2*6.25 + 3*3*25 + 2*3*6.25) / 7 = 600 / 7
    assert alpha([(1, 1), (1, 3), (2, 2), (3, 3)], "ordinal").value == pytest.approx(1 - 50 * 7 / 600)


@pytest.mark.parametrize("metric, published", [("nominal", 0.743), ("ordinal", 0.815)])
def test_alpha_with_missing_values_is_what_krippendorff_published(metric, published):
    no = None
    observers = [  # Krippendorff 2011, section C
        (1, 2, 3, 3, 2, 1, 4, 1, 2, no, no, no),
        (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, no, 3),
        (no, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, no),
        (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, no),
    ]

    assert alpha(zip(*observers, strict=True), metric).value == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize(
    "units, why",
    [([], "no response"), ([(1, None), (None, 2)], "no response"), ([(2, 2), (2, 2)], "every value is the same")],
)
def test_alpha_that_is_undefined_says_why(units, why):
    found = alpha(units, "ordinal")

    assert found.value is None
    assert why in found.reason


def test_the_summary_of_no_labels_has_no_values_and_says_why():
    found = summary([])

    assert (found["pairwise"], found["interval"], found["pairs"], found["alpha"]) == (None, None, 0, None)
    assert found["alpha_reason"]


def test_the_summary_takes_each_response_as_a_unit_for_alpha():
    # units (1, 1), (2, 3), (3, 2): 1, 2, 3 occur twice each; d(1,2) = d(2,3) = (4 - 2)^2 = 4, d(1,3) = (6 - 2)^2 = 16
    # observed 4 * 4 = 16 (two units, two orders each), expected 2 * (2*2*4 + 2*2*16 + 2*2*4) / 5 = 192 / 5
    found = summary([[[1, 2, 3], [1, 3, 2]]])

    assert found["alpha"] == pytest.approx(1 - 16 * 5 / 192)
    assert found["pairwise"] == pytest.approx(2 / 3)
