"""A preallocated key-value cache whose rows can be dropped, added and cut back independently.

Rows are conversations, columns are physical places. Rows advance raggedly: a column that means
nothing to a row is a hole there, hidden by the attention mask, so cutting a row back to a common
prefix is one assignment in the mask and no copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_GROWTH = 64


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
    """The cache of a batch of conversations: layers, the ids held per row, and where they lie.

    Attributes:
        cache: what is given to the model as `past_key_values`.
        visible: (rows, columns) bool, which physical columns belong to a row's sequence.
        ids: per row, the token ids whose keys are held, in order.
        columns: per row, the physical column of each of those ids.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self._layers = [_Layer() for _ in range(layers)]
        self.cache = Cache(layers=[*self._layers])
        self.device = device
        self.slots: list[int] = []
        self.ids: list[list[int]] = []
        self.columns: list[list[int]] = []
        self.visible = torch.zeros(0, 0, dtype=torch.bool, device=device)

    @property
    def used(self) -> int:
        """Physical columns in use."""
        return self._layers[0].used

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
