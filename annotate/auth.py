"""Who is asking, and what may they do.

A request proves who it comes from by a bearer token (programs), or by a session cookie (browsers). Sessions, tokens
and one-time links are random, and the store keeps only their hashes; passwords are hashed with Argon2id.
The owner token, in the workspace's server.json, belongs to whoever can read that file: an admin who is no labeler.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections import deque
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data.errors import Conflict, FeedbackError, Forbidden, InvalidInput, NotFound, NotSignedIn
from data.records import ROLES, Role, User

if TYPE_CHECKING:
    from argon2 import PasswordHasher
    from starlette.requests import HTTPConnection

    from data.store import Store

COOKIE = "pawl_session"
SESSION = timedelta(days=30)
LINK = timedelta(days=7)
OWNER = "owner"  # reserved: the name under which the owner token acts
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
MIN_PASSWORD, MAX_PASSWORD = 8, 1024  # characters


_hashing = threading.Semaphore(2)  # each takes 64 MiB and a core: many at once must not starve labelers


class TooManyAttempts(FeedbackError):
    """Signing in failed too often; wait."""

    status = 429
    title = "Too many attempts"


def token_hash(token: str) -> str:
    """What the store keeps of a token. Tokens are 256 random bits, so a plain sha256 cannot be reversed."""
    return hashlib.sha256(token.encode()).hexdigest()


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # loads a C library; `users list` has no need of it

    return PasswordHasher()


@cache
def _hash_of_nobody() -> str:
    """Checked when the name is unknown, so that a wrong name takes as long as a wrong password."""
    return _hasher().hash(secrets.token_hex())


def _password_matches(hashed: str, password: str) -> bool:
    from argon2.exceptions import VerifyMismatchError

    with _hashing:
        try:
            return _hasher().verify(hashed, password)
        except VerifyMismatchError:
            return False


class Attempts:
    """Failures counted per key over a sliding window, in memory."""

    def __init__(self, limit: int, seconds: float) -> None:
        self._limit, self._seconds = limit, seconds
        self._failures: dict[str, deque[float]] = {}
        self._lock = threading.Lock()

    def check(self, key: str) -> None:
        """Raise TooManyAttempts when `key` failed `limit` times within the window."""
        with self._lock:
            failures = self._recent(key)
            if len(failures) >= self._limit:
                wait = int(failures[0] + self._seconds - time.monotonic()) + 1
                raise TooManyAttempts(f"Signing in failed {len(failures)} times. Wait {wait} seconds and try again.")

    def failed(self, key: str) -> None:
        """Count one failure."""
        with self._lock:
            self._recent(key).append(time.monotonic())
            if len(self._failures) > 10_000:  # someone is trying many names: forget those whose window is over
                self._failures = {k: f for k in list(self._failures) if (f := self._recent(k))}

    def _recent(self, key: str) -> deque[float]:
        failures = self._failures.setdefault(key, deque(maxlen=self._limit))
        while failures and failures[0] <= time.monotonic() - self._seconds:
            failures.popleft()
        return failures


class Auth:
    """Sign-in, sessions, tokens and roles, over the store's users."""

    def __init__(self, store: Store, owner_token: str | None = None) -> None:
        self._store = store
        self._owner_hash = token_hash(owner_token or secrets.token_urlsafe(32))  # none given: one that nobody knows
        self.owner = User(OWNER, "admin", OWNER, True, datetime.fromtimestamp(0).astimezone())
        self._by_address = Attempts(limit=30, seconds=60)
        self._by_name = Attempts(limit=10, seconds=60)

    # who is asking

    def user_of(self, request: Any) -> User | None:
        """The user behind a FastAPI request or a gr.Request; None when there is no valid token or session.

        Answers from memory: safe to call on the event loop.
        """
        connection: HTTPConnection | None = getattr(request, "request", request)  # gr.Request wraps the real one
        if connection is None:
            return None
        if (token := bearer_token(connection)) is not None:
            hashed = token_hash(token)
            if hmac.compare_digest(hashed, self._owner_hash):
                return self.owner
            return self._store.user_of_token(hashed, "api")
        session = connection.cookies.get(COOKIE)
        return self._store.user_of_token(token_hash(session), "session") if session else None

    def require(self, request: Any, role: Role) -> User:
        """The user behind the request, who may do what `role` may.

        Raises NotSignedIn, or Forbidden when signed in with a lesser role.
        """
        user = self.user_of(request)
        if user is None:
            raise NotSignedIn("There is no valid session or token in this request. Nothing was changed; sign in first.")
        if ROLES.index(user.role) < ROLES.index(role):
            raise Forbidden(
                f"{user.name} is signed in as {user.role}, and this needs {role}. Nothing was changed; "
                "ask an admin for that role."
            )
        return user

    def require_person(self, request: Any) -> User:
        """As `require(request, "labeler")`, and not the owner token, which belongs to no labeler."""
        user = self.require(request, "labeler")
        if user is self.owner:
            raise Forbidden("The owner token belongs to no labeler. Nothing was changed; use a labeler's own token.")
        return user

    def require_owner(self, request: Any) -> User:
        """The owner token and nothing less."""
        user = self.require(request, "labeler")
        if user is not self.owner:
            raise Forbidden(
                "Only the owner token, in the workspace's server.json, may hand in checkpoints, batches and runs. "
                "Nothing was changed."
            )
        return user

    # accounts

    def add_user(self, name: str, role: Role) -> tuple[User, str]:
        """A new user and their API token, shown this once.

        Raises InvalidInput for a name that would not do, Conflict for one that is taken.
        """
        user = self._added(name, role)
        return user, self.new_token(name)

    def invite(self, name: str, role: Role) -> str:
        """A new user without an API token: the path of a link that signs them in once. Raises as `add_user`."""
        return self.link_path(self._added(name, role).name)

    def _added(self, name: str, role: Role) -> User:
        if name == OWNER:
            raise Conflict(f"The name {OWNER} is reserved for the owner token. Choose another name.")
        return self._store.add_user(name, role)

    def new_token(self, name: str) -> str:
        """One more API token for this user; it does not expire."""
        token = "pawl_" + secrets.token_urlsafe(32)
        self._store.add_token(name, token_hash(token), "api", None)
        return token

    def new_link(self, name: str) -> str:
        """The token of a link that signs this user in once, within a week."""
        token = secrets.token_urlsafe(32)
        self._store.add_token(name, token_hash(token), "link", datetime.now().astimezone() + LINK)
        return token

    def link_path(self, name: str) -> str:
        """The path and query of a new one-time link, to be put after the app's address. Raises NotFound."""
        return f"/sign-in?link={self.new_link(name)}"

    def set_password(self, user: User, password: str, session: str | None = None) -> None:
        """Give the user a password, or another one; of their sessions only `session`, a cookie's value, goes on.

        Raises InvalidInput for one too short or too long.
        """
        if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
            raise InvalidInput(
                f"A password has {MIN_PASSWORD} to {MAX_PASSWORD} characters; this one has {len(password)}. "
                "The old one still holds."
            )
        with _hashing:
            hashed = _hasher().hash(password)
        self._store.set_password(user.name, hashed, token_hash(session) if session else None)

    # signing in and out

    def with_password(self, name: str, password: str, address: str) -> User:
        """The user of this name and password. Raises NotSignedIn (wrong) or TooManyAttempts."""
        keys = ((self._by_address, address), (self._by_name, name[:64]))
        for attempts, key in keys:
            attempts.check(key)
        try:
            user, hashed = self._store.user(name), self._store.password_hash(name)
        except NotFound:
            user, hashed = None, None
        matches = _password_matches(hashed or _hash_of_nobody(), password)
        if user is None or hashed is None or not matches or not user.active:
            for attempts, key in keys:
                attempts.failed(key)
            raise NotSignedIn("No active user has this name and password. Try again, or ask an admin for a new link.")
        return user

    def with_token(self, token: str, address: str) -> User:
        """The user of this API token. Raises NotSignedIn or TooManyAttempts."""
        self._by_address.check(address)
        user = self._store.user_of_token(token_hash(token), "api")
        if user is None:
            self._by_address.failed(address)
            raise NotSignedIn("No active user has this token. Copy it whole, or ask an admin for a new one.")
        return user

    def with_link(self, token: str, address: str) -> User:
        """The user of this one-time link, which is used up by it. Raises NotSignedIn or TooManyAttempts."""
        self._by_address.check(address)
        user = self._store.use_link(token_hash(token))
        if user is None:
            self._by_address.failed(address)
            raise NotSignedIn(
                "This link was already used, or it is too old. Sign in with your password or token, "
                "or ask an admin for a new link."
            )
        return user

    def open_session(self, user: User) -> str:
        """A new session for this user: the cookie's value."""
        session = secrets.token_urlsafe(32)
        self._store.add_token(user.name, token_hash(session), "session", datetime.now().astimezone() + SESSION)
        return session

    def close_session(self, session: str) -> None:
        """This session ends; the user's other ones stay."""
        self._store.revoke_token(token_hash(session))


def bearer_token(connection: HTTPConnection) -> str | None:
    """The token of an `Authorization: Bearer` header, "" when the header is there and holds none."""
    scheme, _, token = connection.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def is_forged(connection: HTTPConnection, method: str) -> bool:
    """Whether this write may come from another site's page, riding on the user's cookie.

    Browsers send `Origin` with every write; one that is missing or names another host is refused. Programs that
    prove themselves by a bearer token carry no cookie that could be abused.
    """
    if method in SAFE_METHODS or bearer_token(connection) is not None:
        return False
    origin = connection.headers.get("origin")
    if origin is None:
        return COOKIE in connection.cookies
    return urlsplit(origin).netloc != connection.headers.get("host", "")
