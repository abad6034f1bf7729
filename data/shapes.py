"""Rows of other tools into Pawl's records.

A function of a row either understands it or raises Misfit, which says in a few words what is wrong with it. Accepted:
our own exports, TRL's prompt/completion and prompt/chosen/rejected (text or messages, the prompt also implicit),
`messages`, Alpaca's instruction/input/output, Self-Instruct's instances, question/answer, and prompt/responses/ranks.
"""

from __future__ import annotations

import json
import math
import os
import re
from typing import Any, cast

from data.records import FLAGS, MAX_TEXT, RATINGS, Message, NewPrompt, NewRanking, NewResponse, Split

KINDS = ("demonstrations", "comparisons", "unpaired", "rankings", "prompts")  # of rows that go out
FORMATS = ("trl", "trl-parquet", "jsonl", "parquet", "csv", "arrow")  # they go out in
Row = dict[str, Any]
ROLES = ("system", "user", "assistant")
_SPLITS = {"train": "train"} | dict.fromkeys(
    ("heldout", "test", "validation", "valid", "val", "dev", "eval"), "heldout"
)
_PROMPT_KEYS = "prompt, messages, instruction or question"


class Misfit(ValueError):
    """This row cannot be used, and why."""


def prompt_of(row: Row, file: str) -> NewPrompt:
    """The prompt of this row. A conversation that ends with the assistant's turn loses that turn."""
    row = _with_instance(row)
    messages = _conversation(row)
    if "prompt" not in row and messages[-1].role == "assistant":
        messages = messages[:-1]
    source = row.get("source")
    return _new_prompt(row, messages, source if isinstance(source, str) and source else file)


def demonstration_of(row: Row, file: str) -> tuple[NewPrompt, str, str]:
    """The prompt, the response and its labeler."""
    row = _with_instance(row)
    messages = _conversation(row)
    key = next((key for key in ("response", "completion", "output", "answer") if row.get(key) is not None), None)
    if key is not None:
        response = _response(row[key], key)
    elif "messages" in row and messages[-1].role == "assistant":
        messages, response = messages[:-1], messages[-1].content
    else:
        raise Misfit("has no response: a column response, completion or output, or messages that end with one")
    return _new_prompt(row, messages, file), response, _labeler(row)


def comparison_of(row: Row, file: str) -> tuple[NewPrompt, NewRanking]:
    """A comparison as a ranking of two responses; they are in the order of their texts, so that order says nothing."""
    if row.get("chosen") is None or row.get("rejected") is None:
        raise Misfit("has no chosen or no rejected")
    messages, chosen, rejected = _chosen_and_rejected(row)
    if chosen == rejected:
        raise Misfit("has the same text as chosen and as rejected")
    texts = sorted((chosen, rejected))
    prompt = _new_prompt(row, messages, file)
    responses = tuple(NewResponse(text, file) for text in texts)
    ranks = tuple(1 if text == chosen else 2 for text in texts)
    return prompt, NewRanking("", responses, ranks, _labeler(row), seconds=_seconds(row))


def ranking_of(row: Row, file: str) -> tuple[NewPrompt, NewRanking]:
    """A ranking of K responses, with the ratings, flags and comment that our own exports carry."""
    listed = row.get("responses") if row.get("responses") is not None else row.get("completions")
    if not isinstance(listed, list) or not 2 <= len(listed) <= 9:
        raise Misfit("has no responses: a list of 2 to 9 of them")
    responses = tuple(_new_response(value, index, file) for index, value in enumerate(listed, 1))
    ids = [value.get("id") if isinstance(value, dict) else None for value in listed]
    ratings, flags = _by_response(row, "ratings", ids), _by_response(row, "flags", ids)
    ranking = NewRanking(
        prompt_id="",
        responses=responses,
        ranks=_ranks(row.get("ranks"), len(responses)),
        labeler=_labeler(row),
        ratings=tuple(_ratings(value or {}) for value in ratings) if any(ratings) else (),
        flags=tuple(_flags(value or []) for value in flags) if any(flags) else (),
        comment=_text(row["comment"], "comment") if row.get("comment") else "",
        seconds=_seconds(row),
    )
    return _new_prompt(row, _conversation(row), file), ranking


def _new_prompt(row: Row, messages: tuple[Message, ...], source: str) -> NewPrompt:
    if not messages or messages[-1].role != "user":
        raise Misfit("has a prompt that does not end with the user's turn")
    split = row.get("split")
    if split is not None and split not in _SPLITS:
        raise Misfit(f"has the split {str(split)[:40]!r}: it is train or heldout")
    tags = row.get("tags")
    if isinstance(tags, str):
        tags = [tag.strip() for tag in tags.split(",") if tag.strip()]
    if not isinstance(tags or [], list):
        raise Misfit("has tags that are not a list of words")
    words = tuple(_text(tag, "tags") for tag in tags or [])
    return NewPrompt(messages, words, cast("Split | None", _SPLITS.get(str(split))), source)


def _with_instance(row: Row) -> Row:
    """Self-Instruct keeps the input and the output of an instruction in a list of instances, almost always one."""
    instances = row.get("instances")
    if isinstance(instances, list) and len(instances) == 1 and isinstance(instances[0], dict):
        return {**row, **instances[0]}
    return row


def _conversation(row: Row) -> tuple[Message, ...]:
    """The prompt's messages, whatever column they are in."""
    for key in ("prompt", "messages"):
        if isinstance(row.get(key), list):
            return _messages(row[key], key)
        if row.get(key) is not None:
            text = _text(row[key], key)
            return _dialogue(text) or (Message("user", text),)
    if row.get("instruction") is not None:
        instruction = _text(row["instruction"], "instruction")
        more = row.get("input")
        if more is None or (isinstance(more, str) and not more.strip()):
            return (Message("user", instruction),)
        return (Message("user", f"{instruction}\n\n{_text(more, 'input')}"),)
    if row.get("question") is not None:
        return (Message("user", _text(row["question"], "question")),)
    raise Misfit(f"has no prompt: no column {_PROMPT_KEYS}")


def _messages(turns: list[Any], name: str) -> tuple[Message, ...]:
    found = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            role = turn.get("role") if isinstance(turn, dict) else turn
            raise Misfit(f"has in {name} a turn {number} whose role is {str(role)[:40]!r}, not {', '.join(ROLES)}")
        found.append(Message(turn["role"], _text(turn.get("content"), f"turn {number} of {name}")))
    if not found:
        raise Misfit(f"has no turn in {name}")
    return tuple(found)


def _dialogue(text: str) -> tuple[Message, ...]:
    """The turns of a text like "\\n\\nHuman: ...\\n\\nAssistant: ..." (Bai et al. 2022); none if it is another."""
    before, *turns = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if before.strip() or not turns:
        return ()
    found: list[Message] = []
    for speaker, said in zip(turns[::2], turns[1::2], strict=True):
        role, content = ("user" if speaker == "Human" else "assistant"), said.strip()
        if found and found[-1].role == role:
            found[-1] = Message(role, f"{found[-1].content}\n\n{content}")
        elif content:  # a prompt ends with an empty turn of the assistant
            found.append(Message(role, content))
    return tuple(found)


def _chosen_and_rejected(row: Row) -> tuple[tuple[Message, ...], str, str]:
    """The prompt and the two responses' texts."""
    chosen, rejected = row["chosen"], row["rejected"]
    has_prompt = any(row.get(key) is not None for key in ("prompt", "messages", "instruction", "question"))
    prompt = _conversation(row) if has_prompt else ()
    if isinstance(chosen, str) and isinstance(rejected, str):
        chosen, rejected = _text(chosen, "chosen"), _text(rejected, "rejected")
        if prompt:
            return prompt, chosen, rejected
        turns = _dialogue(chosen), _dialogue(rejected)
        if not all(turns):
            return _implicit_text(chosen, rejected)
    elif isinstance(chosen, list) and isinstance(rejected, list):
        turns = _messages(chosen, "chosen"), _messages(rejected, "rejected")
    else:
        raise Misfit("has chosen and rejected of different kinds: both are text, or both are messages")
    prompt = prompt or turns[0][: len(os.path.commonprefix([list(map(repr, side[:-1])) for side in turns]))]
    first, second = (side[len(prompt) :] if side[: len(prompt)] == prompt else side for side in turns)
    if len(first) != 1 or len(second) != 1 or (first[0].role, second[0].role) != ("assistant", "assistant"):
        raise Misfit("has chosen and rejected that differ in more than one assistant's turn after the prompt")
    return prompt, first[0].content, second[0].content


def _implicit_text(chosen: str, rejected: str) -> tuple[tuple[Message, ...], str, str]:
    """The words that both texts begin with are the prompt, as TRL's extract_prompt has it, but never half a word."""
    common = re.match(r"(?s)(.*\s)?", os.path.commonprefix([chosen, rejected]))
    prompt = common.group() if common else ""
    if not prompt.strip():
        raise Misfit("has no prompt, and chosen and rejected do not begin alike")
    texts = (chosen[len(prompt) :], rejected[len(prompt) :])
    return (Message("user", prompt.strip()),), _text(texts[0], "chosen"), _text(texts[1], "rejected")


def _response(value: Any, name: str) -> str:
    """A response's text, given as text or as one assistant's turn."""
    if not isinstance(value, list):
        return _text(value, name)
    turns = _messages(value, name)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise Misfit(f"has {len(turns)} turns in {name}: one of the assistant is wanted")
    return turns[0].content


def _new_response(value: Any, number: int, file: str) -> NewResponse:
    if isinstance(value, dict) and "text" in value:
        source = value.get("source")
        text = "" if value["text"] == "" else _text(value["text"], f"response {number}")  # a model may say nothing
        return NewResponse(text, source if isinstance(source, str) else file)
    return NewResponse(_response(value, f"response {number}"), file)


def _ranks(value: Any, k: int) -> tuple[int | None, ...]:
    if not isinstance(value, list) or len(value) != k:
        raise Misfit(f"has {k} responses but not {k} ranks")
    for rank in value:
        whole = isinstance(rank, float) and rank.is_integer()  # as a table with gaps has them
        if not (whole or rank is None or type(rank) is int) or (rank is not None and not 1 <= rank <= k):
            raise Misfit(f"has the rank {str(rank)[:40]!r}: a rank is a whole number from 1 to {k}, or null")
    return tuple(None if rank is None else int(rank) for rank in value)


def _by_response(row: Row, name: str, ids: list[Any]) -> list[Any]:
    """The row's ratings or flags, which are by response id (in Parquet as JSON text), one for each response."""
    value = row.get(name)
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise Misfit(f"has {name} that are not JSON: {error}") from error
    if not value:
        return [None] * len(ids)
    if not isinstance(value, dict) or not set(value) <= set(ids):
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


def _labeler(row: Row) -> str:
    labeler = row.get("labeler")
    return _text(labeler, "labeler").strip()[:200] if labeler else "import"


def _seconds(row: Row) -> float | None:
    value = row.get("seconds")
    try:
        seconds = None if value is None else float(value)
    except (TypeError, ValueError):
        seconds = math.nan
    if seconds is not None and not 0 <= seconds < math.inf:
        raise Misfit(f"has seconds that are no length of time: {str(value)[:40]!r}")
    return seconds


def _text(value: Any, name: str) -> str:
    """The value if it is text that the store takes: not empty, not too long, and able to be written as UTF-8."""
    if not isinstance(value, str):
        raise Misfit(f"has {'nothing' if value is None else f'a {type(value).__name__}'} as {name}, where text belongs")
    if not value.strip():
        raise Misfit(f"has an empty {name}")
    if len(value) > MAX_TEXT:
        raise Misfit(f"has {len(value):,} characters in {name}, and {MAX_TEXT:,} is the most")
    if "\0" in value:
        raise Misfit(f"has a NUL character in {name}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        escaped = 0xDC80 <= ord(value[error.start]) <= 0xDCFF  # how the reader keeps a byte that is not UTF-8
        raise Misfit(f"has {'bytes that are not UTF-8' if escaped else 'half a surrogate pair'} in {name}") from error
    return value
