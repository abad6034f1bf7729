"""Sampled responses on their way to the labelers, as one Parquet file per batch.

Reads and writes  batches/<id>.parquet: one row per prompt, with its responses and how each was sampled
Needs             pyarrow only, so that the sampler can write what the store will read

The file is written under a temporary name and renamed: a reader sees a whole batch or none.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import InvalidInput
from data.records import NewResponse

_KEYS = (b"id", b"checkpoint")  # in the file's metadata
SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        (
            "responses",
            # the sampler's settings as JSON text: a struct would freeze their names
            pa.list_(pa.struct([("text", pa.string()), ("source", pa.string()), ("sampling", pa.string())])),
        ),
        ("uncertainty", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True)
class BatchRow:
    """K responses to one prompt: one ranking task."""

    prompt_id: str
    responses: tuple[NewResponse, ...]
    uncertainty: float | None = None  # how unsure a reward model is of their order, 0 to 1; the least sure go first


@dataclass(frozen=True, slots=True)
class Batch:
    """What one checkpoint wrote to many prompts. `id` is that of the run that sampled it."""

    id: str
    checkpoint: str
    rows: tuple[BatchRow, ...]


def write(batch: Batch, path: Path) -> None:
    """Write the batch to `path` (batches/<id>.parquet), whole or not at all."""
    table = pa.Table.from_pylist([_as_row(row) for row in batch.rows], schema=SCHEMA)
    metadata = {"id": batch.id, "checkpoint": batch.checkpoint}
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: Path) -> Batch:
    """The batch in `path`. Raises InvalidInput for a file that is not one."""
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise InvalidInput(f"Batch {path} cannot be read ({error}). Nothing was added; sample it again.") from error
    metadata = {key.decode(): value.decode() for key, value in (table.schema.metadata or {}).items() if key in _KEYS}
    if table.schema.names not in (SCHEMA.names, SCHEMA.names[:2]) or len(metadata) != len(_KEYS):
        raise InvalidInput(
            f"{path} is Parquet but not a batch: it has the columns {table.schema.names}. Nothing added."
        )
    rows = [{**row, "responses": [_decoded(r) for r in row["responses"]]} for row in table.to_pylist()]
    return of_json({**metadata, "rows": rows})


def of_json(body: dict[str, Any]) -> Batch:
    """The batch that was sent as `dataclasses.asdict(batch)`. Raises InvalidInput for anything else."""
    try:
        rows = tuple(
            BatchRow(
                row["prompt_id"],
                tuple(NewResponse(r["text"], r["source"], dict(r.get("sampling") or {})) for r in row["responses"]),
                None if row.get("uncertainty") is None else float(row["uncertainty"]),
            )
            for row in body["rows"]
        )
        return Batch(str(body["id"]), str(body["checkpoint"]), rows)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(f"This is not a batch ({type(error).__name__}: {error}). Nothing was added.") from error


def _as_row(row: BatchRow) -> dict[str, Any]:
    responses = [
        {"text": r.text, "source": r.source, "sampling": json.dumps(r.sampling, sort_keys=True)} for r in row.responses
    ]
    return {"prompt_id": row.prompt_id, "responses": responses, "uncertainty": row.uncertainty}


def _decoded(response: dict[str, Any]) -> dict[str, Any]:
    return {**response, "sampling": json.loads(response["sampling"])}
