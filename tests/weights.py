"""Facts about the weights of a model, for tests."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def base_weights_hash(model: nn.Module) -> str:
    """SHA-256 over the weights below the adapters: the same before, with and after LoRA."""
    import torch

    digest = hashlib.sha256()
    named = {
        name.removeprefix("base_model.model.").replace(".base_layer.", "."): parameter
        for name, parameter in model.named_parameters()
        if ".lora_" not in name
    }
    for name in sorted(named):
        tensor = named[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class ParameterCounts:
    """Sizes of a model and its adapter."""

    total: int
    """Parameters of the base model; tied ones once."""
    trainable: int
    """Parameters of the adapter."""
    targets: tuple[str, ...]
    """Last names of the layers that get an adapter, sorted."""
    adapted_layers: int


def count_parameters_on_meta(
    config_file: Path, *, rank: int = 16, targets: str | Sequence[str] = "all-linear"
) -> ParameterCounts:
    """Build the model of a `config.json` on the meta device, attach LoRA, and count.

    No weights are read or allocated: a 7B model takes seconds and no memory.
    """
    import torch
    from peft.tuners.lora import LoraLayer
    from transformers import AutoConfig, AutoModelForCausalLM

    from aem_gym.agents.lora import attach_lora

    config = AutoConfig.from_pretrained(config_file)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        total = sum(p.numel() for p in model.parameters())
        adapted = attach_lora(model, rank=rank, alpha=rank, targets=targets, seed=0)
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    names = [name for name, module in adapted.named_modules() if isinstance(module, LoraLayer)]
    last = tuple(sorted({name.rpartition(".")[2] for name in names}))
    return ParameterCounts(total, trainable, last, len(names))
