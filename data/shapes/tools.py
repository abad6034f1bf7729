"""Exports of labeling tools: Label Studio's tasks with their annotations, Argilla's records with their responses.

Both let a project name its fields as it likes, so the prompt is looked for under the names that Pawl knows, and the
responses are the fields that the control or question names, else all other texts, in their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from data.records import NewPrompt, NewResponse
from data.shapes import fields
from data.shapes.fields import PROMPT_KEYS, Answer, Misfit, Row, Said, Shape, text


@dataclass(frozen=True, slots=True)
class _Fields:
    """What was shown: the prompt, and the texts beside it by name."""

    prompt: NewPrompt
    texts: dict[str, str]

    @classmethod
    def of(cls, shown: Row, source: str) -> _Fields:
        prompt = fields.new_prompt({}, fields.conversation(shown), source)
        texts = {name: value for name, value in shown.items() if name not in PROMPT_KEYS and isinstance(value, str)}
        for value in shown.values():
            if isinstance(value, list) and value and all(isinstance(each, dict) and "id" in each for each in value):
                texts |= {str(each["id"]): str(each.get("body") or each.get("text") or "") for each in value}
        return cls(prompt, texts)

    def ranked(self, groups: Sequence[Sequence[str]], answer: Answer, source: str, *, listed: bool) -> Said:
        """These texts, by name, those of a group tied, the best group first. In the order in which they were shown."""
        ranks = {name: rank for rank, group in enumerate(groups, 1) for name in group}
        names = [name for name in self.texts if name in ranks] if listed else list(ranks)
        if len(names) != len(ranks) or not 2 <= len(names) <= 9:
            raise Misfit(f"ranks {len(ranks)} texts, of which {len(names)} are there: 2 to 9 are wanted")
        responses = [NewResponse(text(self.texts[name], name), source) for name in names]
        return fields.ranking(self.prompt, responses, [ranks[name] for name in names], answer)

    def chosen(self, sides: Sequence[str], word: Any, answer: Answer, source: str) -> Said:
        """One of two texts, named by its field or by its side."""
        first, second = sides if len(sides) == 2 and all(side in self.texts for side in sides) else self._two()
        if _plain(word) in map(_plain, (first, second)):
            ranks = (1, 2) if _plain(word) == _plain(first) else (2, 1)
        else:
            ranks = fields.ranks_of_side(word)
        responses = [NewResponse(text(self.texts[name], name), source) for name in (first, second)]
        return fields.ranking(self.prompt, responses, ranks, answer)

    def _two(self) -> tuple[str, str]:
        if len(self.texts) != 2:
            raise Misfit(
                f"has {len(self.texts)} texts beside its prompt ({', '.join(self.texts) or 'none'}), where a choice is "
                "between two"
            )
        first, second = self.texts
        return first, second


def _plain(word: Any) -> str:
    return str(word).lower().replace("-", "_").replace(" ", "_")


# -------------------------------------------------------------- Label Studio


def _studio(row: Row, source: str, wanted: tuple[str, ...]) -> Iterator[Said | str]:
    shown = _Fields.of(row["data"], source)
    for number, annotation in enumerate(row["annotations"], 1):
        if not isinstance(annotation, dict) or annotation.get("was_cancelled") or not annotation.get("result"):
            yield f"annotation {number} was skipped or is empty"
            continue
        try:
            found: list[Said | str] = list(_results(shown, annotation, source, wanted))
        except Misfit as misfit:
            yield f"annotation {number} {misfit}"
            continue
        yield from found or [f"annotation {number} has no result of the kind {' or '.join(wanted)}"]


def _results(shown: _Fields, annotation: Row, source: str, wanted: tuple[str, ...]) -> Iterator[Said]:
    by = annotation.get("completed_by")
    answer = Answer(
        fields.name_of(by.get("email", by.get("id")) if isinstance(by, dict) else by),
        seconds=fields.seconds_of(annotation.get("lead_time")),
        labeled_at=fields.time_of(annotation.get("created_at")),
    )
    results = [each for each in fields.objects_in(annotation["result"]) if isinstance(each.get("value"), dict)]
    ratings = {
        str(each.get("from_name")): each["value"].get("rating") for each in results if each.get("type") == "rating"
    }
    answer = replace(answer, details={"ratings": ratings} if ratings else {})
    for result in results:
        kind, value = result.get("type"), result["value"]
        if kind not in wanted:
            continue
        if kind == "textarea":
            words = value.get("text")
            for each in words if isinstance(words, list) else [words]:
                yield fields.demonstration(shown.prompt, text(each, "textarea"), answer)
        elif kind == "pairwise":
            sides = list(map(str, fields.listed(result.get("to_name"))))
            yield shown.chosen(sides, value.get("selected"), answer, source)
        elif kind == "choices" and len(fields.listed(value.get("choices"))) == 1:
            yield shown.chosen([], value["choices"][0], answer, source)
        elif kind == "ranker":
            order = value.get("ranker")
            lists = list(order.values()) if isinstance(order, dict) else [order]
            if len(lists) != 1 or not isinstance(lists[0], list):
                raise Misfit("sorts into several buckets, which is no ranking")
            yield shown.ranked([[str(each)] for each in lists[0]], answer, source, listed=True)


def _studio_rankings(row: Row, source: str) -> Iterator[Said | str]:
    return _studio(row, source, ("pairwise", "choices", "ranker"))


def _studio_texts(row: Row, source: str) -> Iterator[Said | str]:
    return _studio(row, source, ("textarea",))


def _studio_prompts(row: Row, source: str) -> Iterator[Said | str]:
    yield Said(_Fields.of(row["data"], source).prompt)


# ------------------------------------------------------------------- Argilla

_Given = tuple[str, str, Any, str]  # question, labeler, value, status


def _columns(row: Row) -> tuple[Row, list[_Given]]:
    """What was shown, and who said what, of a record in any of the three forms in which Argilla exports it."""
    if isinstance(row.get("fields"), dict):  # to_json, to_dict
        given = [
            (question, fields.name_of(each.get("user_id")), each.get("value"), str(each.get("status") or "submitted"))
            for question, answers in row["responses"].items()
            for each in fields.objects_in(answers)
        ]
        return row["fields"], given
    given = []
    answers = {name for name, value in row.items() if _are_answers(value)}  # version 1, as a dataset
    for name in answers:
        given += [
            (name, fields.name_of(each["user_id"]), each["value"], str(each.get("status") or "submitted"))
            for each in row[name]
        ]
    flat = [name.removesuffix(".responses") for name in row if name.endswith(".responses")]  # version 2, as a dataset
    for name in flat:
        values = fields.listed(row[f"{name}.responses"])
        users = fields.listed(row.get(f"{name}.responses.users")) or [None] * len(values)
        states = fields.listed(row.get(f"{name}.responses.status")) or ["submitted"] * len(values)
        given += [
            (name, fields.name_of(user), value, str(state))
            for value, user, state in zip(values, users, states, strict=False)
        ]
    hidden = {"id", "status", "metadata", "external_id", "_server_id"} | answers
    shown = {name: value for name, value in row.items() if name not in hidden and "." not in name}
    return {name: value for name, value in shown.items() if not name.endswith(("-suggestion", "-metadata"))}, given


def _are_answers(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(each, dict) and {"user_id", "value"} <= each.keys() for each in value)
    )


def _is_argilla(row: Row) -> bool:
    whole = isinstance(row.get("fields"), dict) and isinstance(row.get("responses"), dict)
    return whole or any(name.endswith(".responses") or _are_answers(value) for name, value in row.items())


def _groups(value: Any, shown: _Fields) -> list[list[str]] | None:
    """A ranking's fields, those that are tied together, the best first; None for an answer of another kind."""
    if not isinstance(value, list) or not value:
        return None
    names = {_plain(name): name for name in shown.texts}
    ranked = [
        (each.get("rank"), each.get("value")) if isinstance(each, dict) else (place, each)
        for place, each in enumerate(value, 1)
    ]
    if not all(isinstance(rank, int) and _plain(name) in names for rank, name in ranked):
        return None
    groups: dict[int, list[str]] = {}
    for rank, name in sorted(ranked, key=lambda each: int(each[0] or 0)):
        groups.setdefault(int(rank or 0), []).append(names[_plain(name)])
    return list(groups.values())


def _argilla(row: Row, source: str, *, texts: bool) -> Iterator[Said | str]:
    columns, given = _columns(row)
    shown = _Fields.of(columns, source)
    for question, labeler, value, status in given:
        if status != "submitted":
            yield f"the answer of {labeler} to {question!r} is {status}"
            continue
        answer, groups = Answer(labeler, details={"question": question}), _groups(value, shown)
        try:
            if texts and isinstance(value, str) and not _is_choice(value, shown):
                yield fields.demonstration(shown.prompt, text(value, question), answer)
            elif not texts and groups is not None:
                yield shown.ranked(groups, answer, source, listed=True)
            elif not texts and isinstance(value, str) and _is_choice(value, shown):
                yield shown.chosen([], value, answer, source)
        except Misfit as misfit:
            yield f"the answer of {labeler} to {question!r} {misfit}"


def _is_choice(value: str, shown: _Fields) -> bool:
    try:
        return _plain(value) in map(_plain, shown.texts) or fields.ranks_of_side(value) is not None
    except Misfit:
        return False


def _argilla_rankings(row: Row, source: str) -> Iterator[Said | str]:
    return _argilla(row, source, texts=False)


def _argilla_texts(row: Row, source: str) -> Iterator[Said | str]:
    return _argilla(row, source, texts=True)


def _argilla_prompts(row: Row, source: str) -> Iterator[Said | str]:
    yield Said(_Fields.of(_columns(row)[0], source).prompt)


SHAPES = (
    Shape(
        "Label Studio export",
        lambda row: isinstance(row.get("data"), dict) and isinstance(row.get("annotations"), list),
        _studio_texts,
        _studio_rankings,
        _studio_prompts,
    ),
    Shape("Argilla export", _is_argilla, _argilla_texts, _argilla_rankings, _argilla_prompts),
)
