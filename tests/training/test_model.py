import math

import pytest
import torch
from transformers import AutoModelForSequenceClassification, GPT2Config, GPT2LMHeadModel

from training import checkpoints, model
from training.model import (
    fit_to_tokenizer,
    load_policy,
    load_scalar,
    logprobs_and_entropy,
    logprobs_of,
    positions_of,
    scalar_from_policy,
    scores,
    token_values,
)

ROW = [7, 9, 30, 41, 12]
RIGHT = (torch.tensor([[*ROW, 0, 0]]), torch.tensor([[1, 1, 1, 1, 1, 0, 0]]))
LEFT = (torch.tensor([[0, 0, *ROW]]), torch.tensor([[0, 0, 1, 1, 1, 1, 1]]))
BARE = (torch.tensor([ROW]), torch.ones(1, 5, dtype=torch.long))


def reference_logprobs(policy, temperature=1.0):
    """By the plain way: full logits, log-softmax, gather."""
    ids, mask = BARE
    logits = policy(input_ids=ids, attention_mask=mask).logits / temperature
    return logits.log_softmax(-1)[:, :-1].gather(-1, ids[:, 1:, None]).squeeze(-1)


def test_positions_count_real_tokens_only():
    assert positions_of(torch.tensor([[0, 0, 1, 1], [1, 1, 1, 0]])).tolist() == [[0, 0, 0, 1], [0, 1, 2, 2]]


def test_a_new_policy_pads_and_ends_as_its_tokenizer_does(policy, words):
    assert policy.config.pad_token_id == policy.generation_config.pad_token_id == words.pad_token_id
    assert policy.config.eos_token_id == policy.generation_config.eos_token_id == words.eos_token_id
    # 300 x 16 tied embeddings; a layer: q 16x16, k and v 8x16 each, o 16x16, three of 32x16, two norms; a last norm
    assert sum(p.numel() for p in policy.parameters()) == 4800 + 2 * (256 + 256 + 256 + 1536 + 32) + 16


@torch.no_grad()
def test_logprobs_are_those_of_the_next_token(policy):
    torch.testing.assert_close(logprobs_of(policy, *BARE), reference_logprobs(policy))


@torch.no_grad()
def test_temperature_divides_the_logits(policy):
    torch.testing.assert_close(logprobs_of(policy, *BARE, temperature=0.5), reference_logprobs(policy, 0.5))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["rotary", "learned"])
def test_padding_on_either_side_leaves_the_logprobs_as_they_are(policy, kind):
    if kind == "learned":  # positions counted from the padding would change everything here
        torch.manual_seed(0)
        policy = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5))
        policy.eval()
    alone = logprobs_of(policy, *BARE)

    torch.testing.assert_close(logprobs_of(policy, *LEFT)[:, 2:], alone)
    torch.testing.assert_close(logprobs_of(policy, *RIGHT)[:, :4], alone)


@pytest.mark.parametrize("most", [1, 2 * 300])  # a slice of one position, of two
def test_slices_change_neither_the_logprobs_nor_the_gradients(policy, monkeypatch, most):
    whole = logprobs_of(policy, *BARE)
    whole.sum().backward()
    wanted = policy.model.layers[0].mlp.up_proj.weight.grad.clone()
    policy.zero_grad()
    monkeypatch.setattr(model, "MAX_LOGITS", most)

    sliced = logprobs_of(policy, *BARE)
    sliced.sum().backward()

    torch.testing.assert_close(sliced, whole)
    torch.testing.assert_close(policy.model.layers[0].mlp.up_proj.weight.grad, wanted)


@torch.no_grad()
def test_a_model_that_knows_nothing_has_the_entropy_of_its_vocabulary(policy):
    policy.get_output_embeddings().weight.zero_()

    logprobs, entropy = logprobs_and_entropy(policy, *BARE)

    torch.testing.assert_close(entropy, torch.full((1, 4), math.log(300)))
    torch.testing.assert_close(logprobs, torch.full((1, 4), -math.log(300)))


@torch.no_grad()
def test_a_model_that_rescales_its_logits_is_asked_for_them(policy):
    policy.config.logits_scaling = 2.0  # Granite's way; Llama's forward ignores it, which shows who made the logits

    torch.testing.assert_close(logprobs_of(policy, *BARE), reference_logprobs(policy))


@torch.no_grad()
def test_the_score_is_read_at_the_last_real_token_on_either_side_of_padding(saved_policy):
    scalar = scalar_from_policy(saved_policy).eval()
    at_end = token_values(scalar, *BARE)[:, -1]

    torch.testing.assert_close(scores(scalar, *LEFT), at_end)
    torch.testing.assert_close(scores(scalar, *RIGHT), at_end)
    # plain transformers, which takes the last token that is not padding, agrees
    torch.testing.assert_close(scalar(input_ids=RIGHT[0], attention_mask=RIGHT[1]).logits.squeeze(-1), at_end)


def test_a_scalar_model_has_the_policys_backbone_and_a_head_of_the_right_size(saved_policy, policy):
    torch.manual_seed(0)
    heads = torch.cat([scalar_from_policy(saved_policy).score.weight for _ in range(60)])
    scalar = scalar_from_policy(saved_policy)

    torch.testing.assert_close(scalar.model.embed_tokens.weight, policy.model.embed_tokens.weight)
    # 960 draws of N(0, 1/17): the standard deviation is within 4 of its standard errors, 0.2425 / sqrt(1920) = 0.0055
    assert heads.std().item() == pytest.approx(1 / math.sqrt(17), abs=0.022)
    assert scalar_from_policy(saved_policy, zero_head=True).score.weight.abs().sum() == 0


def test_a_scalar_model_loads_back_with_no_missing_keys(saved_policy, workspace, words):
    scalar = scalar_from_policy(saved_policy)
    folder = checkpoints.save(
        workspace.checkpoints,
        "reward-0001",
        stage="reward",
        parents=["pretrain-0001"],
        snapshot=None,
        model=scalar,
        tokenizer=words,
        config={},
        metrics={},
        seed=0,
    )

    loaded, told = AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)

    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert loaded.config.num_labels == 1 and loaded.config.pad_token_id == words.pad_token_id
    torch.testing.assert_close(load_scalar(folder).score.weight, scalar.score.weight)


def test_new_tokens_get_embeddings_that_start_as_the_mean(words):
    torch.manual_seed(0)
    base = GPT2LMHeadModel(GPT2Config(vocab_size=290, n_embd=16, n_layer=1, n_head=2))
    old = base.get_input_embeddings().weight.clone()

    fitted = fit_to_tokenizer(base, words)

    assert fitted.get_input_embeddings().weight.shape == (300, 16)
    torch.testing.assert_close(fitted.get_input_embeddings().weight[:290], old)
    assert fitted.config.vocab_size == 300 and fitted.config.pad_token_id == words.pad_token_id


def test_a_folder_without_safetensors_is_refused(saved_policy):
    weights = saved_policy / "model.safetensors"
    torch.save({"anything": torch.zeros(1)}, saved_policy / "pytorch_model.bin")
    weights.unlink()

    with pytest.raises(OSError, match="safetensors"):
        load_policy(saved_policy)
