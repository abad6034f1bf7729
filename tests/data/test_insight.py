"""The numbers of labelers and project, read from a small store; every expected one was worked out by hand."""

import json

import pytest

from data.records import DemonstrationAnswer, Message, NewPrompt, NewRanking, NewResponse, RankingAnswer
from data.rows import GoldRow, RankingRow, TaskRow

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has


def rank(store, labeler, ranks_of, **more):
    """Claim the next ranking task and rank it: ranks_of(assignment) gives a rank by response id."""
    assignment = store.next_task(labeler, "ranking")
    answer = RankingAnswer(ranks_of(assignment), **more)
    return assignment, store.submit_ranking(labeler, assignment.task.id, assignment.lease, answer, guideline="g1")


def as_shown(assignment):
    return {response.id: place for place, response in enumerate(assignment.responses, 1)}


def of(store, name):
    """What is said of one labeler, by name."""
    pseudonym = store.user(name).pseudonym
    return next(each for each in store.insight()["labelers"] if each["labeler"] == pseudonym)


def test_a_store_without_labels_has_no_labelers_and_numbers_that_say_so(store):
    found = store.insight()

    assert found["labelers"] == []
    assert found["project"]["position"] == {"value": None, "interval": None, "pairs": 0, "warning": False}
    assert found["project"]["days"] == [] and found["project"]["labeled_tasks"] == 0
    assert json.loads(json.dumps(found)) == found


def test_labels_revisions_and_skips_are_counted_by_labeler(store, add_ranking_tasks):
    add_ranking_tasks(store, 3)
    (prompt,) = store.add_prompts([NewPrompt((Message("user", "Write."),), split="train")])
    store.add_demonstration_tasks([prompt])
    first, _ = rank(store, "ana", as_shown, seconds=10)
    text = {"response_id": first.responses[0].id, "text": "Better."}
    store.submit_ranking(
        "ana", first.task.id, first.lease, RankingAnswer(as_shown(first), rewrite=text, seconds=20), guideline="g1"
    )
    rank(store, "ana", as_shown)
    skipped = store.next_task("ana", "ranking")
    store.skip("ana", skipped.task.id, skipped.lease, "too alike")
    mine = store.next_task("ana", "demonstration")
    store.submit_demonstration("ana", mine.task.id, mine.lease, DemonstrationAnswer("Hi.", 40), guideline="g1")

    ana = of(store, "ana")
    assert [ana[kind] for kind in ("rankings", "demonstrations", "rewrites", "revisions")] == [2, 1, 1, 1]
    assert ana["skips"] == {"too alike": 1} == store.insight()["project"]["skips"]
    assert ana["seconds"]["rankings"]["median"] == 20 and ana["seconds"]["demonstrations"]["median"] == 40
    assert not ana["imported"]


def test_a_label_far_under_the_expected_time_of_its_like_is_an_outlier(store, add_ranking_tasks):
    add_ranking_tasks(store, 10)
    for seconds in (30, 30, 30, 30, 30, 30, 30, 30, 9, 11):  # the median of ten is 30: 9 is under a third, 11 is not
        rank(store, "ana", as_shown, seconds=seconds)

    seconds = of(store, "ana")["seconds"]["rankings"]
    assert (seconds["judged"], seconds["fast"], seconds["median"], seconds["pace"]) == (10, 1, 30, 1.0)
    assert seconds["quartiles"] == [30, 30]
    assert seconds["distribution"] == [0, 1, 1, 8, 0, 0, 0, 0, 0, 0]  # 5 to 10, 10 to 20, 20 to 40


def test_nine_labels_alike_are_too_few_to_expect_anything(store, add_ranking_tasks):
    add_ranking_tasks(store, 9)
    add_ranking_tasks(store, 1, responses=4)  # another number of responses: none of their like
    for _ in range(10):
        rank(store, "ana", as_shown, seconds=30)

    seconds = of(store, "ana")["seconds"]["rankings"]
    assert (seconds["labels"], seconds["judged"], seconds["fast"], seconds["pace"]) == (10, 0, 0, None)


def test_who_ranks_as_shown_is_seen_to_and_who_ranks_against_it_too(store, add_ranking_tasks):
    add_ranking_tasks(store, 4, overlap=2)
    for _ in range(4):
        rank(store, "ana", as_shown)
        rank(store, "ben", lambda assignment: {id: 4 - place for id, place in as_shown(assignment).items()})

    ana, ben = of(store, "ana")["position"], of(store, "ben")["position"]
    assert (ana["value"], ana["pairs"], ana["warning"]) == (1.0, 12, True)
    assert (ben["value"], ben["pairs"], ben["warning"]) == (0.0, 12, True)
    both = store.insight()["project"]["position"]
    assert (both["value"], both["pairs"], both["warning"]) == (0.5, 24, False)


def test_a_longer_response_that_wins_is_counted_by_characters(store):
    (prompt,) = store.add_prompts([NewPrompt((Message("user", "Say."),), split="train")])
    store.add_ranking_task(prompt, [NewResponse(text, "sft-0001") for text in ("aa", "éé", "bbbb", "c")], 1)
    given = {"aa": 2, "éé": 3, "bbbb": 1, "c": 3}
    rank(store, "ana", lambda assignment: {response.id: given[response.text] for response in assignment.responses})

    # bbbb beats all three; aa beats c; éé ties with c, and aa and éé are of one length: 4 pairs, all won by the longer
    length = of(store, "ana")["length"]
    assert (length["value"], length["pairs"]) == (1.0, 4)


def test_agreement_counts_each_labeler_against_the_others(store, add_ranking_tasks, label, in_order):
    add_ranking_tasks(store, 2, overlap=2)
    label(store, "ana")
    label(store, "ana")
    rank(store, "ben", in_swapped_order)

    assert of(store, "ana")["agreement"] == of(store, "ben")["agreement"]
    assert (of(store, "ana")["agreement"]["value"], of(store, "ana")["agreement"]["pairs"]) == (pytest.approx(2 / 3), 3)
    project = store.insight()["project"]
    assert (project["labeled_tasks"], project["double_labeled_tasks"]) == (2, 1)
    assert project["sources"] == [{"source": "sft-0001", "responses": 6, "labeled": 6}]


def in_swapped_order(assignment):
    first, second, third = assignment.task.response_ids
    return {first: 1, second: 3, third: 2}


@pytest.fixture
def checked(store, add_ranking_tasks, label):
    """Ana ranked a task in order; then a gold task and the repeat of hers, each of which she got wrong by one pair."""
    work, _ = label_one(store, add_ranking_tasks, label)
    now, prompt, ana = store.prompts()[0].created_at, store.prompts()[0].id, store.user("ana").pseudonym
    ids = ["r-1", "r-2", "r-3"]
    rows = []
    for number, purpose, repeat_of in ((1, "gold", None), (2, "repeat", work)):
        task = TaskRow(number, purpose, "ranking", prompt, ids, 1, 0, None, now, purpose, repeat_of, None)
        ranked = RankingRow(
            label_id=f"l-{purpose}", revision=1, task_id=purpose, task_number=number, prompt_id=prompt, labeler=ana,
            lease=purpose, digest="", display_order=ids, ranks=[1, 3, 2], ratings="{}", flags="{}", rewrite=None,
            comment="", seconds=500.0, guideline="g1", source="labeler", client_at=None, created_at=now,
            purpose=purpose,
        )  # fmt: skip
        rows += [task, ranked]
    rows += [GoldRow("gold", ranks, "", "rea", now) for ranks in ([3, 2, 1], [1, 2, 3])]  # the later one counts
    store._write(lambda live, now: (rows, None))
    return store


def label_one(store, add_ranking_tasks, label):
    add_ranking_tasks(store, 1)
    return label(store, "ana", seconds=20)


def test_gold_and_repeats_tell_of_the_labeler_and_are_no_data(checked):
    ana = of(checked, "ana")

    assert (ana["gold"]["value"], ana["gold"]["pairs"]) == (pytest.approx(2 / 3), 3)
    assert (ana["self_agreement"]["value"], ana["self_agreement"]["pairs"]) == (pytest.approx(2 / 3), 3)
    assert (ana["rankings"], ana["position"]["pairs"], ana["seconds"]["rankings"]["labels"]) == (1, 3, 1)
    project = checked.insight()["project"]
    assert (project["labeled_tasks"], project["sources"][0]["responses"]) == (1, 3)
    assert [sum(day["labelers"].values()) for day in project["days"]] == [1]


def test_what_a_labeler_is_told_does_not_give_away_which_tasks_were_checks(checked):
    mine = checked.own_numbers("ana")

    assert (mine["rankings"], mine["median_seconds"]["rankings"]) == (3, 500)  # checks look like any other work
    assert mine["self_agreement"]["pairs"] == 3 and "gold" not in str(mine)
    assert checked.own_numbers("ben")["rankings"] == 0


def test_a_reviewers_answer_is_held_against_the_labelers_and_is_no_agreement_of_its_own(
    store, add_ranking_tasks, label
):
    store.add_user("rita", "reviewer")
    add_ranking_tasks(store, 1, overlap=2)
    task, _ = label(store, "ana")
    assignment, _ = rank(store, "ben", in_swapped_order)
    store.reviews.adjudicate("rita", task, RankingAnswer(in_swapped_order(assignment)), guideline="g1")

    ana, ben, rita = (of(store, name) for name in ("ana", "ben", "rita"))
    assert [(each["reviews_agree"]["value"], each["agreement"]["pairs"]) for each in (ana, ben, rita)] == [
        (pytest.approx(2 / 3), 3),
        (1.0, 3),
        (None, 0),
    ]
    assert (rita["rankings"], rita["reviews"], rita["position"]["pairs"]) == (0, 1, 0)
    assert store.insight()["project"]["double_labeled_tasks"] == 1


def test_labels_are_counted_on_the_day_they_were_first_given(store, clock, add_ranking_tasks):
    store.project.change_settings({"repeat_share": 0.0, "gold_share": 0.0}, "rea")
    add_ranking_tasks(store, 2)
    first, _ = rank(store, "ana", as_shown)  # 2026-03-01 09:00
    clock.advance(15 * 60)
    rank(store, "ana", as_shown)  # midnight: the second of March
    revised = RankingAnswer(dict.fromkeys(first.task.response_ids, 1))
    store.submit_ranking("ana", first.task.id, first.lease, revised, guideline="g1")

    ana = store.user("ana").pseudonym
    assert store.insight()["project"]["days"] == [
        {"day": "2026-03-01", "labelers": {ana: 1}},
        {"day": "2026-03-02", "labelers": {ana: 1}},
    ]


def test_what_was_imported_says_nothing_of_days_seconds_or_the_order_shown(store):
    (prompt,) = store.add_prompts([NewPrompt((Message("user", "Which?"),), split="train")])
    texts = tuple(NewResponse(text, "elsewhere") for text in ("short", "much longer"))
    store.add_rankings(
        [NewRanking(prompt, texts, ranks, name, seconds=5) for name, ranks in (("Mia", (1, 2)), ("Ida", (2, 1)))]
    )

    found = store.insight()
    assert [(each["imported"], each["rankings"], each["seconds"]["rankings"]) for each in found["labelers"]] == [
        (True, 1, None),
        (True, 1, None),
    ]
    assert found["project"]["days"] == [] and found["project"]["position"]["pairs"] == 0
    assert {each["agreement"]["value"] for each in found["labelers"]} == {0.0}
    assert {each["length"]["value"] for each in found["labelers"]} == {0.0, 1.0}


def test_a_withdrawn_label_is_in_no_number(store, add_ranking_tasks, label):
    add_ranking_tasks(store, 1, overlap=2)
    label(store, "ana")
    _, mistaken = label(store, "ben")
    assert of(store, "ana")["agreement"]["pairs"] == 3

    store.withdraw(label_id=mistaken)

    assert of(store, "ana")["agreement"] == {"value": None, "interval": None, "pairs": 0}
    assert [each["labeler"] for each in store.insight()["labelers"]] == [store.user("ana").pseudonym]


def test_numbers_are_kept_until_something_is_labeled(store, add_ranking_tasks, label):
    add_ranking_tasks(store, 2)
    label(store, "ana")
    before = store.insight()

    assert store.insight() is before
    label(store, "ana")
    assert of(store, "ana")["rankings"] == 2
