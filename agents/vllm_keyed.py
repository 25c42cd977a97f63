"""A plug-in of vLLM that draws tokens as the sampler hf does, so that tests can compare the two.

The server loads it by name; it needs vLLM and nothing of ours but `aem_gym.seeding`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from vllm.v1.sample.logits_processor import (  # type: ignore[import-not-found]
    LogitsProcessor,
    MoveDirectionality,
)

from aem_gym.seeding import uniforms


class KeyedDraws(LogitsProcessor):  # type: ignore[misc]  # without vLLM it is Any
    """Leaves of each row's logits the one token that its key draws: inverse CDF, in double.

    Log-probabilities come from the logits before it, so the server has to return raw ones, and
    requests have to sample at temperature 1.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self.device = device
        self.rows: dict[int, tuple[int, list[int]]] = {}
        """By row: the key of its request, and the tokens drawn so far (vLLM appends to it)."""

    def is_argmax_invariant(self) -> bool:
        """Said so that it runs after the temperature, and for sampled rows only."""
        return True

    def update_state(self, batch_update: Any) -> None:
        if batch_update is None:
            return
        for row in batch_update.removed:
            self.rows.pop(row, None)
        for row, params, _, drawn in batch_update.added:
            self.rows.pop(row, None)
            if key := (params.extra_args or {}).get("aem_key"):
                self.rows[row] = (int(key), drawn)
        for one, other, direction in batch_update.moved:
            first, second = self.rows.pop(one, None), self.rows.pop(other, None)
            if first is not None:
                self.rows[other] = first
            if second is not None and direction == MoveDirectionality.SWAP:
                self.rows[one] = second

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        for row, (key, drawn) in self.rows.items():
            cdf = torch.softmax(logits[row].float(), -1).double().cumsum(-1)
            draw = float(uniforms(np.array([key], dtype=np.uint64), len(drawn))[0])
            token = int(torch.searchsorted(cdf, draw * cdf[-1], right=True))
            kept = logits[row, min(token, len(cdf) - 1)].clone()
            logits[row] = float("-inf")
            logits[row, min(token, len(cdf) - 1)] = kept
        return logits
