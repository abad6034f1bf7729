import math

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GraniteConfig,
)

from training import checkpoints, model
from training.model import (
    fit_to_tokenizer,
    layers_recomputed,
    load_policy,
    load_scalar,
    logprobs_and_entropy_at,
    logprobs_at,
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


@pytest.mark.parametrize("most", [1, 2 * 300, 3 * 300])  # slices of one position, of two, of three and one
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


def test_logprobs_are_made_for_the_tokens_asked_for_alone(policy):
    ids, mask = torch.tensor([ROW, ROW[::-1]]), torch.ones(2, 5, dtype=torch.long)
    asked = torch.tensor([[True, False, True, False, True], [False, False, False, True, False]])
    seen = []
    hook = policy.get_output_embeddings().register_forward_hook(lambda module, given, made: seen.append(made.shape))

    found = logprobs_at(policy, ids, mask, asked)
    hook.remove()

    whole = logprobs_of(policy, ids, mask)
    # the first token follows nothing; the others are targets 2 and 4 of the first row, 3 of the second
    torch.testing.assert_close(found, torch.stack([whole[0, 1], whole[0, 3], whole[1, 2]]))
    assert seen == [(3, 300)]


@torch.no_grad()
@pytest.mark.parametrize("kind", ["rotary", "learned"])
def test_without_a_mask_padding_on_the_right_leaves_the_logprobs_as_they_are(policy, kind):
    if kind == "learned":
        torch.manual_seed(0)
        policy = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2, initializer_range=0.5))
        policy.eval()

    torch.testing.assert_close(logprobs_of(policy, RIGHT[0], None)[:, :4], logprobs_of(policy, *BARE))


def test_no_tensor_over_batch_tokens_and_vocabulary_ever_exists(policy, monkeypatch, largest_tensor):
    monkeypatch.setattr(model, "MAX_LOGITS", 16 * 300)
    ids = torch.randint(6, 300, (8, 40))
    is_target = torch.zeros(8, 40, dtype=torch.bool)
    is_target[:, 20:] = True

    with largest_tensor as largest:
        logprobs_at(policy, ids, None, is_target, temperature=0.7).sum().backward()
        logprobs_and_entropy_at(policy, ids, None, is_target)

    # All tokens have 8 * 40 * 300 = 96,000 logits, the targets 8 * 20 * 300 = 48,000, a slice 16 * 300 = 4,800. The
    # widest activation is the feed-forward layer's, 8 * 40 * 32 = 10,240.
    assert 16 * 300 <= largest.numel <= 8 * 40 * 32


def test_logits_kept_for_the_backward_pass_are_one_slice(policy, monkeypatch):
    monkeypatch.setattr(model, "MAX_LOGITS", 16 * 300)
    ids = torch.randint(6, 300, (8, 40))
    kept = []

    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        logprobs_of(policy, ids, None).sum()

    assert not any(shape[-1] == 300 and len(shape) > 1 and shape[0] != 16 for shape in kept)


@pytest.mark.parametrize("kind", ["rotary", "learned"])
def test_recomputed_layers_give_the_same_gradients_keep_less_and_leave_dropout_off(policy, kind):
    if kind == "learned":
        torch.manual_seed(0)
        policy = GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=16, n_layer=2, n_head=2)).eval()  # dropout 0.1
    ids = torch.randint(6, 300, (4, 30))

    def gradient_and_kept():
        kept = []
        policy.zero_grad()
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            loss = logprobs_of(policy, ids, None).mean()
        loss.backward()
        return policy.get_input_embeddings().weight.grad.clone(), sum(kept)

    wanted, all_kept = gradient_and_kept()
    with layers_recomputed(policy):
        assert not policy.training
        found, few_kept = gradient_and_kept()

    torch.testing.assert_close(found, wanted)
    assert few_kept < 0.6 * all_kept
    assert not any(module.training for module in policy.modules())
    torch.testing.assert_close(gradient_and_kept()[0], wanted)


def test_a_model_without_layers_that_can_be_recomputed_is_named():
    with pytest.raises(ValueError, match="Linear has no layers"), layers_recomputed(torch.nn.Linear(1, 1)):
        pass


@torch.no_grad()
def test_a_model_that_knows_nothing_has_the_entropy_of_its_vocabulary(policy):
    policy.get_output_embeddings().weight.zero_()

    logprobs, entropy = logprobs_and_entropy_at(policy, *BARE, torch.ones(1, 5, dtype=torch.bool))

    torch.testing.assert_close(entropy, torch.full((4,), math.log(300)))
    torch.testing.assert_close(logprobs, torch.full((4,), -math.log(300)))


@torch.no_grad()
def test_the_entropy_is_that_of_the_distribution_at_the_temperature(policy):
    ids, mask = BARE
    for weight in policy.parameters():
        weight *= 3  # away from uniform

    _, entropy = logprobs_and_entropy_at(policy, ids, mask, torch.ones(1, 5, dtype=torch.bool), temperature=0.5)

    logits = policy(input_ids=ids, attention_mask=mask).logits[0, :4] / 0.5
    torch.testing.assert_close(entropy, torch.distributions.Categorical(logits=logits).entropy())


SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8}


@torch.no_grad()
@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(vocab_size=300, intermediate_size=16, final_logit_softcapping=0.05, **SMALL),
        CohereConfig(vocab_size=300, intermediate_size=16, logit_scale=7.0, **SMALL),
        GraniteConfig(vocab_size=300, intermediate_size=16, logits_scaling=0.1, **SMALL),
    ],
    ids=lambda config: config.model_type,
)
def test_a_model_that_rescales_its_logits_is_asked_for_them(config):
    torch.manual_seed(0)
    policy = AutoModelForCausalLM.from_config(config).eval()

    torch.testing.assert_close(logprobs_of(policy, *BARE), reference_logprobs(policy))
    last = torch.tensor([[False, False, False, True, True]])
    torch.testing.assert_close(logprobs_at(policy, *BARE, last), reference_logprobs(policy)[0, 2:])


@torch.no_grad()
def test_in_bf16_the_scalar_head_still_computes_in_fp32(saved_policy):
    scalar = scalar_from_policy(saved_policy).eval()
    ids, mask = BARE

    with torch.autocast("cpu", torch.bfloat16):
        found = token_values(scalar, ids, mask)
        hidden = scalar.base_model(input_ids=ids, attention_mask=mask).last_hidden_state

    assert found.dtype == torch.float32
    torch.testing.assert_close(found, hidden.float() @ scalar.score.weight[0], atol=1e-6, rtol=1e-5)


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
    heads = torch.cat([scalar_from_policy(saved_policy).score.weight for _ in range(15)])
    scalar = scalar_from_policy(saved_policy)

    torch.testing.assert_close(scalar.model.embed_tokens.weight, policy.model.embed_tokens.weight)
    # 240 draws of N(0, 1/17): the standard deviation is within 4 of its standard errors, 0.2425 / sqrt(480) = 0.011
    assert heads.std().item() == pytest.approx(1 / math.sqrt(17), abs=0.044)
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


def test_a_new_head_is_drawn_at_one_over_the_root_of_one_more_than_its_width(saved_policy, monkeypatch):
    monkeypatch.setattr(model.nn.init, "normal_", lambda weight, mean=0.0, std=1.0, **_: weight.data.fill_(std))

    # a head of 16 weights that is filled with the deviation it would be drawn at
    torch.testing.assert_close(scalar_from_policy(saved_policy).score.weight.data, torch.full((1, 16), 17**-0.5))
