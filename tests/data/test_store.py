"""The store's promises, on a real DuckDB: who may label what, what is kept, what comes back after a restart."""

import json
import subprocess
import sys
import threading
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from data.batches import Batch, BatchRow
from data.errors import Conflict, Forbidden, NotFound, StoreFailed, WorkspaceInUse
from data.records import (
    Checkpoint,
    DemonstrationAnswer,
    Message,
    NewPrompt,
    NewRanking,
    NewResponse,
    RankingAnswer,
    prompt_id_of,
)
from data.rows import TABLES, RunRow
from data.store import Store

HELLO = NewPrompt((Message("user", "Hello?"),), split="train")
TEXTS = (NewResponse("One.", "sft-0001"), NewResponse("Two.", "sft-0001"), NewResponse("Three.", "sft-0001"))


def everything_in(store: Store) -> dict[str, list[tuple]]:
    """Every row of every table."""
    return {table: store._read(f"SELECT * FROM {table} ORDER BY rowid") for table in TABLES.values()}


def submit(store, labeler, assignment, ranks, **more):
    answer = RankingAnswer(dict(zip(assignment.task.response_ids, ranks, strict=True)), **more)
    return store.submit_ranking(labeler, assignment.task.id, assignment.lease, answer, guideline="g1")


# ------------------------------------------------------------------- people


def test_a_name_is_taken_once_whatever_its_case(store):
    with pytest.raises(Conflict, match="taken"):
        store.add_user("Ana", "admin")


def test_a_pseudonym_says_nothing_of_the_name_and_belongs_to_one_person(store):
    pseudonyms = {user.pseudonym for user in store.users()}

    assert len(pseudonyms) == 3
    assert not any(name in pseudonym for name in ("ana", "ben", "cem") for pseudonym in pseudonyms)


def test_disabling_a_person_stops_their_tokens_at_once_and_keeps_their_labels(store, add_ranking_tasks, label):
    add_ranking_tasks(store, 2)
    label(store, "ana")
    store.add_token("ana", "hash", "api", None)
    assert store.user_of_token("hash", "api").name == "ana"

    store.disable_user("ana")

    assert store.user_of_token("hash", "api") is None
    assert len(store.rankings()) == 1
    with pytest.raises(Forbidden, match="disabled"):
        store.next_task("ana", "ranking")


def test_a_token_works_for_its_kind_until_it_expires_or_is_revoked(store, clock):
    store.add_token("ana", "session", "session", clock.now + timedelta(hours=1))
    store.add_token("ana", "api", "api", None)

    assert store.user_of_token("session", "api") is None
    assert store.user_of_token("session", "session").name == "ana"
    clock.advance(60)
    assert store.user_of_token("session", "session") is None
    store.revoke_token("api")
    assert store.user_of_token("api", "api") is None


def test_a_new_password_ends_the_persons_other_sessions_and_nobody_elses(store, clock):
    later = clock.now + timedelta(hours=1)
    for name, session in (("ana", "here"), ("ana", "elsewhere"), ("ben", "bens")):
        store.add_token(name, session, "session", later)
    store.add_token("ana", "program", "api", None)

    store.set_password("ana", "$argon2id$new", keep_session="here")

    who = {session: store.user_of_token(session, "session") for session in ("here", "elsewhere", "bens")}
    assert {session: user.name for session, user in who.items() if user} == {"here": "ana", "bens": "ben"}
    assert store.user_of_token("program", "api").name == "ana"
    store.set_password("ana", "$argon2id$newer")
    assert store.user_of_token("here", "session") is None


def test_of_sixteen_threads_that_follow_a_one_time_link_one_gets_in(store):
    store.add_token("ana", "link", "link", None)

    with ThreadPoolExecutor(16) as pool:
        let_in = [user for user in pool.map(lambda _: store.use_link("link"), range(16)) if user]

    assert [user.name for user in let_in] == ["ana"]
    assert store.use_link("link") is None


def test_the_audit_tells_who_was_let_in_and_never_a_secret(store):
    store.set_password("ana", "$argon2id$secret")
    store.add_token("ben", "hash-of-a-token", "api", None)
    store.disable_user("ben")

    told = [(event["action"], event["subject"]) for event in store.audit()][3:]
    assert told == [("password set", "ana"), ("token added", "ben"), ("user disabled", "ben")]
    assert "secret" not in str(store.audit()) and "hash-of" not in str(store.audit())
    assert store.password_hash("ana") == "$argon2id$secret" and store.password_hash("ben") is None


# -------------------------------------------------- prompts, tasks, batches


def test_identical_prompts_keep_their_id_in_one_call_and_over_many(store):
    ids = store.add_prompts([HELLO, HELLO, NewPrompt((Message("user", "Bye?"),), ("short",), "heldout", "me")])
    again = store.add_prompts([replace(HELLO, split="heldout", tags=("other",))])

    assert ids == [prompt_id_of(HELLO.messages), ids[0], ids[2]]
    assert again == [ids[0]]
    assert [(prompt.id, prompt.split) for prompt in store.prompts()] == [(ids[0], "train"), (ids[2], "heldout")]
    assert store.prompt(ids[2]).tags == ("short",)


def test_a_prompt_has_one_demonstration_task_however_often_it_is_asked_for(store):
    ids = store.add_prompts([HELLO])

    assert len(store.add_demonstration_tasks([*ids, *ids])) == 1
    assert store.add_demonstration_tasks(ids, overlap=3) == []


def test_a_batch_added_twice_makes_its_tasks_once(store):
    ids = store.add_prompts([HELLO, NewPrompt((Message("user", "Bye?"),))])
    batch = Batch("sample-0001", "sft-0001", tuple(BatchRow(id, TEXTS) for id in ids))

    first, second = store.add_batch(batch), store.add_batch(batch)

    assert first == second and len(first) == 2
    assert store.stats()["tasks"]["ranking"] == {"open": 2, "done": 0, "resting": 0, "retired": 0}


def test_the_newest_batch_is_handed_out_first_and_a_retired_one_no_more(store, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    id = store.add_prompts([HELLO])[0]
    old, new = (store.add_batch(Batch(name, "sft-0001", (BatchRow(id, TEXTS),)))[0] for name in ("b-1", "b-2"))

    assert store.next_task("ana", "ranking").task.id == new
    assert store.retire_tasks("b-1") == 1
    assert store.retire_tasks("b-1") == 0
    assert store.next_task("ben", "ranking").task.id not in (old, new)
    assert store.next_task("cem", "ranking") is None


# ------------------------------------------------------ leases and overlap


def test_asking_again_gives_the_same_task_lease_and_order(store, add_ranking_tasks):
    add_ranking_tasks(store, 2, responses=9)

    assert store.next_task("ana", "ranking") == store.next_task("ana", "ranking")


def test_each_labeler_sees_an_order_of_their_own_which_is_stored(store, add_ranking_tasks, in_order):
    task_id = add_ranking_tasks(store, 1, overlap=3, responses=9)[0]
    shown = {}
    for name in ("ana", "ben", "cem"):
        assignment = store.next_task(name, "ranking")
        shown[store.user(name).pseudonym] = tuple(response.id for response in assignment.responses)
        store.submit_ranking(name, task_id, assignment.lease, in_order(assignment), guideline="g1")

    assert len(set(shown.values())) == 3
    assert {ranking.labeler: ranking.display_order for ranking in store.rankings()} == shown


def test_an_expired_lease_is_refused_and_the_store_unchanged(store, clock, add_ranking_tasks, in_order):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    clock.advance(30)
    before = everything_in(store)

    with pytest.raises(Conflict, match="draft is still on your page"):
        store.submit_ranking("ana", mine.task.id, mine.lease, in_order(mine), guideline="g1")

    assert everything_in(store) == before
    again = store.next_task("ana", "ranking")  # the same task, for the draft's sake, under a new lease
    assert again.task == mine.task and again.lease != mine.lease


def test_a_foreign_lease_is_refused_for_every_verb(store, add_ranking_tasks, in_order):
    add_ranking_tasks(store, 1)
    hers = store.next_task("ana", "ranking")
    before = everything_in(store)

    for attempt in (
        lambda: store.submit_ranking("ben", hers.task.id, hers.lease, in_order(hers), guideline="g1"),
        lambda: store.submit_ranking("ana", hers.task.id, "made up", in_order(hers), guideline="g1"),
        lambda: store.skip("ben", hers.task.id, hers.lease, "not mine"),
        lambda: store.renew_lease("ben", hers.task.id, hers.lease),
    ):
        with pytest.raises(Conflict):
            attempt()

    assert everything_in(store) == before


def test_a_renewed_lease_lasts_a_full_period_from_then(store, clock, add_ranking_tasks, in_order):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    clock.advance(29)

    assert store.renew_lease("ana", mine.task.id, mine.lease) == clock.now + timedelta(minutes=30)
    clock.advance(29)
    assert store.next_task("ben", "ranking") is None
    assert store.submit_ranking("ana", mine.task.id, mine.lease, in_order(mine), guideline="g1").revision == 1


def test_a_skip_frees_the_slot_and_the_task_never_comes_back_to_who_skipped_it(store, add_ranking_tasks):
    task_id = add_ranking_tasks(store, 1)[0]
    mine = store.next_task("ana", "ranking")

    store.skip("ana", task_id, mine.lease, "I know the author")
    store.skip("ana", task_id, mine.lease, "I know the author")  # sent again: no error, nothing new

    assert store.next_task("ana", "ranking") is None
    assert store.next_task("ben", "ranking").task.id == task_id
    assert store.stats()["labels"]["skips"] == 1


@pytest.mark.parametrize(
    "threads, overlap, tasks", [(8, 2, 40), pytest.param(32, 3, 300, marks=pytest.mark.slow)], ids=["few", "many"]
)
def test_each_task_gets_exactly_its_overlap_of_labels_from_different_people(
    store, add_ranking_tasks, in_order, threads, overlap, tasks
):
    names = [f"labeler{n}" for n in range(threads)]
    for name in names:
        store.add_user(name, "labeler")
    add_ranking_tasks(store, tasks, overlap=overlap)
    start = threading.Barrier(threads)

    def work(name: str) -> int:
        start.wait()
        done = 0
        while assignment := store.next_task(name, "ranking"):
            store.submit_ranking(name, assignment.task.id, assignment.lease, in_order(assignment), guideline="g1")
            done += 1
        return done

    with ThreadPoolExecutor(threads) as pool:
        assert sum(pool.map(work, names)) == overlap * tasks

    labelers = defaultdict(list)
    for ranking in store.rankings():
        labelers[ranking.task_id].append(ranking.labeler)
    assert len(labelers) == tasks
    assert all(len(who) == len(set(who)) == overlap for who in labelers.values())


# ------------------------------------------------------------- submissions


def test_the_same_answer_again_earns_the_same_receipt_and_adds_nothing(store, clock, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    first = submit(store, "ana", mine, [1, 2, 2], flags={mine.task.response_ids[0]: ("pii", "unsafe")})
    before = everything_in(store)
    clock.advance(600)

    again = submit(store, "ana", mine, [1, 2, 2], flags={mine.task.response_ids[0]: ("unsafe", "pii", "pii")})

    assert again == first and first.revision == 1
    assert everything_in(store) == before


def test_another_answer_is_the_next_revision_and_the_earlier_one_is_kept(store, clock, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    first = submit(store, "ana", mine, [1, 2, 3])
    clock.advance(600)

    second = submit(store, "ana", mine, [3, 2, 1])

    assert second == replace(first, revision=2)
    assert [list(ranking.answer.ranks.values()) for ranking in store.rankings()] == [[3, 2, 1]]
    assert [row[9] for row in everything_in(store)["rankings"]] == [[1, 2, 3], [3, 2, 1]]
    assert store.stats()["tasks"]["ranking"]["done"] == 1


def test_thirty_two_threads_that_send_one_answer_at_once_make_one_label(store, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")

    with ThreadPoolExecutor(32) as pool:
        receipts = set(pool.map(lambda _: submit(store, "ana", mine, [1, 2, 3]), range(32)))

    assert len(receipts) == 1
    assert len(store.rankings()) == 1


def test_a_demonstration_is_kept_revised_and_read_back(store):
    ids = store.add_prompts([HELLO])
    store.add_demonstration_tasks(ids)
    mine = store.next_task("ana", "demonstration")
    assert mine.responses == () and mine.prompt.messages == HELLO.messages

    for text in ("Hi!", "Hi there!"):
        answer = DemonstrationAnswer(text, seconds=12)
        receipt = store.submit_demonstration("ana", mine.task.id, mine.lease, answer, guideline="g1")

    (found,) = store.demonstrations()
    assert (found.label_id, found.revision, found.answer.response) == (receipt.label_id, 2, "Hi there!")
    assert (found.source, found.prompt_id, found.labeler) == ("labeler", ids[0], store.user("ana").pseudonym)
    assert store.next_task("ben", "demonstration") is None


def test_a_rewrite_is_a_demonstration_that_follows_its_ranking(store, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")

    def rewrite(text):
        return {"response_id": mine.task.response_ids[0], "text": text}

    receipt = submit(store, "ana", mine, [1, 2, 3], rewrite=rewrite("Better."))
    (made,) = store.demonstrations()
    assert (made.answer.response, made.source, made.revision) == ("Better.", f"rewrite:{receipt.label_id}", 1)

    submit(store, "ana", mine, [2, 1, 3], rewrite=rewrite("Better."))  # the ranking changed, the rewrite did not
    assert store.demonstrations() == [made]
    submit(store, "ana", mine, [2, 1, 3], rewrite=rewrite("Best."))
    assert [(d.label_id, d.revision, d.answer.response) for d in store.demonstrations()] == [
        (made.label_id, 2, "Best.")
    ]
    submit(store, "ana", mine, [2, 1, 3])
    assert store.demonstrations() == []
    submit(store, "ana", mine, [2, 1, 3], rewrite=rewrite("After all."))
    assert [(d.revision, d.answer.response) for d in store.demonstrations()] == [(1, "After all.")]


# ------------------------------------------------------------- withdrawals


def test_a_withdrawn_label_is_hidden_and_its_slot_is_free_for_others_alone(store, add_ranking_tasks, label):
    add_ranking_tasks(store, 1)
    task_id, label_id = label(store, "ana")

    assert store.withdraw(label_id=label_id) == [label_id]
    assert store.withdraw(label_id=label_id) == [label_id]  # again: the same answer, nothing new

    assert store.rankings() == []
    assert store.next_task("ana", "ranking") is None
    assert store.next_task("ben", "ranking").task.id == task_id
    assert len(everything_in(store)["rankings"]) == 1


def test_a_withdrawn_answer_sent_again_is_recognised_and_a_revision_of_it_refused(store, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    receipt = submit(store, "ana", mine, [1, 2, 3])
    store.withdraw(label_id=receipt.label_id)

    assert submit(store, "ana", mine, [1, 2, 3]) == receipt
    with pytest.raises(Conflict, match="withdrawn"):
        submit(store, "ana", mine, [3, 2, 1])
    assert store.rankings() == []


@pytest.mark.parametrize("by", ["name", "pseudonym"])
def test_all_of_a_labelers_labels_are_withdrawn_with_the_rewrites_in_them(store, add_ranking_tasks, label, by):
    add_ranking_tasks(store, 2, overlap=2)
    _, first = label(store, "ana")
    assignment = store.next_task("ana", "ranking")
    rewrite = {"response_id": assignment.task.response_ids[0], "text": "Better."}
    second = submit(store, "ana", assignment, [1, 2, 3], rewrite=rewrite).label_id
    _, other = label(store, "ben")
    rewritten = store.demonstrations()[0].label_id

    withdrawn = store.withdraw(labeler="ana" if by == "name" else store.user("ana").pseudonym)

    assert set(withdrawn) == {first, second, rewritten}
    assert [ranking.label_id for ranking in store.rankings()] == [other]
    assert store.demonstrations() == []
    with pytest.raises(NotFound, match="nobody"):
        store.withdraw(labeler="nobody")


# ----------------------------------------------------------------- imports


def test_importing_the_same_demonstrations_again_adds_nothing(store):
    id = store.add_prompts([HELLO])[0]
    rows = [(id, "Hi!"), (id, "Hello!"), (id, "Hi!")]

    assert len(store.add_demonstrations(rows, labeler="pawl", source="seed")) == 2
    assert store.add_demonstrations(rows, labeler="pawl", source="seed") == []
    assert len(store.add_demonstrations(rows[:1], labeler="pawl", source="other.jsonl")) == 1
    assert {(d.source, d.task_id) for d in store.demonstrations()} == {("seed", None), ("other.jsonl", None)}


def test_imported_rankings_of_the_same_responses_share_a_task_that_nobody_is_offered(store):
    id = store.add_prompts([HELLO])[0]
    rankings = [
        NewRanking(id, TEXTS, (1, 2, 2), "Maria", comment="ok", ratings=({"helpful": 7}, {}, {})),
        NewRanking(id, TEXTS, (2, 1, None), "Ivan", flags=((), (), ("unsafe",))),
        NewRanking(id, TEXTS[:2], (1, 2), "Maria"),
    ]

    ids = store.add_rankings(rankings)

    assert len(ids) == 3 and store.add_rankings(rankings) == []
    rows = {row["label_id"]: row for row in store.ranking_rows()}
    one, two, three = (rows[label_id] for label_id in ids)
    assert one["task_id"] == two["task_id"] != three["task_id"]
    assert one["labeler"] == three["labeler"] != two["labeler"] and "Maria" not in str(rows)
    assert [response["text"] for response in one["responses"]] == ["One.", "Two.", "Three."]
    assert one["ratings"] == {one["responses"][0]["id"]: {"helpful": 7}}
    assert two["flags"] == {two["responses"][2]["id"]: ["unsafe"]} and two["ranks"] == [2, 1, None]
    assert store.next_task("ana", "ranking") is None
    assert store.stats()["agreement"]["pairs"] == 1  # the pair of One and Two, which both ranked
    assert store.stats()["tasks_per_hour"] == 0


# --------------------------------------------------------- models and runs


def checkpoint(id, state="candidate", reason=""):
    return Checkpoint(id, "ppo", ("sft-0001",), "ab12", {"win": 0.6}, state, reason, datetime(2026, 3, 1, tzinfo=UTC))


def test_promoting_a_checkpoint_retires_the_one_promoted_before(store):
    store.add_checkpoint(checkpoint("ppo-0001", "promoted", "first"))
    store.add_checkpoint(checkpoint("ppo-0002"))
    assert store.promoted().id == "ppo-0001"

    store.add_checkpoint(checkpoint("ppo-0002", "promoted", "better"))
    store.add_checkpoint(checkpoint("ppo-0002", "promoted", "better"))

    assert store.promoted() == checkpoint("ppo-0002", "promoted", "better")
    assert [(c.id, c.state) for c in store.checkpoints()] == [("ppo-0001", "retired"), ("ppo-0002", "promoted")]
    assert "ppo-0002" in store.checkpoint("ppo-0001").reason
    assert len(everything_in(store)["checkpoint_states"]) == 4


def test_a_run_is_read_back_as_it_last_stood(store):
    store.put_run("ppo-0001", {"state": "running", "step": 1})
    store.put_run("ppo-0001", {"state": "done", "step": 2})
    store.put_run("ppo-0001", {"state": "done", "step": 2})

    assert store.run("ppo-0001") == {"id": "ppo-0001", "state": "done", "step": 2}
    assert store.runs() == [store.run("ppo-0001")]
    assert store.run("ppo-0002") is None
    assert len(everything_in(store)["runs"]) == 2


# ----------------------------------------------------------------- reading


def test_a_ranking_row_carries_all_that_training_and_people_need(store, clock, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    mine = store.next_task("ana", "ranking")
    one, two, three = mine.task.response_ids
    answer = RankingAnswer({one: 2, two: 1}, unrankable=(three,), ratings={one: {"honest": 3}}, comment="c", seconds=9)
    receipt = store.submit_ranking("ana", mine.task.id, mine.lease, answer, guideline="g1")

    (row,) = store.ranking_rows()

    assert row == {
        "label_id": receipt.label_id,
        "revision": 1,
        "task_id": mine.task.id,
        "prompt_id": mine.prompt.id,
        "prompt": [{"role": "user", "content": "Question 0?"}],
        "responses": [
            {"id": id, "text": f"Response {n}.", "source": "sft-0001"} for n, id in enumerate((one, two, three))
        ],
        "ranks": [2, 1, None],
        "labeler": store.user("ana").pseudonym,
        "created_at": "2026-03-01T09:00:00+00:00",
        "seconds": 9.0,
        "display_order": [response.id for response in mine.responses],
        "split": "train",
        "unrankable": [three],
        "ratings": {one: {"honest": 3}},
        "flags": {},
        "rewrite": None,
        "comment": "c",
        "guideline": "g1",
        "source": "labeler",
        "licence": "",
        "client_at": "",
        "details": {},
    }
    assert json.loads(json.dumps(row)) == row
    assert store.rankings()[0].answer == answer


def test_comparisons_are_the_decided_pairs_with_the_rank_difference(store, add_ranking_tasks):
    add_ranking_tasks(store, 1, responses=4)
    mine = store.next_task("ana", "ranking")
    one, two, three, four = mine.task.response_ids
    answer = RankingAnswer({one: 3, two: 1, three: 3}, unrankable=(four,))  # two before one and three, which tie
    store.submit_ranking("ana", mine.task.id, mine.lease, answer, guideline="g1")

    pairs = [(row["chosen_id"], row["rejected_id"], row["margin"], row["chosen"]) for row in store.comparison_rows()]

    assert pairs == [(two, one, 2, "Response 1."), (two, three, 2, "Response 1.")]


def test_an_export_is_of_one_moment_whatever_is_committed_while_it_is_read(store, add_ranking_tasks, label):
    add_ranking_tasks(store, 4)
    _, label_id = label(store, "ana")

    with store.moment() as moment:
        label(store, "ana")
        store.withdraw(labeler="ana")
        add_ranking_tasks(store, 1)
        assert [row["label_id"] for row in moment.ranking_rows()] == [label_id]
        assert len(list(moment.prompt_rows())) == 4

    assert list(store.ranking_rows()) == []


def test_two_iterators_of_one_moment_at_once_are_refused_and_of_two_moments_not(
    store, add_ranking_tasks, label, monkeypatch
):
    monkeypatch.setattr("data.exports.CHUNK", 1)
    add_ranking_tasks(store, 3)
    label(store, "ana")
    label(store, "ana")

    with store.moment() as moment:
        rankings = moment.rankings()
        next(rankings)
        with pytest.raises(RuntimeError, match="still being read"):
            next(moment.prompt_rows())
        assert len(list(rankings)) == 1
    assert len(list(zip(store.prompt_rows(), store.prompt_rows(), strict=True))) == 3


def test_rows_come_by_prompt_and_label_in_batches_and_none_is_missed(store, add_ranking_tasks, label, monkeypatch):
    monkeypatch.setattr("data.exports.BATCH", 3)  # rows at a time out of the database
    monkeypatch.setattr("data.assembly.SHARE_BYTES", 2_000)  # about a prompt's rankings
    tasks = add_ranking_tasks(store, 7, overlap=2)
    given = [label(store, name) for name in ("ana", "ben") for _ in tasks]

    batches = list(store.batches("rankings"))
    rows = [row for batch in batches for row in batch.to_pylist()]

    assert len(batches) > 3
    assert sorted((row["task_id"], row["label_id"]) for row in rows) == sorted(given)
    assert [(row["prompt_id"], row["label_id"]) for row in rows] == sorted(
        (r["prompt_id"], r["label_id"]) for r in rows
    )
    assert {row["responses"][2]["text"] for row in rows} == {"Response 2."}


def test_responses_are_read_by_id_and_unknown_ones_left_out(store, add_ranking_tasks):
    add_ranking_tasks(store, 1)
    ids = store.next_task("ana", "ranking").task.response_ids

    found = store.responses([ids[1], "r-unknown"])

    assert list(found) == [ids[1]]
    assert (found[ids[1]].text, found[ids[1]].sampling) == ("Response 1.", {"temperature": 0.7})


def test_the_statistics_count_what_stands(store, clock, add_ranking_tasks, label):
    store.project.change_settings({"repeat_share": 0.0}, "ana")
    heldout = store.add_prompts([NewPrompt((Message("user", "Held out?"),), split="heldout")])[0]
    store.add_ranking_task(heldout, TEXTS, 2)
    label(store, "ana")  # not trainable: held out
    clock.advance(61)
    label(store, "ben")
    add_ranking_tasks(store, 3)
    label(store, "ana")
    _, withdrawn = label(store, "ana")
    store.withdraw(label_id=withdrawn)
    tied = store.next_task("ben", "ranking")
    submit(store, "ben", tied, [1, 1, 1])  # not trainable: nothing decided
    store.add_demonstrations([(heldout, "So.")], labeler="pawl", source="seed")

    stats = store.stats()

    ana, ben = store.user("ana").pseudonym, store.user("ben").pseudonym
    pawl = store.demonstrations()[0].labeler
    assert stats["prompts"] == {"train": 3, "heldout": 1}
    # ben was given what ana's withdrawal freed
    assert stats["tasks"]["ranking"] == {"open": 1, "done": 3, "resting": 0, "retired": 0}
    assert stats["tasks"]["demonstration"] == {"open": 0, "done": 0, "resting": 0, "retired": 0}
    trainable = {"rankings_trainable": 1, "demonstrations_trainable": 0}  # the demonstration is of a held-out prompt
    assert stats["labels"] == {"rankings": 4, "demonstrations": 1, "skips": 0, **trainable}
    assert stats["labelers"] == {
        ana: {"rankings": 2, "demonstrations": 0},
        ben: {"rankings": 2, "demonstrations": 0},
        pawl: {"rankings": 0, "demonstrations": 1},
    }
    assert (stats["agreement"]["pairwise"], stats["agreement"]["pairs"]) == (1.0, 3)  # both ranked Held out? in order
    assert stats["tasks_per_hour"] == 4  # ana's first was 61 minutes ago; a withdrawn one was work all the same
    assert json.loads(json.dumps(stats)) == stats


# --------------------------------------------------- restarts and ownership


def test_a_restart_forgets_nothing(tmp_path, clock, add_ranking_tasks, label):
    path = tmp_path / "feedback.duckdb"
    with Store(path, now=clock) as store:
        for name in ("ana", "ben", "cem"):
            store.add_user(name, "labeler")
        store.add_token("ana", "hash", "session", clock.now + timedelta(days=1))
        store.add_token("ben", "spent", "link", None)
        store.use_link("spent")
        store.set_password("ana", "$argon2id$", keep_session="hash")
        add_ranking_tasks(store, 3, overlap=2)
        done = label(store, "ana")
        open_lease = store.next_task("ana", "ranking")
        skipped = store.next_task("ben", "ranking")
        store.skip("ben", skipped.task.id, skipped.lease, "no")
        store.add_checkpoint(checkpoint("ppo-0001", "promoted", "first"))
        store.put_run("ppo-0001", {"state": "done"})
        batch = Batch("b-1", "ppo-0001", (BatchRow(store.add_prompts([HELLO])[0], TEXTS),))
        batch_tasks = store.add_batch(batch)
        before = (store.users(), store.prompts(), store.rankings(), store.stats(), store.checkpoints(), store.runs())

    with Store(path, now=clock) as store:
        after = (store.users(), store.prompts(), store.rankings(), store.stats(), store.checkpoints(), store.runs())
        assert after == before
        assert store.user_of_token("hash", "session").name == "ana"
        assert store.use_link("spent") is None
        assert store.password_hash("ana") == "$argon2id$"
        assert store.next_task("ana", "ranking") == open_lease
        assert store.add_batch(batch) == batch_tasks
        offered = []
        while (assignment := store.next_task("ben", "ranking")) is not None:
            offered.append(assignment.task.id)
            submit(store, "ben", assignment, [1, 2, 3])
        assert skipped.task.id not in offered and len(offered) == 3
        assert {row["label_id"] for row in store.ranking_rows()} >= {done[1]}


def test_a_lease_that_ran_out_while_the_store_was_closed_is_free(tmp_path, clock, add_ranking_tasks):
    path = tmp_path / "feedback.duckdb"
    with Store(path, now=clock) as store:
        store.add_user("ana", "labeler")
        store.add_user("ben", "labeler")
        task_id = add_ranking_tasks(store, 1)[0]
        store.next_task("ana", "ranking")
    clock.advance(31)

    with Store(path, now=clock) as store:
        assert store.next_task("ben", "ranking").task.id == task_id
        assert store.next_task("ana", "ranking") is None


def test_a_second_owner_in_this_process_is_refused_until_the_first_lets_go(tmp_path):
    path = tmp_path / "feedback.duckdb"
    with Store(path):
        with pytest.raises(WorkspaceInUse, match="another process"):
            Store(path)
    Store(path).close()


def test_a_second_process_is_refused_with_the_address_of_the_first(tmp_path):
    path = tmp_path / "feedback.duckdb"
    (tmp_path / "server.json").write_text('{"url": "http://127.0.0.1:7860", "pid": 42, "token": "secret"}')
    program = f"""
from pathlib import Path
from data.errors import WorkspaceInUse
from data.store import Store
try:
    Store(Path({str(path)!r}))
except WorkspaceInUse as error:
    print(error)
"""
    with Store(path):
        run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)

    assert "http://127.0.0.1:7860 (process 42)" in run.stdout, run.stderr
    assert "secret" not in run.stdout


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "feedback.duckdb"
    path.write_bytes(b"not a database" * 1000)

    with pytest.raises(StoreFailed, match="cannot be opened"):
        Store(path)

    assert path.read_bytes() == b"not a database" * 1000


def test_a_store_of_a_newer_pawl_is_refused(tmp_path):
    path = tmp_path / "feedback.duckdb"
    with Store(path) as store:
        store._database.connection.execute("INSERT INTO schema_version VALUES (99, now())")

    with pytest.raises(StoreFailed, match="newer Pawl"):
        Store(path)


def test_one_row_that_no_table_takes_fails_alone_among_those_committed_with_it(store, clock):
    busy, free = threading.Event(), threading.Event()

    def hold_the_writer(live, now):
        busy.set()
        free.wait(10)
        return [], None

    with ThreadPoolExecutor(8) as pool:
        pool.submit(store._writer.run, hold_the_writer)
        busy.wait(10)
        bad = pool.submit(store._writer.run, lambda live, now: ([RunRow("ppo-0001", "{not JSON", now)], None))
        good = [pool.submit(store.add_user, f"labeler{n}", "labeler") for n in range(5)]
        while store._writer._waiting.qsize() < 6:
            pass
        free.set()

        assert {future.result().name for future in good} == {f"labeler{n}" for n in range(5)}
        with pytest.raises(StoreFailed, match="Nothing of it was kept"):
            bad.result()

    assert len(store.users()) == 8 == len(everything_in(store)["users"])
    assert store.runs() == []


def test_a_closed_store_refuses_everything_and_closes_twice_in_peace(store):
    store.close()
    store.close()

    with pytest.raises(StoreFailed, match="closed"):
        store.add_prompts([HELLO])
    with pytest.raises(StoreFailed):
        store.rankings()
