"""What the policy losses share: the ratio, the clipped surrogate, and how far the policy moved."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0
"""Log-ratios are clamped here, so that their exponential stays finite."""


@dataclass(frozen=True)
class LossOutput:
    """A loss before aggregation."""

    per_token: Tensor
    """(n, T) with gradient; 0 outside the mask."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars: sums over the tokens of the mask. `ratio`: pi / pi_old; `old_kl`: k3
    estimate of KL(pi_old || pi); `clipped`, `dual_clipped`, `selected`: numbers of tokens."""


def log_ratio_of(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """The log-ratio logp - old, (n, T); 0 outside the mask, whatever is stored there."""
    difference = logprobs.masked_fill(~mask, 0) - old_logprobs.detach().masked_fill(~mask, 0)
    return difference.clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)


def clipped_surrogate(
    log_ratio: Tensor, advantages: Tensor, mask: Tensor, clip_low: float, clip_high: float
) -> tuple[Tensor, Tensor]:
    """(`-min(r A, clip(r) A)`, where the clip took effect): (n, T), (n, T) bool."""
    ratio = torch.exp(log_ratio)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    return torch.maximum(plain, clipped), (clipped > plain).detach() & mask


def dual_clipped(
    loss: Tensor, advantages: Tensor, mask: Tensor, dual_clip: float
) -> tuple[Tensor, Tensor]:
    """The loss bounded by `dual_clip * |A|` where A < 0, and where that took effect."""
    bound = -dual_clip * advantages
    negative = advantages < 0
    took_effect = (negative & (loss > bound)).detach() & mask
    return torch.where(negative, torch.minimum(loss, bound), loss), took_effect


@torch.no_grad()
def drift(log_ratio: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """Sums over tokens of the ratio and of the k3 divergence from the policy that sampled."""
    ratio = torch.exp(log_ratio) * mask
    return {"ratio": ratio.sum(), "old_kl": (torch.expm1(log_ratio) - log_ratio).sum()}
