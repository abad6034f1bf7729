"""From scores to advantages: what each response and each token earned, and how much better it did than expected.

Pure functions of tensors. Responses are left-aligned in (batch, tokens) and padded on the right; is_response is True
where the policy chose the token, its end-of-sequence token included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k3"]


@dataclass(frozen=True)
class RunningScale:
    """How far all scores of a run so far spread: their count, mean and sum of squared deviations from it."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def after(self, scores: Tensor) -> RunningScale:
        """With these scores (batch,) taken in (Chan et al. 1983)."""
        found = scores.double()
        count = self.count + len(found)
        mean, squares = found.mean().item(), found.var(correction=0).item() * len(found)
        apart = mean - self.mean
        return RunningScale(
            count,
            self.mean + apart * len(found) / count,
            self.squares + squares + apart**2 * self.count * len(found) / count,
        )

    @property
    def std(self) -> float:
        """The standard deviation; 1 while there is no spread to divide by."""
        return math.sqrt(self.squares / self.count) if self.squares > 0 else 1.0


def outcomes(scores: Tensor, ended: Tensor, *, missing_end_score: float) -> Tensor:
    """(batch,) what each response is worth: its score, or for one that was cut off a bad score in its place.

    scores (batch,), ended (batch,) bool. A cut-off response gets `missing_end_score`, or the least score of the batch
    where that is lower, so that it never beats one that ended (Huang et al. 2024, detail 20: the end-of-sequence
    trick).
    """
    return torch.where(ended, scores, scores.min().clamp(max=missing_end_score))


def token_rewards(
    scores: Tensor,
    logprobs: Tensor,
    ref_logprobs: Tensor,
    is_response: Tensor,
    *,
    kl_coef: float,
    estimator: KlEstimator = "k1",
) -> Tensor:
    """What each token earned: minus the KL penalty, plus the response's score on its last token.

    scores is (batch,), the others and the result (batch, tokens). The penalty at each response token is kl_coef times
    an estimate of the KL there: k1 = logprobs - ref_logprobs (Ziegler et al. 2019, section 2), or
    k3 = exp(-k1) - 1 + k1, which is never negative and varies less (Schulman 2020). Padding earns nothing. The last
    response token is the end-of-sequence token itself where the response ended.
    """
    k1 = (logprobs - ref_logprobs).masked_fill(~is_response, 0)
    rewards = -kl_coef * (k1 if estimator == "k1" else (-k1).exp() - 1 + k1)
    last = is_response.sum(1, keepdim=True) - 1
    return rewards.scatter_add(1, last, scores[:, None].to(rewards.dtype))


def adapted(kl_coef: float, kl: float, *, target: float | None, batch_size: int, horizon: int) -> float:
    """The KL coefficient for the next step: raised when the KL per response is over its target, lowered under it.

    kl_coef * (1 + clip(kl / target - 1, -0.2, 0.2) * batch_size / horizon) (Ziegler et al. 2019, section 2.2). Without
    a target it stays as it is.
    """
    if target is None:
        return kl_coef
    return kl_coef * (1 + min(max(kl / target - 1, -0.2), 0.2) * batch_size / horizon)


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


def whiten(values: Tensor, where: Tensor, *, shift_mean: bool = True) -> Tensor:
    """Shift and scale to mean 0 and variance 1 over the places where `where` is True; 0 elsewhere.

    Both (batch, tokens). Without `shift_mean` only the scale changes and the mean keeps its sign: so for rewards, whose
    mean says whether a longer response pays. The variance divides by the number of places, and 1e-8 keeps a constant
    input finite.
    """
    inside = values[where]
    shifted = values - inside.mean() if shift_mean else values
    return (shifted * torch.rsqrt(inside.var(correction=0) + 1e-8)).masked_fill(~where, 0)


def explained_variance(values: Tensor, returns: Tensor, where: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns) over the places where `where` is True. A scalar.

    1 is a perfect value model, 0 no better than a constant, negative worse than one; 0 where returns do not vary.
    """
    total = returns[where].var(correction=0)
    left = (returns - values)[where].var(correction=0)
    return torch.where(total > 1e-12, 1 - left / total.clamp(min=1e-12), torch.zeros_like(total))
