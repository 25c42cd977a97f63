"""A frozen base model spread over the processes of a run: each layer is fetched while it works.

Adapters, embeddings, output layer and norms outside the layers stay whole on every process, so that
optimizer, clipping and saving are those of one process.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from aem_gym.agents.families import decoder_of
from aem_gym.errors import ConfigError


def shard_layers(model: Any) -> None:
    """Spread the layers of an adapted model, by FSDP2 of torch. All processes call it.

    Raises:
        ConfigError: the model has no list of layers.
    """
    from torch.distributed.fsdp import fully_shard

    decoder = decoder_of(model)
    whole = set(decoder.parameters())
    for layer in layers_of(decoder):
        adapters = {p for name, p in layer.named_parameters() if ".lora_" in name}
        whole -= set(layer.parameters()) - adapters
        fully_shard(layer, reshard_after_forward=True, ignored_params=adapters)
    # The outermost module: it fetches a layer while the one before it works.
    fully_shard(decoder, ignored_params=whole)


def layers_of(decoder: Any) -> list[Any]:
    """The layers of a decoder: its largest list of modules."""
    lists = [m for m in decoder.modules() if isinstance(m, nn.ModuleList)]
    if not lists:
        raise ConfigError(
            f"shard_base: {type(decoder).__name__} has no list of layers that could be spread. "
            "Leave --shard-base out"
        )
    longest: Any = max(lists, key=lambda each: sum(p.numel() for p in each.parameters()))
    return list(longest)
