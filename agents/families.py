"""How a model family works: its logits, its attention windows, its dropout.

What is found here in a model's configuration and code is tried on the model by `check_sampling`
before anything is sampled with it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from aem_gym.logprobs import LogitMap

_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_FACTORS = ("logit_scale", "lm_head_multiplier", "output_multiplier")
_TABLE = re.compile(r"(?:\A|\.)(?:wpe|[^.]*pos(?:ition)?[^.]*)\Z")
_DIVISORS = ("logits_scaling",)


def logit_map(config: Any) -> LogitMap:
    """What a model does to the output of its head, by its (text) configuration.

    Gemma caps logits, Cohere and Falcon-H1 multiply them, Granite divides them.
    """
    numbers = {k: v for k, v in config.to_dict().items() if isinstance(v, int | float) and v}
    caps = [float(numbers[name]) for name in _CAPS if name in numbers]
    scale = 1.0
    for name in _FACTORS:
        scale *= numbers.get(name, 1.0)
    for name in _DIVISORS:
        scale /= numbers.get(name, 1.0)
    return LogitMap(scale, caps[0] if caps else None)


def turn_dropout_off(config: Any) -> None:
    """Set all kinds of dropout in a configuration (and its parts) to 0.

    With them the first update would compare new log-probabilities under one draw with old ones
    under none: ratios away from 1 before any learning.
    """
    for name, value in list(vars(config).items()):
        if hasattr(value, "to_dict"):
            turn_dropout_off(value)
        elif "drop" in name and isinstance(value, float) and value:
            setattr(config, name, 0.0)


def longest_exact(config: Any) -> int | None:
    """Most tokens that a model reads alike in one pass and in pieces; None: any number.

    Beyond it the angles of positions depend on the length of the longest row (dynamic and LongRoPE
    scaling), or tokens on how many others there are to choose from (sparse attention), so that a
    cache holds what a plain pass would not compute.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(value for value in rope.values() if isinstance(value, Mapping))]
    found = [getattr(config, "index_topk", None)]
    for kind in kinds:
        name = kind.get("rope_type", kind.get("type"))
        if name == "dynamic":
            found.append(config.max_position_embeddings)
        if name == "longrope":
            own = getattr(config, "original_max_position_embeddings", None)
            own = kind.get("original_max_position_embeddings") or own
            found.append(own or config.max_position_embeddings)
    return min((number for number in found if number), default=None)


# Attention ---------------------------------------------------------------------------------------


def position_rows(model: Any) -> int | None:
    """Most tokens of a model that looks its positions up in a table (GPT-2, OPT, GPT-J).

    None where positions are computed, as rotary ones are, or the table grows by itself (XGLM).
    """
    most = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(most, int):
        return None
    for name, module in model.named_modules():
        tables = [(name, module.weight)] if isinstance(module, nn.Embedding) else []
        tables += module.named_buffers(recurse=False)
        grows = hasattr(module, "make_weights")
        for label, table in tables:
            # OPT keeps two rows for padding in front.
            sized = table.ndim == 2 and most <= table.shape[0] <= most + 2
            if sized and not grows and _TABLE.search(label):
                return most
    return None


@dataclass(frozen=True, slots=True)
class MaskRule:
    """Which attention masks a decoder wants for rows whose columns are not positions.

    `reach` gives per kind of layer the most recent positions that its queries see (None: all);
    with `chunked` those of the query's own block of that many positions.
    """

    reach: Mapping[str, int | None] = field(default_factory=lambda: {"": None})
    by_kind: bool = False
    """The decoder takes a mask for each kind of layer, by name; else one mask."""
    chunked: frozenset[str] = frozenset()

    @property
    def plain(self) -> bool:
        """One mask and no window."""
        return not self.by_kind and self.reach == {"": None}

    def masks(self, seen: Tensor, queries: Tensor, keys: Tensor) -> dict[str, Tensor]:
        """By kind of layer, which columns each query sees.

        Args:
            seen: (R, 1, W, C) bool, without windows.
            queries: (R, W) positions of the tokens that are read.
            keys: (R, C) positions of the columns.
        """
        found = {}
        query, key = queries[:, None, :, None], keys[:, None, None, :]
        for kind, width in self.reach.items():
            near = seen
            if width is not None:
                chunked = kind in self.chunked
                near = query // width == key // width if chunked else query - key < width
            found[kind] = seen & near
        return found


def decoder_of(model: Any) -> Any:
    """The part of a causal language model below its head."""
    decoder = model.get_decoder()
    # Some models (Llama 4) give themselves.
    return getattr(model, "model", decoder) if decoder is model else decoder


def mask_rule(model: Any) -> MaskRule | None:
    """The rule of a model; None where only the library's own cache holds its state."""
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    decoder, config = decoder_of(model), model.config.get_text_config()
    known = ("sliding_window", "max_window_layers", "sliding_window_pattern")
    named = [k for k, v in config.to_dict().items() if "window" in k and type(v) is int]
    # GPT-Neo has windows in masks of its own, counted in columns.
    if any(name.lstrip("_") not in known for name in named):
        return None
    try:
        layers = DynamicCache(config=config).layers
        forward = inspect.unwrap(decoder.forward)
        by_kind = "attention_mask, dict)" in inspect.getsource(forward)
    except (OSError, TypeError, ValueError, KeyError, AttributeError):
        return None  # code of its own kind
    if any(type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers):
        return None
    if "position_ids" not in inspect.signature(decoder.forward).parameters:
        return None
    sliding, chunk = (
        getattr(config, name, None) for name in ("sliding_window", "attention_chunk_size")
    )
    kinds = {"full_attention": None, "sliding_attention": sliding, "chunked_attention": chunk}
    types = set(getattr(config, "layer_types", None) or ())
    if by_kind and types:
        if not types <= kinds.keys():
            return None
        # A model may read a kind that none of its layers has.
        reach = {kind: kinds[kind] for kind in kinds if kind in types or kinds[kind] is None}
        return MaskRule(reach, True, frozenset({"chunked_attention"}))
    if len(types) > 1:
        return None
    kind = next(iter(types), "")
    if not kind and sliding is None and chunk is not None:
        return MaskRule({"": chunk}, chunked=frozenset({""}))
    return MaskRule({"": kinds.get(kind, sliding)})
