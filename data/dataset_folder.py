"""Rows out to a folder that is a Hugging Face dataset: Parquet shards and a dataset card.

Reads   Arrow batches of the store
Writes  FOLDER/README.md, FOLDER/data/SPLIT-00000.parquet and so on; written under another name and renamed, so it is
        there whole or not at all

    python -m data export comparisons --to FOLDER --format hf
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.cards import card
from data.columns import PARQUET, ROW_GROUP
from data.errors import InvalidInput
from data.origins import Origins
from data.pairs import trl, trl_schema

SHARD = 300_000_000  # bytes of a file; the next row group goes into another
MADE = {
    "demonstrations": "Responses that people wrote to prompts, as TRL's SFTTrainer takes them.",
    "comparisons": (
        "Pairs of responses that people ranked apart, as TRL's RewardTrainer and DPOTrainer take them: all K(K-1)/2 "
        "pairs of each ranking of K responses, ties left out."
    ),
    "unpaired": (
        "Responses with a verdict, as TRL's KTOTrainer takes them. They come from rankings: true was ranked above more "
        "of the other responses than below, false below more than above; those in the very middle are left out."
    ),
    "rankings": "Rankings of several responses to a prompt, ties included, with what else labelers said of them.",
    "prompts": "Prompts that a model is asked.",
}


def write_folder(
    batches: Iterable[pa.RecordBatch],
    kind: str,
    folder: Path,
    *,
    agreement: Mapping[str, Any] | None,
    licence: str | None = None,
) -> dict[str, int]:
    """Write the rows in TRL's columns, a split to a file or several; how many rows each split has.

    The card lists where they come from; its licence is the one given, else that of the sources.
    Raises InvalidInput when the folder is there already and not empty, or where it would go is none.
    """
    folder = folder.resolve()
    if not folder.parent.is_dir():
        raise InvalidInput(f"There is no folder {folder.parent} to put {folder.name} in. Nothing was written.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InvalidInput(f"{folder} is there already. Nothing was written; name a new folder, or remove that one.")
    building = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    (building / "data").mkdir(parents=True)
    try:
        shards: dict[str, _Shards] = {}
        labelers: set[str] = set()
        origins = Origins((kind,))
        for batch in batches:
            origins.add(kind, batch)
            if "labeler" in batch.schema.names:
                labelers.update(pc.unique(batch.column("labeler")).to_pylist())
            for split in pc.unique(batch.column("split")).to_pylist():
                shard = shards.setdefault(split, _Shards(building / "data", split, trl_schema(kind)))
                shard.add(trl(batch.filter(pc.equal(batch.column("split"), split)), kind))
        rows = {split: shards[split].rows for split in sorted(shards, reverse=True)}  # train first
        for shard in shards.values():
            shard.close()
        text = card(
            f"{kind.capitalize()}, collected with Pawl",
            {"default": {split: f"data/{split}-*.parquet" for split in rows}} if rows else {},
            {kind: trl_schema(kind)},
            {kind: rows},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
            labelers=len(labelers),
            agreement=agreement if labelers else None,
            sources=origins.listing(),
            counted=(kind,),
            licence=licence,
            made=f"{MADE[kind]} A prompt is on one side of the split for ever.",
        )
        (building / "README.md").write_text(text)
        if folder.exists():
            folder.rmdir()
        os.rename(building, folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return rows


@dataclass(slots=True)
class _Shards:
    """The files of one split, one after another."""

    folder: Path
    split: str
    schema: pa.Schema
    rows: int = 0
    _files: int = 0
    _writer: Any = field(default=None)

    def add(self, batch: pa.RecordBatch) -> None:
        path = self.folder / f"{self.split}-{self._files:05}.parquet"
        if self._writer is None:
            self._writer = pq.ParquetWriter(path, self.schema, **PARQUET)
        self._writer.write_batch(batch, row_group_size=ROW_GROUP)
        self.rows += len(batch)
        if path.stat().st_size > SHARD:
            self.close()
            self._files += 1

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer = None
