"""Rows out of files: JSON lines, JSON, CSV, Parquet, each also gzipped, and Hugging Face dataset folders.

A row that cannot be read comes back as Unreadable, with its place in the file, and the rows after it still come. Of no
file is more held than a row, or a thousand of a Parquet file. Nothing is fetched: what a folder names elsewhere is not
read.
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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq

from data.errors import InvalidInput, NotFound

MAX_ROW = 64_000_000  # bytes of one row; a longer one is reported, not read into memory
CHUNK = 1 << 20  # characters of a JSON array at a time
MAX_FILES = 10_000  # in a dataset folder; somebody's home has more, and would be searched for hours
SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".parquet")
FORMULA = re.compile(r"'*[=+\-@\t\r]")  # what a spreadsheet runs; with quotes before, what guards against it
# cells of a CSV file that may hold JSON; in all others a bracket is just a bracket
_STRUCTURED = frozenset(
    "messages prompt completion completions chosen rejected responses ranks tags ratings flags rewrite unrankable "
    "display_order details conversations conversation_a conversation_b turns labels instances systems passages "
    "feedback".split()
)

_SPLIT = re.compile(r"(?:^|[/._-])(train|test|validation|valid|val|dev|eval)(?=$|[/._-]|\d)")


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row that could not be read."""

    why: str


Place = str  # "line 12" where a row is a line, else "row 12"
Found = tuple[Place, dict[str, Any] | Unreadable]
Moved = Callable[[float], None]  # hears how much of a file is read, 0 to 1


def rows_of(path: Path, moved: Moved = lambda _: None) -> Iterator[Found]:
    """Every row of the file or dataset folder, with its place. Raises NotFound, or InvalidInput for another format."""
    if path.is_dir():
        yield from _dataset_folder(path, moved)
        return
    if not path.exists():
        raise NotFound(f"There is no file {path}. Nothing was imported.")
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in SUFFIXES:
        raise InvalidInput(
            f"{path.name} is not in a format that can be imported. Nothing was imported. Give it one of the endings "
            f"{', '.join(SUFFIXES)} (each also with .gz), or name a Hugging Face dataset folder."
        )
    readers = {".json": _json, ".csv": _csv, ".parquet": _parquet}
    size = max(path.stat().st_size, 1)
    with path.open("rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as file:
        try:
            for number, found in enumerate(readers.get(suffix.lower(), _json_lines)(cast("IO[bytes]", file))):
                if number % 256 == 0:
                    moved(raw.tell() / size)
                yield found
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
    first = b"\n"
    while first and not first.removeprefix(b"\xef\xbb\xbf").strip():
        first = file.readline(MAX_ROW)
    begins = first.removeprefix(b"\xef\xbb\xbf").strip()
    row = _object(begins)
    array = re.compile(rb'\{\s*"[^"]*"\s*:\s*\[').match(begins)
    around = list(row) if isinstance(row, dict) else []
    if begins[:1] != b"[" and (begins[:1] != b"{" or (around and not (array and _is_wrapping(row, around)))):
        file.seek(0)
        yield from _json_lines(file)
        return
    file.seek(0)
    with io.TextIOWrapper(file, "utf-8-sig", "surrogateescape") as text:  # other bytes spoil only their own row
        head = ""
        while "[" not in head and len(head) < MAX_ROW and (more := text.read(CHUNK)):
            head += more
        start = re.compile(r'\s*(?:\{\s*"[^"]*"\s*:\s*)?\[').match(head)
        if start:
            yield from _json_array(text, head, start.end())
        else:
            yield "row 1", _object((head + text.read(MAX_ROW)).encode(errors="surrogateescape"))


def _is_wrapping(row: Any, keys: list[str]) -> bool:
    """Whether this object is no row, but has the rows in it."""
    rows = row[keys[0]]
    return len(keys) == 1 and keys[0] not in _STRUCTURED and all(isinstance(each, dict) for each in rows)


def _json_array(text: IO[str], head: str, place: int) -> Iterator[Found]:
    """The elements one by one, of the text that begins with `head`, from `place`, just after the bracket.

    An error ends them; what came before it counts.
    """
    decoder, between = json.JSONDecoder(), re.compile(r"[\s,]*")
    number, lines = 0, 1
    while True:
        gap = between.match(head, place)
        place = gap.end() if gap else place
        if head[place : place + 1] == "]":
            return
        fault, row, end = "", None, len(head)
        try:
            row, end = decoder.raw_decode(head, place)
        except (ValueError, RecursionError) as error:
            fault = str(error)
        if end == len(head) and len(head) - place < MAX_ROW:  # it may go on in what is not read yet
            more = text.read(max(CHUNK, len(head) - place))
            if more:
                lines += head.count("\n", 0, place)
                head, place = head[place:] + more, 0
                continue
        number += 1
        if fault:
            line = lines + head.count("\n", 0, place)
            yield f"row {number}", Unreadable(f"(line {line}) is not JSON: {fault}; the rows after it were not read")
            return
        place = end
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


def _dataset_folder(path: Path, moved: Moved) -> Iterator[Found]:
    """A folder of `save_to_disk`, or one laid out as on the Hub. With several splits, train stays train."""
    if sum(1 for _ in itertools.islice(path.rglob("*"), MAX_FILES + 1)) > MAX_FILES:
        raise InvalidInput(f"{path} holds more than {MAX_FILES:,} files: not a dataset folder. Nothing was imported.")
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        yield from _saved_folder(path)
        return
    files = sorted(file for file in path.rglob("*") if file.is_file() and _ending(file) and _is_data(path, file))
    if not files:
        raise InvalidInput(
            f"{path} is not a dataset folder that can be read: no file in it ends in {', '.join(SUFFIXES)}. "
            "Nothing was imported."
        )
    ((most, _),) = Counter(map(_ending, files)).most_common(1)  # the others are there to describe it
    files = [file for file in files if _ending(file) == most]
    splits = {file: _SPLIT.search(file.relative_to(path).as_posix().lower()) for file in files}
    several = len({split and split.group(1) for split in splits.values()}) > 1
    for number, file in enumerate(files):
        split = splits[file]
        for place, row in rows_of(file):
            known = {"split": split.group(1)} if split and several else {}
            yield f"{file.relative_to(path)} {place}", {**known, **row} if isinstance(row, dict) else row
        moved((number + 1) / len(files))


def _ending(file: Path) -> str:
    """Of the data in a file, without .gz; empty for no known one."""
    suffix = (Path(file.stem).suffix if file.suffix == ".gz" else file.suffix).lower()
    return suffix if suffix in SUFFIXES else ""


def _is_data(path: Path, file: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    return not hidden and file.name not in ("dataset_infos.json", "dataset_info.json")


def _saved_folder(path: Path) -> Iterator[Found]:
    import datasets  # a third of a second to import, so only here

    with _quiet(datasets):
        try:
            loaded = datasets.load_from_disk(str(path))
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
