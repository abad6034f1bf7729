import math
import shutil

import pytest
import torch

from data.errors import InvalidInput
from data.runs import RunFolder
from training import checkpoints, corpus, engine, evaluate, tokenizer
from training.engine import generator_at
from training.evaluate import (
    Answers,
    Config,
    bootstrap_interval,
    compare_best_of,
    distinct_2,
    like_length,
    objections_to,
    proxy_metrics,
    reason_of,
    win_rates,
)
from training.model import scalar_from_policy
from training.rollouts import assemble

GOOD = {
    "reward_accuracy": 0.683,
    "win_rate": 0.712,
    "win_rate_low": 0.66,
    "win_rate_high": 0.76,
    "prompts": 36,
    "kl": 8.1,
    "tax": 0.013,
    "length_ratio": 1.04,
    "ended": 0.95,
    "parent_ended": 0.96,
    "distinct_2": 0.7,
    "parent_distinct_2": 0.8,
}


def a_config(**changes):
    options = {"max_kl": 20.0, "max_tax": 0.05, "max_ended_drop": 0.02} | changes
    return Config("snapshot", "ppo-0001", "sft-0001", "reward-0001", **options)


def test_a_win_rate_counts_all_pairs_of_a_prompt_and_a_tie_is_half():
    new, old = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[1.0, 0.0], [2.0, 3.0]])

    # prompt 1: 2>1, 2>0, 0<1, 0=0 -> 2.5 of 4; prompt 2 loses all
    assert win_rates(new, old).tolist() == [0.625, 0.0]


def test_the_interval_of_equal_prompts_is_a_point():
    assert bootstrap_interval(torch.full((9,), 0.75), generator_at(0)) == (0.75, 0.75)


def test_the_interval_is_that_of_the_mean_over_prompts():
    per_prompt = torch.tensor([0.0, 1.0] * 50)

    low, high = bootstrap_interval(per_prompt, generator_at(0, "bootstrap"))

    # the standard error of a mean of 100 fair coins is 0.05: 0.5 -+ 1.96 * 0.05 = 0.402 .. 0.598
    assert low == pytest.approx(0.402, abs=0.015) and high == pytest.approx(0.598, abs=0.015)


def test_distinct_bigrams_are_counted_within_a_response():
    # "a b", "b a", "a b" and "a b": two different ones of four
    assert distinct_2(["a b a b", "a b"]) == 0.5
    assert distinct_2(["one", ""]) == 0.0


def test_a_policy_that_wins_and_pays_little_has_nothing_against_it():
    assert objections_to(GOOD, a_config()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"win_rate_low": 0.5}, "reaches down to 50.0 %"),
        ({"kl": 20.5}, "20.5 nats per response away, more than 20"),
        ({"tax": 0.051}, "rose by 5.1 %, more than 5.0 %"),
        ({"ended": 0.93}, "93.0 % of its responses come to an end, of its parent's 96.0 %"),
        ({"distinct_2": 0.39}, "39.0 % of its pairs of words are different ones, of its parent's 80.0 %"),
    ],
)
def test_each_limit_alone_rejects_with_its_numbers(change, words):
    (objection,) = objections_to(GOOD | change, a_config())

    assert words in objection


@pytest.mark.parametrize("number", ["win_rate_low", "kl", "tax", "ended", "distinct_2"])
def test_a_number_that_is_none_rejects(number):
    assert len(objections_to(GOOD | {number: math.nan}, a_config())) == 1


def test_the_reason_names_both_checkpoints_and_every_number():
    reason = reason_of("ppo-0002", "sft-0001", GOOD, [])

    assert reason == (
        "ppo-0002 wins 71.2 % against sft-0001 on 36 held-out prompts (95 % interval 66.0 % to 76.0 %, judged by its "
        "own reward model, right on 68.3 % of held-out pairs), at 8.1 nats, 1.04 times the length and +1.3 % bits per "
        "byte."
    )


def test_the_reason_says_so_when_nobody_knows_how_good_the_judge_is():
    assert "never measured on held-out labels" in reason_of("a", "b", GOOD | {"reward_accuracy": None}, [])


def test_the_reason_names_the_second_judge_and_what_it_did_not_confirm():
    reason = reason_of("a", "b", GOOD | {"judge_accuracy": 0.7, "warning": "Over-optimised: so and so"}, ["this"])

    assert "judged by a second reward model, right on 70.0 % of held-out pairs" in reason
    assert reason.endswith("bits per byte. Over-optimised: so and so. Not promoted: this.")


def test_the_reason_tells_of_the_best_of_n():
    found = {"best_of": 16, "best_of_win_rate": 0.94, "win_rate_over_best_of": 0.41, "best_of_kl_bound": 1.835}

    assert "It wins 41.0 % against the best of 16 responses of b, which wins 94.0 % at 1.8 nats." in reason_of(
        "a", "b", GOOD | found, []
    )


def answers(scores, lengths, judged=None):
    """Answers (P, n) with these scores and lengths in tokens."""
    flat = [length for row in lengths for length in row]
    samples = engine.Samples([[5] * length for length in flat], [[0.0] * length for length in flat], [True] * len(flat))
    sampled = assemble([[4]] * len(flat), samples, 0, torch.device("cpu"))
    by_reward = torch.tensor(scores)
    return Answers(sampled, ["a"] * len(flat), by_reward, by_reward if judged is None else torch.tensor(judged))


def test_a_win_rate_among_pairs_of_like_length_leaves_out_the_others():
    new, old = (
        answers([[3.0, 3.0], [3.0, 3.0]], [[20, 40], [50, 50]]),
        answers([[2.0, 9.0], [1.0, 1.0]], [[21, 37], [20, 20]]),
    )

    found = like_length(new, old)

    # prompt 1: 20 and 21 are alike and won, 40 and 37 are alike and lost; prompt 2 has no such pair
    assert found == {"win_rate_like_length": 0.5, "like_length": 0.25}  # 2 of 8 pairs


def test_without_a_pair_of_like_length_there_is_no_win_rate_among_them():
    assert like_length(answers([[3.0]], [[10]]), answers([[2.0]], [[20]])) == {
        "win_rate_like_length": None,
        "like_length": 0.0,
    }


def test_of_n_responses_the_reward_model_picks_and_the_judge_decides():
    candidates = answers([[1.0, 4.0, 2.0]], [[10, 30, 10]], judged=[[9.0, 5.0, 9.0]])
    new, old = (
        answers([[0.0, 0.0]], [[20, 20]], judged=[[6.0, 4.0]]),
        answers([[0.0, 0.0]], [[20, 20]], judged=[[4.0, 5.0]]),
    )

    found = compare_best_of(candidates, new, old, a_config(best_of=3))

    # it picks the second, of 30 tokens, which the judge gives 5: a win and a tie against the parent's 4 and 5
    assert found["best_of"] == 3 and found["best_of_win_rate"] == 0.75
    assert found["win_rate_over_best_of"] == 0.5  # 6 wins against 5, 4 loses
    assert found["best_of_length_ratio"] == 1.5
    assert found["best_of_kl_bound"] == pytest.approx(0.43195, abs=1e-5)  # log 3 - 2/3


@pytest.mark.parametrize(
    ("proxy", "judge", "warned"),
    [(1.0, 0.6, False), (1.0, 0.5, True), (1.0, 0.2, True), (0.5, 0.2, False)],
)
def test_a_gain_that_only_the_reward_model_sees_is_warned_of(proxy, judge, warned):
    """Against a parent whose every score is 0, ten prompts with ten responses, of which this share is better."""

    def by(share):
        return [[1.0] * round(10 * share) + [-1.0] * round(10 * (1 - share))] * 10

    lengths = [[5] * 10] * 10
    new, old = answers(by(proxy), lengths, by(judge)), answers([[0.0] * 10] * 10, lengths)

    found = proxy_metrics(new, old, {"win_rate": judge, "win_rate_low": judge}, a_config())

    assert found["proxy_win_rate"] == pytest.approx(proxy)
    assert bool(found["warning"]) == warned
    if warned:
        assert (
            f"wins 100.0 % by the reward model it learned from and {judge * 100:.1f} % by the judge" in found["warning"]
        )


def test_the_reason_of_a_rejection_lists_what_is_wrong():
    assert reason_of("a", "b", GOOD, ["this", "that"]).endswith("Not promoted: this; that.")


@pytest.fixture
def judge_checkpoint(workspace, saved_policy, words):
    """checkpoints/reward-0001 with a random head; held-out text beside the policy."""
    corpus.write_heldout(saved_policy, ["The cat sat on the mat.", "Cats eat fish and drink water."])
    return save_reward(workspace, saved_policy, words, "reward-0001", sign=1)


def save_reward(workspace, saved_policy, words, name, sign):
    torch.manual_seed(3)
    model = scalar_from_policy(saved_policy, words)
    model.score.weight.data *= sign
    return checkpoints.save(
        workspace.checkpoints,
        name,
        stage="reward",
        parents=["pretrain-0001"],
        snapshot=None,
        model=model,
        tokenizer=words,
        config={},
        metrics={"heldout_accuracy": 0.7},
        seed=0,
    )


def run_evaluation(snapshot, workspace, policy, **changes):
    run = RunFolder.create(workspace.runs, "evaluate", {})
    options = {"max_new_tokens": 8, "samples": 6} | changes
    evaluate.main(Config(snapshot.path, policy, "pretrain-0001", "reward-0001", **options), run, workspace)
    return run


@pytest.mark.slow
def test_a_policy_is_no_better_than_itself(snapshot, workspace, saved_policy, judge_checkpoint):
    state = run_evaluation(snapshot, workspace, "pretrain-0001").state()

    assert state["state"] == "done" and state["verdict"] == "rejected"
    assert "Not promoted: the interval of the win rate reaches down" in state["reason"]
    assert state["metrics"]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert state["metrics"]["tax"] == 0.0
    assert state["metrics"]["prompts"] == 2


@pytest.mark.slow
def test_in_bf16_as_on_a_gpu_the_same_comes_out_but_for_rounding(
    snapshot, workspace, saved_policy, judge_checkpoint, monkeypatch
):
    monkeypatch.setattr(evaluate, "precision", lambda _: torch.autocast("cpu", torch.bfloat16))
    metrics = run_evaluation(snapshot, workspace, "pretrain-0001").state()["metrics"]

    assert 0 < abs(metrics["kl"]) < 0.05  # of eight tokens; in fp32 it is under 1e-4
    assert metrics["tax"] == 0.0
    assert abs(metrics["win_rate"] - 0.5) < 0.25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("other", "what"), [("sft-0001", "parent"), ("reward-0001", "reward model"), ("reward-0002", "judge")]
)
def test_a_checkpoint_of_another_vocabulary_is_refused_by_its_name(
    other, what, snapshot, workspace, saved_policy, judge_checkpoint, words
):
    shutil.copytree(saved_policy, workspace.checkpoints / "sft-0001")
    save_reward(workspace, saved_policy, words, "reward-0002", sign=1)
    tokenizer.train(["Quite other words than these were."] * 20, 280).save_pretrained(workspace.checkpoints / other)
    run = RunFolder.create(workspace.runs, "evaluate", {})
    config = Config(snapshot.path, "pretrain-0001", "sft-0001", "reward-0001", judge="reward-0002")

    with pytest.raises(InvalidInput, match=f"The {what} {other} has another vocabulary"):
        evaluate.main(config, run, workspace)


@pytest.mark.slow
def test_a_policy_that_forgot_how_text_goes_is_rejected_for_it(
    snapshot, workspace, saved_policy, judge_checkpoint, policy, words
):
    """The same weights with a sharper head: another policy, whose distance and price are measured."""
    with torch.no_grad():
        policy.get_output_embeddings().weight.mul_(30)
    checkpoints.save(
        workspace.checkpoints,
        "ppo-0001",
        stage="ppo",
        parents=["pretrain-0001"],
        snapshot=snapshot.hash,
        model=policy,
        tokenizer=words,
        config={},
        metrics={},
        seed=0,
    )

    run = run_evaluation(snapshot, workspace, "ppo-0001", max_tax=0.05)

    metrics = run.state()["metrics"]
    assert metrics["kl"] > 1 and metrics["tax"] > 0.05
    assert metrics["bits_per_byte"] > metrics["bits_per_byte_before"]
    assert run.state()["verdict"] == "rejected"
    assert "bits per byte of held-out text rose" in run.state()["reason"]
    assert not (workspace.checkpoints / run.id).exists()


@pytest.mark.slow
def test_best_of_n_wins_by_its_own_reward_model_and_loses_by_the_opposite_judge(
    snapshot, workspace, saved_policy, judge_checkpoint, words
):
    save_reward(workspace, saved_policy, words, "reward-0002", sign=-1)
    alone = run_evaluation(snapshot, workspace, "pretrain-0001", best_of=16).state()["metrics"]

    run = run_evaluation(snapshot, workspace, "pretrain-0001", best_of=16, judge="reward-0002")

    judged = run.state()["metrics"]
    assert alone["best_of_win_rate"] > 0.8  # 16/17 on average
    assert judged["best_of_win_rate"] == pytest.approx(1 - alone["best_of_win_rate"])  # the same responses, turned over
    assert judged["proxy_win_rate"] == alone["win_rate"] and judged["win_rate"] == pytest.approx(1 - alone["win_rate"])
    assert (
        judged["judge_accuracy"] == 0.7 and "judged by a second reward model, right on 70.0 %" in run.state()["reason"]
    )
    assert "proxy_win_rate" not in alone and "best of 16 responses of pretrain-0001" in run.state()["reason"]
    assert run.state()["step"] == run.state()["steps"] == 5


@pytest.mark.slow
def test_without_held_out_prompts_nothing_is_measured(rows, workspace, saved_policy, judge_checkpoint):
    snapshot = rows.freeze(workspace, prompts=[rows.prompt("What do cats eat?")])

    with pytest.raises(InvalidInput, match="no held-out prompt"):
        run_evaluation(snapshot, workspace, "pretrain-0001")


@pytest.mark.slow
def test_responses_that_cannot_fit_are_refused_before_any_is_drawn(snapshot, workspace, saved_policy, judge_checkpoint):
    with pytest.raises(InvalidInput, match="max_new_tokens 128 leaves no room for a prompt in the model's 128"):
        run_evaluation(snapshot, workspace, "pretrain-0001", max_new_tokens=128)


@pytest.mark.slow
def test_a_number_that_is_none_is_written_as_null(snapshot, workspace, saved_policy, judge_checkpoint, monkeypatch):
    monkeypatch.setattr(evaluate, "tax", lambda *given: {"bits_per_byte": math.nan, "tax": math.nan})

    run = run_evaluation(snapshot, workspace, "pretrain-0001")

    assert "NaN" not in (run.path / "state.json").read_text() + (run.path / "metrics.jsonl").read_text()
    assert (
        run.state()["metrics"]["tax"] is None and "bits per byte of held-out text rose by nan" in run.state()["reason"]
    )


@pytest.mark.slow
def test_models_of_the_wrong_kind_are_refused_by_name(snapshot, workspace, saved_policy, judge_checkpoint):
    with pytest.raises(InvalidInput, match="reward-0001 is a reward model and cannot speak"):
        run_evaluation(snapshot, workspace, "reward-0001")
    with pytest.raises(InvalidInput, match="pretrain-0001 is no reward model: it has no scalar head"):
        run_evaluation(snapshot, workspace, "pretrain-0001", judge="pretrain-0001")


def test_the_best_of_one_is_refused():
    with pytest.raises(ValueError, match="best_of is 1"):
        a_config(best_of=1)


@pytest.mark.parametrize("name", ["samples", "batch_size", "microbatch", "max_new_tokens", "temperature"])
def test_counts_and_the_temperature_are_above_zero(name):
    with pytest.raises(ValueError, match=f"{name} is 0"):
        a_config(**{name: 0})
