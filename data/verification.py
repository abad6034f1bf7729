"""Whether a snapshot is what it was: its rows hashed and counted again, its manifest held against them.

Reads   a snapshot folder
Needs   pyarrow only
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data.columns import schema_of
from data.contents import KINDS, SPLITS, Contents, file_of, name_of, sealed
from data.errors import DamagedSnapshot

if TYPE_CHECKING:
    from data.snapshots import Snapshot


def verify(snapshot: Snapshot) -> None:
    """Read every row. Raises DamagedSnapshot with the name of the file that was changed, and what is wrong with it."""
    old = snapshot.manifest["format"] == 1
    contents, found = Contents(snapshot.manifest["format"]), {}
    for kind in KINDS:
        for split in SPLITS:
            name = file_of(kind, split)
            found[name] = _old_hash(snapshot, kind, split) if old else _hash(snapshot, kind, split, contents)
            said: dict[str, Any] = {**snapshot.manifest["files"].get(name, {})}
            if found[name] != said.get("sha256"):
                what = "its rows were changed"
                if not old and contents.lines[name] != said.get("rows"):
                    what += f": {contents.lines[name]} rows where {said.get('rows')} were frozen"
                raise damage(snapshot.path, snapshot.path / name, what)
    if wrong := _old_lies(snapshot, found) if old else _lies(snapshot, contents):
        raise damage(snapshot.path, snapshot.path / "manifest.json", wrong)
    if snapshot.path.resolve().name != snapshot.hash:
        raise DamagedSnapshot(
            f"The folder {snapshot.path} holds snapshot {snapshot.hash}: it was renamed, or its rows were replaced. "
            "Nothing was read from it. Give it its name back, or freeze again with `python -m data freeze`."
        )


def damage(path: Path, file: Path, what: str) -> DamagedSnapshot:
    """The error that names the file and says what is wrong with it."""
    return DamagedSnapshot(
        f"Snapshot {path.name} is damaged at {file}: {what}. Nothing was read from it. The labels themselves are in "
        "the store: move the folder away and freeze again with `python -m data freeze`."
    )


def _lies(snapshot: Snapshot, contents: Contents) -> str:
    """What the manifest says of the rows that is not so; empty when all of it is."""
    manifest = snapshot.manifest
    wrong = [name for name, value in contents.manifest(snapshot.about).items() if manifest.get(name) != value]
    if wrong:
        return f"{', '.join(wrong)} does not fit the rows"
    return "" if sealed(manifest) == manifest else "it was edited"


def _old_lies(snapshot: Snapshot, found: dict[str, str]) -> str:
    """The same for format 1, whose manifest lists the label ids."""
    if name_of(found, snapshot.about) != snapshot.hash:
        return "hash does not fit the rows"
    return "" if snapshot.label_ids == set(snapshot.manifest["label_ids"]) else "label_ids does not fit the rows"


def _hash(snapshot: Snapshot, kind: str, split: str, contents: Contents) -> str:
    """The hash of one file's rows, which are counted too."""
    name, schema = file_of(kind, split), schema_of(kind, contents.format)
    try:
        for batch in snapshot.batches(kind, split):
            if batch.schema.names != schema.names:
                raise damage(snapshot.path, snapshot.path / name, "its columns were changed")
            batch.validate(full=True)
            contents.add(kind, split, batch.cast(schema))
    except (pa.ArrowException, OSError) as error:
        raise damage(snapshot.path, snapshot.path / name, f"it cannot be read ({error})") from error
    return contents.prints[name].hexdigest()


def _old_hash(snapshot: Snapshot, kind: str, split: str) -> str:
    """The hash of one file's rows as format 1 took it: of their JSON."""
    digest = hashlib.sha256()
    try:
        for row in snapshot.rows(kind, split):
            line = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
            digest.update(line.encode() + b"\n")
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damage(snapshot.path, snapshot.path / file_of(kind, split), f"it cannot be read ({error})") from error
    return digest.hexdigest()
