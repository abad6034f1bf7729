"""What PPO's peers learn from: prompts and pairs as token ids, such that TRL reads in them what PPO does.

TRL tokenises conversations in a way of its own, pads on the left without positions and shuffles by its own generator.
What would go wrong by that is left out and counted, refused, or laid out beforehand.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.datasets import Ranked
from data.errors import InvalidInput, TooFewLabels
from data.records import Prompt
from training import tokenizer
from training.rollouts import prompts_of_step

Encoded = tuple[Prompt, list[int]]  # a prompt and its token ids
Pair = dict[str, list[int]]  # prompt_ids, chosen_ids, rejected_ids


def answerable(prompts: Sequence[Prompt], tokens: PreTrainedTokenizerBase, longest: int) -> list[Encoded]:
    """The prompts with their ids, without those of more than `longest` tokens or that TRL would read as other ids.

    TRL tokenises a whole conversation at once, so that a special token which somebody typed becomes one; PPO sees
    words there. Raises InvalidInput when none is left.
    """
    encoded = [(prompt, tokenizer.prompt_ids(tokens, prompt.messages)) for prompt in prompts]
    short = [(prompt, ids) for prompt, ids in encoded if len(ids) <= longest]
    same = [(prompt, ids) for prompt, ids in short if as_trl_reads(tokens, turns_of(prompt)) == ids]
    print(
        f"ppo: {len(same)} prompts, {len(encoded) - len(short)} left out as longer than {longest} tokens, "
        f"{len(short) - len(same)} because they spell a special token",
        flush=True,
    )
    if not same:
        raise InvalidInput(f"None of the {len(prompts)} training prompts can be answered within {longest} tokens.")
    return same


def turns_of(prompt: Prompt) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in prompt.messages]


def as_trl_reads(tokens: PreTrainedTokenizerBase, turns: list[dict[str, str]]) -> list[int]:
    """The ids that RLOOTrainer and GRPOTrainer make of a prompt."""
    return list(
        tokens.apply_chat_template([turns], add_generation_prompt=True, tokenize=True, return_dict=True)["input_ids"][0]
    )


@torch.no_grad()
def check_padding(policy: PreTrainedModel, tokens: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
    """Raises InvalidInput for a model that says something else after padding on the left.

    TRL pads so and gives no positions. With rotary positions only distances count; learned ones (GPT-2) go wrong.
    """
    padding = [tokens.pad_token_id] * 8
    policy.eval()
    alone = policy(input_ids=torch.tensor([prompt])).logits[0, -1]
    is_token = torch.tensor([[0] * len(padding) + [1] * len(prompt)])
    padded = policy(input_ids=torch.tensor([[*padding, *prompt]]), attention_mask=is_token).logits[0, -1]
    gap = (padded - alone).abs().max().item()
    if gap > 1e-3:
        raise InvalidInput(
            f"Padding on the left changes a logit of this {policy.config.model_type} model by {gap:.2g}: its positions "
            "are learned, and TRL gives none. Nothing was trained. Take --algorithm ppo, or a model with rotary "
            "positions."
        )


def decided_pairs(
    rankings: Iterable[Ranked], tokens: PreTrainedTokenizerBase, longest_prompt: int, longest: int
) -> list[Pair]:
    """Every decided pair of every ranking as token ids; a tie and a response without a rank give none.

    Raises TooFewLabels when there is none. Nothing is truncated: what is too long is left out and counted.
    """
    pairs, too_long = [], 0
    for ranking in rankings:
        prompt = tokenizer.prompt_ids(tokens, ranking.messages)
        ranked = [(rank, text) for rank, text in zip(ranking.ranks, ranking.responses, strict=True) if rank]
        for (rank, better), (other, worse) in itertools.permutations(ranked, 2):
            if rank >= other or better == worse:
                continue
            chosen, rejected = tokenizer.response_ids(tokens, better), tokenizer.response_ids(tokens, worse)
            if len(prompt) > longest_prompt or len(prompt) + max(len(chosen), len(rejected)) > longest:
                too_long += 1
            else:
                pairs.append({"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected})
    print(f"ppo: {len(pairs)} pairs, {too_long} left out as too long", flush=True)
    if not pairs:
        raise TooFewLabels(
            f"dpo learns from decided pairs of training prompts, and there is none ({too_long} were too long). "
            "Rank more responses, then freeze again."
        )
    return pairs


def in_order(count: int, groups: int, steps: int, *, seed: int) -> list[int]:
    """The numbers of `count` prompts in PPO's order, `groups` of them for each step.

    One epoch is the whole run: in a later one TRL would shuffle anew, and a resumed run not as the one before it.
    """
    return [number for step in range(steps) for number in prompts_of_step(range(count), groups, step, seed=seed)]
