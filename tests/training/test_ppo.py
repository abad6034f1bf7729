import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

from data import datasets
from data.errors import InvalidInput
from data.runs import RunFolder
from training import checkpoints, engine, ppo, shown, tokenizer
from training.advantages import RunningScale
from training.metrics import Cancelled
from training.ppo import Carried, Config, advantages_of, describe, next_kl_coef, rewards_of
from training.rewards import ScoreUnit, Units
from training.rollouts import Rollouts, assemble, prompts_of_step


def config_for(snapshot, **changes):
    options = {
        "steps": 3,
        "batch_size": 8,
        "minibatch_size": 4,
        "microbatch": 2,
        "epochs": 2,
        "max_new_tokens": 8,
        "learning_rate": 3e-3,
        "value_learning_rate": 3e-3,
    }
    return Config(snapshot.path, "pretrain-0001", "pretrain-0001", "reward-0001", **(options | changes))


# enough for a random policy of 10,000 parameters to learn something within two seconds
BIG_STEPS = {"steps": 30, "batch_size": 64, "minibatch_size": 32, "microbatch": 32, "learning_rate": 1e-2}


def new_run(workspace):
    return RunFolder.create(workspace.runs, "ppo", {})


def a_config(**changes):
    return Config(Path("s"), "a", "b", "c", **changes)


UNITS = Units((ScoreUnit(0.0, 1.0),), 8.0)


def rollouts_with(scores, ended=None, **changes):
    """Responses of two tokens; each second one ended after the first."""
    ended = ended or [True] * len(scores)
    lengths = [2 - i % 2 for i in range(len(scores))]
    samples = engine.Samples([[1] * n for n in lengths], [[-1.0] * n for n in lengths], ended)
    sampled = assemble([[5]] * len(scores), samples, 0, torch.device("cpu"))
    zeros = torch.zeros(len(scores), 2)
    given = {"engine_logprobs": sampled.old_logprobs, "ref_logprobs": sampled.old_logprobs}
    given |= {"entropy": zeros, "values": zeros, "scores": torch.tensor(scores)}
    return Rollouts(**(vars(sampled) | given | changes))


def carried(**changes):
    return Carried(**({"units": UNITS, "kl_coef": 0.1} | changes))


def test_the_score_of_a_response_stands_on_its_last_token_and_a_bad_one_where_it_was_cut_off():
    rewards, _ = rewards_of(rollouts_with([0.5, 2.0, 9.0], [True, True, False]), carried(), a_config())

    assert rewards.tolist() == [[0.0, 0.5], [2.0, 0.0], [0.0, -1.0]]


def test_the_kl_penalty_is_taken_off_each_token():
    ref_logprobs = torch.tensor([[-2.0, -1.0], [-1.5, 0.0]])
    # the sampler's own log-probs do not count
    rollouts = rollouts_with([0.0, 0.0], ref_logprobs=ref_logprobs, engine_logprobs=torch.full((2, 2), -7.0))

    k1, _ = rewards_of(rollouts, carried(), a_config())
    k3, _ = rewards_of(rollouts, carried(), a_config(kl_estimator="k3"))

    # log-ratios 1, 0 and 0.5; k3 = exp(-x) - 1 + x: 0.367879, 0, 0.106531
    torch.testing.assert_close(k1, torch.tensor([[-0.1, 0.0], [-0.05, 0.0]]))
    torch.testing.assert_close(k3, torch.tensor([[-0.0367879, 0.0], [-0.0106531, 0.0]]))


def test_scores_are_divided_by_the_spread_of_all_scores_so_far_and_then_cut():
    before = carried(scale=RunningScale(2, 0.0, 2.0))  # two scores, 1 and -1
    config = a_config(running_scale=True, reward_clip=1.5)

    rewards, scale = rewards_of(rollouts_with([3.0, -3.0]), before, config)

    # 1, -1, 3, -3: squared deviations 20, standard deviation sqrt(5) = 2.236068; 3 over it 1.341641. Nothing is shifted
    assert (scale.count, scale.squares) == (4, 20.0)
    torch.testing.assert_close(rewards, torch.tensor([[0.0, 1.341641], [-1.341641, 0.0]]))
    cut, _ = rewards_of(rollouts_with([3.0, -3.0]), before, a_config(running_scale=True, reward_clip=0.5))
    assert cut.abs().max() == 0.5


def test_whitened_rewards_have_variance_one_and_are_not_shifted():
    rewards, _ = rewards_of(rollouts_with([3.0, 3.0]), carried(), a_config(whiten_rewards=True))

    # the tokens earned 0, 3 and 3: mean 2, variance 2, so 3 becomes 3 / sqrt(2) and 0 stays
    torch.testing.assert_close(rewards, torch.tensor([[0.0, 2.121320], [2.121320, 0.0]]))


def test_advantages_are_whitened_over_response_tokens_and_then_cut():
    rollouts = rollouts_with([0.0, 0.0], values=torch.tensor([[0.0, 1.0], [0.0, 9.0]]))
    rewards = torch.tensor([[0.0, 3.0], [3.0, 50.0]])  # what stands on padding must count for nothing

    advantages, returns = advantages_of(rewards, rollouts, a_config(gamma=1.0, lam=0.0))
    cut, _ = advantages_of(rewards, rollouts, a_config(gamma=1.0, lam=0.0, advantage_clip=0.5))

    # 0 + 1 - 0, 3 - 1 and 3 - 0: mean 2, variance 2/3
    torch.testing.assert_close(advantages, torch.tensor([[-1.224745, 0.0], [1.224745, 0.0]]))
    assert returns.tolist() == [[1.0, 3.0], [3.0, 0.0]]
    assert cut.tolist() == [[-0.5, 0.0], [0.5, 0.0]]


def test_the_kl_coefficient_waits_for_the_policy_to_learn():
    config = a_config(kl_target=6.0, kl_horizon=1000, batch_size=100, minibatch_size=100, value_warmup=2)

    assert next_kl_coef(0.1, 60.0, config, step=1) == 0.1
    assert next_kl_coef(0.1, 60.0, config, step=2) == pytest.approx(0.1 * (1 + 0.2 * 100 / 1000))


def test_a_batch_is_described_by_its_response_tokens_alone():
    garbage = torch.tensor([[2.0, 4.0], [6.0, 1000.0]])  # the last stands on padding
    rollouts = rollouts_with(
        [0.0, 0.0],
        [True, False],
        entropy=garbage,
        values=garbage,
        ref_logprobs=torch.tensor([[-2.0, -4.0], [-1.0, 0.0]]),
        engine_logprobs=torch.tensor([[-1.0, -1.02], [-1.0, 0.0]]),
    )

    found = describe(rollouts, torch.tensor([[2.0, 4.0], [6.0, 0.0]]))

    # KL of the responses: 1 + 3 and 0; entropy (2 + 4 + 6) / 3
    assert found["kl"] == 2.0 and found["sqrt_kl"] == pytest.approx(2**0.5)
    assert found["explained_variance"] == 1.0
    assert found["entropy"] == 4.0 and found["length"] == 1.5 and found["ended"] == 0.5
    assert found["logprob_gap"] == pytest.approx(0.02, abs=1e-6) and found["recomputed"] == 1.0


def test_what_a_step_hands_on_comes_back_from_json_unchanged():
    before = carried(scale=RunningScale(3, 1 / 3, 0.1), numbers={"kl": 0.1 + 0.2})

    assert Carried.of(json.loads(json.dumps(asdict(before)))) == before


def test_every_prompt_comes_once_before_any_comes_again():
    seen = [name for step in range(3) for name in prompts_of_step("abcdef", 4, step, seed=0)]

    assert sorted(seen[:6]) == list("abcdef") and sorted(seen[6:]) == list("abcdef")
    assert seen[:6] != seen[6:]


def test_a_step_with_more_responses_than_prompts_repeats_them():
    assert sorted(prompts_of_step("ab", 8, 0, seed=0)) == ["a"] * 4 + ["b"] * 4


def test_minibatches_must_divide_the_batch():
    with pytest.raises(ValueError, match="not a multiple"):
        a_config(batch_size=10, minibatch_size=4)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"warmup": -1}, "warmup is -1"),
        ({"sampling_batch": -1}, "sampling_batch is -1; it must be 0 or more"),
        ({"kl_target": 0.0}, "kl_target is 0.0"),
        ({"dual_clip": 1.0}, "dual_clip is 1.0"),
        ({"ema": 1.0}, "ema is 1.0"),
        ({"ptx_coef": -0.1}, "ptx_coef is -0.1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; it must be 0 or more"),
        ({"kl_coef": math.nan}, "kl_coef is nan"),
        ({"clip": 0.0}, "clip is 0.0; it must be above 0"),
        ({"gamma": 7.0}, "gamma is 7.0; it must be from 0 to 1"),
        ({"steps": 5, "value_warmup": 5}, "the policy would not learn"),
    ],
)
def test_settings_that_cannot_train_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        a_config(**changes)


def test_prompts_too_long_are_left_out_and_counted_in_words(snapshot, words, policy, capsys):
    prompts = datasets.prompts(snapshot, "train")
    models = SimpleNamespace(policy=policy, tokens=words)
    lengths = [len(tokenizer.prompt_ids(words, prompt.messages)) for prompt in prompts]
    shorter = sum(length < max(lengths) for length in lengths)

    kept = ppo.encoded_prompts(prompts, models, a_config(max_prompt_tokens=max(lengths) - 1, max_new_tokens=8))

    assert len(kept) == shorter and all(len(ids) < max(lengths) for _, ids in kept)
    assert f"{6 - shorter} of 6 prompts left out, longer than {max(lengths) - 1} tokens" in capsys.readouterr().out


def test_a_prompt_must_leave_room_for_a_response_in_the_models_positions(snapshot, words, policy, capsys):
    prompts = datasets.prompts(snapshot, "train")
    models = SimpleNamespace(policy=policy, tokens=words)  # 128 positions

    assert len(ppo.encoded_prompts(prompts, models, a_config(max_new_tokens=60))) == 6
    assert ppo.encoded_prompts(prompts, models, a_config(max_new_tokens=127)) == []
    assert "6 of 6 prompts left out, longer than 1 tokens" in capsys.readouterr().out
    with pytest.raises(
        InvalidInput, match="max_new_tokens 500 leaves no room for a prompt in the model's 128 positions"
    ):
        ppo.encoded_prompts(prompts, models, a_config(max_new_tokens=500))


def test_samples_of_steps_to_be_made_again_are_dropped(run):
    path = run.path / "samples.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "resp')

    shown.forget_after(run, 2)

    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


@pytest.mark.slow
def test_a_run_writes_a_checkpoint_that_plain_transformers_loads_and_a_line_per_step(
    snapshot, workspace, saved_policy, judge_checkpoint
):
    run = new_run(workspace)

    ppo.main(config_for(snapshot), run, workspace)

    assert run.state()["state"] == "done" and run.state()["checkpoint"] == run.id
    folder = workspace.checkpoints / run.id
    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert checkpoints.read_manifest(folder)["parents"] == ["pretrain-0001", "reward-0001"]
    lines = run.metrics()
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[0]["kl"] == pytest.approx(0.0, abs=1e-4)  # the policy starts as the reference
    assert all(line["ratio_first"] == pytest.approx(1.0, abs=1e-3) for line in lines)
    assert all(line["logprob_gap"] < 1e-3 and line["recomputed"] == 0 and line["padding"] < 0.1 for line in lines)
    expected = "reward score kl sqrt_kl entropy length ended explained_variance kl_coef learning_rate clip_fraction"
    expected += " policy_loss value_loss policy_grad_norm value_grad_norm update_kl updates"
    expected += " tokens_per_second mfu update_mfu sampling_mbu"
    assert set(expected.split()) <= lines[0].keys()
    assert all(lines[0][f"{phase}_seconds"] > 0 for phase in ("sampling", "scoring", "update"))
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3 * shown.EACH_STEP
    assert samples[0].keys() == {"step", "prompt", "response", "score", "kl"}


@pytest.mark.slow
def test_the_reward_rises_and_a_heavy_kl_penalty_keeps_the_policy_near_the_reference(
    snapshot, workspace, saved_policy, judge_checkpoint
):
    light, heavy = new_run(workspace), new_run(workspace)

    ppo.main(config_for(snapshot, **BIG_STEPS, kl_coef=0.01), light, workspace)
    ppo.main(config_for(snapshot, **BIG_STEPS, kl_coef=10.0), heavy, workspace)

    lines = light.metrics()
    first, last = (sum(line["reward"] for line in part) / 3 for part in (lines[:3], lines[-3:]))
    assert last > first + 1.0  # one standard deviation of the reference's scores
    assert heavy.metrics()[-1]["kl"] < lines[-1]["kl"] / 3


@pytest.mark.slow
def test_a_run_ends_early_when_it_has_moved_too_far(snapshot, workspace, saved_policy, judge_checkpoint):
    run = new_run(workspace)

    ppo.main(config_for(snapshot, steps=50, kl_coef=0.0, stop_kl=0.05), run, workspace)

    assert run.state()["state"] == "done"
    *before, last = [line["kl"] for line in run.metrics()]
    assert len(before) < 49 and max(before) <= 0.05 < last


@pytest.mark.slow
def test_the_value_model_learns_first_when_it_is_told_to(snapshot, workspace, saved_policy, judge_checkpoint):
    run = new_run(workspace)

    ppo.main(config_for(snapshot, steps=4, value_warmup=2, kl_target=6.0), run, workspace)

    lines = run.metrics()
    assert ["policy_loss" in line for line in lines] == [False, False, True, True]
    assert lines[2]["kl"] == 0.0 != lines[3]["kl"]  # before its first update the policy is still the reference
    assert [line["kl_coef"] for line in lines[:3]] == [0.05] * 3 and lines[3]["kl_coef"] < 0.05


@pytest.mark.slow
def test_with_lora_the_run_ends_in_a_plain_checkpoint_and_goes_on_where_it_was_stopped(
    snapshot, workspace, saved_policy, judge_checkpoint, monkeypatch
):
    config = config_for(snapshot, steps=4, lora_rank=2, save_every=1, learning_rate=3e-2)
    whole, stopped = new_run(workspace), new_run(workspace)
    ppo.main(config, whole, workspace)
    monkeypatch.setattr(ppo.Progress, "stop_requested", property(lambda progress: len(stopped.metrics()) == 2))
    with pytest.raises(Cancelled):
        ppo.main(config, stopped, workspace)
    monkeypatch.undo()
    ppo.main(config, stopped, workspace)

    first, second = (workspace.checkpoints / run.id for run in (whole, stopped))
    _, loading = AutoModelForCausalLM.from_pretrained(first, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    assert (first / "model.safetensors").read_bytes() == (second / "model.safetensors").read_bytes()
    assert (first / "model.safetensors").read_bytes() != (saved_policy / "model.safetensors").read_bytes()
    assert whole.metrics()[-1]["kl"] != 0  # an estimate on eight responses, so it may lie below 0


@pytest.mark.slow
def test_a_function_of_ones_own_can_be_what_is_learned(snapshot, workspace, saved_policy, tmp_path, monkeypatch):
    source = "def any_end(prompts, responses):\n    return [1.0] * len(responses)\n"
    (tmp_path / "judge_of_ends.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    run = new_run(workspace)
    config = config_for(snapshot, **BIG_STEPS, kl_coef=0.01, value_init="reference")

    ppo.main(replace(config, reward="", reward_function=("judge_of_ends:any_end=2",)), run, workspace)

    lines = run.metrics()
    assert lines[0]["function_judge_of_ends:any_end"] == 1.0 and lines[0]["reward"] == 2.0
    assert lines[-1]["ended"] > lines[0]["ended"] + 0.3  # what is cut off is worth -1
    assert checkpoints.read_manifest(workspace.checkpoints / run.id)["parents"] == ["pretrain-0001"]


@pytest.mark.slow
def test_the_first_batch_of_a_policy_that_is_not_the_reference_has_a_kl(
    snapshot, workspace, saved_policy, judge_checkpoint
):
    first = new_run(workspace)
    ppo.main(config_for(snapshot, steps=8, kl_coef=0.0), first, workspace)
    config = config_for(snapshot)
    options = {field: getattr(config, field) for field in config.__dataclass_fields__} | {"init": first.id}
    second = new_run(workspace)

    ppo.main(Config(**options), second, workspace)

    assert abs(second.metrics()[0]["kl"]) > 0.01  # an estimate from eight responses: its sign is chance
    assert second.metrics()[0]["ratio_first"] == pytest.approx(1.0, abs=1e-3)


def test_the_defaults_are_those_of_the_originals():
    config = a_config()

    assert (config.gamma, config.lam, config.clip, config.value_clip) == (1.0, 0.95, 0.2, 0.2)
    assert (config.lr_schedule, config.max_grad_norm, config.missing_end_score) == ("linear", 1.0, -1.0)
    assert (config.epochs, config.temperature, config.kl_coef, config.kl_horizon) == (4, 1.0, 0.05, 10_000)
    assert (config.value_coef, config.whiten_rewards, config.value_init) == (0.5, False, None)


@pytest.mark.slow
def test_a_run_at_another_temperature_samples_and_judges_at_it(snapshot, workspace, saved_policy, judge_checkpoint):
    run = new_run(workspace)

    ppo.main(config_for(snapshot, temperature=0.5), run, workspace)

    lines = run.metrics()
    assert [line["ratio_first"] for line in lines] == [1.0] * 3  # to the last bit: the same microbatches
    assert all(line["logprob_gap"] < 1e-3 for line in lines)
    assert [line["learning_rate"] for line in lines] == pytest.approx([3e-3, 2e-3, 1e-3])


@pytest.mark.slow
def test_responses_decoded_a_few_at_once_are_the_same(snapshot, workspace, saved_policy, judge_checkpoint, monkeypatch):
    sizes = []

    def watched(*given, **options):
        sizes.append(options["batch_size"])
        return engine_sample(*given, **options)

    engine_sample, runs = engine.sample, (new_run(workspace), new_run(workspace))
    monkeypatch.setattr(engine, "sample", watched)
    for run, some in zip(runs, (0, 3), strict=True):
        ppo.main(config_for(snapshot, steps=1, sampling_batch=some), run, workspace)

    assert sizes == [8, 8, 3, 3]  # each run's units, and its one batch
    one, other = ((run.path / "samples.jsonl").read_text().splitlines() for run in runs)
    assert [json.loads(line)["response"] for line in one] == [json.loads(line)["response"] for line in other]


@pytest.mark.slow
def test_what_a_step_hands_on_is_what_the_next_one_goes_by(
    snapshot, workspace, saved_policy, judge_checkpoint, monkeypatch
):
    seen, told, run = [], [], new_run(workspace)

    def watched(rollouts, carried, config):
        seen.append(carried)
        return rewards_of(rollouts, carried, config)

    def told_of(kl_coef, kl, config, step):
        told.append(kl)
        return next_kl_coef(kl_coef, kl, config, step)

    monkeypatch.setattr(ppo, "rewards_of", watched)
    monkeypatch.setattr(ppo, "next_kl_coef", told_of)
    ppo.main(config_for(snapshot, kl_target=1e6, kl_horizon=8, running_scale=True), run, workspace)

    # always far under the target: 0.05 * (1 - 0.2 * 8 / 8) and so on; eight more scores in each step
    assert [one.kl_coef for one in seen] == pytest.approx([0.05, 0.04, 0.032])
    assert [one.scale.count for one in seen] == [0, 8, 16]
    assert told == pytest.approx([line["kl"] for line in run.metrics()])  # per response, as its target is


@pytest.mark.slow
def test_with_a_moving_average_that_is_what_is_saved(snapshot, workspace, saved_policy, judge_checkpoint):
    plain, slow, still = (new_run(workspace) for _ in range(3))
    ppo.main(config_for(snapshot), plain, workspace)
    ppo.main(config_for(snapshot, ema=0.0), slow, workspace)
    ppo.main(config_for(snapshot, ema=1 - 1e-9), still, workspace)

    files = {run: (workspace.checkpoints / run.id / "model.safetensors").read_bytes() for run in (plain, slow)}
    assert files[plain] == files[slow]  # an average that forgets at once is the policy
    began, ended = (AutoModelForCausalLM.from_pretrained(p) for p in (saved_policy, workspace.checkpoints / still.id))
    torch.testing.assert_close(ended.state_dict(), began.state_dict())  # one that never forgets has not moved


@pytest.mark.slow
def test_the_old_log_probs_are_taken_in_the_microbatches_that_learn_first(
    snapshot, workspace, saved_policy, judge_checkpoint, monkeypatch
):
    seen, judge = [], ppo.judge

    def watched(models, sampled, prompts, groups, **more):
        seen.append((sampled, groups))
        return judge(models, sampled, prompts, groups, **more)

    monkeypatch.setattr(ppo, "judge", watched)
    config = config_for(snapshot, steps=1)

    ppo.main(config, new_run(workspace), workspace)

    ((sampled, groups),) = seen
    wanted = ppo.first_microbatches(sampled, config, 0)
    assert [rows.tolist() for rows in groups] == [rows.tolist() for rows in wanted]


def test_a_running_scale_divides_and_never_shifts():
    before = carried(scale=RunningScale(2, 1.0, 2.0))  # two scores, 0 and 2

    rewards, scale = rewards_of(rollouts_with([5.0, -1.0]), before, a_config(running_scale=True))

    # 0, 2, 5, -1: mean 1.5, squared deviations 2.25 + 0.25 + 12.25 + 6.25 = 21, standard deviation sqrt(5.25)
    assert (scale.mean, scale.squares) == (1.5, 21.0)
    torch.testing.assert_close(rewards, torch.tensor([[0.0, 5 / 5.25**0.5], [-1 / 5.25**0.5, 0.0]]))


def test_a_run_that_had_moved_too_far_when_it_was_stopped_makes_no_step_more(
    snapshot, workspace, saved_policy, judge_checkpoint, monkeypatch
):
    run, config = new_run(workspace), config_for(snapshot, steps=50, kl_coef=0.0, stop_kl=0.05)
    monkeypatch.setattr(ppo.Progress, "stop_requested", property(lambda progress: run.metrics()[-1]["kl"] > 0.05))
    with pytest.raises(Cancelled):
        ppo.main(config, run, workspace)
    steps = len(run.metrics())
    monkeypatch.undo()

    ppo.main(config, run, workspace)

    assert len(run.metrics()) == steps and run.state()["state"] == "done"
    assert run.state()["metrics"]["kl"] == run.metrics()[-1]["kl"]


@pytest.mark.slow
def test_each_step_asks_its_own_prompts_and_draws_with_numbers_of_its_own(
    snapshot, workspace, saved_policy, judge_checkpoint, monkeypatch
):
    seen, sample = [], ppo.sample

    def watched(policy, tokens, asked, sampling, generator):
        seen.append(([tuple(ids) for ids in asked], generator.initial_seed()))
        return sample(policy, tokens, asked, sampling, generator)

    monkeypatch.setattr(ppo, "sample", watched)

    ppo.main(config_for(snapshot, steps=3, batch_size=4), new_run(workspace), workspace)

    _, *steps = seen  # the first are the reference's own, for the units
    asked = [ids for prompts, _ in steps for ids in prompts]
    assert len(set(asked[:6])) == len(set(asked[6:])) == 6  # six prompts, twice each in three steps of four
    assert len({seed for _, seed in seen}) == 4


@pytest.mark.parametrize(("bf16", "precision"), [(True, "bf16"), (False, "no"), (None, "no")])
def test_forward_passes_are_in_bf16_where_it_is_asked_for(snapshot, workspace, run, monkeypatch, bf16, precision):
    asked = []
    monkeypatch.setattr(ppo, "Accelerator", lambda mixed_precision: asked.append(mixed_precision) or 1 / 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)

    with pytest.raises(ZeroDivisionError):
        ppo.train_by_ppo(a_config(bf16=bf16), run, workspace, snapshot)

    assert asked == [precision]
