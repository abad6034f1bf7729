import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from training.engine import generator_at, padded_left, sample

EOS, PAD = 1, 0
PROMPTS = [[5, 6, 7, 8, 9], [4], [11, 3, 2], [2, 2, 9, 17]]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=24,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        initializer_range=0.4,  # far from uniform, so that a wrong mask or position shows
        pad_token_id=PAD,
        eos_token_id=EOS,
    )
    return LlamaForCausalLM(config).eval()


def run(model, prompts=PROMPTS, *, seed=0, batch_size=64, max_new_tokens=12, temperature=0.7):
    generator = torch.Generator().manual_seed(seed)
    return sample(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        eos_id=EOS,
        pad_id=PAD,
        generator=generator,
        batch_size=batch_size,
    )


def test_logprobs_equal_those_of_a_forward_pass_over_each_response_alone(model):
    samples = run(model, PROMPTS * 8)

    for prompt, response, logprobs in zip(PROMPTS * 8, samples.response_ids, samples.logprobs, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)]
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-4, rtol=0)


def test_a_response_that_ended_has_eos_last_and_nowhere_else(model):
    samples = run(model, PROMPTS * 16)

    assert any(samples.ended) and not all(samples.ended)
    for response, ended in zip(samples.response_ids, samples.ended, strict=True):
        assert (response[-1] == EOS) == ended
        assert EOS not in response[:-1]
        assert ended or len(response) == 12


def test_the_same_seed_gives_the_same_responses_at_any_batch_size(model):
    assert run(model, batch_size=64).response_ids == run(model, batch_size=1).response_ids
    assert run(model, batch_size=3).response_ids == run(model, batch_size=64).response_ids


def test_another_seed_gives_other_responses(model):
    assert run(model, seed=0).response_ids != run(model, seed=1).response_ids


def test_tokens_are_drawn_from_the_true_distribution(model):
    with torch.no_grad():
        expected = (model(torch.tensor([[4]])).logits[0, -1] / 0.7).softmax(-1)

    samples = run(model, [[4]] * 20_000, max_new_tokens=1, batch_size=20_000)

    drawn = torch.tensor([response[0] for response in samples.response_ids]).bincount(minlength=24) / 20_000
    # the standard error of each share is at most 0.5 / sqrt(20000) = 0.0035
    torch.testing.assert_close(drawn, expected, atol=0.014, rtol=0)


def test_padding_stands_on_the_left():
    ids, is_token = padded_left([[7, 8], [9]], PAD, torch.device("cpu"))

    assert ids.tolist() == [[7, 8], [PAD, 9]]
    assert is_token.tolist() == [[True, True], [False, True]]


def test_a_place_in_a_run_always_draws_the_same_numbers_and_no_two_places_do():
    first, again, other = (
        torch.rand(3, generator=generator_at(*place)) for place in [(0, "a", 1), (0, "a", 1), (0, "a", 2)]
    )

    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_model_with_dropout_on_is_refused(model):
    model.train()
    try:
        with pytest.raises(ValueError, match="dropout"):
            run(model)
    finally:
        model.eval()


def test_a_padding_token_that_is_also_the_end_token_is_refused(model):
    with pytest.raises(ValueError, match="padding token of its own"):
        sample(
            model,
            [[4]],
            max_new_tokens=1,
            temperature=1.0,
            eos_id=EOS,
            pad_id=EOS,
            generator=torch.Generator(),
            batch_size=1,
        )


def test_a_temperature_of_zero_is_refused(model):
    with pytest.raises(ValueError, match="temperature is 0"):
        run(model, temperature=0)
