"""What every shape is made of: the parts of a row, read strictly, and what a row comes to say.

A reader of a shape is a generator: of each thing a row says (`Said`), and of a few words for each part that it could
not take. A row of which nothing can be taken raises Misfit, which says in a few words what is wrong with it.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from data.records import MAX_TEXT, NOBODY, Message, NewDemonstration, NewPrompt, NewRanking, NewResponse, Split

Row = dict[str, Any]
ROLES = ("system", "user", "assistant")
MAX_RANK = 1_000_000
_SPLITS = {"train": "train"} | dict.fromkeys(
    ("heldout", "test", "validation", "valid", "val", "dev", "eval"), "heldout"
)
PROMPT_KEYS = ("prompt", "messages", "instruction", "question")
_TAG_KEYS = ("category", "topic", "scenario")  # words about a prompt that many files have
_SIDES = {
    word: place
    for place, words in enumerate((("tie", "equal"), ("first", "left", "a"), ("second", "right", "b")))
    for word in words
}


class Misfit(ValueError):
    """This row cannot be used, and why. `shape` is the one that it was taken to be of, if it was of any."""

    shape = ""


@dataclass(frozen=True, slots=True)
class Said:
    """One thing that a row says: a label of a prompt, whose id the store will give it, or just a prompt."""

    prompt: NewPrompt
    label: NewRanking | NewDemonstration | None = None


Reader = Callable[[Row, str], Iterator[Said | str]]  # a str says what could not be taken


@dataclass(frozen=True, slots=True)
class Shape:
    """How one tool or dataset writes its rows; `fits` tells by the columns, readers take the row and its source."""

    name: str
    fits: Callable[[Row], bool]
    demonstrations: Reader | None = None
    rankings: Reader | None = None  # comparisons too: rankings of two
    prompts: Reader | None = None  # unless they are those of its labels


@dataclass(frozen=True, slots=True)
class Answer:
    """Who gave a label, and what else a file says of it."""

    labeler: str = NOBODY
    comment: str = ""
    seconds: float | None = None
    labeled_at: datetime | None = None
    details: Row = field(default_factory=dict)


def ranking(
    prompt: NewPrompt,
    responses: Sequence[NewResponse],
    ranks: Sequence[int | None],
    answer: Answer,
    *,
    listed: bool = True,
    **more: Any,
) -> Said:
    """A ranking, of responses that the labeler saw in the order in which they are `listed`, or in one not known."""
    more = {"display_order": tuple(range(len(responses))) if listed else ()} | more
    label = NewRanking(
        prompt_id="",
        responses=tuple(responses),
        ranks=tuple(ranks),
        labeler=answer.labeler,
        comment=answer.comment,
        seconds=answer.seconds,
        labeled_at=answer.labeled_at,
        details=answer.details,
        **more,
    )
    return Said(prompt, label)


def demonstration(prompt: NewPrompt, response: str, answer: Answer) -> Said:
    """A labeler's own response."""
    return Said(
        prompt,
        NewDemonstration("", response, answer.labeler, answer.seconds, answer.labeled_at, answer.details),
    )


# ------------------------------------------------------------------- prompts


def new_prompt(row: Row, messages: Sequence[Message], source: str) -> NewPrompt:
    """The conversation as a prompt, with the row's tags and split."""
    if not messages or messages[-1].role != "user":
        raise Misfit("has a prompt that does not end with the user's turn")
    split = row.get("split")
    if split is not None and (not isinstance(split, str) or split not in _SPLITS):
        raise Misfit(f"has the split {str(split)[:40]!r}: it is train or heldout")
    return NewPrompt(tuple(messages), _tags(row), cast("Split | None", _SPLITS.get(str(split))), source)


def asked(row: Row, words: str, source: str) -> NewPrompt:
    """A prompt of one user's turn."""
    return new_prompt(row, (Message("user", words),), source)


def _tags(row: Row) -> tuple[str, ...]:
    tags = row.get("tags")
    if tags is None:
        return tuple(
            row[key] for key in _TAG_KEYS if isinstance(row.get(key), str) and 0 < len(row[key].strip()) <= 100
        )
    if isinstance(tags, str):
        tags = [tag.strip() for tag in tags.split(",") if tag.strip()]
    if not isinstance(tags, list):
        raise Misfit("has tags that are not a list of words")
    return tuple(text(tag, "tags") for tag in tags)


def conversation(row: Row) -> tuple[Message, ...]:
    """The prompt's messages, whatever column they are in."""
    for key in ("prompt", "messages"):
        if isinstance(row.get(key), list):
            return messages(row[key], key)
        if row.get(key) is not None:
            words = text(row[key], key)
            return dialogue(words) or (Message("user", words),)
    if row.get("instruction") is not None:
        instruction = text(row["instruction"], "instruction")
        more = row.get("input") if row.get("input") is not None else row.get("context")
        if more is None or (isinstance(more, str) and not more.strip()):
            return (Message("user", instruction),)
        return (Message("user", f"{instruction}\n\n{text(more, 'input')}"),)
    if row.get("question") is not None:
        return (Message("user", text(row["question"], "question")),)
    raise Misfit(f"has no prompt: no column {', '.join(PROMPT_KEYS[:-1])} or {PROMPT_KEYS[-1]}")


def messages(turns: list[Any], name: str) -> tuple[Message, ...]:
    """A list of {"role", "content"}."""
    found = []
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict) or turn.get("role") not in ROLES:
            role = turn.get("role") if isinstance(turn, dict) else turn
            raise Misfit(f"has in {name} a turn {number} whose role is {str(role)[:40]!r}, not {', '.join(ROLES)}")
        found.append(Message(turn["role"], text(turn.get("content"), f"turn {number} of {name}")))
    if not found:
        raise Misfit(f"has no turn in {name}")
    return tuple(found)


def dialogue(words: str) -> tuple[Message, ...]:
    """The turns of a text like "\\n\\nHuman: ...\\n\\nAssistant: ..." (Bai et al. 2022); none if it is another."""
    before, *turns = re.split(r"(?:^|\n\n)(Human|Assistant):", words)
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


def replies(row: Row, turns: Sequence[Message], source: str, answer: Answer) -> Iterator[Said]:
    """Each turn of the assistant that answers a user, as a demonstration of what was said before it."""
    for place, turn in enumerate(turns):
        if turn.role == "assistant" and place and turns[place - 1].role == "user":
            yield demonstration(new_prompt(row, turns[:place], source), turn.content, answer)


# ----------------------------------------------------------------- responses


def response(value: Any, name: str) -> str:
    """A response's text, given as text or as one assistant's turn."""
    if not isinstance(value, list):
        return text(value, name)
    turns = messages(value, name)
    if len(turns) != 1 or turns[0].role != "assistant":
        raise Misfit(f"has {len(turns)} turns in {name}: one of the assistant is wanted")
    return turns[0].content


def said_text(value: Any, name: str) -> str:
    """A response's text, which may be empty: a model may say nothing."""
    return "" if value == "" else text(value, name)


def renumbered(ranks: Sequence[float | None]) -> tuple[int | None, ...]:
    """The same order, ties and gaps for what has no rank, in the numbers 1, 2, 3 ..."""
    places = {rank: place for place, rank in enumerate(sorted({rank for rank in ranks if rank is not None}), 1)}
    return tuple(None if rank is None else places[rank] for rank in ranks)


def ranks_of(value: Any, k: int) -> tuple[int | None, ...]:
    """Whole numbers, the least is best, equal is a tie, None could not be ranked; kept as they are where 1 to k."""
    if not isinstance(value, list) or len(value) != k:
        raise Misfit(f"has {k} responses but not {k} ranks")
    for rank in value:
        whole = isinstance(rank, float) and rank.is_integer()  # as a table with gaps has them
        if not (whole or rank is None or type(rank) is int) or (rank is not None and not 0 <= rank <= MAX_RANK):
            raise Misfit(f"has the rank {str(rank)[:40]!r}: a rank is a whole number, 1 for the best, or null")
    ranks = tuple(None if rank is None else int(rank) for rank in value)
    fits = all(rank is None or 1 <= rank <= k for rank in ranks)
    return ranks if fits else renumbered(ranks)


def by_rating(ratings: Sequence[Any], k: int) -> tuple[int | None, ...]:
    """Ranks of ratings, the highest best; what has no rating has no rank."""
    if len(ratings) != k:
        raise Misfit(f"has {k} responses but {len(ratings)} ratings")
    numbers = [number(value) for value in ratings]
    if sum(value is not None for value in numbers) < 2:
        raise Misfit("has ratings of fewer than two responses")
    return renumbered([None if value is None else -value for value in numbers])


def number(value: Any) -> float | None:
    """A finite number, also written as text; None for anything else, as "N/A" is."""
    try:
        found = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def ranks_of_side(value: Any) -> tuple[int, int]:
    """Ranks of two responses from the word for the better one: first, left or a; second, right or b; tie or equal.

    No numbers: some count from 0, some from 1, and to some 0 is a tie.
    """
    side = _SIDES.get(str(value).strip().lower())
    if side is None:
        raise Misfit(f"has the preference {str(value)[:40]!r}: it is first, second or tie (best and best_from_0 count)")
    return ((1, 1), (1, 2), (2, 1))[side]


def ranks_of_best(value: Any, k: int, begins: int) -> tuple[int, ...]:
    """Ranks of k responses of which one, counted from `begins`, is better than the others."""
    place = number(value)
    if place is None or not place.is_integer() or not 0 <= place - begins < k:
        raise Misfit(f"has the best response {str(value)[:40]!r}: it is {begins} to {k - 1 + begins}")
    return tuple(1 if each == place - begins else 2 for each in range(k))


# -------------------------------------------------------------------- labels


def name_of(value: Any) -> str:
    """Who labeled, by name or number."""
    if value is None or value == "":
        return NOBODY
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"{value:g}" if isinstance(value, float) else str(value)
    return text(value, "labeler").strip()[:150]


def seconds_of(value: Any) -> float | None:
    """How long it took; None where nothing is said."""
    try:
        seconds = None if value is None else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if seconds is not None and not 0 <= seconds < 1e9:
        raise Misfit(f"has seconds that are no length of time: {str(value)[:40]!r}")
    return seconds


def time_of(value: Any) -> datetime | None:
    """ISO 8601 or seconds since 1970; in UTC where no zone is named. None where nothing is said."""
    if value is None or value == "":
        return None
    try:
        if isinstance(value, datetime):
            found = value
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found = datetime.fromtimestamp(value if value < 1e11 else value / 1000, UTC)  # milliseconds: JavaScript's
        else:
            found = datetime.fromisoformat(str(value).strip())
        found = found if found.tzinfo else found.replace(tzinfo=UTC)
        if 1970 <= found.astimezone(UTC).year < 9999:
            return found.astimezone(UTC)
    except (ValueError, OverflowError, OSError):
        pass
    raise Misfit(f"has a time that is none: {str(value)[:40]!r}")


def decoded(value: Any, name: str) -> Any:
    """The value, or what its text holds as JSON: a table keeps lists and objects so."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise Misfit(f"has {name} that are not JSON: {error}") from error


def text(value: Any, name: str) -> str:
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


def listed(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []


def objects_in(value: Any) -> list[Row]:
    """The objects in a list; none of anything else."""
    return [each for each in listed(value) if isinstance(each, dict)]


def plain_details(row: Row, *names: str) -> Row:
    """Those of the row's columns that say something."""
    return {name: row[name] for name in names if row.get(name) is not None}
