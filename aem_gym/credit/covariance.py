"""Clip-Cov and KL-Cov: hold back the few tokens that drive the entropy down.

Source: "The Entropy Mechanism of Reinforcement Learning for Reasoning Language Models",
arXiv 2505.22617. A token's covariance is `(A - mean A) * (logp - mean logp)` over the tokens of the
call; their share is taken from the call as well, so these two losses depend on the micro-batch.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aem_gym.credit.surrogate import LossOutput, clipped_surrogate, drift, log_ratio_of


@torch.no_grad()
def token_covariance(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Each token's part of Cov(A, logp) over the tokens of the mask, (n, T); 0 outside."""
    count = mask.sum().clamp(min=1)
    logp, adv = logprobs.masked_fill(~mask, 0), advantages.masked_fill(~mask, 0)
    product = (adv - adv.sum() / count) * (logp - logp.sum() / count)
    return product.masked_fill(~mask, 0)


def clip_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    share: float = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    generator: torch.Generator | int = 0,
) -> LossOutput:
    """PPO's surrogate without the gradient of a random share of high-covariance tokens.

    Of the unclipped tokens with covariance between `cov_low` and `cov_high`, at most
    `max(1, share * tokens)` are drawn; their loss is 0.
    """
    advantages = advantages.detach()
    log_ratio = log_ratio_of(logprobs, old_logprobs, mask)
    loss, clipped = clipped_surrogate(log_ratio, advantages, mask, clip_low, clip_high)
    covariance = token_covariance(logprobs, advantages, mask)
    candidate = mask & ~clipped & (covariance > cov_low) & (covariance < cov_high)
    rows = candidate.flatten().nonzero()[:, 0]
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    order = torch.randperm(rows.numel(), generator=generator).to(rows.device)
    selected = _marked(mask, rows[order[: _share_of(mask, share)]])
    metrics = drift(log_ratio, mask)
    metrics["clipped"] = clipped.sum().float()
    metrics["selected"] = selected.sum().float()
    return LossOutput(loss.masked_fill(~mask | selected, 0), metrics)


def kl_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    share: float = 2e-4,
    kl_weight: float = 1.0,
) -> LossOutput:
    """The unclipped surrogate `-r A`, plus `kl_weight * |logp - old|` on the top tokens.

    The top tokens are the `max(1, share * tokens)` of the largest covariance.
    """
    advantages = advantages.detach()
    log_ratio = log_ratio_of(logprobs, old_logprobs, mask)
    loss = -advantages * torch.exp(log_ratio)
    covariance = token_covariance(logprobs, advantages, mask)
    covariance = covariance.masked_fill(~mask, -float("inf")).flatten()
    top = covariance.topk(min(_share_of(mask, share), int(mask.sum()))).indices
    selected = _marked(mask, top)
    loss = loss + kl_weight * log_ratio.abs() * selected
    metrics = drift(log_ratio, mask)
    metrics["selected"] = selected.sum().float()
    return LossOutput(loss.masked_fill(~mask, 0), metrics)


def _share_of(mask: Tensor, share: float) -> int:
    return max(1, int(share * int(mask.sum())))


def _marked(mask: Tensor, positions: Tensor) -> Tensor:
    """True at the given positions of the flattened mask, (n, T) bool."""
    flat = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
    flat[positions] = True
    return flat.view(mask.shape)
