"""What PPO minimises, and how far that moved it: pure functions of tensors, a mask named by what True means."""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, where: Tensor) -> Tensor:
    """The mean of `values` over the places where `where` is True; both of one shape. A scalar; 0 if there are none."""
    return values.masked_fill(~where, 0).sum() / where.sum().clamp(min=1)


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    is_response: Tensor,
    *,
    clip: float,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's pessimistic surrogate, averaged over response tokens only.

    All (batch, tokens); is_response is True where the policy chose the token.
    max(-A * ratio, -A * clamp(ratio, 1 - clip, 1 + clip)), Schulman et al. 2017, eq. 7. With `dual_clip`, at most
    -A * dual_clip where A is negative: a ratio that ran away counts no more than that (Ye et al. 2020).
    """
    # Outside the response both sides are set to 0, so that padding can never overflow the exponential.
    ratio = (logprobs - old_logprobs).masked_fill(~is_response, 0).exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip, 1 + clip))
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return masked_mean(loss, is_response)


def update_kl(logprobs: Tensor, old_logprobs: Tensor, is_response: Tensor) -> Tensor:
    """How far updates have moved the policy from the one that sampled, in nats per response token. A scalar.

    All (batch, tokens). The mean of ratio - 1 - log ratio, an estimate that is never negative (Schulman 2020).
    """
    log_ratio = (logprobs - old_logprobs).masked_fill(~is_response, 0)
    return masked_mean(log_ratio.exp() - 1 - log_ratio, is_response)


def clipped_share(logprobs: Tensor, old_logprobs: Tensor, is_response: Tensor, *, clip: float) -> Tensor:
    """The share of response tokens whose ratio lies outside [1 - clip, 1 + clip]. All (batch, tokens); a scalar."""
    ratio = (logprobs - old_logprobs).masked_fill(~is_response, 0).exp()
    return masked_mean(((ratio - 1).abs() > clip).float(), is_response)


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, is_response: Tensor, *, clip: float
) -> Tensor:
    """Half the squared error of the values, pessimistic about moves further than `clip` from the old values.

    All (batch, tokens). 0.5 * max((V - R)^2, (clamp(V, V_old - clip, V_old + clip) - R)^2), over response tokens.
    """
    clipped = torch.clamp(values, old_values - clip, old_values + clip)
    return 0.5 * masked_mean(torch.maximum((values - returns) ** 2, (clipped - returns) ** 2), is_response)
