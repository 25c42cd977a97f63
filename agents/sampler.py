"""Sampling from a transformers model in this process, with the KV cache kept across turns.

A language agent's prompt at turn t+1 is its prompt at turn t, its own response and the new
observation; only the part after the longest common prefix with what is cached is read again.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.cache_utils import Cache, CacheLayerMixin

from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.protocols import Generation, GenerationRequest, Learner, SamplingSettings
from aem_gym.seeding import uniforms

MERGE_BELOW = 300_000_000
"""Parameters up to which sampling uses a merged copy by default."""
_GROWTH = 64  # columns by which the cache grows


class HFPolicy:
    """A `BatchPolicy` on the learner's transformers model.

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
        """Take over the weights; what was read with the old ones is forgotten."""
        weights: Any = learner
        self._use(weights.model)
        self._cache = None
        self._version += 1
        return self._version

    def release(self, slot: int) -> None:
        """Drop the slot. With the last one the whole cache goes.

        A cache left over from other episodes changes rounding, and a resumed run has none.
        """
        if self._cache is not None:
            self._cache.drop(slot)
            if self._cache.empty:
                self._cache = None

    def close(self) -> None:
        """Nothing runs in the background."""

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """Sample one response per request. Row i's draws depend on `requests[i].key` alone."""
        if not requests:
            return []
        self.model.eval()
        hidden = self._read_prompts(requests)
        keys = np.array([r.key for r in requests], dtype=np.uint64)
        temperatures = [r.temperature for r in requests]
        alive = torch.ones(len(requests), dtype=torch.bool, device=self.device)
        drawn, lives = [], []
        for step in range(self.max_new_tokens):
            drawn.append(self._draw(self.head(hidden), keys, step, temperatures))
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

    def _read_prompts(self, requests: Sequence[GenerationRequest]) -> Tensor:
        """Bring every row's cache up to its prompt; the hidden state of each last token (R, D)."""
        cache = self._prepare(requests)
        news = [r.prompt_ids[len(cache.ids[i]) :] for i, r in enumerate(requests)]
        width = max(map(len, news))
        tokens = np.full((len(news), width), self.pad_id, dtype=np.int64)
        valid = np.zeros((len(news), width), dtype=bool)
        for row, new in enumerate(news):
            tokens[row, width - len(new) :] = new
            valid[row, width - len(new) :] = True
        return self._forward(
            torch.from_numpy(tokens).to(self.device), torch.from_numpy(valid).to(self.device)
        )

    def _prepare(self, requests: Sequence[GenerationRequest]) -> RaggedCache:
        """The cache, its rows cut back to what they share with the new prompts.

        A cache that would save less than a third of the reading is dropped: reading in one dense
        piece is then faster.
        """
        if self._cache is not None:
            cache = self._cache
            cache.arrange([r.slot for r in requests])
            shared = [
                _common_prefix(held, r.prompt_ids)
                for held, r in zip(cache.ids, requests, strict=True)
            ]
            if sum(shared) * 3 >= sum(len(r.prompt_ids) for r in requests):
                for row, length in enumerate(shared):
                    cache.cut(row, length)
                return cache
        self._cache = RaggedCache(int(self.model.config.num_hidden_layers), self.device)
        self._cache.arrange([r.slot for r in requests])
        return self._cache

    def _forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Append (R, W) tokens, right-aligned; the hidden state of the last column (R, D)."""
        cache = self._cache
        assert cache is not None
        before = torch.tensor([len(ids) for ids in cache.ids], device=self.device)
        positions = (before[:, None] + valid.cumsum(1) - 1).clamp_(min=0)
        start, width = cache.used, tokens.shape[1]
        cache.extend(tokens, valid)
        # (R, 1, W, columns): a token sees its row's columns up to its own.
        seen = cache.visible[:, None, None, :].expand(-1, 1, width, -1)
        if width > 1:
            causal = torch.arange(start + width, device=self.device)[None, :] <= (
                start + torch.arange(width, device=self.device)[:, None]
            )
            seen = seen & causal
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(~seen, torch.finfo(self.dtype).min)
        output = self.decoder(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache.cache,
            use_cache=True,
        )
        last: Tensor = output.last_hidden_state[:, -1]
        return last

    def _draw(
        self,
        logits: Tensor,
        keys: np.ndarray[tuple[int], np.dtype[np.uint64]],
        step: int,
        temperatures: list[float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one token per row from (R, V) logits; its log-probability and the entropy (R,)."""
        greedy = [temperature == 0 for temperature in temperatures]
        scaled = logits.float() / _divisor(temperatures, self.device)
        logp_all = torch.log_softmax(scaled, dim=-1)
        probabilities = logp_all.exp()
        entropy = torch.special.entr(probabilities).sum(-1)
        token = logits.argmax(-1) if any(greedy) else None
        if not all(greedy):
            # Inverse CDF in double: the draw of a row does not depend on the rows beside it.
            cdf = probabilities.double().cumsum(-1)
            draw = torch.from_numpy(uniforms(keys, step)).to(self.device)
            drawn = torch.searchsorted(cdf, (draw * cdf[:, -1])[:, None], right=True)[:, 0]
            drawn = drawn.clamp_(max=logits.shape[-1] - 1)
            if token is None:
                token = drawn
            else:
                token = torch.where(torch.tensor(greedy, device=self.device), token, drawn)
        assert token is not None
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
    return [
        Generation(
            ids=tuple(columns[0][row][:length]),
            logprobs=tuple(columns[1][row][:length]),
            entropies=tuple(columns[2][row][:length]),
            cut=cut,
        )
        for row, (length, cut) in enumerate(zip(lengths, alive.tolist(), strict=True))
    ]


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
        rows, heads, _, dim = key_states.shape
        self.keys = key_states.new_zeros(rows, heads, _GROWTH, dim)
        self.values = value_states.new_zeros(rows, heads, _GROWTH, value_states.shape[-1])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.used + key_states.shape[2]
        if end > self.keys.shape[2]:
            columns = max(end, self.keys.shape[2] * 3 // 2)
            columns = -(-columns // _GROWTH) * _GROWTH
            self.keys = _widen(self.keys, columns, self.used)
            self.values = _widen(self.values, columns, self.used)
        self.keys[:, :, self.used : end] = key_states
        self.values[:, :, self.used : end] = value_states
        self.used = end
        return self.keys[:, :, :end], self.values[:, :, :end]

    def select(self, rows: Tensor, columns: Tensor) -> None:
        """Take row `rows[i]`, its (rows, width) `columns` moved to the left, as row i."""
        if self.is_initialized:
            width = columns.shape[1]
            spare = -(-(width + _GROWTH) // _GROWTH) * _GROWTH
            self.keys = _packed(self.keys, rows, columns, spare)
            self.values = _packed(self.values, rows, columns, spare)
            self.used = width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.used + query_length, 0

    def get_seq_length(self) -> int:
        return self.used

    def get_max_length(self) -> int:
        return -1


def _widen(buffer: Tensor, columns: int, used: int) -> Tensor:
    rows, heads, _, dim = buffer.shape
    wider = buffer.new_zeros(rows, heads, columns, dim)
    wider[:, :, :used] = buffer[:, :, :used]
    return wider


def _packed(buffer: Tensor, rows: Tensor, columns: Tensor, spare: int) -> Tensor:
    packed = buffer.new_zeros(len(rows), buffer.shape[1], spare, buffer.shape[3])
    # (rows, width, heads, dim), as advanced indices on both sides of a slice come first.
    packed[:, :, : columns.shape[1]] = buffer[rows[:, None], :, columns].transpose(1, 2)
    return packed


class RaggedCache:
    """A preallocated key-value cache whose rows can be dropped, added and cut back independently.

    Rows are conversations, columns are physical places. Rows advance raggedly: a column that means
    nothing to a row is a hole there, hidden by the attention mask, so cutting a row back to a
    common prefix is one assignment in the mask and no copy.

    Attributes:
        cache: for the model, as `past_key_values`.
        visible: (rows, columns) bool, which physical columns belong to a row's sequence.
        ids: per row, the token ids whose keys are held, in order.
        columns: per row, the physical column of each of those ids.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self._layers = [_Layer() for _ in range(layers)]
        self.cache = Cache(layers=[*self._layers])
        self.device = device
        self.slots: list[int | None] = []
        self.ids: list[list[int]] = []
        self.columns: list[list[int]] = []
        self.visible = torch.zeros(0, 0, dtype=torch.bool, device=device)

    @property
    def used(self) -> int:
        """Physical columns in use."""
        return self._layers[0].used

    @property
    def empty(self) -> bool:
        """No conversation is left."""
        return not any(slot is not None for slot in self.slots)

    def drop(self, slot: int) -> None:
        """Forget conversation `slot`; the next `arrange` frees its row."""
        self.slots = [None if held == slot else held for held in self.slots]

    def arrange(self, slots: list[int]) -> None:
        """Give row i to conversation `slots[i]`; others are dropped, unknown ones start empty.

        Rows are packed on the way if they have to be copied or have become mostly holes.
        """
        longest = max(map(len, self.columns), default=0)
        if slots == self.slots and self.used <= 1.5 * longest:
            return
        place = {slot: row for row, slot in enumerate(self.slots)}
        source = [place.get(slot, -1) for slot in slots]
        kept = [self.columns[row] if row >= 0 else [] for row in source]
        width = max(map(len, kept), default=0)
        columns = torch.zeros(len(slots), width, dtype=torch.long)
        visible = torch.zeros(len(slots), width, dtype=torch.bool)
        for row, places in enumerate(kept):
            columns[row, : len(places)] = torch.tensor(places, dtype=torch.long)
            visible[row, : len(places)] = True
        rows = torch.tensor([max(row, 0) for row in source], device=self.device)
        for layer in self._layers:
            layer.select(rows, columns.to(self.device))
        self.visible = visible.to(self.device)
        self.ids = [list(self.ids[row]) if row >= 0 else [] for row in source]
        self.columns = [list(range(len(places))) for places in kept]
        self.slots = list(slots)

    def cut(self, row: int, length: int) -> None:
        """Keep the first `length` tokens of a row; the rest become holes."""
        gone = self.columns[row][length:]
        if gone:
            self.visible[row, gone] = False
            del self.ids[row][length:], self.columns[row][length:]

    def extend(self, tokens: Tensor, valid: Tensor) -> None:
        """Note that the model is about to append `tokens`.

        Args:
            tokens: (rows, width) ids.
            valid: (rows, width) bool, False where a row has padding.
        """
        start = self.used
        self.visible = torch.cat([self.visible[:, :start], valid], dim=1)
        for row, (ids, ok) in enumerate(zip(tokens.tolist(), valid.tolist(), strict=True)):
            for offset, (token, real) in enumerate(zip(ids, ok, strict=True)):
                if real:
                    self.ids[row].append(token)
                    self.columns[row].append(start + offset)
