"""Tastes, noise, and the labelers at work on a real app."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter

import pytest

from annotate.simulate import TASTES, noisy_ranks, ranks_by


@pytest.mark.parametrize(
    ("taste", "liked", "disliked"),
    [
        ("prefers-short", "Yes.", "Yes, and at some length."),
        ("prefers-vocabulary", "you can use it", "quantum zebra manifold"),
        ("prefers-ending-properly", "It stops.", "It stops and then it"),
    ],
)
def test_a_taste_and_its_opposite_disagree(taste, liked, disliked):
    opposite = {
        "prefers-short": "prefers-long",
        "prefers-vocabulary": "avoids-vocabulary",
        "prefers-ending-properly": "prefers-ending-abruptly",
    }[taste]

    assert TASTES[taste](liked) > TASTES[taste](disliked)
    assert TASTES[opposite](liked) < TASTES[opposite](disliked)


def test_the_everyday_share_is_that_of_words():
    # you, can, it of four words
    assert TASTES["prefers-vocabulary"]("You can ... ZEBRA it!") == 0.75
    assert TASTES["prefers-vocabulary"]("... 42") == 0.0


def test_equal_utilities_share_a_rank_and_no_rank_is_left_out():
    assert ranks_by([0.5, 2.0, 0.5, 7.0]) == [3, 2, 3, 1]


def test_without_noise_a_labeler_says_what_they_think():
    assert noisy_ranks([3.0, 1.0, 2.0, 2.0], 0.0, random.Random(0)) == [1, 3, 2, 2]


def test_a_labeler_of_pure_noise_says_nothing_about_the_texts():
    rng = random.Random(0)
    answers = [noisy_ranks([4.0, 3.0, 2.0, 1.0], 1.0, rng) for _ in range(4000)]

    assert all(min(ranks) == 1 and max(ranks) <= 4 for ranks in answers)
    assert any(len(set(ranks)) < 4 for ranks in answers)  # ties come by chance too
    better = sum((a < b) - (a > b) for a, _, _, b in answers)
    # the difference is a mean of 4,000 throws of variance below 1: a standard deviation of 0.016
    assert abs(better / len(answers)) < 0.06


def test_neighbours_change_places_as_often_as_the_noise_says():
    rng = random.Random(1)
    answers = [noisy_ranks([2.0, 1.0], 0.4, rng) for _ in range(10_000)]

    # honest 0.6 of the time and then swapped 0.2 of it: 0.12; a coin flip 0.4 of the time gives (1, 2), (2, 1) and
    # ties (two ways) a quarter each: 0.1. Together 0.22 wrong way round; the standard deviation is 0.004
    assert sum(ranks == [2, 1] for ranks in answers) / 10_000 == pytest.approx(0.22, abs=0.02)
    assert sum(ranks == [1, 1] for ranks in answers) / 10_000 == pytest.approx(0.2, abs=0.02)


def demonstrations(owner, count: int) -> None:
    """Tasks to write a demonstration."""
    body = [{"messages": [{"role": "user", "content": f"Write {i}."}], "split": "train"} for i in range(count)]
    ids = owner.post("/prompts", json=body).raise_for_status().json()["ids"]
    owner.post("/tasks", json={"kind": "demonstration", "prompt_ids": ids}).raise_for_status()


def exported(owner) -> list[dict]:
    return [json.loads(line) for line in owner.get("/export/rankings").text.splitlines()]


def simulate(workspace, *options: object) -> str:
    command = [sys.executable, "-m", "annotate", "simulate", "--workspace", workspace, *options]
    run = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.slow
def test_simulated_labelers_do_what_was_asked_or_empty_the_queue(running_app, add_ranking_tasks, tmp_path):
    add_ranking_tasks(tmp_path, 12, overlap=1)
    with running_app(tmp_path) as app:
        demonstrations(app.owner, 3)
        asked = simulate(tmp_path, "--labelers", 3, "--rankings", 7, "--demonstrations", 2, "--noise", 0)
        rest = simulate(tmp_path, "--labelers", 2, "--rankings", 100, "--taste", "prefers-long", "--noise", 0)
        rows = exported(app.owner)
        users = [user["name"] for user in app.owner.get("/users").json()]

    assert "2 demonstrations are in." in asked and "7 rankings are in." in asked
    assert "5 rankings are in of the 100 asked for: the queue is empty." in rest
    assert [f"sim-{i}" for i in range(5)] == [name for name in users if name.startswith("sim-")]
    assert sorted(row["ranks"] for row in rows) == [[1, 2, 3, 4]] * 7 + [[4, 3, 2, 1]] * 5


@pytest.mark.slow
def test_simulating_without_an_app_says_what_to_do(tmp_path):
    command = [sys.executable, "-m", "annotate", "simulate", "--workspace", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)

    assert run.returncode == 1
    assert "python -m annotate" in run.stderr


@pytest.mark.slow
def test_fifty_labelers_at_once_give_each_task_exactly_its_overlap(running_app, add_ranking_tasks, tmp_path):
    tasks = add_ranking_tasks(tmp_path, 400, overlap=2)
    with running_app(tmp_path) as app:
        print(simulate(tmp_path, "--labelers", 50, "--rankings", 1200, "--noise", 0.25))
        rows = exported(app.owner)
        log = app.log.read_text()

    assert Counter(row["task_id"] for row in rows) == dict.fromkeys(tasks, 2)
    assert len({(row["task_id"], row["labeler"]) for row in rows}) == 800
    assert "Traceback" not in log and "ERROR" not in log, log
