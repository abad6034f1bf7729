"""Who may sign in, from the command line: over HTTP when the app owns the store, else in the store itself.

python -m annotate users add NAME --role labeler
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from annotate.auth import Auth
from data.client import Client
from data.owner import open_feedback
from data.records import Role
from data.validate import check_text
from data.workspace import Workspace


def add(workspace: Workspace, name: str, role: Role) -> str:
    """A new user; their API token, which nobody can read again. Raises InvalidInput or Conflict."""
    check_text(name, "name", required=True, limit=64)  # bytes of a terminal that are no text never reach the wire
    with open_feedback(workspace) as feedback:
        if isinstance(feedback, Client):
            return str(feedback.add_user(name, role)["token"])
        return Auth(feedback).add_user(name, role)[1]


def everyone(workspace: Workspace) -> list[dict[str, Any]]:
    """Every user: name, role, pseudonym, active."""
    with open_feedback(workspace) as feedback:
        return feedback.users() if isinstance(feedback, Client) else [asdict(user) for user in feedback.users()]


def link(workspace: Workspace, name: str) -> str:
    """The path of a link that signs this user in once. Raises NotFound."""
    with open_feedback(workspace) as feedback:
        if isinstance(feedback, Client):
            return feedback.sign_in_link(name)
        return Auth(feedback).link_path(name)


def disable(workspace: Workspace, name: str) -> None:
    """The user's tokens and sessions stop working at once. Raises NotFound."""
    with open_feedback(workspace) as feedback:
        feedback.disable_user(name)
