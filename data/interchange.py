"""Feedback out to files. What brings it in is data/importing.py, which can be had from here too.

Reads   the store's export rows
Writes  JSON lines, TRL's shapes, Parquet, CSV, as a stream of bytes: the same for a file and for the HTTP route

    python -m data export comparisons --to PATH --format trl
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import secrets
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data import shapes
from data.columns import JSON_COLUMNS, SCHEMAS, table_of
from data.errors import InvalidInput
from data.formats import guarded
from data.importing import import_file, seed
from data.reports import Report, Skipped
from data.shapes import KINDS
from data.snapshots import ROW_GROUP

__all__ = ["KINDS", "MEDIA_TYPES", "Report", "Skipped", "import_file", "seed", "stream", "write"]

MEDIA_TYPES = {
    "trl": "application/jsonl",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
}
CHUNK = 1 << 18  # bytes handed on at a time

Row = dict[str, Any]


def stream(rows: Iterable[Row], kind: str, format: str) -> Iterator[bytes]:
    """The store's export rows as the bytes of a file, in chunks; nothing is held but a chunk or a row group.

    `kind` is one of KINDS, `format` one of MEDIA_TYPES: jsonl is the store's rows as they are, trl is JSON lines
    in the conversational shapes of TRL's datasets, csv has JSON in the cells that are not flat.
    """
    if kind not in KINDS or format not in MEDIA_TYPES:
        raise InvalidInput(
            f"There is no export of {kind!r} as {format!r}: {', '.join(KINDS)}; {', '.join(MEDIA_TYPES)}."
        )
    if format == "parquet":
        return _parquet(rows, SCHEMAS[kind])
    if format == "csv":
        return _in_chunks(_csv_lines(rows, SCHEMAS[kind].names))
    shaped = (shapes.trl_of(kind, row) for row in rows) if format == "trl" else rows
    return _in_chunks(json.dumps(row, ensure_ascii=False) + "\n" for row in shaped)


def write(chunks: Iterable[bytes], path: Path) -> int:
    """Write the stream to `path`, gzipped if it ends in .gz, whole or not at all. The bytes written."""
    path = path.resolve()  # the file that a link leads to is replaced, not the link
    if not path.parent.is_dir():
        raise InvalidInput(f"There is no folder {path.parent} to write {path.name} in. Nothing was written.")
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; name a file. Nothing was written.")
    if path.exists() and not path.is_file():
        raise InvalidInput(f"{path} is not a file but a device or pipe. Nothing was written; name a file.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with temporary.open("xb") as file:
            packed = gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) if path.suffix == ".gz" else None
            for chunk in chunks:
                (packed or file).write(chunk)
            if packed:
                packed.close()
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path.stat().st_size


def _in_chunks(lines: Iterable[str]) -> Iterator[bytes]:
    waiting, size = [], 0
    for line in lines:
        waiting.append(line.encode())
        size += len(waiting[-1])
        if size >= CHUNK:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _csv_lines(rows: Iterable[Row], columns: list[str]) -> Iterator[str]:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    for row in rows:
        yield text.getvalue()
        text.seek(0)
        text.truncate()
        writer.writerow([_csv_cell(name, row.get(name)) for name in columns])
    yield text.getvalue()


def _csv_cell(name: str, value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, list | dict) or name in JSON_COLUMNS:
        return json.dumps(value, ensure_ascii=False)
    return guarded(value) if isinstance(value, str) else value


def _parquet(rows: Iterable[Row], schema: pa.Schema) -> Iterator[bytes]:
    """Parquet ends in an index of what it holds, so the file is made whole before its first byte is sent."""
    with tempfile.TemporaryFile() as file:
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            chunk: list[Row] = []
            for row in rows:
                chunk.append(row)
                if len(chunk) == ROW_GROUP:
                    writer.write_table(table_of(chunk, schema))
                    chunk = []
            if chunk:
                writer.write_table(table_of(chunk, schema))
        file.seek(0)
        while data := file.read(CHUNK):
            yield data
