"""Snapshots looked at, over HTTP and for the page Datasets: each is read once and kept, since a snapshot never changes.

Reads   snapshots, one caller at a time, in turn with exports and freezes
Writes  nothing
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from annotate import exports, roles
from annotate.roles import Here, Json, Researcher
from data import snapshots
from data.contents import KINDS, SPLITS, file_of
from data.difference import difference
from data.errors import DamagedSnapshot
from data.look import Look, look
from data.snapshots import Snapshot

if TYPE_CHECKING:
    from annotate.context import Context

router = roles.signed_in()
Stamp = tuple[int, ...]  # when each file of a snapshot was changed last
KEPT = 16
SMALL = 50_000  # labels: a snapshot of no more is verified, about half a second, as soon as it is looked at
_verified: dict[tuple[Path, Stamp], str] = {}  # what is wrong with it; empty when nothing is


@router.get("/snapshots/{snapshot}/look", tags=["data"])
def look_at(snapshot: str, user: Researcher, context: Here) -> Json:
    """What its labels look like: lengths, agreement, ties, labelers, sources, what sways a choice. With definitions."""
    return seen(snapshots.named(context.workspace.snapshots, snapshot)).json()


def newest(context: Context) -> Snapshot | None:
    """The snapshot that was frozen last."""
    found = snapshots.listing(context.workspace.snapshots)
    return found[-1] if found else None


def seen(snapshot: Snapshot) -> Look:
    """What its labels look like. Raises DamagedSnapshot when a file of it cannot be read."""
    with exports.one_at_a_time:
        return _look(snapshot.path, _stamp(snapshot))


def verified(snapshot: Snapshot, *, now: bool = False) -> str | None:
    """What is wrong with its rows, empty when nothing is; None when they were not hashed here yet.

    Small snapshots are hashed when this is asked first, others when `now` says so.
    """
    key = snapshot.path, _stamp(snapshot)
    counts = snapshot.counts
    if key not in _verified and (now or counts["rankings"] + counts["demonstrations"] <= SMALL):
        with exports.one_at_a_time:
            try:
                snapshots.verify(snapshot.path)
                _verified[key] = ""
            except DamagedSnapshot as error:
                _verified[key] = str(error)
    return _verified.get(key)


def changed(context: Context, snapshot: Snapshot) -> dict[str, Any] | None:
    """What changed since the snapshot before this one (data.difference, lists as their lengths); None for the first.

    Raises DamagedSnapshot when a file of either cannot be read.
    """
    found = snapshots.listing(context.workspace.snapshots)
    before = [each for each in found if each.manifest["created_at"] <= snapshot.manifest["created_at"]]
    place = next((n for n, each in enumerate(before) if each.hash == snapshot.hash), 0)
    if not place:
        return None
    with exports.one_at_a_time:
        return _changed(before[place - 1].path, snapshot.path, _stamp(before[place - 1]) + _stamp(snapshot))


def _stamp(snapshot: Snapshot) -> Stamp:
    names = ["manifest.json", *(file_of(kind, split) for kind in KINDS for split in SPLITS)]
    files = [snapshot.path / name for name in names]
    return tuple(file.stat().st_mtime_ns if file.exists() else 0 for file in files)


@lru_cache(KEPT)
def _look(path: Path, stamp: Stamp) -> Look:
    return look(snapshots.unverified(path))


@lru_cache(KEPT)
def _changed(before: Path, now: Path, stamp: Stamp) -> dict[str, Any]:
    found = difference(snapshots.unverified(before), snapshots.unverified(now))
    counted = {name: [len(ids) for ids in found[name]] for name in ("labels", "prompts", "labelers", "guidelines")}
    return found | counted | {name: len(found[name]) for name in ("revised", "moved")}
