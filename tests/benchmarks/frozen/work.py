"""One piece of work of tests/benchmarks/datasets.py, in a process of its own, so that its memory is its own.

Reads   a workspace made by frozen/labels.py
Writes  into FOLDER/out, which its caller empties; a last line of JSON: seconds, cpu (seconds of processor time), peak
        and before (gigabytes of memory, at most and when the work began), and what came out

    python tests/benchmarks/frozen/work.py freeze FOLDER
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

OUT = "out"
TABLES = {"rankings": ("ratings", "flags", "rewrite"), "responses": ("sampling",), "prompts": ("messages",)}  # JSON
BLOCK = 8 << 20  # bytes


def measured(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work gave, with what it took."""
    before = _memory()
    began, spent = time.perf_counter(), time.process_time()
    found = work()
    took = {"seconds": time.perf_counter() - began, "cpu": time.process_time() - spent}
    return {**found, **took, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, "before": before}


def _memory() -> float:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1e6


# ------------------------------------------------------------------------ Pawl


def make(folder: Path, rankings: int) -> dict[str, Any]:
    """The store."""
    import labels

    labels.make(folder, rankings)
    (folder / "made").touch()
    return {}


def tables(folder: Path) -> dict[str, Any]:
    """The store's tables as Parquet, for the rivals."""
    from data.database import open_database

    database = open_database(folder / "feedback.duckdb")
    for table, columns in TABLES.items():
        plain = ", ".join(f"{column}::VARCHAR AS {column}" for column in columns)
        rows = f"SELECT * REPLACE ({plain}) FROM {table}"
        database.connection.execute(f"COPY ({rows}) TO '{folder}/{table}.parquet' (FORMAT parquet)")
    database.close()
    return {}


def freeze(folder: Path) -> dict[str, Any]:
    """`python -m data freeze`, from the open store on."""
    import pandas  # noqa: F401  # DuckDB looks for it; all is imported before the clock starts, for the rivals too

    from data import assembly, owner, snapshots  # noqa: F401
    from data.archive import Archive
    from data.workspace import Workspace

    with Archive(folder / "feedback.duckdb") as store:
        return measured(lambda: {"made": str(owner.freeze(store, Workspace.at(folder)).path)})


def export(folder: Path) -> dict[str, Any]:
    """`python -m data export comparisons --format trl-parquet`, from the open store on."""
    import pandas  # noqa: F401

    from data import assembly, interchange  # noqa: F401
    from data.archive import Archive

    def work() -> dict[str, Any]:
        to = folder / OUT / "trl.parquet"
        interchange.write(interchange.stream(store.batches("comparisons"), "comparisons", "trl-parquet"), to)
        return {"made": str(to)}

    with Archive(folder / "feedback.duckdb") as store:
        return measured(work)


def verify(folder: Path) -> dict[str, Any]:
    """`python -m data verify`."""
    from data import snapshots

    [path] = snapshots.folders(folder / "snapshots")
    return measured(lambda: {"made": snapshots.verify(path)})


def agreement(folder: Path) -> dict[str, Any]:
    """How far labelers agree, as it is told in every snapshot."""
    from data.agreement import summary
    from data.archive import Archive

    with Archive(folder / "feedback.duckdb") as store, store.moment() as moment:
        return measured(lambda: {"made": summary(moment.ranks_by_task())["pairwise"]})


# ------------------------------------------------------------------ the limits


def rewrite(folder: Path, made: Path) -> dict[str, Any]:
    """The Parquet files that came out, read row group by row group and written again with the same settings."""
    import pyarrow.parquet as pq

    from data.columns import PARQUET

    def work() -> dict[str, Any]:
        for number, path in enumerate(_files(made)):
            with pq.ParquetFile(path) as file, (folder / OUT / f"{number}.parquet").open("wb") as to:
                with pq.ParquetWriter(to, file.schema_arrow, **PARQUET) as writer:
                    for group in range(file.num_row_groups):
                        writer.write_table(file.read_row_group(group))
                to.flush()
                os.fsync(to.fileno())
        return {}

    return measured(work)


def copy(folder: Path, made: Path) -> dict[str, Any]:
    """The bytes of the store read, and the bytes of the files that came out written and synced, in large blocks."""

    def work() -> dict[str, Any]:
        with (folder / "feedback.duckdb").open("rb") as store:
            while store.read(BLOCK):
                pass
        for number, path in enumerate(_files(made)):
            with path.open("rb") as file, (folder / OUT / f"{number}.copy").open("wb") as to:
                while block := file.read(BLOCK):
                    to.write(block)
                to.flush()
                os.fsync(to.fileno())
        return {}

    return measured(work)


def _files(made: Path) -> list[Path]:
    return sorted(made.rglob("*.parquet")) if made.is_dir() else [made]


# ------------------------------------------------------------------ the rivals


def pandas_freeze(folder: Path) -> dict[str, Any]:
    """Join, sort, hash row by row and write with pandas."""

    def work() -> dict[str, Any]:
        whole = _pandas_rankings(folder).sort_values(["prompt_id", "label_id"])
        digest = hashlib.sha256()
        for row in whole.itertuples(index=False):
            digest.update(json.dumps(row, default=_plain).encode())
        for split, part in whole.groupby("split"):
            part.to_parquet(folder / OUT / f"{split}.parquet", compression="zstd")
        return {"made": digest.hexdigest()}

    import pandas  # noqa: F401

    return measured(work)


def pandas_export(folder: Path) -> dict[str, Any]:
    """All decided pairs as TRL's columns with pandas."""

    def work() -> dict[str, Any]:
        whole = _pandas_rankings(folder)
        rows = []
        for row in whole.itertuples(index=False):
            prompt = [{"role": turn["role"], "content": turn["content"]} for turn in row.prompt]
            rows += [
                (row.label_id, row.labeler, row.prompt_id, prompt, *pair, row.split)
                for pair in _pairs(row.texts, row.ids, row.ranks)
            ]
        names = "ranking_id labeler prompt_id prompt chosen rejected margin chosen_id rejected_id split".split()
        pandas.DataFrame(rows, columns=names).to_parquet(folder / OUT / "pandas.parquet", compression="zstd")
        return {"made": len(rows)}

    import pandas

    return measured(work)


def _pandas_rankings(folder: Path) -> Any:
    import pandas

    rankings, responses, prompts = (pandas.read_parquet(folder / f"{table}.parquet") for table in TABLES)
    shown = responses.sort_values(["task_number", "position"]).groupby("task_number")
    shown = shown.agg(ids=("id", list), texts=("text", list), sources=("source", list))
    prompts["prompt"] = prompts["messages"].map(json.loads)
    prompts = prompts[["id", "prompt", "split"]].rename(columns={"id": "prompt_id"})
    return rankings.merge(shown, left_on="task_number", right_index=True).merge(prompts, on="prompt_id")


def datasets_freeze(folder: Path) -> dict[str, Any]:
    """Look up, sort, hash row by row and write with `datasets.map`."""

    def work() -> dict[str, Any]:
        whole = _datasets_rankings(folder).sort(["prompt_id", "label_id"])
        digest = hashlib.sha256()
        for row in whole:
            digest.update(json.dumps(row, default=_plain).encode())
        for split in ("train", "heldout"):
            kept = whole.filter(lambda splits, split=split: [each == split for each in splits], True, False, "split")
            kept.to_parquet(str(folder / OUT / f"{split}.parquet"))
        return {"made": digest.hexdigest()}

    _datasets(folder)
    return measured(work)


def datasets_export(folder: Path) -> dict[str, Any]:
    """All decided pairs as TRL's columns with `datasets.map`, a thousand rankings at a time."""

    def pairs(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        names = "ranking_id labeler prompt_id prompt chosen rejected margin chosen_id rejected_id split".split()
        rows = [
            (*kept, *pair, split)
            for *kept, split, texts, ids, ranks in zip(
                *(batch[name] for name in "label_id labeler prompt_id prompt split texts ids ranks".split()),
                strict=True,
            )
            for pair in _pairs(texts, ids, ranks)
        ]
        return {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}

    def work() -> dict[str, Any]:
        whole = _datasets_rankings(folder)
        found = whole.map(pairs, batched=True, remove_columns=whole.column_names)
        found.to_parquet(str(folder / OUT / "datasets.parquet"))
        return {"made": len(found)}

    _datasets(folder)
    return measured(work)


def _datasets(folder: Path) -> Any:
    os.environ["HF_DATASETS_CACHE"] = str(folder / OUT / "cache")
    os.environ["HF_HUB_OFFLINE"] = "1"
    import datasets

    datasets.disable_progress_bars()
    return datasets


def _datasets_rankings(folder: Path) -> Any:
    """`datasets` has no join: responses and prompts are looked up in dictionaries."""
    datasets = _datasets(folder)
    rankings, responses, prompts = (datasets.Dataset.from_parquet(f"{folder}/{table}.parquet") for table in TABLES)
    shown: dict[int, list[tuple[str, str, str]]] = {}
    for row in responses.select_columns(["task_number", "id", "text", "source"]):
        shown.setdefault(row["task_number"], []).append((row["id"], row["text"], row["source"]))
    asked = {row["id"]: (json.loads(row["messages"]), row["split"]) for row in prompts}

    def look_up(batch: dict[str, list[Any]]) -> dict[str, list[Any]]:
        found = [shown[number] for number in batch["task_number"]]
        columns = {name: [[r[i] for r in row] for row in found] for i, name in enumerate(("ids", "texts", "sources"))}
        columns["prompt"] = [asked[id][0] for id in batch["prompt_id"]]
        return columns | {"split": [asked[id][1] for id in batch["prompt_id"]]}

    return rankings.map(look_up, batched=True)


def _pairs(texts: Any, ids: Any, ranks: Any) -> list[tuple[Any, ...]]:
    """Chosen and rejected of the decided pairs, each as TRL's conversation, their margin and ids."""
    found = []
    for one, other in combinations(range(len(texts)), 2):
        if ranks[one] != ranks[other]:
            up, down = (one, other) if ranks[one] < ranks[other] else (other, one)
            said = [[{"role": "assistant", "content": texts[place]}] for place in (up, down)]
            found.append((*said, int(ranks[down] - ranks[up]), ids[up], ids[down]))
    return found


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


def main() -> None:
    name, folder, *more = sys.argv[1:]
    work = {each.__name__: each for each in (make, tables, freeze, export, verify, agreement, rewrite, copy)}
    work |= {each.__name__: each for each in (pandas_freeze, pandas_export, datasets_freeze, datasets_export)}
    given = [int(value) if value.isdecimal() else Path(value) for value in more]
    print(json.dumps(work[name](Path(folder), *given)))


if __name__ == "__main__":
    main()
