"""Known figures of real human rankings, computed with Pawl's own functions from rows as the store exports them.

Reads   comparisons/ukpconvarg1_16k_5annotators.jsonl.gz, comparisons/tulu1_human_annotations.jsonl.gz,
        rankings_k/wmt15_k5_rankings.jsonl.gz, rankings_k/finegrained_qa_feedback_dev_k4.json.gz
Prints  published and ours side by side, and last a JSON line; exit code 1 when one is off by more than ALLOWED

UKPConvArg1 (Habernal and Gurevych 2016), the human evaluation of Tülu 1 (Wang et al. 2023), WMT15 (Bojar et al. 2015)
and QA-Feedback (Wu et al. 2023). The published figures were computed from these files by other programs. The rankings
of WMT15 go the whole way: `python -m data import rankings --map ...` into a workspace, and what `export` writes of it.

    python tests/benchmarks/agreement.py DIR        (or with the folder in $PAWL_REAL_DATA)
"""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import libraries_first  # noqa: F401

import data.__main__
from data.agreement import accuracy, alpha, ceiling_of, choice, identical, pairwise
from data.labelers import effect
from data.quality import majority, reliability

Row = dict[str, Any]
WMT15 = ("prompt=pair", "prompt=segment", "responses=systems", "ranks=ranks", "labeler=judge", "seconds=seconds")
ALLOWED = 0.0051  # the published figures have three places at most, some of them two
PUBLISHED = {
    "ukp raw 3-way agreement": 0.524,
    "ukp kappa": 0.267,
    "ukp both picked a side": 0.731,
    "ukp single label vs strict gold": 0.874,
    "ukp longer wins vs strict gold": 0.775,
    "wmt15 ces-eng ties": 0.131,
    "wmt15 ces-eng inter": 0.655,
    "wmt15 ces-eng intra": 0.776,
    "wmt15 fre-eng ties": 0.148,
    "wmt15 fre-eng inter": 0.578,
    "wmt15 fre-eng intra": 0.733,
    "wmt15 inter, least": 0.54,
    "wmt15 inter, most": 0.66,
    "wmt15 intra, least": 0.63,
    "wmt15 intra, most": 0.88,
    "wmt15 ties, least": 0.085,
    "wmt15 ties, most": 0.315,
    "tulu double-annotated items": 97,
    "tulu raw 3-way agreement": 0.567,
    "tulu both picked a side": 0.700,
    "qa-feedback first-listed wins": 0.603,
    "qa-feedback pairs tied": 384,
}


def main(folder: Path) -> int:
    """Print the table; 1 when a figure is off."""
    began = time.process_time()
    ours = {**ukp(folder), **wmt15(folder), **tulu(folder), **qa_feedback(folder)}
    off = [name for name, figure in PUBLISHED.items() if abs(ours[name] - figure) > (ALLOWED if figure < 1 else 0.0)]
    print(f"{'':<42}{'published':>10}{'ours':>10}")
    for name, figure in ours.items():
        published = PUBLISHED.get(name)
        print(f"{name:<42}{_shown(published):>10}{_shown(figure):>10}{'  OFF' if name in off else ''}")
    seconds = round(time.process_time() - began, 1)
    print(json.dumps({"published": PUBLISHED, "ours": ours, "off": off, "cpu_seconds": seconds}))
    return 1 if off else 0


def ukp(folder: Path) -> dict[str, float]:
    """Five people on each pair of arguments, and the authors' cleaned answer for two thirds of the pairs."""
    rows, gold = [], {}
    for number, pair in enumerate(_lines(folder / "comparisons/ukpconvarg1_16k_5annotators.jsonl.gz")):
        texts = (pair["a1"], pair["a2"])
        rows += [_row(f"t-{number}", one["worker"], texts, _SAID[one["value"]]) for one in pair["labels"]]
        if pair["strict_gold"]:
            gold[f"t-{number}"] = (texts, _SAID[pair["strict_gold"]])
    tasks = by_task(rows)
    given = [list(task.values()) for task in tasks.values()]
    single = [accuracy(ranks, gold[task][1]) for task in gold for ranks in tasks[task].values() if len({*ranks}) > 1]
    lengths = [(said, [-len(text) for text in texts], 1) for texts, said in gold.values()]
    decided = pairwise(given)[1].value
    weights = {name: each.weight for name, each in reliability(tasks.values()).items()}
    settled = {"by majority": majority, "by weighed majority": majority}
    right: dict[str, list[bool]] = {how: [] for how in settled}
    for task, (_, said) in gold.items():
        ranks = list(tasks[task].values())
        votes = [weights[labeler] for labeler in tasks[task]]
        right["by majority"].append(choice(majority(ranks), 0, 1) == choice(said, 0, 1))
        right["by weighed majority"].append(choice(majority(ranks, votes), 0, 1) == choice(said, 0, 1))
    return {
        "ukp raw 3-way agreement": _value(identical(given).value),
        "ukp kappa": _value(alpha(_decisions(given), "nominal").value),
        "ukp both picked a side": _value(decided),
        "ukp ceiling of that": _value(ceiling_of(decided)),
        "ukp single label vs strict gold": sum(map(_value, single)) / len(single),
        "ukp longer wins vs strict gold": _value(effect(lengths).value),
        **{f"ukp gold found {how}": sum(each) / len(each) for how, each in right.items()},
    }


def wmt15(folder: Path) -> dict[str, float]:
    """Five translations ranked at a time; the same two translations of a sentence come to several judges, or again."""
    rows: defaultdict[str, list[Row]] = defaultdict(list)
    for ranking in through_pawl(folder / "rankings_k/wmt15_k5_rankings.jsonl.gz", WMT15):
        languages, _, segment = ranking["prompt"][0]["content"].partition("\n")
        names = [response["text"] for response in ranking["responses"]]  # systems of one output were shown as one
        shown = [each for each in zip(names, ranking["ranks"], strict=True) if each[1] is not None]
        for (one, first), (other, second) in combinations(sorted(shown), 2):
            task = f"{segment} {one} {other}"
            rows[languages].append(_row(task, ranking["labeler"], (one, other), (first, second)))
    found: dict[str, float] = {"wmt15 pairs": sum(map(len, rows.values()))}
    shares: defaultdict[str, list[float]] = defaultdict(list)
    for pair, its in rows.items():
        ties = sum(len({*row["ranks"]}) == 1 for row in its) / len(its)
        every, intra = identical(rankings_of(its, "task_id")), identical(rankings_of(its, "task_id", "labeler"))
        same = _value(every.value) * every.n - _value(intra.value) * intra.n
        inter = same / (every.n - intra.n)  # every two rankings, without those by one judge
        for name, value in (("ties", ties), ("inter", inter), ("intra", _value(intra.value))):
            shares[name].append(value)
            if pair in ("ces-eng", "fre-eng"):
                found[f"wmt15 {pair} {name}"] = value
    for name, values in shares.items():
        found |= {f"wmt15 {name}, least": min(values), f"wmt15 {name}, most": max(values)}
    return found


def through_pawl(path: Path, maps: Iterable[str]) -> Iterator[Row]:
    """The rows of `python -m data export rankings` after `python -m data import rankings` with these --map."""
    with tempfile.TemporaryDirectory() as scratch, contextlib.redirect_stdout(sys.stderr):
        out = Path(scratch) / "rankings.jsonl.gz"
        mapped = [word for each in maps for word in ("--map", each)]
        commands = (["import", "rankings", str(path), *mapped], ["export", "rankings", "--to", str(out)])
        for command in commands:
            if data.__main__.main([*command, "--workspace", scratch]) != 0:
                raise SystemExit(f"python -m data {' '.join(command)} failed")
        yield from _lines(out)


def tulu(folder: Path) -> dict[str, float]:
    """Two answers to an instruction, some of them shown to two people, in one order or the other."""
    rows = []
    for pair in _lines(folder / "comparisons/tulu1_human_annotations.jsonl.gz"):
        said = (1, 1) if pair["preference"] == "tie" else (1, 2) if pair["preference"].startswith("a") else (2, 1)
        models = [(pair["model_a"], said[0]), (pair["model_b"], said[1])]
        (one, first), (other, second) = sorted(models)  # as it was shown, or the other way round
        rows.append(_row(f"{pair['instance_id']} {one} {other}", pair["evaluator"], (one, other), (first, second)))
    given = [list(task.values()) for task in by_task(rows).values() if len(task) == 2]
    return {
        "tulu double-annotated items": len(given),
        "tulu raw 3-way agreement": _value(identical(given).value),
        "tulu both picked a side": _value(pairwise(given)[1].value),
    }


def qa_feedback(folder: Path) -> dict[str, float]:
    """Every two of four answers, always shown in the order of the file."""
    with gzip.open(folder / "rankings_k/finegrained_qa_feedback_dev_k4.json.gz") as file:
        items = json.load(file)
    said = [[(1, 1), (1, 2), (2, 1)][answer] for item in items for answer in item["preference"]]
    return {
        "qa-feedback first-listed wins": _value(effect((ranks, (0, 1), 1) for ranks in said).value),
        "qa-feedback pairs tied": sum(one == other for one, other in said),
    }


def by_task(rows: Iterable[Row]) -> dict[str, dict[str, list[int]]]:
    """The first ranking of each labeler, by task."""
    tasks: defaultdict[str, dict[str, list[int]]] = defaultdict(dict)
    for row in rows:
        tasks[row["task_id"]].setdefault(row["labeler"], row["ranks"])
    return tasks


def rankings_of(rows: Iterable[Row], *columns: str) -> Iterator[list[list[int]]]:
    """The rankings that have the same in these columns: by task alone, or by task and labeler for repeats."""
    found: defaultdict[tuple[str, ...], list[list[int]]] = defaultdict(list)
    for row in rows:
        found[tuple(row[name] for name in columns)].append(row["ranks"])
    yield from found.values()


_SAID = {"a1": (1, 2), "a2": (2, 1), "equal": (1, 1)}


def _row(task: str, labeler: str, texts: Iterable[str], ranks: Iterable[int]) -> Row:
    """What matters here of a row of `python -m data export rankings`."""
    responses = [{"id": f"r-{place}", "text": text} for place, text in enumerate(texts)]
    return {"task_id": task, "labeler": labeler, "responses": responses, "ranks": list(ranks)}


def _decisions(tasks: Iterable[list[list[int]]]) -> Iterator[list[float]]:
    """What was said of each pair of responses: 1 for the first, -1 for the second, 0 for a tie."""
    for rankings in tasks:
        yield [float(_value(choice(ranks, 0, 1))) for ranks in rankings]


def _lines(path: Path) -> Iterator[Any]:
    with gzip.open(path) as file:
        yield from map(json.loads, file)


def _value(value: float | None) -> float:
    assert value is not None
    return value


def _shown(figure: float | None) -> str:
    return "" if figure is None else f"{figure:.3f}" if figure < 1 else str(round(figure))


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PAWL_REAL_DATA")
    if folder is None:
        sys.exit("Name the folder with the files, or set PAWL_REAL_DATA.")
    sys.exit(main(Path(folder)))
