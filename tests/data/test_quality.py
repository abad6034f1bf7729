"""How reliable labelers are, what several of them say together, and the ceiling that their agreement sets."""

import random
import sys

import pytest

from data.agreement import ceiling_of
from data.languages import language_of
from data.quality import majority, mean_rank, reliability

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has


def test_the_ceiling_is_how_often_one_label_is_right_when_two_agree_so_often():
    assert ceiling_of(0.726) == pytest.approx(0.836, abs=0.0005)  # InstructGPT: .836^2 + .164^2 = .726
    assert ceiling_of(0.68) == pytest.approx(0.8)  # .8 * .8 + .2 * .2
    assert (ceiling_of(1.0), ceiling_of(0.5), ceiling_of(0.3), ceiling_of(None)) == (1.0, 0.5, 0.5, None)


def test_the_majority_decides_each_pair_and_what_it_cannot_decide_is_a_tie():
    assert majority([[1, 2, 3], [1, 3, 2], [2, 1, 3]]) == [1, 2, 3]  # 2:1 for each pair in that order
    assert majority([[1, 2], [2, 1]]) == [1, 1]
    assert majority([[1, 2], [1, 1], [1, 1]]) == [1, 1]  # two say tie, one decides
    assert majority([[1, 2, 3], [2, 3, 1], [3, 1, 2]]) == [1, 1, 1]  # a circle
    assert majority([[1, 2], [2, 1]], [0.2, 0.9]) == [2, 1]
    assert majority([[1, 2, None], [1, 2, None], [2, 3, 1]]) == [1, 2, None]  # most could not rank the third


def test_the_mean_rank_orders_by_the_mean_and_keeps_ties():
    assert mean_rank([[1, 2, 3], [1, 3, 2], [2, 1, 3]]) == [1, 2, 3]  # means 4/3, 2, 8/3
    assert mean_rank([[1, 2], [2, 1]]) == [1, 1]
    assert mean_rank([[1, 1, 2], [1, 2, 3]]) == [1, 2, 3]  # means 1.25, 1.75, 3
    assert mean_rank([[1, 2], [2, 1]], [3.0, 1.0]) == [1, 2]
    assert mean_rank([[1, None], [1, None], [2, 1]]) == [1, None]


def test_reliability_finds_who_answers_by_lot_and_gives_the_rest_the_mean():
    draw = random.Random(0)
    tasks = []
    for _ in range(300):
        truth = draw.choice([[1, 2], [2, 1], [1, 1]])
        wrong = draw.choice([[1, 2], [2, 1], [1, 1]])
        tasks.append(
            {
                "careful": truth,
                "good": truth if draw.random() < 0.9 else wrong,
                "fair": truth if draw.random() < 0.7 else wrong,
                "by lot": draw.choice([[1, 2], [2, 1], [1, 1]]),
            }
        )
    tasks[0] = {**tasks[0], "new": [1, 2]}

    before = set(sys.modules)

    found = reliability(tasks, ["alone"])

    assert found["careful"].weight > found["good"].weight > found["fair"].weight > found["by lot"].weight
    assert found["good"].right == pytest.approx(0.9 + 0.1 / 3, abs=0.04)  # a wrong answer is right by chance
    assert found["by lot"].weight < 0.15
    assert found["by lot"].pairs == 300 and found["new"].pairs == 1
    mean = sum(found[name].weight for name in ("careful", "good", "fair", "by lot")) / 4
    for name in ("new", "alone"):
        assert not found[name].measured and found[name].right is None
        assert found[name].weight == pytest.approx(mean)
    assert not {"torch", "transformers", "gradio"} & (sys.modules.keys() - before)


def test_with_too_few_labels_everyone_counts_in_full():
    found = reliability([{"ana": [1, 2], "ben": [2, 1]}])

    assert {name: each.weight for name, each in found.items()} == {"ana": 1.0, "ben": 1.0}


def test_the_language_of_a_prompt_is_what_its_tags_say_else_what_its_words_look_like():
    asked = [
        {"role": "system", "content": "Answer kindly."},
        {"role": "user", "content": "Wie schreibe ich einen Brief?"},
    ]

    assert language_of(asked, ["art", "lang:EN"]) == "en"
    assert language_of([{"role": "user", "content": "2 + 2 = ?"}], []) == "und"
    pytest.importorskip("py3langid")
    assert language_of(asked, []) == "de"
