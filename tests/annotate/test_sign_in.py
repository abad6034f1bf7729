"""Signing in by link, password and token; what the cookie is like; and what other sites cannot do with it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from annotate.auth import COOKIE, Attempts, TooManyAttempts
from data.errors import InvalidInput, NotSignedIn
from data.records import ROLES

pytestmark = pytest.mark.slow  # many small ones: together they take longer than `make check` has

HERE = {"Origin": "http://testserver"}  # what a browser says on this site's own pages


def post(world, path: str, headers=None, **form):
    return world.client.post(path, data=form, headers=HERE if headers is None else headers, follow_redirects=False)


def test_a_link_signs_in_once_and_looking_at_it_does_not_use_it_up(world):
    link = world.context.auth.new_link("admin")
    for _ in range(3):
        page = world.client.get(f"/sign-in?link={link}")
        assert page.status_code == 200 and link in page.text

    first = post(world, "/sign-in/link", link=link)
    world.client.cookies.clear()
    second = post(world, "/sign-in/link", link=link)

    assert (first.status_code, first.headers["location"]) == (303, "/sign-in/account")
    assert COOKIE in first.cookies
    assert second.status_code == 401 and COOKIE not in second.cookies
    assert "already used" in second.text


def test_the_session_cookie_is_kept_from_scripts_and_from_other_sites(world):
    answer = post(world, "/sign-in/link", link=world.context.auth.new_link("admin"))

    flags = {part.strip().lower() for part in answer.headers["set-cookie"].split(";")[1:]}
    assert {"httponly", "samesite=strict", "path=/"} <= flags
    assert "max-age=2592000" in flags  # 30 days
    assert "secure" not in flags  # over plain http the browser would drop it
    world.client.base_url = "https://testserver"
    answer = post(world, "/sign-in/link", {"Origin": "https://testserver"}, link=world.context.auth.new_link("admin"))
    assert "secure" in answer.headers["set-cookie"].lower()


def test_a_session_answers_for_its_user_until_they_sign_out(world):
    session = post(world, "/sign-in", token=world.tokens["labeler"]).cookies[COOKIE]
    assert world.call("GET", "/me").json()["name"] == "labeler"

    assert post(world, "/sign-out").status_code == 303

    world.client.cookies.clear()
    world.client.cookies.set(COOKIE, session)  # even for one who kept the cookie
    assert world.call("GET", "/me").status_code == 401


def test_a_password_once_set_signs_in_and_a_wrong_one_does_not(world):
    post(world, "/sign-in/link", link=world.context.auth.new_link("admin"))
    assert post(world, "/sign-in/account", password="short").status_code == 422
    assert post(world, "/sign-in/account", password="correct horse").status_code == 200
    world.client.cookies.clear()

    for name, password in (("admin", "wrong horse"), ("nobody", "correct horse"), ("labeler", ""), ("", "")):
        answer = post(world, "/sign-in", name=name, password=password)
        assert answer.status_code == 401 and COOKIE not in answer.cookies
        assert "No active user has this name and password" in answer.text

    assert COOKIE in post(world, "/sign-in", name="admin", password="correct horse").cookies
    assert world.store.password_hash("admin").startswith("$argon2id$")


def test_a_new_password_signs_a_person_out_everywhere_else_and_leaves_their_programs_alone(world):
    elsewhere = post(world, "/sign-in", token=world.tokens["labeler"]).cookies[COOKIE]
    world.client.cookies.clear()
    here = post(world, "/sign-in", token=world.tokens["labeler"]).cookies[COOKIE]

    answer = post(world, "/sign-in/account", password="correct horse")

    assert "signed out everywhere else" in answer.text
    for session, status in ((here, 200), (elsewhere, 401)):
        world.client.cookies.clear()
        world.client.cookies.set(COOKIE, session)
        assert world.call("GET", "/me").status_code == status
    world.client.cookies.clear()
    assert world.call("GET", "/me", "labeler").status_code == 200


def test_a_session_ends_when_its_person_is_disabled_and_when_its_time_is_over(world, monkeypatch):
    sessions = {}
    for role in ("labeler", "reviewer"):
        world.client.cookies.clear()
        sessions[role] = post(world, "/sign-in", token=world.tokens[role]).cookies[COOKIE]
    world.store.disable_user("labeler")

    def status_of(role):
        world.client.cookies.clear()
        world.client.cookies.set(COOKIE, sessions[role])
        return world.call("GET", "/me").status_code

    assert (status_of("labeler"), status_of("reviewer")) == (401, 200)
    in_a_month = datetime.now(UTC) + timedelta(days=30, minutes=1)
    monkeypatch.setattr(world.store, "_now", lambda: in_a_month)
    assert status_of("reviewer") == 401


def test_what_the_store_keeps_of_tokens_and_sessions_lets_nobody_in(world):
    session = post(world, "/sign-in", token=world.tokens["admin"]).cookies[COOKIE]
    link = world.context.auth.new_link("admin")
    secrets = [session, link, *world.tokens.values()]

    kept = [hash for (hash,) in world.store._read("SELECT hash FROM tokens")]

    assert len(kept) == len(ROLES) + 2 and not set(kept) & set(secrets)
    world.client.cookies.clear()
    for hash in kept:
        assert world.client.get("/api/v1/me", headers={"Authorization": f"Bearer {hash}"}).status_code == 401
        world.client.cookies.set(COOKIE, hash)
        assert world.call("GET", "/me").status_code == 401
    assert not any(secret in str(world.store.audit()) for secret in secrets)


def test_what_nobody_foresaw_is_answered_with_the_security_headers_and_without_its_words(world, monkeypatch):
    def fails():
        raise RuntimeError("a secret of the app's inside")

    monkeypatch.setattr(world.store, "stats", fails)
    answer = world.call("GET", "/stats", "researcher")

    assert answer.status_code == 500 and answer.json()["title"] == "Internal error"
    assert "secret" not in answer.text
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_disabled_user_cannot_sign_in_with_a_right_password(world):
    user = world.store.user("labeler")
    world.context.auth.set_password(user, "correct horse")
    world.store.disable_user("labeler")

    assert post(world, "/sign-in", name="labeler", password="correct horse").status_code == 401


@pytest.mark.slow  # eleven password hashes
def test_after_ten_wrong_passwords_a_name_must_wait(world):
    world.context.auth.set_password(world.store.user("admin"), "correct horse")
    world.store.set_password("admin", world.store.password_hash("admin"))
    for _ in range(10):
        assert post(world, "/sign-in", name="admin", password="wrong").status_code == 401

    assert post(world, "/sign-in", name="admin", password="correct horse").status_code == 429


def test_failures_are_forgotten_after_the_window(monkeypatch):
    clock = [1000.0]
    monkeypatch.setattr("annotate.auth.time.monotonic", lambda: clock[0])
    attempts = Attempts(limit=2, seconds=60)
    attempts.failed("ana")
    clock[0] += 30
    attempts.failed("ana")
    with pytest.raises(TooManyAttempts, match="Wait 31 seconds"):  # the first failure ends 60 s after it was made
        attempts.check("ana")

    clock[0] += 31
    attempts.check("ana")


def test_an_old_cookie_does_not_let_another_site_write(world):
    post(world, "/sign-in", token=world.tokens["researcher"])
    body = [{"messages": [{"role": "user", "content": "forged"}]}]

    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {}):
        forged = world.call("POST", "/prompts", headers=headers, json=body)
        assert forged.status_code == 403, headers
    assert world.store.prompts() == []

    assert world.call("POST", "/prompts", headers=HERE, json=body).status_code == 200
    assert world.call("GET", "/stats").status_code == 200  # reading needs no Origin


def test_no_origin_is_allowed_to_read_across_sites(world):
    for origin in ("https://evil.example", "null", "http://testserver"):
        answer = world.call("GET", "/me", "labeler", headers={"Origin": origin})
        assert "access-control-allow-origin" not in answer.headers
    preflight = world.client.options(
        "/api/v1/prompts", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert preflight.status_code == 400


@pytest.mark.parametrize("target", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:alert(1)"])
def test_signing_in_never_leads_to_another_site(world, target):
    assert post(world, "/sign-in", token=world.tokens["labeler"], next=target).headers["location"] == "/"


def test_what_is_quoted_in_a_page_is_quoted_as_text(world):
    page = world.client.get("/sign-in", params={"link": '"><script>alert(1)</script>'})

    assert "<script>" not in page.text


def test_who_is_not_signed_in_is_sent_to_sign_in_and_programs_are_told(world):
    page = world.client.get("/training", headers={"Accept": "text/html"}, follow_redirects=False)
    assert (page.status_code, page.headers["location"]) == (303, "/sign-in?next=/training")

    for path in ("/api/v2/stats", "/sign-in/../config", "/favicon.ico/x", "/config"):
        assert world.client.get(path, follow_redirects=False).status_code == 401, path
    event = world.client.post("/gradio_api/queue/join", json={})
    assert event.status_code == 401 and event.json()["title"] == "Not signed in"


def test_a_link_followed_from_another_site_asks_again_so_that_the_cookie_comes_along(world):
    page = world.client.get("/sign-in", headers={"Sec-Fetch-Site": "cross-site"})

    assert 'http-equiv="refresh"' in page.text


def test_every_answer_carries_the_security_headers(world):
    post(world, "/sign-in", token=world.tokens["labeler"])
    for path in ("/sign-in", "/api/v1/health", "/api/v1/none", "/", "/favicon.ico", "/manifest.json"):
        headers = world.client.get(path).headers
        assert "frame-ancestors 'none'" in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"


def test_the_forms_take_no_bytes_that_are_not_utf8(world):
    answer = world.client.post("/sign-in", content=b"name=%ff&password=x", headers=HERE)

    assert answer.status_code == 422


def test_gradios_upload_and_its_other_side_doors_are_shut(world):
    post(world, "/sign-in", token=world.tokens["admin"])
    for path in ("/gradio_api/upload", "/monitoring", "/openapi.json", "/login"):
        assert world.client.post(path, headers=HERE).status_code == 404
        assert world.client.get(path).status_code == 404


def test_a_password_too_long_to_hash_is_refused(world):
    with pytest.raises(InvalidInput):
        world.context.auth.set_password(world.store.user("labeler"), "x" * 1025)


def test_setting_a_password_ends_the_links_that_were_not_used(world):
    used, left = world.context.auth.new_link("admin"), world.context.auth.new_link("admin")
    assert world.context.auth.with_link(used, "127.0.0.1").name == "admin"

    world.context.auth.set_password(world.store.user("admin"), "a long enough password")

    with pytest.raises(NotSignedIn):
        world.context.auth.with_link(left, "127.0.0.1")


def test_an_admin_makes_a_link_for_somebody_who_lost_their_token(world):
    made = world.call("POST", "/users/labeler/link", "admin").json()

    token = made["link"].removeprefix("/sign-in?link=")
    assert world.context.auth.with_link(token, "127.0.0.1").name == "labeler"
    assert world.call("POST", "/users/nobody/link", "admin").status_code == 404
