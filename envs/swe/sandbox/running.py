"""A running sandbox of any engine: the agent's shell, and programs beside it."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence

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


class RunningSandbox(ABC):
    """Implements `Sandbox` on a way to start programs in it and to kill them."""

    def __init__(self, name: str, limits: Limits) -> None:
        self.name = name
        self._output_bytes = limits.output_bytes
        self._shell: Shell | None = None
        self._pid = 0

    @abstractmethod
    def _start(self, argv: Sequence[str], user: int) -> tuple[str, Stream]:
        """Start a program; its id, and the stream to it."""

    @abstractmethod
    def _exit_code(self, program: str, deadline: float) -> int | None:
        """The exit code of a program whose output has ended; None: it is still running."""

    @abstractmethod
    def _kill_agent(self, spared: int) -> None:
        """Kill the agent's processes but the one with this number in the sandbox (0: none)."""

    @abstractmethod
    def _kill_all(self) -> None:
        """Kill the programs of the agent and of root."""

    @abstractmethod
    def _remove(self) -> None:
        """Remove the sandbox; raises nothing."""

    def run(self, command: str, timeout: float) -> CommandResult:
        shell = self._shell or self._open_shell()
        try:
            result = shell.run(command, timeout, self._output_bytes)
            self._kill_agent(self._pid)
            return result
        except ShellOver as over:
            self.kill_agent()
            return over.result

    def execute(
        self, argv: Sequence[str], timeout: float, *, user: int = 0, stdin: bytes = b""
    ) -> CommandResult:
        return self._execute(argv, timeout, user, stdin, Capture(self._output_bytes))

    def kill_agent(self) -> None:
        self._close_shell()
        self._kill_agent(0)

    def read(self, path: str, limit: int = 10_000_000, *, user: int = AGENT) -> bytes:
        argv = ["/bin/sh", "-c", _READ, "sh", path, str(limit)]
        output = Capture(2 * limit + 10_000)
        result = self._execute(argv, _SECONDS, user, b"", output)
        if result.exit_code == _MISSING:
            raise FileNotFoundError(path)
        if result.exit_code != 0:
            reason = "it is no regular file" if result.exit_code == _NOT_A_FILE else _reason(result)
            raise OSError(f"{path} cannot be read: {reason}")
        return output.content()

    def write(self, path: str, content: bytes, *, user: int = AGENT) -> None:
        argv = ["/bin/sh", "-c", _WRITE, "sh", path]
        result = self._execute(argv, _SECONDS, user, content, Capture(10_000))
        if result.exit_code != 0:
            raise OSError(f"{path} cannot be written: {_reason(result)}")

    def close(self) -> None:
        self._close_shell()
        self._remove()

    def _open_shell(self) -> Shell:
        shell = Shell(self._start((*_NICE, *BASH), AGENT)[1])
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
        self, argv: Sequence[str], timeout: float, user: int, stdin: bytes, output: Capture
    ) -> CommandResult:
        deadline = time.monotonic() + timeout
        program, stream = self._start(argv, user)
        try:
            whole = _exchange(stream, stdin, output, deadline)
            code = self._exit_code(program, deadline) if whole else None
            if code is None:
                self._give_up()
            elif code == _KILLED:
                self._kill_agent(self._pid)  # raises if the container went with it
            return output.result(code)
        except TimeoutError:
            self._give_up()
            return output.result(None, timed_out=True)
        finally:
            stream.close()

    def _give_up(self) -> None:
        """Kill a program that is still running, whoever it runs as; the agent's shell goes too."""
        self._close_shell()
        self._kill_all()


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


def _reason(result: CommandResult) -> str:
    return "it took too long" if result.timed_out else result.output.strip()[-300:]
