"""A million rankings frozen, exported, verified and counted: how long, in how much memory, and against what.

The store holds rankings of four responses of 300 to 600 characters by 200 labelers, two of each task, 3 % of the pairs
tied. It is frozen into a snapshot, which is verified; all its decided pairs are exported as TRL's Parquet; and the
agreement of its labelers is computed. Each is a process of its own, timed from the open store on.

Two limits stand beside them. The limit is the very Parquet files that came out, read and written again by pyarrow with
the same settings and synced: whoever makes these files must decode and encode as much. The copy is less than that: the
bytes of the store's file read, and those of the files that came out written and synced, without a look at them.

The rivals do the same work from the same tables in Parquet: pandas joins and sorts, `datasets.map` looks responses up
(it has no join); both hash the rows as JSON, as anyone would. They keep everything in memory, so they are given
100,000 rankings, and are compared by processor seconds per ranking, which other work on the machine leaves alone.

    python tests/benchmarks/datasets.py [--quick] [--rankings 1000000] [--scratch DIR]

The last line is JSON. freeze_vs_limit, export_vs_limit: processor seconds over those of the limit. freeze_vs_copy,
export_vs_copy: seconds over those of the copy. peak_gb: memory of the larger of freeze and export. vs_pandas,
vs_datasets_map: the rival's processor seconds per ranking over ours, the smaller of freezing and exporting.

`python tests/benchmarks/frozen/trainers.py` takes a step of each of TRL's trainers on what is exported.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

WORK = Path(__file__).parent / "frozen" / "work.py"
RIVALS = 100_000  # rankings that the rivals are given
HEAD = f"{'':28}{'rankings':>10}{'seconds':>10}{'CPU s':>10}{'GB peak':>10}{'GB before':>11}{'MB out':>10}"


def run(work: str, folder: Path, rankings: int, *more: str) -> dict[str, Any]:
    """One piece of work in a process of its own; its row is printed at once."""
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir()
    done = subprocess.run([sys.executable, WORK, work, folder, *more], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{work} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "seconds" in found:
        made = Path(str(found.get("made")))
        size = _size(made if made.is_absolute() else out)
        print(
            f"{work.replace('_', ', '):28}{rankings:10,}{found['seconds']:10.1f}{found['cpu']:10.1f}"
            f"{found['peak']:10.2f}{found['before']:11.2f}{size / 1e6:10.0f}",
            flush=True,
        )
    return found


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else sum(file.stat().st_size for file in path.rglob("*.*"))


def store(scratch: Path, rankings: int) -> Path:
    """The workspace with that many rankings, made unless it is there from before."""
    folder = scratch / f"labels-{rankings}"
    if not (folder / "made").exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        print(f"A store of {rankings:,} rankings is made in {folder}.", flush=True)
        run("make", folder, rankings, str(rankings))
    shutil.rmtree(folder / "snapshots", ignore_errors=True)
    return folder


def ours(scratch: Path, rankings: int, *, limits: bool) -> dict[str, dict[str, Any]]:
    """What each piece of work took, on a store of that size."""
    folder = store(scratch, rankings)
    found = {"freeze": run("freeze", folder, rankings)}
    if limits:
        found["verify"] = run("verify", folder, rankings)
        found["freeze limit"] = run("rewrite", folder, rankings, found["freeze"]["made"])
        found["freeze copy"] = run("copy", folder, rankings, found["freeze"]["made"])
    found["export"] = run("export", folder, rankings)
    if limits:
        exported = folder / "exported.parquet"
        Path(found["export"]["made"]).rename(exported)
        found["export limit"] = run("rewrite", folder, rankings, str(exported))
        found["export copy"] = run("copy", folder, rankings, str(exported))
        exported.unlink()
        found["agreement"] = run("agreement", folder, rankings)
    shutil.rmtree(folder / "out")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="20,000 rankings, rivals too")
    parser.add_argument("--rankings", type=int, help="1,000,000, or 20,000 with --quick")
    parser.add_argument("--scratch", type=Path, help="where the stores are kept between runs")
    parser.add_argument("--no-rivals", action="store_true", help="leave pandas and datasets out")
    arguments = parser.parse_args()
    rankings = arguments.rankings or (20_000 if arguments.quick else 1_000_000)
    scratch = arguments.scratch or Path(tempfile.gettempdir()) / "pawl-datasets"
    print(HEAD, flush=True)
    found = ours(scratch, rankings, limits=True)
    small = min(RIVALS, rankings)
    faster: dict[str, float | None] = {"pandas": None, "datasets": None}
    if not arguments.no_rivals:
        same = ours(scratch, small, limits=False) if small < rankings else found
        folder = scratch / f"labels-{small}"
        run("tables", folder, small)
        for rival in faster:
            ratios = [run(f"{rival}_{work}", folder, small)["cpu"] / same[work]["cpu"] for work in ("freeze", "export")]
            faster[rival] = round(min(ratios), 1)
        shutil.rmtree(folder / "out")
    made = [found["freeze"], found["export"]]
    figures = {
        "freeze_vs_limit": round(found["freeze"]["cpu"] / found["freeze limit"]["cpu"], 2),
        "export_vs_limit": round(found["export"]["cpu"] / found["export limit"]["cpu"], 2),
        "peak_gb": round(max(each["peak"] for each in made), 2),
        "vs_pandas": faster["pandas"],
        "vs_datasets_map": faster["datasets"],
        "freeze_vs_copy": round(found["freeze"]["seconds"] / found["freeze copy"]["seconds"], 2),
        "export_vs_copy": round(found["export"]["seconds"] / found["export copy"]["seconds"], 2),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
