"""Labels frozen into files that are named by their content.

Reads   batches of rows from the store, or a snapshot folder
Writes  snapshots/<hash>/  manifest.json, README.md and one Parquet file for each kind and split
Needs   pyarrow only: trainers read snapshots where no store can be opened

The hash is of the rows, by prompt and label: of each file's columns (data/fingerprint.py), then of the six files'
hashes and, where there is any, what `about` in the manifest says that a trainer goes by; its first 16 hex digits are
the name. So the same labels always give the same name, whatever order they came in and however the files are cut, and
an edited file no longer fits the folder it lies in. The manifest is checked against the rows too, and sealed with a
hash of its own. The folder is written under another name and renamed: a snapshot is there whole or not at all.
`datasets.load_dataset(path)` reads it too; README.md tells it which file is which.
Snapshots of format 1, which hashed rows as JSON and listed label ids in the manifest, and of format 2, whose rows lack
some columns (data/columns.py), are still read and verified.

    python -m data freeze
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data import verification
from data.cards import card
from data.columns import PARQUET, ROW_GROUP, SCHEMAS, Row, batches_of, completed
from data.contents import FORMATS, KINDS, LABELS, SPLITS, Contents, Manifest, file_of, sealed
from data.errors import DamagedSnapshot, InvalidInput, NotFound
from data.pairs import OF_RANKINGS
from data.reading import Readable
from data.records import Split
from data.verification import damage

NAME = re.compile(r"[0-9a-f]{4,16}")  # the beginning of a snapshot's hash, enough to tell it from the others


@dataclass(frozen=True, slots=True)
class Snapshot(Readable):
    """A folder of frozen labels and its manifest; data/reading.py has its records."""

    path: Path
    manifest: Manifest

    @property
    def hash(self) -> str:
        """The snapshot's name: 16 hex digits of the hash of its rows."""
        return self.manifest["hash"]

    @property
    def counts(self) -> dict[str, int]:
        """How many of what; `demonstrations` and `rankings_trainable` are what `datasets.require_enough` asks for."""
        return dict(self.manifest["counts"])

    @property
    def label_ids(self) -> frozenset[str]:
        """The labels inside, read from the files."""
        return frozenset(id for batch in self._label_ids() for id in batch.to_pylist())

    def holds_any(self, label_ids: Iterable[str]) -> bool:
        """Whether any of these labels is inside, or in a row made of several.

        Of a file that cannot be read nobody can say that it is not.
        """
        wanted = {*label_ids}
        made_of = self.about.get("aggregated", {}).values()
        return not all(wanted.isdisjoint(ids) for ids in made_of) or _any_in(self._label_ids(), wanted)

    def holds_prompt(self, prompt_ids: Iterable[str]) -> bool:
        """Whether any of these prompts is inside; of a file that cannot be read nobody can say that it is not."""
        return _any_in((ids for split in SPLITS for ids in self.column("prompts", split, "prompt_id")), prompt_ids)

    @property
    def promoted(self) -> str | None:
        """The checkpoint that was promoted when the labels were frozen."""
        return self.manifest["promoted"]

    @property
    def about(self) -> dict[str, Any]:
        """How the labels were chosen, and what a trainer goes by (data/selection.py); empty when nothing was chosen."""
        return self.manifest.get("about") or {}

    def batches(self, kind: str, split: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """The rows of one file, by prompt and label: `kind` is prompts, demonstrations or rankings."""
        with pq.ParquetFile(self.path / file_of(kind, split)) as file:
            yield from file.iter_batches(batch_size=ROW_GROUP, columns=columns)

    def read(self, kind: str, split: Split | None = None) -> Iterator[pa.RecordBatch]:
        """Rows of one split or of both, also of the comparisons and verdicts that follow from the rankings."""
        of = "rankings" if kind in OF_RANKINGS else kind
        for name in SPLITS if split is None else (split,):
            for batch in self.batches(of, name):
                whole = completed(batch, of)
                yield OF_RANKINGS[kind](whole) if kind in OF_RANKINGS else whole

    def count(self, kind: str, split: Split | None = None) -> int:
        """How many rows `read` would give; of the files as the manifest says."""
        if kind in OF_RANKINGS or self.manifest["format"] == 1:  # whose manifest does not say
            return Readable.count(self, kind, split)
        return sum(self.manifest["files"][file_of(kind, name)]["rows"] for name in SPLITS if split in (None, name))

    def rows(self, kind: str, split: str) -> Iterator[Row]:
        """The rows of one file as dictionaries, one by one."""
        for batch in self.batches(kind, split):
            yield from batch.to_pylist()

    def column(self, kind: str, split: str, name: str) -> Iterator[pa.Array]:
        """One column of one file, in the order of its rows."""
        yield from (batch.column(0) for batch in self.batches(kind, split, [name]) if len(batch))

    def _label_ids(self) -> Iterator[pa.Array]:
        return (ids for kind in LABELS for split in SPLITS for ids in self.column(kind, split, "label_id"))

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


Rows = Iterable[pa.RecordBatch] | Iterable[Row]


def freeze(
    folder: Path,
    *,
    prompts: Rows,
    demonstrations: Rows,
    rankings: Rows,
    agreement: dict[str, Any] | None = None,
    promoted: str | None = None,
    about: dict[str, Any] | None = None,
) -> Snapshot:
    """Write the rows to `folder/<hash>/` and return it; the same rows return the snapshot that is already there.

    The rows are batches of the store, by prompt and label; or dictionaries like them in any order, which are then
    held in memory. `promoted` is the checkpoint promoted now, also in the Snapshot returned for one that was frozen
    under another; `about` is what else the manifest is to say. Raises InvalidInput when there is not even a prompt,
    DamagedSnapshot when the snapshot already there was edited.
    """
    folder.mkdir(parents=True, exist_ok=True)
    building = folder / f".building-{secrets.token_hex(6)}"
    building.mkdir()
    try:
        contents = Contents()
        for kind, rows in (("rankings", rankings), ("demonstrations", demonstrations), ("prompts", prompts)):
            (building / kind).mkdir()
            _write_kind(building, kind, contents.added(kind, batches_of(rows, kind)))
        if not contents.counts["prompts"]:
            raise InvalidInput("There is nothing to freeze: no prompts yet. Import some, or run `python -m data seed`.")
        known = {"agreement": agreement, "promoted": promoted, "about": about or {}}
        said = contents.manifest(about or {}) | known
        manifest = sealed(said | {"created_at": datetime.now(UTC).isoformat(timespec="milliseconds")})
        _write(building / "README.md", _readme(manifest))
        _write(building / "manifest.json", json.dumps(manifest, indent=1))
        target = folder / manifest["hash"]
        try:
            os.rename(building, target)
        except OSError:
            if not target.is_dir():
                raise
            # already there: it is the labels that name it, whatever is promoted by now
            return Snapshot(target, {**load(target).manifest, "promoted": promoted})
        _sync(folder)
        return Snapshot(target, cast("Manifest", manifest))
    finally:
        shutil.rmtree(building, ignore_errors=True)


def load(path: Path) -> Snapshot:
    """The snapshot in this folder, refused with DamagedSnapshot when its rows no longer fit its name."""
    snapshot = unverified(path)
    verification.verify(snapshot)
    return snapshot


def named(folder: Path, name: str) -> Snapshot:
    """The snapshot in `folder` whose hash begins so, not hashed again.

    Raises NotFound, InvalidInput when several hashes begin so, DamagedSnapshot when its manifest cannot be read.
    """
    there = [path.name for path in folders(folder)] if folder.is_dir() else []
    found = [hash for hash in there if NAME.fullmatch(name) and hash.startswith(name)]
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} snapshots of {folder} begin with {name}: {', '.join(found)}.")
    if not found:
        known = f"It has {', '.join(there[:5])}{', ...' * (len(there) > 5)}." if there else "It has none."
        raise NotFound(
            f"There is no snapshot {name[:80]} in {folder}. {known} `python -m data snapshots` lists them, "
            "`python -m data freeze` makes one."
        )
    return unverified(folder / found[0])


def unverified(path: Path) -> Snapshot:
    """The snapshot in this folder, not hashed again. Raises NotFound, DamagedSnapshot when its manifest is no such."""
    try:
        manifest = json.loads((path / "manifest.json").read_text())
    except FileNotFoundError as error:
        raise NotFound(f"There is no snapshot in {path}. `python -m data snapshots` lists those there are.") from error
    except ValueError as error:
        raise damage(path, path / "manifest.json", f"it is not JSON ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") not in FORMATS:
        found = manifest.get("format") if isinstance(manifest, dict) else manifest
        raise damage(path, path / "manifest.json", f"its format is {found!r}, unknown to this Pawl")
    return Snapshot(path, cast("Manifest", manifest))


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
            found.append(unverified(path))
        except (NotFound, DamagedSnapshot):
            continue
    return sorted(found, key=lambda snapshot: (snapshot.manifest["created_at"], snapshot.hash))


def folders(folder: Path) -> list[Path]:
    """The folders of snapshots, damaged ones too, but not those that are being written."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def tainted_snapshots(folder: Path, label_ids: Iterable[str]) -> list[str]:
    """The snapshots that hold any of these labels, or a row made of several with one of them; oldest first."""
    wanted = list(label_ids)
    return [snapshot.hash for snapshot in listing(folder) if snapshot.holds_any(wanted)]


def with_prompts(folder: Path, prompt_ids: Collection[str]) -> list[str]:
    """The snapshots that hold any of these prompts, labelled or not; oldest first."""
    return [snapshot.hash for snapshot in listing(folder) if snapshot.holds_prompt(prompt_ids)]


def tainted_checkpoints(folder: Path, snapshots: Iterable[str]) -> list[str]:
    """The checkpoints trained on any of these snapshots, and those that descend from such a checkpoint."""
    manifests = {path.parent.name: _lineage(path) for path in folder.glob("*/pawl.json")}
    tainted = {name for name, manifest in manifests.items() if manifest.get("snapshot") in set(snapshots)}
    while True:
        heirs = {name for name, manifest in manifests.items() if not tainted.isdisjoint(manifest.get("parents") or ())}
        if heirs <= tainted:
            return sorted(tainted)
        tainted |= heirs


def _any_in(columns: Iterator[pa.Array], wanted: Iterable[str]) -> bool:
    """Whether a column holds any of these; also when it cannot be read."""
    values = pa.array(sorted(wanted), pa.string())
    try:
        return any(pc.any(pc.is_in(column, values)).as_py() for column in columns)
    except (pa.ArrowException, OSError):
        return True


def _lineage(path: Path) -> dict[str, Any]:
    """A checkpoint's manifest; empty when it cannot be read: such a folder is no checkpoint."""
    try:
        manifest = json.loads(path.read_text())
    except ValueError:
        return {}
    return manifest if isinstance(manifest, dict) else {}


def _write_kind(building: Path, kind: str, parts: Iterable[tuple[str, pa.RecordBatch]]) -> None:
    """The files of one kind."""
    with ExitStack() as files:
        opened = {split: files.enter_context((building / file_of(kind, split)).open("wb")) for split in SPLITS}
        with ExitStack() as stack:
            writers = {
                split: stack.enter_context(pq.ParquetWriter(file, SCHEMAS[kind], **PARQUET))
                for split, file in opened.items()
            }
            for split, part in parts:
                writers[split].write_batch(part, row_group_size=ROW_GROUP)
        for file in opened.values():
            file.flush()
            os.fsync(file.fileno())


def _readme(manifest: dict[str, Any]) -> str:
    """The dataset card: its YAML tells `datasets.load_dataset` the files."""
    kinds = ("rankings", "demonstrations", "prompts")
    rows = {kind: {split: manifest["files"][file_of(kind, split)]["rows"] for split in SPLITS} for kind in kinds}
    files = {kind: {split: file_of(kind, split) for split in SPLITS if rows[kind][split]} for kind in kinds}
    return card(
        f"Snapshot {manifest['hash']}",
        {kind: found for kind, found in files.items() if found},
        {kind: SCHEMAS[kind] for kind in kinds},
        rows,
        created_at=manifest["created_at"],
        labelers=len(manifest["labelers"]),
        agreement=manifest["agreement"],
        sources=manifest["sources"],
        counted=KINDS,
        made=(
            'Human feedback, frozen by Pawl. Read it with `datasets.load_dataset(path, "rankings")`, or as plain '
            "Parquet; `python -m data verify` tells whether a row was changed."
        ),
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
