"""Talks: what labelers said and the model is answering just now.

Reads   the store, and what the sampler hears
Writes  turns, through the store, once all their replies are there

An answer in the making belongs to the app, not to the connection that asked for it: a page that is reloaded sends the
same key again and follows the same answer from its beginning.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from starlette.concurrency import run_in_threadpool

from data.errors import Conflict, FeedbackError, SamplerFailed
from data.exports import iso

if TYPE_CHECKING:
    from annotate.sampler import Sampler
    from data.conversations import PlannedTurn
    from data.records import Conversation
    from data.store import Store

log = logging.getLogger("pawl")
BREATH_SECONDS = 15.0  # a comment is sent after so long without an event, so that proxies keep the connection
AT_ONCE = 3  # talks of one labeler
Json = dict[str, Any]


class Talk:
    """One message on its way to being answered: the events so far, for whoever follows it."""

    def __init__(self, labeler: str, key: str, text: str, replies: int) -> None:
        self.labeler, self.key, self.text, self.replies = labeler, key, text, replies
        self.done = False
        self._events: list[bytes] = []
        self._more = asyncio.Event()

    def tell(self, event: str, data: Json, *, last: bool = False) -> None:
        """A server-sent event to all that follow, now or later."""
        self._events.append(f"event: {event}\ndata: {json.dumps(data)}\n\n".encode())
        self.done = self.done or last
        more, self._more = self._more, asyncio.Event()
        more.set()

    async def follow(self) -> AsyncIterator[bytes]:
        """Every event from the first to the last."""
        seen = 0
        while True:
            more = self._more
            while seen < len(self._events):
                yield self._events[seen]
                seen += 1
            if self.done:
                return
            try:
                await asyncio.wait_for(more.wait(), BREATH_SECONDS)
            except TimeoutError:
                yield b": still answering\n\n"


class Talks:
    """The talks under way, by conversation. Lives on the event loop."""

    def __init__(self, store: Store, sampler: Sampler) -> None:
        self.sampler = sampler
        self._store = store
        self._under_way: dict[str, Talk] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def under_way(self, conversation_id: str) -> Talk | None:
        """The talk that is being answered in this conversation."""
        return self._under_way.get(conversation_id)

    async def say(self, labeler: str, id: str, key: str, text: str, replies: int) -> Talk:
        """Have the labeler's message answered. The same key again follows the same answer, and samples nothing.

        Raises NotFound, InvalidInput, or Conflict: no model, another message being answered, not their turn to speak.
        """
        conversation = self._store.conversations.of(labeler, id)
        if (talk := self._under_way.get(id)) is not None:
            if (talk.key, talk.text) != (key, text):
                raise Conflict("The model is still answering what you said before. Nothing was sent; wait for it.")
            return talk
        if any(turn.key == key for turn in conversation.turns):
            return await run_in_threadpool(self._told, labeler, conversation, key, text, replies)
        planned = await run_in_threadpool(self._store.conversations.plan, labeler, id, key, text, replies)
        if (why := self.sampler.why_not()) is not None:
            raise Conflict(why)
        if id in self._under_way:  # said twice in the same moment
            return await self.say(labeler, id, key, text, replies)
        if sum(talk.labeler == labeler for talk in self._under_way.values()) >= AT_ONCE:
            raise Conflict(f"{AT_ONCE} of your messages are being answered. Nothing was sent; wait for one of them.")
        talk = self._under_way[id] = Talk(labeler, key, text, replies)
        task = asyncio.create_task(self._answer(labeler, talk, planned))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return talk

    def describe(self, labeler: str, conversation: Conversation) -> Json:
        """A conversation as its labeler's page needs it, with the turn that waits to be ranked."""
        conversations = self._store.conversations
        talk = self._under_way.get(conversation.id)
        opened = conversations.open_turn(labeler, conversation)
        turn = opened and {
            "task_id": opened.task.id,
            "kind": "ranking",
            "lease": opened.lease,
            "lease_expires_at": iso(opened.lease_expires_at),
            "prompt": {"messages": [{"role": m.role, "content": m.content} for m in opened.prompt.messages]},
            "responses": [{"id": response.id, "text": response.text} for response in opened.responses],
        }
        return {
            "conversation_id": conversation.id,
            "created_at": iso(conversation.created_at),
            "turns": len(conversation.turns),
            "messages": [{"role": m.role, "content": m.content} for m in conversations.messages(conversation)],
            "task_id": conversation.turns[-1].task_id if conversation.turns else None,
            "stands": conversations.standing(conversation),
            "open": turn,
            "speaking": talk and {"key": talk.key, "text": talk.text, "replies": talk.replies},
            "attack": conversation.attack,
            "ended": conversation.ended,
        }

    async def stop(self) -> None:
        """The app stops: end every talk, and who answers them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.to_thread(self.sampler.stop)

    def _told(self, labeler: str, conversation: Conversation, key: str, text: str, replies: int) -> Talk:
        """The talk of a turn that is stored already."""
        turn = next(turn for turn in conversation.turns if turn.key == key)
        if self._store.conversations.asked(turn) != text:
            raise Conflict("Something else was said under this key. Nothing was sent; choose another key.")
        talk = Talk(labeler, key, text, replies)
        talk.tell("turn", self.describe(labeler, conversation), last=True)
        return talk

    async def _answer(self, labeler: str, talk: Talk, planned: PlannedTurn) -> None:
        """Get the replies, keep the turn, and tell of it. Whatever goes wrong is told too: then nothing is stored."""

        def heard(number: int, piece: str) -> None:
            talk.tell("delta", {"index": planned.places[number], "text": piece})

        try:
            if not self.sampler.is_ready():
                talk.tell("waiting", {"words": "The model is being started, which takes a moment."})
            responses = await self.sampler.replies(planned.messages, len(planned.response_ids), heard)
            conversation = await run_in_threadpool(self._store.conversations.add_turn, labeler, planned, responses)
            self._under_way.pop(planned.conversation_id, None)
            talk.tell("turn", await run_in_threadpool(self.describe, labeler, conversation), last=True)
        except FeedbackError as error:
            talk.tell("problem", _problem(error), last=True)
        except asyncio.CancelledError:
            stops = SamplerFailed("The app is stopping. What you wrote is kept; send it again later.")
            talk.tell("problem", _problem(stops), last=True)
            raise
        except Exception:  # what nobody foresaw is for the log; the page must hear that there is no answer
            log.exception("A message could not be answered")
            failed = SamplerFailed("Something went wrong in the app; its log says what. Nothing was stored; try again.")
            talk.tell("problem", _problem(failed), last=True)
        finally:
            self._under_way.pop(planned.conversation_id, None)


def _problem(error: FeedbackError) -> Json:
    return {"status": error.status, "title": error.title, "detail": str(error)}
