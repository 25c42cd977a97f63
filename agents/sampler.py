"""Sampling from a transformers model in this process, with the KV cache kept across turns.

A language agent's prompt at turn t+1 is its prompt at turn t, its own response and the new
observation; only the part after the longest common prefix with what is cached is read again.
"""

from __future__ import annotations

import ctypes
import logging
import math
import sys
from collections.abc import Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers.cache_utils import Cache, CacheLayerMixin

from aem_gym.agents.compact import compact_decoder, merge_into
from aem_gym.agents.families import MaskRule, decoder_of, mask_rule
from aem_gym.agents.library_cache import (
    NAN,
    LibraryReader,
    Reader,
    cache_name,
    difference_to_plain,
)
from aem_gym.agents.lora import merged_copy
from aem_gym.errors import ConfigError, ModelError, NotFiniteError, check_name
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
        ends = sorted({*weights.end_ids, *settings.end_ids})
        self.end_ids = torch.tensor(ends, device=self.device)
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
        if self.merged is None:  # it trains; a copy never does
            self.model.eval()
        hidden, live = self.reader.read(requests), list(requests)
        most = [min(r.max_new_tokens or self.max_new_tokens, self.max_new_tokens) for r in live]
        shape = (len(live), max(most))
        ids = torch.zeros(shape, dtype=torch.long, device=self.device)
        scores = torch.zeros((2, *shape), device=self.device)  # log-probabilities, entropies
        lengths = torch.zeros_like(ids[:, 0])
        rows = torch.arange(len(live), device=self.device)
        limits = torch.tensor(most, device=self.device)
        alive = limits > 0
        for step in range(max(most)):
            token, *scored = self._draw(self.logit_map.apply(self.head(hidden)), live, step)
            ids[rows, step], scores[:, rows, step] = token, torch.stack(scored)
            lengths[rows] += alive
            alive = alive & ~torch.isin(token, self.end_ids) & (limits[rows] > step + 1)
            left = int(alive.sum())
            if not left:
                break
            if 2 * left <= len(rows):  # go on without the rows that have ended
                kept = alive.nonzero()[:, 0]
                self.reader.narrow(kept)
                rows, token, alive = rows[kept], token[kept], alive[kept]
                live = [live[row] for row in kept.tolist()]
            hidden = self.reader.append(token, alive)
        return _collect(ids, scores, lengths, self.end_ids.tolist())

    def _draw(
        self, logits: Tensor, requests: Sequence[GenerationRequest], step: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one token per row from (R, V) logits; its log-probability and the entropy (R,)."""
        temperatures = [r.temperature for r in requests]
        logp_all = torch.log_softmax(logits.float() / _divisor(temperatures, self.device), dim=-1)
        probabilities = logp_all.exp()
        entropy = -(probabilities * logp_all.clamp(min=torch.finfo(torch.float32).min)).sum(-1)
        # Inverse CDF in double: the draw of a row does not depend on the rows beside it.
        cdf = probabilities.double().cumsum(-1)
        keys = np.array([r.key for r in requests], dtype=np.uint64)
        draw = torch.from_numpy(uniforms(keys, step)).to(self.device)
        token = torch.searchsorted(cdf, (draw * cdf[:, -1])[:, None], right=True)[:, 0]
        token.clamp_(max=logits.shape[-1] - 1)
        if not all(temperatures):
            greedy = torch.tensor([not t for t in temperatures], device=self.device)
            token = torch.where(greedy, logits.argmax(-1), token)
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
    if not (chosen is None or isinstance(chosen, bool)):
        raise ConfigError(f"sampler_options.merge: expected true or false, got {chosen!r}")
    if type(chunk) is not int or chunk < 1:
        raise ConfigError(
            f"sampler_options.prefill_chunk: expected a number of tokens, got {chunk!r}"
        )
    named = dict(model.named_parameters())
    if not any(".lora_" in name for name in named):
        return False
    base = [p for name, p in named.items() if ".lora_" not in name]
    small = sum(p.numel() for p in base) < MERGE_BELOW
    return small and base[0].dtype == torch.float32 if chosen is None else bool(chosen)


def _collect(ids: Tensor, scores: Tensor, lengths: Tensor, ends: list[int]) -> list[Generation]:
    """Rows as generations; one without an end token was cut."""
    made = []
    columns = zip(ids.tolist(), *scores.tolist(), strict=True)
    for length, parts in zip(lengths.tolist(), columns, strict=True):
        tokens, logprobs, entropies = (tuple(part[:length]) for part in parts)
        if not math.isfinite(sum(logprobs)):
            raise NotFiniteError("weights", NAN)
        made.append(Generation(tokens, logprobs, entropies, tokens[-1] not in ends))
    return made


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
        self.decoder = decoder_of(model)
        self._cache_name = cache_name(self.decoder)
        self._plain = rule.plain
        self._cache: RaggedCache | None = None
        self.compact = compact_decoder(model)

    def forget(self) -> None:
        self._cache = None
        if self.compact is not None:
            self.compact.forget()

    def release(self, slot: int) -> None:
        if self._cache is not None and not self._cache.drop(slot):
            self._cache = None  # leftovers change rounding, and a resumed run has none
            _return_memory(self.device)  # an update follows

    def read(self, requests: Sequence[GenerationRequest]) -> Tensor:
        """Bring every row's cache up to its prompt; the hidden state of each last token (R, D)."""
        slots, prompts = [r.slot for r in requests], [r.prompt_ids for r in requests]
        cache = self._prepare(slots, prompts)
        distinct = list(dict.fromkeys(prompts))
        if any(cache.ids) or len(distinct) == len(prompts):
            return self._extend(cache, prompts)
        rows = [distinct.index(prompt) for prompt in prompts]  # a group's share one reading
        self._cache = cache = self._fresh(list(range(len(distinct))))
        hidden = self._extend(cache, distinct)
        cache.ids = [[*cache.ids[row]] for row in rows]
        cache.take(rows, slots)
        return hidden[rows]

    def _extend(self, cache: RaggedCache, prompts: list[tuple[int, ...]]) -> Tensor:
        news = [prompt[len(ids) :] for ids, prompt in zip(cache.ids, prompts, strict=True)]
        width = max(map(len, news))
        tokens = torch.tensor([(self.pad_id,) * (width - len(new)) + new for new in news])
        holes = torch.tensor([width - len(new) for new in news])
        valid = torch.arange(width) >= holes[:, None]
        columns = max(1, self.chunk // len(news))
        for at in range(0, width, columns):
            piece = slice(at, at + columns)
            hidden = self._forward(*(x[:, piece].to(self.device) for x in (tokens, valid)))
        return hidden

    def append(self, tokens: Tensor, alive: Tensor) -> Tensor:
        return self._forward(tokens[:, None], alive[:, None])

    def narrow(self, rows: Tensor) -> None:
        assert self._cache is not None
        self._cache.narrow(rows)

    def _prepare(self, slots: list[int], prompts: list[tuple[int, ...]]) -> RaggedCache:
        """The cache, its rows cut back to what they share with the new prompts."""
        if self._cache is not None:
            self._cache.arrange(slots)
            shared = list(map(_common_prefix, self._cache.ids, prompts))
            if sum(shared) * 3 >= sum(map(len, prompts)):  # else one dense piece is faster
                for row, length in enumerate(shared):
                    self._cache.cut(row, length)
                return self._cache
        self._cache = self._fresh(slots)
        return self._cache

    def _fresh(self, slots: list[int]) -> RaggedCache:
        layers = int(self.model.config.get_text_config().num_hidden_layers)
        return RaggedCache(layers, slots, self.device)

    def _forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Append (R, W) tokens, right-aligned; the hidden state of the last column (R, D)."""
        cache = self._cache
        assert cache is not None
        positions = (cache.extend(tokens, valid)[:, None] + valid.cumsum(1) - 1).clamp_(min=0)
        # (R, 1, W, columns): a token sees its row's columns up to its own.
        width, columns = tokens.shape[1], cache.near.shape[1]
        causal = torch.ones(width, columns, dtype=torch.bool, device=self.device)
        seen = cache.near[:, None, None, :] & causal.tril_(columns - width)
        if self.compact is not None:
            return self.compact.append(tokens, positions, self._additive(seen), cache.cache)
        return self._library_forward(tokens, positions, seen, cache.cache)

    def _library_forward(
        self, tokens: Tensor, positions: Tensor, seen: Tensor, cache: Cache
    ) -> Tensor:
        mask: Tensor | dict[str, Tensor]
        mask = self._additive(seen) if self._plain else self._masks(seen, positions)
        inputs = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions}
        output = self.decoder(**inputs, **{self._cache_name: cache}, use_cache=True)
        last: Tensor = output.last_hidden_state[:, -1]
        return last

    def _additive(self, seen: Tensor) -> Tensor:
        mask = torch.zeros(seen.shape, dtype=self.dtype, device=self.device)
        return mask.masked_fill_(~seen, torch.finfo(self.dtype).min)

    def _masks(self, seen: Tensor, positions: Tensor) -> Tensor | dict[str, Tensor]:
        assert self._cache is not None
        keys = self._cache.near.cumsum(1) - 1
        masks = {k: self._additive(m) for k, m in self.rule.masks(seen, positions, keys).items()}
        return masks if self.rule.by_kind else next(iter(masks.values()))


def _common_prefix(held: list[int], prompt: tuple[int, ...]) -> int:
    """How many cached tokens the prompt starts with; at least its last token is left to read."""
    limit = min(len(held), len(prompt) - 1)
    if list(prompt[:limit]) == held[:limit]:
        return limit
    return next(i for i in range(limit) if held[i] != prompt[i])


def _return_memory(device: torch.device) -> None:
    """Give a cache's memory back: glibc keeps it, in pieces that an update does not fit into."""
    if device.type == "cpu" and sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
        if trim is not None:
            trim(0)


# The cache ---------------------------------------------------------------------------------------


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one attention layer, in buffers of shape (rows, heads, columns, dim).

    While only some rows are continued, attention reads a copy of those; what is new goes to both.
    """

    is_sliding = False

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.used = 0
        self.whole: list[Tensor] = []
        self.near: list[Tensor] = []
        self.rows: Tensor | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.whole = self.near = [key_states[:, :, :0], value_states[:, :, :0]]
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.used, self.used + key_states.shape[2]
        if end > self.whole[0].shape[2]:
            self._widen(max(end, start * 5 // 4))
        for whole, near, new in zip(self.whole, self.near, (key_states, value_states), strict=True):
            near[:, :, start:end] = new
            if self.rows is not None:
                whole[self.rows, :, start:end] = new
        self.used = end
        return self.near[0][:, :, :end], self.near[1][:, :, :end]

    def narrow(self, kept: Tensor, rows: Tensor) -> None:
        """Go on with `kept` of the rows that are read now; of all rows they are `rows`."""
        self.rows, self.near = rows, [near[kept] for near in self.near]

    def select(self, rows: Tensor, columns: Tensor) -> None:
        """Take row `rows[i]`, its (rows, width) `columns` moved to the left, as row i."""
        if self.is_initialized:
            # Advanced indices on both sides of a slice come first: (rows, width, heads, dim).
            self.whole = [held[rows[:, None], :, columns].transpose(1, 2) for held in self.whole]
            self.used = columns.shape[1]
            self.end_narrow()
            self._widen(self.used + _GROWTH)

    def end_narrow(self) -> None:
        self.rows, self.near = None, self.whole

    def _widen(self, columns: int) -> None:
        """Copy into buffers with room for `columns` or somewhat more; what is added is 0."""
        more = -(-columns // _GROWTH) * _GROWTH - self.whole[0].shape[2]
        self.whole = [pad(held, (0, 0, 0, more)) for held in self.whole]
        narrow = self.rows is not None
        self.near = [pad(held, (0, 0, 0, more)) for held in self.near] if narrow else self.whole

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
        near: the same of the rows that are being continued.
        ids: per row, the token ids whose keys are held, in order.
        slots: per row, its conversation; None once that is dropped.
    """

    def __init__(self, layers: int, slots: list[int], device: torch.device) -> None:
        self._layers = [_Layer() for _ in range(layers)]
        self.cache = Cache(layers=[*self._layers])
        self.slots: list[int | None] = [*slots]
        self.ids: list[list[int]] = [[] for _ in slots]
        self.visible = self.near = torch.zeros(len(slots), 0, dtype=torch.bool, device=device)
        self._rows: Tensor | None = None

    def drop(self, slot: int) -> bool:
        """Forget `slot`, whose row the next `arrange` frees; whether a conversation is left."""
        self.slots = [None if held == slot else held for held in self.slots]
        return any(held is not None for held in self.slots)

    def arrange(self, slots: list[int]) -> None:
        """Give row i to conversation `slots[i]`, packed where it has to be copied or has holes."""
        for layer in self._layers:
            layer.end_narrow()
        self._rows, self.near = None, self.visible
        if slots == self.slots and self.visible.shape[1] <= 1.5 * max(map(len, self.ids)):
            return
        place = {slot: row for row, slot in enumerate(self.slots)}
        self.ids = [self.ids[place[slot]] if slot in place else [] for slot in slots]
        self.take([place.get(slot, 0) for slot in slots], slots)

    def take(self, rows: list[int], slots: list[int]) -> None:
        """Give row i the columns of `rows[i]`, packed, as far as its `ids` go."""
        self.slots = [*slots]
        lengths = torch.tensor([len(ids) for ids in self.ids], device=self.visible.device)
        chosen = torch.tensor(rows, device=self.visible.device)
        width = int(lengths.max())
        # The columns that belong to a row come first, in their order.
        order = self.visible[chosen].long().argsort(stable=True, dim=1, descending=True)
        for layer in self._layers:
            layer.select(chosen, order[:, :width])
        self.visible = self.near = torch.arange(width, device=chosen.device) < lengths[:, None]

    def narrow(self, kept: Tensor) -> None:
        """Go on with `kept` of the rows that are continued now; the others stay as they are."""
        self._rows = kept if self._rows is None else self._rows[kept]
        self.near = self.near[kept]
        for layer in self._layers:
            layer.narrow(kept, self._rows)

    def cut(self, row: int, length: int) -> None:
        """Keep the first `length` tokens of a row; the rest become holes."""
        if length < len(self.ids[row]):
            self.visible[row, self.visible[row].nonzero()[length:]] = False
            del self.ids[row][length:]

    def extend(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Note the `valid` of coming `tokens` (rows, width); how many each row had (rows,)."""
        rows = range(len(self.ids)) if self._rows is None else self._rows.tolist()
        before = torch.tensor([len(self.ids[row]) for row in rows], device=valid.device)
        for row, ids, real in zip(rows, tokens.tolist(), valid.tolist(), strict=True):
            self.ids[row] += compress(ids, real)
        self.near = torch.cat([self.near, valid], dim=1)
        self.visible = self.near if self._rows is None else self._with_holes(self._rows, valid)
        return before

    def _with_holes(self, rows: Tensor, valid: Tensor) -> Tensor:
        """`visible` with new columns, `valid` in `rows` and holes in the others."""
        more = self.visible.new_zeros(len(self.ids), valid.shape[1])
        more[rows] = valid
        return torch.cat([self.visible, more], dim=1)
