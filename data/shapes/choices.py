"""K responses to one prompt: pairwise choices turned into one order, ratings, and systems ranked without their texts.

QA-Feedback (Wu et al. 2023), UltraFeedback (Cui et al. 2023), the rankings of WMT's translation tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, permutations
from typing import Any

from data.records import NewResponse
from data.shapes import fields
from data.shapes.fields import Answer, Misfit, Row, Said, Shape, text

_RANKS = {0: (1, 1), 1: (1, 2), 2: (2, 1)}  # of a pair, by which of the two was chosen


def weak_order(k: int, choices: Sequence[int]) -> tuple[int, ...] | None:
    """Ranks that agree with the choice in every pair of k responses; None where no order does.

    `choices` go through the pairs as they are listed: 1-2, 1-3 ... 2-3 ...; 1 is for the first of the two, 2 for the
    second, 0 for neither.
    """
    wins = [0] * k
    for (first, second), choice in zip(combinations(range(k), 2), choices, strict=True):
        wins[first] += 2 if choice == 1 else 1 if choice == 0 else 0
        wins[second] += 2 if choice == 2 else 1 if choice == 0 else 0
    ranks = tuple(rank or 0 for rank in fields.renumbered([-count for count in wins]))
    chosen = {(True, False): 1, (False, True): 2, (False, False): 0}
    told = [chosen[ranks[one] < ranks[other], ranks[one] > ranks[other]] for one, other in combinations(range(k), 2)]
    return ranks if told == list(choices) else None


def contradiction(k: int, choices: Sequence[int]) -> str:
    """Three responses whose choices fit no order, in words."""
    beats = {(one, one): 0 for one in range(k)}
    for (first, second), choice in zip(combinations(range(k), 2), choices, strict=True):
        beats[first, second] = {0: 0, 1: 1, 2: -1}[choice]
        beats[second, first] = -beats[first, second]
    for one, two, three in permutations(range(k), 3):
        near = beats[one, two], beats[two, three]
        if min(near) >= 0 and beats[one, three] != max(near):
            words = [f"{a + 1} {'is better than' if b else 'equals'} {c + 1}" for a, b, c in (
                (one, near[0], two), (two, near[1], three))]  # fmt: skip
            last = {-1: "is worse than", 0: "equals", 1: "is better than"}[beats[one, three]]
            return f"{words[0]} and {words[1]}, but {one + 1} {last} {three + 1}"
    return "no order agrees with all of them"


def _predictions(row: Row) -> list[str]:
    names = [f"prediction {number}" for number in range(1, 10)]
    return [text(row[name], name) for name in names if row.get(name) is not None]


def _read_passages(row: Row, source: str) -> Any:
    """What was asked, below the passages that were to be read for it: each a title and its sentences."""
    passages = row.get("passages") or []
    if not isinstance(passages, list) or not all(isinstance(each, list) for each in passages):
        raise Misfit("has passages that are not lists of sentences")
    read = ["\n".join([str(each[0]), " ".join(map(str, each[1:]))]) for each in passages if each]
    return fields.asked(row, "\n\n".join([*read, text(row["question"], "question")]), source)


def _pairwise(row: Row, source: str) -> Iterator[Said | str]:
    prompt, texts, choices = _read_passages(row, source), _predictions(row), row["preference"]
    k = len(texts)
    if not 2 <= k <= 9 or len(choices) != k * (k - 1) // 2 or not all(choice in (0, 1, 2) for choice in choices):
        raise Misfit(f"has {k} responses but not a choice of 0, 1 or 2 for each of their {k * (k - 1) // 2} pairs")
    answer = Answer(details={"choices": choices} | fields.plain_details(row, "feedback"))
    responses = [NewResponse(words, source) for words in texts]
    if (ranks := weak_order(k, choices)) is not None:
        yield fields.ranking(prompt, responses, ranks, answer)
        return
    yield f"its choices are no order ({contradiction(k, choices)}): each of the {len(choices)} is a ranking of two"
    for (first, second), choice in zip(combinations(range(k), 2), choices, strict=True):
        pair = Answer(details={"of": [first + 1, second + 1]})
        yield fields.ranking(prompt, [responses[first], responses[second]], _RANKS[choice], pair)


def _corrected(row: Row, source: str) -> Iterator[Said | str]:
    feedback = row.get("feedback")
    words = feedback.get("corrected-prediction") if isinstance(feedback, dict) else None
    yield fields.demonstration(_read_passages(row, source), text(words, "corrected-prediction"), Answer())


def _rated(row: Row, source: str) -> Iterator[Said | str]:
    """Ranked by the mean of the ratings of each response, else by its overall score; all of them are kept."""
    completions = [each for each in row["completions"] if isinstance(each, dict)]
    if not 2 <= len(completions) <= 9:
        raise Misfit("has no completions: a list of 2 to 9 of them")
    ratings = [_ratings_of(each.get("annotations")) for each in completions]
    overall = [each.get("overall_score") for each in completions]
    means = [sum(each.values()) / len(each) if each else None for each in ratings]
    details = {"ratings": ratings} | ({"overall": overall} if any(overall) else {})
    ranks = fields.by_rating(means if all(ratings) else overall, len(completions))
    responses = [
        NewResponse(fields.said_text(each.get("response"), f"response {number}"), str(each.get("model") or source))
        for number, each in enumerate(completions, 1)
    ]
    prompt = fields.new_prompt(row, fields.conversation(row), source)
    yield fields.ranking(prompt, responses, ranks, Answer(details=details), listed=False)


def _ratings_of(annotations: Any) -> dict[str, float]:
    """The rating of each aspect that has one."""
    found = {}
    for aspect, said in (annotations if isinstance(annotations, dict) else {}).items():
        rating = fields.number(said.get("Rating")) if isinstance(said, dict) else None
        if rating is not None:
            found[str(aspect)] = rating
    return found


def _no_texts(row: Row, source: str) -> Iterator[Said | str]:
    if not row["systems"]:
        raise Misfit("names no system: nothing was ranked")
    raise Misfit(
        "names systems but has no text of theirs. To take their names for the texts: "
        "--map prompt=pair --map prompt=segment --map responses=systems --map ranks=ranks --map labeler=judge "
        "--map seconds=seconds"
    )
    yield


SHAPES = (
    Shape(
        "QA-Feedback, a choice in each pair",
        lambda row: "prediction 1" in row and isinstance(row.get("preference"), list) and "question" in row,
        demonstrations=_corrected,
        rankings=_pairwise,
    ),
    Shape(
        "UltraFeedback ratings",
        lambda row: (
            "instruction" in row
            and isinstance(row.get("completions"), list)
            and any(isinstance(each, dict) and "response" in each for each in row["completions"])
        ),
        rankings=_rated,
    ),
    Shape(
        "WMT rankings of systems, without texts",
        lambda row: isinstance(row.get("systems"), list) and "ranks" in row and "prompt" not in row,
        rankings=_no_texts,
        prompts=_no_texts,
    ),
)
