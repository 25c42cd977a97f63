"""Policy and value losses per token, and their exact aggregation over micro-batches.

A loss is `f(logprobs, old_logprobs, advantages, mask, **options) -> LossOutput`, all of shape
(n, T), one response per row. Its metrics are sums over tokens, so that micro-batches add up; divide
by the number of tokens. `aggregate` takes its denominators from outside for the same reason: the
sum over micro-batches equals the loss of the whole mini-batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from aem_gym.credit.covariance import clip_cov, kl_cov
from aem_gym.credit.surrogate import (
    LOG_RATIO_BOUND,
    LossOutput,
    clipped_surrogate,
    drift,
    dual_clipped,
    log_ratio_of,
)
from aem_gym.errors import UnknownNameError

AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "token-sum-norm")


def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = 3.0,
) -> LossOutput:
    """PPO's clipped surrogate: `-min(r A, clip(r, 1 - low, 1 + high) A)`, per token.

    Args:
        logprobs: (n, T) of the policy in training, with gradient.
        old_logprobs: (n, T) of the policy that sampled.
        advantages: (n, T) modulated.
        mask: (n, T) bool.
        clip_low: clip-range below 1.
        clip_high: clip-range above 1 (DAPO's clip-higher: 0.28).
        dual_clip: where A < 0 the loss is at most `dual_clip * |A|` (arXiv 1912.09729); None: off.
    """
    log_ratio = log_ratio_of(logprobs, old_logprobs, mask)
    return _surrogate(log_ratio, log_ratio, advantages, mask, (clip_low, clip_high), dual_clip)


def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float = 3e-4,
    clip_high: float = 4e-4,
    dual_clip: float | None = None,
) -> LossOutput:
    """GSPO: PPO's surrogate with one ratio per response, `s = exp(mean_k(logp_k - old_k))`.

    Each token has the value of s and its own gradient (the paper's GSPO-token): the same gradient
    as s itself where advantages are equal within a response. The log-ratio is clamped at 10.
    Source: arXiv 2507.18071.
    """
    token = log_ratio_of(logprobs, old_logprobs, mask)
    mean = token.sum(-1, keepdim=True).detach() / mask.sum(-1, keepdim=True).clamp(min=1)
    log_ratio = (token - token.detach() + mean).clamp(max=10.0)
    return _surrogate(log_ratio, token, advantages, mask, (clip_low, clip_high), dual_clip)


def reinforce(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
) -> LossOutput:
    """`-A log pi` per token, without a ratio: right for one update per batch."""
    log_ratio = log_ratio_of(logprobs, old_logprobs, mask)
    loss = (-advantages.detach() * logprobs.masked_fill(~mask, 0)).masked_fill(~mask, 0)
    return LossOutput(loss, drift(log_ratio, mask))


def kl_k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """Schulman's k3 estimate of KL(policy || reference) per token.

    `exp(d) - d - 1` with d = ref - logp. Any shape; non-negative. Differences beyond 20 nats are
    clamped. Mask it before aggregating.
    """
    d = (ref_logprobs.detach() - logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND)
    return torch.expm1(d) - d


def value_loss(
    values: Tensor, old_values: Tensor, targets: Tensor, *, clip: float | None = 0.2
) -> Tensor:
    """PPO's clipped value loss per response (n,): `0.5 * max((v - y)^2, (clip(v) - y)^2)`.

    `clip(v)` keeps v within `clip` of the value at sampling time, in scaled return; None: off.
    """
    plain = (values - targets.detach()).square()
    if clip is None:
        return 0.5 * plain
    old = old_values.detach()
    near = old + (values - old).clamp(-clip, clip)
    return 0.5 * torch.maximum(plain, (near - targets.detach()).square())


def overlong_penalty(
    lengths: Tensor, *, max_length: int, buffer: int, factor: float = 1.0
) -> Tensor:
    """DAPO's soft penalty on long responses, (n,) <= 0: add it to rewards or penalties.

    0 up to `max_length - buffer` tokens, then linear down to `-factor` at `max_length` and beyond.
    Source: arXiv 2503.14476, equation 13.
    """
    over = (lengths - (max_length - buffer)).float() / buffer
    return -factor * over.clamp(0.0, 1.0)


def aggregate(
    per_token: Tensor,
    mask: Tensor,
    mode: str = "token-mean",
    *,
    total_tokens: float | Tensor,
    total_rows: float | Tensor,
    constant: float | None = None,
) -> Tensor:
    """Reduce (n, T) to a scalar whose sum over micro-batches is the loss of the mini-batch.

    Args:
        per_token: (n, T) of this micro-batch.
        mask: (n, T) bool.
        mode: "token-mean": sum / total_tokens. "seq-mean-token-mean": sum of row means /
            total_rows. "token-sum-norm" (Dr. GRPO): sum / (total_rows * constant).
        total_tokens: tokens of the whole mini-batch (over all ranks).
        total_rows: rows of the whole mini-batch with at least one token.
        constant: the length that "token-sum-norm" divides by, usually the token limit of a
            response; required there.

    Raises:
        UnknownNameError: no such mode.
        ValueError: "token-sum-norm" without a constant.
    """
    masked = per_token.masked_fill(~mask, 0)
    if mode == "token-mean":
        return masked.sum() / total_tokens
    if mode == "seq-mean-token-mean":
        return (masked.sum(-1) / mask.sum(-1).clamp(min=1)).sum() / total_rows
    if mode == "token-sum-norm":
        if constant is None:
            raise ValueError("aggregation 'token-sum-norm' expects constant=<tokens>, got None")
        return masked.sum() / (total_rows * constant)
    raise UnknownNameError("loss aggregation", mode, AGGREGATIONS)


def _surrogate(
    log_ratio: Tensor,
    token_log_ratio: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip: tuple[float, float],
    dual_clip: float | None,
) -> LossOutput:
    """The clipped surrogate for a given log-ratio, with its metrics."""
    advantages = advantages.detach()
    loss, clipped = clipped_surrogate(log_ratio, advantages, mask, *clip)
    metrics = drift(token_log_ratio.detach(), mask)
    metrics["clipped"] = clipped.sum().float()
    if dual_clip is not None:
        loss, bounded = dual_clipped(loss, advantages, mask, dual_clip)
        metrics["dual_clipped"] = bounded.sum().float()
    return LossOutput(loss.masked_fill(~mask, 0), metrics)


LOSSES: Mapping[str, Callable[..., LossOutput]] = MappingProxyType(
    {
        "ppo_clip": ppo_clip,
        "gspo": gspo,
        "clip_cov": clip_cov,
        "kl_cov": kl_cov,
        "reinforce": reinforce,
    }
)
