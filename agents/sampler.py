"""The model that samples: a merged copy for small models, the training model itself for large.

Merging into a copy makes a small model's forward several times faster and never touches the base
weights; a large model has no memory to spare for a copy.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

MERGE_BELOW = 300_000_000
"""Parameters up to which sampling uses a merged copy by default."""


class MergedCopy:
    """A copy of a model with its LoRA update added to the weights.

    Args:
        base: the model before adapters are injected; it is copied.
    """

    def __init__(self, base: nn.Module) -> None:
        self.model = copy.deepcopy(base).eval().requires_grad_(False)
        if next(base.parameters()).device.type == "cpu":
            # One query and a mask: the plain product is the fastest attention on a CPU.
            self.model.set_attn_implementation("eager")  # type: ignore[operator]

    @torch.no_grad()
    def refresh(self, trained: nn.Module, adapter: str = "default") -> None:
        """Set each adapted weight to base + scale * B A, from scratch, so that nothing drifts."""
        from peft.tuners.lora import LoraLayer

        for name, module in trained.named_modules():
            if isinstance(module, LoraLayer):
                layer: Any = module
                target = self.model.get_submodule(name)
                merged = layer.base_layer.weight + layer.get_delta_weight(adapter)
                target.weight.copy_(merged)  # type: ignore[operator]
