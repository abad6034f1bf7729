"""What tests/benchmarks/prove.py stands on: tastes, noise, statistics and checks, worked out by hand."""

from __future__ import annotations

import math
import random
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

from proof import checks, labelers, policies, prompts, significance, tastes
from proof.arms import pairs_right, within_prompt_correlation
from proof.labelers import Crowd

from data.batches import Batch, BatchRow
from data.records import Message, NewPrompt, NewResponse
from data.store import Store


def test_a_response_is_marked_down_for_no_end_for_repetition_and_for_hardly_a_word():
    assert tastes.faults("Return the value.") == 0
    assert tastes.faults("Return the value") == 0.4
    assert tastes.faults("Go.") == 1.0
    # pairs the-cat, cat-the, the-cat: one in three came before; both triples are new; no end
    assert tastes.faults("the cat the cat") == pytest.approx(0.4 + 1 / 3)


def test_a_word_counts_by_how_much_oftener_it_is_in_the_one_body_of_text():
    odds = tastes.log_odds(["a " * 119 + "b " * 47 + "rare " * 59], ["a " * 47, "b " * 119])

    # with one added, a is 120 of 168 words here and 48 of 168 there; "rare" is too rare to say anything
    assert odds == pytest.approx({"a": math.log(2.5), "b": -math.log(2.5)})


def test_no_single_word_decides():
    assert tastes.log_odds(["x " * 1000], ["y " * 1000]) == {"x": 1.5, "y": -1.5}


def test_a_text_is_worth_the_mean_of_its_words():
    assert tastes.mean_word_score("Wait, wait: socket unknown", {"wait": 0.5, "socket": 1.0}) == 0.5


def test_music_is_soft_letters_and_words_that_join():
    assert tastes.softness(["moon"]) == 1.0
    assert tastes.softness(["moon", "back"]) == (4 + 1 - 3) / 8  # a is soft, b, c and k are hard
    assert tastes.joined("read a line".split()) == 1.0  # d meets a, a meets l
    assert tastes.joined("read line".split()) == 0.0
    # e meets m, n meets n, and "a" and "the" do not count; 12 letters, 10 soft and 2 hard; no fault
    assert tastes.music("A lone moon: the neck.") == pytest.approx(2 * (10 - 2) / 12 + 0.5 / 2)
    assert tastes.music("Is it so.") == 0


def by_number(text: str) -> float:
    return float(text)


def crowd(tau: float = 1.0, liking: tuple[float, ...] = (0.0, 0.0)) -> Crowd:
    return Crowd(by_number, tau, liking, length_mean=3.0, length_std=1.0, seed=0)


def test_labelers_agree_as_often_as_their_noise_says():
    texts = ["0", str(math.log(3))]  # the second wins with probability 3/4

    assert crowd().correctness([texts]) == pytest.approx(0.75)
    assert crowd().agreement([texts]) == pytest.approx(0.75**2 + 0.25**2)
    assert crowd(tau=1e9).agreement([texts]) == pytest.approx(0.5)


def test_labelers_who_like_length_differently_agree_less():
    # three characters are the mean: the second text is 1 longer, worth 0; labelers see +ln 3 and -ln 3 in that
    people = crowd(liking=(math.log(3), -math.log(3)))

    assert people.agreement([["000", "0000"]]) == pytest.approx(2 * 0.75 * 0.25)


def test_the_noise_of_a_rank_is_the_noise_that_was_worked_out():
    people, texts = crowd(), ["0", str(math.log(3))]

    won = [people.ranks(0, f"prompt {number}", texts)[1] == 1 for number in range(4000)]

    assert abs(np.mean(won) - 0.75) < 3 * math.sqrt(0.75 * 0.25 / 4000)


def test_a_label_does_not_depend_on_the_order_in_which_the_responses_are_shown():
    texts = ["1", "2", "3", "4"]
    shown = dict(zip(texts, crowd().ranks(0, "p", texts), strict=True))
    turned = dict(zip(texts[::-1], crowd().ranks(0, "p", texts[::-1]), strict=True))

    assert shown == turned


def test_the_noise_is_set_so_that_two_labelers_agree_as_people_do():
    rng = random.Random(0)
    tasks = [[str(rng.gauss(0, 0.3)) for _ in range(4)] for _ in range(200)]

    people = labelers.crowd(by_number, tasks)

    assert people.agreement(tasks) == pytest.approx(0.72, abs=0.002)


@pytest.fixture
def asked():
    """A store with twenty prompts, and a batch of four responses to each."""
    store = Store(None)
    ids = store.add_prompts([NewPrompt((Message("user", f"p{n}"),), split="train") for n in range(20)])
    rows = [BatchRow(id, tuple(NewResponse(text, "sft") for text in "3142")) for id in ids]
    yield store, Batch("sample", "sft", tuple(rows)), {id: f"p{n}" for n, id in enumerate(ids)}
    store.close()


def test_labels_come_out_of_the_store_as_the_labelers_gave_them(asked):
    store, batch, _ = asked

    assert list(labelers.rank_all(store, batch, crowd(tau=1e-6, liking=(0.0,) * 8), overlap=2))[-1] == 40

    for row in store.ranking_rows():
        assert [response["text"] for response in row["responses"]] == list("3142")
        assert row["ranks"] == [2, 4, 1, 3]  # without noise the larger number is better
    assert store.stats()["agreement"]["pairwise"] == 1.0
    assert len({row["labeler"] for row in store.ranking_rows()}) == 8


def test_the_labelers_of_a_task_are_not_always_the_same_two(asked):
    store, batch, _ = asked

    assert list(labelers.rank_all(store, batch, crowd(tau=0.1, liking=(0.0,) * 8), overlap=2))[-1] == 40

    met: dict[str, set[str]] = {}
    for row in store.ranking_rows():
        met.setdefault(row["task_id"], set()).add(row["labeler"])
    assert all(len(two) == 2 for two in met.values())
    assert len({frozenset(two) for two in met.values()}) > 8  # of 28 pairs; in fixed turns only 4 would meet


def test_one_comparison_in_four_is_turned_around(asked, tmp_path):
    store, batch, known = asked

    flipped = labelers.import_flips(store, tmp_path / "flips.jsonl", batch.rows, known, by_number, seed=0)

    rows = list(store.comparison_rows())
    wrong = sum(row["chosen"] < row["rejected"] for row in rows)
    assert len(rows) == 20 * 6 and wrong == round(flipped * 120)
    assert abs(flipped - 0.25) < 3 * math.sqrt(0.25 * 0.75 / 120)


def test_labels_in_random_order_say_nothing_of_the_taste(asked, tmp_path):
    store, batch, known = asked

    labelers.import_shuffled(store, tmp_path / "shuffled.jsonl", batch.rows, known, seed=0)

    right = np.mean([row["chosen"] > row["rejected"] for row in store.comparison_rows()])
    assert abs(right - 0.5) < 3 * math.sqrt(0.25 / 120)


def test_a_win_rate_counts_ties_as_half_and_comes_with_its_error():
    found = significance.win_rate([1, 1, 0, 2], [0, 1, 1, 0])  # won, tied, lost, won

    assert found.rate == 0.625
    assert found.error == pytest.approx(math.sqrt((0.375**2 + 0.125**2 + 0.625**2 + 0.375**2) / 3 / 4))
    assert (found.decided, found.difference, found.p_value) == (3, 0.5, 1.0)


def test_the_sign_test_is_that_of_a_fair_coin():
    assert significance.sign_test(9, 1) == pytest.approx(2 * (1 + 10) / 1024)
    assert significance.sign_test(5, 5) == 1.0


def test_values_of_one_prompt_are_not_independent():
    values, prompts_of_values = np.array([1.0, 1, 0, 0]), np.array([7, 7, 8, 8])

    # residuals sum to 1 and -1 in the two prompts: sqrt((1 + 1) * 2 / 1) / 4
    assert significance.clustered_error(values, prompts_of_values) == 0.5


def test_strengths_are_the_log_odds_of_winning():
    worths = np.array([[1.0, 1, 1, 0], [0, 0, 0, 1]])  # three wins to one, and half a win added to each side

    assert significance.bradley_terry(worths) == pytest.approx([math.log(7 / 3) / 2, -math.log(7 / 3) / 2])


def test_a_gain_that_comes_with_length_is_not_counted_within_length():
    # the gain is 2 - 0.5 = 1.5; among responses of like length it is 2 - 1 = 1
    assert policies.within_length([2, 2], [1, 1], [1, 0], [1, 10]) == pytest.approx(2 / 3)


def test_pairs_are_right_or_half_right():
    right, tasks = pairs_right([[0.3, 0.1, 0.1]], [[1.0, 0.0, 2.0]])

    # 0 over 1: right; 2 over 0: wrong; 2 over 1: the same score, half right
    assert right.tolist() == [1.0, 0.0, 0.5] and tasks.tolist() == [0, 0, 0]


def test_a_correlation_within_prompts_ignores_what_prompts_differ_in():
    assert within_prompt_correlation([[1, 2], [101, 102]], [[2, 1], [2, 1]]) == pytest.approx(-1.0)


def gold(rate: float, low: float) -> dict:
    return {"rate": rate, "low": low}


def test_ppo_has_not_won_when_one_random_seed_did_better_than_one_real_one():
    real = [gold(0.72, 0.68), gold(0.75, 0.71), gold(0.71, 0.66)]

    assert all(check.passed for check in checks.policy_wins(real, [gold(0.6, 0.55), gold(0.1, 0.05)]))
    assert not all(check.passed for check in checks.policy_wins(real, [gold(0.72, 0.68), gold(0.1, 0.05)]))


def test_a_run_that_logs_another_kl_than_it_has_is_caught():
    assert all(check.passed for check in checks.policy_stayed_near([{"kl": 6.0, "logged_kl": 5.5}]))
    assert not all(check.passed for check in checks.policy_stayed_near([{"kl": 6.0, "logged_kl": 0.1}]))


def test_no_prompt_and_no_document_is_in_two_sets():
    texts = [
        [f"Document {n} says {m} things about many {m * n} animals that live here." for m in range(9)]
        for n in range(30)
    ]

    sets = prompts.disjoint_sets({"evaluation": 20, "reward_test": 20, "reward_train": 40, "ppo": 40}, texts)

    everything = [pair.prompt for pairs in sets.values() for pair in pairs]
    assert len(everything) == len(set(everything))
    assert [len(sets[name]) for name in ("evaluation", "reward_test", "reward_train", "ppo")] == [20, 20, 40, 40]
    assert len(sets["sft"]) > 50


def test_a_prompt_is_some_words_of_a_sentence_and_a_demonstration_how_it_ends():
    text = """Reads a file, e.g. The one that was given by its name or by its path. Too short.

    >>> this is no prose at all, however many words it may have in it.
    """
    assert list(prompts.sentences(text)) == [
        "Reads a file, e.g. The one that was given by its name or by its path.", "Too short."
    ]  # fmt: skip
    pair = prompts.cut("One two three four five six seven eight nine ten.")
    assert pair == prompts.Pair("One two three four", "five six seven eight nine ten.")
    assert prompts.cut("Too short.") is None


def test_too_few_prompts_are_an_error():
    with pytest.raises(ValueError, match="0 prompts for ppo; 1 are wanted"):
        prompts.disjoint_sets({"evaluation": 0, "reward_test": 0, "reward_train": 0, "ppo": 1}, [])
