"""Adaptive Entropy Modulation, and the entropy-based rivals it is compared with.

A modulator sits between the base advantage estimator (with its own normalization) and the loss.
Source: AEM, arXiv 2605.00425 (v3). `aem_coefficients` is the stable public function.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from aem_gym.credit.batch import ResponseBatch, Segments, TurnGrid
from aem_gym.errors import UnknownNameError
from aem_gym.options import Positive

V = TypeVar("V")


@dataclass(frozen=True)
class Modulated:
    """The result of a modulator. Nothing in it carries a gradient."""

    advantages: Tensor
    """(N, T) per token; 0 outside the mask."""
    alpha: Tensor
    """(N,) the factor on each response's advantage; 1 where the modulator has none."""
    info: dict[str, float] = field(default_factory=dict)


@torch.no_grad()
def aem_coefficients(
    response_entropy: Tensor,
    group_ids: Tensor,
    *,
    lam: float = 1.0,
    threshold: float = 0.1,
    counted: Tensor | None = None,
) -> Tensor:
    """AEM's alpha: `exp(-lam * Htil) / mean_group(exp(-lam * Htil))`, one row per response.

    `Htil` is the entropy min-max scaled within its group, over which alpha has mean 1. Groups with
    a range strictly below `threshold`, or one response, get exactly 1, as all do with `lam` 0.

    All tensors are (N,); entropies in nats, not finite for a response without tokens, which gets 1.
    Rows that are not `counted` enter no statistic, but get the alpha of their entropy, clamped to
    the range. A negative `lam` reverses the direction. The result is detached, in the same dtype.
    """
    entropy = response_entropy.detach()
    if lam == 0 or entropy.numel() == 0:
        return torch.ones_like(entropy)
    finite = torch.isfinite(entropy)
    keep = finite if counted is None else finite & counted
    groups = Segments.of(group_ids)
    low, high = groups.extremes(entropy, keep)
    spread = high - low
    # A range above 0 takes two responses; it is -inf where a group has none.
    active = (spread >= threshold) & (spread > 0)
    active_rows = active[groups.index] & finite
    scaled = ((entropy - low[groups.index]) / spread[groups.index]).clamp(0, 1)
    exponent = -lam * torch.where(active_rows, scaled, torch.zeros_like(scaled))
    # A negative lam is shifted by a constant, which cancels, so that exp cannot overflow.
    weight = torch.exp(exponent + min(lam, 0.0))
    # Half precision cannot count beyond 256 (bfloat16): sum in float32 there.
    wide = weight.float() if weight.element_size() < 4 else weight
    mean = groups.mean(wide, keep).to(weight.dtype)
    return torch.where(active_rows, weight / mean[groups.index], torch.ones_like(weight))


def identity(batch: ResponseBatch, advantages: Tensor) -> Modulated:
    """No modulation: each token carries its response's advantage (N,)."""
    return Modulated(_per_token(batch, advantages.detach()), torch.ones_like(advantages))


@torch.no_grad()
def aem(
    batch: ResponseBatch,
    advantages: Tensor,
    *,
    lam: float = 1.0,
    threshold: float = 0.1,
    scope: str = "group",
    direction: str = "normal",
    proxy: str = "mean-entropy",
    only: str = "none",
    shuffle: bool = False,
    generator: torch.Generator | int = 0,
    recentre: bool = False,
) -> Modulated:
    """Adaptive Entropy Modulation: `A' = stop_gradient(alpha) * A`. The defaults are the paper's.

    Where alpha is 1 (`lam` 0, range below the threshold) the result is the base, bit for bit.
    `advantages` are (N,), normalized by their estimator; docs/aem.md explains the options.
    Raises UnknownNameError where one has a value that does not exist.
    """
    scopes = batch.group_ids if scope == "group" else _scope_ids(batch, scope)
    lam = lam if direction == "normal" else lam * _sign(direction)
    score = batch.response_entropy if proxy == "mean-entropy" else _proxy(batch, proxy)
    score = score.masked_fill(batch.lengths == 0, float("nan"))
    alpha = aem_coefficients(score, scopes, lam=lam, threshold=threshold, counted=batch.included)
    alpha = alpha.to(advantages.dtype)
    if shuffle:
        alpha = _shuffled(alpha, scopes, batch.counted, generator)
    if only != "none":
        alpha = torch.where(_touched(advantages, only), alpha, torch.ones_like(alpha))
    result = alpha * advantages.detach()
    if recentre:
        result = result - _added_mean(batch, alpha, advantages, scopes)
    return Modulated(_per_token(batch, result), alpha)


@torch.no_grad()
def empg(
    batch: ResponseBatch,
    advantages: Tensor,
    *,
    k: float = 1.0,
    k_future: float = 1.0,
    zeta: float = 0.05,
    centre: bool = True,
) -> Modulated:
    """EMPG: `A' = g(H_t) A + zeta * exp(-k' H_{t+1})`, minus the batch mean.

    `H` is the mean entropy of a response, min-max scaled over the whole batch, and
    `g = exp(-k H) / mean(exp(-k H))`. The last turn of a trajectory has no future term. With
    `zeta` 0 and no centring this is AEM with scope "batch" and threshold 0. Source: EMPG,
    arXiv 2509.09265.
    """
    everything = torch.zeros_like(batch.group_ids)
    entropy = batch.response_entropy.masked_fill(batch.lengths == 0, float("nan"))
    alpha = aem_coefficients(entropy, everything, lam=k, threshold=0.0, counted=batch.included)
    alpha = alpha.to(advantages.dtype)
    result = alpha * advantages.detach()
    if zeta:
        result = result + zeta * _future_clarity(batch, k_future).to(result.dtype)
    if centre and bool(batch.counted.any()):
        result = result - result[batch.counted].mean()
    return Modulated(_per_token(batch, result), alpha)


@torch.no_grad()
def entropy_shaping(
    batch: ResponseBatch, advantages: Tensor, *, c: float = 0.4, kappa: Positive = 2.0
) -> Modulated:
    """Entropy-shaped advantages: `A_k + min(c * H_k, |A| / kappa)` for each token k.

    `kappa > 1` keeps the sign of A. Source: "Reasoning with Exploration", arXiv 2506.14758.
    """
    base = advantages.detach()[:, None]
    bonus = torch.minimum(c * batch.entropies.to(base.dtype), base.abs() / kappa)
    result = (base + bonus).masked_fill(~batch.mask, 0)
    return Modulated(result, torch.ones_like(advantages))


def _per_token(batch: ResponseBatch, advantages: Tensor) -> Tensor:
    """(N,) to (N, T), 0 outside the mask."""
    return advantages[:, None].expand(batch.mask.shape).masked_fill(~batch.mask, 0)


def _pick(kind: str, name: str, table: dict[str, V]) -> V:
    if name not in table:
        raise UnknownNameError(kind, name, table)
    return table[name]


def _scope_ids(batch: ResponseBatch, scope: str) -> Tensor:
    """(N,) long: responses with equal ids are scaled together."""
    everything = torch.zeros_like(batch.group_ids)
    known = {"group": batch.group_ids, "trajectory": batch.trajectory_ids, "batch": everything}
    return _pick("AEM scope", scope, known)


def _sign(direction: str) -> float:
    return _pick("AEM direction", direction, {"normal": 1.0, "reversed": -1.0})


def _touched(advantages: Tensor, only: str) -> Tensor:
    """(N,) bool: the responses whose advantage has a sign that is modulated."""
    every = torch.ones_like(advantages, dtype=torch.bool)
    known = {"none": every, "positive": advantages > 0, "negative": advantages < 0}
    return _pick("AEM only", only, known)


def _added_mean(batch: ResponseBatch, alpha: Tensor, advantages: Tensor, scopes: Tensor) -> Tensor:
    """What modulation added to a scope's mean advantage, on counted rows; exactly 0 at alpha 1."""
    segments = Segments.of(scopes)
    shift = segments.mean((alpha - 1) * advantages, batch.counted)[segments.index]
    return torch.where(batch.counted, shift, torch.zeros_like(shift))


def _proxy(batch: ResponseBatch, name: str) -> Tensor:
    """The uncertainty of each response that alpha is made from, (N,)."""
    surprisal = batch.surprisal / batch.lengths.clamp(min=1)
    known = {"mean-entropy": batch.response_entropy, "sum-entropy": batch.entropy_sum}
    return _pick("AEM proxy", name, known | {"mean-surprisal": surprisal})


def _shuffled(
    alpha: Tensor, scopes: Tensor, counted: Tensor, generator: torch.Generator | int
) -> Tensor:
    """Permute alpha among the counted rows of each scope; the other rows get 1."""
    if isinstance(generator, int):
        generator = torch.Generator().manual_seed(generator)
    rows = counted.nonzero()[:, 0]
    draws = torch.randperm(rows.numel(), generator=generator).to(rows.device)
    by_scope = scopes[rows].argsort(stable=True)
    at_random = draws[scopes[rows][draws].argsort(stable=True)]
    result = torch.ones_like(alpha)
    result[rows[at_random]] = alpha[rows[by_scope]]
    return result


def _future_clarity(batch: ResponseBatch, k: float) -> Tensor:
    """exp(-k * H of the trajectory's next response), (N,); 0 where there is none."""
    entropy = batch.response_entropy
    low, high = Segments.of(torch.zeros_like(batch.group_ids)).extremes(entropy, batch.counted)
    spread = (high - low).clamp(min=0)
    safe = torch.where(spread > 0, spread, torch.ones_like(spread))
    scaled = torch.where(spread > 0, (entropy - low) / safe, torch.zeros_like(entropy)).clamp(0, 1)
    clarity = torch.exp(-k * scaled).masked_fill(batch.lengths == 0, 0)
    grid = TurnGrid.of(batch.trajectory_ids, batch.turns)
    cells = grid.spread(clarity)
    following = torch.zeros_like(cells)
    following[:, :-1] = cells[:, 1:]
    return grid.gather(following)
