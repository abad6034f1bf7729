"""Rows out of files: JSON lines, JSON, CSV, Parquet, each also gzipped, and Hugging Face dataset folders.

A row that cannot be read comes back as Unreadable, with its place in the file, and the rows after it still come.
What the columns mean is the business of data.shapes.
"""

from __future__ import annotations

import csv
import gzip
import io
import itertools
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import InvalidInput, NotFound

MAX_ROW = 64_000_000  # bytes of one row; a longer one is reported, not read into memory
MAX_FILES = 10_000  # in a dataset folder; somebody's home has more, and would be searched for hours
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet runs; with quotes before, what guards against it
# cells of a CSV file that may hold JSON; in all others a bracket is just a bracket
_STRUCTURED = frozenset(
    "messages prompt completion completions chosen rejected responses ranks tags ratings flags rewrite unrankable "
    "display_order".split()
)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that could not be read."""

    why: str


Place = str  # "line 12" where a row is a line, else "row 12"
Found = tuple[Place, dict[str, Any] | Unreadable]


def rows_of(path: Path) -> Iterator[Found]:
    """Every row of the file or dataset folder, with its place. Raises NotFound, or InvalidInput for another format."""
    if path.is_dir():
        yield from _dataset_folder(path)
        return
    if not path.exists():
        raise NotFound(f"There is no file {path}. Nothing was imported.")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in SUFFIXES:
        raise InvalidInput(
            f"{path} is not in a format that can be imported. Nothing was imported. Give it one of the endings "
            f"{', '.join(SUFFIXES)} (each also with .gz), or name a Hugging Face dataset folder."
        )
    readers = {".json": _json, ".csv": _csv, ".parquet": _parquet}
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        try:
            yield from readers.get(suffix.lower(), _json_lines)(cast("IO[bytes]", file))
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            yield "end", Unreadable(f"the compressed file breaks off here ({error}); rows after it are lost")


def guarded(cell: str) -> str:
    """The cell with a quote before it where a spreadsheet would run it as a formula (OWASP, CSV injection)."""
    return f"'{cell}" if FORMULA.match(cell) else cell


def unguarded(cell: str) -> str:
    """The cell as it was before `guarded`."""
    return cell[1:] if cell.startswith("'") and FORMULA.match(cell) else cell


def _json_lines(file: IO[bytes]) -> Iterator[Found]:
    for number, line in enumerate(_lines(file), 1):
        if line is None:
            yield f"line {number}", Unreadable(f"is longer than {MAX_ROW:,} bytes")
        elif text := line.removeprefix(b"\xef\xbb\xbf").strip():
            yield f"line {number}", _object(text)


def _lines(file: IO[bytes]) -> Iterator[bytes | None]:
    """The lines; None for one that is too long."""
    while line := file.readline(MAX_ROW):
        if len(line) < MAX_ROW or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(MAX_ROW)) and not rest.endswith(b"\n"):
            pass
        yield None


def _object(text: bytes) -> dict[str, Any] | Unreadable:
    try:
        row = json.loads(text.decode())
    except UnicodeDecodeError as error:
        return Unreadable(f"is not UTF-8: byte {error.start + 1} is {text[error.start]:#04x}")
    except (ValueError, RecursionError) as error:
        return Unreadable(f"is not JSON: {error}")
    return row if isinstance(row, dict) else Unreadable(f"is a JSON {type(row).__name__}, not an object")


def _json(file: IO[bytes]) -> Iterator[Found]:
    """An array of objects, an object that holds one such array, or JSON lines under another name."""
    text = file.read().decode("utf-8-sig", "surrogateescape")  # bytes that are not UTF-8 spoil only their own row
    start = text.lstrip()[:1]
    if start == "[":
        yield from _json_array(text, text.index("[") + 1)
        return
    first = text.strip().split("\n", 1)[0].encode(errors="surrogateescape")
    if start != "{" or isinstance(_object(first), dict):
        yield from _json_lines(io.BytesIO(text.encode(errors="surrogateescape")))
        return
    array = re.compile(r'\{\s*"[^"]*"\s*:\s*\[').match(text.lstrip())
    if array:
        yield from _json_array(text.lstrip(), array.end())
    else:
        yield "row 1", _object(text.encode(errors="surrogateescape"))


def _json_array(text: str, place: int) -> Iterator[Found]:
    """The elements one by one from `place`, just after the bracket. An error ends them; what came before it counts."""
    decoder, between, number = json.JSONDecoder(), re.compile(r"[\s,]*"), 0
    while True:
        gap = between.match(text, place)
        place = gap.end() if gap else place
        if text[place : place + 1] == "]":
            return
        number += 1
        try:
            row, place = decoder.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            line = text.count("\n", 0, place) + 1
            yield f"row {number}", Unreadable(f"(line {line}) is not JSON: {error}; the rows after it were not read")
            return
        yield f"row {number}", row if isinstance(row, dict) else Unreadable(f"is a {type(row).__name__}, not an object")


def _csv(file: IO[bytes]) -> Iterator[Found]:
    csv.field_size_limit(MAX_ROW)
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape", newline="") as text:
        yield from _csv_rows(csv.reader(text, strict=True))


def _csv_rows(reader: Any) -> Iterator[Found]:
    header: list[str] = next(reader, [])
    ours = "prompt_id" in header  # only our own exports guard their cells
    while True:
        place = f"line {reader.line_num + 1}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield place, Unreadable(f"is not CSV: {error}")
            continue
        if len(cells) == len(header):
            plain = [unguarded(cell) if ours else cell for cell in cells]
            yield place, {name: _cell(name, cell) for name, cell in zip(header, plain, strict=True) if cell}
        elif cells:
            yield place, Unreadable(f"has {len(cells)} cells where the header has {len(header)}")


def _cell(name: str, cell: str) -> Any:
    """The cell's text, or the list or object that is written in it as JSON."""
    if name not in _STRUCTURED or cell[0] not in "[{":
        return cell
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        return cell
    is_text = name in ("prompt", "completion", "chosen", "rejected")  # unless it is messages
    return value if not is_text or (value and all(isinstance(turn, dict) for turn in value)) else cell


def _parquet(file: IO[bytes]) -> Iterator[Found]:
    with tempfile.TemporaryFile() as whole:  # Parquet is read from its end, which a gzip stream cannot do
        source = file
        if isinstance(file, gzip.GzipFile):
            shutil.copyfileobj(file, whole)
            source = whole
        number = 0
        try:
            for batch in pq.ParquetFile(source).iter_batches(batch_size=1_000):
                for row in _batch_rows(batch):
                    number += 1
                    yield f"row {number}", row
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, gzip.BadGzipFile):
                raise
            yield f"row {number + 1}", Unreadable(f"cannot be read: the Parquet file is damaged ({error})")


def _batch_rows(batch: pa.RecordBatch | pa.Table) -> Iterator[dict[str, Any] | Unreadable]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield from batch.slice(index, 1).to_pylist()
            except UnicodeDecodeError as error:
                yield Unreadable(f"is not UTF-8: {error}")


def _dataset_folder(path: Path) -> Iterator[Found]:
    """A folder of `save_to_disk`, or one laid out as on the Hub. With several splits, train stays train."""
    if sum(1 for _ in itertools.islice(path.rglob("*"), MAX_FILES + 1)) > MAX_FILES:
        raise InvalidInput(f"{path} holds more than {MAX_FILES:,} files: not a dataset folder. Nothing was imported.")
    import datasets  # a third of a second to import, so only here

    with tempfile.TemporaryDirectory() as cache, _quiet(datasets):
        try:
            if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
                loaded = datasets.load_from_disk(str(path))
            else:
                builder = datasets.load_dataset_builder(str(path), cache_dir=cache)
                if builder.name not in ("parquet", "json", "csv", "arrow"):  # others may unpickle what they find
                    raise ValueError(f"its files are taken to be of the kind {builder.name}")
                loaded = datasets.load_dataset(str(path), cache_dir=cache)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise InvalidInput(
                f"{path} is not a dataset folder that can be read: {error}. Nothing imported."
            ) from error
        splits = loaded if isinstance(loaded, dict) else {"": loaded}
        for split, dataset in splits.items():
            number = 0
            for table in dataset.with_format("arrow").iter(1_000):
                for row in _batch_rows(table):
                    number += 1
                    place = f"{split} row {number}".strip()
                    yield place, {"split": split, **row} if len(splits) > 1 and isinstance(row, dict) else row


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No progress bars while the block runs."""
    shown = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()
