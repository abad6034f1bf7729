"""The models of PPO: how they are loaded, and what they say of responses."""

import shutil
from pathlib import Path

import pytest
import torch

from data import datasets
from data.errors import InvalidInput
from training import checkpoints, ppo_models, tokenizer
from training.engine import largest_gap
from training.model import scalar_from_policy, scores, token_values
from training.ppo import Config, first_carried, judge_options
from training.ppo_models import judge, reference_logprobs, speak_in_units
from training.rewards import ScoreUnit, Units
from training.rollouts import Sampling, sample

pytestmark = pytest.mark.slow

CPU = torch.device("cpu")


@pytest.fixture
def judge_checkpoint(workspace, saved_policy, words):
    """checkpoints/reward-0001: a reward model with a random head, whose demonstrations score 2."""
    torch.manual_seed(3)
    model = scalar_from_policy(saved_policy, words)
    model.config.score_offset = 2.0
    fields = {"parents": ["pretrain-0001"], "snapshot": None, "config": {}, "metrics": {}, "seed": 0}
    return checkpoints.save(
        workspace.checkpoints, "reward-0001", stage="reward", model=model, tokenizer=words, **fields
    )


@pytest.fixture
def load(workspace, judge_checkpoint):
    """Loads the models of a configuration."""

    def loaded(**changes):
        chosen = {"init": "pretrain-0001", "reference": "pretrain-0001", "reward": "reward-0001"} | changes
        config = Config(Path("s"), **chosen)
        return ppo_models.load(config, judge_options(config), workspace, CPU)

    return loaded


@pytest.fixture
def responses(load, snapshot, words):
    """Models with units, six prompts and a response of the policy to each."""
    models = load()
    models = models.__class__(**(vars(models) | {"rewards": models.rewards.in_units(Units((ScoreUnit(0, 1),), 8.0))}))
    prompts = [(p, tokenizer.prompt_ids(words, p.messages)) for p in datasets.prompts(snapshot, "train")]
    generator = torch.Generator().manual_seed(0)
    sampled = sample(models.policy, words, [ids for _, ids in prompts], Sampling(8, 0.8, 16), generator)
    return models, prompts, sampled


def moved(model):
    """The model, changed as if it had learned something."""
    torch.manual_seed(9)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight += 0.3 * torch.randn_like(weight)


def test_dropout_is_off_in_every_model_and_the_judges_are_frozen(load):
    models = load()

    everyone = [models.policy, models.reference, models.value, *models.rewards.models.values()]
    assert len(everyone) == 4 and not any(module.training for model in everyone for module in model.modules())
    assert all(weight.requires_grad for model in (models.policy, models.value) for weight in model.parameters())
    frozen = [models.reference, *models.rewards.models.values()]
    assert not any(weight.requires_grad for model in frozen for weight in model.parameters())


def test_padding_is_not_the_end_of_a_response(load):
    tokens = load().tokens

    assert tokens.pad_token_id is not None and tokens.pad_token_id != tokens.eos_token_id


def test_the_value_model_starts_as_the_reward_model_in_the_units_of_scores(load):
    models = load()
    ids, mask = torch.tensor([[7, 8, 9]]), torch.ones(1, 3, dtype=torch.long)
    raw = scores(models.rewards.models["reward-0001"], ids, mask) - 2.0  # its offset

    speak_in_units(models.value, ScoreUnit(mean=0.5, std=4.0), reward_weight=3.0)

    torch.testing.assert_close(token_values(models.value, ids, mask)[:, -1], 3.0 * (raw - 0.5) / 4.0)


def test_the_value_model_can_start_at_zero_from_the_reference(load):
    models = load(value_init="reference")

    assert not token_values(models.value, torch.tensor([[7, 8, 9]]), None).any()
    torch.testing.assert_close(models.value.model.norm.weight, models.reference.model.norm.weight)


def test_without_a_reward_model_the_value_model_starts_at_zero_from_the_reference(load):
    models = load(reward="operator:length_hint")

    assert not token_values(models.value, torch.tensor([[7, 8, 9]]), None).any()
    with pytest.raises(InvalidInput, match="--value-init reference"):
        load(reward="operator:length_hint", value_init="reward")


def test_a_policy_is_no_reward_model_and_a_reward_model_no_policy(load):
    with pytest.raises(InvalidInput, match="pretrain-0001 is no reward model: it has no scalar head"):
        load(reward="pretrain-0001")
    with pytest.raises(InvalidInput, match="reward-0001 is a reward model and cannot speak"):
        load(init="reward-0001")


@pytest.mark.parametrize("which", ["reference", "reward"])
def test_models_of_another_vocabulary_are_refused(load, workspace, saved_policy, which):
    other = tokenizer.train(["Quite other words than these were."] * 20, 280)
    name = "reward-0001"
    changes = {}
    if which == "reference":
        shutil.copytree(saved_policy, workspace.root / "elsewhere")
        name, changes = str(workspace.root / "elsewhere"), {}
    other.save_pretrained(name if which == "reference" else workspace.checkpoints / name)

    with pytest.raises(InvalidInput, match="another vocabulary"):
        if which == "reference":
            config = Config(Path("s"), "pretrain-0001", name, "reward-0001")
            ppo_models.load(config, judge_options(config), workspace, CPU)
        else:
            load(**changes)


def test_a_policy_judged_by_itself_has_a_kl_of_exactly_zero(responses):
    models, prompts, sampled = responses

    rollouts, found = judge(models, sampled, prompts, sampled.groups(3), temperature=0.8, microbatch=3)

    assert rollouts.kl.tolist() == [0.0] * 6
    assert found["reward"] == pytest.approx(rollouts.scores.mean().item())
    assert not (rollouts.values[~rollouts.is_response].any() or rollouts.entropy[~rollouts.is_response].any())


def test_the_log_probs_that_count_are_the_trainers_and_the_gap_to_the_engines_is_kept(responses):
    models, prompts, sampled = responses
    off = sampled.old_logprobs.clone()
    off[2, 0] -= 0.5  # an engine that is wrong about one token
    wrong = type(sampled)(**(vars(sampled) | {"old_logprobs": off}))

    right, _ = judge(models, sampled, prompts, sampled.groups(3), temperature=0.8, microbatch=3)
    found, _ = judge(models, wrong, prompts, sampled.groups(3), temperature=0.8, microbatch=3)

    assert torch.equal(found.old_logprobs, right.old_logprobs)
    assert largest_gap(found.engine_logprobs, found.old_logprobs, found.is_response) == pytest.approx(0.5, abs=1e-4)
    assert largest_gap(right.engine_logprobs, right.old_logprobs, right.is_response) < 1e-4


def test_the_reference_does_not_follow_the_policy(responses):
    models, prompts, sampled = responses
    groups = sampled.groups(3)
    before = reference_logprobs(models, groups, sampled, temperature=0.8)

    moved(models.policy)

    assert torch.equal(reference_logprobs(models, groups, sampled, temperature=0.8), before)
    rollouts, _ = judge(models, sampled, prompts, groups, temperature=0.8, microbatch=3)
    assert rollouts.kl.abs().min() > 1e-3


def test_with_lora_the_reference_is_the_policy_without_its_adapter(load, responses):
    plain, prompts, sampled = responses
    groups = sampled.groups(3)
    models = load(lora_rank=2)
    models = models.__class__(**(vars(models) | {"rewards": plain.rewards}))
    moved(models.policy)

    rollouts, _ = judge(models, sampled, prompts, groups, temperature=0.8, microbatch=3)

    assert models.reference is models.policy
    wanted = reference_logprobs(plain, groups, sampled, temperature=0.8)
    torch.testing.assert_close(rollouts.ref_logprobs, wanted)
    assert rollouts.kl.abs().min() > 1e-3
    learned = {name.split(".")[-2] for name, w in models.policy.named_parameters() if w.requires_grad}
    assert learned == {"default"}  # the adapter's weights alone
    assert models.value.score.weight.requires_grad and models.value.score.bias.requires_grad


def test_with_lora_the_policy_must_start_from_the_reference(load, workspace, saved_policy):
    shutil.copytree(saved_policy, workspace.root / "elsewhere")
    config = Config(Path("s"), str(workspace.root / "elsewhere"), "pretrain-0001", "reward-0001", lora_rank=2)

    with pytest.raises(InvalidInput, match="--lora-rank 0"):
        ppo_models.load(config, judge_options(config), workspace, CPU)


def test_units_are_those_of_the_references_responses_and_the_value_model_starts_in_them(load, responses):
    _, prompts, _ = responses
    models, ids = load(), torch.tensor([[7, 8, 9]])
    config = Config(Path("s"), "a", "b", "c", batch_size=6, minibatch_size=6, max_new_tokens=8)
    with torch.no_grad():
        raw = token_values(models.value, ids, None) - 2.0  # the reward model's offset

    (unit,) = first_carried(models, prompts, config).units.models

    torch.testing.assert_close(token_values(models.value, ids, None), (raw - unit.mean) / unit.std)
    moved(models.policy)
    assert first_carried(models, prompts, config).units.models == (unit,)


def test_the_value_model_starts_at_the_weight_that_the_reward_models_have(load, responses):
    _, prompts, _ = responses
    models, ids = load(reward_weight=3.0), torch.tensor([[7, 8, 9]])
    config = Config(Path("s"), "a", "b", "c", batch_size=6, minibatch_size=6, max_new_tokens=8, reward_weight=3.0)
    with torch.no_grad():
        raw = token_values(models.value, ids, None) - 2.0

    (unit,) = first_carried(models, prompts, config).units.models

    torch.testing.assert_close(token_values(models.value, ids, None), 3.0 * (raw - unit.mean) / unit.std)


def test_a_value_model_from_the_reference_still_says_zero_in_any_unit(load, responses):
    _, prompts, _ = responses
    models = load(value_init="reference")
    config = Config(Path("s"), "a", "b", "c", batch_size=6, minibatch_size=6, max_new_tokens=8, value_init="reference")

    first_carried(models, prompts, config)

    assert not token_values(models.value, torch.tensor([[7, 8, 9]]), None).any()


def test_with_lora_the_value_model_learns_an_adapter_and_its_head(load):
    value = load(lora_rank=2).value

    learned = {name.split(".")[-2] for name, weight in value.named_parameters() if weight.requires_grad}
    assert learned == {"default", "score"}


def test_the_value_model_starts_as_the_first_of_several_reward_models(load, workspace, saved_policy, words):
    torch.manual_seed(4)
    fields = {"parents": [], "snapshot": None, "config": {}, "metrics": {}, "seed": 0}
    other = scalar_from_policy(saved_policy, words)
    checkpoints.save(workspace.checkpoints, "reward-0002", stage="reward", model=other, tokenizer=words, **fields)

    models = load(reward="reward-0001,reward-0002")

    assert torch.equal(models.value.score.weight, models.rewards.models["reward-0001"].score.weight)
