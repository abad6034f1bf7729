"""The columns of rows that leave the store, with their types: in snapshots, and in Parquet and CSV exports."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_RESPONSES = pa.list_(pa.struct([("id", pa.string()), ("text", pa.string()), ("source", pa.string())]))
JSON_COLUMNS = ("ratings", "flags", "rewrite")  # their keys differ from row to row, so they are kept as JSON text
SCHEMAS: dict[str, pa.Schema] = {
    "prompts": pa.schema(
        [
            ("prompt_id", pa.string()),
            ("messages", _MESSAGES),
            ("tags", pa.list_(pa.string())),
            ("split", pa.string()),
            ("source", pa.string()),
            ("created_at", pa.string()),
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
        ]
    ),
}


def table_of(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    """Rows of the store as a typed table: columns the schema lacks are left out, JSON columns become text."""
    json_columns = [name for name in JSON_COLUMNS if name in schema.names]
    plain = [{**row, **{name: _json_text(row.get(name)) for name in json_columns}} for row in rows]
    return pa.Table.from_pylist(plain, schema=schema)


def _json_text(value: Any) -> str | None:
    return None if value is None else json.dumps(value, sort_keys=True, ensure_ascii=False)
