"""One sandbox: the agent's shell, what ends the things it leaves running, programs beside it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aem_gym.envs.swe.sandbox.base import AGENT, Limits, Ran, SandboxError
from aem_gym.envs.swe.sandbox.output import Capture
from aem_gym.envs.swe.sandbox.shell import Shell, ShellOver
from aem_gym.envs.swe.sandbox.streams import Stream

BASH = ("/bin/bash", "--noprofile", "--norc")
_NICE = ("nice", "-n", "19")
"""Among each other only, within a sandbox: so hundreds that spin do not keep the warden waiting."""
_SECONDS = 60.0
"""For reading and writing a file, and for a shell to start."""
_KILLED = 137
# Where memory runs out, the agent's programs go first.
_GREET = "echo 500 > /proc/self/oom_score_adj; printf %s $$"
_READ = '[ -e "$1" ] || exit 2; [ -f "$1" ] || exit 3; exec head -c "$2" -- "$1"'
_WRITE = 'mkdir -p -- "$(dirname -- "$1")" && exec cat > "$1"'
_MISSING, _NO_FILE = 2, 3


@dataclass(frozen=True, slots=True)
class _Ended:
    output: Capture
    exit_code: int | None
    timed_out: bool = False


class Programs(Protocol):
    """Runs programs in a sandbox."""

    def start(self, argv: Sequence[str], user: int) -> tuple[str, Stream]:
        """Start a program; its id, and the stream to it. Raises SandboxError."""
        ...

    def exit_code(self, program: str, deadline: float) -> int | None:
        """The exit code of a program whose output has ended; None: it goes on all the same."""
        ...


class Sweeper(Protocol):
    """Ends what programs leave running. All but `close` raise SandboxError: it goes on."""

    def sweep(self, spared: int = 0) -> None:
        """End the agent's processes, but the one with this number."""
        ...

    def clear(self) -> None:
        """End root's programs, too."""
        ...

    def close(self) -> None:
        """It is not needed any more."""
        ...


class RunningSandbox:
    """A running sandbox (the role `Sandbox`), of any engine.

    Args:
        name: of the sandbox.
        programs: runs programs in it.
        warden: ends what they leave.
        limits: what it may print.
        remove: removes the sandbox; raises nothing.
    """

    def __init__(
        self,
        name: str,
        programs: Programs,
        warden: Sweeper,
        limits: Limits,
        remove: Callable[[], None],
    ) -> None:
        self.name = name
        self._programs, self._limit, self._remove = programs, limits.output_bytes, remove
        self._shell: Shell | None = None
        self._pid = 0
        self._warden = warden

    def run(self, command: str, timeout: float) -> Ran:
        """Run a command of the agent in its one persistent shell."""
        shell = self._shell or self._open_shell()
        try:
            ran = shell.run(command, timeout, self._limit)
            self._warden.sweep(self._pid)
            return ran
        except ShellOver as over:
            self._close_shell()
            self._warden.sweep()
            return over.ran

    def execute(
        self, argv: Sequence[str], timeout: float, *, user: int = 0, stdin: bytes = b""
    ) -> Ran:
        """Run a program outside the agent's shell, as root unless said otherwise."""
        ended = self._execute(argv, timeout, user, stdin, self._limit)
        output = ended.output
        return Ran(output.text(), ended.exit_code, ended.timed_out, output.elided)

    def halt(self) -> None:
        """End all that runs for the agent, its shell too; the next `run` starts a new one."""
        self._close_shell()
        self._warden.sweep()

    def read(self, path: str, limit: int = 10_000_000, *, user: int = AGENT) -> bytes:
        """A file's content, at most so many bytes, as far as a user may read it.

        Raises:
            FileNotFoundError: there is none.
            OSError: it is no regular file.
        """
        argv = ["/bin/sh", "-c", _READ, "sh", path, str(limit)]
        ended = self._execute(argv, _SECONDS, user, b"", 2 * limit + 10_000)
        if ended.exit_code == _MISSING:
            raise FileNotFoundError(path)
        if ended.exit_code != 0:
            told = "it is no regular file" if ended.exit_code == _NO_FILE else _told(ended)
            raise OSError(f"{path} cannot be read: {told}")
        return ended.output.content()

    def write(self, path: str, content: bytes, *, user: int = AGENT) -> None:
        """Write a file, its folders included. Raises OSError: it cannot be written there."""
        argv = ["/bin/sh", "-c", _WRITE, "sh", path]
        ended = self._execute(argv, _SECONDS, user, content, 10_000)
        if ended.exit_code != 0:
            raise OSError(f"{path} cannot be written: {_told(ended)}")

    def close(self) -> None:
        """Remove it and all it holds. May be called twice; raises nothing."""
        self._close_shell()
        self._warden.close()
        self._remove()

    def _open_shell(self) -> Shell:
        shell = Shell(self._programs.start((*_NICE, *BASH), AGENT)[1])
        try:
            self._pid = int(shell.run(_GREET, _SECONDS, 1000).output)
        except (ShellOver, ValueError) as error:
            shell.close()
            raise SandboxError(f"{self.name}: no bash starts in the sandbox ({error})") from error
        self._shell = shell
        return shell

    def _close_shell(self) -> None:
        if self._shell:
            self._shell.close()
        self._shell = None

    def _execute(
        self, argv: Sequence[str], timeout: float, user: int, stdin: bytes, limit: int
    ) -> _Ended:
        deadline = time.monotonic() + timeout
        program, stream = self._programs.start(argv, user)
        output = Capture(limit)
        try:
            whole = _exchange(stream, stdin, output, deadline)
            code = self._programs.exit_code(program, deadline) if whole else None
            if code is None:
                self._end_programs()
            elif code == _KILLED:
                self._warden.sweep(self._pid)  # raises if the container went with it
            return _Ended(output, code)
        except TimeoutError:
            self._end_programs()
            return _Ended(output, None, timed_out=True)
        finally:
            stream.close()

    def _end_programs(self) -> None:
        """End a program that goes on, whoever it runs as; the agent's shell goes with it."""
        self._close_shell()
        self._warden.clear()


def _exchange(stream: Stream, stdin: bytes, output: Capture, deadline: float) -> bool:
    """Give a program its input and take its output; False: it printed without end."""
    with contextlib.suppress(EOFError):  # it does not read all of it
        stream.send(stdin, deadline)
        stream.finish()
    while data := stream.receive(deadline):
        output.add(data)
        if output.floods:
            return False
    return True


def _told(ended: _Ended) -> str:
    return "it took too long" if ended.timed_out else ended.output.text().strip()[-300:]
