"""Signing in and out, and one's own password: plain HTML forms, served before Gradio has been loaded.

GET  /sign-in            name and password, or a token; with ?link=TOKEN a button that uses the one-time link, so that
                         a mail program which previews the address does not use it up
POST /sign-in, /sign-in/link                  open a session
GET  /sign-in/account    who I am; POST sets my password
GET  /sign-out           a button; POST ends this session
"""

from __future__ import annotations

from html import escape
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from annotate.auth import COOKIE, MAX_PASSWORD, MIN_PASSWORD, SESSION, Auth
from data.errors import FeedbackError, InvalidInput
from data.records import User

# the colours of the pages (annotate/panels/colours.css)
STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
        --page: #f7f7f5; --surface: #fff; --line: #b9b9b3; --text: #1d1f22; --muted: #5d6168; --accent: #0f6b63;
        --on-accent: #fff; --soft: #ddefec; --bad: #a8231c; }
@media (prefers-color-scheme: dark) {
  :root { --page: #141517; --surface: #1d1f22; --line: #565b62; --text: #e8e8e5; --muted: #a4a8af; --accent: #5cc8bb;
          --on-accent: #06231f; --soft: #17393a; --bad: #ff8f86; }
}
body { display: grid; place-items: center; min-height: 100vh; margin: 0; background: var(--page); color: var(--text); }
main { width: min(22rem, 88vw); padding: 2rem 0; }
h1 { font-size: 1.5rem; letter-spacing: -.01em; margin: 0 0 1rem; }
a { color: var(--accent); }
label { display: block; margin: 1rem 0 .25rem; font-size: .9rem; color: var(--muted); }
input { width: 100%; box-sizing: border-box; padding: .6rem .75rem; font: inherit; color: inherit;
        background: var(--surface); border: 1px solid var(--line); border-radius: 8px; }
input:focus { outline: none; border-color: var(--accent); box-shadow: 0 0 0 3px var(--soft); }
button { margin-top: 1.25rem; width: 100%; padding: .6rem 1.2rem; font: inherit; font-weight: 600;
         border: 1px solid var(--accent); border-radius: 8px; background: var(--accent); color: var(--on-accent);
         cursor: pointer; }
button.quiet { background: none; border-color: var(--line); color: var(--text); }
button:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
details { margin-top: 1.5rem; }
summary { cursor: pointer; color: var(--muted); }
.problem { padding: .75rem; border-left: 3px solid var(--bad); border-radius: 8px; background: var(--surface); }
"""


PASSWORD_SET = "The password is set. Sign in with your name and this password. You are signed out everywhere else."


def _page(title: str, body: str, *, problem: str = "", refresh: str = "") -> str:
    """A whole HTML page. `body` is markup; `title` and `problem` are text."""
    again = f'<meta http-equiv="refresh" content="{escape(refresh)}">' if refresh else ""
    alert = f'<p class="problem" role="alert">{escape(problem)}</p>' if problem else ""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)} - Pawl</title>{again}'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body><main><h1>{escape(title)}</h1>{alert}{body}</main></body></html>"
    )


def starting() -> str:
    """Shown for the few seconds until the pages are loaded."""
    return _page("Pawl is starting", "<p>The pages are being loaded; this takes a few seconds.</p>", refresh="1")


def _sign_in_page(next_path: str, problem: str = "") -> str:
    goes_to = f'<input type="hidden" name="next" value="{escape(next_path)}">'
    body = (
        f'<form method="post" action="/sign-in">{goes_to}'
        '<label for="name">Name</label><input id="name" name="name" autocomplete="username" required autofocus>'
        '<label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" required>'
        "<button>Sign in</button></form>"
        f'<details><summary>I have a token</summary><form method="post" action="/sign-in">{goes_to}'
        '<label for="token">Token</label><input id="token" name="token" type="password" autocomplete="off" required>'
        "<button>Sign in with the token</button></form></details>"
    )
    return _page("Sign in", body, problem=problem)


def _link_page(link: str) -> str:
    body = (
        "<p>This link signs you in once.</p>"
        '<form method="post" action="/sign-in/link">'
        f'<input type="hidden" name="link" value="{escape(link)}"><button autofocus>Sign in</button></form>'
    )
    return _page("Welcome to Pawl", body)


def _account_page(user: User, problem: str = "", done: str = "") -> str:
    note = f"<p role=status>{escape(done)}</p>" if done else ""
    lengths = f'minlength="{MIN_PASSWORD}" maxlength="{MAX_PASSWORD}"'
    body = (
        f"<p>You are signed in as <strong>{escape(user.name)}</strong> ({escape(user.role)}).</p>{note}"
        '<p><a href="/">Go to Pawl</a></p>'
        '<form method="post" action="/sign-in/account">'
        f'<input type="hidden" name="name" autocomplete="username" value="{escape(user.name)}">'
        f'<label for="password">New password ({MIN_PASSWORD} characters or more)</label>'
        f'<input id="password" name="password" type="password" autocomplete="new-password" {lengths} required>'
        "<button>Set the password</button></form>"
        '<form method="post" action="/sign-out"><button class="quiet">Sign out</button></form>'
    )
    return _page("Your account", body, problem=problem)


async def _form(request: Request) -> dict[str, str]:
    """The fields of a urlencoded form; the last value counts. Raises InvalidInput when it is not UTF-8."""
    try:
        fields = parse_qs((await request.body()).decode(), encoding="utf-8", errors="strict", max_num_fields=20)
    except ValueError as error:  # UnicodeDecodeError is one; too many fields is another
        raise InvalidInput("The form is not urlencoded UTF-8. Nothing was changed; send it again.") from error
    return {name: values[-1] for name, values in fields.items()}


Form = Annotated[dict[str, str], Depends(_form)]
router = APIRouter(include_in_schema=False)


def _auth(request: Request) -> Auth:
    auth: Auth = request.app.state.context.auth
    return auth


def _inside(path: str) -> str:
    """`path` when it is one of this site, else the front page: a link must not send people elsewhere."""
    return path if path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable() else "/"


def _with_session(request: Request, user: User, to: str) -> Response:
    """Redirect with a fresh session cookie."""
    response = RedirectResponse(to, status_code=303)
    response.set_cookie(
        COOKIE,
        _auth(request).open_session(user),
        max_age=int(SESSION.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


def _address(request: Request) -> str:
    return request.client.host if request.client else "unknown"


@router.get("/sign-in")
def show(request: Request, link: str = "", next: str = "/") -> Response:
    if link:
        return HTMLResponse(_link_page(link))
    if _auth(request).user_of(request) is not None:
        return RedirectResponse(_inside(next), status_code=303)
    if COOKIE not in request.cookies and request.headers.get("sec-fetch-site") == "cross-site":
        # a link on another site was followed: the browser holds a SameSite=Strict cookie back once, and sends it
        # when this page asks again
        return HTMLResponse(_page("Sign in", "<p>One moment.</p>", refresh=f"0;url={request.url.path}"))
    return HTMLResponse(_sign_in_page(_inside(next)))


@router.post("/sign-in")
def enter(request: Request, form: Form) -> Response:
    auth, to = _auth(request), _inside(form.get("next", "/"))
    try:
        if token := form.get("token", "").strip():
            user = auth.with_token(token, _address(request))
        else:
            user = auth.with_password(form.get("name", ""), form.get("password", ""), _address(request))
    except FeedbackError as error:
        return HTMLResponse(_sign_in_page(to, str(error)), status_code=error.status)
    return _with_session(request, user, to)


@router.post("/sign-in/link")
def enter_by_link(request: Request, form: Form) -> Response:
    try:
        user = _auth(request).with_link(form.get("link", ""), _address(request))
    except FeedbackError as error:
        return HTMLResponse(_sign_in_page("/", str(error)), status_code=error.status)
    return _with_session(request, user, "/sign-in/account")


@router.get("/sign-in/account")
def account(request: Request) -> Response:
    user = _auth(request).user_of(request)
    return RedirectResponse("/sign-in", status_code=303) if user is None else HTMLResponse(_account_page(user))


@router.post("/sign-in/account")
def change_password(request: Request, form: Form) -> Response:
    auth = _auth(request)
    user = auth.require_person(request)
    try:
        auth.set_password(user, form.get("password", ""), request.cookies.get(COOKIE))
    except InvalidInput as error:
        return HTMLResponse(_account_page(user, problem=str(error)), status_code=error.status)
    return HTMLResponse(_account_page(user, done=PASSWORD_SET))


@router.get("/sign-out")
def confirm(request: Request) -> Response:
    button = '<form method="post" action="/sign-out"><button autofocus>Sign out</button></form>'
    return HTMLResponse(_page("Sign out", button))


@router.post("/sign-out")
def leave(request: Request) -> Response:
    if session := request.cookies.get(COOKIE):
        _auth(request).close_session(session)
    response = RedirectResponse("/sign-in", status_code=303)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict", secure=request.url.scheme == "https")
    return response
