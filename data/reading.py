"""Labels as typed records for Python: what a snapshot and a store can both be asked for.

Reads   Arrow batches of whatever holds the labels; a batch at a time, when the records are iterated over
Gives   frozen records, or a `datasets.Dataset` in the columns that TRL's trainers take

    from data import load_snapshot
    for comparison in load_snapshot("3f9a12c0be77").comparisons("heldout"): ...
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

from data.errors import InvalidInput
from data.records import Message, Split

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    Read = Callable[[Split | None], Iterator[pa.RecordBatch]]
    Count = Callable[[Split | None], int]

Row = Mapping[str, Any]
Kind = Literal["demonstrations", "comparisons", "unpaired", "rankings", "prompts"]
Record = TypeVar("Record", covariant=True)


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """What a model is asked. `licence` is that of its source; None where nobody said."""

    prompt_id: str
    messages: tuple[Message, ...]
    tags: tuple[str, ...]
    split: Split
    source: str
    licence: str | None
    created_at: datetime

    @classmethod
    def of(cls, row: Row) -> PromptRecord:
        """The record of a row of data.columns.SCHEMAS["prompts"]."""
        return cls(
            prompt_id=row["prompt_id"],
            messages=_messages(row["messages"]),
            tags=tuple(row["tags"]),
            split=row["split"],
            source=row["source"],
            licence=row["licence"] or None,
            created_at=datetime.fromisoformat(row["created_at"]),
        )


@dataclass(frozen=True, slots=True)
class DemonstrationRecord:
    """The response that a labeler wrote to a prompt."""

    label_id: str
    revision: int
    task_id: str | None  # None: it was imported
    prompt_id: str
    prompt: tuple[Message, ...]
    response: str
    labeler: str  # pseudonym
    split: Split
    source: str  # "labeler", "rewrite:<label id of the ranking>", "seed", or what its import was called
    licence: str | None
    created_at: datetime
    client_at: datetime | None  # when the labeler gave it, by their own clock or as an imported file says
    seconds: float | None
    guideline: str  # hash of the instructions
    details: dict[str, Any]  # what else an imported file said of it
    started_from: str | None  # id of the model's response that the labeler began with

    @classmethod
    def of(cls, row: Row) -> DemonstrationRecord:
        """The record of a row of data.columns.SCHEMAS["demonstrations"]."""
        return cls(
            **_label(row),
            label_id=row["label_id"],
            revision=row["revision"],
            task_id=row["task_id"],
            response=row["response"],
            created_at=datetime.fromisoformat(row["created_at"]),
            seconds=row["seconds"],
            guideline=row["guideline"],
            started_from=row["started_from"] or None,
        )


@dataclass(frozen=True, slots=True)
class RankedResponse:
    """A response as it was ranked; `source` is the checkpoint that sampled it, or a name for one made elsewhere."""

    id: str
    text: str
    source: str


@dataclass(frozen=True, slots=True)
class RankingRecord:
    """One labeler's order of K responses. `ranks` has one for each: 1 is best, equal is a tie, None has no rank."""

    label_id: str
    revision: int
    task_id: str
    prompt_id: str
    prompt: tuple[Message, ...]
    responses: tuple[RankedResponse, ...]
    ranks: tuple[int | None, ...]
    labeler: str  # pseudonym
    split: Split
    source: str  # "labeler", "review", or what its import was called
    licence: str | None
    created_at: datetime
    client_at: datetime | None
    seconds: float | None
    display_order: tuple[str, ...]  # response ids as this labeler saw them; empty where an import does not say
    unrankable: tuple[str, ...]
    ratings: dict[str, dict[str, float]]  # by response id, 1 to 7
    flags: dict[str, tuple[str, ...]]  # by response id
    rewrite: dict[str, str] | None  # {"response_id", "text"}
    comment: str
    guideline: str
    details: dict[str, Any]  # what else an imported file said of it: a strength, ratings on a scale of its own

    @classmethod
    def of(cls, row: Row) -> RankingRecord:
        """The record of a row of data.columns.SCHEMAS["rankings"]."""
        return cls(
            **_label(row),
            label_id=row["label_id"],
            revision=row["revision"],
            task_id=row["task_id"],
            responses=tuple(RankedResponse(**response) for response in row["responses"]),
            ranks=tuple(row["ranks"]),
            created_at=datetime.fromisoformat(row["created_at"]),
            seconds=row["seconds"],
            display_order=tuple(row["display_order"]),
            unrankable=tuple(row["unrankable"]),
            ratings=json.loads(row["ratings"] or "{}"),
            flags={id: tuple(given) for id, given in json.loads(row["flags"] or "{}").items()},
            rewrite=json.loads(row["rewrite"] or "null"),
            comment=row["comment"],
            guideline=row["guideline"],
        )


@dataclass(frozen=True, slots=True)
class ComparisonRecord:
    """Two responses that one labeler ranked apart: one of the K(K-1)/2 pairs of a ranking, ties left out."""

    ranking_id: str
    prompt_id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    margin: int  # ranks between them
    chosen_id: str
    rejected_id: str
    labeler: str
    split: Split
    source: str
    licence: str | None
    client_at: datetime | None
    details: dict[str, Any]

    @classmethod
    def of(cls, row: Row) -> ComparisonRecord:
        """The record of a row of data.columns.SCHEMAS["comparisons"]."""
        names = ("ranking_id", "chosen", "rejected", "margin", "chosen_id", "rejected_id")
        return cls(**_label(row), **{name: row[name] for name in names})


class Records(Generic[Record]):
    """Records of one kind, read again each time they are iterated over, by prompt and label."""

    def __init__(self, read: Read, record: Callable[[Row], Record], count: Count, split: Split | None = None) -> None:
        self._read, self._record, self._count, self._split = read, record, count, split

    def __iter__(self) -> Iterator[Record]:
        for batch in self.batches():
            yield from map(self._record, batch.to_pylist())

    def __len__(self) -> int:
        return self._count(self._split)

    def split(self, name: Split) -> Records[Record]:
        """Those of train or of heldout prompts alone. Raises InvalidInput for another name."""
        return Records(self._read, self._record, self._count, _checked_split(name))

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The same rows in columns, as Arrow record batches, for pandas, Polars or DuckDB."""
        return self._read(self._split)


class Readable:
    """What holds labels that can be read: a snapshot, or the store of a workspace."""

    __slots__ = ()

    def read(self, kind: str, split: Split | None = None) -> Iterator[pa.RecordBatch]:
        """Rows of a kind of data.columns.SCHEMAS, of one split or of both."""
        raise NotImplementedError

    def count(self, kind: str, split: Split | None = None) -> int:
        """How many rows `read` would give."""
        return sum(len(batch) for batch in self.read(kind, split))

    @property
    def prompts(self) -> Records[PromptRecord]:
        """Every prompt, also those without a label."""
        return self._records("prompts", PromptRecord.of)

    @property
    def demonstrations(self) -> Records[DemonstrationRecord]:
        """Every demonstration."""
        return self._records("demonstrations", DemonstrationRecord.of)

    @property
    def rankings(self) -> Records[RankingRecord]:
        """Every ranking."""
        return self._records("rankings", RankingRecord.of)

    def comparisons(self, split: Split | None = None) -> Records[ComparisonRecord]:
        """The decided pairs of every ranking, of one split or of both."""
        found = self._records("comparisons", ComparisonRecord.of)
        return found if split is None else found.split(split)

    def to_dataset(self, kind: Kind, split: Split = "train") -> datasets.Dataset:
        """The rows of one split in TRL's columns, in memory: its trainers take them with no mapping.

        demonstrations are for SFTTrainer; comparisons for RewardTrainer and DPOTrainer, with a `margin` that
        RewardTrainer takes into its loss; unpaired, single responses with a verdict, for KTOTrainer; prompts for
        trainers that sample. Raises InvalidInput for another kind or split.
        """
        if kind not in get_args(Kind):
            raise InvalidInput(f"There is no dataset of {kind!r}: those are {', '.join(get_args(Kind))}.")
        import datasets  # a second, and pyarrow: whoever reads no dataset does without
        import pyarrow as pa

        from data.pairs import trl, trl_schema

        batches = (trl(batch, kind) for batch in self.read(kind, _checked_split(split)))
        return datasets.Dataset(pa.Table.from_batches(batches, trl_schema(kind)), split=datasets.Split(split))

    def _records(self, kind: str, record: Callable[[Row], Record]) -> Records[Record]:
        return Records(partial(self.read, kind), record, partial(self.count, kind))


def _checked_split(name: Split) -> Split:
    if name not in get_args(Split):
        raise InvalidInput(f"There is no split {name!r}: a prompt is in {' or '.join(get_args(Split))}.")
    return name


def _messages(turns: list[dict[str, str]]) -> tuple[Message, ...]:
    return tuple(Message(turn["role"], turn["content"]) for turn in turns)


def _label(row: Row) -> dict[str, Any]:
    """The fields that every kind of label has."""
    return {
        "prompt_id": row["prompt_id"],
        "prompt": _messages(row["prompt"]),
        "labeler": row["labeler"],
        "split": row["split"],
        "source": row["source"] or "",
        "licence": row["licence"] or None,
        "client_at": datetime.fromisoformat(row["client_at"]) if row["client_at"] else None,
        "details": json.loads(row["details"] or "{}"),
    }
