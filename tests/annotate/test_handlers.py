"""Every event handler and server function of the pages, called over HTTP by who may and by who may not.

Gradio lists them to everyone who is signed in and lets them be called whatever a page shows. The list is read from the
running app: a handler that is new must be declared here, by its page, before these tests pass.
"""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from annotate import auth
from annotate.auth import COOKIE
from data.records import ROLES

pytestmark = pytest.mark.slow

LOWEST = {  # the least role that the handlers of a page answer
    "": "labeler",
    "demonstrate": "labeler",
    "converse": "labeler",
    "history": "labeler",
    "review": "labeler",
    "people": "researcher",
    "project": "researcher",
    "datasets": "researcher",
    "training": "researcher",
    "checkpoints": "researcher",
}
ABOVE = {("people", "on_invite"): "admin", ("people", "on_act"): "admin"}  # handlers that ask for more than their page
GUIDELINE = {"on_guideline"}  # which anyone who is signed in may read
HANDLERS = {  # page: its handlers' names; those that also answer others, to say that the page is closed to them
    "": GUIDELINE,
    "demonstrate": GUIDELINE,
    "converse": GUIDELINE,
    "review": GUIDELINE,
    "people": {"on_load", "on_refresh", "on_pick", "on_admit", "on_invite", "on_act"},
    "project": {
        "on_load",
        "on_preview",
        "on_publish",
        "on_save",
        "on_unfold",
        "on_check",
        "on_pick",
        "on_offer",
        "on_retire",
    },
    "datasets": {"on_load", "on_freeze", "on_frozen", "on_refresh", "on_pick", "on_turn", "on_verify"},
    "training": {"on_load", "on_tick", "on_choice", "on_stages", "on_start", "on_cancel", "on_resume"},
    "checkpoints": {"on_load", "on_pick"},
}
SERVER_FUNCTIONS = {"progress": "labeler"}  # by name, on whichever page
CLOSED = "This page is for researchers"
SECRET = "ppo-confidential"


@dataclass
class Site:
    """The app in a process of its own with its pages, and a session of each role."""

    url: str
    owner: httpx.Client
    folder: Path
    sessions: dict[str, str]
    config: dict

    def client(self, role: str | None) -> httpx.Client:
        cookies = {COOKIE: self.sessions[role]} if role else {}
        return httpx.Client(base_url=self.url, cookies=cookies, headers={"Origin": self.url}, timeout=60, verify=False)

    def held(self) -> dict[str, object]:
        """What the app holds: what a handler changes shows here."""
        answers = {path: self.owner.get(path).json() for path in ("/stats", "/users", "/cycles", "/checkpoints")}
        files = {path for path in self.folder.rglob("*") if "feedback.duckdb" not in path.name}
        return answers | {"files": files}


@pytest.fixture(scope="module")
def site(tmp_path_factory, running_app):
    with running_app(tmp_path_factory.mktemp("site"), pages=True) as app:
        headers, sessions = {"Origin": app.url}, {}
        for role in ROLES:
            token = app.owner.post("/users", json={"name": f"the-{role}", "role": role}).json()["token"]
            sessions[role] = httpx.post(f"{app.url}/sign-in", data={"token": token}, headers=headers).cookies[COOKIE]
        site = Site(app.url, app.owner, app.workspace, sessions, {})
        with site.client("admin") as client:
            site.config = client.get("/config").json()
        yield site


def handlers(site: Site) -> list[tuple[str, str, dict]]:
    """Each handler: its page, its name in the source, and what Gradio says of it."""
    pages = {number: page for page, parts in site.config["page"].items() for number in parts["dependencies"]}
    return [(pages[each["id"]], re.sub(r"_\d+$", "", each["api_name"]), each) for each in site.config["dependencies"]]


def call(client: httpx.Client, handler: dict, data: list, session: str) -> dict:
    """Run a handler as a page does; its last message, or the refusal of the request."""
    body = {"fn_index": handler["id"], "session_hash": session, "data": data, "event_data": {"id": SECRET}}
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return {"status": joined.status_code}
    stream = client.get("/gradio_api/queue/data", params={"session_hash": session})
    messages = [json.loads(line[5:]) for line in stream.text.splitlines() if line.startswith("data:")]
    return next(message for message in messages if message["msg"] == "process_completed")


def server_functions(site: Site) -> list[tuple[int, str]]:
    return [(each["id"], name) for each in site.config["components"] for name in each["props"].get("server_fns") or []]


def serve(client: httpx.Client, component: int, name: str) -> httpx.Response:
    body = {"session_hash": "somebody", "component_id": component, "fn_name": name, "data": None}
    return client.post("/gradio_api/component_server", json=body)


def test_every_handler_and_server_function_is_declared(site):
    named: dict[str, set[str]] = {}
    for page, name, _ in handlers(site):
        named.setdefault(page, set()).add(name)

    assert named == HANDLERS
    assert {name for _, name in server_functions(site)} == set(SERVER_FUNCTIONS)
    assert set(site.config["page"]) == set(LOWEST)


@pytest.mark.parametrize("role", [None, *ROLES])
def test_a_handler_answers_its_own_role_and_above_and_changes_nothing_for_others(site, role):
    before = site.held()
    values = {each["id"]: each["props"].get("value") for each in site.config["components"]}
    with site.client(role) as client:
        for page, name, handler in handlers(site):
            lowest = ABOVE.get((page, name), LOWEST[page])
            allowed = role is not None and ROLES.index(role) >= ROLES.index(lowest)
            # others come with what would do something; those who may, with nothing, so that little is done
            data = [None if allowed else values[number] for number in handler["inputs"]]
            end = call(client, handler, data, f"{role}-{handler['id']}")
            if role is None:
                assert end == {"status": 401}, (page, name)
                continue
            told = json.dumps(end)
            assert ("and this needs" in told) is not allowed, (page, name, told[:500])
            if not allowed:
                assert SECRET not in told and '"kind": "t' not in told.replace('"kind": "text"', ""), (page, name, told)
                assert end["success"] is (name == "on_load") and (CLOSED in told) is (name == "on_load"), (page, name)
    if role in (None, "labeler", "reviewer"):
        assert site.held() == before


@pytest.mark.parametrize("role", [None, *ROLES])
def test_a_server_function_answers_its_own_role_and_above(site, role):
    with site.client(role) as client:
        for component, name in server_functions(site):
            answer = serve(client, component, name)
            allowed = role is not None and ROLES.index(role) >= ROLES.index(SERVER_FUNCTIONS[name])
            assert (answer.status_code == 200) is allowed, answer.text
            assert SECRET not in answer.text
        assert serve(client, server_functions(site)[0][0], "__init__").status_code in (401, 404)


def test_handlers_are_called_by_their_pages_way_alone(site):
    """Gradio has more ways to call a handler; here they lead nowhere, not even for an admin."""
    with site.client("admin") as client:
        for _, _, handler in handlers(site):
            for way in ("run", "api", "call", "call/v2"):
                answer = client.post(f"/gradio_api/{way}/{handler['api_name']}", json={"data": []})
                assert answer.status_code == 404, (way, answer.text)


# ------------------------------------------------------------ other sites


WRITES = ("/gradio_api/queue/join", "/gradio_api/component_server", "/gradio_api/cancel", "/gradio_api/reset")
FORMS = ("/sign-in", "/sign-in/link", "/sign-in/account", "/sign-out")


def test_no_other_site_writes_by_a_cookie_not_even_a_sign_out(site):
    before = site.held()
    with httpx.Client(base_url=site.url, cookies={COOKIE: site.sessions["admin"]}, timeout=60) as client:
        paths = client.get("/api/v1/openapi.json").json()["paths"]
        writes = [(method, path) for path, methods in paths.items() for method in methods if method != "get"]
        for method, path in [*writes, *(("post", path) for path in (*WRITES, *FORMS))]:
            for origin in ({}, {"Origin": "null"}, {"Origin": "https://evil.example"}, {"Origin": site.url + ".evil"}):
                for sent in ({"json": {}}, {"data": {"password": "correct horse"}}, {"content": b"{}"}):
                    answer = client.request(method, path.replace("{", "").replace("}", ""), headers=origin, **sent)
                    assert answer.status_code == 403, (method, path, origin)
                    assert "Origin" in answer.json()["detail"]
        assert client.get("/sign-out").status_code == 200  # asks first
        assert client.get("/logout").status_code == 404
        assert client.get("/api/v1/me").json()["role"] == "admin"
    assert site.held() == before


def test_every_kind_of_answer_forbids_frames_and_foreign_scripts(site):
    kinds = {  # path: status
        "/": 200,
        "/training": 200,
        "/sign-in": 303,
        "/sign-in/account": 200,
        "/sign-out": 200,
        "/config": 200,
        "/theme.css": 200,
        "/static/fonts/none": 404,
        "/favicon.ico": 200,
        "/manifest.json": 200,
        "/robots.txt": 200,
        "/no-such-page": 404,
        "/api/v1/health": 200,
        "/api/v1/openapi.json": 200,
        "/api/v1/none": 404,
        "/api/v1/tasks/next": 405,
        "/api/v1/export/prompts?format=csv": 200,
        "/gradio_api/startup-events": 200,
        "/gradio_api/upload": 404,
        "/gradio_api/queue/data": 422,
    }
    with site.client("admin") as client:
        assets = re.findall(r'"\./(assets/[^"]+\.(?:js|css))"', client.get("/").text)
        assert assets
        for path, status in (kinds | {f"/{assets[0]}": 200}).items():
            answer = client.get(path)
            assert answer.status_code == status, path
            policy = answer.headers["content-security-policy"]
            assert "frame-ancestors 'none'" in policy and "default-src '" in policy and "http" not in policy, path
            assert answer.headers["x-content-type-options"] == "nosniff", path
            assert answer.headers["x-frame-options"] == "DENY", path
        too_large = client.post("/api/v1/prompts", content=b"x" * (1024 * 1024 + 1))
        assert too_large.status_code == 413 and "frame-ancestors 'none'" in too_large.headers["content-security-policy"]


# ------------------------------------------------------------------ files


def asked(site: Site, path: str, role: str = "admin", method: str = "GET", body: str = "") -> tuple[int, bytes]:
    """A request whose path no client has tidied up."""
    where = urlsplit(site.url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=30)
    headers = {"Cookie": f"{COOKIE}={site.sessions[role]}", "Origin": site.url}
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body.encode())
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_no_path_leads_to_a_file_of_the_machine(site):
    secrets = ("/etc/passwd", str(site.folder / "server.json"), str(site.folder / "feedback.duckdb"), auth.__file__)
    ways = (
        "/gradio_api/file={}",
        "/gradio_api/file=..{}",
        "/gradio_api/file/{}",
        "/gradio_api/proxy=file://{}",
        "/gradio_api/custom_component/1/client/component/..{}",
        "/gradio_api/stream/x/0/1/..{}",
        "/custom_component/1/client/component/..{}",
        "/file={}",
        "/static/../../../../../../..{}",
        "/assets/../../../../../../..{}",
        "/assets/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e/%2e%2e{}",
        "/static/..%2f..%2f..%2f..%2f..%2f..%2f..%2f..{}",
        "/static//{}",
        "/svelte/..%5c..%5c..{}",
        "/theme.css/..{}",
        "{}",
        "/..{}",
        "/%2e%2e{}",
    )
    for way in ways:
        for path in secrets:
            for asking in (way.format(path), way.format(path.replace("/", "%2f"))):
                status, body = asked(site, asking)
                assert status in (400, 403, 404, 405), (asking, status, body[:200])
                assert b"root:" not in body and b'"token"' not in body and b"DUCK" not in body[:64]
    # A process that opens and closes its database file by other means lets go of it: then another could open it.
    opened = subprocess.run(
        [sys.executable, "-c", f"import duckdb; duckdb.connect({str(site.folder / 'feedback.duckdb')!r})"],
        capture_output=True,
        text=True,
    )
    assert opened.returncode == 1 and "lock" in opened.stderr


def test_nothing_can_be_uploaded_or_fetched_through_the_app(site):
    before = site.held()
    with site.client("admin") as client:
        for path in ("/gradio_api/upload", "/gradio_api/process_recording", "/gradio_api/stream/x", "/upload"):
            answer = client.post(path, files={"files": ("x.html", b"<script>1</script>", "text/html")})
            assert answer.status_code in (404, 405), path
        for path in ("proxy=http://169.254.169.254/", "file=http://pwned.invalid/", "proxy=https://pwned.invalid/"):
            assert client.get(f"/gradio_api/{path}").status_code == 404
        for path in (
            "run-history/connect",
            "vibe-edit",
            "vibe-code",
            "dev/reload",
            "deep_link",
            "openapi.json",
            "token",
        ):
            assert client.get(f"/gradio_api/{path}").status_code == 404, path
    assert site.held() == before


# ------------------------------------------------------- a first start


def test_no_name_and_password_that_anyone_could_guess_lets_in_and_nobody_signs_themselves_up(site):
    with site.client(None) as client:
        for name in ("admin", "owner", "pawl"):
            for password in ("", "admin", "password"):
                answer = client.post("/sign-in", data={"name": name, "password": password, "token": ""})
                assert answer.status_code in (401, 429) and COOKIE not in answer.cookies
        for token in ("admin", "owner", "None", "null", "pawl_"):
            assert client.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"}).status_code == 401
        for path in ("/register", "/sign-up", "/signup", "/user/signup", "/api/v1/register", "/api/v1/sign-up"):
            answer = client.post(path, json={"name": "eve", "role": "admin"})
            assert answer.status_code in (401, 404), path
        assert client.post("/api/v1/users", json={"name": "eve", "role": "admin"}).status_code == 401
    assert {user["name"] for user in site.owner.get("/users").json()} == {"admin", *(f"the-{role}" for role in ROLES)}
