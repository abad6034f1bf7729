"""Columns that many tools share: Pawl's own exports, TRL's, Alpaca's, Self-Instruct's, question and answer.

TRL's prompt/completion, `messages`, and prompt/chosen/rejected with an explicit or an implicit prompt, each as text or
as messages; Anthropic's HH transcripts; prompt/responses with ranks, ratings or a preference.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from data.records import FLAGS, RATINGS, Message, NewResponse
from data.shapes import fields
from data.shapes.fields import PROMPT_KEYS, Answer, Misfit, Row, Said, Shape, text
from data.validate import source_problems

RESPONSE_KEYS = ("response", "completion", "output", "answer")


def prompts(row: Row, source: str) -> Iterator[Said | str]:
    """The prompt of this row. A conversation that ends with the assistant's turn loses that turn."""
    if not any(row.get(key) is not None for key in PROMPT_KEYS) and row.get("chosen") is not None:
        yield from (Said(each.prompt) for each in comparisons(row, source))
        return
    row = {**row, **_instances(row)[0]}
    messages = fields.conversation(row)
    if row.get("prompt") is None and messages[-1].role == "assistant":
        messages = messages[:-1]
    yield Said(fields.new_prompt(row, messages, source))


def demonstrations(row: Row, source: str) -> Iterator[Said | str]:
    """The response to this row's prompt; of messages, each of the assistant's turns."""
    answer = _answer(row)
    if row.get("label") is False:
        raise Misfit("has a completion that its label says is not wanted")
    for instance in _instances(row):
        whole = {**row, **instance}
        key = next((key for key in RESPONSE_KEYS if whole.get(key) is not None), None)
        if key is not None:
            response = fields.response(whole[key], key)
            yield fields.demonstration(fields.new_prompt(whole, fields.conversation(whole), source), response, answer)
        elif isinstance(whole.get("messages"), list):
            found = list(fields.replies(whole, fields.messages(whole["messages"], "messages"), source, answer))
            if not found:
                raise Misfit("has no response: no turn of the assistant in messages that answers a user's")
            yield from found
        else:
            fields.conversation(whole)  # what is wrong with the prompt is to be said first
            raise Misfit("has no response: a column response, completion or output, or messages that end with one")


def rankings(row: Row, source: str) -> Iterator[Said | str]:
    """A ranking of K responses, or a comparison as a ranking of two."""
    if row.get("chosen") is not None or row.get("rejected") is not None:
        yield from comparisons(row, source)
    else:
        yield _ranking(row, source)


def comparisons(row: Row, source: str) -> Iterator[Said]:
    """chosen and rejected; they come in the order of their texts, and the order shown to the labeler is not known."""
    if row.get("chosen") is None or row.get("rejected") is None:
        raise Misfit("has no chosen or no rejected")
    messages, chosen, rejected = _chosen_and_rejected(row)
    if chosen == rejected:
        raise Misfit("has the same text as chosen and as rejected")
    texts = sorted((chosen, rejected))
    ranks = [1 if words == chosen else 2 for words in texts]
    details = fields.plain_details(row, "score_chosen", "score_rejected")
    yield fields.ranking(
        fields.new_prompt(row, messages, source),
        [NewResponse(words, source) for words in texts],
        ranks,
        _answer(row, details),
        listed=False,
    )


def _ranking(row: Row, source: str) -> Said:
    """With the ratings, flags, comment and display order that our own exports carry."""
    listed = row.get("responses") if row.get("responses") is not None else row.get("completions")
    if not isinstance(listed, list) or not 2 <= len(listed) <= 9:
        raise Misfit(f"has {len(listed) if isinstance(listed, list) else 'no'} responses: a list of 2 to 9 is wanted")
    responses = [_new_response(value, index, source) for index, value in enumerate(listed, 1)]
    ids = [str(value["id"]) if isinstance(value, dict) and "id" in value else None for value in listed]
    ranks, details, scale = _ranks(row, len(responses))
    ratings = [None] * len(ids) if scale else _by_response(row, "ratings", ids)
    flags = _by_response(row, "flags", ids)
    return fields.ranking(
        fields.new_prompt(row, fields.conversation(row), source),
        responses,
        ranks,
        _answer(row, details),
        display_order=_display_order(row.get("display_order"), ids),
        ratings=tuple(_ratings(value or {}) for value in ratings) if any(ratings) else (),
        flags=tuple(_flags(value or []) for value in flags) if any(flags) else (),
    )


def _ranks(row: Row, k: int) -> tuple[tuple[int | None, ...], Row, bool]:
    """The ranks; what they were made of, where that says more; and whether that was ratings on a scale."""
    scale = row.get("ratings") if isinstance(row.get("ratings"), list) else None
    kept = {} if scale is None else {"ratings": scale}
    if row.get("ranks") is not None:
        return fields.ranks_of(row["ranks"], k), kept, scale is not None
    if scale is not None:
        return fields.by_rating(scale, k), kept, True
    if k == 2 and row.get("preference") is not None:
        return fields.ranks_of_side(row["preference"]), {}, False
    for name, begins in (("best", 1), ("best_from_0", 0)):
        if row.get(name) is not None:
            return fields.ranks_of_best(row[name], k, begins), {}, False
    raise Misfit(f"has {k} responses but not {k} ranks")


def _display_order(order: Any, ids: list[Any]) -> tuple[int, ...]:
    """Places of the responses as shown, from their ids or places; none where the row does not say."""
    if not isinstance(order, list) or not order:
        return ()
    places = [ids.index(each) if isinstance(each, str) and each in ids else each for each in order]
    if sorted(map(str, places)) != sorted(map(str, range(len(ids)))):
        raise Misfit("has a display_order that does not name each response once")
    return tuple(map(int, places))


def _answer(row: Row, details: Row | None = None) -> Answer:
    return Answer(
        labeler=fields.name_of(row.get("labeler")),
        comment=text(row["comment"], "comment") if row.get("comment") else "",
        seconds=fields.seconds_of(row.get("seconds")),
        labeled_at=fields.time_of(_labeled_at(row)),
        details=_own_details(row) | (details or {}),
    )


def _labeled_at(row: Row) -> Any:
    """When the label was given; one that was given where it was exported from, when it was stored there."""
    if row.get("labeled_at") is not None or not is_ours(row):
        return row.get("labeled_at")
    given_there = "details" not in row or source_problems(row.get("source"))  # older exports do not tell
    return row.get("client_at") or (row.get("created_at") if given_there else None)


def _own_details(row: Row) -> Row:
    """What one of our exports carries of an import before; an object, in tables and TRL's columns as JSON text."""
    details = fields.decoded(row.get("details") or {}, "details") if is_ours(row) else {}
    if not isinstance(details, dict):
        raise Misfit(f"has a {type(details).__name__} as details, where an object belongs")
    return details


def _instances(row: Row) -> list[Row]:
    """Self-Instruct keeps inputs and outputs of an instruction in a list of instances, almost always of one."""
    instances = row.get("instances")
    if isinstance(instances, list) and instances and all(isinstance(each, dict) for each in instances):
        return instances
    return [{}]


def _chosen_and_rejected(row: Row) -> tuple[tuple[Message, ...], str, str]:
    """The prompt and the two responses' texts."""
    chosen, rejected = row["chosen"], row["rejected"]
    has_prompt = any(row.get(key) is not None for key in PROMPT_KEYS)
    prompt = fields.conversation(row) if has_prompt else ()
    if isinstance(chosen, str) and isinstance(rejected, str):
        chosen, rejected = text(chosen, "chosen"), text(rejected, "rejected")
        if prompt:
            return prompt, chosen, rejected
        turns = fields.dialogue(chosen), fields.dialogue(rejected)
        if not all(turns):
            return _implicit_text(chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        turns = fields.messages(chosen, "chosen"), fields.messages(rejected, "rejected")
    else:
        raise Misfit("has chosen and rejected of different kinds: both are text, or both are messages")
    return last_turns(turns, prompt, ("chosen", "rejected"))


def last_turns(
    sides: tuple[tuple[Message, ...], tuple[Message, ...]], prompt: tuple[Message, ...], names: tuple[str, str]
) -> tuple[tuple[Message, ...], str, str]:
    """What two conversations begin with, or the prompt that is given, and the one reply in which each ends."""
    prompt = prompt or sides[0][: len(os.path.commonprefix([list(map(repr, side[:-1])) for side in sides]))]
    first, second = (side[len(prompt) :] if side[: len(prompt)] == prompt else side for side in sides)
    if len(first) != 1 or len(second) != 1 or (first[0].role, second[0].role) != ("assistant", "assistant"):
        raise Misfit(f"has {' and '.join(names)} that differ in more than one assistant's turn after the prompt")
    return prompt, first[0].content, second[0].content


def _implicit_text(chosen: str, rejected: str) -> tuple[tuple[Message, ...], str, str]:
    """The words that both texts begin with are the prompt, as TRL's extract_prompt has it, but never half a word."""
    common = re.match(r"(?s)(.*\s)?", os.path.commonprefix([chosen, rejected]))
    prompt = common.group() if common else ""
    if not prompt.strip():
        raise Misfit("has no prompt, and chosen and rejected do not begin alike")
    texts = (chosen[len(prompt) :], rejected[len(prompt) :])
    return (Message("user", prompt.strip()),), text(texts[0], "chosen"), text(texts[1], "rejected")


def _new_response(value: Any, number: int, source: str) -> NewResponse:
    if isinstance(value, dict) and "text" in value:
        named = value.get("source")
        words = fields.said_text(value["text"], f"response {number}")
        return NewResponse(words, named if isinstance(named, str) and named else source)
    words = fields.response(value, f"response {number}") if value != "" else ""
    return NewResponse(words, source)


def _by_response(row: Row, name: str, ids: list[Any]) -> list[Any]:
    """The row's ratings or flags, which are by response id (in Parquet as JSON text), one for each response."""
    value = fields.decoded(row.get(name), name) if row.get(name) else None
    if not value:
        return [None] * len(ids)
    if not isinstance(value, dict) or not all(id in ids for id in value):
        raise Misfit(f"has {name} of responses that it does not list")
    return [value.get(id) for id in ids]


def _ratings(value: Any) -> dict[str, int]:
    if not isinstance(value, dict) or not all(
        name in RATINGS and isinstance(number, int) and not isinstance(number, bool) and 1 <= number <= 7
        for name, number in value.items()
    ):
        raise Misfit(f"has ratings that are not {', '.join(RATINGS)} from 1 to 7")
    return dict(value)


def _flags(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(flag in FLAGS for flag in value):
        raise Misfit(f"has flags that are not of {', '.join(FLAGS)}")
    return tuple(value)


def is_ours(row: Row) -> bool:
    """Whether one of our exports holds the row: its source and licence are then those that it had there."""
    return (
        row.get("prompt_id") is not None
        and row.get("created_at" if "ranking_id" not in row else "ranking_id") is not None
    )


def _has(*names: str) -> Any:
    return lambda row: all(row.get(name) is not None for name in names)


def _is_transcript(row: Row) -> bool:
    sides = (row.get("chosen"), row.get("rejected"))
    return not _has("prompt")(row) and all(isinstance(side, str) and fields.dialogue(side) for side in sides)


def _shape(name: str, fits: Any) -> Shape:
    return Shape(name, fits, demonstrations, rankings, prompts)


ANY = _shape("columns of any kind", lambda row: True)  # to say what is missing
SHAPES = (
    _shape("Pawl's own export", is_ours),
    _shape("Anthropic HH transcripts", _is_transcript),
    _shape("TRL preference", lambda row: _has("chosen", "rejected")(row) and any(map(row.get, PROMPT_KEYS))),
    _shape("TRL preference, implicit prompt", _has("chosen", "rejected")),
    _shape(
        "prompt and responses with ranks", lambda row: isinstance(row.get("responses", row.get("completions")), list)
    ),
    _shape("TRL unpaired preference", lambda row: _has("prompt", "completion")(row) and type(row.get("label")) is bool),
    _shape("TRL prompt and completion", _has("prompt", "completion")),
    _shape("prompt and response", _has("prompt", "response")),
    _shape("Self-Instruct", _has("instruction", "instances")),
    _shape("Alpaca", _has("instruction")),
    _shape("messages", lambda row: isinstance(row.get("messages"), list)),
    _shape("question and answer", _has("question", "answer")),
    _shape("prompts", lambda row: any(row.get(key) is not None for key in PROMPT_KEYS)),
)
