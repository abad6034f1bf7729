"""Serve: one or several policies behind a small OpenAI-compatible server, to be talked to.

Reads   checkpoints (ids, folders or hub ids); requests: GET /v1/models, POST /v1/chat/completions (messages, n,
        temperature, max_tokens, seed, stream)
Writes  one line of JSON when it answers: {"url", "models"}, and "token" where it had to choose one

Every request needs `Authorization: Bearer` and the token in $PAWL_SERVE_TOKEN, so that other people of the machine
cannot use it. It ends at SIGTERM, at Ctrl-C, and when its standard input is a pipe that closes: whoever started it is
gone then. Errors have OpenAI's shape.

    python -m training serve --checkpoint ppo-0004 --checkpoint ppo-0003
"""

from __future__ import annotations

import argparse
import hmac
import json
import os
import secrets
import signal
import socket
import stat
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from data.errors import FeedbackError, InvalidInput, NotFound
from data.workspace import Workspace
from training import checkpoints, model, parallel, tokenizer
from training.chat import Reply, Request, Served, prompt_of, respond
from training.presets import PRESETS

TOKEN = "PAWL_SERVE_TOKEN"
MAX_NEW_TOKENS = 64  # of a reply, where neither the request nor the preset says
MAX_BODY = 1 << 20  # bytes
CLIENT_SECONDS = 60  # a client that neither sends nor takes for so long is given up
CODES = {"Not found": "model_not_found", "Invalid input": None}


def main(arguments: Sequence[str]) -> int:
    """Serve until asked to stop. Raises NotFound for an unknown checkpoint, InvalidInput for a port that is taken."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    chosen, token = None, os.environ.pop(TOKEN, None)
    if not token:
        chosen = token = secrets.token_urlsafe(32)
    server = Server(options.host, options.port, token)
    end_with_stdin(server.shutdown)
    try:
        length = options.max_new_tokens or PRESETS[options.preset]["sample"].get("max_new_tokens", MAX_NEW_TOKENS)
        workspace = Workspace.at(options.workspace)
        for name in dict.fromkeys(options.checkpoint):
            server.add(_load(name, workspace, length))
        said = {"url": server.url, "models": list(server.served)} | ({"token": chosen} if chosen else {})
        print(json.dumps(said), flush=True)
        sys.stdout = sys.stderr  # who started this reads that one line, and may be deaf to more
        server.serve_forever(poll_interval=0.1)
    except KeyboardInterrupt:
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m training serve", description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", action="append", required=True, help="id or folder; may be given several times")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine alone)")
    parser.add_argument("--port", type=int, default=0, help="port to listen at; 0 takes a free one")
    parser.add_argument("--preset", default="tiny", choices=sorted(PRESETS), help="sets the length of a reply")
    parser.add_argument("--max-new-tokens", type=int, help="of a reply, where the request does not say")
    parser.add_argument("--workspace", help="the folder with the project's data (default: $PAWL_WORKSPACE, else ./var)")
    return parser


def _load(name: str, workspace: Workspace, max_new_tokens: int) -> Served:
    path = checkpoints.resolve(name, workspace)
    words = tokenizer.load(path)
    policy = model.load_policy(path, words).to(parallel.device()).eval()
    return Served(checkpoints.name_of(path, name), policy, words, max_new_tokens)


def end_with_stdin(stop: Callable[[], None]) -> None:
    """Call `stop` once standard input closes, if it is a pipe: a terminal or /dev/null says nothing about a parent."""
    try:
        if not stat.S_ISFIFO(os.fstat(0).st_mode):
            return
    except OSError:  # it was closed from the start
        return

    def wait() -> None:
        while os.read(0, 4096):
            pass
        stop()

    threading.Thread(target=wait, name="stdin", daemon=True).start()


class Server(ThreadingHTTPServer):
    """The server, bound and not yet serving. Raises InvalidInput when it cannot listen there."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise InvalidInput(f"Cannot listen at {host} port {port}: {error.strerror}. Choose another.") from error
        self.token = token.encode()
        self.served: dict[str, Served] = {}
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.server_address[1]}/v1"

    def add(self, served: Served) -> None:
        self.served[served.name] = served

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is gone is nobody's fault."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            traceback.print_exc()


class Handler(BaseHTTPRequestHandler):
    """One request; the connection ends with its answer."""

    server: Server
    server_version, sys_version = "pawl", ""
    timeout = CLIENT_SECONDS
    began = False  # the answer's head is out: what goes wrong now is told within it

    def do_GET(self) -> None:
        self._answer(self._models if self.path == "/v1/models" else None)

    def do_POST(self) -> None:
        self._answer(self._chat if self.path == "/v1/chat/completions" else None)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: what people say to a model is not for a log."""

    def _answer(self, route: Callable[[], None] | None) -> None:
        try:
            if not self._allowed():
                self._fail(401, "The bearer token of this server is missing or wrong.", "invalid_api_key")
            elif route is None:
                self._fail(404, f"There is no {self.command} {self.path[:200]} here.", "unknown_url")
            else:
                route()
        except FeedbackError as error:
            self._fail(404 if isinstance(error, NotFound) else 400, str(error), CODES.get(error.title))
        except (ConnectionError, TimeoutError):
            raise
        except Exception as error:  # of the model or the device: the client is told, and the log has all of it
            traceback.print_exc()
            self._fail(500, f"{type(error).__name__}: {error}"[:500], None, "server_error")

    def _allowed(self) -> bool:
        scheme, _, given = (self.headers.get("Authorization") or "").partition(" ")
        return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.server.token)

    def _models(self) -> None:
        models = [{"id": name, "object": "model", "owned_by": "pawl"} for name in self.server.served]
        self._send(200, {"object": "list", "data": models})

    def _chat(self) -> None:
        request = Request.of(self._body())
        served = self.server.served.get(request.model)
        if served is None:
            raise NotFound(f"There is no model {request.model[:80]!r} here, only {', '.join(self.server.served)}.")
        ids = prompt_of(request, served)
        about = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": served.name}
        if request.stream:
            self._stream(request, served, ids, {**about, "object": "chat.completion.chunk"})
            return
        replies = respond(request, served, ids, lambda number, piece: None)
        written = sum(reply.tokens for reply in replies)
        usage = {"prompt_tokens": len(ids), "completion_tokens": written, "total_tokens": len(ids) + written}
        choices = [_choice(number, reply) for number, reply in enumerate(replies)]
        self._send(200, {**about, "object": "chat.completion", "choices": choices, "usage": usage})

    def _stream(self, request: Request, served: Served, ids: list[int], about: dict[str, Any]) -> None:
        def chunk(number: int, delta: dict[str, str], finish: str | None = None) -> None:
            self._event({**about, "choices": [{"index": number, "delta": delta, "finish_reason": finish}]})

        self._head(200, "text/event-stream")
        for number in range(request.n):
            chunk(number, {"role": "assistant", "content": ""})
        replies = respond(request, served, ids, lambda number, piece: chunk(number, {"content": piece}))
        for number, reply in enumerate(replies):
            chunk(number, {}, _finish(reply))
        self.wfile.write(b"data: [DONE]\n\n")

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY:
            raise InvalidInput(f"The body must say its length, at most {MAX_BODY:,} bytes.")
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise InvalidInput("The body is not JSON in UTF-8.") from error

    def _head(self, status: int, kind: str) -> None:
        self.began = True
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Cache-Control", "no-store")
        self.end_headers()

    def _send(self, status: int, answer: dict[str, Any]) -> None:
        self._head(status, "application/json")
        self.wfile.write(json.dumps(answer).encode())

    def _event(self, data: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(data)}\n\n".encode())

    def _fail(self, status: int, message: str, code: str | None, kind: str = "invalid_request_error") -> None:
        error = {"error": {"message": message, "type": kind, "param": None, "code": code}}
        if self.began:
            self._event(error)
        else:
            self._send(status, error)


def _choice(number: int, reply: Reply) -> dict[str, Any]:
    message = {"role": "assistant", "content": reply.text}
    return {"index": number, "message": message, "finish_reason": _finish(reply)}


def _finish(reply: Reply) -> str:
    return "stop" if reply.ended else "length"
