"""Policy and value losses per token, and their exact aggregation over micro-batches.

A loss is `f(logprobs, old_logprobs, advantages, mask, **options) -> LossOutput`, all of shape
(n, T), one response per row: log-probabilities of the policy in training, with gradient, and of the
one that sampled; modulated advantages; a bool mask. Its metrics are sums over tokens, so that
micro-batches add up; divide by the number of tokens. `aggregate` takes its denominators from
outside for the same reason: the sum over micro-batches equals the loss of the whole mini-batch.

A loss that picks tokens by comparing them picks from the whole mini-batch: see `selects`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.options import AboveOne, NotNegative, Share

AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "token-sum-norm")
LOG_RATIO_BOUND = 20.0
"""Log-ratios are clamped here, so that their exponential stays finite."""
_Clip = tuple[float, float, float | None]
"""The clip-range below and above 1, and the bound on the loss where A < 0."""
ROUNDING = 1e-4
"""Log-ratios up to here are rounding (float32): the divergence of `kl_cov` has no slope there."""
F = TypeVar("F", bound=Callable[..., Any])


def selects(select: Callable[..., Tensor]) -> Callable[[F], F]:
    """Decorate a loss that picks tokens by comparing all those of a mini-batch.

    `select(logprobs, old_logprobs, advantages, mask, **options) -> (n, T) bool` gets the rows of a
    whole mini-batch, detached, and those of the loss's options that it takes; `generator` is a seed
    from the run. The loss gets its rows of the result as `selected`.
    """

    def attach(loss: F) -> F:
        loss.__dict__["select"] = select
        return loss

    return attach


@dataclass(frozen=True)
class LossOutput:
    """A loss before aggregation."""

    per_token: Tensor
    """(n, T) with gradient; 0 outside the mask."""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    """Detached scalars: sums over the tokens of the mask. `ratio`: pi / pi_old; `old_kl`: k3
    estimate of KL(pi_old || pi); `clipped`, `dual_clipped`, `selected`: numbers of tokens."""


def ppo_clip(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: Share = 0.2,
    clip_high: NotNegative = 0.2,
    dual_clip: AboveOne | None = 3.0,
) -> LossOutput:
    """PPO's clipped surrogate: `-min(r A, clip(r, 1 - low, 1 + high) A)`, per token.

    `clip_high` above `clip_low` is DAPO's clip-higher (0.28). Where A < 0 the loss is at most
    `dual_clip * |A|` (arXiv 1912.09729); None: off.
    """
    log_ratio = log_ratio_of(logprobs, old_logprobs, mask)
    return _surrogate(log_ratio, log_ratio, advantages, mask, (clip_low, clip_high, dual_clip))


def gspo(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: Share = 3e-4,
    clip_high: NotNegative = 4e-4,
    dual_clip: AboveOne | None = None,
) -> LossOutput:
    """GSPO: PPO's surrogate with one ratio per response, `s = exp(mean_k(logp_k - old_k))`.

    Each token has the value of s and its own gradient (the paper's GSPO-token): the same gradient
    as s itself where advantages are equal within a response. The log-ratio is clamped at 10.
    Source: arXiv 2507.18071.
    """
    token = log_ratio_of(logprobs, old_logprobs, mask)
    mean = token.sum(-1, keepdim=True).detach() / mask.sum(-1, keepdim=True).clamp(min=1)
    log_ratio = (token - token.detach() + mean).clamp(max=10.0)
    return _surrogate(log_ratio, token, advantages, mask, (clip_low, clip_high, dual_clip))


def reinforce(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, mask: Tensor
) -> LossOutput:
    """`-A log pi` per token, without a ratio: right for one update per batch."""
    log_ratio = log_ratio_of(logprobs, old_logprobs, mask)
    loss = (-advantages.detach() * logprobs.masked_fill(~mask, 0)).masked_fill(~mask, 0)
    return LossOutput(loss, drift(log_ratio, mask))


@torch.no_grad()
def select_clip_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: Share = 0.2,
    clip_high: NotNegative = 0.2,
    share: Share = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    generator: torch.Generator | int = 0,
) -> Tensor:
    """The tokens of `clip_cov`, (n, T) bool.

    Of the unclipped tokens with covariance between `cov_low` and `cov_high`, at most
    `max(1, share * tokens)` are drawn.
    """
    if cov_low > cov_high:
        raise ConfigError(
            f"loss_options.cov_low: expected at most cov_high = {cov_high}, got {cov_low}"
        )
    log_ratio = log_ratio_of(logprobs, old_logprobs, mask)
    _, clipped = clipped_surrogate(log_ratio, advantages, mask, clip_low, clip_high)
    covariance = token_covariance(logprobs, advantages, mask)
    candidate = mask & ~clipped & (covariance > cov_low) & (covariance < cov_high)
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    # A key for every token: one candidate more or less, by rounding, does not move the others.
    keys = torch.rand(mask.shape, generator=generator).to(mask.device)
    count = min(_share_of(mask, share), int(candidate.sum()))
    first = keys.masked_fill(~candidate, 2.0).flatten().topk(count, largest=False).indices
    return _marked(mask, first)


@selects(select_clip_cov)
def clip_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: Share = 0.2,
    clip_high: NotNegative = 0.2,
    share: Share = 2e-4,
    cov_low: float = 1.0,
    cov_high: float = 5.0,
    generator: torch.Generator | int = 0,
    selected: Tensor | None = None,
) -> LossOutput:
    """PPO's surrogate without the gradient of a random share of high-covariance tokens.

    The loss of the `selected` tokens, those of `select_clip_cov`, is 0. None: of the call's own.
    """
    advantages = advantages.detach()
    if selected is None:
        tokens = (logprobs.detach(), old_logprobs, advantages, mask)
        options: dict[str, Any] = {"clip_low": clip_low, "clip_high": clip_high, "share": share}
        options |= {"cov_low": cov_low, "cov_high": cov_high, "generator": generator}
        selected = select_clip_cov(*tokens, **options)
    log_ratio = log_ratio_of(logprobs, old_logprobs, mask)
    loss, clipped = clipped_surrogate(log_ratio, advantages, mask, clip_low, clip_high)
    metrics = drift(log_ratio, mask)
    metrics["clipped"] = clipped.sum().float()
    metrics["selected"] = selected.sum().float()
    return LossOutput(loss.masked_fill(~mask | selected, 0), metrics)


@torch.no_grad()
def select_kl_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    share: Share = 2e-4,
) -> Tensor:
    """The tokens of `kl_cov`, (n, T) bool: `max(1, share * tokens)` of the largest covariance."""
    covariance = token_covariance(logprobs, advantages, mask)
    covariance = covariance.masked_fill(~mask, -float("inf")).flatten()
    return _marked(mask, covariance.topk(min(_share_of(mask, share), int(mask.sum()))).indices)


@selects(select_kl_cov)
def kl_cov(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    share: Share = 2e-4,
    kl_weight: NotNegative = 1.0,
    selected: Tensor | None = None,
) -> LossOutput:
    """The unclipped surrogate `-r A`, plus `kl_weight * |logp - old|` on the `selected` tokens.

    Those are the ones of `select_kl_cov`. None: of the call's own. Where the log-ratio is rounding
    its sign means nothing, so that it has no slope there.
    """
    advantages = advantages.detach()
    if selected is None:
        selected = select_kl_cov(logprobs.detach(), old_logprobs, advantages, mask, share=share)
    log_ratio = log_ratio_of(logprobs, old_logprobs, mask)
    loss = -advantages * torch.exp(log_ratio)
    distance = log_ratio.abs()
    distance = torch.where(distance > ROUNDING, distance, distance.detach())
    loss = loss + kl_weight * distance * selected
    metrics = drift(log_ratio, mask)
    metrics["selected"] = selected.sum().float()
    return LossOutput(loss.masked_fill(~mask, 0), metrics)


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
    over = (lengths - (max_length - buffer)).float() / max(1, buffer)
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

    "token-mean" is sum / total_tokens; "seq-mean-token-mean" is sum of row means / total_rows;
    "token-sum-norm" (Dr. GRPO) is sum / (total_rows * constant), usually a response's limit.
    Totals are the mini-batch's, over all ranks; `total_rows` counts rows with at least one token.
    Raises UnknownNameError on another mode, ValueError where "token-sum-norm" has no constant.
    """
    masked = per_token.masked_fill(~mask, 0)
    if mode == "token-mean":
        return masked.sum() / total_tokens
    return _per_row(masked, mask, mode, constant) / total_rows


def _per_row(masked: Tensor, mask: Tensor, mode: str, constant: float | None) -> Tensor:
    """The sum over rows, each divided by its own number of tokens or by the same constant."""
    if mode == "seq-mean-token-mean":
        return (masked.sum(-1) / mask.sum(-1).clamp(min=1)).sum()
    if mode != "token-sum-norm":
        raise UnknownNameError("loss aggregation", mode, AGGREGATIONS)
    if constant is None:
        raise ValueError("aggregation 'token-sum-norm' expects constant=<tokens>, got None")
    return masked.sum() / constant


def _surrogate(
    log_ratio: Tensor, of_token: Tensor, advantages: Tensor, mask: Tensor, clip: _Clip
) -> LossOutput:
    advantages, (clip_low, clip_high, dual_clip) = advantages.detach(), clip
    loss, clipped = clipped_surrogate(log_ratio, advantages, mask, clip_low, clip_high)
    metrics = drift(of_token.detach(), mask)
    metrics["clipped"] = clipped.sum().float()
    if dual_clip is not None:
        loss, bounded = dual_clipped(loss, advantages, mask, dual_clip)
        metrics["dual_clipped"] = bounded.sum().float()
    return LossOutput(loss.masked_fill(~mask, 0), metrics)


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


@torch.no_grad()
def token_covariance(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """Each token's part of Cov(A, logp) over the tokens of the mask, (n, T); 0 outside.

    `(A - mean A) * (logp - mean logp)` over the tokens of the call. Source: arXiv 2505.22617.
    """
    count = mask.sum().clamp(min=1)
    logp, adv = logprobs.masked_fill(~mask, 0), advantages.masked_fill(~mask, 0)
    product = (adv - adv.sum() / count) * (logp - logp.sum() / count)
    return product.masked_fill(~mask, 0)


def _share_of(mask: Tensor, share: float) -> int:
    return max(1, int(share * int(mask.sum())))


def _marked(mask: Tensor, positions: Tensor) -> Tensor:
    """True at the given positions of the flattened mask, (n, T) bool."""
    flat = torch.zeros(mask.numel(), dtype=torch.bool, device=mask.device)
    flat[positions] = True
    return flat.view(mask.shape)
