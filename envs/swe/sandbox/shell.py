"""A persistent bash behind a stream: one command after another, framed by marks.

Commands are evaluated in the shell itself, so folder, variables and functions stay. The marks
contain a word that is new for every command. What comes before the first mark is left over from
earlier commands. What the shell prints of the marks themselves (`set -x`) goes nowhere.
A command that wants to forge a mark can: it fools nobody but itself.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import select
import shlex
import socket
import time
from abc import ABC, abstractmethod
from typing import IO

from aem_gym.envs.swe.sandbox.base import CommandResult

_Ends = IO[bytes] | socket.socket

_SECONDS = 10.0
"""For a new shell to take its first line."""
_MARK = 80
"""No mark is longer."""
_OUT = 250
"""The descriptor that keeps the shell's output, whatever a command does to the usual ones."""
_FLOOD = 10
"""A command that prints so many times more than is kept is killed."""
# CSI and OSC sequences, and two-character escapes.
ESCAPES = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[PX^_][^\x1b]*\x1b\\|[ -/]*[0-~])"
)


class Stream(ABC):
    """A program's input and its output (standard error included), with a deadline for every call.

    Source and sink do not block; a socket is both. `early` is output that was read already.
    """

    def __init__(self, source: _Ends, sink: _Ends, early: bytes = b"") -> None:
        self._source, self._sink = source, sink
        self._buffer = bytearray(early)

    def send(self, data: bytes, deadline: float) -> None:
        """Write all of it, and keep what comes meanwhile.

        Raises TimeoutError, and EOFError if nobody reads any more.
        """
        view = memoryview(data)
        while view:
            readable, writable = self._wait(deadline, writing=True)
            try:
                if readable and not self._fill() and not writable:
                    raise EOFError
                if writable:
                    view = view[self._write(view) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise EOFError from error

    def receive(self, deadline: float) -> bytes:
        """The output that comes next; nothing at its end. Raises TimeoutError."""
        while not (data := self._take()):
            self._wait(deadline)
            try:
                if not self._fill():
                    return b""
            except BlockingIOError:
                continue
            except OSError:
                return b""
        return data

    @abstractmethod
    def finish(self) -> None:
        """Close the program's input; raises nothing."""

    @abstractmethod
    def close(self) -> None:
        """Close both ends; raises nothing."""

    @abstractmethod
    def _read(self) -> bytes: ...

    @abstractmethod
    def _write(self, data: memoryview) -> int: ...

    def _take(self) -> bytes:
        """The output in the buffer, which is emptied."""
        data = bytes(self._buffer)
        self._buffer.clear()
        return data

    def _fill(self) -> int:
        data = self._read()
        self._buffer += data
        return len(data)

    def _wait(self, deadline: float, *, writing: bool = False) -> tuple[bool, bool]:
        """Whether output can be read and input written, one of them at least."""
        source, sink = self._source.fileno(), self._sink.fileno() if writing else -1
        poll = select.poll()
        poll.register(source, select.POLLIN)
        if writing:
            poll.register(sink, select.POLLOUT | select.POLLIN * (sink == source))
        events = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
        if not events:
            raise TimeoutError
        readable = events.get(source, 0) & ~select.POLLOUT
        writable = events.get(sink, 0) & ~(select.POLLIN | select.POLLHUP)
        return bool(readable), bool(writable)


class Capture:
    """Output as it comes; at most `limit` bytes are kept, half of them from the beginning.

    Of a flood only the beginning is kept: how it ends depends on when it was stopped.
    """

    def __init__(self, limit: int) -> None:
        self._limit, self._half = limit, max(1, limit // 2)
        self._head, self._tail = bytearray(), bytearray()
        self._total = 0

    def add(self, data: bytes | bytearray) -> None:
        self._total += len(data)
        free = self._half - len(self._head)
        self._head += data[:free]
        self._tail += data[max(0, free) :]
        if len(self._tail) > 2 * self._half:
            del self._tail[: -self._half]

    @property
    def floods(self) -> bool:
        """Whether the command has to be stopped."""
        return self._total > _FLOOD * self._limit

    @property
    def elided(self) -> int:
        """Bytes left out between beginning and end."""
        if self.floods:
            return _FLOOD * self._limit - len(self._head)
        return max(0, self._total - len(self._head) - self._half)

    def content(self) -> bytes:
        """The kept output, with a line in place of the rest."""
        if self.floods:
            end = f"\n[... more than {_FLOOD * self._limit} bytes: the command was killed ...]\n"
            return bytes(self._head) + end.encode()
        if not self.elided:
            return bytes(self._head + self._tail)
        mark = f"\n[... {self.elided} bytes left out ...]\n".encode()
        return bytes(self._head + mark + self._tail[-self._half :])

    def result(self, exit_code: int | None, timed_out: bool = False) -> CommandResult:
        """The same as plain text: no escape codes, no NUL, nothing that is not UTF-8."""
        text = self.content().decode("utf-8", errors="replace").replace("\r\n", "\n")
        text = ESCAPES.sub("", text).replace("\0", "\ufffd")
        return CommandResult(text, exit_code, timed_out, self.elided)


class ShellOver(Exception):
    """The shell is gone, or has to go; `result` is what there was until then."""

    def __init__(self, result: CommandResult) -> None:
        super().__init__("the shell is over")
        self.result = result


class Shell:
    """A bash that reads commands from its input. After ShellOver it cannot be used any more."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        with contextlib.suppress(TimeoutError, EOFError):  # the first command reports it
            stream.send(f"exec {_OUT}>&1 2>/dev/null\n".encode(), time.monotonic() + _SECONDS)

    def run(self, command: str, timeout: float, limit: int) -> CommandResult:
        """Run a command; at most `limit` bytes of its output are kept. Raises ShellOver."""
        deadline = time.monotonic() + timeout
        first, second = secrets.token_hex(8), secrets.token_hex(8)
        reader = _Reader(f"\x1e{first}{second}".encode(), limit)
        try:
            self._stream.send(_script(command, first, second), deadline)
            while not reader.done:
                data = self._stream.receive(deadline)
                reader.add(data)
                if not data or reader.output.floods:
                    raise ShellOver(reader.result(None))
        except TimeoutError as error:
            raise ShellOver(reader.result(None, timed_out=True)) from error
        except EOFError as error:
            raise ShellOver(reader.result(None)) from error
        return reader.result(reader.exit_code)

    def close(self) -> None:
        self._stream.close()


class _Reader:
    """Separates what was left over, output, and exit code."""

    def __init__(self, mark: bytes, limit: int) -> None:
        self._begin = mark + b"b\x1e"
        self._end = re.compile(re.escape(mark + b"e") + rb"(\d+)\x1e")
        self._rest = bytearray()
        self._begun = False
        self.output = Capture(limit)
        self.done, self.exit_code = False, 0

    def add(self, data: bytes) -> None:
        self._rest += data
        if not self._begun:
            at = self._rest.find(self._begin)
            if at < 0:
                del self._rest[:-_MARK]
                return
            self._begun = True
            del self._rest[: at + len(self._begin)]
        if found := self._end.search(self._rest):
            self.output.add(self._rest[: found.start()])
            self.done, self.exit_code = True, int(found[1])
            self._rest.clear()
        elif len(self._rest) > _MARK:
            self.output.add(self._rest[:-_MARK])
            del self._rest[:-_MARK]

    def result(self, exit_code: int | None, timed_out: bool = False) -> CommandResult:
        if self._begun:
            self.output.add(self._rest)
        return self.output.result(exit_code, timed_out)


def _script(command: str, first: str, second: str) -> bytes:
    """The shell's input for one command. `eval` keeps a syntax error inside of it."""
    text = command.replace("\0", "")
    script = (
        f"printf '\\036%s%sb\\036' {first} {second} >&{_OUT}\n"
        f"{{ eval {shlex.quote(text)}\n}} </dev/null >&{_OUT} 2>&1\n"
        f"printf '\\036%s%se%d\\036' {first} {second} $? >&{_OUT}\n"
    )
    return script.encode("utf-8", errors="replace")
