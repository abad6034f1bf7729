"""Feedback from the command line, whether or not the app runs: it owns the store then, and is asked over HTTP.

    python -m data import prompts|demonstrations|comparisons|rankings FILE [--dry-run] [--map FIELD=PATH]
    python -m data export demonstrations|comparisons|unpaired|rankings|prompts --to PATH [--format trl|hf|...]
    python -m data freeze [choices]  | diff SNAPSHOT SNAPSHOT | withdraw LABEL|LABELER      (data/curation.py)
    python -m data snapshots | verify | stats [--snapshot SNAPSHOT] | seed
    python -m data add checkpoint|batch|run ID          (how training hands in what it made)

Exit codes: 0 done, 1 refused or damaged (the message says what and what to do), 2 not a command.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from collections.abc import Callable
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data import curation
from data.errors import DamagedSnapshot, FeedbackError, InvalidInput, NotFound
from data.records import CHECKPOINT_STATES, Checkpoint
from data.shapes import FORMATS, KINDS, Mapping
from data.workspace import Workspace

if TYPE_CHECKING:
    from data.archive import Archive
    from data.client import Client
    from data.store import Store

# data.owner brings in DuckDB, data.interchange and data.snapshots pyarrow: each command imports what it needs
ID = re.compile(r"[a-z]+-[0-9]{4,}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; its exit code."""
    options = _parser().parse_args(arguments)
    command: Callable[[argparse.Namespace, Workspace], int] = options.command
    try:
        return command(options, Workspace.at(options.workspace))
    except FeedbackError as error:
        print(f"{error.title}: {error}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # `python -m data stats | head`: nobody reads on, so nothing more is written
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"A file could not be read or written: {error}. What was acknowledged before is kept.", file=sys.stderr)
        return 1


def import_(options: argparse.Namespace, workspace: Workspace) -> int:
    """Take a file in; 1 when it had rows and not one could be taken."""
    from data.importing import import_file
    from data.owner import open_feedback
    from data.progress import Bar

    if options.ask and options.kind != "prompts":
        raise InvalidInput("--ask goes with prompts: labelers are asked for demonstrations of them. Nothing imported.")
    mapping = Mapping.parse(options.map)
    if options.dry_run:
        return _preview(options, mapping)
    with open_feedback(workspace) as feedback, Bar(sys.stderr) as bar:
        known = _prompt_ids(feedback) if options.kind == "prompts" else set()
        report = import_file(
            feedback,
            options.kind,
            options.file,
            source=options.source,
            licence=options.licence,
            mapping=mapping,
            known=known,
            ask=options.ask,
            watch=lambda done, report: bar.show(done, f"{report.rows:,} rows, {report.skips:,} skipped"),
        )
    for line in report.lines():
        print(line, file=sys.stdout if report.taken else sys.stderr)
    if options.json:
        print(json.dumps(report.json()))
    return 1 if report.skips and not report.taken else 0


def _preview(options: argparse.Namespace, mapping: Mapping | None) -> int:
    """Show what would be taken; nothing is stored, and no store is opened."""
    from data.importing import preview

    report, stored = preview(options.kind, options.file, source=options.source, mapping=mapping)
    print(f"Dry run: nothing is stored. Of the first {report.rows} rows, {report.skips} would be skipped.")
    for line in report.lines()[1:]:
        print(line)
    for row in stored:
        print(json.dumps(row, ensure_ascii=False, indent=2))
    if options.json:
        print(json.dumps({**report.json(), "stored": stored}))
    return 1 if report.skips and not report.taken else 0


def export(options: argparse.Namespace, workspace: Workspace) -> int:
    """Write a file, or a dataset folder, of one consistent moment."""
    from data.client import Client
    from data.interchange import stream, write
    from data.owner import open_to_read

    ending = options.to.name.removesuffix(".gz").rpartition(".")[2]
    format = options.format or (ending if ending in ("parquet", "csv", "arrow") else "jsonl")
    if format == "trl" and ending == "parquet":
        format = "trl-parquet"
    if format != "hf" and options.licence:
        raise InvalidInput("--licence goes with --format hf, whose dataset card names it. Nothing was written.")
    with open_to_read(workspace) as feedback:
        if format == "hf":
            return _export_folder(feedback, options, workspace)
        if isinstance(feedback, Client):
            chunks = feedback.export(options.kind, format)
        else:
            chunks = stream(feedback.batches(options.kind), options.kind, format)
        size = write(chunks, options.to)
    print(f"Wrote the {options.kind} to {options.to} ({size:,} bytes).")
    return 0


def _export_folder(feedback: Archive | Client, options: argparse.Namespace, workspace: Workspace) -> int:
    from data.agreement import summary
    from data.client import Client
    from data.dataset_folder import write_folder

    write = partial(write_folder, kind=options.kind, folder=options.to, licence=options.licence)
    if isinstance(feedback, Client):
        rows = write(feedback.export_batches(options.kind), agreement=feedback.stats()["agreement"])
    else:
        with feedback.moment() as moment:
            agreement = summary(moment.ranks_by_task())
            rows = write(moment.batches(options.kind, scratch=workspace.root), agreement=agreement)
    counted = ", ".join(f"{count:,} {split}" for split, count in rows.items()) or "no"
    print(f"Wrote the {options.kind} to the dataset folder {options.to} ({counted} rows).")
    return 0


def snapshots(options: argparse.Namespace, workspace: Workspace) -> int:
    """List the snapshots, oldest first."""
    from data.snapshots import listing

    found = listing(workspace.snapshots)
    if options.json:
        print(json.dumps([snapshot.summary() for snapshot in found]))
        return 0
    if not found:
        print("No snapshots yet. `python -m data freeze` makes one.")
    for snapshot in found:
        counts = snapshot.counts
        print(
            f"{snapshot.hash}  {snapshot.manifest['created_at']}  {counts['rankings']:>7} rankings  "
            f"{counts['demonstrations']:>7} demonstrations  {counts['prompts']:>7} prompts"
        )
    return 0


def verify(options: argparse.Namespace, workspace: Workspace) -> int:
    """Hash the named snapshots again, or all of them."""
    from data.snapshots import folders
    from data.snapshots import verify as verify_snapshot

    named = [workspace.snapshots / Path(name).name for name in options.snapshots]
    there = folders(workspace.snapshots)
    damaged = 0
    for folder in named or there:
        try:
            verify_snapshot(folder)
            print(f"{folder.name}  whole")
        except (DamagedSnapshot, NotFound) as error:
            damaged += 1
            print(f"{folder.name}  DAMAGED: {error}", file=sys.stderr)
    if not named and not there:
        print("No snapshots yet. `python -m data freeze` makes one.")
    return 1 if damaged else 0


def stats(options: argparse.Namespace, workspace: Workspace) -> int:
    """Counts, labelers, agreement; of what there is now, or of a snapshot."""
    from data.owner import open_feedback

    if options.snapshot is not None:
        return _stats_of_snapshot(options, workspace)

    with open_feedback(workspace) as feedback:
        found = feedback.stats() | {"reliability": feedback.reliability()}
    print(json.dumps(found) if options.json else "\n".join(_stats_lines(found)))
    return 0


def _stats_of_snapshot(options: argparse.Namespace, workspace: Workspace) -> int:
    from data.look import lines, look
    from data.snapshots import named

    found = look(named(workspace.snapshots, Path(options.snapshot).name))
    print(json.dumps(found.json()) if options.json else "\n".join(lines(found)))
    return 0


def seed(options: argparse.Namespace, workspace: Workspace) -> int:
    """Put the bundled prompts and demonstrations in."""
    from data import interchange
    from data.owner import open_feedback

    with open_feedback(workspace) as feedback:
        counts = interchange.seed(feedback)
    print(
        f"{counts['prompts']} bundled prompts and {counts['demonstrations']} demonstrations are in "
        f"({counts['new_demonstrations']} new), with {counts['new_tasks']} new demonstration tasks."
    )
    return 0


def add(options: argparse.Namespace, workspace: Workspace) -> int:
    """Hand in what a training process made: the folder or file of that id in the workspace."""
    from data.owner import open_feedback

    id = options.id
    if not ID.fullmatch(id):
        raise InvalidInput(f"{id!r} is not the id of a {options.what}: those look like sft-0001. Nothing was added.")
    if options.what != "checkpoint" and (options.state or options.reason):
        raise InvalidInput(f"A {options.what} has no state to set or reason to give. Nothing was added.")
    if options.what == "checkpoint":
        checkpoint = _checkpoint(workspace, id, options.state or "candidate", options.reason)
        with open_feedback(workspace) as feedback:
            feedback.add_checkpoint(checkpoint)
        print(f"Checkpoint {id} is {checkpoint.state}.")
    elif options.what == "batch":
        from data import batches

        batch = batches.read(_existing(workspace.batches / f"{id}.parquet"))
        with open_feedback(workspace) as feedback:
            tasks = feedback.add_batch(batch)
        print(f"Batch {id} of {batch.checkpoint}: {len(tasks)} ranking tasks.")
    else:
        state = _json_file(workspace.runs / id / "state.json")
        with open_feedback(workspace) as feedback:
            feedback.put_run(id, state)
        print(f"Run {id} is {state.get('state')}.")
    return 0


def _checkpoint(workspace: Workspace, id: str, state: str, reason: str) -> Checkpoint:
    """The checkpoint as its manifest describes it."""
    path = workspace.checkpoints / id / "pawl.json"
    manifest = _json_file(path)
    try:
        return Checkpoint(
            id=manifest["id"],
            stage=manifest["stage"],
            parents=tuple(manifest["parents"]),
            snapshot=manifest["snapshot"],
            metrics=manifest["metrics"],
            state=state,
            reason=reason,
            created_at=datetime.fromisoformat(manifest["created_at"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{path} does not describe a checkpoint ({error!r}). Nothing was added.") from error


def _existing(path: Path) -> Path:
    if not path.exists():
        raise NotFound(f"There is no {path}. Nothing was added.")
    return path


def _json_file(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_existing(path).read_text())
    except ValueError as error:
        raise InvalidInput(f"{path} is not JSON ({error}). Nothing was added.") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} is not a JSON object. Nothing was added.")
    return value


def _prompt_ids(feedback: Store | Client) -> set[str]:
    """The ids of the prompts there are, to tell which are new."""
    from data.client import Client

    if not isinstance(feedback, Client):
        return feedback.prompt_ids()
    lines = b"".join(feedback.export("prompts", "jsonl")).splitlines()
    return {json.loads(line)["prompt_id"] for line in lines}


def _stats_lines(found: dict[str, Any]) -> list[str]:
    prompts, labels, agreement = found["prompts"], found["labels"], found["agreement"]
    lines = [f"Prompts              {prompts['train']} train, {prompts['heldout']} held out"]
    for kind, states in found["tasks"].items():
        counts = ", ".join(f"{count} {state}" for state, count in states.items())
        lines.append(f"{kind.capitalize() + ' tasks':<20} {counts}")
    lines += [
        f"Rankings             {labels['rankings']} ({labels['rankings_trainable']} to train on)",
        f"Demonstrations       {labels['demonstrations']}",
        f"Skips                {labels['skips']}",
        f"Last hour            {found['tasks_per_hour']} labels",
    ]
    if agreement["pairwise"] is None:
        lines.append("Agreement            not known: no response pair was ranked by two labelers")
    else:
        low, high = agreement["interval"]
        lines.append(
            f"Agreement            {agreement['pairwise']:.3f} [{low:.3f}, {high:.3f}] on {agreement['pairs']} pairs"
        )
        lines.append(f"  {agreement['definition']}")
        share, pairs = agreement["decided"], "decided pairs"
        if share is None:
            share, pairs = agreement["pairwise"], "pairs"
        said = f"how often a perfect judge agrees with one label, when two agree on {share:.3f} of {pairs}"
        lines.append(f"Ceiling              {agreement['ceiling']:.3f}: {said}")
    lines += curation.labeler_lines(found)
    return lines


def _parser() -> argparse.ArgumentParser:
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--workspace", metavar="DIR", help="the project's folder ($PAWL_WORKSPACE, else ./var)")
    parser = argparse.ArgumentParser(
        prog="python -m data", description="Feedback in files: import, export, freeze, verify, count, withdraw."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace, Workspace], int], help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, parents=[shared], description=help)
        sub.set_defaults(command=run)
        return sub

    imports = command("import", import_, "take in prompts or labels from a file or a Hugging Face dataset folder")
    imports.add_argument("kind", choices=("prompts", "demonstrations", "comparisons", "rankings"))
    imports.add_argument("file", type=Path, help=".jsonl, .json, .csv or .parquet, each also .gz; or a dataset folder")
    imports.add_argument(
        "--ask", type=int, default=0, metavar="N", help="with prompts: ask N labelers for a demonstration of each"
    )
    imports.add_argument("--dry-run", action="store_true", help="show the first rows as they would be stored, no more")
    imports.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="FIELD=PATH",
        help="where a field is in a row of no known shape, as in response=choices.0.text; once for each field",
    )
    imports.add_argument("--source", metavar="NAME", help="what to call where it comes from (else the file's name)")
    imports.add_argument("--licence", metavar="SPDX", help="its licence, as an SPDX identifier or in words")
    imports.add_argument("--json", action="store_true", help="end with the report as a line of JSON")
    exports = command("export", export, "write labels or prompts to a file")
    exports.add_argument("kind", choices=KINDS)
    exports.add_argument("--to", type=Path, required=True, metavar="PATH", help="the file; gzipped if it ends in .gz")
    exports.add_argument(
        "--format",
        choices=(*FORMATS, "hf"),
        help="else by the file's name: parquet, arrow, csv, or jsonl; hf makes PATH a Hugging Face dataset folder",
    )
    exports.add_argument(
        "--licence", metavar="NAME", help="with hf: the licence of the whole (else that of its sources)"
    )
    curation.add_commands(command)
    listed = command("snapshots", snapshots, "list the snapshots")
    listed.add_argument("--json", action="store_true")
    verified = command("verify", verify, "hash snapshots again and name a damaged file")
    verified.add_argument("snapshots", nargs="*", metavar="SNAPSHOT", help="all of them, unless named")
    counted = command("stats", stats, "counts by kind and state, labelers, agreement")
    counted.add_argument("--snapshot", metavar="SNAPSHOT", help="what its labels look like: lengths, ties, what sways")
    counted.add_argument("--json", action="store_true")
    command("seed", seed, "put the bundled prompts and demonstrations in")
    added = command("add", add, "hand in what a training process made")
    added.add_argument("what", choices=("checkpoint", "batch", "run"))
    added.add_argument("id", metavar="ID")
    added.add_argument("--state", choices=CHECKPOINT_STATES, help="of a checkpoint; candidate unless said otherwise")
    added.add_argument("--reason", default="", help="why it has that state, in words")
    return parser


if __name__ == "__main__":
    sys.exit(main())
