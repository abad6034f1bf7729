"""Tasks with a known answer, and who waits to be let in, as blocks that annotate/panels draws; what is done to them.

Reads   the store's checks
Writes  a gold or qualification task of a ranked one; one taken back; a labeler let in
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from annotate.context import Context
from data.errors import FeedbackError

Json = dict[str, Any]
Blocks = list[Json]

SHOWN = 20  # the newest
KINDS = {"gold": "Gold", "qualification": "Qualification"}
MAKE = [{"text": "Use as gold", "act": "gold"}, {"text": "Use for qualification", "act": "qualification"}]
TAKE_BACK = [{"text": "Take it back", "act": "retire", "sure": "Really take it back?"}]
ADMIT = [{"text": "Admit", "act": "admit", "sure": "Really admit?"}]
DONE = {
    "gold": "Every labeler is given it from now on, silently among the work.",
    "qualification": "Every new labeler is given it from now on, before any work.",
    "retire": "It is given to nobody any more. What was answered is kept and still counts.",
}


def known_of(context: Context) -> Blocks:
    """The gold and qualification tasks, the newest first: the answer that is known, and how many gave it."""
    found = context.store.checks.known(SHOWN + 1)
    items = [
        _item(task, f"{KINDS[task['purpose']]} · {_given(task)} · since {task['created_at'][:10]}", TAKE_BACK)
        for task in found[:SHOWN]
    ]
    empty = "No answer is known yet. A few gold tasks tell how well each labeler judges; make them from ranked tasks."
    more = f"These are the newest {SHOWN}; /api/v1/checks has more."
    return [
        {"kind": "heading", "text": "Tasks with a known answer"},
        {"kind": "answers", "items": items, "empty": empty},
        *([{"kind": "text", "text": more}] if len(found) > SHOWN else []),
    ]


def candidates_of(context: Context) -> Blocks:
    """Ranked tasks that could be made into such a one."""
    items = [_item(task, _origin(task), MAKE) for task in context.store.checks.candidates(SHOWN)]
    words = (
        "Tasks that a reviewer decided, then the latest on which everybody who ranked them agrees. Who ranked one gets "
        "it again as a check, so prefer those of reviewers."
    )
    empty = "There is none: rank tasks first, or review those on which labelers differ."
    return [{"kind": "text", "text": words}, {"kind": "answers", "items": items, "empty": empty}]


def waiting_of(context: Context, names: Mapping[str, str]) -> Blocks:
    """Labelers who get no work yet, with their score; nothing when nobody waits. `names` by pseudonym, for admins."""
    found = context.store.checks.waiting()
    if not found:
        return []
    columns = ["Labeler", *(["Name"] if names else []), "Qualification", "Needed"]
    rows = [
        [
            each["labeler"],
            *([names.get(each["labeler"], "-")] if names else []),
            _standing(each),
            f"{each['needed']:.0%}",
        ]
        for each in found
    ]
    words = "They answer the qualification tasks first. Who comes to less than is needed gets no work until you say so."
    return [
        {"kind": "heading", "text": "Waiting to be admitted"},
        {"kind": "text", "text": words},
        {
            "kind": "table",
            "columns": columns,
            "rows": rows,
            "keys": [each["labeler"] for each in found],
            "actions": [ADMIT] * len(found),
            "wide": ["Needed", *(["Labeler"] if names else [])],
            "empty": "",
        },
    ]


def done(context: Context, task_id: str, act: str, author: str) -> Blocks:
    """Make a check of this task, or take one back; what came of it, in words."""
    try:
        if act == "retire":
            context.store.project.retire(task_id)
        else:
            context.store.checks.make(task_id, act, author)  # type: ignore[arg-type]  # the store refuses any other
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]
    return [{"kind": "text", "tone": "good", "text": DONE[act]}]


def admitted(context: Context, labeler: str, author: str) -> Blocks:
    """Let this labeler, by pseudonym, work; what came of it, in words."""
    try:
        context.store.project.admit(labeler, author)
    except FeedbackError as error:
        return [{"kind": "text", "tone": "warn", "text": str(error)}]
    return [{"kind": "text", "tone": "good", "text": f"{labeler} may work: their page goes on by itself."}]


def _item(task: Json, title: str, actions: list[Json]) -> Json:
    return {
        "id": task["task_id"],
        "title": title,
        "prompt": task["prompt"][-1]["content"],
        "answer": in_words(task["ranks"], task["responses"]),
        "actions": actions,
    }


def in_words(ranks: Sequence[int | None], texts: Sequence[str]) -> Blocks:
    """Each response with its place in words, the best first: those at one place are a tie."""
    order = sorted(range(len(ranks)), key=lambda n: (ranks[n] is None, ranks[n] or 0))
    places = {rank: place for place, rank in enumerate(sorted({rank for rank in ranks if rank is not None}), 1)}

    def place(rank: int | None) -> str:
        if rank is None:
            return "unrankable"
        words = f"{places[rank]} best" if places[rank] == 1 else str(places[rank])
        return f"{words}, tie" if list(ranks).count(rank) > 1 else words

    return [{"place": place(ranks[n]), "text": texts[n]} for n in order]


def _standing(each: Json) -> str:
    answered = f"{each['answered']} of {each['tasks']} answered"
    return answered if each["score"] is None else f"{each['score']:.0%}, {answered}"


def _given(task: Json) -> str:
    if not task["labels"]:
        return "nobody answered it yet"
    return f"{task['right']} of {task['labels']} gave this answer ({task['agreement']:.0%} of its pairs agree)"


def _origin(task: Json) -> str:
    if task["origin"] == "adjudication":
        return "A reviewer's answer"
    return f"{task['labels']} labelers gave this answer" if task["labels"] > 1 else "One labeler's answer"
