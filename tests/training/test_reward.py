import json
import math
import random
import signal
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from data import snapshots
from data.datasets import rankings
from data.errors import InvalidInput, NotFound, TooFewLabels
from data.runs import RunFolder
from training import checkpoints, metrics, reward, tokenizer
from training.engine import padded_right
from training.model import scalar_from_policy
from training.preferences import Encoded, encode, labelers_left_out, weighted
from training.reward import improve, margins_of, rate, score_rankings, tie_parameter
from training.rollouts import reward_scores

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


def encoded(*ranks, responses=None, prompt=(9, 10, 11), **more):
    k = len(ranks)
    responses = responses or tuple((20 + i, 30 + i, 2) for i in range(k))
    fields = {"lengths": (1,) * k, "sources": ("sft",) * k, "ratings": (None,) * k, "labeler": "ana"} | more
    return Encoded("p", prompt, responses, ranks, **fields)


@pytest.fixture
def scalar(saved_policy, words):
    torch.manual_seed(0)
    return scalar_from_policy(saved_policy, words).eval()


def gradient_of(scalar, batch, config, theta=1.0):
    """What one step on this batch reports, and the gradient it takes."""
    start = {name: weight.clone() for name, weight in scalar.state_dict().items()}
    stats = improve(scalar, torch.optim.SGD(scalar.parameters(), lr=0.0), batch, config, 0, theta)
    scalar.load_state_dict(start)
    return stats, torch.cat([weight.grad.flatten() for weight in scalar.parameters() if weight.grad is not None])


def test_the_learning_rate_falls_from_one_to_a_tenth():
    assert [rate(step, 100, 0.0) for step in (0, 50, 100)] == pytest.approx([1.0, 0.55, 0.1])


def test_the_learning_rate_rises_first():
    rising = [rate(step, 100, 0.04) / rate(step, 100, 0.0) for step in range(6)]

    assert rising == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])
    assert rate(0, 10, 0.03) == 1.0  # of ten steps three in a hundred are none


def test_rankings_without_a_pair_that_counts_are_left_out(rows, workspace, words):
    text = "What do cats eat?"
    labels = [
        rows.ranking(1, text, [SHORT, LONG], [1, 1]),
        rows.ranking(2, text, [SHORT, LONG], [1, None]),
        rows.ranking(3, text, [SHORT, LONG, "The mat."], [2, 1, None]),
    ]
    snapshot = rows.freeze(workspace, prompts=[rows.prompt(text)], rankings=labels)

    without = encode(rankings(snapshot, "train"), words, 128, ties_too=False)
    with_ties = encode(rankings(snapshot, "train"), words, 128, ties_too=True)

    assert [ranking.ranks for ranking in without] == [(2, 1)]  # the response without a rank is not scored at all
    assert [ranking.ranks for ranking in with_ties] == [(1, 1), (2, 1)]


def test_a_response_too_long_to_read_to_its_end_counts_as_unranked(rows, workspace, words):
    text, length = "What do cats eat?", len(tokenizer.response_ids(words, LONG))
    labels = [rows.ranking(1, text, [SHORT, LONG, "The mat."], [2, 1, 3])]
    snapshot = rows.freeze(workspace, prompts=[rows.prompt(text)], rankings=labels)

    (found,) = encode(rankings(snapshot, "train"), words, length, ties_too=True)

    assert found.ranks == (2, 3)
    assert found.responses[0] == tuple(tokenizer.response_ids(words, SHORT))
    assert found.responses[0][-1] == words.eos_token_id


def test_a_long_prompt_loses_its_beginning_for_all_responses_alike(rows, workspace, words):
    labels = [rows.ranking(1, LONG, [SHORT, "The mat."], [2, 1])]
    snapshot = rows.freeze(workspace, prompts=[rows.prompt(LONG)], rankings=labels)
    (whole,) = encode(rankings(snapshot, "train"), words, 128, ties_too=True)

    (cut,) = encode(rankings(snapshot, "train"), words, 20, ties_too=True)

    assert cut.longest == 20 and cut.responses == whole.responses
    assert cut.prompt == whole.prompt[-len(cut.prompt) :]


def test_rankings_of_unlike_size_are_scored_as_each_alone(scalar):
    big = encoded(1, 2, 3, responses=((9, 10, 11), (12, 13), (14,)))
    small = encoded(2, 1, responses=((15, 16, 17, 18), (19,)), prompt=(7,))

    with torch.no_grad():
        together, ranks, _ = score_rankings(scalar, [small, big], 0, share=True)
        alone, _, _ = score_rankings(scalar, [big], 0, share=True)

    assert ranks.tolist() == [[2, 1, 0], [1, 2, 3]]
    assert together[0, 2] == 0
    torch.testing.assert_close(together[1], alone[0], atol=1e-5, rtol=1e-5)


def test_what_several_labelers_ranked_is_judged_once(scalar, tmp_path, monkeypatch):
    batch = [encoded(1, 2, 3, labeler="ana"), encoded(2, 1, prompt=(7,)), encoded(3, 1, 2, labeler="ben")]
    scored = []
    monkeypatch.setattr(
        reward, "score_rankings", lambda m, part, *a, **k: scored.extend(part) or score_rankings(m, part, *a, **k)
    )

    judged = reward.judge(scalar, batch, 0, reward.Config(tmp_path, "sft", microbatch=1))

    assert len(scored) == 2
    assert [(one.labeler, one.ranks) for one in judged] == [(one.labeler, one.ranks) for one in batch]
    assert judged[0].scores == judged[2].scores
    alone = score_rankings(scalar, [batch[1]], 0, share=True)[0][0].tolist()
    assert judged[1].scores == pytest.approx(alone, abs=1e-5)


def test_the_gradient_is_that_of_the_whole_batch_however_it_is_cut(scalar, tmp_path):
    batch = [encoded(1, 2, 3, 3), encoded(2, 1, prompt=(7,)), encoded(1, 1, 2, prompt=(3, 4, 5, 6), weight=2.5)]
    whole = reward.Config(tmp_path, "sft", microbatch=3, max_grad_norm=1e9)

    stats, gradient = gradient_of(scalar, batch, whole, theta=1.5)
    apart = [gradient_of(scalar, [one], whole, theta=1.5)[1] for one in batch]

    for size in (1, 2):  # the last of two is smaller
        cut_stats, cut = gradient_of(scalar, batch, replace(whole, microbatch=size), theta=1.5)
        assert cut_stats["loss"] == pytest.approx(stats["loss"])
        torch.testing.assert_close(cut, gradient, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(sum(apart) / 3, gradient, atol=1e-6, rtol=1e-4)


def test_layers_computed_again_give_the_same_gradient(scalar, tmp_path):
    batch, config = [encoded(1, 2, 3, 3)], reward.Config(tmp_path, "sft")

    stats, gradient = gradient_of(scalar, batch, config, theta=1.5)
    again_stats, again = gradient_of(scalar, batch, replace(config, gradient_checkpointing=True), theta=1.5)

    assert again_stats["loss"] == pytest.approx(stats["loss"])
    torch.testing.assert_close(again, gradient, atol=1e-6, rtol=1e-4)


def test_a_labeler_of_weight_three_counts_three_times(scalar, tmp_path):
    heavy, light = encoded(1, 2, weight=1.5), encoded(2, 1, weight=0.5)
    config = reward.Config(tmp_path, "sft", max_grad_norm=1e9)

    _, weighed = gradient_of(scalar, [heavy, light], config)
    _, repeated = gradient_of(scalar, [replace(one, weight=1.0) for one in (heavy, heavy, heavy, light)], config)

    torch.testing.assert_close(weighed, repeated, atol=1e-6, rtol=1e-4)


def test_margins_are_taken_from_ranks_or_ratings(tmp_path):
    one = encoded(1, 2, 4, ratings=(7.0, None, 4.0))
    ranks = torch.tensor([one.ranks])
    config = reward.Config(tmp_path, "sft", margin=0.5)

    by_rank, by_rating = (margins_of([one], ranks, replace(config, margin_of=of)) for of in ("ranks", "ratings"))

    assert by_rank.tolist() == [[[0, 0.5, 1.5], [0, 0, 1.0], [0, 0, 0]]]
    assert by_rating.tolist() == [[[0, 0, 1.5], [0, 0, 0], [0, 0, 0]]]
    assert margins_of([one], ranks, replace(config, margin=0.0)) is None


def test_theta_comes_from_the_share_of_ties(tmp_path):
    config = reward.Config(tmp_path, "sft")
    train = [encoded(1, 1, 2), encoded(1, 2, 3)]  # ties: a third and none, 1/6 on average

    assert tie_parameter(train, config) == pytest.approx((1 + 1 / 6) / (1 - 1 / 6))
    assert tie_parameter([replace(train[0], weight=2.0), replace(train[1], weight=0.0)], config) == pytest.approx(2.0)
    assert tie_parameter(train, replace(config, theta=1.2)) == 1.2
    assert tie_parameter(train, replace(config, ties="half")) == 1.0


def test_a_labeler_of_next_to_no_weight_in_the_snapshot_does_not_pull_the_reward_model(rows, workspace, scalar, words):
    said = ["Cats eat fish.", "The dog ran."]
    given = [
        rows.ranking(1, "What?", said, [1, 2]) | {"labeler": "careful"},
        rows.ranking(2, "What?", said, [2, 1]) | {"labeler": "by lot"},
    ]
    snapshot = snapshots.freeze(
        workspace.snapshots,
        prompts=[rows.prompt("What?", "train")],
        demonstrations=[],
        rankings=given,
        about={"choices": {"weights": "reliability"}, "weights": {"careful": 1.0, "by lot": 0.01}},
    )
    config = config_for(snapshot, ties="ignore", max_grad_norm=1e6)

    careful, by_lot = sorted(reward.training_rankings(snapshot, words, config), key=lambda one: -one.weight)

    assert (careful.weight, by_lot.weight) == pytest.approx((1 / 0.505, 0.01 / 0.505))  # 1 on average
    _, together = gradient_of(scalar, [careful, by_lot], config)
    _, alone = gradient_of(scalar, [replace(careful, weight=1.0)], config)
    _, against = gradient_of(scalar, [replace(by_lot, weight=1.0)], config)
    torch.testing.assert_close(together, (careful.weight * alone + by_lot.weight * against) / 2)
    assert torch.nn.functional.cosine_similarity(together, alone, dim=0) > 0.999
    assert torch.nn.functional.cosine_similarity(against, alone, dim=0) < -0.999


def test_weights_of_labelers_come_from_a_file(rows, workspace, tmp_path):
    snapshot = rows.freeze(
        workspace, prompts=[rows.prompt("Hi?")], rankings=[rows.ranking(1, "Hi?", ["A", "B"], [1, 2])]
    )
    labels, path = rankings(snapshot, "train"), tmp_path / "weights.json"

    path.write_text(json.dumps({"labeler-1": 0.25, "labeler-9": 3}))
    assert [one.weight for one in weighted(labels, path)] == [0.25]
    assert [one.weight for one in weighted(labels, None)] == [1.0]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "is not JSON"),
        ("[1]", "must hold labelers and numbers of 0 or more"),
        ('{"labeler-1": -1}', "must hold labelers and numbers of 0 or more"),
        ('{"labeler-1": NaN}', "must hold labelers and numbers of 0 or more"),
        ('{"somebody": 1}', "weighs none of the labelers in this snapshot: labeler-1"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused(rows, workspace, tmp_path, text, says):
    snapshot = rows.freeze(
        workspace, prompts=[rows.prompt("Hi?")], rankings=[rows.ranking(1, "Hi?", ["A", "B"], [1, 2])]
    )
    path = tmp_path / "weights.json"
    path.write_text(text)

    with pytest.raises(InvalidInput, match=says):
        weighted(rankings(snapshot, "train"), path)
    with pytest.raises(NotFound, match="There is no file"):
        weighted(rankings(snapshot, "train"), tmp_path / "none.json")


def test_labelers_are_left_out_by_name_and_by_a_share_that_stays_the_same():
    names = {f"labeler-{n}" for n in range(200)}

    share = labelers_left_out(names, (), 0.2)

    assert 25 <= len(share) <= 55  # 40 expected, standard deviation 5.7
    assert labelers_left_out(names - {"labeler-3"}, (), 0.2) == share - {"labeler-3"}
    assert share < labelers_left_out(names, (), 0.3)
    assert labelers_left_out({"ana", "ben"}, ("ben",), 0.0) == {"ben"}
    with pytest.raises(InvalidInput, match="names zoe, who ranked no training prompt .* ana, ben"):
        labelers_left_out({"ana", "ben"}, ("zoe",), 0.0)


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
    assert manifest["metrics"]["kendall_tau"] > 0.5 and manifest["metrics"]["length_correlation"] < -0.5
    assert manifest["metrics"]["theta"] > 1 and manifest["metrics"]["train_ties"] > 0
    assert set(manifest["metrics"]["by_policies"]) == {"sft-0001 / sft-0001"}
    assert {"step", "loss", "accuracy", "grad_norm", "padding", "tokens_per_second", "mfu"} <= run.metrics()[0].keys()
    assert all(line["padding"] < 0.1 for line in run.metrics())
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


@pytest.mark.slow
def test_labelers_held_out_are_measured_and_not_trained_on(rows, workspace, saved_policy):
    prompts = [rows.prompt(f"What do {n} cats eat?", "heldout" if n > 5 else "train") for n in range(8)]
    labels = [
        {**rows.ranking(n, f"What do {n} cats eat?", [SHORT, LONG], [1, 2], prompts[n]["split"]), "labeler": name}
        for n, name in enumerate(("ana", "ana", "ana", "ben", "ben", "ben", "ana", "ben"))
    ]
    snapshot, run = rows.freeze(workspace, prompts=prompts, rankings=labels), new_run(workspace)

    reward.main(config_for(snapshot, epochs=1, heldout_labelers=("ben",)), run, workspace)

    found = run.state()["metrics"]
    assert found["train_rankings"] == 3 and found["train_labelers"] == 1
    assert found["heldout_pairs"] == 2 and found["unseen_labelers_pairs"] == 1
    with pytest.raises(TooFewLabels, match="without the 2 labelers held out"):
        reward.main(config_for(snapshot, heldout_labelers=("ana", "ben")), new_run(workspace), workspace)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"max_tokens": 1}, "max_tokens is 1"),
        ({"learning_rate": 0.0}, "learning_rate is 0.0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
        ({"max_grad_norm": float("nan")}, "max_grad_norm is nan"),
        ({"ties": "drop"}, "ties is 'drop'"),
        ({"theta": 1.0}, "theta is 1.0"),
        ({"theta": 1.5, "ties": "half"}, "only ties rao-kupper has one"),
        ({"margin": -1.0}, "margin is -1.0"),
        ({"margin_of": "stars"}, "margin_of is 'stars'"),
        ({"heldout_labeler_share": 1.0}, "heldout_labeler_share is 1.0"),
    ],
)
def test_options_that_make_no_sense_are_refused(tmp_path, option, says):
    with pytest.raises(ValueError, match=says):
        reward.Config(tmp_path, "sft-0001", **option)


def test_adam_has_the_epsilon_of_the_original_in_the_reward_model(scalar, run, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(reward, "improve", lambda model, optimizer, *rest: made.append(optimizer) or {})

    reward.learn(scalar, [encoded(1, 2)], reward.Config(tmp_path, "sft"), run, 0)

    assert [(group["eps"], group["weight_decay"]) for group in made[0].param_groups] == [(1e-5, 0.0)]


def test_each_epoch_reads_every_ranking_once_in_an_order_of_its_own(scalar, run, tmp_path, monkeypatch):
    read, batch = [], [encoded(1, 2, prompt=(number,)) for number in range(3, 11)]
    monkeypatch.setattr(reward, "improve", lambda model, optimizer, part, *rest: read.extend(part) or {})

    reward.learn(scalar, batch, reward.Config(tmp_path, "sft", batch_size=2, epochs=2), run, 0)

    first, second = ([ranking.prompt[0] for ranking in read[start : start + 8]] for start in (0, 8))
    assert sorted(first) == sorted(second) == list(range(3, 11))
    assert first != second


def test_the_offset_is_the_mean_score_of_the_demonstrations(scalar, snapshot, words, tmp_path):
    found = reward.score_offset(scalar, snapshot, [], words, reward.Config(tmp_path, "sft"))

    alone = []
    for shown in reward.datasets.demonstrations(snapshot, "train"):
        ids = [*tokenizer.prompt_ids(words, shown.messages), *tokenizer.response_ids(words, shown.response)]
        alone.append(reward_scores(scalar, *padded_right([ids], 0, torch.device("cpu"))).item())
    assert len(alone) == 4
    assert found == pytest.approx(sum(alone) / 4, abs=1e-5)


def test_a_margin_is_asked_for_in_training(scalar, tmp_path):
    config, one = reward.Config(tmp_path, "sft", ties="ignore", margin=0.5), encoded(1, 3)

    stats, _ = gradient_of(scalar, [one], config)

    with torch.no_grad():
        (better, worse), *_ = score_rankings(scalar, [one], 0, share=True)[0].tolist()
    # two ranks apart, half a point for each: the lead counts 1 less
    assert stats["loss"] == pytest.approx(math.log(1 + math.exp(worse - better + 1.0)), rel=1e-5)


def test_training_goes_by_the_theta_of_its_ties_and_by_its_own_learning_rates(scalar, run, tmp_path, monkeypatch):
    seen = []

    def watched(model, optimizer, batch, config, pad_id, theta):
        seen.append((theta, optimizer.param_groups[0]["lr"]))
        return {}

    monkeypatch.setattr(reward, "improve", watched)
    config = reward.Config(tmp_path, "sft", batch_size=1, learning_rate=2.0, warmup=0.0)
    reward.learn(scalar, [encoded(1, 1, 2), encoded(1, 2, 3)], config, run, 0)

    # a sixth of the pairs are ties: (1 + 1/6) / (1 - 1/6) = 1.4; two steps: 1, and 0.1 + 0.9 / 2 = 0.55
    assert [theta for theta, _ in seen] == pytest.approx([1.4, 1.4])
    assert [lr for _, lr in seen] == pytest.approx([2.0, 1.1])


def test_layers_are_computed_again_where_it_is_asked_for(scalar, tmp_path):
    calls = []
    scalar.model.layers[0].self_attn.register_forward_pre_hook(lambda *_: calls.append(1))
    config = reward.Config(tmp_path, "sft", share_prompts=False)

    gradient_of(scalar, [encoded(1, 2, 3, 3)], config, theta=1.5)
    once = len(calls)
    gradient_of(scalar, [encoded(1, 2, 3, 3)], replace(config, gradient_checkpointing=True), theta=1.5)

    assert len(calls) == 3 * once > 0  # once, and then twice


def test_a_labeler_whom_the_file_does_not_name_weighs_one(rows, workspace, tmp_path):
    given = [rows.ranking(n, "Hi?", ["A", "B"], [1, 2]) | {"labeler": name} for n, name in enumerate(("ana", "ben"))]
    snapshot = rows.freeze(workspace, prompts=[rows.prompt("Hi?")], rankings=given)
    (tmp_path / "weights.json").write_text('{"ana": 0.25}')

    found = weighted(rankings(snapshot, "train"), tmp_path / "weights.json")

    assert {one.labeler: one.weight for one in found} == {"ana": 0.25, "ben": 1.0}


def test_a_step_is_no_longer_than_the_clipped_gradient(scalar, tmp_path):
    stats, gradient = gradient_of(scalar, [encoded(1, 2)], reward.Config(tmp_path, "sft", max_grad_norm=1e-3))

    assert stats["grad_norm"] > 1e-2  # reported as it was
    assert gradient.norm().item() == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize(("ties", "loss"), [("ignore", 0.0), ("half", math.log(2)), ("rao-kupper", math.log(1.5))])
def test_a_tie_costs_in_training_what_the_option_says(scalar, tmp_path, ties, loss):
    same = ((20, 30, 2), (20, 30, 2))
    config = reward.Config(tmp_path, "sft", ties=ties)

    stats, _ = gradient_of(scalar, [encoded(1, 1, responses=same)], config, theta=5.0)

    # equal scores: P(tie) = (5^2 - 1) / (1 + 5)^2 = 2/3 with Rao and Kupper
    assert stats["loss"] == pytest.approx(loss, abs=1e-5)


def test_a_ranking_that_is_one_tie_is_learned_from_unless_ties_are_ignored(rows, workspace, words):
    given = [rows.ranking(1, "Hi?", ["A", "B"], [1, 1]), rows.ranking(2, "Hi?", ["A", "B"], [1, 2])]
    snapshot = rows.freeze(workspace, prompts=[rows.prompt("Hi?")], rankings=given)

    found = {
        ties: reward.training_rankings(snapshot, words, config_for(snapshot, ties=ties)) for ties in ("half", "ignore")
    }

    assert {ties: [one.ranks for one in train] for ties, train in found.items()} == {
        "half": [(1, 1), (1, 2)],
        "ignore": [(1, 2)],
    }


def test_dropout_is_off_while_a_reward_model_learns(tasted, workspace, saved_policy, monkeypatch):
    modes = []
    monkeypatch.setattr(
        reward, "improve", lambda model, *rest: modes.append(any(m.training for m in model.modules())) or {}
    )

    reward.main(config_for(tasted, epochs=1), new_run(workspace), workspace)

    assert modes and not any(modes)


def test_an_epoch_ends_with_the_rankings_that_fill_no_batch(scalar, run, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(reward, "improve", lambda model, optimizer, batch, *rest: seen.append(len(batch)) or {})

    reward.learn(scalar, [encoded(1, 2)] * 5, reward.Config(tmp_path, "sft", batch_size=2), run, 0)

    assert seen == [2, 2, 1]


def test_a_labeler_who_weighs_nothing_is_not_learned_from(rows, workspace, words, tmp_path):
    given = [rows.ranking(n, "Hi?", ["A", "B"], [1, 2]) | {"labeler": name} for n, name in enumerate(("ana", "ben"))]
    snapshot = rows.freeze(workspace, prompts=[rows.prompt("Hi?")], rankings=given)
    weights = tmp_path / "weights.json"
    weights.write_text('{"ana": 0, "ben": 2}')

    found = reward.training_rankings(snapshot, words, config_for(snapshot, labeler_weights=weights))

    assert [(one.labeler, one.weight) for one in found] == [("ben", 1.0)]
