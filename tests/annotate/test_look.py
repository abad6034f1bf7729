"""A snapshot looked at over HTTP, and what the page Datasets draws of it."""

from __future__ import annotations

import pytest

from annotate import looking
from annotate.leaves import leaves_of, place_of
from annotate.look import look_of, manifest_of
from data import snapshots
from data.errors import InvalidInput

HOSTILE = "<img src=x onerror=alert(1)>"


def blocks_in(blocks: list[dict]) -> dict[str, dict]:
    """The plots among these blocks, by title."""
    inside = [each for block in blocks for each in block.get("blocks", [block])]
    return {each["title"].split(" (")[0]: each for each in inside if "title" in each}


def test_a_snapshot_is_looked_at_over_http_and_drawn(world):
    asked = [{"messages": [{"role": "user", "content": f"{HOSTILE} {n}"}], "split": "train"} for n in range(20)]
    prompts = world.call("POST", "/prompts", "researcher", json=asked).json()["ids"]
    rows = [
        {
            "prompt_id": prompt,
            "responses": [{"text": text, "source": "pilot"} for text in ("short", "a longer one", HOSTILE)],
            "ranks": [1, 2, 2],  # what was shown first and is shortest wins every time
            "labeler": "grace",
            "flags": [[], ["off_topic"], []],
            "comment": HOSTILE,
            "display_order": [0, 2, 1],
        }
        for prompt in prompts
    ]
    frozen = []
    for some in (rows[:5], rows):
        assert world.call("POST", "/rankings", "researcher", json={"source": "pilot", "rows": some}).status_code == 200
        frozen.append(world.call("POST", "/snapshots", "researcher").json()["snapshot"])

    found = world.call("GET", f"/snapshots/{frozen[1]}/look", "researcher").json()
    assert (found["decided"], found["tied"], found["ties"]) == (40, 20, [0, 20])
    assert found["position"]["value"] == 1.0 and found["position"]["warning"] is True
    assert found["length"]["value"] == 0.0 and found["margin"] == 0.02 and "position" in found["definitions"]
    missing = world.call("GET", "/snapshots/0000/look", "researcher")
    assert missing.status_code == 404 and "python -m data snapshots" in missing.json()["detail"]

    snapshot = snapshots.named(world.workspace.snapshots, frozen[1])
    drawn = look_of(looking.seen(snapshot), looking.changed(world.context, snapshot))
    warned = [block["text"] for block in drawn if block.get("tone") == "warn"]
    assert [text.split(":")[0] for text in warned] == [
        "The response shown first wins too often",
        "The response that is longer wins too seldom",
    ]
    plots = blocks_in(drawn)
    assert plots["Labels by labeler"]["rows"][0]["label"].endswith("· 100%")
    assert plots["Responses by where they come from"]["rows"] == [{"label": "pilot · 100%", "values": [60]}]
    assert [row["values"] for row in plots[f"Since {frozen[0]}, the snapshot before"]["rows"]] == [
        [5, 15, 0],  # labels kept, new, gone
        [20, 0, 0],  # prompts
        [1, 0, 0],  # labelers
    ]
    said = dict(manifest_of(snapshot, looking.verified(snapshot), {})[1]["rows"])
    assert said["Verified"].startswith("yes") and said["Chosen"] == "everything there was"

    page = leaves_of(snapshot)
    assert (page["where"], page["previous"]) == ("1 to 3 of 20, in random order", None)
    assert place_of(page["next"]) == (snapshot.hash, "rankings", 3)
    first, tied = page["items"][0]["levels"]
    assert (first["place"], first["tied"], tied["place"], tied["tied"]) == ("1 best", False, "2, tie", True)
    assert [answer["text"] for answer in tied["answers"]] == ["a longer one", HOSTILE]
    assert tied["answers"][0]["marks"] == ["off topic"] and "shown third" in tied["answers"][0]["note"]
    assert page["items"][0]["notes"] == [{"who": "Comment", "text": HOSTILE}]
    last = leaves_of(snapshot, "rankings", 18)
    assert (last["where"], last["next"]) == ("19 to 20 of 20, in random order", None)
    assert leaves_of(snapshot, "demonstrations")["empty"] == "This snapshot holds no demonstrations."


@pytest.mark.parametrize(
    "id", ["", "x prompts 1", "x rankings -1", "x rankings", "x rankings ²", "x rankings " + "9" * 13]
)
def test_an_id_that_turns_no_page_is_refused(id):
    with pytest.raises(InvalidInput, match="Nothing was turned"):
        place_of(id)
