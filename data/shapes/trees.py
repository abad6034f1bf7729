"""OpenAssistant's message trees (Köpf et al. 2023): a tree in a row, or a message in a row with the tree's id.

A reply of an assistant is a demonstration, ranked replies to the same message are a ranking, and what people asked,
with all that was said before it, are prompts. Messages that were deleted or that reviewers refused are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from data.languages import TAG
from data.records import Message, NewResponse
from data.shapes import fields
from data.shapes.fields import Answer, Misfit, Row, Said, Shape, text

_ROLES = {"prompter": "user", "assistant": "assistant"}
_Visited = tuple[tuple[Message, ...], list[Row]]  # what was said down to a message of a person, and the replies to it


def gathered(found: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, int, Any]]:
    """Rows with their place and how many they were: messages of one tree that stand together become a row."""
    at = ""
    messages: list[Row] = []
    for place, row in found:
        if _is_message(row):
            if messages and row["message_tree_id"] != messages[0]["message_tree_id"]:
                yield at, len(messages), _tree(messages)
                messages = []
            at = at if messages else place
            messages.append(row)
            continue
        if messages:
            yield at, len(messages), _tree(messages)
            messages = []
        yield place, 1, row
    if messages:
        yield at, len(messages), _tree(messages)


def _is_message(row: Any) -> bool:
    return isinstance(row, dict) and {"message_id", "parent_id", "message_tree_id", "text", "role"} <= row.keys()


def _tree(messages: list[Row]) -> Row:
    """The messages as a nested tree; those whose parent is not among them are `strays`."""
    nodes = {str(row["message_id"]): {**row, "replies": []} for row in messages}
    root, strays = None, []
    for node in nodes.values():
        parent = node["parent_id"]
        if parent is None or parent != parent:  # a table has NaN where there is none
            root = node
        elif str(parent) in nodes:
            nodes[str(parent)]["replies"].append(node)
        else:
            strays.append(str(node["message_id"]))
    return {"message_tree_id": messages[0]["message_tree_id"], "prompt": root, "strays": strays}


def _visits(row: Row) -> Iterator[_Visited | str]:
    """Every message of a person that stands, with the replies to it that stand."""
    if not isinstance(row["prompt"], dict):
        raise Misfit("has no message that begins its tree: rows of one tree must stand together in the file")
    for stray in row.get("strays", ()):
        yield f"message {stray} answers one that does not stand beside it in the file"
    waiting: list[tuple[tuple[Message, ...], Row]] = [((), row["prompt"])]
    while waiting:
        before, node = waiting.pop()
        role = _ROLES.get(str(node.get("role")))
        if role is None:
            yield f"a message is of the role {str(node.get('role'))[:40]!r}: it is prompter or assistant"
            continue
        if node.get("deleted") or node.get("review_result") is False:
            yield f"message {node.get('message_id')} was deleted or refused: it is left out, with what answers it"
            continue
        try:
            said = (*before, Message(role, text(node.get("text"), f"message {node.get('message_id')}")))
        except Misfit as misfit:
            yield str(misfit)
            continue
        replies = fields.objects_in(node.get("replies"))
        if role == "user":
            yield said, [reply for reply in replies if _stands(reply)]
        waiting += [(said, reply) for reply in reversed(replies)]


def _stands(reply: Row) -> bool:
    refused = reply.get("deleted") or reply.get("review_result") is False
    return not refused and reply.get("role") == "assistant" and bool(str(reply.get("text") or "").strip())


def _prompt(row: Row, said: tuple[Message, ...], source: str) -> Any:
    language = row["prompt"].get("lang")
    return fields.new_prompt({"tags": [TAG + language] if isinstance(language, str) and language else []}, said, source)


def _prompts(row: Row, source: str) -> Iterator[Said | str]:
    for visit in _visits(row):
        yield visit if isinstance(visit, str) else Said(_prompt(row, visit[0], source))


def _demonstrations(row: Row, source: str) -> Iterator[Said | str]:
    for visit in _visits(row):
        if isinstance(visit, str):
            yield visit
            continue
        said, replies = visit
        for reply in replies:
            answer = Answer(
                fields.name_of(reply.get("user_id")),
                labeled_at=fields.time_of(reply.get("created_date")),
                details=fields.plain_details(reply, "rank", "synthetic"),
            )
            yield fields.demonstration(_prompt(row, said, source), reply["text"], answer)


def _rankings(row: Row, source: str) -> Iterator[Said | str]:
    for visit in _visits(row):
        if isinstance(visit, str):
            yield visit
            continue
        said, replies = visit
        ranked = [reply for reply in replies if fields.number(reply.get("rank")) is not None]
        if len(ranked) < 2:
            continue  # nothing was compared here
        if len(ranked) > 9:
            yield f"a message has {len(ranked)} ranked replies, and 9 is the most"
            continue
        ranks = fields.renumbered([float(reply["rank"]) for reply in ranked])
        responses = [NewResponse(reply["text"], source) for reply in ranked]
        yield fields.ranking(_prompt(row, said, source), responses, ranks, Answer(), listed=False)


SHAPES = (
    Shape(
        "OpenAssistant trees",
        lambda row: "message_tree_id" in row and "prompt" in row and "completion" not in row,
        _demonstrations,
        _rankings,
        _prompts,
    ),
)
