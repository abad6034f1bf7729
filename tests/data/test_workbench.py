"""A labeler's day as the store keeps it: drafts, undo, checks among the work, skipped tasks, guidelines, review."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from data.batches import Batch, BatchRow
from data.catalog import labeling_order
from data.errors import Conflict, InvalidInput, NotFound
from data.records import DemonstrationAnswer, Message, NewPrompt, NewResponse, RankingAnswer
from data.store import Store

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

TEXTS = tuple(NewResponse(f"Response {n}.", "sft-0001") for n in range(3))
NO_CHECKS = {"gold_share": 0.0, "repeat_share": 0.0}


def submit(store, name, assignment, ranks):
    given = dict(zip(assignment.task.response_ids, ranks, strict=True))
    ranked = {id: rank for id, rank in given.items() if rank is not None}
    answer = RankingAnswer(ranked, unrankable=tuple(given.keys() - ranked.keys()))
    return store.submit_ranking(name, assignment.task.id, assignment.lease, answer, guideline="g1")


def a_prompt(store, text="What is a pawl?"):
    return store.add_prompts([NewPrompt((Message("user", text),), split="train")])[0]


# ------------------------------------------------------------------- drafts


def test_a_draft_comes_back_with_its_task_until_it_is_submitted(store, add_ranking_tasks):
    add_ranking_tasks(store, 1, overlap=2)
    mine = store.next_task("ana", "ranking")

    store.save_draft("ana", mine.task.id, mine.lease, {"ranks": {"a": 1}}, 3.5)
    store.save_draft("ana", mine.task.id, mine.lease, {"ranks": {"a": 2}}, 4.5)

    draft = store.next_task("ana", "ranking").draft
    assert (draft.work, draft.seconds) == ({"ranks": {"a": 2}}, 4.5)
    assert store.next_task("ben", "ranking").draft is None  # each labeler has their own
    submit(store, "ana", mine, [1, 2, 3])
    with pytest.raises(Conflict):
        store.save_draft("ana", mine.task.id, mine.lease, {}, 5.0)


def test_drafts_outlive_a_restart_and_the_table_holds_no_more_than_the_open_ones(tmp_path, clock, add_ranking_tasks):
    with Store(tmp_path / "store.duckdb", now=clock) as store:
        for name in ("ana", "ben"):
            store.add_user(name, "labeler")
        add_ranking_tasks(store, 2)
        hers, his = (store.next_task(name, "ranking") for name in ("ana", "ben"))
        for n in range(5):
            store.save_draft("ana", hers.task.id, hers.lease, {"n": n}, None)
            store.save_draft("ben", his.task.id, his.lease, {"n": n}, None)
        submit(store, "ben", his, [1, 2, 3])
        with store.moment() as moment:
            assert moment.select("SELECT task_id FROM drafts") == [(hers.task.id,)]
    with Store(tmp_path / "store.duckdb", now=clock) as store:
        assert store.next_task("ana", "ranking").draft.work == {"n": 4}


def test_a_draft_that_no_page_would_send_is_refused(store, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")

    for work, seconds in (([], None), ({"x": float("nan")}, None), ({}, -1.0), ({"x": "y" * 1_000_001}, None)):
        with pytest.raises(InvalidInput):
            store.save_draft("ana", mine.task.id, mine.lease, work, seconds)
    assert store.next_task("ana", "ranking").draft is None


# ------------------------------------------------------------------- undo, history, the next task ahead


def test_an_undone_answer_stands_no_more_and_its_task_is_the_labelers_again(store, add_ranking_tasks):
    add_ranking_tasks(store, 2)
    mine = store.next_task("ana", "ranking")
    first = submit(store, "ana", mine, [1, 2, 3])

    store.undo("ana", mine.task.id, mine.lease)
    store.undo("ana", mine.task.id, mine.lease)  # sent twice by a page that never heard the answer

    assert store.rankings() == []
    assert store.next_task("ana", "ranking").task.id == mine.task.id
    assert store.next_task("ben", "ranking").task.id != mine.task.id  # its slot is held
    again = submit(store, "ana", mine, [1, 2, 3])
    assert (again.label_id, again.revision) == (first.label_id, 2)
    assert [ranking.revision for ranking in store.rankings()] == [2]


def test_undo_takes_the_rewrite_back_too(store, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    ids = mine.task.response_ids
    rewrite = {"response_id": ids[0], "text": "Better."}
    answer = RankingAnswer(dict(zip(ids, (1, 2, 3), strict=True)), rewrite=rewrite)
    store.submit_ranking("ana", mine.task.id, mine.lease, answer, guideline="g1")
    assert [label.answer.response for label in store.demonstrations()] == ["Better."]

    store.undo("ana", mine.task.id, mine.lease)

    assert store.demonstrations() == []


@pytest.mark.parametrize("answered_anew", [False, True])
def test_a_restart_remembers_what_was_undone(tmp_path, clock, add_ranking_tasks, answered_anew):
    with Store(tmp_path / "store.duckdb", now=clock) as store:
        store.add_user("ana", "labeler")
        add_ranking_tasks(store, 1)
        mine = store.next_task("ana", "ranking")
        submit(store, "ana", mine, [1, 2, 3])
        store.undo("ana", mine.task.id, mine.lease)
        if answered_anew:
            submit(store, "ana", mine, [3, 2, 1])
    with Store(tmp_path / "store.duckdb", now=clock) as store:
        assert [ranking.revision for ranking in store.rankings()] == ([2] if answered_anew else [])
        held = store.next_task("ana", "ranking")
        assert held is None if answered_anew else held.lease == mine.lease


def test_an_undone_task_whose_lease_ran_out_goes_to_somebody_else_and_is_never_labeled_beyond_its_overlap(
    store, clock, add_ranking_tasks
):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    submit(store, "ana", mine, [1, 2, 3])
    store.undo("ana", mine.task.id, mine.lease)
    clock.advance(31)

    his = store.next_task("ben", "ranking")
    submit(store, "ben", his, [3, 2, 1])

    with pytest.raises(Conflict):
        submit(store, "ana", mine, [1, 2, 3])
    assert len(store.rankings()) == 1
    assert store.next_task("ana", "ranking") is None


def test_nobody_undoes_what_is_not_theirs(store, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    with pytest.raises(Conflict, match="no answer"):
        store.undo("ana", mine.task.id, mine.lease)
    receipt = submit(store, "ana", mine, [1, 2, 3])
    with pytest.raises(Conflict, match="no answer"):
        store.undo("ben", mine.task.id, mine.lease)
    store.withdraw(label_id=receipt.label_id)
    with pytest.raises(Conflict, match="withdrawn"):
        store.undo("ana", mine.task.id, mine.lease)


def test_the_next_task_can_be_had_ahead_and_no_more_than_that(store, add_ranking_tasks):
    first, second, third = add_ranking_tasks(store, 3)
    now = store.next_task("ana", "ranking")

    ahead = store.next_task("ana", "ranking", after=now.task.id)

    assert (now.task.id, ahead.task.id) == (first, second)
    assert store.next_task("ana", "ranking", after=now.task.id).lease == ahead.lease  # asked again: the same
    assert store.next_task("ana", "ranking").task.id == first  # a reload shows what was on the screen
    assert store.next_task("ben", "ranking", after="t-none").task.id == third
    submit(store, "ana", now, [1, 2, 3])
    assert store.next_task("ana", "ranking").lease == ahead.lease


def test_a_labeler_finds_what_they_said_the_latest_first_and_how_to_revise_it(store, clock, add_ranking_tasks):
    add_ranking_tasks(store, 2)
    store.add_demonstration_tasks([a_prompt(store)])
    for kind in ("ranking", "demonstration", "ranking"):
        clock.advance(1)
        mine = store.next_task("ana", kind)
        if kind == "ranking":
            submit(store, "ana", mine, [2, 1, 1])
        else:
            store.submit_demonstration("ana", mine.task.id, mine.lease, DemonstrationAnswer("So."), guideline="g1")

    labels = store.labels_of("ana")

    assert [label["kind"] for label in labels] == ["ranking", "demonstration", "ranking"]
    assert labels[1]["answer"] == {"response": "So."}
    assert list(labels[0]["answer"]["ranks"].values()) == [2, 1, 1]
    assert store.labels_of("ben") == []
    assert [label["label_id"] for label in store.labels_of("ana", limit=1)] == [labels[0]["label_id"]]
    shown = store.shown_to("ana", labels[2]["task_id"])
    assert shown.lease == labels[2]["lease"]
    clock.advance(1)
    submit(store, "ana", shown, [1, 2, 3])
    assert [(label["task_id"], label["revision"]) for label in store.labels_of("ana")][0] == (shown.task.id, 2)
    with pytest.raises(NotFound):
        store.shown_to("ben", shown.task.id)


# ------------------------------------------------------------------- skips


def test_a_task_that_three_people_skipped_rests_until_a_researcher_returns_it(store, add_ranking_tasks):
    for name in ("dan", "eva"):
        store.add_user(name, "labeler")
    [task] = add_ranking_tasks(store, 1)
    for name in ("ana", "ben", "cem"):
        mine = store.next_task(name, "ranking")
        store.skip(name, task, mine.lease, f"{name} does not know")

    assert store.next_task("dan", "ranking") is None
    [resting] = store.resting()
    assert resting["reasons"] == [f"{name} does not know" for name in ("ana", "ben", "cem")]
    assert store.stats()["tasks"]["ranking"]["resting"] == 1

    store.project.give_back(task)

    assert store.resting() == []
    assert store.next_task("ana", "ranking") is None  # who skipped it is not asked again
    mine = store.next_task("dan", "ranking")
    store.skip("dan", task, mine.lease, "nor does dan")
    assert store.next_task("eva", "ranking").task.id == task  # one skip since it was returned
    with pytest.raises(Conflict):
        store.project.give_back(task)


def test_a_retired_task_is_offered_to_nobody(store, add_ranking_tasks):
    first, second = add_ranking_tasks(store, 2)
    store.project.retire(first)

    assert store.next_task("ana", "ranking").task.id == second
    with pytest.raises(NotFound):
        store.project.retire("t-none")


# ------------------------------------------------------------------- checks among the work


def test_a_share_of_what_a_labeler_is_given_is_gold_and_its_labels_are_in_no_dataset(store, add_ranking_tasks):
    add_ranking_tasks(store, 100)
    gold = {store.project.add_gold_task(a_prompt(store, f"Gold {n}?"), TEXTS, [1, 2, 3]) for n in range(50)}
    store.project.change_settings({"repeat_share": 0.0, "gold_share": 0.2}, "researcher")

    given = []
    for _ in range(100):
        mine = store.next_task("ana", "ranking")
        assert mine.lease == store.next_task("ana", "ranking").lease  # a reload does not draw anew
        submit(store, "ana", mine, [1, 2, 3])
        given.append(mine.task.id)

    share = sum(task in gold for task in given) / 100
    assert 0.04 < share < 0.36  # 0.2, within four standard errors of 100 draws
    assert {ranking.task_id for ranking in store.rankings()} == set(given) - gold
    assert store.stats()["labels"]["rankings"] == len(set(given) - gold)


def test_every_labeler_gets_the_same_gold_and_none_is_left_when_the_work_is_done(store, add_ranking_tasks):
    add_ranking_tasks(store, 1, overlap=3)
    gold = store.project.add_gold_task(a_prompt(store), TEXTS, [1, 2, 3])
    store.project.change_settings({"gold_share": 0.5, "repeat_share": 0.0}, "researcher")

    seen = Counter()
    for name in ("ana", "ben", "cem"):
        while (mine := store.next_task(name, "ranking")) is not None:
            submit(store, name, mine, [1, 2, 3])
            seen[mine.task.id] += 1

    assert seen[gold] <= 3
    assert sum(seen.values()) - seen[gold] == 3


def test_a_task_comes_a_second_time_in_another_order_after_an_hour_and_only_once(store, clock, add_ranking_tasks):
    add_ranking_tasks(store, 60, responses=3)
    store.project.change_settings({"gold_share": 0.0, "repeat_share": 0.5}, "researcher")
    first = []
    for _ in range(20):
        mine = store.next_task("ana", "ranking")
        submit(store, "ana", mine, [1, 2, 3])
        first.append(mine.task.id)
    assert len(set(first)) == 20
    assert all(ranking.task_id in first for ranking in store.rankings())  # within the hour nothing is repeated

    clock.advance(61)
    again = []
    for _ in range(30):
        mine = store.next_task("ana", "ranking")
        submit(store, "ana", mine, [1, 2, 3])
        if mine.task.repeat_of:
            again.append(mine.task)

    assert 5 <= len(again) <= 25
    assert len({task.repeat_of for task in again}) == len(again)
    assert {task.repeat_of for task in again} <= set(first)
    assert {ranking.task_id for ranking in store.rankings()}.isdisjoint(task.id for task in again)
    by_text = {task.id: store.task_texts(task.id)[1] for task in again}
    assert all([r.text for r in texts] == ["Response 0.", "Response 1.", "Response 2."] for texts in by_text.values())


def test_a_labeler_works_only_when_they_judge_as_the_qualification_expects(store, add_ranking_tasks):
    [work] = add_ranking_tasks(store, 1, overlap=3)
    expected = [[1, 2, 3], [3, 2, 1]]
    tests = [
        store.project.add_gold_task(a_prompt(store, f"Test {n}?"), TEXTS, ranks, purpose="qualification")
        for n, ranks in enumerate(expected)
    ]
    answers = {"ana": expected, "ben": [[3, 2, 1], [1, 2, 3]]}
    for name, given in answers.items():
        for test, ranks in zip(tests, given, strict=True):
            mine = store.next_task(name, "ranking")
            assert mine.task.id == test
            submit(store, name, mine, ranks)

    assert store.next_task("ana", "ranking").task.id == work
    assert store.next_task("ben", "ranking") is None
    store.project.admit("ben", "researcher")
    assert store.next_task("ben", "ranking").task.id == work
    assert store.rankings() == []  # an examination is no data


@pytest.mark.parametrize("gold", [[1, 2], [1, 2, 9], [None, None, 1], [1, True, 2], "123"])
def test_a_known_answer_that_knows_nothing_is_refused(store, gold):
    prompt = a_prompt(store)
    with pytest.raises(InvalidInput):
        store.project.add_gold_task(prompt, TEXTS, gold)
    assert store.stats()["tasks"]["ranking"]["open"] == 0


def test_a_ranked_task_becomes_a_check_with_the_answer_that_its_labelers_agree_on(store, add_ranking_tasks):
    store.add_user("rita", "reviewer")
    store.project.change_settings(NO_CHECKS, "researcher")
    alike, apart = add_ranking_tasks(store, 2, overlap=2, responses=3)
    for name, ranks in (("ana", {alike: [1, 1, 2], apart: [1, 2, 3]}), ("ben", {alike: [2, 2, 3], apart: [3, 2, 1]})):
        for _ in ranks:
            mine = store.next_task(name, "ranking")
            submit(store, name, mine, ranks[mine.task.id])
    [found] = store.checks.candidates()
    assert (found["task_id"], found["origin"], found["labels"]) == (alike, "ranking", 2)
    assert found["responses"] == [response.text for response in store.task_texts(alike)[1]]
    with pytest.raises(Conflict, match="review it first"):
        store.checks.make(apart, "gold", "eva")

    ids = store.task_texts(apart)[1]
    answer = RankingAnswer({ids[0].id: 1, ids[1].id: 2}, unrankable=(ids[2].id,))
    store.reviews.adjudicate("rita", apart, answer, guideline="g1")
    assert [each["task_id"] for each in store.checks.candidates()] == [apart, alike]  # what was reviewed comes first
    gold = store.checks.make(apart, "gold", "eva")
    assert store.checks.make(apart, "gold", "eva") == gold  # a second press
    assert [each["task_id"] for each in store.checks.candidates()] == [alike]
    with pytest.raises(Conflict, match="checks labelers already"):
        store.checks.make(gold, "gold", "eva")

    store.project.change_settings({"gold_share": 0.5}, "researcher")
    add_ranking_tasks(store, 20, overlap=2, responses=3)
    given = {"ana": [1, 2, None], "ben": [1, 3, 2]}
    for name, ranks in given.items():
        while (mine := store.next_task(name, "ranking")).task.id != gold:
            submit(store, name, mine, [1, 2, 3])
        submit(store, name, mine, ranks)
    [known] = store.checks.known()
    assert (known["purpose"], known["ranks"], known["author"]) == ("gold", [1, 2, None], "eva")
    # ben has the one pair that the known answer ranks as it should be, but says more than it
    assert (known["labels"], known["right"], known["agreement"]) == (2, 1, 1.0)

    store.project.retire(gold)
    assert store.checks.known() == []
    assert store.checks.make(apart, "gold", "eva") != gold  # taken back, it can be made again


def test_who_waits_to_be_let_in_is_listed_with_their_score(store, add_ranking_tasks):
    add_ranking_tasks(store, 1, overlap=3)
    for n, ranks in enumerate(([1, 2, 3], [3, 2, 1])):
        store.project.add_gold_task(a_prompt(store, f"Test {n}?"), TEXTS, ranks, purpose="qualification")
    labelers = {name: store.user(name).pseudonym for name in ("ana", "ben")}
    others = {"answered": 0, "tasks": 2, "score": None, "needed": 0.7}
    for ranks in ([1, 2, 3], [1, 2, 3]):  # right, and all three pairs wrong
        submit(store, "ben", store.next_task("ben", "ranking"), ranks)

    ben = {"labeler": labelers["ben"], "answered": 2, "tasks": 2, "score": 0.5, "needed": 0.7}
    assert store.checks.waiting()[:1] == [ben]  # who is through with it comes first
    assert {"labeler": labelers["ana"], **others} in store.checks.waiting()
    store.project.admit(labelers["ben"], "eva")
    assert labelers["ben"] not in {each["labeler"] for each in store.checks.waiting()}


# ------------------------------------------------------------------- batches


def test_a_seventh_of_a_batch_is_wanted_of_two_people(store):
    prompts = store.add_prompts([NewPrompt((Message("user", f"{n}?"),), split="train") for n in range(100)])
    batch = Batch("b-1", "ppo-0001", tuple(BatchRow(id, TEXTS) for id in prompts))

    store.project.change_settings(NO_CHECKS, "researcher")
    store.add_batch(batch)

    with store.moment() as moment:
        overlaps = dict(moment.select("SELECT overlap, count(*) FROM tasks GROUP BY overlap"))
    assert overlaps == {1: 85, 2: 15}  # double_share is 0.15


def test_the_least_sure_come_first_with_an_even_share_by_chance():
    rows = [BatchRow(f"p-{n}", TEXTS, uncertainty=n / 10) for n in range(10)]

    order = [row.prompt_id for row in labeling_order(rows, 0.2)]

    assert sorted(order) == sorted(row.prompt_id for row in rows)
    chance = [order[4], order[9]]  # floor(0.2 n) rises at the fifth and the tenth
    rest = [id for id in order if id not in chance]
    assert rest == sorted(rest, key=lambda id: -int(id[2:]))
    assert labeling_order([replace(rows[3], uncertainty=None), *rows], 0.2)[1:] == rows


# ------------------------------------------------------------------- guidelines and settings


def test_each_label_carries_the_guideline_its_labeler_had_read(store, add_ranking_tasks):
    add_ranking_tasks(store, 2)
    old = store.project.set_guideline("Be kind.", "researcher")
    store.next_task("ana", "ranking")
    assert store.project.guideline_of("ana") == old.hash

    new = store.project.set_guideline("Be kind and short.", "researcher")

    assert store.project.guideline_of("ana") == old.hash  # she has not seen it yet
    assert store.project.guideline_of("ben") == new.hash  # nothing to compare it with
    store.project.read_guideline("ana", new.hash)
    assert store.project.guideline_of("ana") == new.hash
    store.project.set_guideline("Be kind.", "researcher")
    assert [version.text for version in store.project.guidelines()] == ["Be kind and short.", "Be kind."]
    with pytest.raises(NotFound):
        store.project.read_guideline("ana", "0" * 16)


def test_settings_are_refused_whole_when_one_is_wrong_and_outlive_a_restart(tmp_path, clock):
    with Store(tmp_path / "store.duckdb", now=clock) as store:
        with pytest.raises(InvalidInput) as refusal:
            store.project.change_settings(
                {"overlap": 0, "gold_share": 2, "colour": "red", "ask_flags": ["rude"]}, "eva"
            )
        assert all(name in str(refusal.value) for name in ("overlap", "gold_share", "colour", "rude"))
        assert store.project.settings().overlap == 1
        store.project.change_settings({"overlap": 3, "ask_flags": ["unsafe"], "ask_ratings": False}, "eva")
    with Store(tmp_path / "store.duckdb", now=clock) as store:
        settings = store.project.settings()
        assert (settings.overlap, settings.ask_flags, settings.ask_ratings) == (3, ("unsafe",), False)
        assert [event["action"] for event in store.audit()] == ["settings changed"]


# ------------------------------------------------------------------- review


def test_what_labelers_disagree_on_is_reviewed_and_the_adjudication_is_a_label_of_its_own(store, add_ranking_tasks):
    store.add_user("rita", "reviewer")
    apart, alike = add_ranking_tasks(store, 2, overlap=2)
    for name, ranks in (("ana", [1, 2, 3]), ("ben", [3, 2, 1])):
        submit(store, name, store.next_task(name, "ranking"), ranks)  # opposite: no pair agrees
        submit(store, name, store.next_task(name, "ranking"), [1, 2, 3])

    [found] = store.reviews.disagreements()
    assert (found.task_id, found.agreement, found.labels, found.reviewed) == (apart, 0.0, 2, False)
    answer = RankingAnswer(dict(zip(store._live.task(apart).task.response_ids, (1, 2, 2), strict=True)), comment="Why.")
    first = store.reviews.adjudicate("rita", apart, answer, guideline="g1")

    assert store.reviews.adjudicate("rita", apart, answer, guideline="g1") == first
    other = store.reviews.adjudicate("rita", apart, replace(answer, comment="Because."), guideline="g1")
    assert (other.label_id, other.revision) == (first.label_id, 2)
    [found] = store.reviews.disagreements()
    assert found.reviewed
    labels = store.reviews.labels(apart)
    assert labels[-1]["source"] == "review"
    assert sorted((label["source"], label["ranks"]) for label in labels) == [
        ("labeler", [1, 2, 3]),
        ("labeler", [3, 2, 1]),
        ("review", [1, 2, 2]),
    ]
    assert len(store.rankings()) == 5
    assert store.stats()["agreement"]["pairs"] == 6  # two tasks of three pairs: the reviewer is not counted
