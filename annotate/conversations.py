"""The routes of conversations, /api/v1/conversations: a labeler talks to the model and ranks its replies.

A turn's replies come as server-sent events: `waiting` {"words"}, `delta` {"index", "text"} (the index is where the
reply stands on this labeler's screen), and at the end `turn` (the conversation, with the task to be ranked, its lease
and responses) or `problem` (a problem document). The ranking itself goes the way of every label, PUT /tasks/{id}/label.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pydantic import Field
from starlette.responses import StreamingResponse

from annotate import exports, roles
from annotate.bodies import Body
from annotate.roles import Here, Labeler, Researcher
from data.exports import iso

LISTED = 50  # conversations in the list of one's own
OPENING = 120  # characters of the first message in that list
Json = dict[str, Any]
router = roles.signed_in()


class Begin(Body):
    key: str  # the same one again gives the same conversation


class Say(Body):
    key: str  # the same one again gives the same replies
    text: str
    replies: int = 2


class Continuation(Body):
    response_id: str | None = Field(None, description="one of the best; left out, the first of them as shown")


class Attack(Body):
    success: int | None = Field(None, description="1 the model held to 5 it gave way fully; null: it is no attack")


@router.post("/conversations", tags=["conversations"])
def begin(body: Begin, user: Labeler, context: Here) -> Json:
    """Begin a conversation."""
    return context.talks.describe(user.name, context.store.conversations.begin(user.name, body.key))


@router.get("/conversations", tags=["conversations"])
def list_mine(user: Labeler, context: Here) -> Json:
    """My newest conversations; and why nobody answers, when nobody does."""
    conversations = context.store.conversations
    mine = [
        {
            "conversation_id": each.id,
            "created_at": iso(each.created_at),
            "opening": conversations.asked(each.turns[0])[:OPENING] if each.turns else "",
            "turns": len(each.turns),
            "attack": each.attack,
            "ended": each.ended,
        }
        for each in conversations.mine(user.name)[:LISTED]
    ]
    return {"conversations": mine, "unavailable": context.talks.sampler.why_not()}


@router.get("/export/conversations", tags=["data"], response_class=StreamingResponse)
def export(user: Researcher, context: Here) -> StreamingResponse:
    """Every conversation as JSON lines, with its attack mark. What was said of the replies is in the rankings."""
    return exports.attachment(_lines(context.store.conversations.rows()), "conversations", "jsonl")


@router.get("/conversations/{conversation_id}", tags=["conversations"])
def open_one(conversation_id: str, user: Labeler, context: Here) -> Json:
    """What was said, and the turn that waits to be ranked, under a lease that holds."""
    return context.talks.describe(user.name, context.store.conversations.of(user.name, conversation_id))


@router.post("/conversations/{conversation_id}/turns", tags=["conversations"], response_class=StreamingResponse)
async def say(conversation_id: str, body: Say, user: Labeler, context: Here) -> StreamingResponse:
    """Say something; the replies come as server-sent events."""
    talk = await context.talks.say(user.name, conversation_id, body.key, body.text, body.replies)
    headers = {"X-Accel-Buffering": "no"}  # a proxy must not wait for the end
    return StreamingResponse(talk.follow(), media_type="text/event-stream", headers=headers)


@router.put("/conversations/{conversation_id}/continuation", tags=["conversations"])
def choose(conversation_id: str, body: Continuation, user: Labeler, context: Here) -> Json:
    """Let one of the best-ranked replies continue the conversation."""
    chosen = context.store.conversations.choose(user.name, conversation_id, body.response_id)
    return context.talks.describe(user.name, chosen)


@router.put("/conversations/{conversation_id}/attack", tags=["conversations"])
def mark_attack(conversation_id: str, body: Attack, user: Labeler, context: Here) -> Json:
    """Mark the conversation as an attempt to make the model misbehave, and how far it did."""
    marked = context.store.conversations.mark_attack(user.name, conversation_id, body.success)
    return context.talks.describe(user.name, marked)


@router.post("/conversations/{conversation_id}/end", tags=["conversations"])
def end(conversation_id: str, user: Labeler, context: Here) -> Json:
    """Say no more in this conversation."""
    return context.talks.describe(user.name, context.store.conversations.end(user.name, conversation_id))


def _lines(rows: Iterator[Json]) -> Iterator[bytes]:
    for row in rows:
        yield json.dumps(row, ensure_ascii=False).encode() + b"\n"
