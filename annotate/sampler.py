"""Who answers when labelers talk: a child process with the promoted model, or any OpenAI-compatible server.

Reads   the store (which checkpoint is promoted, which was before it); what the server says
Writes  nothing itself; the child (annotate/model_process.py) writes sampler.log

The child (`python -m training serve`) is started when somebody first talks, again when another checkpoint has been
promoted, and stopped after some idle minutes and with the app. It is a process of its own, so labeling never waits for
it. Replies to one message come from different models where there are several, and else from different temperatures.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import random
import re
import secrets
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from annotate.model_process import COMMAND, Child, Place
from data.errors import Conflict, SamplerFailed
from data.records import MAX_TEXT, Message, NewResponse

if TYPE_CHECKING:
    from data.store import Store
    from data.workspace import Workspace

log = logging.getLogger("pawl")
TEMPERATURES = (0.8, 1.0, 0.6, 1.2)  # of one model's replies to a message, in turn
ATTEMPTS = 3  # a reply that is empty is drawn again
IDLE_SECONDS = 600.0  # the child is stopped when nobody talked for so long
MAX_TOKENS = 512  # of a reply from another server; the child goes by its preset
TIMEOUT = httpx.Timeout(30, read=120)
URL_TOKEN = "PAWL_SAMPLER_TOKEN"
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
Heard = Callable[[int, str], None]


class Sampler:
    """Gets replies. `url` names an OpenAI-compatible server to ask, and `models` which of its models.

    Safe to call from any thread; `replies` from one event loop.
    """

    def __init__(
        self,
        workspace: Workspace,
        store: Store,
        *,
        url: str = "",
        models: Sequence[str] = (),
        preset: str = "tiny",
        command: Sequence[str] = COMMAND,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._workspace, self._store, self._idle = workspace, store, idle_seconds
        self._url, self._models, self._command = _base(url), tuple(models), (*command, "--preset", preset)
        self._elsewhere: Place | None = None  # what was found at the url
        self._child: Child | None = None
        self._place: Place | None = None  # of the child
        self._stopped = False
        self._resting = threading.Timer(0, lambda: None)  # until the child is stopped for want of talk
        self._starting = threading.Lock()  # held while a child starts: whoever else wants one waits
        self._lock = threading.Lock()  # held for a moment, while the fields above are looked at

    def why_not(self) -> str | None:
        """Why nobody can answer now, in words fit to show a labeler; None when somebody can, or may."""
        if self._url or self._store.promoted() is not None:
            return None
        return "There is no model to talk to yet: the first one is not made, or none was promoted. Come back later."

    def is_ready(self) -> bool:
        """Whether a message would be answered without anything being started first."""
        if self._url:
            return True
        with self._lock:
            return self._child is not None and self._child.is_alive() and self._child.checkpoints == self._wanted()

    async def replies(self, messages: Sequence[Message], count: int, heard: Heard) -> list[NewResponse]:
        """`count` replies to the conversation, at once. `heard` is called with each piece of the text of each.

        Raises Conflict when there is no model, SamplerFailed when it does not answer.
        """
        place, leave = await asyncio.to_thread(self._enter)
        if not place.own:  # it may have more models than replies are wanted: each message goes to others of them
            place = replace(place, models=tuple(random.sample(place.models, len(place.models))))
        try:
            async with httpx.AsyncClient(timeout=TIMEOUT, verify=not place.own, trust_env=not place.own) as client:
                asked = [asyncio.create_task(_reply(client, place, number, messages, heard)) for number in range(count)]
                try:
                    return await asyncio.gather(*asked)
                finally:
                    for each in asked:  # one that failed ends the others
                        each.cancel()
        finally:
            leave()

    def stop(self) -> None:
        """The app stops: so does the child, also one that is just being started."""
        with self._lock:
            self._stopped, child = True, self._child
            self._resting.cancel()
        if child is not None:
            child.stop()

    # ------------------------------------------------------------------ inside

    def _enter(self) -> tuple[Place, Callable[[], None]]:
        """Where to ask, and what to call when done. Starts what must be started first."""
        if self._url:
            return self._found(), lambda: None
        with self._starting:
            wanted = self._wanted()
            if not wanted:
                raise Conflict(self.why_not() or "The model was taken back just now. Try again.")
            with self._lock:
                if self._stopped:
                    raise SamplerFailed("The app is stopping. What you wrote is kept; send it again later.")
                old, place = self._child, self._place
                if old is None or place is None or not old.is_alive() or old.checkpoints != wanted:
                    self._child, self._place = Child(self._command, self._workspace, wanted), None
                    self._let_go(old)
                child = self._child
                assert child is not None
                child.users += 1
            try:
                if self._place is None:
                    self._place = child.place()
            except BaseException:
                self._leave(child)
                raise
            return self._place, lambda: self._leave(child)

    def _leave(self, child: Child) -> None:
        with self._lock:
            child.users -= 1
            child.used = time.monotonic()
            if child is not self._child:
                self._let_go(child)
            elif not child.users and not self._stopped:
                self._resting.cancel()
                self._resting = threading.Timer(self._idle, self._rest, [child])
                self._resting.daemon = True
                self._resting.start()

    def _rest(self, child: Child) -> None:
        """Stop the child if nobody has talked since."""
        with self._lock:
            if child is self._child and not child.users and time.monotonic() - child.used >= self._idle:
                self._child = self._place = None
                self._let_go(child)

    @staticmethod
    def _let_go(child: Child | None) -> None:
        """Stop a child that is no longer wanted once nobody listens to it; without waiting for that."""
        if child is not None and not child.users:
            threading.Thread(target=child.stop, daemon=True).start()

    def _wanted(self) -> tuple[str, ...]:
        """The promoted checkpoint, and the one before it while it is still on disk."""
        now, before = self._store.promoted(), self._store.promoted_before()
        if now is None:
            return ()
        both = before is not None and (self._workspace.checkpoints / before.id / "config.json").is_file()
        return (now.id, before.id) if both and before is not None else (now.id,)

    def _found(self) -> Place:
        """The server at the url and its models, asked once. Raises SamplerFailed."""
        if self._elsewhere is None:
            token = os.environ.get(URL_TOKEN)
            models = self._models
            try:
                if not models:
                    answer = httpx.get(f"{self._url}/models", headers=_headers(token), timeout=TIMEOUT)
                    models = tuple(str(model["id"]) for model in answer.raise_for_status().json()["data"])
            except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
                raise _unreachable(error) from error
            if not models:
                raise _unreachable(ValueError("it lists no models"))
            self._elsewhere = Place(self._url, token, models, own=False)
        return self._elsewhere


def _base(url: str) -> str:
    url = url.rstrip("/")
    return url if not url or re.search(r"/v\d+$", urlsplit(url).path) else f"{url}/v1"


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


def _unreachable(error: Exception) -> SamplerFailed:
    """What labelers are told; the log is told which server, and why."""
    log.error("The server that labelers talk to did not answer: %s", error)
    return SamplerFailed("The model does not answer just now. What you wrote is kept; try again in a moment.")


async def _reply(
    client: httpx.AsyncClient, place: Place, number: int, messages: Sequence[Message], heard: Heard
) -> NewResponse:
    """The `number`-th reply: the models take turns, and each of them its temperatures."""
    model = place.models[number % len(place.models)]
    temperature = TEMPERATURES[number // len(place.models)]
    said = [{"role": message.role, "content": message.content} for message in messages]
    body: dict[str, Any] = {"model": model, "messages": said, "temperature": temperature, "stream": True}
    if not place.own:
        body["max_tokens"] = MAX_TOKENS
    sampling = {key: value for key, value in body.items() if key in ("temperature", "max_tokens")}
    text = ""
    for attempt in range(ATTEMPTS):
        body["seed"] = secrets.randbits(31)
        sampling |= {"seed": body["seed"], "attempt": attempt, "ended": False}
        async for piece, finish in _pieces(client, place, body):
            sampling["ended"] = sampling["ended"] or finish == "stop"
            text += piece
            if len(text) > MAX_TEXT:
                break
            if piece:
                heard(number, piece)
        if text := text.strip()[:MAX_TEXT]:
            break
    return NewResponse(text, model, sampling)


async def _pieces(
    client: httpx.AsyncClient, place: Place, body: Mapping[str, Any]
) -> AsyncIterator[tuple[str, str | None]]:
    """The pieces of one reply's text as they come, each with why the reply finished, or None. Raises SamplerFailed."""
    finished = False
    try:
        headers = _headers(place.token)
        async with client.stream("POST", f"{place.url}/chat/completions", json=body, headers=headers) as answer:
            if answer.status_code != 200:
                await answer.aread()
                raise _refused(answer.status_code, answer.json() if answer.content[:1] == b"{" else {}, place)
            async for line in answer.aiter_lines():
                data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
                if data == "[DONE]":
                    finished = True
                    break
                chunk = json.loads(data) if data else {}
                if "error" in chunk:
                    raise _refused(500, chunk, place)
                for choice in chunk.get("choices") or ():
                    finished = finished or choice.get("finish_reason") is not None
                    piece = str((choice.get("delta") or {}).get("content") or "")
                    yield _UNSTORABLE.sub("\ufffd", piece), choice.get("finish_reason")
    except (httpx.HTTPError, ValueError, AttributeError, TypeError) as error:
        raise _unreachable(error) from error
    if not finished:
        raise _unreachable(ValueError("the reply was cut off"))


def _refused(status: int, answer: Mapping[str, Any], place: Place) -> SamplerFailed:
    error = answer.get("error")
    words = str(error.get("message") if isinstance(error, Mapping) else error)[:500]
    if place.own and status == 400:  # it speaks to the labeler: the conversation is too long
        return SamplerFailed(words)
    return _unreachable(ValueError(f"status {status}, {words}"))
