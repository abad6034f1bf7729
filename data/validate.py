"""What may be stored: pure checks that name every field at fault in one InvalidInput, before anything is stored.

Input comes from outside, so nothing here trusts the types that the records declare.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from data.errors import InvalidInput
from data.records import (
    FLAGS,
    MAX_TEXT,
    RATINGS,
    DemonstrationAnswer,
    NewPrompt,
    NewResponse,
    RankingAnswer,
    Task,
)
from data.rows import as_json, digest_of

RESPONSES = range(2, 10)  # how many responses a ranking may have
MAX_OVERLAP = 100
MAX_DRAFT = 10 * MAX_TEXT  # characters of a draft as JSON
LABELED_HERE = ("labeler", "review", "rewrite")  # sources of what people say in the app; of rewrites with their label
SHOWN = 20  # problems named in one message
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class CheckedRanking:
    """A ranking answer, canonical: equal answers have equal digests, whatever the order of their keys."""

    ranks: tuple[int | None, ...]  # in the order of the task's responses; None is unrankable
    ratings: dict[str, dict[str, int]]
    flags: dict[str, list[str]]
    rewrite: dict[str, str] | None
    comment: str
    seconds: float | None

    @property
    def digest(self) -> str:
        return digest_of([self.ranks, self.ratings, self.flags, self.rewrite, self.comment, self.seconds])


def refuse(problems: Sequence[str]) -> None:
    """Raise InvalidInput with all the problems, if there are any."""
    if not problems:
        return
    more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    raise InvalidInput(f"Nothing was stored: {'; '.join(problems[:SHOWN])}{more}. Correct this and send it again.")


def shown(value: object) -> str:
    """A value in an error message: short, and safe to encode."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= 60 else text[:60] + "…"
    return repr(text) if isinstance(value, str) else text


def text_problems(value: object, field: str, *, required: bool = False, limit: int = MAX_TEXT) -> list[str]:
    """What is wrong with a text; empty when it can be stored."""
    if not isinstance(value, str):
        return [f"{field} is {shown(value)} and must be text"]
    if len(value) > limit:
        return [f"{field} has {len(value):,} characters and may have {limit:,}"]
    if "\0" in value:
        return [f"{field} has a NUL character at {value.index(chr(0))}"]
    if lone := _LONE_SURROGATE.search(value):
        return [f"{field} has half a character (a lone surrogate) at {lone.start()}"]
    if required and not value.strip():
        return [f"{field} is empty"]
    return []


def check_text(value: object, field: str, *, required: bool = False, limit: int = MAX_TEXT) -> None:
    """Raises InvalidInput."""
    refuse(text_problems(value, field, required=required, limit=limit))


def source_problems(source: object) -> list[str]:
    """What an import is said to come from. The names that labels given here have as their source are not to be had."""
    if source in LABELED_HERE or (isinstance(source, str) and source.startswith("rewrite:")):
        return [f"source is {shown(source)}, which names what people label here"]
    return text_problems(source, "source", required=True, limit=1_000)


def overlap_problems(overlap: object) -> list[str]:
    """How many labelers a task may want."""
    if isinstance(overlap, bool) or not isinstance(overlap, int) or not 1 <= overlap <= MAX_OVERLAP:
        return [f"overlap is {shown(overlap)} and must be a whole number from 1 to {MAX_OVERLAP}"]
    return []


def time_problems(value: object, field: str) -> list[str]:
    """A time in our era, with its zone, or None."""
    if value is not None and not (isinstance(value, datetime) and value.tzinfo and 1970 <= value.year < 9999):
        return [f"{field} is {shown(value)} and must be a time with its zone"]
    return []


def check_json(value: object, field: str) -> str:
    """The value as canonical JSON. Raises InvalidInput for what JSON, or a table, cannot hold."""
    try:
        text = as_json(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"Nothing was stored: {field} cannot be written as JSON ({error}).") from error
    if _LONE_SURROGATE.search(text):
        raise InvalidInput(f"Nothing was stored: {field} holds half a character (a lone surrogate).")
    return text


def check_notes(guideline: object, client_at: object) -> None:
    """What is noted with every label. Raises InvalidInput."""
    refuse([*text_problems(guideline, "guideline", limit=200), *time_problems(client_at, "client_at")])


def check_draft(work: object, seconds: object) -> str:
    """A draft as canonical JSON. Raises InvalidInput."""
    text = check_json(work, "work")
    problems = [] if isinstance(work, Mapping) else [f"work is {shown(work)} and must be an object"]
    if len(text) > MAX_DRAFT:
        problems.append(f"work has {len(text):,} characters as JSON and may have {MAX_DRAFT:,}")
    refuse([*problems, *seconds_problems(seconds)])
    return text


# ------------------------------------------------------------------- prompts and responses


def prompt_problems(prompt: NewPrompt, field: str) -> list[str]:
    """A conversation of known roles that ends with a user's turn; tags; a known split or none."""
    problems = _conversation_problems(prompt.messages, f"{field}.messages")
    if isinstance(prompt.tags, str) or not isinstance(prompt.tags, Sequence):
        problems.append(f"{field}.tags is {shown(prompt.tags)} and must be a list of words")
    else:
        for place, tag in enumerate(prompt.tags):
            problems += text_problems(tag, f"{field}.tags[{place}]", required=True, limit=100)
    if prompt.split not in ("train", "heldout", None):
        problems.append(f"{field}.split is {shown(prompt.split)} and must be train or heldout, or left out")
    return problems + text_problems(prompt.source, f"{field}.source", limit=1_000)


def _conversation_problems(messages: object, field: str) -> list[str]:
    if isinstance(messages, str) or not isinstance(messages, Sequence) or not messages:
        return [f"{field} must be a list of one message or more"]
    problems: list[str] = []
    for place, message in enumerate(messages):
        role = getattr(message, "role", None)
        if role not in ("system", "user", "assistant"):
            problems.append(f"{field}[{place}].role is {shown(role)} and must be system, user or assistant")
        elif role == "system" and place:
            problems.append(f"{field}[{place}].role is system, which only the first message may be")
        problems += text_problems(getattr(message, "content", None), f"{field}[{place}].content", required=True)
    if not problems and messages[-1].role != "user":
        problems.append(f"{field} ends with a turn of {messages[-1].role} and must end with the user's")
    return problems


def responses_problems(responses: object, field: str) -> list[str]:
    """2 to 9 responses; a text may be empty (a model that ended at once), its source may not."""
    if isinstance(responses, str) or not isinstance(responses, Sequence) or len(responses) not in RESPONSES:
        return [f"{field} must be a list of {RESPONSES[0]} to {RESPONSES[-1]} responses"]
    problems: list[str] = []
    for place, response in enumerate(responses):
        if not isinstance(response, NewResponse):
            problems.append(f"{field}[{place}] is {shown(response)} and must be a response")
            continue
        problems += text_problems(response.text, f"{field}[{place}].text")
        problems += text_problems(response.source, f"{field}[{place}].source", required=True, limit=1_000)
        try:
            check_json(response.sampling, f"{field}[{place}].sampling")
        except InvalidInput as error:
            problems.append(str(error).removeprefix("Nothing was stored: ").rstrip("."))
    return problems


# ------------------------------------------------------------------- answers


def check_ranking(answer: RankingAnswer, task: Task) -> CheckedRanking:
    """The answer in the order of the task's responses. Raises InvalidInput naming every field at fault."""
    if task.kind != "ranking":
        refuse([f"task {task.id} asks for a {task.kind}, not a ranking"])
    ids = task.response_ids
    ratings, rating_problems = _ratings(answer.ratings, ids)
    flags, flag_problems = _flags(answer.flags, ids)
    refuse(
        [
            *_rank_problems(answer.ranks, answer.unrankable, ids),
            *rating_problems,
            *flag_problems,
            *_rewrite_problems(answer.rewrite, ids),
            *text_problems(answer.comment, "comment"),
            *seconds_problems(answer.seconds),
        ]
    )
    ranks = tuple(answer.ranks.get(id) for id in ids)
    return CheckedRanking(ranks, ratings, flags, answer.rewrite, answer.comment, _seconds(answer.seconds))


def check_demonstration(answer: DemonstrationAnswer, task: Task) -> DemonstrationAnswer:
    """The answer as it is stored. Raises InvalidInput naming every field at fault."""
    if task.kind != "demonstration":
        refuse([f"task {task.id} asks for a {task.kind}, not a demonstration"])
    problems = text_problems(answer.response, "response", required=True)
    if answer.started_from is not None:
        problems += text_problems(answer.started_from, "from", limit=200)
    refuse([*problems, *seconds_problems(answer.seconds)])
    return DemonstrationAnswer(answer.response, _seconds(answer.seconds), answer.started_from)


def rank_problem(rank: object, responses: int, field: str) -> list[str]:
    """A whole number from 1 to how many responses there are; True and 1.0 are none."""
    if isinstance(rank, bool) or not isinstance(rank, int) or not 1 <= rank <= responses:
        return [f"{field} is {shown(rank)} and must be a whole number from 1 to {responses}"]
    return []


def seconds_problems(seconds: object) -> list[str]:
    """None, or a finite number, 0 or more."""
    number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    if seconds is not None and not (number and 0 <= seconds <= 1e9):  # type: ignore[operator]
        return [f"seconds is {shown(seconds)} and must be a number of seconds, 0 or more"]
    return []


def rating_problems(ratings: object, field: str) -> list[str]:
    """Each of helpful, harmless, honest at most once, 1 to 7."""
    if not isinstance(ratings, Mapping):
        return [f"{field} is {shown(ratings)} and must give a number to each of {', '.join(RATINGS)}"]
    problems: list[str] = []
    for name, value in ratings.items():
        if name not in RATINGS:
            problems.append(f"{field}[{shown(name)}] is no rating: those are {', '.join(RATINGS)}")
        elif isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 7:
            problems.append(f"{field}[{shown(name)}] is {shown(value)} and must be a whole number from 1 to 7")
    return problems


def flag_problems(flags: object, field: str) -> list[str]:
    """A list of known flags."""
    if isinstance(flags, str) or not isinstance(flags, Sequence):
        return [f"{field} is {shown(flags)} and must be a list of flags"]
    return [
        f"{field} holds {shown(flag)}, no flag: those are {', '.join(FLAGS)}" for flag in flags if flag not in FLAGS
    ]


def _rank_problems(ranks: object, unrankable: object, ids: Sequence[str]) -> list[str]:
    """Every response has a rank or is unrankable, none has both, and nothing else is named."""
    if not isinstance(ranks, Mapping):
        return [f"ranks is {shown(ranks)} and must give a rank to each response id"]
    if isinstance(unrankable, str) or not isinstance(unrankable, Sequence):
        return [f"unrankable is {shown(unrankable)} and must be a list of response ids"]
    problems = _unknown(ranks, "ranks", ids)
    for id in unrankable:
        if id not in ids:
            problems.append(f"unrankable names {shown(id)}, which is no response of this task")
        elif id in ranks:
            problems.append(f"response {id} has a rank and is in unrankable too")
    problems += [f"unrankable names {id} twice" for id in ids if list(unrankable).count(id) > 1]
    for id in ids:
        if id in ranks:
            problems += rank_problem(ranks[id], len(ids), f"ranks[{shown(id)}]")
        elif id not in unrankable:
            problems.append(f"response {id} has no rank and is not in unrankable")
    return problems


def _unknown(named: Mapping[Any, Any], field: str, ids: Sequence[str]) -> list[str]:
    return [f"{field} names {shown(id)}, which is no response of this task" for id in named if id not in ids]


def _ratings(ratings: object, ids: Sequence[str]) -> tuple[dict[str, dict[str, int]], list[str]]:
    if not isinstance(ratings, Mapping):
        return {}, [f"ratings is {shown(ratings)} and must give ratings to response ids"]
    problems = _unknown(ratings, "ratings", ids)
    for id in ids:
        if id in ratings:
            problems += rating_problems(ratings[id], f"ratings[{shown(id)}]")
    return ({} if problems else {id: dict(given) for id, given in ratings.items() if given}), problems


def _flags(flags: object, ids: Sequence[str]) -> tuple[dict[str, list[str]], list[str]]:
    if not isinstance(flags, Mapping):
        return {}, [f"flags is {shown(flags)} and must give flags to response ids"]
    problems = _unknown(flags, "flags", ids)
    for id in ids:
        if id in flags:
            problems += flag_problems(flags[id], f"flags[{shown(id)}]")
    return ({} if problems else {id: sorted(set(given)) for id, given in flags.items() if given}), problems


def _rewrite_problems(rewrite: object, ids: Sequence[str]) -> list[str]:
    if rewrite is None:
        return []
    if not isinstance(rewrite, Mapping) or set(rewrite) != {"response_id", "text"}:
        return ["rewrite must have a response_id and a text, and nothing else"]
    problems = text_problems(rewrite["text"], "rewrite.text", required=True)
    if rewrite["response_id"] not in ids:
        id = rewrite["response_id"]
        problems.append(f"rewrite.response_id is {shown(id)}, which is no response of this task")
    return problems


def _seconds(seconds: float | None) -> float | None:
    return None if seconds is None else float(seconds)
