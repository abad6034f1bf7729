"""What a snapshot's files hold, told from their rows: as they are written, and when they are read again.

Needs   pyarrow only
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from data.columns import schema_of
from data.fingerprint import Fingerprint
from data.origins import Origins

FORMAT = 3
FORMATS = (1, 2, 3)
KINDS = ("prompts", "demonstrations", "rankings")
LABELS = ("demonstrations", "rankings")
SPLITS = ("train", "heldout")
NAMED_BY = ("choices", "weights", "aggregated", "heldout_labelers")  # fields of `about`, where there are any


class FrozenFile(TypedDict):
    """One Parquet file: how many rows, and the hash of what they say."""

    rows: int
    sha256: str


class FrozenSource(TypedDict):
    """Where some of the rows come from, and how many."""

    name: str  # "labeler", "review", "rewrite", "seed", or what an import was called
    licence: str | None  # None where nobody said
    prompts: int
    demonstrations: int
    rankings: int


class Manifest(TypedDict):
    """What manifest.json says. What formats 1 and 2 lack is not required."""

    hash: str  # the snapshot's name
    format: int
    counts: dict[str, int]
    sources: NotRequired[list[FrozenSource]]
    guidelines: list[str]  # hashes of the instructions that labelers had
    labelers: list[str]  # pseudonyms
    files: dict[str, FrozenFile]
    agreement: dict[str, Any] | None
    promoted: str | None  # the checkpoint that was promoted when the labels were frozen
    about: dict[str, Any]  # how the labels were chosen, weights, what was left out
    created_at: str  # ISO 8601, in UTC
    seal: NotRequired[str]  # hash of all the rest
    label_ids: NotRequired[list[str]]  # in format 1


def name_of(files: dict[str, str], about: dict[str, Any]) -> str:
    """The snapshot's name from the hashes of its files' rows, and what a trainer goes by of what is said about them."""
    text = "".join(f"{name} {files[name]}\n" for name in sorted(files))
    text += "".join(f"{name} {json.dumps(about[name], sort_keys=True)}\n" for name in NAMED_BY if name in about)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def file_of(kind: str, split: str) -> str:
    return f"{kind}/{split}.parquet"


def sealed(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The manifest with a hash of all that it says."""
    said = {name: value for name, value in manifest.items() if name != "seal"}
    return said | {"seal": hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()}


@dataclass(slots=True)
class Contents:
    """Counts and hashes of all files of a snapshot, of this format or of format 2."""

    format: int = FORMAT
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ["demonstrations_trainable", "rankings_trainable", *KINDS, *(f"{kind}_heldout" for kind in KINDS)], 0
        )
    )
    lines: dict[str, int] = field(
        default_factory=lambda: {file_of(kind, split): 0 for kind in KINDS for split in SPLITS}
    )
    prints: dict[str, Fingerprint] = field(init=False)
    guidelines: set[str] = field(default_factory=set)
    labelers: set[str] = field(default_factory=set)
    origins: Origins = field(default_factory=lambda: Origins(KINDS))

    def __post_init__(self) -> None:
        schemas = {kind: schema_of(kind, self.format) for kind in KINDS}
        self.prints = {file_of(kind, split): Fingerprint(schemas[kind]) for kind in KINDS for split in SPLITS}

    def added(self, kind: str, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, pa.RecordBatch]]:
        """The rows of each batch that belong to one split, with that split, once they are counted and hashed."""
        before = ("", "")
        for batch in batches:
            before = _in_order(batch, before)
            for split in SPLITS:
                part = batch.filter(pc.equal(batch.column("split"), split))
                if len(part):
                    self.add(kind, split, part)
                    yield split, part

    def add(self, kind: str, split: str, rows: pa.RecordBatch) -> None:
        """Count and hash the next rows of one file."""
        name, count = file_of(kind, split), len(rows)
        self.prints[name].update(rows)
        self.lines[name] += count
        self.counts[kind] += count
        self.counts[f"{kind}_heldout"] += count if split == "heldout" else 0
        if self.format > 2:
            self.origins.add(kind, rows)
        if kind not in LABELS:
            return
        self.labelers.update(pc.unique(rows.column("labeler")).to_pylist())
        self.guidelines.update(filter(None, pc.unique(rows.column("guideline")).to_pylist()))
        if split == "train":
            self.counts[f"{kind}_trainable"] += count if kind == "demonstrations" else _decided(rows.column("ranks"))

    def hashes(self) -> dict[str, str]:
        """The hash of each file's rows."""
        return {name: print.hexdigest() for name, print in self.prints.items()}

    def manifest(self, about: dict[str, Any]) -> dict[str, Any]:
        """What a manifest says of the rows, and of `about` by the name."""
        files = self.hashes()
        return {
            "hash": name_of(files, about),
            "format": self.format,
            "counts": self.counts,
            **({"sources": self.origins.listing()} if self.format > 2 else {}),
            "guidelines": sorted(self.guidelines),
            "labelers": sorted(self.labelers),
            "files": {name: {"rows": self.lines[name], "sha256": files[name]} for name in sorted(files)},
        }


def _in_order(batch: pa.RecordBatch, before: tuple[str, str]) -> tuple[str, str]:
    """The key of the last row. Raises ValueError when rows do not come by prompt and label, each once."""
    if not len(batch):
        return before
    ids = batch.column("prompt_id")
    labels = batch.column("label_id") if "label_id" in batch.schema.names else pa.repeat("", len(batch))
    first, last = ((ids[row].as_py(), labels[row].as_py()) for row in (0, len(batch) - 1))
    keys = pc.binary_join_element_wise(ids, labels, "\0")
    if first <= before or not pc.all(pc.less(keys[:-1], keys[1:]), min_count=0).as_py():
        raise ValueError(f"The rows to be frozen are not by prompt and label, each once, near {first}.")
    return last


def _decided(ranks: pa.Array) -> int:
    """How many of the rankings have a pair in them that is not a tie."""
    flat = pa.table({"row": pc.list_parent_indices(ranks), "rank": pc.list_flatten(ranks)})
    spread = flat.group_by("row").aggregate([("rank", "min"), ("rank", "max")])
    decided: int | None = pc.sum(pc.less(spread.column("rank_min"), spread.column("rank_max"))).as_py()
    return decided or 0
