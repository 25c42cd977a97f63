"""Sampling from a transformers model in this process, with the KV cache kept across turns.

A language agent's prompt at turn t+1 is its prompt at turn t, its own response and the new
observation; only the part after the longest common prefix with what is cached is read again.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.cache_utils import Cache, CacheLayerMixin

from aem_gym.errors import ConfigError, NotFiniteError, UnknownNameError
from aem_gym.protocols import Generation, GenerationRequest, Learner, SamplingSettings
from aem_gym.seeding import uniforms

MERGE_BELOW = 300_000_000
"""Parameters up to which sampling uses a merged copy by default."""
_GROWTH = 64  # columns by which the cache grows


class HFPolicy:
    """A `BatchPolicy` on the learner's transformers model; a row's draws depend on its key alone.

    Small models with an adapter sample from a copy with merged weights: several times faster, and
    the base weights stay as they are. A large model has no memory to spare for a copy.

    Args:
        learner: `HFLearner`, or another that has its `model`, `end_ids` and `pad_id`.
        settings: of the options, `merge` (bool) chooses between a copy and the model itself.

    Raises:
        ConfigError: the learner has no such model, or an option is wrong.
    """

    def __init__(self, learner: Learner, settings: SamplingSettings) -> None:
        weights: Any = learner
        lacking = [name for name in ("model", "end_ids", "pad_id") if not hasattr(weights, name)]
        if lacking:
            raise ConfigError(
                f"sampler hf: expected a learner with {', '.join(lacking)}, got "
                f"{type(learner).__name__}. Use --learner hf, or the sampler of that learner"
            )
        first = next(weights.model.parameters())
        self.device, self.dtype = first.device, first.dtype
        self.exact = self.dtype == torch.float32
        self.merged: Any = _merged_copy(weights.model) if _merges(weights.model, settings) else None
        self.pad_id, self.max_new_tokens = int(weights.pad_id), settings.max_new_tokens
        self.end_ids = torch.tensor(sorted(weights.end_ids), device=self.device)
        self._version = 0
        self._cache: RaggedCache | None = None
        self._use(weights.model)

    def publish(self, learner: Learner) -> int:
        weights: Any = learner
        self._use(weights.model)
        self._cache = None  # it was read with the old weights
        self._version += 1
        return self._version

    def release(self, slot: int) -> None:
        if self._cache is not None and not self._cache.drop(slot):
            self._cache = None  # leftovers change rounding, and a resumed run has none

    def close(self) -> None:
        """Nothing runs in the background."""

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        if not requests:
            return []
        self.model.eval()
        hidden = self._read_prompts(requests)
        alive = torch.ones(len(requests), dtype=torch.bool, device=self.device)
        drawn, lives = [], []
        for step in range(self.max_new_tokens):
            drawn.append(self._draw(self.head(hidden), requests, step))
            lives.append(alive)
            token = drawn[-1][0]
            alive = alive & ~torch.isin(token, self.end_ids)
            if step + 1 == self.max_new_tokens or not bool(alive.any()):
                break
            hidden = self._forward(token[:, None], alive[:, None])
        return _collect(drawn, lives, alive)

    def _use(self, trained: Any) -> None:
        """Sample from the present weights of `trained` from now on."""
        if self.merged is not None:
            _merge_into(self.merged, trained)
        model: Any = trained if self.merged is None else self.merged
        self.model, self.decoder = model, model.get_decoder()
        self.head = model.get_output_embeddings()
        # Newer transformers call it `cache`, and warn about the older name.
        named = "cache" in inspect.signature(self.decoder.forward).parameters
        self._cache_name = "cache" if named else "past_key_values"

    def _read_prompts(self, requests: Sequence[GenerationRequest]) -> Tensor:
        """Bring every row's cache up to its prompt; the hidden state of each last token (R, D)."""
        cache = self._prepare(requests)
        news = [r.prompt_ids[len(ids) :] for ids, r in zip(cache.ids, requests, strict=True)]
        width = max(map(len, news))
        tokens = torch.tensor([(self.pad_id,) * (width - len(new)) + new for new in news])
        holes = torch.tensor([width - len(new) for new in news])
        valid = torch.arange(width) >= holes[:, None]
        return self._forward(tokens.to(self.device), valid.to(self.device))

    def _prepare(self, requests: Sequence[GenerationRequest]) -> RaggedCache:
        """The cache, its rows cut back to what they share with the new prompts.

        One that saves less than a third of the reading is dropped: one dense piece is then faster.
        """
        slots, prompts = [r.slot for r in requests], [r.prompt_ids for r in requests]
        if self._cache is not None:
            self._cache.arrange(slots)
            shared = list(map(_common_prefix, self._cache.ids, prompts))
            if sum(shared) * 3 >= sum(map(len, prompts)):
                for row, length in enumerate(shared):
                    self._cache.cut(row, length)
                return self._cache
        layers = int(self.model.config.num_hidden_layers)
        self._cache = RaggedCache(layers, slots, self.device)
        return self._cache

    def _forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Append (R, W) tokens, right-aligned; the hidden state of the last column (R, D)."""
        cache = self._cache
        assert cache is not None
        before = torch.tensor([len(ids) for ids in cache.ids], device=self.device)
        positions = (before[:, None] + valid.cumsum(1) - 1).clamp_(min=0)
        cache.extend(tokens, valid)
        # (R, 1, W, columns): a token sees its row's columns up to its own.
        width, columns = tokens.shape[1], cache.visible.shape[1]
        causal = torch.ones(width, columns, dtype=torch.bool, device=self.device)
        seen = cache.visible[:, None, None, :] & causal.tril_(columns - width)
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(~seen, torch.finfo(self.dtype).min)
        inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        output = self.decoder(**inputs, **{self._cache_name: cache.cache}, use_cache=True)
        last: Tensor = output.last_hidden_state[:, -1]
        return last

    def _draw(
        self, logits: Tensor, requests: Sequence[GenerationRequest], step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one token per row from (R, V) logits; its log-probability and the entropy (R,)."""
        temperatures = [r.temperature for r in requests]
        logp_all = torch.log_softmax(logits.float() / _divisor(temperatures, self.device), dim=-1)
        probabilities = logp_all.exp()
        entropy = torch.special.entr(probabilities).sum(-1)
        token = logits.argmax(-1)
        if any(temperatures):
            # Inverse CDF in double: the draw of a row does not depend on the rows beside it.
            cdf = probabilities.double().cumsum(-1)
            keys = np.array([r.key for r in requests], dtype=np.uint64)
            draw = torch.from_numpy(uniforms(keys, step)).to(self.device)
            drawn = torch.searchsorted(cdf, (draw * cdf[:, -1])[:, None], right=True)[:, 0]
            samples = torch.tensor([t != 0 for t in temperatures], device=self.device)
            token = torch.where(samples, drawn.clamp_(max=logits.shape[-1] - 1), token)
        return token, logp_all.gather(-1, token[:, None])[:, 0], entropy


def _divisor(temperatures: list[float], device: torch.device) -> float | Tensor:
    """By what logits are divided: one number where all rows share it, else (R, 1)."""
    divisors = [temperature or 1.0 for temperature in temperatures]
    if len(set(divisors)) == 1:
        return divisors[0]
    return torch.tensor(divisors, device=device)[:, None]


def _merges(model: nn.Module, settings: SamplingSettings) -> bool:
    """Whether to sample from a merged copy of `model`."""
    for name in settings.options:
        if name != "merge":
            raise UnknownNameError("option of the sampler hf", name, ("merge",))
    chosen = settings.options.get("merge")
    if chosen not in (None, True, False):
        raise ConfigError(f"sampler_options.merge: expected true or false, got {chosen!r}")
    named = dict(model.named_parameters())
    if not any(".lora_" in name for name in named):
        return False
    size = sum(p.numel() for name, p in named.items() if ".lora_" not in name)
    return size < MERGE_BELOW if chosen is None else bool(chosen)


def _merged_copy(adapted: nn.Module) -> Any:
    """A copy of the model below the adapters, for `_merge_into`."""
    from peft.tuners.lora import LoraLayer

    model: Any = copy.deepcopy(adapted)
    layers = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    for name in layers:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, model.get_submodule(name).base_layer)
    model.eval().requires_grad_(False)
    if next(model.parameters()).device.type == "cpu":
        # One query and a mask: the plain product is the fastest attention on a CPU.
        model.set_attn_implementation("eager")
    return model


@torch.no_grad()
def _merge_into(merged: Any, adapted: nn.Module) -> None:
    """Set each adapted weight to base + scale * B A, from scratch, so that nothing drifts."""
    from peft.tuners.lora import LoraLayer

    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            weight = layer.base_layer.weight + layer.get_delta_weight("default")
            merged.get_submodule(name).weight.copy_(weight)


def _common_prefix(held: list[int], prompt: tuple[int, ...]) -> int:
    """How many cached tokens the prompt starts with; at least its last token is left to read."""
    limit = min(len(held), len(prompt) - 1)
    if list(prompt[:limit]) == held[:limit]:
        return limit
    return next(i for i in range(limit) if held[i] != prompt[i])


def _collect(
    drawn: list[tuple[Tensor, Tensor, Tensor]], lives: list[Tensor], alive: Tensor
) -> list[Generation]:
    lengths = torch.stack(lives).sum(0).tolist()
    columns = [torch.stack(part, dim=1).tolist() for part in zip(*drawn, strict=True)]
    generations = []
    for row, (length, cut) in enumerate(zip(lengths, alive.tolist(), strict=True)):
        ids, logprobs, entropies = (tuple(column[row][:length]) for column in columns)
        if not math.isfinite(sum(logprobs)):
            text = "sampler hf: the model gives NaN: its weights, or their merged copy, are damaged"
            raise NotFiniteError("weights", text)
        generations.append(Generation(ids, logprobs, entropies, cut))
    return generations


# The cache ---------------------------------------------------------------------------------------


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one attention layer, in buffers of shape (rows, heads, columns, dim)."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.used = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.used, self.used + key_states.shape[2]
        if end > self.keys.shape[2]:
            self._widen(max(end, self.keys.shape[2] * 3 // 2))
        self.keys[:, :, start:end] = key_states
        self.values[:, :, start:end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows: Tensor, columns: Tensor) -> None:
        """Take row `rows[i]`, its (rows, width) `columns` moved to the left, as row i."""
        if self.is_initialized:
            # Advanced indices on both sides of a slice come first: (rows, width, heads, dim).
            self.keys = self.keys[rows[:, None], :, columns].transpose(1, 2)
            self.values = self.values[rows[:, None], :, columns].transpose(1, 2)
            self.used = columns.shape[1]
            self._widen(self.used + _GROWTH)

    def _widen(self, columns: int) -> None:
        """Copy into buffers with room for `columns` or somewhat more; what is added is 0."""
        more = -(-columns // _GROWTH) * _GROWTH - self.keys.shape[2]
        self.keys, self.values = pad(self.keys, (0, 0, 0, more)), pad(self.values, (0, 0, 0, more))

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


class RaggedCache:
    """A preallocated key-value cache whose rows can be dropped, added and cut back independently.

    Rows are conversations, columns are physical places. Rows advance raggedly: a column that means
    nothing to a row is a hole there, hidden by the attention mask, so cutting a row back to a
    common prefix is one assignment in the mask and no copy.

    Attributes:
        cache: for the model.
        visible: (rows, columns) bool, which physical columns belong to a row's sequence.
        ids: per row, the token ids whose keys are held, in order.
        slots: per row, its conversation; None once that is dropped.
    """

    def __init__(self, layers: int, slots: list[int], device: torch.device) -> None:
        self._layers = [_Layer() for _ in range(layers)]
        self.cache = Cache(layers=[*self._layers])
        self.slots: list[int | None] = [*slots]
        self.ids: list[list[int]] = [[] for _ in slots]
        self.visible = torch.zeros(len(slots), 0, dtype=torch.bool, device=device)

    def drop(self, slot: int) -> bool:
        """Forget `slot`, whose row the next `arrange` frees; whether a conversation is left."""
        self.slots = [None if held == slot else held for held in self.slots]
        return any(held is not None for held in self.slots)

    def arrange(self, slots: list[int]) -> None:
        """Give row i to conversation `slots[i]`; others are dropped, unknown ones start empty.

        Rows are packed on the way if they have to be copied or have become mostly holes.
        """
        if slots == self.slots and self.visible.shape[1] <= 1.5 * max(map(len, self.ids)):
            return
        place = {slot: row for row, slot in enumerate(self.slots)}
        self.ids = [self.ids[place[slot]] if slot in place else [] for slot in slots]
        self.slots = [*slots]
        lengths = torch.tensor([len(ids) for ids in self.ids], device=self.visible.device)
        rows = torch.tensor([place.get(slot, 0) for slot in slots], device=self.visible.device)
        width = int(lengths.max())
        # The columns that belong to a row come first, in their order.
        columns = self.visible[rows].long().argsort(stable=True, dim=1, descending=True)[:, :width]
        for layer in self._layers:
            layer.select(rows, columns)
        self.visible = torch.arange(width, device=rows.device) < lengths[:, None]

    def cut(self, row: int, length: int) -> None:
        """Keep the first `length` tokens of a row; the rest become holes."""
        if length < len(self.ids[row]):
            self.visible[row, self.visible[row].nonzero()[length:]] = False
            del self.ids[row][length:]

    def extend(self, tokens: Tensor, valid: Tensor) -> None:
        """Note that the model is about to append `tokens`: ids (rows, width), of which `valid`."""
        self.visible = torch.cat([self.visible, valid], dim=1)
        for held, ids, real in zip(self.ids, tokens.tolist(), valid.tolist(), strict=True):
            held += compress(ids, real)
