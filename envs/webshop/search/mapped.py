"""Lists of strings in mapped files: nothing is read before it is asked for."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

_REMEMBERED = 1 << 16


def open_array(path: Path) -> NDArray[Any]:
    """Map an array; processes that do the same share the memory."""
    mapped: NDArray[Any] = np.load(path, mmap_mode="r")
    return mapped.view(np.ndarray)  # slices of a memmap take several times as long to make


class MappedStrings(Sequence[str]):
    """Strings in one array of UTF-8; `starts` holds their beginnings, and the end of the last."""

    def __init__(self, text: NDArray[Any], starts: NDArray[Any]) -> None:
        self._text, self._starts = text.data, starts.data

    @classmethod
    def open(cls, folder: Path, name: str) -> MappedStrings:
        """Map what `write_strings` has written."""
        return cls(open_array(folder / f"{name}.text.npy"), open_array(folder / f"{name}.npy"))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[place] for place in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        return str(self._text[self._starts[place] : self._starts[place + 1]], "utf-8")


class MappedNumbers:
    """Numbers of ascending `strings`: a mapping that is searched where it lies."""

    def __init__(self, strings: MappedStrings, numbers: NDArray[Any]) -> None:
        self._strings, self._numbers = strings, numbers.data
        self._find = lru_cache(_REMEMBERED)(self._search)

    @classmethod
    def open(cls, folder: Path, name: str) -> MappedNumbers:
        """Map what `write_numbers` has written."""
        return cls(MappedStrings.open(folder, name), open_array(folder / f"{name}.numbers.npy"))

    def get(self, string: str, /) -> int | None:
        """The number of a string; None if it has none."""
        return self._find(string)

    def _search(self, string: str) -> int | None:
        place = bisect_left(self._strings, string)
        if place == len(self._strings) or self._strings[place] != string:
            return None
        number: int = self._numbers[place]
        return number
