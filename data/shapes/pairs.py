"""Datasets of human choices between two texts, which keep who chose, how sure they were, and in which order they saw.

UKPConvArg1 (Habernal and Gurevych 2016), the human evaluation of Tülu (Wang et al. 2023), Auto-J (Li et al. 2023).
"""

from __future__ import annotations

from collections.abc import Iterator

from data.records import NewResponse
from data.shapes import fields
from data.shapes.fields import Answer, Misfit, Row, Said, Shape, text

_ARGUMENTS = {"a1": (1, 2), "a2": (2, 1), "equal": (1, 1)}
_STRENGTHS = {  # of a preference in five levels
    "a-is-better": ((1, 2), 2),
    "a-is-slightly-better": ((1, 2), 1),
    "tie": ((1, 1), 0),
    "b-is-slightly-better": ((2, 1), 1),
    "b-is-better": ((2, 1), 2),
}


def _arguments(row: Row, source: str) -> Iterator[Said | str]:
    """Two arguments for one side of a debate, and what each of several workers said."""
    sides = [text(row.get(name), name) for name in ("debate", "stance") if row.get(name)]
    if not sides:
        raise Misfit("has no debate and no stance, of which its texts are arguments")
    prompt = fields.asked(row, "\n\n".join(sides), source)
    responses = [NewResponse(text(row[name], name), str(row[f"{name}_id"])) for name in ("a1", "a2")]
    gold = fields.plain_details(row, "strict_gold")
    for number, label in enumerate(row["labels"], 1):
        ranks = _ARGUMENTS.get(str(label.get("value"))) if isinstance(label, dict) else None
        if ranks is None:
            value = label.get("value") if isinstance(label, dict) else label
            yield f"label {number} has the value {str(value)[:40]!r}: it is a1, a2 or equal"
            continue
        try:
            answer = Answer(
                fields.name_of(label.get("worker")),
                text(label["reason"], "reason") if label.get("reason") not in (None, "") else "",
                fields.seconds_of(label.get("hit_seconds")),
                details=gold | fields.plain_details(label, "competence"),
            )
        except Misfit as misfit:
            yield f"label {number} {misfit}"
            continue
        yield fields.ranking(prompt, responses, ranks, answer)


def _five_levels(row: Row, source: str) -> Iterator[Said | str]:
    level = _STRENGTHS.get(str(row["preference"]))
    if level is None:
        raise Misfit(f"has the preference {str(row['preference'])[:40]!r}: it is {', '.join(_STRENGTHS)}")
    ranks, strength = level
    responses = [
        NewResponse(
            fields.said_text(row[f"completion_{side}"], f"completion_{side}"), str(row.get(f"model_{side}") or source)
        )
        for side in "ab"
    ]
    details = {"strength": strength} | fields.plain_details(
        row, "completion_a_is_acceptable", "completion_b_is_acceptable", "instance_quality", "instance_id"
    )
    answer = Answer(
        fields.name_of(row.get("evaluator")),
        text(row["comment"], "comment") if row.get("comment") else "",
        labeled_at=fields.time_of(row.get("timestamp")),
        details=details,
    )
    yield fields.ranking(fields.new_prompt(row, fields.conversation(row), source), responses, ranks, answer)


def _numbered(row: Row, source: str) -> Iterator[Said | str]:
    """`label` 0 is for the first response, 1 for the second, 2 for neither."""
    ranks = {"0": (1, 2), "1": (2, 1), "2": (1, 1)}.get(str(row["label"]))
    if ranks is None:
        raise Misfit(f"has the label {str(row['label'])[:40]!r}: it is 0, 1 or 2")
    responses = [NewResponse(fields.said_text(row[name], name), source) for name in ("response 1", "response 2")]
    yield fields.ranking(fields.new_prompt(row, fields.conversation(row), source), responses, ranks, Answer())


SHAPES = (
    Shape(
        "UKPConvArg pairs with several labels",
        lambda row: {"a1", "a2", "a1_id", "a2_id"} <= row.keys() and isinstance(row.get("labels"), list),
        rankings=_arguments,
    ),
    Shape(
        "Tülu evaluation, preference in five levels",
        lambda row: {"completion_a", "completion_b", "preference"} <= row.keys(),
        rankings=_five_levels,
    ),
    Shape("Auto-J pairs", lambda row: {"response 1", "response 2", "label"} <= row.keys(), rankings=_numbered),
)
