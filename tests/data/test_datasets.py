"""From a snapshot to training examples."""

from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import datasets, snapshots
from data.datasets import require_enough
from data.errors import TooFewLabels
from data.records import Message

TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name a colour."},
]
MESSAGES = (Message("system", "Be brief."), Message("user", "Name a colour."))
WHEN = "2026-01-02T03:04:05+00:00"


@pytest.fixture
def snapshot(tmp_path):
    label = {"revision": 1, "task_id": "t-1", "prompt": TURNS, "created_at": WHEN, "seconds": 3.5, "guideline": "g"}
    return snapshots.freeze(
        tmp_path,
        prompts=[
            {"prompt_id": id, "messages": TURNS, "tags": ["a"], "split": split, "source": "seed", "created_at": WHEN}
            for id, split in (("p-1", "train"), ("p-2", "heldout"))
        ],
        demonstrations=[
            label
            | {
                "label_id": "d-1",
                "prompt_id": "p-1",
                "response": "Blue.",
                "labeler": "labeler-a",
                "source": "rewrite:l-1",
                "split": "train",
            }
        ],
        rankings=[
            label
            | {
                "label_id": "l-1",
                "prompt_id": "p-2",
                "responses": [
                    {"id": "r-1", "text": "Red.", "source": "sft-0001"},
                    {"id": "r-2", "text": "Fish.", "source": "base"},
                ],
                "ranks": [1, None],
                "labeler": "labeler-b",
                "display_order": ["r-2", "r-1"],
                "unrankable": ["r-2"],
                "ratings": {"r-1": {"helpful": 6, "honest": 3}},
                "flags": {},
                "rewrite": None,
                "comment": "",
                "split": "heldout",
            }
        ],
    )


def test_demonstrations_are_of_one_split(snapshot):
    assert datasets.demonstrations(snapshot, "train") == [
        datasets.Demonstrated("p-1", MESSAGES, "Blue.", "rewrite:l-1")
    ]
    assert datasets.demonstrations(snapshot, "heldout") == []


def test_rankings_keep_what_could_not_be_ranked(snapshot):
    assert datasets.rankings(snapshot, "train") == []
    assert datasets.rankings(snapshot, "heldout") == [
        datasets.Ranked(
            prompt_id="p-2",
            messages=MESSAGES,
            responses=("Red.", "Fish."),
            sources=("sft-0001", "base"),
            ranks=(1, None),
            ratings=(4.5, None),
            labeler="labeler-b",
            label_id="l-1",
        )
    ]


def test_a_label_counts_as_much_as_the_snapshot_says(snapshot):
    file = snapshot.path / "rankings" / "heldout.parquet"
    table = pq.read_table(file)

    assert [ranking.weight for ranking in datasets.rankings(snapshot, "heldout")] == [1.0]
    pq.write_table(table.append_column("weight", pa.array([0.25])), file)
    assert [ranking.weight for ranking in datasets.rankings(snapshot, "heldout")] == [0.25]


def test_prompts_need_no_label(snapshot):
    (prompt,) = datasets.prompts(snapshot, "train")

    assert (prompt.id, prompt.messages, prompt.tags, prompt.split) == ("p-1", MESSAGES, ("a",), "train")
    assert prompt.created_at == datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def test_enough_labels_raise_nothing():
    require_enough({"demonstrations_trainable": 1, "rankings_trainable": 8}, ["sft", "reward", "ppo"])
    require_enough({"demonstrations_trainable": 0, "rankings_trainable": 0}, ["pretrain", "sample"])
    require_enough({"demonstrations_trainable": 0, "rankings_trainable": 8}, ["reward"])


def test_too_few_labels_are_named_with_the_numbers_needed():
    with pytest.raises(TooFewLabels) as refused:
        require_enough({"demonstrations_trainable": 0, "rankings_trainable": 7}, ["sft", "reward", "ppo"])

    message = str(refused.value)
    assert "sft needs 1 demonstration of a train prompt and there is none" in message
    assert "reward and ppo need 8 rankings of train prompts that are not all ties, and there are 7" in message


def test_a_demonstration_of_a_held_out_prompt_is_nothing_to_train_on():
    with pytest.raises(TooFewLabels, match="sft needs 1"):
        require_enough({"demonstrations_trainable": 0, "rankings_trainable": 9}, ["sft"])


def test_a_snapshots_counts_and_the_stores_are_asked_alike(snapshot):
    require_enough(snapshot.counts, ["sft"])
    with pytest.raises(TooFewLabels, match="there are 0"):
        require_enough(snapshot.counts, ["reward"])
