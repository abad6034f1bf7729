"""Pawl's rows as TRL takes them."""

from __future__ import annotations

from data.shapes.fields import Row


def trl_of(kind: str, row: Row) -> Row:
    """A row of the store as TRL takes it: conversational prompt, completion, chosen and rejected."""
    if kind == "demonstrations":
        return _renamed(row, {"response": "completion"}, ("completion",))
    if kind == "comparisons":
        return _renamed(row, {}, ("chosen", "rejected"))
    if kind == "prompts":
        return _renamed(row, {"messages": "prompt"}, ())
    texts = [_said(response["text"]) for response in row["responses"]]
    return {**row, "completions": texts}


def _renamed(row: Row, names: dict[str, str], responses: tuple[str, ...]) -> Row:
    renamed = {names.get(name, name): value for name, value in row.items()}
    return renamed | {name: _said(renamed[name]) for name in responses}


def _said(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]
