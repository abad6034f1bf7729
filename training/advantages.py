"""From scores to advantages: what each token earned, and how much better it did than expected.

Pure functions of tensors. Responses are left-aligned in (batch, tokens) and padded on the right; is_response is True
where the policy chose the token, its end-of-sequence token included.
"""

from __future__ import annotations

import torch
from torch import Tensor


def token_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, is_response: Tensor, *, kl_coef: float
) -> Tensor:
    """What each token earned: minus the KL penalty, plus the response's score on its last token.

    scores is (batch,), the others and the result (batch, tokens). -kl_coef * (logprobs - ref_logprobs) at each
    response token (Ziegler et al. 2019, section 2); padding earns nothing. The last response token is the
    end-of-sequence token itself where the response ended.
    """
    rewards = (-kl_coef * (logprobs - ref_logprobs)).masked_fill(~is_response, 0)
    last = is_response.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def gae(rewards: Tensor, values: Tensor, is_response: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates and returns (advantages + values), zero outside the response.

    All (batch, tokens). delta_t = r_t + gamma * V_{t+1} - V_t, A_t = delta_t + gamma * lam * A_{t+1}
    (Schulman et al. 2016, eq. 16). After the last response token there is nothing: the value there is 0.
    """
    values = values.masked_fill(~is_response, 0)
    rewards = rewards.masked_fill(~is_response, 0)
    advantages = torch.zeros_like(rewards)
    following, next_value = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        following = (delta + gamma * lam * following) * is_response[:, t]
        advantages[:, t] = following
        next_value = values[:, t]
    return advantages, advantages + values


def whiten(values: Tensor, where: Tensor) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over the places where `where` is True; 0 elsewhere.

    Both (batch, tokens). The variance divides by the number of places, and 1e-8 keeps a constant input finite.
    """
    inside = values[where]
    scaled = (values - inside.mean()) * torch.rsqrt(inside.var(correction=0) + 1e-8)
    return scaled.masked_fill(~where, 0)


def explained_variance(values: Tensor, returns: Tensor, where: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the places where `where` is True. A scalar.

    1 is a perfect value model, 0 no better than a constant, negative worse than one; 0 where returns do not vary.
    """
    total = returns[where].var(correction=0)
    left = (returns - values)[where].var(correction=0)
    return torch.where(total > 1e-12, 1 - left / total.clamp(min=1e-12), torch.zeros_like(total))
