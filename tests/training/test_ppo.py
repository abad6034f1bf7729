import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from transformers import AutoModelForCausalLM

from data import datasets
from data.errors import InvalidInput
from data.runs import RunFolder
from training import checkpoints, engine, ppo, tokenizer
from training.model import scalar_from_policy
from training.ppo import Config, ScoreUnit, adapted, check_first_ratio, outcomes_of, prompts_of_step
from training.rollouts import Rollouts, assemble

ROOT = Path(__file__).parents[2]


@pytest.fixture
def judge_checkpoint(workspace, saved_policy, words):
    """checkpoints/reward-0001: a reward model with a random head."""
    torch.manual_seed(3)
    model = scalar_from_policy(saved_policy, words)
    return checkpoints.save(
        workspace.checkpoints,
        "reward-0001",
        stage="reward",
        parents=["pretrain-0001"],
        snapshot=None,
        model=model,
        tokenizer=words,
        config={},
        metrics={},
        seed=0,
    )


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


def rollouts_with(scores, ended):
    samples = engine.Samples([[1]] * len(scores), [[0.0]] * len(scores), ended)
    sampled = assemble([[5]] * len(scores), samples, 0, torch.device("cpu"))
    zeros = torch.zeros(len(scores), 1)
    return Rollouts(**vars(sampled), ref_logprobs=zeros, scores=torch.tensor(scores), values=zeros)


def test_scores_are_in_standard_deviations_of_the_references_own_responses():
    assert ScoreUnit(mean=2.0, std=4.0).convert(torch.tensor([2.0, 10.0])).tolist() == [0.0, 2.0]


def test_a_response_that_was_cut_off_gets_the_bad_score_in_place_of_its_own():
    rollouts = rollouts_with([5.0, 1.0, 2.0], [False, True, True])

    # in units: 4, 0, 1; the least is 0, so the configured -1 counts
    assert outcomes_of(rollouts, ScoreUnit(1.0, 1.0), a_config(missing_end_score=-1.0)).tolist() == [-1.0, 0.0, 1.0]


def test_a_response_that_was_cut_off_never_beats_one_that_ended():
    rollouts = rollouts_with([5.0, -3.0], [False, True])

    assert outcomes_of(rollouts, ScoreUnit(0.0, 1.0), a_config(missing_end_score=-1.0)).tolist() == [-3.0, -3.0]


def test_the_kl_coefficient_follows_its_target_by_a_clipped_error():
    config = a_config(kl_target=6.0, kl_horizon=1000, batch_size=100, minibatch_size=100)

    assert adapted(0.1, 6.6, config) == pytest.approx(0.1 * (1 + 0.1 * 100 / 1000))
    assert adapted(0.1, 60.0, config) == pytest.approx(0.1 * (1 + 0.2 * 100 / 1000))
    assert adapted(0.1, 0.0, config) == pytest.approx(0.1 * (1 - 0.2 * 100 / 1000))


def test_without_a_target_the_kl_coefficient_stays():
    assert adapted(0.1, 60.0, a_config()) == 0.1


def test_every_prompt_comes_once_before_any_comes_again():
    config = a_config(batch_size=4, minibatch_size=4)
    prompts = [(name, []) for name in "abcdef"]

    seen = [name for step in range(3) for name, _ in prompts_of_step(prompts, config, step)]

    assert sorted(seen[:6]) == list("abcdef") and sorted(seen[6:]) == list("abcdef")
    assert seen[:6] != seen[6:]


def test_a_step_with_more_responses_than_prompts_repeats_them():
    config = a_config(batch_size=8, minibatch_size=8)

    chosen = prompts_of_step([("a", []), ("b", [])], config, 0)

    assert sorted(name for name, _ in chosen) == ["a"] * 4 + ["b"] * 4


def test_a_first_ratio_off_one_is_an_error():
    check_first_ratio(1e-5)
    with pytest.raises(ArithmeticError, match="disagree about the policy"):
        check_first_ratio(0.01)


def test_minibatches_must_divide_the_batch():
    with pytest.raises(ValueError, match="not a multiple"):
        a_config(batch_size=10, minibatch_size=4)


def test_long_prompts_are_left_out(snapshot, words):
    prompts = datasets.prompts(snapshot, "train")
    longest = max(len(tokenizer.prompt_ids(words, prompt.messages)) for prompt in prompts)

    kept = ppo.encoded_prompts(prompts, words, longest - 1)

    assert 0 < len(kept) < len(prompts)
    assert all(len(ids) < longest for _, ids in kept)


def test_samples_of_steps_to_be_made_again_are_dropped(run):
    path = run.path / "samples.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"step": 4, "resp')

    ppo.forget_samples_after(run, 2)

    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]


@pytest.mark.slow
def test_microbatches_change_no_gradient(snapshot, workspace, saved_policy, judge_checkpoint):
    """One update with microbatches of 2 equals one with the whole minibatch, unequal lengths included."""
    weights = []
    for microbatch in (2, 8):
        run = new_run(workspace)
        ppo.main(config_for(snapshot, steps=1, minibatch_size=8, epochs=1, microbatch=microbatch), run, workspace)
        weights.append(AutoModelForCausalLM.from_pretrained(workspace.checkpoints / run.id).state_dict())

    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], atol=1e-5, rtol=1e-4)


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
    expected = "reward kl entropy length ended clip_fraction policy_loss value_loss explained_variance kl_coef"
    assert set(expected.split()) <= lines[0].keys()
    samples = [json.loads(line) for line in (run.path / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 3 * ppo.SAMPLES_SHOWN
    assert samples[0].keys() == {"step", "prompt", "response", "score", "kl"}


@pytest.mark.slow
@pytest.mark.parametrize("value_init", ["reference", "reward"])
def test_the_reward_rises(snapshot, workspace, saved_policy, judge_checkpoint, value_init):
    run = new_run(workspace)
    config = config_for(snapshot, **BIG_STEPS, kl_coef=0.01, value_init=value_init)

    ppo.main(config, run, workspace)

    lines = run.metrics()
    first, last = (sum(line["reward"] for line in part) / 3 for part in (lines[:3], lines[-3:]))
    assert last > first + 1.0  # one standard deviation of the reference's scores


@pytest.mark.slow
def test_a_heavy_kl_penalty_keeps_the_policy_near_the_reference(snapshot, workspace, saved_policy, judge_checkpoint):
    moved = []
    for kl_coef in (0.01, 10.0):
        run = new_run(workspace)
        ppo.main(config_for(snapshot, **BIG_STEPS, kl_coef=kl_coef), run, workspace)
        moved.append(run.metrics()[-1]["kl"])

    assert moved[1] < moved[0] / 3


@pytest.mark.slow
def test_a_run_ends_early_when_it_has_moved_too_far(snapshot, workspace, saved_policy, judge_checkpoint):
    run = new_run(workspace)

    ppo.main(config_for(snapshot, steps=50, kl_coef=0.0, stop_kl=0.05), run, workspace)

    assert run.state()["state"] == "done"
    assert len(run.metrics()) < 50 and run.metrics()[-1]["kl"] > 0.05


@pytest.mark.slow
def test_models_of_another_vocabulary_are_refused(snapshot, workspace, saved_policy, judge_checkpoint, words):
    words_path = workspace.checkpoints / "reward-0001"
    other = tokenizer.train(["Quite other words than these were."] * 20, 280)
    other.save_pretrained(words_path)

    with pytest.raises(InvalidInput, match="another vocabulary"):
        ppo.main(config_for(snapshot), new_run(workspace), workspace)


@pytest.mark.slow
def test_the_first_batch_of_a_policy_that_is_not_the_reference_has_a_kl(
    snapshot, workspace, saved_policy, judge_checkpoint
):
    first = new_run(workspace)
    ppo.main(config_for(snapshot, steps=8, kl_coef=0.0), first, workspace)
    config = config_for(snapshot)
    options = {field: getattr(config, field) for field in config.__dataclass_fields__} | {"init": first.id}
    second = new_run(workspace)

    ppo.learn(
        ppo.load_models(Config(**options), workspace, torch.device("cpu")),
        ppo.encoded_prompts(datasets.prompts(snapshot, "train"), tokenizer.load(workspace.checkpoints / first.id), 512),
        Config(**options),
        second,
        Accelerator(),
    )

    assert second.metrics()[0]["kl"] > 0.01
    assert second.metrics()[0]["ratio_first"] == pytest.approx(1.0, abs=1e-3)


# One thread, so that sums are added in one order; what is compared is then equal to the last bit.
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def start(workspace, *arguments):
    command = [sys.executable, "-m", "training", "ppo", "--workspace", str(workspace.root), *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process):
    _, errors = process.communicate(timeout=240)
    return process.returncode, errors


def wait_for_step(run, step, process):
    while not any(line["step"] >= step for line in run.metrics()):
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


@pytest.mark.slow
def test_a_run_that_was_killed_and_terminated_ends_with_the_weights_of_one_that_was_not(
    snapshot, workspace, saved_policy, judge_checkpoint
):
    options = ["--snapshot", str(snapshot.path), "--init", "pretrain-0001", "--reference", "pretrain-0001"]
    options += ["--reward", "reward-0001", "--steps", "40", "--batch-size", "16", "--minibatch-size", "8"]
    options += ["--microbatch", "4", "--max-new-tokens", "8", "--learning-rate", "1e-3", "--kl-target", "2"]
    options += ["--save-every", "4"]
    code, errors = finish(start(workspace, "--run", "ppo-0001", *options))
    assert code == 0, errors
    run = RunFolder(workspace.runs / "ppo-0002")

    process = start(workspace, "--run", run.id, *options)
    wait_for_step(run, 6, process)
    process.kill()
    assert finish(process)[0] == -signal.SIGKILL
    process = start(workspace, "--resume", run.id)
    wait_for_step(run, 14, process)
    process.terminate()
    assert finish(process)[0] == 143
    assert run.state()["state"] == "cancelled" and not (workspace.checkpoints / run.id).exists()
    code, errors = finish(start(workspace, "--resume", run.id))

    assert code == 0, errors
    whole, resumed = (workspace.checkpoints / name / "model.safetensors" for name in ("ppo-0001", "ppo-0002"))
    assert whole.read_bytes() == resumed.read_bytes()
    shown = [
        [{k: v for k, v in line.items() if "seconds" not in k and k != "time"} for line in r.metrics()]
        for r in (RunFolder(workspace.runs / "ppo-0001"), run)
    ]
    assert sorted(shown[0], key=lambda line: line["step"]) == sorted(shown[1], key=lambda line: line["step"])
    texts = [(workspace.runs / name / "samples.jsonl").read_text() for name in ("ppo-0001", "ppo-0002")]
    assert texts[0] == texts[1]
