"""The figures of a training step that are functions of its responses and their credit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aem_gym.credit.batch import ResponseBatch
from aem_gym.credit.modulators import Modulated
from aem_gym.credit.segments import Segments


@torch.no_grad()
def credit_metrics(
    batch: ResponseBatch,
    modulated: Modulated,
    advantages: Tensor,
    success: Tensor | None = None,
    *,
    threshold: float = 0.1,
) -> dict[str, float]:
    """What each step logs about credit. A figure that does not exist (no failure, ...) is left out.

    Args:
        batch: the step's responses. Only rows that are not excluded and have tokens are looked at.
        modulated: what the modulator returned.
        advantages: (N,) of the base estimator, before modulation.
        success: (N,) bool, whether the row's episode succeeded.
        threshold: AEM's, in nats.

    Returns:
        - `alpha_mean`, `alpha_min`, `alpha_max`: over responses.
        - `share_below_threshold`: share of groups whose response entropies span less than
          `threshold`: AEM leaves these alone.
        - `response_entropy_mean`: Hbar over responses, nats per token.
        - `response_entropy_range`: max - min of Hbar in a group, mean over groups.
        - `share_negative_advantage`: share of responses with A < 0 before modulation.
        - `cov_alpha_advantage`: Cov(alpha, A) over the responses of a group, mean over groups. It
          is how far modulation moves a group's mean advantage.
        - `v_fail`, `v_success`: mean of (S - sum_k H_k)^2 over responses of failed / successful
          episodes. S is the surprisal, and the sum of token entropies estimates H_resp. Their
          difference decides the sign of AEM's extra entropy drift.
        - `success_rate`: share of episodes that succeeded.
        - `response_length_mean`: tokens; `corr_entropy_length`: correlation of it with Hbar.
    """
    keep = batch.counted
    if not bool(keep.any()):
        return {}
    alpha, entropy = modulated.alpha[keep], batch.response_entropy[keep]
    groups = Segments.of(batch.group_ids[keep])
    low, high = groups.extremes(entropy)
    base, lengths = advantages[keep].to(alpha.dtype), batch.lengths[keep].to(entropy.dtype)
    deviation = alpha - groups.mean(alpha)[groups.index]
    figures = {
        "alpha_mean": alpha.mean(),
        "alpha_min": alpha.min(),
        "alpha_max": alpha.max(),
        "share_below_threshold": ((high - low) < threshold).to(alpha.dtype).mean(),
        "response_entropy_mean": entropy.mean(),
        "response_entropy_range": (high - low).mean(),
        "share_negative_advantage": (base < 0).to(alpha.dtype).mean(),
        "cov_alpha_advantage": groups.mean(deviation * base).mean(),
        "response_length_mean": lengths.mean(),
        "corr_entropy_length": _correlation(entropy, lengths),
    }
    if success is not None:
        figures |= _by_outcome(batch, success.bool())
    found = {name: float(value) for name, value in figures.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _by_outcome(batch: ResponseBatch, success: Tensor) -> dict[str, Tensor]:
    """Success rate over episodes, and V for responses of either outcome (nan without any)."""
    v = (batch.surprisal - batch.entropy_sum).square()
    episodes = Segments.of(batch.trajectory_ids[batch.included])
    won = episodes.mean(success[batch.included].to(v.dtype))
    return {
        "success_rate": won.mean(),
        "v_fail": v[batch.counted & ~success].mean(),
        "v_success": v[batch.counted & success].mean(),
    }


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's correlation; nan where one of the two does not vary."""
    if bool(x.max() == x.min()) or bool(y.max() == y.min()):
        return x.new_tensor(float("nan"))
    x, y = x - x.mean(), y - y.mean()
    return (x * y).sum() / (x.square().sum() * y.square().sum()).sqrt()
