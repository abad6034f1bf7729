"""Feedback in from files, and out to files.

Reads   JSON lines, JSON, CSV, Parquet (each also .gz) and Hugging Face dataset folders (data.formats), in the shapes
        that other tools write (data.shapes); data/seeds/
Writes  JSON lines, TRL's shapes, Parquet, CSV, as a stream of bytes: the same for a file and for the HTTP route

A bad row never stops a good one: it is skipped and reported with its place. Importing a file again adds nothing.

    python -m data import comparisons FILE
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
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from data import shapes
from data.columns import JSON_COLUMNS, SCHEMAS, table_of
from data.errors import InvalidInput
from data.formats import Unreadable, guarded, rows_of
from data.records import NewPrompt, NewRanking
from data.shapes import KINDS
from data.snapshots import ROW_GROUP

MEDIA_TYPES = {
    "trl": "application/jsonl",
    "jsonl": "application/jsonl",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv; charset=utf-8",
}
SEEDS = Path(__file__).parent / "seeds"
BATCH_ROWS, BATCH_CHARACTERS = 500, 1_000_000  # what one request to the app may carry
CHUNK = 1 << 18  # bytes handed on at a time

Row = dict[str, Any]


class Intake(Protocol):
    """What takes feedback in: the store, or a client of the app that owns it."""

    def add_prompts(self, prompts: Sequence[NewPrompt]) -> list[str]: ...
    def add_demonstration_tasks(self, prompt_ids: Sequence[str], overlap: int = 1) -> list[str]: ...
    def add_demonstrations(self, rows: Sequence[tuple[str, str]], *, labeler: str, source: str) -> list[str]: ...
    def add_rankings(self, rankings: Sequence[NewRanking]) -> list[str]: ...


@dataclass(frozen=True, slots=True)
class Skipped:
    """A row that was not taken."""

    place: str  # "line 12"
    why: str


@dataclass(slots=True)
class Report:
    """What became of a file's rows: `taken` are in the store now, of which `new` were not there before."""

    kind: str
    file: str
    taken: int = 0
    new: int = 0
    skipped: list[Skipped] = field(default_factory=list)

    def lines(self, shown: int = 20) -> list[str]:
        """The report in words, naming the first skipped rows."""
        here = self.taken - self.new
        known = f" ({here} {'was' if here == 1 else 'were'} there already)" if here else ""
        lines = [
            f"{self.file}: {self.taken} rows taken, {self.new} new {self.kind}{known}, {len(self.skipped)} skipped"
        ]
        lines += [f"  {row.place}: {row.why}" for row in self.skipped[:shown]]
        if len(self.skipped) > shown:
            lines.append(f"  and {len(self.skipped) - shown} more")
        return lines


def import_file(feedback: Intake, kind: str, path: Path, *, known: Iterable[str] = (), ask: int = 0) -> Report:
    """Import a file of prompts, demonstrations, comparisons or rankings.

    `known` are the ids of prompts that are there already, to tell the new ones. With `ask`, that many labelers are
    asked for a demonstration of each imported train prompt. Raises NotFound and InvalidInput for the file as a whole.
    """
    file, report = path.name, Report(kind, str(path))
    understand: dict[str, Callable[[Row, str], Any]] = {
        "prompts": shapes.prompt_of,
        "demonstrations": shapes.demonstration_of,
        "comparisons": shapes.comparison_of,
        "rankings": shapes.ranking_of,
    }
    put = _Putting(feedback, report, file, set(known), ask)
    waiting: list[tuple[str, Any]] = []
    characters = 0
    for place, row in rows_of(path):
        if isinstance(row, Unreadable):
            report.skipped.append(Skipped(place, row.why))
            continue
        try:
            item = understand[kind](row, file)
        except shapes.Misfit as misfit:
            report.skipped.append(Skipped(place, str(misfit)))
            continue
        waiting.append((place, item))
        characters += len(repr(item))
        if len(waiting) == BATCH_ROWS or characters > BATCH_CHARACTERS:
            put.put(waiting)
            waiting, characters = [], 0
    put.put(waiting)
    return report


@dataclass(slots=True)
class _Putting:
    """Hands understood rows to the store, in batches, and counts them."""

    feedback: Intake
    report: Report
    file: str
    known: set[str]
    ask: int

    def put(self, waiting: list[tuple[str, Any]]) -> None:
        """All of them, or when the store refuses, each half: the row at fault is found, and the others go in."""
        if not waiting:
            return
        try:
            new = self._add([item for _, item in waiting])
        except InvalidInput as error:
            if len(waiting) == 1:
                self.report.skipped.append(Skipped(waiting[0][0], str(error)))
            else:
                self.put(waiting[: len(waiting) // 2])
                self.put(waiting[len(waiting) // 2 :])
            return
        self.report.taken += len(waiting)
        self.report.new += new

    def _add(self, items: list[Any]) -> int:
        """Hand them over; how many are new."""
        if self.report.kind == "prompts":
            return self._prompts(items)
        return self._demonstrations(items) if self.report.kind == "demonstrations" else self._rankings(items)

    def _prompts(self, prompts: list[NewPrompt]) -> int:
        ids = self.feedback.add_prompts(prompts)
        new = set(ids) - self.known
        self.known |= new
        if self.ask:
            self.feedback.add_demonstration_tasks(ids, self.ask)
        return len(new)

    def _demonstrations(self, items: list[tuple[NewPrompt, str, str]]) -> int:
        ids = self.feedback.add_prompts([prompt for prompt, _, _ in items])
        by_labeler: dict[str, list[tuple[str, str]]] = {}
        for id, (_, response, labeler) in zip(ids, items, strict=True):
            by_labeler.setdefault(labeler, []).append((id, response))
        return sum(
            len(self.feedback.add_demonstrations(rows, labeler=labeler, source=self.file))
            for labeler, rows in by_labeler.items()
        )

    def _rankings(self, items: list[tuple[NewPrompt, NewRanking]]) -> int:
        ids = self.feedback.add_prompts([prompt for prompt, _ in items])
        rankings = [replace(ranking, prompt_id=id) for id, (_, ranking) in zip(ids, items, strict=True)]
        return len(self.feedback.add_rankings(rankings))


def seed(feedback: Intake) -> dict[str, int]:
    """The bundled prompts and demonstrations, and a demonstration task for each train prompt without one.

    What is there already is left alone. How many prompts and demonstrations are bundled, how many demonstrations and
    demonstration tasks are new.
    """
    prompts = [shapes.prompt_of(row, "seed") for row in _seed_rows("prompts")]
    written = [shapes.demonstration_of(row, "seed") for row in _seed_rows("demonstrations")]
    ids = feedback.add_prompts(prompts)
    shown = feedback.add_prompts([prompt for prompt, _, _ in written])
    rows = [(id, response) for id, (_, response, _) in zip(shown, written, strict=True)]
    new = feedback.add_demonstrations(rows, labeler="pawl", source="seed")
    train = [id for id, prompt in zip(ids, prompts, strict=True) if prompt.split != "heldout"]
    tasks = feedback.add_demonstration_tasks([id for id in train if id not in set(shown)])
    bundled = len(set(ids) | set(shown))
    return {"prompts": bundled, "demonstrations": len(rows), "new_demonstrations": len(new), "new_tasks": len(tasks)}


def _seed_rows(name: str) -> Iterator[Row]:
    for place, row in rows_of(SEEDS / f"{name}.jsonl"):
        if isinstance(row, Unreadable):
            raise InvalidInput(f"The bundled {name} are damaged: {place} {row.why}. Install Pawl again.")
        yield row


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
