"""Imports a folder of real data into scratch workspaces, and accounts for every row of every file.

Reads   FOLDER, else $PAWL_REAL_DATA: files of prompts, demonstrations, comparisons, rankings, conversations
Prints  a table (file, kind, shape, rows, taken, labels, new, new the second time, skipped and why), and last one JSON
        line. Exits 1 when a row of a file is neither taken nor skipped, or when importing it again adds something.

    python tests/benchmarks/real_data.py /data/feedback
    python tests/benchmarks/real_data.py --quick        (files of less than 500 kB)
    python tests/benchmarks/real_data.py --train FOLDER (and a step of TRL's trainers on each)

With --train each import is exported in TRL's format (JSON lines), loaded by `datasets.load_dataset`, and given as it
is, without a mapping of columns, to TRL's matching trainers: SFTTrainer for demonstrations, RewardTrainer, DPOTrainer
and KTOTrainer for rankings, GRPOTrainer for prompts. Each takes one step of a microscopic model on the first rows;
its loss and the norm of its gradient are printed, and the run fails where there is none.

Files whose columns have names of their own are told by PLANS which to take; all others are recognised, and imported as
the first kind that takes a row of them. A file that holds no feedback says so in its reasons.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import libraries_first  # noqa: F401

from data.errors import InvalidInput
from data.formats import SUFFIXES
from data.importing import import_file, preview
from data.interchange import stream, write
from data.reports import Report
from data.shapes import Mapping
from data.store import Store

KINDS = ("rankings", "demonstrations", "prompts")
PLANS: dict[str, tuple[tuple[str, str], ...]] = {  # by the beginning of a file's name: kinds, each with its --map
    "wmt15": (
        ("rankings", ""),
        (
            "rankings",
            "prompt=pair prompt=segment responses=systems ranks=ranks labeler=judge seconds=seconds",
        ),
    ),
    "finegrained_qa": (("rankings", ""), ("demonstrations", "")),
    "simple_safety": (("prompts", "prompt=prompts_final tags=harm_area,category"),),
    "bigbench_mistake": (("prompts", "prompt=input"),),
    "anthropic_nlp": (("prompts", "prompt=neutral_prompt"),),
}
TRAINED = {"demonstrations": ("SFTTrainer",), "prompts": ("GRPOTrainer",)}
OF_RANKINGS = ("RewardTrainer", "DPOTrainer", "KTOTrainer")
ROWS = 8  # of a dataset that a trainer is given
VOCABULARY = 1_000
QUICK = 500_000  # bytes of a file that --quick takes
WHY = 3  # reasons shown of each file


@dataclass
class Result:
    """What became of one file under one kind."""

    file: str
    kind: str
    shape: str
    rows: int
    taken: int
    labels: int
    new: int
    again: int  # new when it was imported once more
    skipped: int
    parts: int
    why: dict[str, int]
    seconds: float
    exported: dict[str, int]  # rows that came out in TRL's format, by kind
    steps: dict[str, tuple[float, float]]  # loss and norm of the gradient of one step, by trainer

    @property
    def accounted(self) -> bool:
        return self.rows == self.taken + self.skipped and self.again == 0

    @property
    def learned(self) -> bool:
        """Whether every step had a loss, and a gradient to go along."""
        return all(math.isfinite(loss) and 0 < norm < math.inf for loss, norm in self.steps.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=os.environ.get("PAWL_REAL_DATA"))
    parser.add_argument("--quick", action="store_true", help="small files only")
    parser.add_argument("--train", action="store_true", help="one step of TRL's trainers on each dataset")
    options = parser.parse_args(arguments)
    if options.folder is None:
        print("No real data: name a folder, or set $PAWL_REAL_DATA.")
        print(json.dumps({"files": 0}))
        return 0
    results = []
    for path in files_of(Path(options.folder), quick=options.quick):
        results += [imported(path, kind, map, train=options.train) for kind, map in plan_of(path)]
        for result in results[-len(plan_of(path)) :]:
            print(line_of(result), flush=True)
    unaccounted = [result.file for result in results if not result.accounted]
    print(
        f"\n{len(results)} imports; rows that are neither taken nor skipped, or came in twice: {unaccounted or 'none'}"
    )
    steps = Counter(name for result in results for name in result.steps)
    failed = [result.file for result in results if not result.learned]
    if options.train:
        taken = ", ".join(f"{count} of {name}" for name, count in steps.items())
        print(f"Steps taken: {taken or 'none'}; without a loss or a gradient: {failed or 'none'}")
    files = [asdict(result) for result in results]
    print(json.dumps({"files": files, "unaccounted": unaccounted, "steps": dict(steps), "failed": failed}))
    return 1 if unaccounted or failed else 0


def files_of(folder: Path, *, quick: bool) -> list[Path]:
    """The files of a known format, by name."""
    endings = tuple(ending + more for ending in SUFFIXES for more in ("", ".gz"))
    found = sorted(path for path in folder.rglob("*") if path.name.endswith(endings))
    return [path for path in found if not quick or path.stat().st_size < QUICK]


def plan_of(path: Path) -> tuple[tuple[str, str], ...]:
    """As what the file is to be imported: as PLANS has it, else as the first kind that takes one of its first rows."""
    for begin, plan in PLANS.items():
        if path.name.startswith(begin):
            return plan
    kinds = [kind for kind in KINDS if preview(kind, path)[0].taken]
    return ((kinds[0] if kinds else "prompts", ""),)


def imported(path: Path, kind: str, map: str, *, train: bool) -> Result:
    """The file in a store of its own, twice; and what TRL's trainers made of it."""
    began = time.process_time()
    with Store(None) as store:
        first = take(store, kind, path, map)
        seconds = time.process_time() - began
        again = take(store, kind, path, map)
        exported, steps = trained(store, kind) if train and first.taken else ({}, {})
    why: Counter[str] = Counter()
    for reason, count in [*first.reasons.items(), *((row.why, 1) for row in first.parts)]:
        why[re.sub(r"\d[\d,]*", "N", reason)] += count
    return Result(
        file=path.name,
        kind=kind,
        shape=", ".join(first.shapes) or "-",
        rows=first.rows,
        taken=first.taken,
        labels=first.labels,
        new=first.new,
        again=again.new,
        skipped=first.skips,
        parts=first.partly,
        why=dict(why.most_common(WHY)),
        seconds=round(seconds, 1),
        exported=exported,
        steps=steps,
    )


def trained(store: Store, kind: str) -> tuple[dict[str, int], dict[str, tuple[float, float]]]:
    """How many rows of each kind came out; loss and gradient's norm of each trainer's step on the first of them."""
    from tests.benchmarks.frozen.trainers import TRAINERS, datasets, step, tokenizer

    exported, steps = {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in TRAINED.get(kind, OF_RANKINGS):
            rows_kind = TRAINERS[name][0]
            file = Path(scratch) / f"{rows_kind}.jsonl"
            if not file.exists():
                write(stream(store.batches(rows_kind), rows_kind, "trl"), file)
            rows = datasets.load_dataset("json", data_files=str(file), cache_dir=scratch, split="train")
            first = rows.select(range(min(ROWS, len(rows))))
            words = tokenizer.train([json.dumps(row, ensure_ascii=False) for row in first], VOCABULARY)
            exported[rows_kind] = len(rows)
            steps[name] = step(name, first, words, Path(scratch))
    return exported, steps


def take(store: Store, kind: str, path: Path, map: str) -> Report:
    try:
        return import_file(store, kind, path, mapping=Mapping.parse(map.split()), known=store.prompt_ids())
    except InvalidInput as error:
        report = Report(kind, str(path))
        report.skip("file", str(error))
        report.rows = 1
        return report


def line_of(result: Result) -> str:
    numbers = (
        f"{result.rows:>7} {result.taken:>7} {result.labels:>7} {result.new:>7} {result.again:>3} {result.skipped:>6}"
    )
    lines = [f"{result.file[:44]:<44} {result.kind:<14} {numbers}  {result.seconds:>5.1f} s  {result.shape}"]
    lines += [f"{'':<10} {count:>6} x {why[:150]}" for why, count in result.why.items()]
    if result.steps:
        rows = ", ".join(f"{count:,} {kind}" for kind, count in result.exported.items())
        steps = (f"{name} {loss:.3f} (gradient {norm:.2f})" for name, (loss, norm) in result.steps.items())
        lines.append(f"{'':<10} {rows} out; {', '.join(steps)}")
    return "\n".join(lines)


if __name__ == "__main__":
    print(f"{'file':<44} {'kind':<14} {'rows':>7} {'taken':>7} {'labels':>7} {'new':>7} {'2nd':>3} {'skip':>6}")
    sys.exit(main())
