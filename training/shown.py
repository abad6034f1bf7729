"""Some responses of each step of a run, for people to read.

Writes  runs/<id>/samples.jsonl: one JSON object a line with step, prompt, response, score and kl. Of several processes,
        which all hold the same, the first one writes
"""

from __future__ import annotations

import json
from collections.abc import Iterable

from data.records import Prompt
from data.runs import RunFolder, write_whole
from training import parallel

EACH_STEP = 4  # responses


def append(run: RunFolder, step: int, rows: Iterable[tuple[Prompt, str, float | None, float | None]]) -> None:
    """Write down the first of a step's rows: prompt, response, score and KL in nats, None where it is not measured."""
    if not parallel.is_main():
        return
    with (run.path / "samples.jsonl").open("a") as file:
        for _, (prompt, text, score, kl) in zip(range(EACH_STEP), rows, strict=False):
            line = {"step": step, "prompt": prompt.messages[-1].content, "response": text, "score": score, "kl": kl}
            file.write(json.dumps(line) + "\n")


def forget_after(run: RunFolder, step: int) -> None:
    """Drop the samples of steps that a resumed run makes again, and a line that a kill cut short."""
    path = run.path / "samples.jsonl"
    if parallel.is_main() and path.exists():
        lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
        write_whole(path, "".join(line for line in lines if json.loads(line)["step"] <= step))
