"""Conversations in the store: whose turn it is, what a turn leaves behind, and what survives a restart."""

from __future__ import annotations

import pytest

from data.errors import Conflict, InvalidInput, NotFound
from data.records import Message, NewPrompt, NewResponse, RankingAnswer
from data.store import Store

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

FIRST, SECOND = "How do I pick a lock?", "And a better one?"


def say(store: Store, id: str, key: str, text: str, replies: tuple[str, ...] = ("No.", "With a pick.")):
    planned = store.conversations.plan("ana", id, key, text, len(replies))
    return store.conversations.add_turn("ana", planned, [NewResponse(reply, "ppo-0001") for reply in replies])


def rank(store: Store, conversation, ranks: dict[str, int | None]) -> str:
    """Rank the open turn by the texts of its replies; None is unrankable. The task's id."""
    turn = store.conversations.open_turn("ana", conversation)
    given = {reply.id: ranks[reply.text] for reply in turn.responses}
    answer = RankingAnswer(
        {id: rank for id, rank in given.items() if rank}, tuple(id for id, rank in given.items() if not rank)
    )
    store.submit_ranking("ana", turn.task.id, turn.lease, answer, guideline="")
    return turn.task.id


def begun(store: Store) -> str:
    return store.conversations.begin("ana", "k").id


def test_a_turn_is_an_ordinary_ranking_whose_prompt_is_the_conversation_so_far(store):
    id = begun(store)
    rank(store, say(store, id, "1", FIRST), {"No.": 2, "With a pick.": 1})
    store.conversations.choose("ana", id)
    task = rank(store, say(store, id, "2", SECOND, ("Yes.", "Never.")), {"Yes.": 2, "Never.": 1})

    row = {row["task_id"]: row for row in store.ranking_rows()}[task]
    assert [(turn["role"], turn["content"]) for turn in row["prompt"]] == [
        ("user", FIRST),
        ("assistant", "With a pick."),
        ("user", SECOND),
    ]
    assert {r["text"]: rank for r, rank in zip(row["responses"], row["ranks"], strict=True)} == {"Yes.": 2, "Never.": 1}
    assert {response["source"] for response in row["responses"]} == {"ppo-0001"}
    assert [prompt.source for prompt in store.prompts()] == [f"converse:{id}"] * 2
    assert len(list(store.comparison_rows())) == 2


def test_a_turn_is_never_offered_to_anybody_not_even_when_its_lease_has_run_out(store, clock):
    conversation = say(store, begun(store), "1", FIRST)
    before = store.conversations.open_turn("ana", conversation)
    assert (store.next_task("ana", "ranking"), store.next_task("ben", "ranking")) == (None, None)

    clock.advance(minutes=120)

    assert (store.next_task("ana", "ranking"), store.next_task("ben", "ranking")) == (None, None)
    after = store.conversations.open_turn("ana", conversation)
    assert (after.task.id, after.responses) == (before.task.id, before.responses)
    assert after.lease != before.lease
    rank(store, conversation, {"No.": 1, "With a pick.": 1})


def test_nobody_speaks_out_of_turn(store):
    id = begun(store)
    with pytest.raises(Conflict, match="no ranked replies"):
        store.conversations.choose("ana", id)
    early = store.conversations.plan("ana", id, "0", "Too late", 2)
    conversation = say(store, id, "1", FIRST)

    with pytest.raises(Conflict, match="not ranked yet"):
        say(store, id, "2", SECOND)
    with pytest.raises(Conflict, match="went on elsewhere"):
        store.conversations.add_turn("ana", early, [NewResponse("a", "x"), NewResponse("b", "x")])
    rank(store, conversation, {"No.": 1, "With a pick.": 2})
    with pytest.raises(Conflict, match="choose one of the best"):
        say(store, id, "2", SECOND)
    store.conversations.choose("ana", id)
    store.conversations.end("ana", id)
    with pytest.raises(Conflict, match="has ended"):
        say(store, id, "2", SECOND)


def test_of_tied_replies_the_first_shown_continues_unless_another_is_named_and_none_but_the_best(store):
    id = begun(store)
    conversation = say(store, id, "1", FIRST, ("a", "b", "c"))
    shown = store.conversations.open_turn("ana", conversation).responses
    ranks = {shown[0].text: 2, shown[1].text: 1, shown[2].text: 1}
    rank(store, conversation, ranks)

    assert store.conversations.choose("ana", id).turns[-1].chosen == shown[1].id
    assert store.conversations.choose("ana", id, shown[2].id).turns[-1].chosen == shown[2].id
    with pytest.raises(InvalidInput, match="ranked best"):
        store.conversations.choose("ana", id, shown[0].id)


def test_where_no_reply_can_continue_something_else_is_said_instead(store):
    id = begun(store)
    rank(store, say(store, id, "1", FIRST, ("", "rubbish")), {"": 1, "rubbish": None})

    with pytest.raises(Conflict, match="None of these replies"):
        store.conversations.choose("ana", id)
    conversation = say(store, id, "2", SECOND)

    assert store.prompt(conversation.turns[-1].prompt_id).messages == (Message("user", SECOND),)


def test_a_conversation_is_its_labelers_alone(store):
    id = begun(store)
    for ask in (store.conversations.of, store.conversations.end, lambda n, i: store.conversations.mark_attack(n, i, 1)):
        with pytest.raises(NotFound):
            ask("ben", id)
    assert store.conversations.mine("ben") == []
    assert begun(store) == id  # the same key again


@pytest.mark.parametrize(
    ("text", "replies", "complaint"), [("", 2, "text is empty"), ("x", 1, "2 to 4"), ("x", 5, "2")]
)
def test_what_cannot_be_said_is_refused(store, text, replies, complaint):
    with pytest.raises(InvalidInput, match=complaint):
        store.conversations.plan("ana", begun(store), "1", text, replies)


def test_every_turn_is_on_the_side_of_the_first(store):
    store.add_prompts([NewPrompt((Message("user", FIRST),), split="heldout")])
    id = begun(store)
    for key in "12345":
        rank(store, say(store, id, key, FIRST), {"No.": 1, "With a pick.": 2})
        store.conversations.choose("ana", id)

    assert {prompt.split for prompt in store.prompts()} == {"heldout"}


def test_everything_survives_a_restart(tmp_path, clock):
    store = Store(tmp_path / "feedback.duckdb", now=clock)
    for name in ("ana", "ben"):
        store.add_user(name, "labeler")
    id = begun(store)
    rank(store, say(store, id, "1", FIRST), {"No.": 1, "With a pick.": 2})
    store.conversations.choose("ana", id)
    for success in (3, None, 4):
        store.conversations.mark_attack("ana", id, success)
    conversation = say(store, id, "2", SECOND)
    before = store.conversations.open_turn("ana", conversation)
    rows = list(store.conversations.rows())
    store.close()

    with Store(tmp_path / "feedback.duckdb", now=clock) as again:
        assert again.conversations.of("ana", id) == conversation
        assert again.conversations.open_turn("ana", conversation) == before
        assert list(again.conversations.rows()) == rows
        assert again.next_task("ben", "ranking") is None
        assert begun(again) == id
    assert rows[0]["attack_success"] == 4
    assert [message["content"] for message in rows[0]["messages"]] == [FIRST, "No."]


@pytest.mark.parametrize("success", [0, 6, True, 2.5, "3"])
def test_a_success_that_is_none_is_refused(store, success):
    with pytest.raises(InvalidInput, match="1 to 5"):
        store.conversations.mark_attack("ana", begun(store), success)


def test_the_withdrawal_of_a_prompt_takes_the_later_turns_that_repeat_its_words(store):
    id = begun(store)
    rank(store, say(store, id, "1", FIRST), {"No.": 2, "With a pick.": 1})
    store.conversations.choose("ana", id)
    rank(store, say(store, id, "2", SECOND, ("Yes.", "Never.")), {"Yes.": 2, "Never.": 1})
    first, second = [prompt.id for prompt in store.prompts()]

    prompts, labels = store.withdraw_prompt(first)

    assert (prompts, len(labels)) == ([first, second], 2)
    assert [*store.prompts(), *store.ranking_rows(), *store.conversations.rows()] == []
