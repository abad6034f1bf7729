"""The engine against what it must equal: `generate`, a plain forward pass, the model's own probabilities."""

from dataclasses import replace
from math import ceil, sqrt

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    Lfm2Config,
    Lfm2ForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from training import slots
from training.engine import generator_at, largest_gap, padded_left, sample

pytestmark = pytest.mark.slow

EOS, PAD = 1, 0
PROMPTS = [[5, 6, 7, 8, 9], [4], [11, 3, 2], [2, 2, 9, 17]]
FIXED = replace(slots.CUDA, captured=False)  # what a GPU runs, step by step instead of as a graph
SIZES = {
    "vocab_size": 24,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,  # far from uniform, so that a wrong mask or position shows
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
}
GPT2 = {
    "vocab_size": 24,
    "n_embd": 16,
    "n_layer": 2,
    "n_head": 4,
    "n_positions": 64,
    "initializer_range": 0.4,
    "pad_token_id": PAD,
    "bos_token_id": None,
    "eos_token_id": None,
}


def built(name):
    """A microscopic model, the same in every test."""
    torch.manual_seed(0)
    match name:
        case "llama":
            model = LlamaForCausalLM(LlamaConfig(**SIZES))
        case "llama with eager attention":
            model = LlamaForCausalLM(LlamaConfig(**SIZES, attn_implementation="eager"))
        case "qwen3":
            model = Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8))
        case "gpt2":
            model = GPT2LMHeadModel(GPT2Config(**GPT2))
        case "mistral, which looks back 6 tokens":
            model = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6))
        case "gemma3, every other layer of which looks back 6 tokens":
            kinds = ["sliding_attention", "full_attention"]
            model = Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=6, layer_types=kinds))
    return model.eval()


MODELS = [
    "llama",
    "qwen3",
    "gpt2",
    pytest.param("llama with eager attention", marks=pytest.mark.slow),
    pytest.param("mistral, which looks back 6 tokens", marks=pytest.mark.slow),
    pytest.param("gemma3, every other layer of which looks back 6 tokens", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def model():
    return built("llama")


def run(model, prompts=PROMPTS, *, seed=0, batch_size=64, max_new_tokens=12, temperature=0.7, **options):
    generator = torch.Generator().manual_seed(seed)
    options = {"eos_id": EOS, "pad_id": PAD, "generator": generator} | options
    return sample(
        model,
        prompts,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        batch_size=batch_size,
        **options,
    )


class Watch:
    """The shapes of what goes into a model: (rows, tokens) of each prefill, (rows, columns) of each decode step."""

    def __init__(self, model):
        self.prefills, self.steps = [], []
        self._handle = model.register_forward_pre_hook(self._see, with_kwargs=True)

    def _see(self, _, args, inputs):
        if inputs["attention_mask"].ndim == 4:
            self.steps.append((len(inputs["input_ids"]), inputs["attention_mask"].shape[3]))
        else:
            self.prefills.append(tuple(inputs["input_ids"].shape))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._handle.remove()


@pytest.mark.parametrize("name", MODELS)
def test_the_likeliest_tokens_are_those_of_generate(name):
    model, prompts = built(name), [*PROMPTS, [11, 3, 2], [20, 21, 22, 23, 19, 18, 17, 16]]
    ids, is_token = padded_left(prompts, PAD, torch.device("cpu"))
    greedy = GenerationConfig(do_sample=False, max_new_tokens=20, pad_token_id=PAD, eos_token_id=None)
    whole = model.generate(ids, attention_mask=is_token.long(), generation_config=greedy)[:, ids.shape[1] :].tolist()
    # a token that ends few responses early, but ends one
    eos = min(range(1, 24), key=lambda token: sum(token in row[:10] for row in whole) or 99)
    expected = [row[: row.index(eos) + 1] if eos in row else row for row in whole]
    assert min(map(len, expected)) <= 10 and len(set(map(len, expected))) > 1

    for plan, batch_size in ((slots.CPU, 2), (FIXED, 64)):
        found = run(model, prompts, max_new_tokens=20, temperature=0, eos_id=eos, batch_size=batch_size, plan=plan)
        assert found.response_ids == expected
        assert found.ended == [eos in row for row in expected]


@pytest.mark.parametrize("name", MODELS)
def test_logprobs_equal_those_of_a_forward_pass_over_each_response_alone(name):
    model = built(name)
    samples = run(model, PROMPTS, samples=4)

    prompts = [prompt for prompt in PROMPTS for _ in range(4)]
    for prompt, response, logprobs in zip(prompts, samples.response_ids, samples.logprobs, strict=True):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1] / 0.7
        expected = logits.log_softmax(-1)[torch.arange(len(response)), torch.tensor(response)]
        torch.testing.assert_close(torch.tensor(logprobs), expected, atol=1e-4, rtol=0)


def test_a_greedy_token_has_its_logprob_at_temperature_1(model):
    samples = run(model, [[4]], temperature=0, max_new_tokens=1)

    with torch.no_grad():
        expected = model(torch.tensor([[4]])).logits[0, -1].log_softmax(-1).max()
    assert samples.logprobs[0] == [pytest.approx(expected.item(), abs=1e-5)]


@pytest.mark.slow
def test_pairs_of_tokens_are_drawn_from_the_true_distribution(model):
    """Chi-square over all pairs of first and second token; a right engine fails for one seed in 10,000."""
    count = 20_000
    with torch.no_grad():
        first = (model(torch.tensor([[4]])).logits[0, -1] / 0.7).softmax(-1)
        second = (model(torch.tensor([[4, token] for token in range(24)])).logits[:, -1] / 0.7).softmax(-1)
    expected = (first[:, None] * second).double() * count

    drawn = run(model, [[4]], samples=count, max_new_tokens=2, batch_size=count, eos_id=24).response_ids

    seen = torch.zeros(24, 24, dtype=torch.float64)
    for pair in drawn:
        seen[pair[0], pair[1]] += 1
    often = expected >= 5  # the others are counted together
    bins = [(seen[often], expected[often]), (seen[~often].sum()[None], expected[~often].sum()[None])]
    statistic = sum(((found - wanted) ** 2 / wanted).sum().item() for found, wanted in bins)
    freedom = int(often.sum())  # one less than the number of bins
    # the 0.9999 quantile of chi-square by Wilson and Hilferty's cube; 3.719 is that of the normal distribution
    limit = freedom * (1 - 2 / (9 * freedom) + 3.719 * sqrt(2 / (9 * freedom))) ** 3
    assert freedom > 100
    assert statistic < limit


def test_a_response_that_ended_has_eos_last_and_nowhere_else(model):
    samples = run(model, PROMPTS * 16)

    assert any(samples.ended) and not all(samples.ended)
    for response, ended in zip(samples.response_ids, samples.ended, strict=True):
        assert (response[-1] == EOS) == ended
        assert EOS not in response[:-1]
        assert ended or len(response) == 12


def test_the_same_seed_gives_the_same_responses_at_any_batch_size_and_plan(model):
    expected = run(model, PROMPTS * 4, temperature=3.0).response_ids

    patient = replace(slots.CPU, refill=0.5)  # waits for half of the slots to be free
    for batch_size, plan in ((1, slots.CPU), (5, slots.CPU), (8, patient), (3, FIXED), (16, FIXED)):
        found = run(model, PROMPTS * 4, temperature=3.0, batch_size=batch_size, plan=plan)
        assert found.response_ids == expected


def test_responses_that_share_a_prefill_are_those_that_would_come_alone(model):
    generator = torch.Generator().manual_seed(0)
    alone = [run(model, [prompt], generator=generator).response_ids[0] for prompt in PROMPTS for _ in range(3)]

    assert run(model, PROMPTS, samples=3).response_ids == alone
    assert run(model, [prompt for prompt in PROMPTS for _ in range(3)]).response_ids == alone


def test_the_responses_to_one_prompt_differ(model):
    responses = run(model, [[5, 6, 7]], samples=8).response_ids

    assert len({tuple(response) for response in responses}) == 8


def test_another_seed_gives_other_responses(model):
    assert run(model, seed=0).response_ids != run(model, seed=1).response_ids


def test_each_distinct_prompt_goes_through_the_model_once(model):
    prompts = [[7, 8, 9, 10], [5, 6, 7], [7, 8, 9, 10], [3, 4], [5, 6, 7]]

    for batch_size in (64, 4):
        with Watch(model) as watch:
            run(model, prompts, samples=3, batch_size=batch_size)
        assert sum(rows for rows, _ in watch.prefills) == 3  # of 15 responses


def test_a_prefill_is_no_larger_than_planned_and_has_prompts_of_like_length(model):
    prompts = [[token] * length for token in range(2, 10) for length in (9, 3)]

    with Watch(model) as watch:
        run(model, prompts, plan=replace(slots.CPU, prefill_tokens=36))

    # eight of 3 tokens, and four of 9 at a time; the last token of each waits for the first step
    assert watch.prefills == [(8, 2), (4, 8), (4, 8)]


def test_finished_responses_leave_the_batch(model):
    with Watch(model) as watch:
        plan = replace(slots.CPU, row_sizes=64)  # every size there is
        responses = run(model, PROMPTS * 16, temperature=3.0, max_new_tokens=24, plan=plan).response_ids

    longer = [sum(len(response) > step for response in responses) for step in range(24)]
    assert longer[0] == 64 and longer[-1] < 40
    assert [rows for rows, _ in watch.steps] == longer


def test_a_slot_that_is_free_goes_to_a_response_that_waits(model):
    with Watch(model) as watch:
        responses = run(model, PROMPTS * 8, temperature=3.0, max_new_tokens=24, batch_size=8).response_ids

    tokens = sum(map(len, responses))
    assert tokens < 0.85 * 32 * 24
    # every slot is busy until none waits, and the last responses take 24 steps at the most
    assert len(watch.steps) <= ceil(tokens / 8) + 24
    assert max(rows for rows, _ in watch.steps) == 8


def test_an_idle_slot_writes_to_its_own_first_column(model):
    uniforms, plan = torch.zeros(2, 2), replace(FIXED, burst=1)
    places = slots.Slots(model, uniforms, 2, plan=plan, temperature=0, eos_id=24, pad_id=PAD)
    with torch.inference_mode():
        places.place([slots.Start(0, (4,), 0), slots.Start(0, (5,), 1)], [0, 1], None)
        for _ in range(2):
            places.advance(shrink=False)

    assert places.free() == [0, 1]
    assert places.state[1].tolist() == [0, 0]  # and not 2, behind the last column when there are no more than two


def test_a_gpu_sees_few_sizes_of_batch_and_columns(model):
    with Watch(model) as watch:
        run(model, PROMPTS * 64, batch_size=256, max_new_tokens=50, temperature=3.0, plan=FIXED)

    # 256 halves down to 64; 32, 48 or 64 columns hold 5 + 50 tokens
    assert {rows for rows, _ in watch.steps} == {256, 128, 64}
    assert {columns for _, columns in watch.steps} == {32, 48, 64}


@pytest.mark.parametrize(
    ("count", "parts", "size"), [(1, 4, 1), (5, 4, 5), (9, 4, 10), (33, 4, 40), (64, 4, 64), (65, 1, 128), (33, 2, 48)]
)
def test_sizes_stand_evenly_between_powers_of_two(count, parts, size):
    assert slots._rounded_up(count, parts) == size


def test_a_number_picks_the_token_in_whose_share_it_falls():
    logits = torch.tensor([0.5, 0.25, 0.0, 0.25]).log().expand(7, 4)
    uniforms = torch.tensor([0, 0.4999, 0.5001, 0.7499, 0.7501, 0.9999, 1 - 2**-53], dtype=torch.float64)

    chosen, logprobs = slots.draw(logits, uniforms, temperature=1.0)

    assert chosen.tolist() == [0, 0, 1, 1, 3, 3, 3]  # never the token of probability 0
    torch.testing.assert_close(logprobs.exp(), torch.tensor([0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25]))


def test_a_number_picks_the_right_token_of_a_large_vocabulary():
    probabilities = torch.zeros(3 * slots.BLOCK - 7)  # its last block is not full
    probabilities[[0, 63, 64, 150, 184]] = 0.2

    chosen, _ = slots.draw(
        probabilities.log().expand(5, -1), torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64), 1.0
    )

    assert chosen.tolist() == [0, 63, 64, 150, 184]


def test_temperature_divides_the_logits():
    # probabilities 0.8 and 0.2; at temperature 2 their roots, 2 to 1
    chosen, logprobs = slots.draw(
        torch.tensor([[0.8, 0.2]]).log().expand(2, 2), torch.tensor([0.66, 0.67], dtype=torch.float64), 2.0
    )

    assert chosen.tolist() == [0, 1]
    torch.testing.assert_close(logprobs.exp(), torch.tensor([2 / 3, 1 / 3]))


@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_stays_near_its_own_forward_pass(autocast):
    model = built("llama") if autocast else built("llama").to(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast), torch.no_grad():
        samples = run(model, PROMPTS, samples=4, eos_id=24)
        ids, _ = padded_left(samples.response_ids, PAD, torch.device("cpu"))
        gaps = []
        for row, prompt in enumerate(prompt for prompt in PROMPTS for _ in range(4)):
            logits = model(torch.tensor([prompt + ids[row].tolist()])).logits[0, len(prompt) - 1 : -1].float() / 0.7
            expected = logits.log_softmax(-1)[torch.arange(12), ids[row]]
            gaps.append((torch.tensor(samples.logprobs[row]) - expected).abs().max().item())

    assert max(gaps) < 0.3  # bf16 has 8 bits, and logits reach 10 here; a wrong mask is off by whole nats
    assert sum(gaps) / len(gaps) < 0.1


def test_the_largest_gap_is_over_response_tokens_only():
    logprobs = torch.tensor([[-1.0, -2.0, 0.0], [-0.5, 0.0, 0.0]])
    recomputed = torch.tensor([[-1.0, -2.25, 9.0], [-0.375, 7.0, float("nan")]])
    is_response = torch.tensor([[True, True, False], [True, False, False]])

    assert largest_gap(logprobs, recomputed, is_response) == 0.25
    assert largest_gap(logprobs, recomputed, torch.zeros_like(is_response)) == 0.0
    assert largest_gap(logprobs, recomputed, ~is_response) == float("inf")  # a NaN is no agreement


def test_padding_stands_on_the_left():
    ids, is_token = padded_left([[7, 8], [9]], PAD, torch.device("cpu"))

    assert ids.tolist() == [[7, 8], [PAD, 9]]
    assert is_token.tolist() == [[True, True], [False, True]]


def test_a_place_in_a_run_always_draws_the_same_numbers_and_no_two_places_do():
    first, again, other = (
        torch.rand(3, generator=generator_at(*place)) for place in [(0, "a", 1), (0, "a", 1), (0, "a", 2)]
    )

    assert torch.equal(first, again) and not torch.equal(first, other)


def test_no_prompts_have_no_responses(model):
    assert run(model, []).response_ids == []


def test_a_model_with_dropout_on_is_refused(model):
    model.train()
    try:
        with pytest.raises(ValueError, match="dropout"):
            run(model)
    finally:
        model.eval()


def test_a_padding_token_that_is_also_the_end_token_is_refused(model):
    with pytest.raises(ValueError, match="padding token of its own"):
        run(model, pad_id=EOS)


def test_a_temperature_below_zero_is_refused(model):
    with pytest.raises(ValueError, match="temperature is -0.5"):
        run(model, temperature=-0.5)


def test_a_prompt_without_room_for_a_response_is_refused_by_its_number(model):
    assert len(run(model, [[4] * 52], eos_id=24).response_ids[0]) == 12  # 52 + 12 tokens fit into 64 positions

    with pytest.raises(ValueError, match="Prompt 1 has 53 tokens: with max_new_tokens 12 that is 65, .* 64 positions"):
        run(model, [[4], [4] * 53])


def test_an_empty_prompt_is_refused_by_its_number(model):
    with pytest.raises(ValueError, match="Prompt 2 is empty"):
        run(model, [[4], [5], []])


def test_a_model_that_keeps_more_than_keys_and_values_is_refused():
    config = Lfm2Config(**SIZES, layer_types=["conv", "full_attention"])

    with pytest.raises(ValueError, match="Lfm2ForCausalLM has layers of .*conv"):
        run(Lfm2ForCausalLM(config).eval())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: nothing else can capture a step")
@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_a_captured_step_gives_the_responses_of_the_step_as_it_is(name):
    model = built(name).cuda()
    prompts = [[2 + i % 20, 3 + i % 7, 5] for i in range(300)]  # batches of 256, 128 and 64, and some that wait
    options = {"batch_size": 256, "max_new_tokens": 40}

    captured = run(model, prompts, **options)
    expected = run(model, prompts, plan=FIXED, **options)

    assert captured.response_ids == expected.response_ids
    gaps = [
        abs(a - b) for x, y in zip(captured.logprobs, expected.logprobs, strict=True) for a, b in zip(x, y, strict=True)
    ]
    assert max(gaps) < 1e-5
