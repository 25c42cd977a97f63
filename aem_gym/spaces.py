"""TextSpace: any text up to a length, as a Gymnasium space."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Space


class TextSpace(Space[str]):
    """All strings of at most `max_length` characters.

    `gymnasium.spaces.Text` needs a character set and by default excludes even the space;
    language agents read and write any text.
    """

    def __init__(
        self, max_length: int = 65536, seed: int | np.random.Generator | None = None
    ) -> None:
        if max_length < 1:
            raise ValueError(f"max_length: expected at least 1, got {max_length}")
        self.max_length = max_length
        super().__init__(dtype=str, seed=seed)

    @property
    def is_np_flattenable(self) -> bool:
        """Text has no fixed-size numeric form."""
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random string: mostly ASCII words, now and then any Unicode character."""
        length = int(self.np_random.integers(0, min(32, self.max_length) + 1))
        ascii_codes = self.np_random.integers(32, 127, size=length)
        any_codes = self.np_random.integers(0xA0, 0xD7FF, size=length)
        codes = np.where(self.np_random.random(length) < 0.1, any_codes, ascii_codes)
        return "".join(map(chr, codes.tolist()))

    def contains(self, x: Any) -> bool:
        """Whether `x` is a string that fits."""
        return isinstance(x, str) and len(x) <= self.max_length

    def __repr__(self) -> str:
        return f"TextSpace({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextSpace) and self.max_length == other.max_length
