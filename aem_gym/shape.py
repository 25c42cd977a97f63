"""The shape of a model: what its memory and its arithmetic follow from, without any weight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ALL_LINEAR = "all-linear"


@dataclass(frozen=True, slots=True)
class LinearLayers:
    """Linear layers of one name and size, the output layer left out."""

    name: str
    """The last part: `q_proj`."""
    inputs: int
    outputs: int
    count: int


@dataclass(frozen=True, slots=True)
class Chunks:
    """How much the sampler and the learner treat at a time."""

    head: int = 256
    """Rows of logits of the log-probability and entropy kernel."""
    prefill: int = 8192
    """Tokens, of all rows together, of one forward pass over prompts."""
    merge_below: int = 300_000_000
    """Parameters below which a float32 model is sampled from a merged copy."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a causal language model."""

    family: str
    """`model_type` of its config.json."""
    parameters: int
    """All of them; a tied output layer counts once."""
    embedding: int
    """Parameters of the input embeddings."""
    linears: tuple[LinearLayers, ...]
    layers: int
    hidden: int
    mlp: int
    """Width inside the MLP; of a mixture of experts that of all experts of one token together."""
    vocabulary: int
    heads: int
    kv_heads: int
    head_dim: int
    tied: bool
    """The output layer is the input embeddings."""
    idle: int = 0
    """Parameters that a token does not pass: experts that are not chosen."""
    stateful_layers: int = 0
    """Layers without keys and values: linear attention, state spaces."""
    windows: tuple[int, ...] = ()
    """Of the layers with sliding windows, their widths in tokens."""

    @property
    def active(self) -> int:
        """Parameters that multiply each token: no input embeddings, no idle experts."""
        return self.parameters - self.idle - self.embedding * (not self.tied)

    @property
    def decoder(self) -> int:
        """The same without the output layer."""
        return self.parameters - self.idle - self.embedding * (2 - self.tied)

    @property
    def kv_per_token(self) -> int:
        """Numbers that the cache keeps of each token: grouped heads count once.

        Layers with a window count in full: the sampler keeps the whole sequence of every layer.
        """
        return 2 * (self.layers - self.stateful_layers) * self.kv_heads * self.head_dim

    def adapted(self, targets: str | Sequence[str]) -> tuple[LinearLayers, ...]:
        """The linear layers that `lora_targets` names."""
        if targets == ALL_LINEAR:
            return self.linears
        names = [targets] if isinstance(targets, str) else list(targets)
        return tuple(each for each in self.linears if each.name in names)

    def unknown_targets(self, targets: str | Sequence[str]) -> list[str]:
        """The names in `lora_targets` that are no linear layer. A regular expression is not read.

        The output layer is one: whether it may train is the learner's affair.
        """
        if isinstance(targets, str):
            return []
        known = {each.name for each in self.linears} | {"lm_head"}
        return [name for name in targets if name.rpartition(".")[2] not in known]

    def adapter(self, rank: int, targets: str | Sequence[str]) -> int:
        """Parameters of a LoRA adapter: rank x (inputs + outputs) of each adapted layer."""
        return sum(rank * (a.inputs + a.outputs) * a.count for a in self.adapted(targets))
