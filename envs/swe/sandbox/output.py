"""What a command prints, as much of it as is kept: the beginning and the end."""

from __future__ import annotations

import re

# CSI and OSC sequences, and two-character escapes.
_ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[ -/]*[0-~])"
)


_FLOOD = 10
"""A command that prints so many times more than is kept is to be killed."""


class Capture:
    """Bytes as they come; at most `limit` of them are kept, half from the beginning.

    Of a flood only the beginning is kept: how it ends depends on when it was stopped.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._half = max(1, limit // 2)
        self._head, self._tail = bytearray(), bytearray()
        self.total = 0
        """Bytes that came, kept or not."""

    def add(self, data: bytes | bytearray) -> None:
        """Take what came."""
        self.total += len(data)
        free = self._half - len(self._head)
        self._head += data[:free]
        self._tail += data[max(0, free) :]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    @property
    def floods(self) -> bool:
        """Whether it is to be stopped."""
        return self.total > _FLOOD * self.limit

    @property
    def elided(self) -> int:
        """Bytes left out between beginning and end."""
        if self.floods:
            return _FLOOD * self.limit - len(self._head)
        return max(0, self.total - len(self._head) - self._half)

    def content(self) -> bytes:
        """What is kept, with a line in place of what is not."""
        if self.floods:
            end = f"\n[... more than {_FLOOD * self.limit} bytes: the command was killed ...]\n"
            return bytes(self._head) + end.encode()
        if not self.elided:
            return bytes(self._head + self._tail)
        mark = f"\n[... {self.elided} bytes left out ...]\n".encode()
        return bytes(self._head + mark + self._tail[-self._half :])

    def text(self) -> str:
        """The same as plain text."""
        return plain(self.content())


def plain(data: bytes) -> str:
    """Bytes of a terminal as text: no escape codes, no NUL, nothing that is not UTF-8."""
    text = data.decode("utf-8", errors="replace").replace("\r\n", "\n")
    return _ESCAPES.sub("", text).replace("\0", "\ufffd")
