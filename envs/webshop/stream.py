"""Large JSON files, element by element, in bounded memory.

Elements are decoded by the standard library, as in the original: what it takes (NaN, say) is
taken. Where each of them ends is known, so that reading can go on from there another day.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

_READ = 1 << 20
_LONGEST = 1 << 26
"""Characters: a longer element is taken for damage."""
_AHEAD = 3
"""So many characters show whether a number goes on: `1` may be the beginning of `1e+5`."""
_BLANK = re.compile(r"[ \t\n\r]*")


class BrokenJson(ValueError):
    """A file is not the JSON that was expected. The message says where and why."""


@dataclass(frozen=True, slots=True)
class JsonElement:
    """One element of a list or mapping."""

    key: str
    """Empty in a list."""
    value: Any
    start: int
    """Where the value begins in the file, in bytes."""
    end: int


def elements(path: Path, kind: type, after: int = 0) -> Iterator[JsonElement]:
    """The elements of the outermost list or mapping (`kind`: `list` or `dict`) of a file.

    With `after`, only those after the element that ends at this byte.

    Raises:
        BrokenJson: it is cut off, or something else; what came before was yielded.
        OSError: it cannot be read.
    """
    first, last = "[]" if kind is list else "{}"
    with path.open("rb") as stream:
        text = _JsonText(stream, after)
        more = text.goes_on(last) if after else text.begins(first, last)
        while more:
            key = ""
            if kind is dict:
                key = text.key()
                text.take(":")
            text.peek()
            start = text.byte
            yield JsonElement(key, text.value(), start, text.byte)
            more = text.goes_on(last)


class MappingFile:
    """A mapping in a file that stays open: places of its values are in memory, not the values."""

    def __init__(self, path: Path, found: Iterable[JsonElement]) -> None:
        self._numbers: dict[str, int] = {}
        self._starts, self._ends = array("q"), array("q")
        for element in found:
            self._numbers[element.key] = len(self._starts)
            self._starts.append(element.start)
            self._ends.append(element.end)
        self._stream = path.open("rb")

    def get(self, key: str, /) -> Any:
        """The value of a key; None without one."""
        number = self._numbers.get(key)
        if number is None:
            return None
        start = self._starts[number]
        self._stream.seek(start)
        return json.loads(self._stream.read(self._ends[number] - start))

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class _JsonText:
    """A file's text from some byte on, of which only what is needed is in memory."""

    def __init__(self, stream: IO[bytes], byte: int) -> None:
        stream.seek(byte)
        self._stream, self._text, self._at = stream, "", 0
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._value = json.JSONDecoder().raw_decode
        self.byte = byte
        """How far it was read."""

    def begins(self, first: str, last: str) -> bool:
        """Read the opening bracket; whether there is any element."""
        self.take(first)
        if self.peek() != last:
            return True
        return self.goes_on(last)

    def goes_on(self, last: str) -> bool:
        """Read what follows an element: a comma, or the closing bracket and the file's end."""
        if self.peek() == ",":
            self._move(self._at + 1)
            return True
        self.take(last)
        if found := self.peek():
            raise self._broken(f"expected the end of the file, got {found!r}")
        return False

    def take(self, character: str) -> None:
        """Read one character, after blanks."""
        found = self.peek()
        if found != character:
            raise self._broken(f"expected {character!r}, got {found!r}" if found else "cut off")
        self._move(self._at + 1)

    def peek(self) -> str:
        """The next character that is not blank; empty at the end."""
        while True:
            blank = _BLANK.match(self._text, self._at)
            self._move(blank.end() if blank else self._at)
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def key(self) -> str:
        """Read a key."""
        if self.peek() != '"':
            raise self._broken(f"expected a key in quotes, got {self.peek() or 'the end'!r}")
        return str(self.value())

    def value(self) -> Any:
        """Read a value."""
        while self.peek():
            try:
                value, end = self._value(self._text, self._at)
            except (ValueError, RecursionError) as error:  # maybe because it goes on further down
                if len(self._text) - self._at > _LONGEST or not self._more():
                    raise self._broken(str(getattr(error, "msg", error))) from error
                continue
            if len(self._text) - end < _AHEAD and self._more():
                continue
            self._move(end)
            return value
        raise self._broken("cut off")

    def _more(self) -> bool:
        """Read on; false at the end of the file."""
        data = self._stream.read(_READ)
        try:
            decoded = self._decode.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise self._broken(f"no UTF-8: {error.reason}") from error
        if data:
            self._text, self._at = self._text[self._at :] + decoded, 0
        return bool(data)

    def _move(self, to: int) -> None:
        passed = self._text[self._at : to]
        self.byte += len(passed) if passed.isascii() else len(passed.encode())
        self._at = to

    def _broken(self, why: str) -> BrokenJson:
        return BrokenJson(f"byte {self.byte:,}: {why}")
