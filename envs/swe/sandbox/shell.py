"""A persistent bash behind a stream: one command after another, framed by marks.

Commands are evaluated in the shell itself, so folder, variables and functions stay. The marks hold
a word that is new for every command. What lies before the first mark is left over from earlier
commands. What the shell prints of the marks themselves (`set -x`) goes nowhere.
A command that wants to forge a mark can: it fools nobody but itself.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shlex
import time
from dataclasses import dataclass

from aem_gym.envs.swe.sandbox.base import Ran
from aem_gym.envs.swe.sandbox.output import Capture
from aem_gym.envs.swe.sandbox.streams import Stream

_SECONDS = 10.0
"""For a new shell to take its first line."""
_MARK = 80
"""No mark is longer."""
_OUT = 250
"""The descriptor that keeps the shell's output, whatever a command does to the usual ones."""


class ShellOver(Exception):
    """The shell is gone, or has to go; `ran` is what there was until then."""

    def __init__(self, ran: Ran) -> None:
        super().__init__("the shell is over")
        self.ran = ran


@dataclass
class Shell:
    """One bash. After `ShellOver` it is of no use any more.

    Args:
        stream: to a bash that reads commands from its input.
    """

    stream: Stream

    def __post_init__(self) -> None:
        with contextlib.suppress(TimeoutError, EOFError):  # the first command will tell
            self.stream.send(f"exec {_OUT}>&1 2>/dev/null\n".encode(), time.monotonic() + _SECONDS)

    def run(self, command: str, timeout: float, limit: int) -> Ran:
        """Run a command; at most `limit` bytes of its output are kept.

        Raises:
            ShellOver: it ran out of time, printed without end, or ended the shell.
        """
        deadline = time.monotonic() + timeout
        first, second = secrets.token_hex(8), secrets.token_hex(8)
        reader = _Reader(f"\x1e{first}{second}".encode(), limit)
        try:
            self.stream.send(_script(command, first, second), deadline)
            while not reader.done:
                data = self.stream.receive(deadline)
                if not data:
                    raise ShellOver(reader.ran(None))
                reader.add(data)
                if reader.output.floods:
                    raise ShellOver(reader.ran(None))
        except TimeoutError as error:
            raise ShellOver(reader.ran(None, timed_out=True)) from error
        except EOFError as error:
            raise ShellOver(reader.ran(None)) from error
        return reader.ran(reader.exit_code)

    def close(self) -> None:
        """Let go of the stream."""
        self.stream.close()


class _Reader:
    """Takes what comes apart into what was left over, output, and exit code."""

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

    def ran(self, exit_code: int | None, timed_out: bool = False) -> Ran:
        if self._begun:
            self.output.add(self._rest)
        return Ran(self.output.text(), exit_code, timed_out, self.output.elided)


def _script(command: str, first: str, second: str) -> bytes:
    """What the shell reads for one command. `eval` keeps a syntax error inside of it."""
    text = command.replace("\0", "")
    script = (
        f"printf '\\036%s%sb\\036' {first} {second} >&{_OUT}\n"
        f"{{ eval {shlex.quote(text)}\n}} </dev/null >&{_OUT} 2>&1\n"
        f"printf '\\036%s%se%d\\036' {first} {second} $? >&{_OUT}\n"
    )
    return script.encode("utf-8", errors="replace")
