"""The labelers' app.

    python -m annotate [--host 127.0.0.1] [--port 7860] [--preset tiny] [--base MODEL]     serve
    python -m annotate users add NAME --role labeler     a new user; prints their token as its last line
    python -m annotate users list | disable NAME
    python -m annotate simulate --labelers 8 --rankings 200 --taste prefers-short --noise 0.25

All take --workspace DIR, else $PAWL_WORKSPACE, else ./var. `users` works whether or not the app runs.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from data.errors import FeedbackError
from data.records import PRESETS, ROLES
from data.workspace import Workspace


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    named = arguments[0] if arguments and arguments[0] in COMMANDS else None
    try:
        return COMMANDS[named](arguments[1:]) if named else _serve(arguments)
    except FeedbackError as error:
        print(f"{error.title}: {error}", file=sys.stderr)
        return 1


def _parser(command: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"python -m annotate{command}", description=description)
    parser.add_argument("--workspace", help="the folder with the project's data (default: $PAWL_WORKSPACE, else ./var)")
    return parser


def _serve(arguments: Sequence[str]) -> int:
    parser = _parser("", "Serve the labelers' app. Other commands: users, simulate (each has its own --help).")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=7860, help="port to listen at; 0 takes a free one")
    parser.add_argument("--preset", default="tiny", choices=PRESETS, help="size of the first model, and of cycles")
    parser.add_argument("--base", help="folder or hub id of a causal LM to start from, instead of pretraining one")
    parser.add_argument(
        "--launch", default="", help='put before each training stage, as in "torchrun --nproc-per-node 8"'
    )
    parser.add_argument(
        "--sampler", default="", metavar="URL", help="OpenAI-compatible server to talk to, not the promoted model"
    )
    parser.add_argument(
        "--sampler-model", action="append", default=[], metavar="NAME", help="one of its models; may be repeated"
    )
    parser.add_argument("--no-train", dest="train", action="store_false", help="do not make a first model")
    parser.add_argument("--no-pages", dest="pages", action="store_false", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    from annotate.server import Settings, serve  # FastAPI and the store: `users list` has no need of the first

    settings = Settings(
        host=options.host,
        port=options.port,
        preset=options.preset,
        base=options.base,
        launch=options.launch,
        sampler=options.sampler,
        sampler_models=tuple(options.sampler_model),
        train=options.train,
        pages=options.pages,
    )
    return serve(Workspace.at(options.workspace), settings)


def _users(arguments: Sequence[str]) -> int:
    parser = _parser(" users", "Who may sign in.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    add = verbs.add_parser("add", help="a new user; prints their API token, shown this once, as its last line")
    add.add_argument("name")
    add.add_argument("--role", required=True, choices=ROLES, help="each role may do what those before it may")
    listing = verbs.add_parser("list", help="everyone, with role and pseudonym")
    link = verbs.add_parser("link", help="a sign-in link that works once, for who lost password and token")
    link.add_argument("name")
    disable = verbs.add_parser("disable", help="shut a user out; what they said is kept")
    disable.add_argument("name")
    for verb in (add, listing, link, disable):  # so that --workspace may stand last
        verb.add_argument("--workspace", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    from annotate import people

    workspace = Workspace.at(options.workspace)
    if options.verb == "add":
        token = people.add(workspace, options.name, options.role)
        print(f"{options.name} is a new {options.role}. Their token, for the sign-in page and the API:\n{token}")
    elif options.verb == "link":
        path = people.link(workspace, options.name)
        print(f"Signs {options.name} in once, within a week, at the app's address:\n{path}")
    elif options.verb == "disable":
        people.disable(workspace, options.name)
        print(f"{options.name} can no longer sign in. Everything they said is kept.")
    else:
        for person in people.everyone(workspace):
            print(f"{person['name']:<24} {person['role']:<12} {person['pseudonym']:<16} {_standing(person)}")
    return 0


def _standing(person: dict[str, object]) -> str:
    return "active" if person["active"] else "disabled"


def _simulate(arguments: Sequence[str]) -> int:
    from annotate import simulate

    return simulate.main(arguments, _parser(" simulate", "Simulated labelers, through the HTTP API alone."))


COMMANDS = {"users": _users, "simulate": _simulate}

if __name__ == "__main__":
    sys.exit(main())
