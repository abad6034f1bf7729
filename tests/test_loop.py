"""The whole loop, with a control that cannot pass by luck.

Two workspaces start from the same first checkpoint. Simulated labelers rank by a taste in one and by its opposite in
the other, with noise, through the HTTP API; each turns the loop once. On the same held-out prompts the first policy
must score higher on that taste than the second. (Before against after would be no proof: a model that merely learns
to stop can win either.)
"""

import json
import random
import shutil
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]  # the first test makes the models
OPPOSITES = [("prefers-short", "prefers-long"), ("prefers-vocabulary", "avoids-vocabulary")]
STEPS = {"prefers-short": 3, "prefers-vocabulary": 6}  # of PPO; the preset has 20 of twice the size
SMALL = {"reward.epochs": 1, "ppo.batch_size": 32, "ppo.minibatch_size": 32}
SMALL |= {"evaluate.samples": 2, "sample.prompts": 20}
SAMPLES = 4  # responses per held-out prompt and policy


@pytest.fixture(scope="module", params=OPPOSITES, ids=lambda pair: pair[0])
def turned(request, first_model, tmp_path_factory, running_app, pawl):
    """One cycle with a taste and one with its opposite, side by side."""
    folder = tmp_path_factory.mktemp("turned")
    asked = {"preset": "tiny", "overrides": {"ppo.steps": STEPS[request.param[0]], **SMALL}}

    def turn_the_loop(taste: str) -> dict:
        """150 rankings by a taste, then one cycle; returns how the cycle ended."""
        workspace = shutil.copytree(first_model, folder / taste)
        with running_app(workspace) as app:
            simulate = ["annotate", "simulate", "--workspace", workspace, "--labelers", 5, "--rankings", 150]
            pawl(*simulate, "--taste", taste, "--noise", 0.1)
            began = time.monotonic()
            cycle = app.owner.post("/cycles", json=asked).raise_for_status().json()["cycle_id"]
            while (status := app.owner.get(f"/cycles/{cycle}").json())["state"] in ("queued", "running"):
                assert time.monotonic() - began < 600, status
                time.sleep(2)
            return {**status, "seconds": time.monotonic() - began, "workspace": workspace, "cycle": cycle}

    with ThreadPoolExecutor(2) as pool:
        return request.param, list(pool.map(turn_the_loop, request.param))


def policy_of(end: dict) -> Path:
    runs = json.loads((end["workspace"] / "runs" / end["cycle"] / "state.json").read_text())["stages"]
    return end["workspace"] / "checkpoints" / next(entry["checkpoint"] for entry in runs if entry["stage"] == "ppo")


def responses(policy: Path, workspace: Path, seed: int) -> dict[str, list[str]]:
    """SAMPLES responses of a policy to each held-out prompt, by prompt id."""
    import torch

    from data import datasets, snapshots
    from training import engine, model, tokenizer

    snapshot = snapshots.load(next(iter(sorted((workspace / "snapshots").iterdir()))))
    prompts = datasets.prompts(snapshot, "heldout")
    words, weights = tokenizer.load(policy), model.load_policy(policy)
    ids = [tokenizer.prompt_ids(words, prompt.messages) for prompt in prompts for _ in range(SAMPLES)]
    samples = engine.sample(
        weights,
        ids,
        max_new_tokens=48,
        temperature=0.8,  # as the preset samples
        eos_id=words.eos_token_id,
        pad_id=words.pad_token_id,
        generator=torch.Generator().manual_seed(seed),
        batch_size=64,
    )
    texts = [words.decode(row, skip_special_tokens=True).strip() for row in samples.response_ids]
    return {prompt.id: texts[i * SAMPLES : (i + 1) * SAMPLES] for i, prompt in enumerate(prompts)}


def bootstrap_interval(differences: list[float], resamples: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of the mean, resampling prompts."""
    draw = random.Random(0)
    means = sorted(statistics.fmean(draw.choices(differences, k=len(differences))) for _ in range(resamples))
    return means[int(0.025 * resamples)], means[int(0.975 * resamples)]


def test_a_taste_and_its_opposite_pull_the_policy_apart(turned):
    from annotate.simulate import TASTES

    (taste, _), ends = turned
    utility = TASTES[taste]
    first, second = (responses(policy_of(end), end["workspace"], seed) for seed, end in enumerate(ends))

    differences = [
        statistics.fmean(map(utility, first[prompt])) - statistics.fmean(map(utility, second[prompt]))
        for prompt in first
    ]

    low, high = bootstrap_interval(differences)
    print(f"{taste}: {statistics.fmean(differences):.3f} [{low:.3f}, {high:.3f}] over {len(differences)} prompts")
    assert len(differences) >= 20
    assert low > 0, f"{taste}: the difference is {statistics.fmean(differences):.3f} [{low:.3f}, {high:.3f}]"


def test_a_cycle_ends_measured_in_under_six_minutes(turned):
    _, ends = turned

    for end in ends:
        print(f"{end['workspace'].name}: {end['state']} in {end['seconds']:.0f} s: {end['verdict']}")
        assert end["state"] in ("promoted", "rejected"), end
        assert end["seconds"] < 360
        assert end["verdict"] and end["metrics"]


def test_every_checkpoint_loads_with_plain_transformers_and_no_missing_keys(turned):
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

    _, ends = turned
    for folder in (ends[0]["workspace"] / "checkpoints").iterdir():
        stage = json.loads((folder / "pawl.json").read_text())["stage"]
        kind = AutoModelForSequenceClassification if stage == "reward" else AutoModelForCausalLM
        _, report = kind.from_pretrained(folder, output_loading_info=True)
        words = AutoTokenizer.from_pretrained(folder)

        assert not report["missing_keys"] and not report["unexpected_keys"], (folder.name, report)
        assert words.pad_token_id is not None and words.pad_token_id != words.eos_token_id
        assert words.chat_template
        assert not list(folder.glob("*.bin")) and not list(folder.glob("*.pt"))


def test_the_samples_of_the_model_in_force_wait_to_be_ranked(turned, running_app):
    _, ends = turned
    end = ends[0]

    with running_app(end["workspace"]) as app:
        model = app.owner.get("/health").json()["model"]
        labeler = app.owner.post("/users", json={"name": "ana", "role": "labeler"}).json()["token"]
        headers = {"Authorization": f"Bearer {labeler}"}
        task = app.owner.post("/tasks/next", json={"kind": "ranking"}, headers=headers).raise_for_status().json()
        rows = app.owner.get("/export/rankings", params={"format": "jsonl"}).text.splitlines()

    assert model == (policy_of(end).name if end["state"] == "promoted" else "sft-0001")
    assert len(task["responses"]) >= 2
    assert len(rows) == 150
