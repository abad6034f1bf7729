"""What the rows of a file say, whoever wrote them: one recogniser for each known shape, and a table of them.

The table is asked row by row, the first shape that fits reads the row. Its name goes into the report. A row that no
shape fits, and one that its shape cannot read, raises Misfit with the reason.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from data.shapes import choices, dialogues, pairs, plain, tools, trees
from data.shapes.fields import Misfit, Row, Said, Shape
from data.shapes.mapping import FIELDS, Mapping

__all__ = ["FIELDS", "FORMATS", "KINDS", "MAPPED", "SHAPES", "Mapping", "Misfit", "Reading", "read"]

KINDS = ("demonstrations", "comparisons", "unpaired", "rankings", "prompts")  # of rows that go out
FORMATS = ("trl", "trl-parquet", "jsonl", "parquet", "csv", "arrow")  # they go out in
MAPPED = "columns named by --map"
SHAPES: tuple[Shape, ...] = (
    *tools.SHAPES,
    *trees.SHAPES,
    *pairs.SHAPES,
    *choices.SHAPES,
    *dialogues.SHAPES,
    *plain.SHAPES,  # the least particular come last
)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a row says, by which shape, and what of it could not be taken."""

    shape: str
    said: list[Said]
    left_out: list[str]


def read(kind: str, row: Row, source: str, mapping: Mapping | None = None) -> Reading:
    """What this row says of that kind; `source` names where it comes from. Raises Misfit when that is nothing."""
    shape = _recognised(row) if mapping is None else replace(plain.ANY, name=MAPPED)
    try:
        return _read(shape, kind, row if mapping is None else mapping.of(row), source)
    except Misfit as misfit:
        misfit.shape = "" if shape is plain.ANY else shape.name
        raise


def _read(shape: Shape, kind: str, row: Row, source: str) -> Reading:
    reader = {"demonstrations": shape.demonstrations, "prompts": shape.prompts}.get(kind, shape.rankings)
    if reader is None and kind == "prompts":
        reader = shape.demonstrations or shape.rankings
    if reader is None:
        holds = [name for name in ("demonstrations", "rankings", "prompts") if getattr(shape, name)]
        raise Misfit(f"is of the shape {shape.name}, which has no {kind} in it but {' and '.join(holds)}")
    said, left_out = [], []
    for each in reader(row, source):
        if isinstance(each, str):
            left_out.append(each)
        else:
            each = Said(each.prompt) if kind == "prompts" else each
            if kind != "prompts" or each not in said:
                said.append(each)
    if not said:
        what = "comparison" if kind == "comparisons" else kind[:-1]
        raise Misfit("; ".join(left_out[:3]) if left_out else f"has no {what} in it")
    return Reading(shape.name, said, left_out)


def _recognised(row: Row) -> Shape:
    return next((shape for shape in SHAPES if shape.fits(row)), plain.ANY)
