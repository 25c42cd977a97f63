"""A running sandbox of any engine: the agent's shell, and programs beside it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from aem_gym.envs.swe.sandbox.base import AGENT, CommandResult, Limits, SandboxError
from aem_gym.envs.swe.sandbox.shell import Capture, Shell, ShellOver, Stream

BASH = ("/bin/bash", "--noprofile", "--norc")
# Among each other only, within a sandbox: hundreds that spin do not keep root's killer waiting.
_NICE = ("nice", "-n", "19")
_SECONDS = 60.0
"""For reading and writing a file, and for a shell to start."""
_KILLED = 137
# Where memory runs out, the agent's programs go first.
_GREET = "echo 500 > /proc/self/oom_score_adj; printf %s $$"
_READ = '[ -e "$1" ] || exit 2; [ -f "$1" ] || exit 3; exec head -c "$2" -- "$1"'
_WRITE = 'mkdir -p -- "$(dirname -- "$1")" && exec cat > "$1"'
_MISSING, _NOT_A_FILE = 2, 3


class Programs(Protocol):
    """Starts programs in one sandbox, and kills them. All but `close` raise SandboxError."""

    def start(self, argv: Sequence[str], user: int) -> tuple[str, Stream]:
        """Start a program; its id, and the stream to it."""
        ...

    def exit_code(self, program: str, deadline: float) -> int | None:
        """The exit code of a program whose output has ended; None: it is still running."""
        ...

    def kill_agent(self, spared: int = 0) -> None:
        """Kill the agent's processes but the one with this number in the sandbox."""
        ...

    def kill_all(self) -> None:
        """Kill root's programs, too."""
        ...

    def close(self) -> None:
        """Start no more programs."""
        ...


@dataclass(frozen=True, slots=True)
class _Ended:
    output: Capture
    exit_code: int | None
    timed_out: bool = False

    def reason(self) -> str:
        if self.timed_out:
            return "it took too long"
        return self.output.result(self.exit_code).output.strip()[-300:]


class RunningSandbox:
    """Implements `Sandbox` on what starts and kills programs.

    Args:
        name: of the sandbox.
        programs: of the sandbox.
        limits: what it may print.
        remove: removes the sandbox; raises nothing.
    """

    def __init__(
        self, name: str, programs: Programs, limits: Limits, remove: Callable[[], None]
    ) -> None:
        self.name = name
        self._programs, self._limit, self._remove = programs, limits.output_bytes, remove
        self._shell: Shell | None = None
        self._pid = 0

    def run(self, command: str, timeout: float) -> CommandResult:
        shell = self._shell or self._open_shell()
        try:
            result = shell.run(command, timeout, self._limit)
            self._programs.kill_agent(self._pid)
            return result
        except ShellOver as over:
            self.kill_agent()
            return over.result

    def execute(
        self, argv: Sequence[str], timeout: float, *, user: int = 0, stdin: bytes = b""
    ) -> CommandResult:
        ended = self._execute(argv, timeout, user, stdin, self._limit)
        return ended.output.result(ended.exit_code, ended.timed_out)

    def kill_agent(self) -> None:
        self._close_shell()
        self._programs.kill_agent()

    def read(self, path: str, limit: int = 10_000_000, *, user: int = AGENT) -> bytes:
        argv = ["/bin/sh", "-c", _READ, "sh", path, str(limit)]
        ended = self._execute(argv, _SECONDS, user, b"", 2 * limit + 10_000)
        if ended.exit_code == _MISSING:
            raise FileNotFoundError(path)
        if ended.exit_code != 0:
            told = "it is no regular file" if ended.exit_code == _NOT_A_FILE else ended.reason()
            raise OSError(f"{path} cannot be read: {told}")
        return ended.output.content()

    def write(self, path: str, content: bytes, *, user: int = AGENT) -> None:
        argv = ["/bin/sh", "-c", _WRITE, "sh", path]
        ended = self._execute(argv, _SECONDS, user, content, 10_000)
        if ended.exit_code != 0:
            raise OSError(f"{path} cannot be written: {ended.reason()}")

    def close(self) -> None:
        self._close_shell()
        self._programs.close()
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
                self._kill_all()
            elif code == _KILLED:
                self._programs.kill_agent(self._pid)  # raises if the container went with it
            return _Ended(output, code)
        except TimeoutError:
            self._kill_all()
            return _Ended(output, None, timed_out=True)
        finally:
            stream.close()

    def _kill_all(self) -> None:
        """Kill a program that is still running, whoever it runs as; the agent's shell goes too."""
        self._close_shell()
        self._programs.kill_all()


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
