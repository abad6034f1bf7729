"""The columns of rows that leave the store, with their types: in snapshots and in exports.

Rows travel as Arrow record batches; as dictionaries only where something takes them one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa

Row = dict[str, Any]

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_RESPONSES = pa.list_(pa.struct([("id", pa.string()), ("text", pa.string()), ("source", pa.string())]))
# of a ranking and of what is made of it; empty where nothing is known, since readers of JSON guess types from the start
_ORIGIN = [("source", pa.string()), ("licence", pa.string()), ("client_at", pa.string()), ("details", pa.string())]
ROW_GROUP = 4_000  # rows of a Parquet file that are compressed together; few, so that streaming readers start soon
PARQUET = {  # how Parquet files are written: only columns with few values have a dictionary, since texts are all new
    "compression": "zstd",
    "use_dictionary": [
        *("prompt_id", "task_id", "ranking_id", "labeler", "source", "licence", "split", "guideline", "created_at"),
        *(f"{name}.list.element.role" for name in ("prompt", "messages", "completion", "chosen", "rejected")),
        "responses.list.element.source",
    ],
    "write_statistics": ["label_id", "prompt_id", "created_at"],
}
JSON_COLUMNS = (
    "ratings",
    "flags",
    "rewrite",
    "details",
)  # their keys differ from row to row, so they are kept as JSON text
SCHEMAS: dict[str, pa.Schema] = {
    "prompts": pa.schema(
        [
            ("prompt_id", pa.string()),
            ("messages", _MESSAGES),
            ("tags", pa.list_(pa.string())),
            ("split", pa.string()),
            ("source", pa.string()),
            ("created_at", pa.string()),
            ("licence", pa.string()),
        ]
    ),
    "demonstrations": pa.schema(
        [
            ("label_id", pa.string()),
            ("revision", pa.int32()),
            ("task_id", pa.string()),
            ("prompt_id", pa.string()),
            ("prompt", _MESSAGES),
            ("response", pa.string()),
            ("labeler", pa.string()),
            ("source", pa.string()),
            ("created_at", pa.string()),
            ("seconds", pa.float64()),
            ("split", pa.string()),
            ("guideline", pa.string()),
            ("licence", pa.string()),
            ("client_at", pa.string()),
            ("details", pa.string()),
            ("started_from", pa.string()),
        ]
    ),
    "rankings": pa.schema(
        [
            ("label_id", pa.string()),
            ("revision", pa.int32()),
            ("task_id", pa.string()),
            ("prompt_id", pa.string()),
            ("prompt", _MESSAGES),
            ("responses", _RESPONSES),
            ("ranks", pa.list_(pa.int32())),
            ("labeler", pa.string()),
            ("created_at", pa.string()),
            ("seconds", pa.float64()),
            ("display_order", pa.list_(pa.string())),
            ("split", pa.string()),
            ("unrankable", pa.list_(pa.string())),
            ("ratings", pa.string()),
            ("flags", pa.string()),
            ("rewrite", pa.string()),
            ("comment", pa.string()),
            ("guideline", pa.string()),
            *_ORIGIN,
        ]
    ),
    "comparisons": pa.schema(
        [
            ("ranking_id", pa.string()),
            ("labeler", pa.string()),
            ("prompt_id", pa.string()),
            ("prompt", _MESSAGES),
            ("chosen", pa.string()),
            ("rejected", pa.string()),
            ("margin", pa.int32()),
            ("split", pa.string()),
            ("chosen_id", pa.string()),
            ("rejected_id", pa.string()),
            *_ORIGIN,
        ]
    ),
    "unpaired": pa.schema(
        [
            ("ranking_id", pa.string()),
            ("labeler", pa.string()),
            ("prompt_id", pa.string()),
            ("prompt", _MESSAGES),
            ("completion", pa.string()),
            ("label", pa.bool_()),
            ("rank", pa.int32()),
            ("split", pa.string()),
            ("response_id", pa.string()),
            *_ORIGIN,
        ]
    ),
}

SINCE_3 = {  # columns that snapshots of formats 1 and 2 lack
    "prompts": ("licence",),
    "demonstrations": ("licence", "client_at", "details", "started_from"),
    "rankings": ("source", "licence", "client_at", "details"),
}


def schema_of(kind: str, format: int) -> pa.Schema:
    """The columns of a snapshot's file of this kind, in this format of snapshots."""
    newer = SINCE_3[kind] if format < 3 else ()
    return pa.schema([field for field in SCHEMAS[kind] if field.name not in newer])


def completed(batch: pa.RecordBatch, kind: str) -> pa.RecordBatch:
    """A batch of an older snapshot with the columns that it lacks, empty."""
    empty = {"details": "{}"}
    for name in SINCE_3[kind]:
        if name not in batch.schema.names:
            batch = batch.append_column(name, pa.repeat(empty.get(name, ""), len(batch)))
    return batch.select(SCHEMAS[kind].names).cast(SCHEMAS[kind])


def rows_of(batch: pa.RecordBatch) -> list[Row]:
    """The rows of a batch, with what its JSON columns hold."""
    rows: list[Row] = batch.to_pylist()
    names = [name for name in JSON_COLUMNS if name in batch.schema.names]
    for row in rows:
        row.update({name: json.loads(row[name]) for name in names if row[name] is not None})
    return rows


def batch_of(rows: Iterable[Row], kind: str) -> pa.RecordBatch:
    """Rows as a batch in the order of snapshots: columns that the kind lacks are left out, JSON becomes its text."""
    schema = SCHEMAS[kind]
    names = [name for name in JSON_COLUMNS if name in schema.names]
    plain = [{**row, **{name: _json_text(row.get(name)) for name in names}} for row in rows]
    plain.sort(key=lambda row: (row["prompt_id"], row.get("label_id", "")))
    return pa.RecordBatch.from_pylist(plain, schema=schema)


def batches_of(rows: Iterable[pa.RecordBatch] | Iterable[Row], kind: str) -> Iterator[pa.RecordBatch]:
    """Batches as they are; rows of anyone else, in any order, as one sorted batch."""
    plain: list[Row] = []
    for item in rows:
        if isinstance(item, dict):
            plain.append(item)
        else:
            yield item
    if plain:
        yield batch_of(plain, kind)


def _json_text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
