"""What the page about people draws, from numbers made up here."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from annotate.gains import gains_of
from annotate.known import in_words
from annotate.plots import days_of, details_of, queue_of, table_of
from data.records import Checkpoint

NOTHING = {"value": None, "interval": None, "pairs": 0, "warning": False}


def labeler(name: str, **more) -> dict:
    counts = {"rankings": 3, "demonstrations": 0, "rewrites": 0, "reviews": 0, "revisions": 0}
    shares = dict.fromkeys(("agreement", "gold", "reviews_agree", "self_agreement", "position", "length"), NOTHING)
    seconds = {"rankings": None, "demonstrations": None}
    return {"labeler": name, "imported": False, **counts, "skips": {}, "seconds": seconds, **shares, **more}


def test_days_without_labels_are_drawn_too_and_the_busiest_have_a_colour_of_their_own():
    busy = {f"l{n}": 10 - n for n in range(7)}  # l5 gave 5 and l6 gave 4: the others
    progress = {"days": [{"day": "2026-03-01", "labelers": busy}, {"day": "2026-03-03", "labelers": {"l6": 1}}]}

    plot = days_of(progress, {"l0": "ana"}, today=date(2026, 3, 3))

    assert plot["series"] == ["ana", "l1", "l2", "l3", "l4", "others"]
    assert [column["label"] for column in plot["columns"]] == ["01 Mar", "02 Mar", "03 Mar"]
    assert [column["values"] for column in plot["columns"]] == [[10, 9, 8, 7, 6, 9], [0] * 6, [0, 0, 0, 0, 0, 1]]


def test_labels_of_long_ago_are_not_in_the_plot_of_the_last_month():
    plot = days_of({"days": [{"day": "2025-01-01", "labelers": {"l0": 5}}]}, {}, today=date(2026, 3, 3))

    assert len(plot["columns"]) == 30 and plot["series"] == []
    assert plot["empty"] == "Nobody labeled anything here in the last 30 days."


def test_names_are_shown_only_where_they_are_given():
    swayed = labeler("labeler-1", position={"value": 0.75, "interval": [0.6, 0.9], "pairs": 12, "warning": True})

    anonymous, named = table_of([swayed], {}), table_of([swayed], {"labeler-1": "ana"})

    assert "Name" not in anonymous["columns"] and named["columns"][1] == "Name"
    assert anonymous["rows"] == [["labeler-1", "3", "0", "-", "-", "-", "75% !", "-"]]
    assert named["rows"][0][:2] == ["labeler-1", "ana"] and named["ids"] == ["labeler-1"]


def test_a_labeler_who_is_not_there_any_more_is_no_error():
    (said,) = details_of({"labelers": []}, "labeler-1", {})

    assert said["tone"] == "warn" and "labeler-1" in said["text"]


def test_the_queue_counts_every_state_of_a_task():
    tasks = {"ranking": {"open": 4, "done": 3, "resting": 2, "retired": 1}}

    plot = queue_of({"tasks": tasks})

    assert list(zip(plot["series"], plot["rows"][0]["values"], strict=True)) == [
        ("done", 3),
        ("open", 4),
        ("resting", 2),
        ("retired", 1),
    ]


def reward_model(n: int, rankings: int, accuracy: float | None, error: float | None = 0.02) -> Checkpoint:
    metrics = {"heldout_accuracy": accuracy, "heldout_accuracy_error": error, "heldout_pairs": 300}
    metrics |= {"train_rankings": rankings, "agreement": 0.7 + n / 100, "ceiling": 0.8}
    made = datetime(2026, 3, n, tzinfo=UTC)
    return Checkpoint(f"reward-{n}", "reward", (), None, metrics, "candidate", "", made)


def test_what_more_rankings_gave_reward_models_is_told_apart_from_chance():
    first, second, third = reward_model(1, 100, 0.6), reward_model(2, 220, 0.64), reward_model(3, 230, 0.72)
    sft = Checkpoint("sft-1", "sft", (), None, {"loss": 2.0}, "candidate", "", datetime(2026, 3, 4, tzinfo=UTC))

    plot, said = gains_of([third, reward_model(1, 90, None), first, sft, second])

    assert [(point["x"], point["value"]) for point in plot["points"]] == [(100, 0.6), (220, 0.64), (230, 0.72)]
    assert plot["points"][0]["interval"] == pytest.approx((0.5608, 0.6392), abs=1e-4)  # 0.6 -+ 1.96 * 0.02
    assert [level["value"] for level in plot["levels"]] == [0.73, 0.8]  # the newest model's
    # a difference of 0.12 against 1.96 * sqrt(2) * 0.02 = 0.055
    moved = "From 100 rankings to 230: 60% (56 to 64), then 72% (68 to 76)."
    assert said["text"] == f"{moved} That is more than chance: labels still help."
    assert "Chance alone may do that" in gains_of([first, second])[1]["text"]  # 0.04 is less
    assert "twice as many" in gains_of([second, third])[1]["text"]
    assert "too few" in gains_of([first, reward_model(3, 400, 0.9, None)])[1]["text"]
    assert gains_of([sft]) == [gains_of([])[0]] and gains_of([])[0]["points"] == []


def test_a_known_answer_reads_best_first_with_its_ties():
    found = in_words([4, None, 2, 4], ["a", "b", "c", "d"])

    assert [(each["place"], each["text"]) for each in found] == [
        ("1 best", "c"),
        ("2, tie", "a"),
        ("2, tie", "d"),
        ("unrankable", "b"),
    ]
