"""The commands that choose among labels: freeze some of them, compare two snapshots, take labels back.

Part of `python -m data`; see there.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from data.choices import Choices, Weights
from data.errors import InvalidInput, NotFound
from data.quality import Aggregate
from data.workspace import Workspace

if TYPE_CHECKING:
    from data.client import Client
    from data.store import Store

Command = Callable[[str, Callable[[argparse.Namespace, Workspace], int], str], argparse.ArgumentParser]
_NAMES = {
    "source": "NAME",
    "checkpoint": "ID",
    "labeler": "PSEUDONYM",
    "tag": "TAG",
    "language": "CODE",
}
_HELP = {
    "source": "labels from here: labeler, review, rewrite, seed, or the file they were imported from",
    "checkpoint": "rankings of a response that this checkpoint sampled",
    "labeler": "this labeler's labels",
    "tag": "prompts with this tag, and their labels",
    "language": "prompts in this language (en, de, ...): by a tag lang:CODE, else by their words",
}


def freeze(options: argparse.Namespace, workspace: Workspace) -> int:
    """Make a snapshot of everything or of what was chosen, or name the one that holds the same already."""
    from data import owner
    from data.client import Client

    given = {name: getattr(options, name) for name in (*Choices.__dataclass_fields__,)}
    choices = Choices.of({name: value for name, value in given.items() if value is not None})
    with owner.open_to_read(workspace) as feedback:
        if isinstance(feedback, Client):
            summary = feedback.freeze(choices.as_json())
        else:
            summary = owner.freeze(feedback, workspace, choices).summary()
    counts = summary["counts"]
    print(
        f"Snapshot {summary['snapshot']} in {summary['path']}: {counts['rankings']} rankings "
        f"({counts['rankings_trainable']} to train on), {counts['demonstrations']} demonstrations, "
        f"{counts['prompts']} prompts."
    )
    for line in _left_out_lines(summary.get("left_out", {})):
        print(line)
    if options.json:
        names = ("snapshot", "path", "counts", "promoted", "choices", "left_out")
        print(json.dumps({name: summary[name] for name in names if name in summary}))
    return 0


def diff(options: argparse.Namespace, workspace: Workspace) -> int:
    """Say what is in one snapshot and not in the other."""
    from data.difference import difference, lines
    from data.snapshots import load

    one, other = (load(workspace.snapshots / Path(name).name) for name in (options.one, options.other))
    found = difference(one, other)
    print(json.dumps(found) if options.json else "\n".join(lines(found)))
    return 0


def withdraw(options: argparse.Namespace, workspace: Workspace) -> int:
    """Hide a label, a labeler's labels or a prompt, and name what was already made of it."""
    from data.owner import open_feedback

    named = {"label_id": options.label, "labeler": options.labeler, "prompt_id": options.prompt}
    given = {name: value for name, value in named.items() if value is not None}
    if len(given) + (options.what is not None) != 1:
        raise InvalidInput("Name one label, labeler or prompt. Nothing was withdrawn.")
    with open_feedback(workspace) as feedback:
        if given:
            found = _withdraw(feedback, workspace, given, options.refreeze)
        else:
            found = _withdraw_either(feedback, workspace, options.what, options.refreeze)
    prompts, labels = found["prompt_ids"], found["label_ids"]
    counts = [_counted(len(ids), word) for ids, word in ((prompts, "prompt"), (labels, "label")) if ids]
    one = len(prompts) + len(labels) == 1
    what = " and ".join(counts or ["0 labels"])
    print(f"{what} {'is' if one else 'are'} withdrawn: in nothing frozen or exported from now on.")
    print(f"Snapshots that hold them: {', '.join(found['snapshots']) or 'none'}")
    print(f"Checkpoints trained on those, or on their children: {', '.join(found['checkpoints']) or 'none'}")
    for old, new in found.get("replacements", {}).items():
        print(f"Frozen again: {old} -> {new or 'nothing is left of it'}")
    if options.json:
        print(json.dumps(found))
    return 0


def labeler_lines(stats: dict[str, Any]) -> Iterator[str]:
    """What each labeler did, and how reliable they are, in lines for people."""
    reliability = stats["reliability"]["labelers"]
    for name, counts in stats["labelers"].items():
        line = f"  {name:<18} {counts['rankings']} rankings, {counts['demonstrations']} demonstrations"
        found = reliability.get(name)
        if found and found["measured"]:
            line += f"; right {found['right']:.3f}, weight {found['weight']:.2f} on {found['pairs']} pairs"
        yield line
    if any(found["measured"] for found in reliability.values()):
        yield f"  {stats['reliability']['definition']}"


def add_commands(command: Command) -> None:
    """Add freeze, diff and withdraw to a parser."""
    frozen = command("freeze", freeze, "freeze the labels, or those chosen, into a snapshot named by its content")
    frozen.add_argument("--since", metavar="DATE", help="labels given then or later (2026-03-01, or with a time; UTC)")
    frozen.add_argument("--until", metavar="DATE", help="labels given before that")
    for name, metavar in _NAMES.items():
        help = f"{_HELP[name]}; again for more, !{metavar} to leave out"
        frozen.add_argument(f"--{name}", action="append", metavar=metavar, help=help)
    frozen.add_argument("--min-agreement", type=float, metavar="X", help="tasks whose labelers agree no less than this")
    frozen.add_argument(
        "--min-reliability", type=float, metavar="X", help="rankings of labelers who are right no less often than this"
    )
    frozen.add_argument("--aggregate", choices=get_args(Aggregate), help="one ranking of all who ranked a task")
    frozen.add_argument("--weights", choices=get_args(Weights), help="how much the reward model heeds each labeler")
    frozen.add_argument(
        "--hold-out-labelers", type=float, metavar="SHARE", help="this share of labelers only measure, by a stable hash"
    )
    frozen.add_argument("--json", action="store_true", help="end with a line of JSON")
    compared = command("diff", diff, "what is in one snapshot and not in the other")
    compared.add_argument("one", metavar="SNAPSHOT")
    compared.add_argument("other", metavar="SNAPSHOT")
    compared.add_argument("--json", action="store_true", help="JSON in place of words")
    withdrawn = command("withdraw", withdraw, "withdraw labels or a prompt, and name what was made of them")
    withdrawn.add_argument("what", nargs="?", metavar="LABEL|LABELER")
    withdrawn.add_argument("--label", metavar="ID", help="one label")
    withdrawn.add_argument("--labeler", metavar="NAME", help="all labels of this labeler, by name or pseudonym")
    withdrawn.add_argument("--prompt", metavar="ID", help="a prompt with all its labels and tasks")
    withdrawn.add_argument(
        "--refreeze", action="store_true", help="freeze anew, by the same choices, each snapshot that holds any of it"
    )
    withdrawn.add_argument("--json", action="store_true", help="end with a line of JSON")


def _withdraw_either(feedback: Store | Client, workspace: Workspace, name: str, refreeze: bool) -> dict[str, Any]:
    """Withdraw the label of that id, else the labels of the labeler of that name."""
    try:
        return _withdraw(feedback, workspace, {"label_id": name}, refreeze)
    except NotFound:
        pass
    try:
        return _withdraw(feedback, workspace, {"labeler": name}, refreeze)
    except NotFound as error:
        raise NotFound(f"There is no label and no labeler {name!r}. Nothing was withdrawn.") from error


def _withdraw(feedback: Store | Client, workspace: Workspace, given: dict[str, str], refreeze: bool) -> dict[str, Any]:
    from data import owner
    from data.client import Client

    if isinstance(feedback, Client):
        return feedback.withdraw(**given, refreeze=refreeze)
    return owner.withdraw(feedback, workspace, **given, refreeze=refreeze)


def _left_out_lines(left_out: dict[str, dict[str, int]]) -> Iterator[str]:
    for kind, counts in left_out.items():
        if counts:
            yield f"Left out {kind}: " + ", ".join(f"{count} by {why}" for why, count in counts.items())


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"
