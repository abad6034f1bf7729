"""Whoever owns the store of a workspace: nobody, so open it here, or the app, so ask it over HTTP.

Reads   server.json, which the app writes while it owns the store
Used by `python -m data`, and by commands of the app that work whether or not it runs

One process can open the store. The lock on its file decides who does; server.json only tells where to ask, and one
left behind by an app that was killed is removed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from data.archive import Archive
from data.choices import Choices
from data.client import Client
from data.errors import FeedbackError, InvalidInput, WorkspaceInUse
from data.store import Store
from data.workspace import Workspace

if TYPE_CHECKING:
    from data.snapshots import Snapshot

Opened = TypeVar("Opened", Store, Archive)
STARTING_SECONDS = 15.0  # an app that has the store but not yet an address is given this long to say where it is


@contextmanager
def open_feedback(workspace: Workspace, *, wait: float = STARTING_SECONDS) -> Iterator[Store | Client]:
    """The workspace's store, or a client of the app that owns it. Raises WorkspaceInUse when neither can be had."""
    with _owner(workspace, Store, wait) as owner:
        yield owner


@contextmanager
def open_to_read(workspace: Workspace, *, wait: float = STARTING_SECONDS) -> Iterator[Archive | Client]:
    """The same, when nothing but freezing and exporting is meant."""
    with _owner(workspace, Archive, wait) as owner:
        yield owner


def _owner(workspace: Workspace, opened: Callable[[Path], Opened], wait: float) -> Opened | Client:
    deadline = time.monotonic() + wait
    while True:
        owner = live_app(workspace) or _opened(workspace, opened, last_try=time.monotonic() >= deadline)
        if owner is not None:
            return owner
        time.sleep(0.2)


def live_app(workspace: Workspace) -> Client | None:
    """A client of the app that server.json names, or None when none there answers to its token."""
    try:
        server = json.loads(workspace.server.read_text())
        client = Client(server["url"], server["token"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):  # no app, or one that died while writing
        return None
    try:
        client.me()
    except FeedbackError:  # nothing there, or another workspace's app at the same address
        client.close()
        return None
    return client


def _opened(workspace: Workspace, opened: Callable[[Path], Opened], *, last_try: bool) -> Opened | None:
    """The store opened here; None while another process has it and may still say where it listens."""
    seen = _text_of(workspace.server)
    try:
        store = opened(workspace.database)
    except WorkspaceInUse:
        if last_try:
            raise
        return None
    if seen is not None and seen == _text_of(workspace.server):  # its writer is gone: the lock was free
        workspace.server.unlink(missing_ok=True)
    return store


def _text_of(path: Path) -> str | None:
    try:
        return path.read_text()
    except FileNotFoundError:
        return None


def freeze(store: Store | Archive, workspace: Workspace, choices: Choices | None = None) -> Snapshot:
    """Freeze what the store holds at this moment, or what the choices leave of it, into the workspace's snapshots.

    Raises InvalidInput when that is nothing.
    """
    from data import snapshots  # pyarrow: a fifth of a second that the other commands do not need
    from data.selection import select

    with store.moment() as moment:
        promoted = moment.promoted()
        selection = select(moment, choices or Choices())
        rows = partial(moment.batches, labels=selection.labels, prompts=selection.prompts, scratch=workspace.snapshots)
        return snapshots.freeze(
            workspace.snapshots,
            rankings=selection.reshaped(rows("rankings")),
            demonstrations=rows("demonstrations"),
            prompts=rows("prompts"),
            agreement=selection.agreement,
            promoted=promoted,
            about=selection.about,
        )


def withdraw(
    store: Store,
    workspace: Workspace,
    *,
    label_id: str | None = None,
    labeler: str | None = None,
    prompt_id: str | None = None,
    refreeze: bool = False,
) -> dict[str, Any]:
    """Hide a label, a labeler's labels, or a prompt with all of its; name what was made of it, ready for JSON.

    With `refreeze`, each snapshot that holds any of it gets a replacement by the same choices, of what there is now;
    None for one whose choices leave nothing. Raises NotFound, or InvalidInput unless one of the three is given.
    """
    from data import snapshots

    if sum(given is not None for given in (label_id, labeler, prompt_id)) != 1:
        raise InvalidInput("Give one of label_id, labeler and prompt_id. Nothing was withdrawn.")
    prompts: list[str] = []
    if prompt_id is not None:
        prompts, labels = store.withdraw_prompt(prompt_id)
    else:
        labels = store.withdraw(label_id=label_id, labeler=labeler)
    held = {*snapshots.tainted_snapshots(workspace.snapshots, labels)}
    held |= {*snapshots.with_prompts(workspace.snapshots, prompts)} if prompts else set()
    tainted = [snapshot for snapshot in snapshots.listing(workspace.snapshots) if snapshot.hash in held]
    found: dict[str, Any] = {
        "label_ids": labels,
        "prompt_ids": prompts,
        "snapshots": [snapshot.hash for snapshot in tainted],
        "checkpoints": snapshots.tainted_checkpoints(workspace.checkpoints, held),
    }
    return found | ({"replacements": _frozen_again(store, workspace, tainted)} if refreeze else {})


def _frozen_again(store: Store, workspace: Workspace, tainted: list[Snapshot]) -> dict[str, str | None]:
    """The replacement of each snapshot; those of the same choices have the same one."""
    made: dict[str, str | None] = {}
    replacements = {}
    for snapshot in tainted:
        choices = snapshot.about.get("choices", {})
        key = json.dumps(choices, sort_keys=True)
        if key not in made:
            try:
                made[key] = freeze(store, workspace, Choices.of(choices)).hash
            except InvalidInput:  # nothing is left
                made[key] = None
        replacements[snapshot.hash] = made[key]
    return replacements
