import dataclasses
import math
from collections import Counter

import pytest
import torch

from data import batches, snapshots
from data.errors import InvalidInput
from data.runs import RunFolder
from training import checkpoints, sample
from training.model import scalar_from_policy
from training.sample import Config


@pytest.fixture
def run(workspace):
    return RunFolder.create(workspace.runs, "sample", {})


@pytest.fixture
def config(snapshot, saved_policy):
    return Config(snapshot.path, "pretrain-0001", prompts=5, responses=4, max_new_tokens=6, batch_size=7)


def sampled(config, run, workspace):
    sample.main(config, run, workspace)
    return batches.read(workspace.batches / f"{run.id}.parquet")


def test_a_batch_has_k_different_responses_to_each_prompt(config, run, workspace):
    batch = sampled(config, run, workspace)

    assert (batch.id, batch.checkpoint, len(batch.rows)) == (run.id, "pretrain-0001", 5)
    for row in batch.rows:
        assert len({response.text for response in row.responses}) == len(row.responses) == 4
        assert all(response.text.strip() for response in row.responses)
    assert run.state()["state"] == "done" and run.state()["batch"] == run.id
    assert run.state()["metrics"]["responses"] == 20


def test_each_response_knows_its_checkpoint_and_how_it_was_drawn(config, run, workspace):
    response = sampled(config, run, workspace).rows[0].responses[0]

    assert response.source == "pretrain-0001"
    assert response.sampling["temperature"] == 1.0
    assert response.sampling["seed"] == 0 and response.sampling["max_new_tokens"] == 6
    assert response.sampling["tokens"] <= 6 and isinstance(response.sampling["ended"], bool)


def test_the_same_run_samples_the_same_batch(config, workspace):
    run = RunFolder(workspace.runs / "sample-0007")
    run.path.mkdir()

    assert sampled(config, run, workspace) == sampled(config, run, workspace)


def test_a_prompt_is_read_once_for_all_its_responses(config, snapshot, policy, words):
    asked = sample.choose(config, snapshots.load(snapshot.path), words, policy, "sample-0001")
    prefilled = []
    policy.register_forward_pre_hook(
        lambda _, args, inputs: (
            prefilled.append(len(inputs["input_ids"])) if inputs["attention_mask"].ndim == 2 else None
        ),
        with_kwargs=True,
    )

    sampler = sample.Sampler(dataclasses.replace(config, temperature=(2.0,)), policy, words, "pretrain-0001")
    rows = sampler.respond(asked, Counter())

    assert [len(row.responses) for row in rows] == [4] * 5
    assert sum(prefilled) == 5  # for 20 responses, all different at the first attempt


def test_prompts_ranked_least_often_come_first(config, run, workspace, rows):
    # of the eight prompts the first has two rankings already
    batch = sampled(dataclasses.replace(config, prompts=7), run, workspace)

    ranked = rows.prompt("What do cats eat?")["prompt_id"]
    assert len(batch.rows) == 7 and ranked not in {row.prompt_id for row in batch.rows}


def test_both_splits_are_sampled(config, run, workspace, rows):
    batch = sampled(dataclasses.replace(config, prompts=8), run, workspace)

    assert rows.prompt("What do foxes eat?")["prompt_id"] in {row.prompt_id for row in batch.rows}


def test_temperatures_take_turns(config, run, workspace):
    batch = sampled(dataclasses.replace(config, temperature=(0.5, 2.0)), run, workspace)

    for row in batch.rows:
        assert sorted(r.sampling["temperature"] for r in row.responses) == [0.5, 0.5, 2.0, 2.0]


def test_prompts_without_room_for_a_response_are_left_out(config, run, workspace, capsys, rows):
    frozen = rows.freeze(workspace, prompts=[rows.prompt("short"), rows.prompt("cat " * 200)])

    batch = sampled(dataclasses.replace(config, snapshot=frozen.path), run, workspace)

    assert [row.prompt_id for row in batch.rows] == [rows.prompt("short")["prompt_id"]]
    assert "1 prompts left out, longer than 122 tokens" in capsys.readouterr().out  # 128 positions less 6


def test_a_response_that_leaves_no_room_for_any_prompt_is_refused(config, run, workspace):
    with pytest.raises(
        InvalidInput, match="max_new_tokens 128 leaves no room for a prompt in the model's 128 positions"
    ):
        sample.main(dataclasses.replace(config, max_new_tokens=128), run, workspace)


@torch.no_grad()
def test_a_policy_with_one_thing_to_say_gives_no_batch(config, run, workspace, policy, words, saved_policy):
    cold = dataclasses.replace(config, temperature=(1e-6,))  # always the likeliest token

    with pytest.raises(InvalidInput, match="two different responses"):
        sample.main(cold, run, workspace)
    assert not list(workspace.batches.iterdir())


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([[0.5, 0.5, 0.5]], 1.0),  # nothing to choose between
        ([[math.log(3), 0.0]], 0.811278),  # 3 to 1: -(.75 log2 .75 + .25 log2 .25)
        ([[9.0, -9.0], [-9.0, 9.0]], 1.0),  # each model is certain, of the opposite
        ([[100.0, 0.0, 0.0]], 1 / 3),  # two pairs are certain, of one nothing is known
    ],
)
def test_reward_models_are_unsure_where_scores_are_close_or_contradict_each_other(scores, expected):
    assert sample.uncertainty(torch.tensor(scores)) == pytest.approx(expected, abs=1e-6)


def test_with_a_reward_model_each_task_says_how_unsure_it_is(config, run, workspace, saved_policy, words):
    torch.manual_seed(0)
    judge = scalar_from_policy(saved_policy)
    made = {"stage": "reward", "parents": [], "snapshot": None, "config": {}, "metrics": {}, "seed": 0}
    checkpoints.save(workspace.checkpoints, "reward-0001", model=judge, tokenizer=words, **made)

    batch = sampled(dataclasses.replace(config, reward="reward-0001"), run, workspace)

    assert all(0 < row.uncertainty <= 1 for row in batch.rows)
    assert len({row.uncertainty for row in batch.rows}) > 1


def test_a_ranking_needs_2_to_9_responses():
    with pytest.raises(ValueError, match="responses is 10"):
        Config("s", "p", responses=10)
    with pytest.raises(ValueError, match="temperature"):
        Config("s", "p", temperature=(0.0,))


def test_rankings_of_either_split_count(workspace, words, policy, config, run, rows):
    frozen = rows.freeze(
        workspace,
        prompts=[rows.prompt("a"), rows.prompt("b", "heldout")],
        rankings=[rows.ranking(1, "b", ["x", "y"], [1, 2], "heldout")],
    )

    batch = sampled(dataclasses.replace(config, snapshot=frozen.path, prompts=1), run, workspace)

    assert [row.prompt_id for row in batch.rows] == [rows.prompt("a")["prompt_id"]]
