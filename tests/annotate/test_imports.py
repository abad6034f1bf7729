"""Files come in over HTTP: looked at first, then taken, by researchers alone, and nothing of them stays behind."""

from __future__ import annotations

import gzip
import json

import pytest

from annotate import guards

pytestmark = pytest.mark.slow  # it stands beside the many small ones of the API

ROWS = [{"q": f"Question {n}?", "chosen": f"<b>{n}</b>", "rejected": "No."} for n in range(4)]
FILE = "".join(json.dumps(row) + "\n" for row in ROWS).encode() + b'{"q": "x"}\n{\n'
MAPPED = "map=prompt=q&map=chosen=chosen&map=rejected=rejected"


def send(world, query, content=FILE, role="researcher", kind="comparisons"):
    return world.call("POST", f"/import/{kind}?{query}", role, content=content)


def test_a_file_is_looked_at_then_taken_once(world):
    looked = send(world, f"name=f.jsonl.gz&dry_run=true&{MAPPED}", gzip.compress(FILE)).json()
    assert [row["place"] for row in looked["stored"]] == ["line 1", "line 2", "line 3"]
    assert looked["stored"][0]["prompt"] == [{"role": "user", "content": "Question 0?"}]
    assert looked["shapes"] == {"columns named by --map": 3}
    assert list(world.store.ranking_rows()) == []

    query = f"name=f.jsonl.gz&source=mine&licence=MIT&{MAPPED}"
    taken, again = (send(world, query, gzip.compress(FILE)).json() for _ in range(2))

    assert (taken["rows"], taken["taken"], taken["new"], taken["skips"]) == (6, 4, 4, 2)
    assert [row["place"] for row in taken["skipped"]] == ["line 5", "line 6"]
    assert (again["taken"], again["new"]) == (4, 0)
    assert world.call("GET", "/sources", "researcher").json() == {"mine": "MIT"}
    assert len(list(world.store.ranking_rows())) == 4
    assert list(world.workspace.root.glob(".import-*")) == []


def test_what_cannot_be_imported_is_said_without_the_paths_of_the_server(world):
    unknown = send(world, "name=../../etc/f.xlsx")
    twice = [send(world, f"name=f.jsonl&source=s&licence={licence}&{MAPPED}") for licence in ("MIT", "CC0-1.0")]

    assert unknown.status_code == 422 and ".jsonl" in unknown.json()["detail"]
    assert str(world.workspace.root) not in unknown.text
    assert [answer.status_code for answer in twice] == [200, 409]
    assert "'s' is here under the licence 'MIT'" in twice[1].json()["detail"]
    assert send(world, "name=f.jsonl&map=nonsense").status_code == 422
    assert world.call("POST", "/sources", "researcher", json={"name": "s", "licence": "MIT"}).status_code == 200
    assert send(world, "name=f.jsonl", b"", role="labeler").status_code == 403


def test_only_an_import_by_a_researcher_may_be_large_and_that_has_a_limit_too(world, monkeypatch):
    large = FILE * 6000  # more than any other body may have
    assert len(large) > guards.MAX_BODY

    assert send(world, f"name=f.jsonl&dry_run=true&{MAPPED}", large).json()["taken"] == 3
    assert send(world, "name=f.jsonl", large, role="labeler").status_code == 413
    monkeypatch.setattr(guards, "MAX_IMPORT", 1000)
    assert send(world, f"name=f.jsonl&{MAPPED}", large).status_code == 413
    assert send(world, f"name=f.jsonl&{MAPPED}", iter([large[:900], large[900:1800]])).status_code == 413
