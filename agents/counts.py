"""How many parameters a model has, and how many would train, without loading it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from aem_gym.agents.lora import lora_config
from aem_gym.errors import ModelError


@dataclass(frozen=True, slots=True)
class ParameterCounts:
    """Sizes of a model and its adapter."""

    total: int
    """Parameters of the base model; tied ones once."""
    trainable: int
    """Parameters of the adapter."""
    targets: tuple[str, ...]
    """Last names of the layers that get an adapter, sorted."""
    adapted_layers: int
    """How many layers get one."""


def count_parameters_on_meta(
    config_file: Path, *, rank: int = 16, targets: str | Sequence[str] = "all-linear"
) -> ParameterCounts:
    """Build the model of a `config.json` on the meta device, attach LoRA, and count.

    No weights are read or allocated: a 7B model takes seconds and no memory.

    Raises:
        ModelError: the file is not a configuration that transformers knows.
    """
    import torch
    from peft import get_peft_model
    from peft.tuners.lora import LoraLayer
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(config_file)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{config_file}: expected the config.json of a model: {error}") from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
        total = sum(p.numel() for p in model.parameters())
        adapted = get_peft_model(model, lora_config(rank=rank, alpha=rank, targets=targets))
    trainable = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    names = [name for name, module in adapted.named_modules() if isinstance(module, LoraLayer)]
    last = tuple(sorted({name.rpartition(".")[2] for name in names}))
    return ParameterCounts(total, trainable, last, len(names))
