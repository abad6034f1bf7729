import math
import random
import signal

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from data.errors import TooFewLabels
from data.runs import RunFolder
from training import checkpoints, metrics, reward, tokenizer
from training.model import scalar_from_policy
from training.reward import Encoded, accuracy_by_prompt, ceiling_of, cosine_to_a_tenth, leak_warning, score_rankings
from training.rollouts import padded_right, reward_scores

LONG, SHORT = "Open it with a with statement, so that it is closed at the end.", "Fish."


@pytest.fixture
def tasted(rows, workspace):
    """Forty rankings by somebody who likes short responses, an eighth of them of held-out prompts."""
    draw = random.Random(0)
    parts = ["Cats eat fish.", "The dog ran.", "Open it.", "Drink water at the door."]
    prompts, rankings = [], []
    for number in range(40):
        text, split = f"What do {number} cats eat?", "heldout" if number % 8 == 0 else "train"
        responses = [" ".join(draw.choices(parts, k=draw.randint(1, 6))) for _ in range(4)]
        by_length = sorted({len(r) for r in responses})
        prompts.append(rows.prompt(text, split))
        ranks = [1 + by_length.index(len(r)) for r in responses]
        rankings.append(rows.ranking(number, text, responses, ranks, split))
    shown = rows.demonstration(1, "What do 1 cats eat?", "Fish and water.")
    return rows.freeze(workspace, prompts=prompts, demonstrations=[shown], rankings=rankings)


def config_for(snapshot, **changes):
    options = {"epochs": 6, "batch_size": 8, "learning_rate": 3e-3, "max_tokens": 128} | changes
    return reward.Config(snapshot.path, "pretrain-0001", **options)


def new_run(workspace):
    return RunFolder.create(workspace.runs, "reward", {})


def encoded(prompt_id, ranks):
    return Encoded(prompt_id, ((1,),) * len(ranks), ranks, (1,) * len(ranks))


def test_accuracy_counts_pairs_and_its_error_is_clustered_by_prompt():
    rankings = [encoded("a", (1, 2, 3)), encoded("b", (1, 2))]

    accuracy, error = accuracy_by_prompt(rankings, [[3.0, 2.0, 1.0], [0.0, 1.0]])

    # prompt a: 3 of 3 pairs right, prompt b: 0 of 1; residuals 3 - 0.75*3 = 0.75 and 0 - 0.75 = -0.75
    assert accuracy == 0.75
    assert error == pytest.approx(math.sqrt((0.75**2 + 0.75**2) * 2 / 1) / 4)


def test_two_rankings_of_one_prompt_say_nothing_of_the_spread_between_prompts():
    rankings = [encoded("a", (1, 2)), encoded("a", (2, 1))]

    assert accuracy_by_prompt(rankings, [[1.0, 0.0], [1.0, 0.0]]) == (0.5, None)


def test_without_a_pair_there_is_no_accuracy():
    assert accuracy_by_prompt([], []) == (None, None)


def test_two_labels_that_agree_82_percent_cap_a_perfect_judge_at_90():
    assert ceiling_of(0.82) == pytest.approx(0.9)  # 0.9^2 + 0.1^2 = 0.82
    assert ceiling_of(0.4) == 0.5  # worse than chance is chance
    assert ceiling_of(None) is None


def test_an_accuracy_that_no_honest_judge_reaches_is_called_a_leak():
    assert leak_warning(0.94, 0.01, 0.9) is not None
    assert leak_warning(0.92, 0.01, 0.9) is None
    assert leak_warning(0.94, 0.01, None) is None


def test_the_learning_rate_falls_from_one_to_a_tenth():
    assert cosine_to_a_tenth(0) == 1.0
    assert cosine_to_a_tenth(0.5) == pytest.approx(0.55)
    assert cosine_to_a_tenth(1) == pytest.approx(0.1)


def test_rankings_without_a_decided_pair_are_left_out(rows, workspace, words):
    text = "What do cats eat?"
    rankings = [
        rows.ranking(1, text, [SHORT, LONG], [1, 1]),
        rows.ranking(2, text, [SHORT, LONG], [1, None]),
        rows.ranking(3, text, [SHORT, LONG, "The mat."], [2, 1, None]),
    ]
    snapshot = rows.freeze(workspace, prompts=[rows.prompt(text)], rankings=rankings)

    found = reward.encode(reward.datasets.rankings(snapshot, "train"), words, 128)

    assert [ranking.ranks for ranking in found] == [(2, 1, 0)]


def test_a_response_too_long_to_read_to_its_end_counts_as_unranked(rows, workspace, words):
    text, length = "What do cats eat?", len(tokenizer.response_ids(words, LONG))
    rankings = [rows.ranking(1, text, [SHORT, LONG, "The mat."], [2, 1, 3])]
    snapshot = rows.freeze(workspace, prompts=[rows.prompt(text)], rankings=rankings)

    (found,) = reward.encode(reward.datasets.rankings(snapshot, "train"), words, length - 1)

    assert found.ranks == (2, 0, 3)
    assert all(len(sequence) <= length - 1 for sequence in found.sequences)
    assert found.sequences[0][-1] == words.eos_token_id


def test_rankings_of_unlike_size_are_scored_as_each_alone(saved_policy, words):
    torch.manual_seed(0)
    model = scalar_from_policy(saved_policy, words).eval()
    big = Encoded("a", ((9, 10, 11), (12, 13), (14,)), (1, 2, 3), (1, 1, 1))
    small = Encoded("b", ((15, 16, 17, 18), (19,)), (2, 1), (1, 1))

    with torch.no_grad():
        together, ranks = score_rankings(model, [small, big], words.pad_token_id)
        alone, _ = score_rankings(model, [big], words.pad_token_id)

    assert ranks.tolist() == [[2, 1, 0], [1, 2, 3]]
    assert together[0, 2] == 0
    torch.testing.assert_close(together[1], alone[0], atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_reward_model_learns_what_the_labeler_likes_and_loads_with_plain_transformers(
    tasted, workspace, saved_policy, words
):
    run = new_run(workspace)

    reward.main(config_for(tasted), run, workspace)

    state, folder = run.state(), workspace.checkpoints / run.id
    assert state["state"] == "done" and state["checkpoint"] == run.id
    manifest = checkpoints.read_manifest(folder)
    assert manifest["stage"] == "reward" and manifest["parents"] == ["pretrain-0001"]
    assert manifest["metrics"]["heldout_accuracy"] > 0.8  # chance is 0.5
    assert manifest["metrics"]["longer_wins"] == 0.0
    assert manifest["metrics"]["heldout_rankings"] == 5 and manifest["metrics"]["train_rankings"] == 35
    assert {"step", "loss", "accuracy"} <= run.metrics()[0].keys()
    model, loading = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == words.get_vocab()
    shown = reward.datasets.demonstrations(tasted, "train")[0]
    ids = [*tokenizer.prompt_ids(words, shown.messages), *tokenizer.response_ids(words, shown.response)]
    with torch.no_grad():
        score = reward_scores(model.eval(), *padded_right([ids], 0, torch.device("cpu")))
    assert score.item() == pytest.approx(0.0, abs=1e-4)  # the only demonstration scores 0


@pytest.mark.slow
def test_a_reward_run_stopped_by_sigterm_goes_on_to_the_same_weights(tasted, workspace, saved_policy, words):
    config = config_for(tasted, epochs=2)
    whole, stopped = new_run(workspace), new_run(workspace)
    reward.main(config, whole, workspace)
    metrics.catch_stop_signal()
    signal.raise_signal(signal.SIGTERM)

    with pytest.raises(metrics.Cancelled):
        reward.main(config, stopped, workspace)
    metrics.catch_stop_signal()
    assert stopped.metrics()[-1]["step"] == 1
    reward.main(config, stopped, workspace)

    paths = [workspace.checkpoints / run.id / "model.safetensors" for run in (whole, stopped)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.slow
def test_a_snapshot_without_a_decided_pair_is_refused_with_words(rows, workspace, saved_policy):
    rankings = [rows.ranking(1, "What do cats eat?", [SHORT, LONG], [1, 1])]
    snapshot = rows.freeze(workspace, prompts=[rows.prompt("What do cats eat?")], rankings=rankings)

    with pytest.raises(TooFewLabels, match="no ranking with a decided pair"):
        reward.main(config_for(snapshot), new_run(workspace), workspace)


def test_an_epoch_count_of_zero_is_refused(tmp_path):
    with pytest.raises(ValueError, match="epochs is 0"):
        reward.Config(tmp_path, "sft-0001", epochs=0)
