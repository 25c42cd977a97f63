"""Sampling from a transformers model in this process, with the KV cache kept across turns.

A language agent's prompt at turn t+1 is its prompt at turn t, its own response and the new
observation; only the part after the longest common prefix with what is cached is read again.
"""

from __future__ import annotations

import copy
import inspect
import logging
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.cache_utils import Cache, CacheLayerMixin
from transformers.pytorch_utils import Conv1D

from aem_gym.agents.families import MaskRule, mask_rule
from aem_gym.agents.library_cache import LibraryReader, Reader, difference_to_plain
from aem_gym.errors import ConfigError, ModelError, check_name
from aem_gym.logprobs import LogitMap
from aem_gym.protocols import Generation, GenerationRequest, Learner, SamplingSettings
from aem_gym.seeding import uniforms

logger = logging.getLogger(__name__)

MERGE_BELOW = 300_000_000
"""Parameters up to which sampling uses a merged copy by default."""
PREFILL_CHUNK = 8192
"""Tokens, of all rows together, of one forward pass over prompts."""
_GROWTH = 64  # columns by which the cache grows


class HFPolicy:
    """A `BatchPolicy` on the learner's transformers model; a row's draws depend on its key alone.

    Small float32 models with an adapter sample from a copy with merged weights: several times
    faster, and the base weights stay as they are. A large model has no memory to spare for a copy,
    and one in half precision would round the update away.

    Args:
        learner: `HFLearner`, or another that has its `model`, `end_ids`, `pad_id`, `logit_map`.
        settings: of the options, `merge` (bool) chooses between a copy (of a model in half
            precision: in float32) and the model itself; `prefill_chunk` is the most tokens, of all
            rows together, of one forward pass over prompts.

    Raises:
        ConfigError: the learner has no such model, or an option is wrong.
        ModelError: cached and plain forward passes of the model differ.
    """

    def __init__(self, learner: Learner, settings: SamplingSettings) -> None:
        weights: Any = learner
        needed = ("model", "end_ids", "pad_id", "logit_map")
        lacking = [name for name in needed if not hasattr(weights, name)]
        if lacking:
            raise ConfigError(
                f"sampler hf: expected a learner with {', '.join(lacking)}, got "
                f"{type(learner).__name__}. Use --learner hf, or the sampler of that learner"
            )
        first = next(weights.model.parameters())
        self.device, self.exact = first.device, first.dtype == torch.float32
        self.merged: Any = merged_copy(weights.model) if _merges(weights.model, settings) else None
        self.pad_id, self.max_new_tokens = int(weights.pad_id), settings.max_new_tokens
        self.end_ids = torch.tensor(sorted(weights.end_ids), device=self.device)
        self.logit_map: LogitMap = weights.logit_map
        self._version = 0
        model = weights.model if self.merged is None else self.merged
        self.head = model.get_output_embeddings()
        self.model, chunk = model, int(settings.options.get("prefill_chunk", PREFILL_CHUNK))
        self.reader = open_reader(model, self.logit_map, self.pad_id, chunk)

    def publish(self, learner: Learner) -> int:
        weights: Any = learner
        if self.merged is not None:
            merge_into(self.merged, weights.model)
        self.reader.forget()  # it was read with the old weights
        self._version += 1
        return self._version

    def release(self, slot: int) -> None:
        self.reader.release(slot)

    def close(self) -> None:
        """Nothing runs in the background."""

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        if not requests:
            return []
        self.model.eval()
        hidden = self.reader.read(requests)
        alive = torch.ones(len(requests), dtype=torch.bool, device=self.device)
        drawn, lives = [], []
        for step in range(self.max_new_tokens):
            drawn.append(self._draw(self.logit_map.apply(self.head(hidden)), requests, step))
            lives.append(alive)
            token = drawn[-1][0]
            alive = alive & ~torch.isin(token, self.end_ids)
            if step + 1 == self.max_new_tokens or not bool(alive.any()):
                break
            hidden = self.reader.append(token, alive)
        return _collect(drawn, lives, alive)

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
    """Whether to sample from a merged copy of `model`. Raises ConfigError on a wrong option."""
    for name in settings.options:
        check_name("option of the sampler hf", name, ("merge", "prefill_chunk"))
    chosen, chunk = settings.options.get("merge"), settings.options.get("prefill_chunk", 1)
    if chosen not in (None, True, False):
        raise ConfigError(f"sampler_options.merge: expected true or false, got {chosen!r}")
    if not isinstance(chunk, int) or chunk < 1:
        raise ConfigError(
            f"sampler_options.prefill_chunk: expected a number of tokens, got {chunk!r}"
        )
    named = dict(model.named_parameters())
    if not any(".lora_" in name for name in named):
        return False
    base = [p for name, p in named.items() if ".lora_" not in name]
    small = sum(p.numel() for p in base) < MERGE_BELOW
    return small and base[0].dtype == torch.float32 if chosen is None else bool(chosen)


def merged_copy(adapted: nn.Module) -> Any:
    """A copy of the model below the adapters, in float32, for `merge_into`.

    None where an adapter is on something else than a layer's weight (fused experts): such a model
    samples unmerged.
    """
    from peft.tuners.lora import LoraLayer

    layers = {n: m for n, m in adapted.named_modules() if isinstance(m, LoraLayer)}
    plain = (nn.Linear, Conv1D)
    if not all(isinstance(layer.base_layer, plain) for layer in layers.values()):
        return None
    # In half precision most of a small update would be rounded away.
    model: Any = copy.deepcopy(adapted).float()
    for name in layers:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, model.get_submodule(name).base_layer)
    model.eval().requires_grad_(False)
    if next(model.parameters()).device.type == "cpu":
        # One query and a mask: the plain product is the fastest attention on a CPU.
        model.set_attn_implementation("eager")
    return model


@torch.no_grad()
def merge_into(merged: Any, adapted: nn.Module) -> None:
    """Set each adapted weight to base + scale * B A, from scratch, so that nothing drifts."""
    from peft.tuners.lora import LoraLayer

    for name, module in adapted.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            weight: Tensor = merged.get_submodule(name).weight
            weight.copy_(layer.base_layer.weight)
            weight += layer.get_delta_weight("default")


def _collect(
    drawn: list[tuple[Tensor, Tensor, Tensor]], lives: list[Tensor], alive: Tensor
) -> list[Generation]:
    lengths = torch.stack(lives).sum(0).tolist()
    columns = [torch.stack(part, dim=1).tolist() for part in zip(*drawn, strict=True)]
    generations = []
    for row, (length, cut) in enumerate(zip(lengths, alive.tolist(), strict=True)):
        ids, logprobs, entropies = (tuple(column[row][:length]) for column in columns)
        generations.append(Generation(ids, logprobs, entropies, cut))
    return generations


# Reading -----------------------------------------------------------------------------------------


def open_reader(model: Any, logit_map: LogitMap, pad_id: int, chunk: int) -> Reader:
    """What reads tokens with a cache: our own where it can hold the model's state.

    Tried on a few tokens first, against a plain forward pass.

    Raises:
        ModelError: neither cache gives what the plain pass gives.
    """
    rule, found = mask_rule(model), ""
    readers: list[Reader] = [LibraryReader(model)]
    if rule is not None:
        readers.insert(0, RaggedReader(model, rule, pad_id, chunk))
    for reader in readers:
        wrong = difference_to_plain(model, reader, logit_map)
        reader.forget()
        if wrong is None:
            return reader
        found += f"{type(reader).__name__}: {wrong}. "
        logger.info("%s cannot be used: %s", type(reader).__name__, wrong)
    raise ModelError(
        f"the model ({type(model).__name__}) cannot be sampled by the sampler hf: with a cache it "
        f"does not give what a plain forward pass gives. {found}"
        + ("" if next(model.parameters()).dtype == torch.float32 else "Try --dtype float32.")
    )


class RaggedReader:
    """Reads tokens into a `RaggedCache`: rows that share a batch but not their lengths.

    Args:
        model: a causal language model.
        rule: the attention masks it wants.
        pad_id: fills the holes of ragged rows.
        chunk: most tokens of one forward pass.
    """

    def __init__(self, model: Any, rule: MaskRule, pad_id: int, chunk: int) -> None:
        self.model, self.rule, self.pad_id, self.chunk = model, rule, pad_id, chunk
        first = next(model.parameters())
        self.device, self.dtype = first.device, first.dtype
        self.decoder = model.get_decoder()
        # Newer transformers call it `cache`, and warn about the older name.
        named = "cache" in inspect.signature(self.decoder.forward).parameters
        self._cache_name = "cache" if named else "past_key_values"
        self._cache: RaggedCache | None = None

    def forget(self) -> None:
        self._cache = None

    def release(self, slot: int) -> None:
        if self._cache is not None and not self._cache.drop(slot):
            self._cache = None  # leftovers change rounding, and a resumed run has none

    def read(self, requests: Sequence[GenerationRequest]) -> Tensor:
        cache = self._prepare(requests)
        news = [r.prompt_ids[len(ids) :] for ids, r in zip(cache.ids, requests, strict=True)]
        width = max(map(len, news))
        tokens = torch.tensor([(self.pad_id,) * (width - len(new)) + new for new in news])
        holes = torch.tensor([width - len(new) for new in news])
        valid = torch.arange(width) >= holes[:, None]
        columns = max(1, self.chunk // len(news))
        for at in range(0, width, columns):
            piece = slice(at, at + columns)
            hidden = self._forward(
                tokens[:, piece].to(self.device), valid[:, piece].to(self.device)
            )
        return hidden

    def append(self, tokens: Tensor, alive: Tensor) -> Tensor:
        return self._forward(tokens[:, None], alive[:, None])

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
        layers = int(self.model.config.get_text_config().num_hidden_layers)
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
        mask: Tensor | dict[str, Tensor]
        mask = self._additive(seen) if self.rule.plain else self._masks(seen, positions)
        inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        output = self.decoder(**inputs, **{self._cache_name: cache.cache}, use_cache=True)
        last: Tensor = output.last_hidden_state[:, -1]
        return last

    def _additive(self, seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~seen, torch.finfo(self.dtype).min)

    def _masks(self, seen: Tensor, positions: Tensor) -> Tensor | dict[str, Tensor]:
        assert self._cache is not None
        keys = self._cache.visible.cumsum(1) - 1
        masks = {k: self._additive(m) for k, m in self.rule.masks(seen, positions, keys).items()}
        return masks if self.rule.by_kind else next(iter(masks.values()))


def _common_prefix(held: list[int], prompt: tuple[int, ...]) -> int:
    """How many cached tokens the prompt starts with; at least its last token is left to read."""
    limit = min(len(held), len(prompt) - 1)
    if list(prompt[:limit]) == held[:limit]:
        return limit
    return next(i for i in range(limit) if held[i] != prompt[i])


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

    get_max_cache_shape = get_max_length  # its name in older versions of transformers


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
