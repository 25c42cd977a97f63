"""What is wrong with that which an own estimator, modulator or loss returned, in words."""

from __future__ import annotations

import torch
from torch import Tensor

from aem_gym.credit.losses import LossOutput
from aem_gym.errors import BadCredit, ComponentError


def credit_fault(
    component: str, found: object, like: Tensor, shape: torch.Size, name: str
) -> ComponentError:
    """The error about a tensor of credit that is not finite, or not such as it has to be.

    Args:
        component: what returned it: "estimator 'x:y'".
        found: what it returned.
        like: a tensor on the device that is needed.
        shape: the shape that is needed.
        name: how the shape is written: "(N,)".
    """
    if wrong := _no_tensor(found, like, shape, name):
        return ComponentError(f"{component}: {wrong}")
    assert isinstance(found, Tensor)
    if not found.is_floating_point():
        got = f"expected floating-point numbers, got {found.dtype}"
        return ComponentError(f"{component}: {got} (`.to({like.dtype})` converts)")
    if found.requires_grad:
        return ComponentError(
            f"{component}: expected a tensor without gradient, got one with requires_grad=True "
            "(`.detach()`, or the decorator `@torch.no_grad()`)"
        )
    kind = "nan" if bool(found.isnan().any()) else "inf"
    return BadCredit(component, kind, int((~torch.isfinite(found)).sum()), found.numel())


def loss_fault(component: str, found: object, logprobs: Tensor) -> ComponentError:
    """The error about what a loss returned for `logprobs` (n, T)."""
    if not isinstance(found, LossOutput):
        wanted = "a LossOutput (aem_gym.credit)"
        return ComponentError(f"{component}: expected {wanted}, got {describe_value(found)}")
    per_token: object = found.per_token
    if wrong := _no_tensor(per_token, logprobs, logprobs.shape, "(n, T)"):
        return ComponentError(f"{component}, per_token: {wrong}")
    assert isinstance(per_token, Tensor)
    if not per_token.is_floating_point():
        wrong = f"expected floating-point numbers, got {per_token.dtype}"
        return ComponentError(f"{component}, per_token: {wrong}")
    if not per_token.requires_grad:
        return ComponentError(f"{component}, per_token: expected a loss with a gradient, got none")
    got = f"got {found.metrics!r:.80}"
    return ComponentError(f"{component}: expected numbers by name in metrics, {got}")


def describe_value(found: object) -> str:
    """The type of a value in words, with its shape where it has one: `numpy.ndarray (16,)`."""
    kind = type(found)
    name = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__name__}"
    shape = getattr(found, "shape", None)
    return "None" if found is None else name if shape is None else f"{name} {tuple(shape)}"


def _no_tensor(found: object, like: Tensor, shape: torch.Size, name: str) -> str | None:
    if not isinstance(found, Tensor):
        return f"expected a tensor {name} = {tuple(shape)}, got {describe_value(found)}"
    if found.shape != shape:
        return f"expected {name} = {tuple(shape)}, got {tuple(found.shape)}"
    if found.device != like.device:
        return f"expected a tensor on {like.device}, got one on {found.device}"
    return None
