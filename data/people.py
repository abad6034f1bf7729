"""Decisions about people: users, passwords and tokens. Pure: each takes the live state and gives the rows to append.

Passwords and tokens arrive hashed; nothing here has seen one. What lets people in or shuts them out is audited.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from datetime import datetime

from data.errors import Conflict
from data.live import Live
from data.records import ROLES, Role, User
from data.rows import AuditRow, DisabledUserRow, PasswordRow, Row, SpentTokenRow, TokenRow, UserRow
from data.validate import check_text, refuse, shown, time_problems

TOKEN_KINDS = ("api", "session", "link")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")


def new_pseudonym(live: Live) -> str:
    """A name for exports that says nothing of the person, taken by nobody else."""
    while (pseudonym := f"labeler-{secrets.token_hex(4)}") in live.pseudonyms:
        pass
    return pseudonym


def add_user(live: Live, now: datetime, *, name: str, role: Role) -> tuple[list[Row], User]:
    """A new person under a free name. Raises InvalidInput or Conflict."""
    problems = []
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        problems.append(
            f"name is {shown(name)} and must be 1 to 64 letters, digits or . _ @ + -, a letter or digit first"
        )
    if role not in ROLES:
        problems.append(f"role is {shown(role)} and must be one of {', '.join(ROLES)}")
    refuse(problems)
    if name.casefold() in (known.casefold() for known in live.users):
        raise Conflict(f"The name {name!r} is taken. Nothing was changed; choose another.")
    user = User(name, role, new_pseudonym(live), True, now)
    return [UserRow(name, role, user.pseudonym, now), AuditRow("user added", name, role, now)], user


def disable_user(live: Live, now: datetime, *, name: str) -> tuple[list[Row], None]:
    """Shut out; a second time changes nothing. Raises NotFound."""
    if not live.user(name).active:
        return [], None
    return [DisabledUserRow(name, now), AuditRow("user disabled", name, "", now)], None


def set_password(
    live: Live, now: datetime, *, name: str, password_hash: str, keep: str | None
) -> tuple[list[Row], None]:
    """The latest hash counts; one-time links that were not used yet work no more, and no session but `keep`, a hash.

    Whoever changes a password may do so because somebody else knew the old one. API tokens stay: programs use them.
    Raises NotFound.
    """
    live.user(name)
    check_text(password_hash, "password_hash", required=True, limit=1_000)
    spent = [
        SpentTokenRow(key, "password set", now)
        for key, token in live.tokens.items()
        if token.name == name and key != keep and token.kind != "api" and live.user_of_token(key, token.kind, now)
    ]
    return [PasswordRow(name, password_hash, now), *spent, AuditRow("password set", name, "", now)], None


def add_token(
    live: Live, now: datetime, *, name: str, token_hash: str, kind: str, expires_at: datetime | None
) -> tuple[list[Row], None]:
    """Raises NotFound, InvalidInput, or Conflict for a hash that is in use."""
    live.user(name)
    check_text(token_hash, "token_hash", required=True, limit=200)
    refuse(time_problems(expires_at, "expires_at"))
    if kind not in TOKEN_KINDS:
        refuse([f"kind is {shown(kind)} and must be one of {', '.join(TOKEN_KINDS)}"])
    if token_hash in live.tokens:
        raise Conflict("This token is in use already. Nothing was changed; make another.")
    rows: list[Row] = [TokenRow(token_hash, name, kind, expires_at, now)]
    if kind != "session":  # a session follows a sign-in by one of the others
        rows.append(AuditRow("token added", name, kind, now))
    return rows, None


def use_link(live: Live, now: datetime, *, token_hash: str) -> tuple[list[Row], User | None]:
    """Its user the first time, None ever after: the writer decides one call after another."""
    user = live.user_of_token(token_hash, "link", now)
    if user is None:
        return [], None
    return [SpentTokenRow(token_hash, "used", now), AuditRow("link used", user.name, "", now)], user


def revoke_token(live: Live, now: datetime, *, token_hash: str) -> tuple[Sequence[Row], None]:
    """An unknown token is no error: it works no more either way."""
    token = live.tokens.get(token_hash)
    if token is None:
        return [], None
    rows: list[Row] = [SpentTokenRow(token_hash, "revoked", now)]
    if token.kind != "session":
        rows.append(AuditRow("token revoked", token.name, token.kind, now))
    return rows, None
