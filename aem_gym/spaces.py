"""TextSpace: any text up to a length, as a Gymnasium space that also works in vector environments.

`AsyncVectorEnv(shared_memory=True)` reads its buffer once and from then on expects to see the
present observations in what it got: `SharedTexts` is such a view.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Sequence
from ctypes import c_uint8
from multiprocessing.sharedctypes import SynchronizedArray
from types import ModuleType
from typing import Any, overload

import numpy as np
from gymnasium.spaces import Space
from gymnasium.vector.utils import (
    create_empty_array,
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)

_LENGTH_BYTES = 8
_MAX_BYTES_PER_CHARACTER = 4  # UTF-8


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
        return False

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short random string: mostly ASCII words, now and then any Unicode character."""
        length = int(self.np_random.integers(0, min(32, self.max_length) + 1))
        ascii_codes = self.np_random.integers(32, 127, size=length)
        any_codes = self.np_random.integers(0xA0, 0xD7FF, size=length)
        codes = np.where(self.np_random.random(length) < 0.1, any_codes, ascii_codes)
        return "".join(map(chr, codes.tolist()))

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def to_jsonable(self, sample_n: Iterable[str]) -> list[str]:
        return list(sample_n)

    def from_jsonable(self, sample_n: list[Any]) -> list[str]:
        return [str(sample) for sample in sample_n]

    def __repr__(self) -> str:
        return f"TextSpace({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextSpace) and self.max_length == other.max_length


class SharedTexts(Sequence[str]):
    """The present texts of `n` environments, decoded from shared memory whenever one looks.

    Copying or pickling gives a plain tuple of the texts at that moment.
    """

    def __init__(self, space: TextSpace, memory: SynchronizedArray[c_uint8], n: int) -> None:
        buffer: Any = memory.get_obj()
        self._rows = np.frombuffer(buffer, dtype=np.uint8).reshape(n, _row_bytes(space))

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = self._rows[index]
        length = int.from_bytes(row[:_LENGTH_BYTES].tobytes(), "little")
        data: bytes = row[_LENGTH_BYTES : _LENGTH_BYTES + length].tobytes()
        return data.decode(errors="surrogatepass")

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return tuple(self) == (tuple(other) if isinstance(other, Sequence) else other)

    def __repr__(self) -> str:
        return repr(tuple(self))

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return tuple, (list(self),)


def _row_bytes(space: TextSpace) -> int:
    return _LENGTH_BYTES + _MAX_BYTES_PER_CHARACTER * space.max_length


# How gymnasium.vector handles the space. Batching, iterating and concatenating need nothing of
# their own: gymnasium's defaults for custom spaces make tuples of str.


@create_empty_array.register(TextSpace)
def _empty(space: TextSpace, n: int = 1, fn: Any = np.zeros) -> tuple[str, ...]:
    return ("",) * n


@create_shared_memory.register(TextSpace)
def _create_shared(
    space: TextSpace, n: int = 1, ctx: ModuleType = multiprocessing
) -> SynchronizedArray[c_uint8]:
    memory: SynchronizedArray[c_uint8] = ctx.Array(c_uint8, n * _row_bytes(space))
    return memory


@read_from_shared_memory.register(TextSpace)
def _read_shared(
    space: TextSpace, shared_memory: SynchronizedArray[c_uint8], n: int = 1
) -> SharedTexts:
    return SharedTexts(space, shared_memory, n)


@write_to_shared_memory.register(TextSpace)
def _write_shared(
    space: TextSpace, index: int, value: str, shared_memory: SynchronizedArray[c_uint8]
) -> None:
    if value not in space:
        raise ValueError(
            f"expected an observation of at most {space.max_length} characters, got {len(value)}: "
            "shorten it, or give the environment a longer observation_space"
        )
    data = value.encode(errors="surrogatepass")  # lone surrogates, too, come back as they were
    row = len(data).to_bytes(_LENGTH_BYTES, "little") + data
    start = index * _row_bytes(space)
    buffer: Any = shared_memory.get_obj()
    target = np.frombuffer(buffer, dtype=np.uint8)
    target[start : start + len(row)] = np.frombuffer(row, dtype=np.uint8)
