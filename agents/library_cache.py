"""Reading with the library's own cache, where ours cannot hold a model's state; a trial of both.

Linear attention, convolutions and state-space layers keep one state per row, which cannot be cut
back, padded or masked. So rows of equal length are read together, and prompts from their start.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from aem_gym.agents.families import decoder_of
from aem_gym.errors import NotFiniteError
from aem_gym.logprobs import LogitMap
from aem_gym.protocols import GenerationRequest

_CACHES = ("cache", "past_key_values", "cache_params")
"""What transformers calls a cache, the newest name first: it warns about older ones."""
NAN = "sampler hf: the model gives NaN: its weights, or their merged copy, are damaged"


def cache_name(decoder: Any) -> str:
    """The argument by which a decoder takes its cache."""
    names = inspect.signature(decoder.forward).parameters
    return next((name for name in _CACHES if name in names), _CACHES[0])


class Reader(Protocol):
    """Runs a decoder over prompts and sampled tokens; gives hidden states."""

    def read(self, requests: Sequence[GenerationRequest]) -> Tensor:
        """Read the prompts; the hidden state of each one's last token (R, D)."""
        ...

    def append(self, tokens: Tensor, alive: Tensor) -> Tensor:
        """Read one more token (R,) of each row that is `alive` (R,); hidden states (R, D)."""
        ...

    def narrow(self, rows: Tensor) -> None:
        """Go on with some of the rows that are continued now, by their places among them."""
        ...

    def release(self, slot: int) -> None:
        """The conversation in `slot` is over."""
        ...

    def forget(self) -> None:
        """Drop all that is cached: the weights have changed."""
        ...


class LibraryReader:
    """Reads rows of equal length together, each prompt from its start: slower, and right."""

    def __init__(self, model: Any) -> None:
        self.decoder = decoder_of(model)
        self.device = next(model.parameters()).device
        self._name = cache_name(self.decoder)
        self._groups: list[tuple[Tensor, Any]] = []
        self._rows = torch.arange(0)

    def read(self, requests: Sequence[GenerationRequest]) -> Tensor:
        by_length: dict[int, list[int]] = {}
        for row, request in enumerate(requests):
            by_length.setdefault(len(request.prompt_ids), []).append(row)
        self._groups, parts = [], []
        self._rows = torch.arange(len(requests), device=self.device)
        for rows in by_length.values():
            ids = torch.tensor([requests[row].prompt_ids for row in rows], device=self.device)
            output = self.decoder(input_ids=ids, use_cache=True)
            self._groups.append((torch.tensor(rows, device=self.device), output[self._name]))
            parts.append(output.last_hidden_state[:, -1])
        order = torch.cat([rows for rows, _ in self._groups]).argsort()
        return torch.cat(parts)[order]

    def append(self, tokens: Tensor, alive: Tensor) -> Tensor:
        # A state cannot be narrowed: a group's ended rows go on with it, unused.
        size = sum(len(rows) for rows, _ in self._groups)
        every, used = tokens.new_zeros(size), alive.new_zeros(size)
        every[self._rows], used[self._rows] = tokens, alive
        hidden: Tensor | None = None
        for rows, cache in self._groups:
            if bool(used[rows].any()):
                inputs = {"input_ids": every[rows, None], self._name: cache, "use_cache": True}
                last = self.decoder(**inputs).last_hidden_state[:, -1]
                hidden = last.new_zeros(size, last.shape[1]) if hidden is None else hidden
                hidden[rows] = last
        assert hidden is not None, "a row is alive"
        return hidden[self._rows]

    def narrow(self, rows: Tensor) -> None:
        self._rows = self._rows[rows]

    def release(self, slot: int) -> None:
        """Nothing is kept between turns."""

    def forget(self) -> None:
        self._groups = []


@torch.no_grad()
def difference_to_plain(model: Any, reader: Reader, logit_map: LogitMap) -> str | None:
    """What is wrong with sampling through `reader`, by a trial on a few tokens; None if nothing.

    Two conversations of unequal length are read, continued, and extended by a second turn.
    Raises NotFiniteError where the model itself gives NaN.
    """
    training, weight = model.training, model.get_output_embeddings().weight
    model.eval()
    vocabulary = weight.shape[0]
    rows = [[(7 * i * i + 3 * i + 11 * row) % vocabulary for i in range(13)] for row in range(2)]
    try:
        turns = [_trial(model, reader, logit_map, rows, ends) for ends in ((4, 7), (8, 12))]
    except (TypeError, ValueError, RuntimeError, KeyError, IndexError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        model.train(training)
    differences = torch.stack(turns)
    worst, mean = float(differences.amax()), float(differences.mean())
    if not math.isfinite(mean):
        raise NotFiniteError("weights", NAN)
    if (worst <= 1e-3 or weight.dtype != torch.float32) and mean <= 0.3:
        return None
    return f"log-probabilities differ by up to {worst:.2g} nats, {mean:.2g} on average"


def _trial(
    model: Any, reader: Reader, logit_map: LogitMap, rows: list[list[int]], ends: tuple[int, ...]
) -> Tensor:
    """Differences (2, R, V) after prompts of `ends` tokens and after one token more."""
    head = model.get_output_embeddings()
    device = head.weight.device
    requests = [
        GenerationRequest(i, tuple(row[:end]), 0)
        for i, (row, end) in enumerate(zip(rows, ends, strict=True))
    ]
    read = reader.read(requests)
    following = [row[end] for row, end in zip(rows, ends, strict=True)]
    alive = torch.ones(len(rows), dtype=torch.bool, device=device)
    appended = reader.append(torch.tensor(following, device=device), alive)
    found = []
    for more, hidden in enumerate((read, appended)):
        plain = [
            model(input_ids=torch.tensor([row[: end + more]], device=device)).logits[0, -1]
            for row, end in zip(rows, ends, strict=True)
        ]
        ours = logit_map.apply(head(hidden).float()).log_softmax(-1)
        found.append((ours - torch.stack(plain).float().log_softmax(-1)).abs())
    return torch.stack(found)
