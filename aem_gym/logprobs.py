"""Log-probability of a token and entropy of its distribution in one pass, with little memory.

Both functions return (logp, entropy) in nats of `softmax(logits / temperature)`. The first is
differentiable; the entropy is detached, since AEM only reads it. Arithmetic is float32 for
half-precision inputs (float64 for float64).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import linear

_BLOCK = {"cpu": 2**19}
_BLOCK_ELSEWHERE = 2**26
"""Logits treated at a time: bounds the float32 copies, and keeps them in a CPU's cache."""


@dataclass(frozen=True, slots=True)
class LogitMap:
    """What a model does to the output of its head: `softcap * tanh(scale * x / softcap)`.

    Without a softcap `scale * x`.
    """

    scale: float = 1.0
    softcap: float | None = None

    def apply(self, logits: Tensor) -> Tensor:
        """The model's logits, of any shape, from those of the bare head."""
        scaled = logits * self.scale
        return scaled if self.softcap is None else self.softcap * (scaled / self.softcap).tanh()


IDENTITY = LogitMap()


def logprob_and_entropy(
    logits: Tensor, targets: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Log-probability of each target and exact entropy of each row.

    Keeps the logits it was given and one number per row for the backward pass: no second (M, V)
    tensor lives between forward and backward.

    Args:
        logits: (M, V), before the temperature. A logit of -inf is a forbidden token.
        targets: (M,) long.
        temperature: divides the logits; the sampling temperature.

    Returns:
        logp (M,) differentiable, entropy (M,) detached; float32, or float64 for float64 logits.

    Raises:
        ValueError: temperature <= 0 or shapes that do not fit.
    """
    _check(logits, targets, temperature)
    logp, entropy = _LogProbEntropy.apply(logits, targets, temperature)  # type: ignore[no-untyped-call]
    return logp, entropy


def linear_logprob_and_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    temperature: float = 1.0,
    chunk: int = 256,
    logit_map: LogitMap = IDENTITY,
) -> tuple[Tensor, Tensor]:
    """The same for `logits = logit_map(hidden @ weight.T + bias)`, at most `chunk` rows at a time.

    With a frozen `weight` (LoRA) the gradient to `hidden` is formed during the forward pass, while
    a chunk's logits are at hand; otherwise the backward pass recomputes each chunk.

    Shapes: hidden (M, D) of the positions that predict `targets` (M,); weight (V, D), bias (V,).
    The log-probabilities (M,) are differentiable in hidden, weight and bias; the entropies are not.
    Raises ValueError where temperature or chunk is not above 0, or shapes do not fit.
    """
    _check(hidden, targets, temperature, chunk)
    head_trains = weight.requires_grad or (bias is not None and bias.requires_grad)
    early = torch.is_grad_enabled() and hidden.requires_grad and not head_trains
    weight = weight.to(hidden.dtype)
    bias = None if bias is None else bias.to(hidden.dtype)
    # With both divided by the scale, the kernel has nothing to multiply.
    cap, scale = logit_map.softcap, logit_map.scale
    how = (temperature / scale, chunk, early, None if cap is None else cap / scale)
    logp, entropy = _LinearLogProbEntropy.apply(hidden, weight, bias, targets, how)  # type: ignore[no-untyped-call]
    return logp, entropy


def _check(rows: Tensor, targets: Tensor, temperature: float, chunk: int = 1) -> None:
    fits = rows.dim() == 2 and targets.shape == rows.shape[:1]
    if not (fits and temperature > 0 and chunk > 0):
        raise _misfit(rows, targets, temperature, chunk)


def _misfit(rows: Tensor, targets: Tensor, temperature: float, chunk: int) -> ValueError:
    if not temperature > 0:
        return ValueError(f"temperature: expected a number > 0, got {temperature}")
    if rows.dim() == 2 and targets.shape == rows.shape[:1]:
        return ValueError(f"chunk: expected a number of rows > 0, got {chunk}")
    return ValueError(
        "expected logits (M, V) or hidden states (M, D) with targets (M,), "
        f"got {tuple(rows.shape)} and {tuple(targets.shape)}"
    )


def _block_rows(logits: Tensor) -> int:
    """How many rows of `logits` to treat at a time."""
    block = _BLOCK.get(logits.device.type, _BLOCK_ELSEWHERE)
    return max(1, block // max(1, logits.shape[1]))


def _wide(x: Tensor) -> Tensor:
    """A float32 copy, or a float64 one of float64: safe to change in place."""
    return x.to(torch.promote_types(x.dtype, torch.float32), copy=True)


def _statistics(logits: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, ...]:
    """(logp, entropy, logsumexp, probabilities) of a chunk; the last one is (m, V)."""
    z = _wide(logits).div_(temperature)
    top = z.amax(-1, keepdim=True)
    z.sub_(top)  # Differences to the largest logit: no cancellation, whatever the offset.
    target = z.gather(-1, targets[:, None])
    p = torch.exp(z)
    total = p.sum(-1, keepdim=True)
    p.div_(total)
    log_total = total.log()
    # A forbidden token has p = 0 and z = -inf, whose product must be 0.
    z.clamp_(min=torch.finfo(z.dtype).min)
    entropy = log_total[:, 0] - torch.einsum("mv,mv->m", p, z)
    return (target - log_total)[:, 0], entropy, (top + log_total)[:, 0], p


class _LogProbEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        step = _block_rows(logits)
        parts = [
            _statistics(rows, chosen, temperature)[:3]
            for rows, chosen in zip(
                torch.split(logits, step), torch.split(targets, step), strict=True
            )
        ]
        logp, entropy, normaliser = (torch.cat(column) for column in zip(*parts, strict=True))
        ctx.save_for_backward(logits, targets, normaliser)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        logits, targets, normaliser = ctx.saved_tensors
        result = torch.empty_like(logits)
        step = _block_rows(logits)
        for start in range(0, logits.shape[0], step):
            rows = slice(start, start + step)
            z = _wide(logits[rows]).div_(ctx.temperature).sub_(normaliser[rows, None])
            scale = grad[rows, None] / ctx.temperature
            dz = z.exp_().mul_(-scale)
            dz.scatter_add_(1, targets[rows, None], scale)
            result[rows] = dz.to(result.dtype)
        return result, None, None


_How = tuple[float, int, bool, float | None]
"""Temperature, chunk, whether the gradient to `hidden` is formed during the forward pass, softcap.
"""


def _capped(logits: Tensor, softcap: float) -> tuple[Tensor, Tensor]:
    """`softcap * tanh(logits / softcap)` in float32 or wider, and its derivative."""
    bent = _wide(logits).div_(softcap).tanh_()
    return bent * softcap, bent.square().neg_().add_(1)


class _LinearLogProbEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, how: _How
    ) -> tuple[Tensor, Tensor]:
        temperature, chunk, early, softcap = how
        wide = torch.promote_types(hidden.dtype, torch.float32)
        logp, entropy = hidden.new_empty((2, hidden.shape[0]), dtype=wide)
        slope = torch.empty_like(hidden) if early else None  # d logp / d hidden
        for start in range(0, hidden.shape[0], chunk):
            rows = slice(start, start + chunk)
            logits, bend = linear(hidden[rows], weight, bias), None
            if softcap is not None:
                logits, bend = _capped(logits, softcap)
            logp[rows], entropy[rows], _, p = _statistics(logits, targets[rows], temperature)
            if slope is not None:
                p.neg_().scatter_add_(1, targets[rows, None], torch.ones_like(p[:, :1]))
                p = p if bend is None else p.mul_(bend)
                slope[rows] = p.div_(temperature).to(weight.dtype) @ weight
        kept = (hidden, weight, bias, targets) if slope is None else (slope,)
        ctx.save_for_backward(*kept)
        ctx.early, ctx.temperature, ctx.chunk, ctx.softcap = early, temperature, chunk, softcap
        ctx.mark_non_differentiable(entropy)
        return logp, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.early:
            (slope,) = ctx.saved_tensors
            return (slope * grad[:, None]).to(slope.dtype), None, None, None, None
        return *_recomputed(ctx, grad), None, None


def _recomputed(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients to hidden, weight and bias, a chunk at a time; sums over rows in wide dtype."""
    hidden, weight, bias, targets = ctx.saved_tensors
    need_hidden, need_weight, need_bias = ctx.needs_input_grad[:3]
    d_hidden = torch.empty_like(hidden) if need_hidden else None
    d_weight = torch.zeros_like(weight, dtype=grad.dtype) if need_weight else None
    d_bias = torch.zeros_like(bias, dtype=grad.dtype) if need_bias else None
    for start in range(0, hidden.shape[0], ctx.chunk):
        rows = slice(start, start + ctx.chunk)
        logits, bend = linear(hidden[rows], weight, bias), None
        if ctx.softcap is not None:
            logits, bend = _capped(logits, ctx.softcap)
        *_unused, p = _statistics(logits, targets[rows], ctx.temperature)
        scale = grad[rows, None] / ctx.temperature
        d_logits = p.mul_(-scale).scatter_add_(1, targets[rows, None], scale)
        d_logits = d_logits if bend is None else d_logits.mul_(bend)
        narrow = d_logits.to(weight.dtype)
        if d_hidden is not None:
            d_hidden[rows] = narrow @ weight
        if d_weight is not None:
            d_weight += narrow.t() @ hidden[rows]
        if d_bias is not None:
            d_bias += d_logits.sum(0)
    return (
        d_hidden,
        None if d_weight is None else d_weight.to(weight.dtype),
        None if d_bias is None else d_bias.to(bias.dtype),
    )
