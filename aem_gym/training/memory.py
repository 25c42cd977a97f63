"""The memory of a training run, from its settings and the shape of its model.

docs/memory.md derives every line. Nothing is loaded; what a run really takes depends on the lengths
of its episodes, which a `Workload` states.
"""

from __future__ import annotations

from dataclasses import dataclass

from aem_gym.config import Config
from aem_gym.credit.estimators import needs_of
from aem_gym.registry import ESTIMATORS
from aem_gym.shape import Chunks, ModelShape
from aem_gym.training.distributed import process_count
from aem_gym.training.workload import Workload

FIXED, ROLLOUT, UPDATE = "always", "rollout", "update"
_QUANTIZED = {"4bit": 0.516, "8bit": 1.0}
"""Bytes of a quantized weight. 4 bit: NF4 with a nested scale for each 64 weights."""


@dataclass(frozen=True, slots=True)
class Part:
    """One line of the table."""

    name: str
    phase: str
    bytes: float


@dataclass(frozen=True, slots=True)
class MemoryConstants:
    """What no formula gives. `python -m benchmarks.estimate` measures them on a machine."""

    base: float
    """Bytes of a process beside its tensors: a CUDA context, buffers of libraries, Python data."""
    cache_room: float
    """Columns of the key-value cache, by columns that hold a token of the longest row."""
    tensors: float = 1.0
    """Bytes that the allocator takes for a byte of the tensors that come and go."""


CPU = MemoryConstants(base=15e6, cache_room=1.3)
GPU = MemoryConstants(base=1.2e9, cache_room=1.875, tensors=1.1)
"""Not measured on a GPU: a context with its library buffers, the bound of the cache (1.5 times the
longest row with holes, and 1.25 times that by growing ahead), and fragmentation."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """The table: what is there always, and what the two phases of a step add to it."""

    parts: tuple[Part, ...]

    def phase(self, name: str) -> float:
        return sum(part.bytes for part in self.parts if part.phase == name)

    def together(self, name: str) -> float:
        """A phase on top of what is always there."""
        return self.phase(FIXED) + self.phase(name)

    @property
    def peak(self) -> float:
        """That of the larger phase."""
        return max(self.together(ROLLOUT), self.together(UPDATE))


def estimate_memory(
    config: Config,
    shape: ModelShape,
    work: Workload,
    *,
    gpu: bool,
    constants: MemoryConstants | None = None,
    chunks: Chunks | None = None,
) -> MemoryEstimate:
    """Bytes on the device that trains.

    Args:
        config: settled.
        shape: of its model.
        work: what a step has to do.
        gpu: whether it is one; decides where dtype and gradient checkpointing are auto.
        constants: of the machine.
        chunks: sizes that the code uses.
    """
    known = constants or (GPU if gpu else CPU)
    sizes, run = chunks or Chunks(), MemoryLayout(config, shape, work, gpu)
    parts = [
        *run.fixed(known, sizes),
        *run.rollout(known, sizes),
        *run.update(known, sizes),
    ]
    return MemoryEstimate(tuple(part for part in parts if part.bytes))


@dataclass(frozen=True, slots=True)
class MemoryLayout:
    """How the settings lay a run out: the terms that memory and time have in common."""

    config: Config
    shape: ModelShape
    work: Workload
    gpu: bool

    @property
    def width(self) -> int:
        """Bytes of a number of the base model."""
        half = self.config.dtype == "bfloat16" or (self.config.dtype == "auto" and self.gpu)
        return 2 if half else 4

    @property
    def checkpointing(self) -> bool:
        chosen = self.config.gradient_checkpointing
        return chosen == "on" or (chosen == "auto" and self.gpu)

    @property
    def concurrent(self) -> float:
        """Episodes that are sampled together."""
        most = self.config.max_concurrent_episodes
        return min(most, self.work.episodes) if most else self.work.episodes

    @property
    def micro_rows(self) -> float:
        """Rows of a micro-batch."""
        chosen, rows = self.config.mini_batch, self.work.rows
        mini = rows / int(chosen.partition("/")[2]) if isinstance(chosen, str) else float(chosen)
        budget = self.config.micro_batch_tokens
        most = max(1.0, budget // self.work.row) if budget else float(self.config.micro_batch)
        return max(1.0, min(most, mini, rows))

    @property
    def learned(self) -> float:
        """Tokens of the largest micro-batch, padding included."""
        budget = self.config.micro_batch_tokens
        if budget:
            return max(min(float(budget), self.work.tokens), self.work.longest)
        return self.micro_rows * self.work.longest

    def weights(self) -> float:
        """Bytes of the base weights; embeddings, output layer and norms are not quantized."""
        kind = self.config.model_options.get("quantization")
        all_linear = sum(each.inputs * each.outputs * each.count for each in self.shape.linears)
        linear = float(all_linear)
        if self.config.shard_base:  # of the layers a share, and two that are at work whole
            whole = 1 / process_count() + min(2, self.shape.layers) / self.shape.layers
            linear *= min(1.0, whole)
            return (self.shape.parameters - all_linear + linear) * self.width
        if kind not in _QUANTIZED:
            return float(self.shape.parameters * self.width)
        return linear * _QUANTIZED[kind] + (self.shape.parameters - linear) * self.width

    def copied(self, sizes: Chunks) -> bool:
        """Whether sampling uses a merged copy of the weights."""
        chosen = self.config.sampler_options.get(
            "merge", self.config.model_options.get("merge_for_sampling")
        )
        if chosen is not None:
            return bool(chosen)
        return self.shape.parameters < sizes.merge_below and self.width == 4

    def fixed(self, known: MemoryConstants, sizes: Chunks) -> list[Part]:
        config, shape = self.config, self.shape
        adapter = 4.0 * shape.adapter(config.lora_rank, config.lora_targets)
        value = needs_of(ESTIMATORS.load(config.estimator)).needs_values
        copy = 4.0 * shape.parameters  # float32 always: an update of half precision rounds away
        return [
            Part("base weights", FIXED, self.weights()),
            Part("merged copy for sampling", FIXED, copy * self.copied(sizes)),
            Part("adapter", FIXED, adapter),
            Part("frozen reference adapter", FIXED, adapter),
            Part("gradients of the adapter", FIXED, adapter),
            Part("optimizer (AdamW)", FIXED, 2 * adapter),
            Part("value head", FIXED, 4 * 4.0 * (shape.hidden + 1) * value),
            Part("process and libraries", FIXED, known.base),
        ]

    def rollout(self, known: MemoryConstants, sizes: Chunks) -> list[Part]:
        config, shape, work, number = self.config, self.shape, self.work, self.width
        columns = work.longest * known.cache_room
        cache = self.concurrent * columns * shape.kv_per_token * number
        once = work.prompt * self.concurrent
        piece = min(once, float(config.sampler_options.get("prefill_chunk") or sizes.prefill))
        draw = self.concurrent * shape.vocabulary * (number + 32.0)
        reading = piece * (self._layer_work() * number + self._scores(sizes))
        return [
            Part("key-value cache", ROLLOUT, cache),
            Part("one layer's cache while it grows", ROLLOUT, cache / shape.layers),
            Part("reading prompts", ROLLOUT, max(0.0, reading - draw) * known.tensors),
            Part("logits of sampling", ROLLOUT, draw * known.tensors),
        ]

    def _scores(self, sizes: Chunks) -> float:
        """Bytes of attention for one token that is read: its mask, on a CPU its scores, too."""
        columns = self.work.longest
        mask = columns * (self.width + 2.0)
        plain = not self.gpu and self.copied(sizes)
        return mask + (3 * self.shape.heads * columns * 4.0 if plain else 0.0)

    def update(self, known: MemoryConstants, sizes: Chunks) -> list[Part]:
        shape, tokens = self.shape, self.learned
        saved, layers = self.saved, shape.layers
        boundary = float(shape.hidden * self.width)
        # Backward keeps gradients of one layer's work beside what the forward pass saved.
        beside = tokens * self._layer_work() * 4.0
        if self.checkpointing:
            kept, beside = tokens * boundary * layers, beside + tokens * saved
        else:
            kept = tokens * saved * layers
        scored = tokens * min(1.0, self.work.response * self.work.turns / self._row_tokens())
        read = scored * shape.hidden * (3 * self.width + 4.0)
        # The logits are gone before the backward pass of a layer begins.
        rows = min(scored, sizes.head)
        logits = max(0.0, rows * shape.vocabulary * (self.width + 3 * 4.0) - beside)
        return [
            Part("activations", UPDATE, kept * known.tensors),
            Part("one layer's backward pass", UPDATE, beside * known.tensors),
            Part("log-prob and entropy kernel", UPDATE, (read + logits) * known.tensors),
        ]

    def _row_tokens(self) -> float:
        return self.work.turns * (self.work.prompt + self.work.response)

    def _layer_work(self) -> float:
        """Numbers that one layer makes of one token on its way."""
        shape = self.shape
        return 4.0 * shape.hidden + 2.0 * shape.heads * shape.head_dim + 3.0 * shape.mlp

    @property
    def saved(self) -> float:
        """Bytes that one layer keeps of one token for the backward pass."""
        shape, config, number = self.shape, self.config, self.width
        width = shape.heads * shape.head_dim
        adapted = shape.adapted(config.lora_targets)
        into = sum(a.inputs * a.count for a in adapted) / shape.layers
        shared = 2.0 * shape.hidden + width + shape.mlp
        inputs = 4.0 * (into if number < 4 else min(into, shared))
        ranks = 4.0 * config.lora_rank * sum(a.count for a in adapted) / shape.layers
        # Queries, keys, values; the output is the input of o_proj, kept there in float32.
        kept = width * (2.0 if number < 4 else 1.0) + 2.0 * shape.kv_heads * shape.head_dim
        attention = number * kept
        norms = 2 * 4.0 * shape.hidden
        return norms + inputs + ranks + attention + number * 3.0 * shape.mlp
