"""Labels frozen into files that are named by their content.

Reads   rows from the store (any iterators of them), or a snapshot folder
Writes  snapshots/<hash>/  manifest.json, README.md and one Parquet file for each kind and split
Needs   pyarrow only: trainers read snapshots where no store can be opened

The hash is of the rows: sha256 over the canonical JSON of each file's rows, sorted by prompt and label, then over the
hashes of the six files and, where there are any, what the manifest says that a trainer goes by (NAMED_BY); its first
16 hex digits are the name. So the same labels always give the same name, and an edited file no longer fits the folder
it lies in. The folder is written under another name and renamed: a snapshot is there whole or not at all.
`datasets.load_dataset(path)` reads it too; README.md tells it which file is which.

    python -m data freeze
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data.columns import SCHEMAS, table_of
from data.errors import DamagedSnapshot, InvalidInput, NotFound

Row = dict[str, Any]
FORMAT = 1
KINDS = ("prompts", "demonstrations", "rankings")
SPLITS = ("train", "heldout")
NAMED_BY = ("choices", "weights", "aggregated", "heldout_labelers")  # fields of `about`, where there are any
ROW_GROUP = 2_000  # rows; small, so that streaming readers start soon


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A folder of frozen labels and its manifest."""

    path: Path
    manifest: dict[str, Any]

    @property
    def hash(self) -> str:
        """The snapshot's name: 16 hex digits of the hash of its rows."""
        return str(self.manifest["hash"])

    @property
    def counts(self) -> dict[str, int]:
        """How many of what; `demonstrations` and `rankings_trainable` are what `datasets.require_enough` asks for."""
        return dict(self.manifest["counts"])

    @property
    def label_ids(self) -> frozenset[str]:
        """The labels inside."""
        return frozenset(self.manifest["label_ids"])

    @property
    def promoted(self) -> str | None:
        """The checkpoint that was promoted when the labels were frozen."""
        promoted: str | None = self.manifest["promoted"]
        return promoted

    @property
    def about(self) -> dict[str, Any]:
        """How the labels were chosen, and what a trainer goes by (data/selection.py); empty when nothing was chosen."""
        about: dict[str, Any] = self.manifest.get("about") or {}
        return about

    def rows(self, kind: str, split: str) -> Iterator[Row]:
        """The rows of one file, by prompt and label: `kind` is prompts, demonstrations or rankings."""
        with pq.ParquetFile(self.path / _file(kind, split)) as file:
            for batch in file.iter_batches(batch_size=ROW_GROUP):
                yield from batch.to_pylist()

    def column(self, kind: str, split: str, name: str) -> pa.ChunkedArray:
        """One column of one file, in the order of its rows."""
        return pq.read_table(self.path / _file(kind, split), columns=[name]).column(name)

    def summary(self) -> dict[str, Any]:
        """What `python -m data freeze --json` and `POST /snapshots` answer."""
        return {
            "snapshot": self.hash,
            "path": str(self.path),
            "counts": self.counts,
            "promoted": self.promoted,
            "created_at": self.manifest["created_at"],
            **{name: self.about[name] for name in ("choices", "left_out") if name in self.about},
        }


def freeze(
    folder: Path,
    *,
    prompts: Iterable[Row],
    demonstrations: Iterable[Row],
    rankings: Iterable[Row],
    agreement: dict[str, Any] | None = None,
    promoted: str | None = None,
    labels: Collection[str] | None = None,
    about: dict[str, Any] | None = None,
) -> Snapshot:
    """Write the rows to `folder/<hash>/` and return it; the same rows return the snapshot that is already there.

    The rows are those of the store's `prompt_rows`, `demonstration_rows` and `ranking_rows`, in any order; `promoted`
    is the checkpoint promoted now, also in the Snapshot returned for one that was frozen under another. Of the rows of
    labels only those with an id in `labels` are written, all if None; `about` is kept in the manifest. Raises
    InvalidInput when there is not even a prompt, DamagedSnapshot when the snapshot already there was edited.
    """
    folder.mkdir(parents=True, exist_ok=True)
    building = folder / f".building-{secrets.token_hex(6)}"
    building.mkdir()
    try:
        contents = _Contents(building)
        # prompts last: labels that arrive meanwhile are left out, and no label in the snapshot lacks its prompt
        for kind, rows in (("rankings", rankings), ("demonstrations", demonstrations), ("prompts", prompts)):
            contents.add(kind, rows if labels is None or kind == "prompts" else _of_labels(rows, labels))
        if not contents.counts["prompts"]:
            raise InvalidInput("There is nothing to freeze: no prompts yet. Import some, or run `python -m data seed`.")
        known = {"agreement": agreement, "promoted": promoted, "about": about or {}}
        manifest = contents.manifest(about or {}) | known
        _write(building / "README.md", _readme(manifest))
        _write(building / "manifest.json", json.dumps(manifest, indent=1))
        target = folder / manifest["hash"]
        try:
            os.rename(building, target)
        except OSError:
            if not target.is_dir():
                raise
            # already there: it is the labels that name it, whatever is promoted by now
            return Snapshot(target, load(target).manifest | {"promoted": promoted})
        _sync(folder)
        return Snapshot(target, manifest)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load(path: Path) -> Snapshot:
    """The snapshot in this folder, refused with DamagedSnapshot when its rows no longer fit its name."""
    snapshot = _open(path)
    _verify(snapshot)
    return snapshot


def verify(path: Path) -> None:
    """Hash every row again. Raises DamagedSnapshot with the name of the file that was changed."""
    load(path)


def listing(folder: Path) -> list[Snapshot]:
    """The snapshots there are, oldest first, not hashed again.

    One whose manifest cannot be read is left out, so that it hides no other: `verify` names it.
    """
    found = []
    for path in folders(folder):
        try:
            found.append(_open(path))
        except (NotFound, DamagedSnapshot):
            continue
    return sorted(found, key=lambda snapshot: (snapshot.manifest["created_at"], snapshot.hash))


def folders(folder: Path) -> list[Path]:
    """The folders of snapshots, damaged ones too, but not those that are being written."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def tainted_snapshots(folder: Path, label_ids: Iterable[str]) -> list[str]:
    """The snapshots that hold any of these labels, or a row made of several with one of them; oldest first."""
    wanted = set(label_ids)
    return [snapshot.hash for snapshot in listing(folder) if not wanted.isdisjoint(_made_of(snapshot))]


def with_prompts(folder: Path, prompt_ids: Collection[str]) -> list[str]:
    """The snapshots that hold any of these prompts, labelled or not; oldest first."""
    wanted = pa.array(prompt_ids, pa.string())
    return [
        snapshot.hash
        for snapshot in listing(folder)
        if any(pc.any(pc.is_in(snapshot.column("prompts", s, "prompt_id"), wanted)).as_py() for s in SPLITS)
    ]


def tainted_checkpoints(folder: Path, snapshots: Iterable[str]) -> list[str]:
    """The checkpoints trained on any of these snapshots, and those that descend from such a checkpoint."""
    manifests = {path.parent.name: _lineage(path) for path in folder.glob("*/pawl.json")}
    tainted = {name for name, manifest in manifests.items() if manifest.get("snapshot") in set(snapshots)}
    while True:
        heirs = {name for name, manifest in manifests.items() if not tainted.isdisjoint(manifest.get("parents") or ())}
        if heirs <= tainted:
            return sorted(tainted)
        tainted |= heirs


def _made_of(snapshot: Snapshot) -> Iterator[str]:
    """The labels in a snapshot, and those that rows in it were made of."""
    yield from snapshot.label_ids
    for ids in snapshot.about.get("aggregated", {}).values():
        yield from ids


def _of_labels(rows: Iterable[Row], labels: Collection[str]) -> Iterator[Row]:
    return (row for row in rows if row["label_id"] in labels)


def _lineage(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest; empty when it cannot be read: such a folder is no checkpoint."""
    try:
        manifest = json.loads(path.read_text())
    except ValueError:
        return {}
    return manifest if isinstance(manifest, dict) else {}


@dataclass(slots=True)
class _Contents:
    """The files of a snapshot being written, and what its manifest will say of them."""

    building: Path
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(
            ["demonstrations_trainable", "rankings_trainable", *KINDS, *(f"{kind}_heldout" for kind in KINDS)], 0
        )
    )
    files: dict[str, str] = field(default_factory=dict)  # sha256 of each file's rows
    lines: dict[str, int] = field(default_factory=dict)  # rows in each file
    label_ids: list[str] = field(default_factory=list)
    guidelines: set[str] = field(default_factory=set)
    labelers: set[str] = field(default_factory=set)
    created_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def add(self, kind: str, rows: Iterable[Row]) -> None:
        (self.building / kind).mkdir()
        with tempfile.TemporaryFile(dir=self.building) as scratch:
            sorter = _Sorter(scratch, rows)
            for split in SPLITS:
                self._write_file(kind, split, sorter.sorted(split))

    def _write_file(self, kind: str, split: str, rows: Iterator[Row]) -> None:
        name, digest = _file(kind, split), hashlib.sha256()
        self.lines[name] = 0
        with (self.building / name).open("wb") as file:
            with pq.ParquetWriter(file, SCHEMAS[kind], compression="zstd") as writer:
                for chunk in _chunks(rows, ROW_GROUP):
                    table = table_of(chunk, SCHEMAS[kind])
                    writer.write_table(table)
                    for row in table.to_pylist():  # what a reader will find, whatever the store's types were
                        digest.update(_line(row))
                        self._count(kind, split, row)
                    self.lines[name] += len(chunk)
            file.flush()
            os.fsync(file.fileno())
        self.files[name] = digest.hexdigest()

    def _count(self, kind: str, split: str, row: Row) -> None:
        self.counts[kind] += 1
        self.counts[f"{kind}_heldout"] += split == "heldout"
        if kind == "prompts":
            return
        self.label_ids.append(row["label_id"])
        self.labelers.add(row["labeler"])
        if row["guideline"]:
            self.guidelines.add(row["guideline"])
        decided = kind == "demonstrations" or len({rank for rank in row["ranks"] if rank is not None}) > 1
        self.counts[f"{kind}_trainable"] += split == "train" and decided

    def manifest(self, about: dict[str, Any]) -> dict[str, Any]:
        return {
            "hash": _name_of(self.files, about),
            "format": FORMAT,
            "created_at": self.created_at,
            "counts": self.counts,
            "label_ids": self.label_ids,
            "guidelines": sorted(self.guidelines),
            "labelers": sorted(self.labelers),
            "files": {name: {"rows": self.lines[name], "sha256": self.files[name]} for name in sorted(self.files)},
        }


class _Sorter:
    """Rows sorted on disk by prompt and label: only their keys are held in memory, however many labels there are."""

    def __init__(self, scratch: IO[bytes], rows: Iterable[Row]) -> None:
        self._file = scratch
        self._places: dict[str, list[tuple[str, str, int, int]]] = {split: [] for split in SPLITS}
        place = 0
        for row in rows:
            line = json.dumps(row).encode()
            self._places[row["split"]].append((row["prompt_id"], row.get("label_id", ""), place, len(line)))
            self._file.write(line)
            place += len(line)

    def sorted(self, split: str) -> Iterator[Row]:
        for _, _, place, length in sorted(self._places[split]):
            self._file.seek(place)
            yield json.loads(self._file.read(length))


def _open(path: Path) -> Snapshot:
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except FileNotFoundError as error:
        raise NotFound(f"There is no snapshot in {path}. `python -m data snapshots` lists those there are.") from error
    except ValueError as error:
        raise DamagedSnapshot(_damage(path, path / "manifest.json", f"it is not JSON ({error})")) from error
    if manifest.get("format") != FORMAT:
        raise DamagedSnapshot(_damage(path, path / "manifest.json", f"its format is {manifest.get('format')!r}"))
    return Snapshot(path, manifest)


def _verify(snapshot: Snapshot) -> None:
    found: dict[str, str] = {}
    label_ids: list[str] = []
    for kind in KINDS:
        for split in SPLITS:
            name = _file(kind, split)
            found[name] = _hash_rows(snapshot, kind, split, label_ids)
            if found[name] != snapshot.manifest["files"].get(name, {}).get("sha256"):
                raise DamagedSnapshot(_damage(snapshot.path, snapshot.path / name, "its rows were changed"))
    named = _name_of(found, snapshot.about)
    if sorted(label_ids) != sorted(snapshot.manifest["label_ids"]) or named != snapshot.hash:
        raise DamagedSnapshot(_damage(snapshot.path, snapshot.path / "manifest.json", "it does not fit the rows"))
    if snapshot.path.resolve().name != snapshot.hash:
        raise DamagedSnapshot(
            f"The folder {snapshot.path} holds snapshot {snapshot.hash}: it was renamed, or its rows were replaced. "
            "Nothing was read from it. Give it its name back, or freeze again with `python -m data freeze`."
        )


def _hash_rows(snapshot: Snapshot, kind: str, split: str, label_ids: list[str]) -> str:
    """The hash of one file's rows; its label ids are added to `label_ids`."""
    digest = hashlib.sha256()
    try:
        for row in snapshot.rows(kind, split):
            digest.update(_line(row))
            if "label_id" in row:
                label_ids.append(row["label_id"])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        name = snapshot.path / _file(kind, split)
        raise DamagedSnapshot(_damage(snapshot.path, name, f"it cannot be read ({error})")) from error
    return digest.hexdigest()


def _damage(path: Path, file: Path, what: str) -> str:
    return (
        f"Snapshot {path.name} is damaged at {file}: {what}. Nothing was read from it. The labels themselves are in "
        "the store: move the folder away and freeze again with `python -m data freeze`."
    )


def _name_of(files: dict[str, str], about: dict[str, Any]) -> str:
    """The snapshot's name from the hashes of its files' rows, and what its manifest says that a trainer goes by."""
    text = "".join(f"{name} {files[name]}\n" for name in sorted(files))
    text += "".join(f"{name} {json.dumps(about[name], sort_keys=True)}\n" for name in NAMED_BY if name in about)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _line(row: Row) -> bytes:
    return json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"


def _file(kind: str, split: str) -> str:
    return f"{kind}/{split}.parquet"


def _chunks(rows: Iterator[Row], size: int) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _readme(manifest: dict[str, Any]) -> str:
    """A dataset card: its YAML tells `datasets.load_dataset` the files, leaving out splits that hold no rows."""
    lines, default = ["---", "configs:"], "  default: true"
    for kind in ("rankings", "demonstrations", "prompts"):
        splits = [split for split in SPLITS if manifest["files"][_file(kind, split)]["rows"]]
        if splits:
            lines += [f"- config_name: {kind}", *filter(None, [default]), "  data_files:"]
            lines += [line for s in splits for line in (f"  - split: {s}", f"    path: {_file(kind, s)}")]
            default = ""
    counts = manifest["counts"]
    return "\n".join(lines) + (
        f"\n---\n\n# Snapshot {manifest['hash']}\n\n"
        f"{counts['rankings']} rankings, {counts['demonstrations']} demonstrations and {counts['prompts']} prompts, "
        f"frozen by Pawl on {manifest['created_at']}.\n"
        'Read it with `datasets.load_dataset(path, "rankings")`, or as plain Parquet. A split without rows is left '
        "out above: `datasets` cannot load an empty one.\n"
    )


def _write(path: Path, text: str) -> None:
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Put the renamed folder's name on disk too."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
