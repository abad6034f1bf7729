"""Feedback out to files. What brings it in is data/importing.py, which can be had from here too.

Reads   Arrow batches of the store, or of a snapshot
Writes  JSON lines, TRL's shapes as JSON lines or Parquet, Parquet, Arrow, CSV, as a stream of bytes: the same for a
        file and for the HTTP route. Nothing is held but a batch, so a file of any size goes out in the same memory

    python -m data export comparisons --to PATH --format trl
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from data.columns import JSON_COLUMNS, PARQUET, ROW_GROUP, SCHEMAS, Row, rows_of
from data.errors import InvalidInput
from data.formats import guarded
from data.importing import import_file, seed
from data.pairs import trl, trl_schema
from data.reports import Report, Skipped
from data.shapes import KINDS

__all__ = ["KINDS", "MEDIA_TYPES", "Report", "Skipped", "import_file", "seed", "stream", "write"]

MEDIA_TYPES = {
    "trl": "application/jsonl",
    "trl-parquet": "application/vnd.apache.parquet",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
    "arrow": "application/vnd.apache.arrow.file",
}
CHUNK = 1 << 18  # bytes handed on at a time
SLICE = 500  # rows at a time that become Python objects
LINES = 2_000  # of JSON, handed on at a time
Batches = Iterable[pa.RecordBatch]


def stream(batches: Batches, kind: str, format: str) -> Iterator[bytes]:
    """The batches as the bytes of a file, in chunks.

    `kind` is one of KINDS, `format` one of MEDIA_TYPES: jsonl is the rows as they are, trl is JSON lines in the
    conversational shapes of TRL's datasets and trl-parquet the same in Parquet, csv has JSON in the cells that are not
    flat, arrow is an IPC file. Raises InvalidInput for others.
    """
    if kind not in KINDS or format not in MEDIA_TYPES:
        raise InvalidInput(
            f"There is no export of {kind!r} as {format!r}: {', '.join(KINDS)}; {', '.join(MEDIA_TYPES)}."
        )
    if format.startswith("trl"):
        batches = (trl(batch, kind) for batch in batches)
    if format in ("parquet", "trl-parquet"):
        return _parquet(batches, SCHEMAS[kind] if format == "parquet" else trl_schema(kind))
    if format == "arrow":
        return _arrow(batches, SCHEMAS[kind])
    if format == "csv":
        return _in_chunks(_csv_lines(_rows(batches), SCHEMAS[kind].names))
    return _json_lines(batches, guessed=format == "trl")


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


def _json_lines(batches: Batches, *, guessed: bool) -> Iterator[bytes]:
    """A line for each row, made by a database in memory: ten times as fast as Python's own JSON.

    `guessed` is for a reader that guesses a column's type from its first rows and fails on others, as `datasets` does:
    details are written as text, and no time in a form that it would take for more than text.
    """
    with duckdb.connect(config={"threads": 1, "autoload_known_extensions": False}) as database:
        for batch in batches:
            database.register("batch", pa.Table.from_batches([batch]))
            columns = ", ".join(_column(name, guessed) for name in batch.schema.names)
            line = f"SELECT to_json(line) || chr(10) AS line FROM (SELECT {columns} FROM batch) line"
            for lines in database.sql(line).to_arrow_reader(LINES):
                yield "".join(lines.column(0).to_pylist()).encode()


def _column(name: str, guessed: bool) -> str:
    """A column of a line, as SQL."""
    if guessed and name in ("created_at", "client_at"):  # with a fraction of a second, always
        return f"if(contains({name}, '.'), {name}, replace({name}, '+', '.000000+')) AS {name}"
    decoded = name in JSON_COLUMNS and not (guessed and name == "details")
    return f"{name}::JSON AS {name}" if decoded else f'"{name}"'


def _rows(batches: Batches) -> Iterator[Row]:
    for batch in batches:
        for start in range(0, len(batch), SLICE):
            yield from rows_of(batch.slice(start, SLICE))


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


class _Pipe(io.RawIOBase):
    """A file whose bytes are handed on as they are written: both formats put their index at the end."""

    def __init__(self) -> None:
        super().__init__()
        self._waiting: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._written

    def write(self, data: Any, /) -> int:
        self._waiting.append(bytes(data))
        self._written += len(self._waiting[-1])
        return len(self._waiting[-1])

    def taken(self) -> bytes:
        """What was written since the last time."""
        waiting, self._waiting = b"".join(self._waiting), []
        return waiting


def _parquet(batches: Batches, schema: pa.Schema) -> Iterator[bytes]:
    pipe = _Pipe()
    with pq.ParquetWriter(pipe, schema, **PARQUET) as writer:
        yield from _written(batches, pipe, partial(writer.write_batch, row_group_size=ROW_GROUP))
    yield pipe.taken()


def _arrow(batches: Batches, schema: pa.Schema) -> Iterator[bytes]:
    pipe = _Pipe()
    with pa.ipc.new_file(pipe, schema) as writer:
        yield from _written(batches, pipe, writer.write_batch)
    yield pipe.taken()


def _written(batches: Batches, pipe: _Pipe, write: Any) -> Iterator[bytes]:
    """What `write` makes of each batch."""
    for batch in batches:
        write(batch)
        if taken := pipe.taken():
            yield taken
