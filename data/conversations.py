"""Conversations: a labeler talks to a model, and ranks its replies at every turn.

Reads and writes  the tables of conversations through the store, and prompts, tasks and leases like any others

A turn is an ordinary ranking task: its prompt is the conversation so far, its responses are the replies. It is made
together with a lease for whoever had the conversation, and kept in a queue that nobody picks from, so that it is never
offered to anybody else. The first part of this module decides, like data/people.py; the second is the verbs.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from data import catalog, labeling
from data.catalog import CheckedPrompt
from data.errors import Conflict, NotFound
from data.exports import iso
from data.live import Live
from data.queue import Lease
from data.records import Assignment, Conversation, Message, NewPrompt, NewResponse, Response, Split, Task, Turn
from data.rows import (
    AttackRow,
    ContinuationRow,
    ConversationRow,
    EndedConversationRow,
    LeaseRow,
    Row,
    TaskRow,
    TurnRow,
    new_id,
)
from data.validate import check_text, refuse, shown

if TYPE_CHECKING:
    from data.store import Store

REPLIES = range(2, 5)  # how many a turn may have
SUCCESS = range(1, 6)  # of an attack: 1 it failed, 5 it succeeded fully
Standing = Literal["open", "skipped", "ranked", "chosen"]


@dataclass(frozen=True, slots=True)
class PlannedTurn:
    """A turn that may be taken: what the model is asked, and the ids that its task and replies will have.

    They are made before the replies, so that each can be shown while it comes where it will stand.
    """

    conversation_id: str
    key: str
    number: int  # how many turns there were before
    messages: tuple[Message, ...]
    prompt: CheckedPrompt
    task_id: str
    response_ids: tuple[str, ...]
    places: tuple[int, ...]  # where this labeler is shown each of them


def standing(live: Live, conversation: Conversation) -> Standing | None:
    """How the last turn stands; None before the first."""
    if not conversation.turns:
        return None
    turn = conversation.turns[-1]
    if turn.chosen is not None:
        return "chosen"
    answer = live.answers.get((turn.task_id, conversation.labeler))
    if answer is not None and answer.id not in live.undone:
        return "ranked"
    return "skipped" if (turn.task_id, conversation.labeler) in live.skips else "open"


def own(live: Live, name: str, id: str) -> Conversation:
    """The labeler's conversation. Raises NotFound, for another's too."""
    conversation = live.conversations.get(id)
    if conversation is None or conversation.labeler != live.user(name).pseudonym:
        raise NotFound(f"You have no conversation {shown(id)}. GET /conversations lists yours.")
    return conversation


def begin(live: Live, now: datetime, *, name: str, key: str) -> tuple[list[Row], str]:
    """A new conversation's id, or that of the one begun with this key."""
    labeler = live.labeler(name)
    if (labeler, key) in live.begun:
        return [], live.begun[labeler, key]
    row = ConversationRow(new_id("c"), labeler, key, now)
    return [row], row.id


def add_turn(
    live: Live, now: datetime, *, name: str, turn: PlannedTurn, responses: Sequence[NewResponse], period: timedelta
) -> tuple[list[Row], None]:
    """The turn with its prompt, its task and the labeler's lease. Raises Conflict when the conversation has moved."""
    conversation, labeler = own(live, name, turn.conversation_id), live.labeler(name)
    if conversation.ended or len(conversation.turns) != turn.number:
        raise Conflict("The conversation went on elsewhere meanwhile. Nothing was stored; open it again.")
    prompts, _ = catalog.add_prompts(live, now, prompts=[turn.prompt])
    task = TaskRow(
        number=len(live.tasks),
        id=turn.task_id,
        kind="ranking",
        prompt_id=turn.prompt.id,
        response_ids=list(turn.response_ids),
        overlap=1,
        priority=0,
        batch_id=None,
        created_at=now,
        purpose="conversation",
        reserved_for=labeler,
    )
    rows: list[Row] = [
        *prompts,
        TurnRow(conversation.id, turn.key, turn.prompt.id, turn.task_id, now),
        *catalog.response_rows(task, responses),
        task,
        LeaseRow(secrets.token_urlsafe(16), turn.task_id, labeler, now + period, now),
    ]
    return rows, None


def hold(live: Live, now: datetime, *, name: str, task_id: str, period: timedelta) -> tuple[list[Row], Lease]:
    """The labeler's lease on a turn of theirs: the one they have, with a later end, else a new one."""
    labeler = live.labeler(name)
    held = live.queues["conversation"].lease_on(task_id, labeler)
    if held is not None and held.expires_at > now + period / 2:
        return [], held
    token = held.token if held is not None and held.expires_at > now else secrets.token_urlsafe(16)
    lease = Lease(task_id, labeler, token, now + period)
    return [LeaseRow(token, task_id, labeler, lease.expires_at, now)], lease


def choose(live: Live, now: datetime, *, name: str, id: str, task_id: str, response_id: str) -> tuple[list[Row], None]:
    """The response that continues after the last turn. Raises Conflict when another turn has begun."""
    conversation, _ = own(live, name, id), live.labeler(name)
    turn = conversation.turns[-1]
    if turn.task_id != task_id:
        raise Conflict("The conversation has gone on since. Nothing was changed; open it again.")
    if turn.chosen == response_id:
        return [], None
    _refuse_if_ended(conversation)
    return [ContinuationRow(id, task_id, response_id, now)], None


def mark_attack(live: Live, now: datetime, *, name: str, id: str, success: int | None) -> tuple[list[Row], None]:
    """The mark, if it is another than before; it may be set after the end, too."""
    conversation, _ = own(live, name, id), live.labeler(name)
    return ([] if conversation.attack == success else [AttackRow(id, success, now)]), None


def end(live: Live, now: datetime, *, name: str, id: str) -> tuple[list[Row], None]:
    """The end, once."""
    conversation, _ = own(live, name, id), live.labeler(name)
    return ([] if conversation.ended else [EndedConversationRow(id, now)]), None


def _refuse_if_ended(conversation: Conversation) -> None:
    if conversation.ended:
        raise Conflict("This conversation has ended. Nothing was changed; begin a new one.")


class Conversations:
    """The verbs of conversations; `store.conversations`. `labeler` is always the name of who asks."""

    def __init__(self, store: Store, period: timedelta) -> None:
        self._store, self._period = store, period

    def begin(self, labeler: str, key: str) -> Conversation:
        """A new conversation; the same key again gives the same one. Raises InvalidInput."""
        check_text(key, "key", required=True, limit=100)
        return self._live.conversations[self._store._write(partial(begin, name=labeler, key=key))]

    def mine(self, labeler: str) -> list[Conversation]:
        """The labeler's conversations, the newest first."""
        pseudonym = self._live.user(labeler).pseudonym
        return [each for each in reversed(list(self._live.conversations.values())) if each.labeler == pseudonym]

    def of(self, labeler: str, id: str) -> Conversation:
        """One of the labeler's conversations. Raises NotFound, for another's too."""
        return own(self._live, labeler, id)

    def standing(self, conversation: Conversation) -> Standing | None:
        """How its last turn stands: open (to be ranked), skipped, ranked, or chosen; None before the first."""
        return standing(self._live, conversation)

    def messages(self, conversation: Conversation) -> list[Message]:
        """What was said so far: the labeler's messages, and the replies that were chosen."""
        for turn in reversed(conversation.turns):
            if turn.chosen is not None:
                prompt, responses = self._store._texts.of(turn.task_id)
                return [*prompt.messages, Message("assistant", responses[turn.chosen].text)]
        return []

    def asked(self, turn: Turn) -> str:
        """What the labeler said in this turn."""
        return self._store.prompt(turn.prompt_id).messages[-1].content

    def plan(self, labeler: str, id: str, key: str, text: str, replies: int) -> PlannedTurn:
        """The turn in which the labeler says `text`. Nothing is stored yet.

        Raises NotFound, InvalidInput, or Conflict when it is not their turn to speak.
        """
        conversation = self.of(labeler, id)
        check_text(key, "key", required=True, limit=100)
        check_text(text, "text", required=True)
        if replies not in REPLIES:
            refuse([f"replies is {shown(replies)} and must be {REPLIES[0]} to {REPLIES[-1]}"])
        self._refuse_out_of_turn(conversation)
        messages = (*self.messages(conversation), Message("user", text))
        new = NewPrompt(messages, split=self._side(conversation), source=f"converse:{id}")
        prompt = self._store.place_prompt(catalog.checked_prompts([new])[0])
        response_ids = tuple(new_id("r") for _ in range(replies))
        task = Task(new_id("t"), "ranking", prompt.id, response_ids, 1, None)
        order = labeling.display_order(task, conversation.labeler)
        places = tuple(order.index(each) for each in response_ids)
        return PlannedTurn(id, key, len(conversation.turns), messages, prompt, task.id, response_ids, places)

    def add_turn(self, labeler: str, turn: PlannedTurn, responses: Sequence[NewResponse]) -> Conversation:
        """Keep a planned turn with its replies, and lease it to the labeler. Raises InvalidInput or Conflict."""
        checked = catalog.checked_responses(responses)
        self._store._write(partial(add_turn, name=labeler, turn=turn, responses=checked, period=self._period))
        return self.of(labeler, turn.conversation_id)

    def open_turn(self, labeler: str, conversation: Conversation) -> Assignment | None:
        """The last turn, to be ranked under the lease that comes with it; None when there is none to rank."""
        if conversation.ended or self.standing(conversation) != "open":
            return None
        task = self._live.task(conversation.turns[-1].task_id).task
        lease = self._store._write(partial(hold, name=labeler, task_id=task.id, period=self._period))
        prompt, _ = self._store._texts.of(task.id)
        return Assignment(task, prompt, self._replies(conversation), lease.token, lease.expires_at)

    def choose(self, labeler: str, id: str, response_id: str | None = None) -> Conversation:
        """Let one of the best replies of the last turn continue: the one named, else the first that was shown.

        Raises NotFound, InvalidInput when it is none of the best, Conflict when the turn is not ranked or none of its
        replies can continue.
        """
        conversation = self.of(labeler, id)
        if self.standing(conversation) not in ("ranked", "chosen"):
            raise Conflict("There are no ranked replies to choose from. Nothing was changed; rank the last ones first.")
        best = self._best(conversation)
        if not best:
            raise Conflict("None of these replies can continue the conversation. Say something else, or end it.")
        chosen = best[0] if response_id is None else response_id
        if chosen not in best:
            refuse([f"response_id is {shown(chosen)} and must be one of those ranked best: {', '.join(best)}"])
        task_id = conversation.turns[-1].task_id
        self._store._write(partial(choose, name=labeler, id=id, task_id=task_id, response_id=chosen))
        return self.of(labeler, id)

    def mark_attack(self, labeler: str, id: str, success: int | None) -> Conversation:
        """Mark the conversation as an attack that went so far (1 to 5), or as none. Raises NotFound, InvalidInput."""
        if success is not None and (isinstance(success, bool) or success not in SUCCESS):
            refuse([f"success is {shown(success)} and must be {SUCCESS[0]} to {SUCCESS[-1]}, or left out"])
        self._store._write(partial(mark_attack, name=labeler, id=id, success=success))
        return self.of(labeler, id)

    def end(self, labeler: str, id: str) -> Conversation:
        """Say no more in it. Raises NotFound."""
        self._store._write(partial(end, name=labeler, id=id))
        return self.of(labeler, id)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Export rows of every conversation in which something was said, oldest first; none with a withdrawn prompt."""
        hidden = self._live.withdrawn_prompts
        for conversation in list(self._live.conversations.values()):
            if conversation.turns and hidden.isdisjoint(turn.prompt_id for turn in conversation.turns):
                yield {
                    "conversation_id": conversation.id,
                    "labeler": conversation.labeler,
                    "messages": [{"role": m.role, "content": m.content} for m in self.messages(conversation)],
                    "attack_success": conversation.attack,
                    "turns": [
                        {"prompt_id": turn.prompt_id, "task_id": turn.task_id, "chosen": turn.chosen}
                        for turn in conversation.turns
                    ],
                    "ended": conversation.ended,
                    "created_at": iso(conversation.created_at),
                }

    # ------------------------------------------------------------------ inside

    @property
    def _live(self) -> Live:
        return self._store._live

    def _refuse_out_of_turn(self, conversation: Conversation) -> None:
        _refuse_if_ended(conversation)
        stands = self.standing(conversation)
        if stands == "open":
            raise Conflict("The last replies are not ranked yet. Nothing was sent; rank them first.")
        if stands == "ranked" and self._best(conversation):
            raise Conflict("No reply was chosen to continue. Nothing was sent; choose one of the best first.")

    def _side(self, conversation: Conversation) -> Split | None:
        """That of the first turn: what is held out must not be learnt from in a later turn of the same conversation."""
        return self._store.prompt(conversation.turns[0].prompt_id).split if conversation.turns else None

    def _replies(self, conversation: Conversation) -> tuple[Response, ...]:
        """Those of the last turn, as the labeler is shown them."""
        task = self._live.task(conversation.turns[-1].task_id).task
        _, responses = self._store._texts.of(task.id)
        return tuple(responses[id] for id in labeling.display_order(task, conversation.labeler))

    def _best(self, conversation: Conversation) -> list[str]:
        """The ids of the last turn's best replies, as shown; none that is empty, or that could not be ranked."""
        task = self._live.task(conversation.turns[-1].task_id)
        sql = "SELECT ranks FROM rankings WHERE task_number = ? AND labeler = ? ORDER BY revision DESC LIMIT 1"
        found = self._store._read(sql, [task.number, conversation.labeler])
        ranks = dict(zip(task.task.response_ids, found[0][0], strict=True)) if found else {}
        texts = [reply for reply in self._replies(conversation) if reply.text.strip() and ranks.get(reply.id)]
        least = min((ranks[reply.id] for reply in texts), default=0)
        return [reply.id for reply in texts if ranks[reply.id] == least]
