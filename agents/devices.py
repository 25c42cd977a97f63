"""Where a model runs, and in which number format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aem_gym.errors import ConfigError, ModelError, UnknownNameError

if TYPE_CHECKING:
    import torch

_DTYPES = ("float32", "bfloat16", "float16")
_SHORT = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def resolve_device(name: str = "auto") -> torch.device:
    """The device called `name`: auto (a GPU if there is one), cpu, cuda, cuda:1 or mps.

    Raises:
        UnknownNameError: no such kind of device.
        ModelError: this machine, or this build of torch, has no such device.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps"):
        raise UnknownNameError("device", name, ("auto", "cpu", "cuda", "mps"))
    if index and not index.isdecimal():
        raise ConfigError(f"device: expected a number after {kind + ':'!r}, got {name!r}")
    if kind == "cuda":
        return _cuda(name, int(index) if index else None)
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ModelError("device mps: this machine has none. Use device=cpu or device=auto.")
    return torch.device(kind)


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """The dtype called `name`; auto is bfloat16 on a GPU that has it, else float32.

    Raises:
        UnknownNameError: no such dtype.
    """
    import torch

    if name == "auto":
        fast = device.type == "cuda" and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    name = _SHORT.get(name, name)
    if name not in _DTYPES:
        raise UnknownNameError("dtype", name, ("auto", *_DTYPES))
    dtype: torch.dtype = getattr(torch, name)
    return dtype


def _cuda(name: str, index: int | None) -> torch.device:
    """A CUDA device that is really there."""
    import torch

    if not torch.cuda.is_available():
        why = (
            "torch sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"
            if torch.version.cuda or torch.version.hip
            else f"torch {torch.__version__} is a build without CUDA; see "
            "https://pytorch.org/get-started for the command that installs one"
        )
        raise ModelError(f"device {name}: {why}. Without a GPU use device=cpu or device=auto.")
    count = torch.cuda.device_count()
    if index is not None and index >= count:
        raise ModelError(f"device {name}: expected cuda:0 to cuda:{count - 1} on this machine")
    return torch.device("cuda", torch.cuda.current_device() if index is None else index)
