"""Some rows of a snapshot at a time, to be read by people: in an order drawn by lot, the same one every time.

Reads   the row groups of a snapshot's files that hold the rows asked for, and no others
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data.columns import Row, rows_of
from data.contents import LABELS, SPLITS, file_of
from data.errors import InvalidInput
from data.snapshots import Snapshot
from data.verification import damage


def sample(snapshot: Snapshot, kind: str, start: int, count: int) -> tuple[list[Row], int]:
    """`count` rows of rankings or demonstrations, from place `start` of the order on; and how many there are in all.

    The order is drawn from the snapshot's name, over both sides of the split: whatever is seen first is a fair sample.
    Raises InvalidInput for another kind, DamagedSnapshot when a file cannot be read.
    """
    if kind not in LABELS or start < 0:
        raise InvalidInput(f"There is no place {start} of {kind[:80]!r} to read; {' and '.join(LABELS)} start at 0.")
    try:
        groups = [
            (snapshot.path / file_of(kind, split), group, rows)
            for split in SPLITS
            for group, rows in enumerate(_row_groups(snapshot, kind, split))
        ]
        ends = np.cumsum([rows for _, _, rows in groups], dtype=np.int64)
        total = int(ends[-1]) if groups else 0
        # RandomState's numbers never change from one numpy to the next
        order = np.random.RandomState(int(snapshot.hash[:8], 16)).permutation(total)
        found = []
        for place in order[start : start + count].tolist():
            at = int(np.searchsorted(ends, place, side="right"))
            file, group, rows = groups[at]
            found.append(_row(file, group, place - int(ends[at]) + rows))
        return found, total
    except (pa.ArrowException, OSError) as error:
        raise damage(snapshot.path, snapshot.path / kind, f"a file of it cannot be read ({error})") from error


def _row_groups(snapshot: Snapshot, kind: str, split: str) -> Sequence[int]:
    """The rows of each group of a file."""
    metadata = pq.read_metadata(snapshot.path / file_of(kind, split))
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]


def _row(file: Path, group: int, row: int) -> Row:
    with pq.ParquetFile(file) as opened:
        table = opened.read_row_group(group)
    (batch,) = table.slice(row, 1).combine_chunks().to_batches()
    return rows_of(batch)[0]
