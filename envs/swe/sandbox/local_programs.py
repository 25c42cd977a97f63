"""The programs of one sandbox without container: started, and ended, by this process."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from aem_gym.envs.swe.sandbox import local_keeper
from aem_gym.envs.swe.sandbox.base import Limits, SandboxError
from aem_gym.envs.swe.sandbox.local_walls import Walls
from aem_gym.envs.swe.sandbox.streams import Stream

_CHUNK = 1 << 16
_SECONDS = 30.0
"""For a keeper to end when there is nothing left to keep."""


class PipeStream:
    """The input and output of a program that this process has started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin and process.stdout
        self._in, self._out = process.stdin, process.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        self._early = bytearray()

    def send(self, data: bytes, deadline: float) -> None:
        """Write all of it; what comes meanwhile is kept."""
        view = memoryview(data)
        while view:
            ready = self._wait(deadline, select.POLLOUT)
            if self._out.fileno() in ready and not self._fill() and self._in.fileno() not in ready:
                raise EOFError
            if self._in.fileno() in ready:
                try:
                    view = view[os.write(self._in.fileno(), view) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise EOFError from error

    def receive(self, deadline: float) -> bytes:
        """What is there."""
        if not self._early:
            self._wait(deadline)
            self._fill()
        data = bytes(self._early)
        self._early.clear()
        return data

    def finish(self) -> None:
        """Close the program's input."""
        with contextlib.suppress(OSError):
            self._in.close()

    def close(self) -> None:
        """Close both ends."""
        self.finish()
        with contextlib.suppress(OSError):
            self._out.close()

    def _wait(self, deadline: float, writing: int = 0) -> set[int]:
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if writing:
            poll.register(self._in, writing)
        ready = poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            raise TimeoutError
        return {descriptor for descriptor, _ in ready}

    def _fill(self) -> int:
        try:
            data = os.read(self._out.fileno(), _CHUNK)
        except (BlockingIOError, OSError):
            return 0
        self._early += data
        return len(data)


class LocalPrograms:
    """Runs programs in one sandbox, and ends what they leave (the roles `Programs` and `Sweeper`).

    Args:
        den: the sandbox's folder.
        walls: around them.
        limits: of each program.
        environment: on top of what the walls say.
        workdir: where programs start.
    """

    def __init__(
        self,
        den: Path,
        walls: Walls,
        limits: Limits,
        environment: Mapping[str, str],
        workdir: str,
    ) -> None:
        self._den, self._walls, self._limits = den, walls, limits
        self._environment, self._workdir = environment, workdir
        self._kept: dict[str, subprocess.Popen[bytes]] = {}
        self._open = True

    def start(self, argv: Sequence[str], user: int) -> tuple[str, Stream]:
        """Start a program; its id, and the stream to it. Raises SandboxError."""
        limits = (os.getpid(), self._limits.memory_mb, self._limits.disk_mb)
        keeper = [sys.executable, "-I", "-S", local_keeper.__file__, *map(str, limits)]
        try:
            if not self._open:
                raise FileNotFoundError("it is closed")
            process = subprocess.Popen(
                [*keeper, *self._walls.argv(self._den, argv, user, self._workdir)],
                cwd=self._walls.folder(self._den, self._workdir),
                env={**self._walls.environment(self._den, user), **self._environment},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            raise SandboxError(f"run a program in a sandbox: {error}") from error
        self._kept[str(process.pid)] = process
        return str(process.pid), PipeStream(process)

    def exit_code(self, program: str, deadline: float) -> int | None:
        """The exit code of a program whose output has ended; None: it goes on all the same."""
        process = self._kept.get(program)
        if process is None:
            raise SandboxError("a program was ended from outside: the sandbox is closed")
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        self._kept.pop(program, None)
        return code

    def sweep(self, spared: int = 0) -> None:
        """End all programs, but the shell that has this number in the sandbox.

        Raises:
            SandboxError: they cannot be ended.
        """
        if not spared:
            return self.clear()
        for process in list(self._kept.values()):
            if not local_keeper.end_below(process.pid, _line_to(process.pid, spared)):
                raise SandboxError("what a command left running cannot be ended")

    def clear(self) -> None:
        """End all programs. Raises SandboxError: some go on."""
        for program, process in list(self._kept.items()):
            ended = local_keeper.end_below(process.pid)
            try:
                process.wait(_SECONDS if ended else 0)
            except subprocess.TimeoutExpired:
                raise SandboxError("a program of a sandbox cannot be ended") from None
            self._kept.pop(program, None)

    def close(self) -> None:
        """End all programs, and start none any more; raises nothing."""
        self._open = False
        with contextlib.suppress(SandboxError):
            self.clear()


def _line_to(keeper: int, number: int) -> set[int]:
    """The process that has this number in its own namespace, and all between it and its keeper."""
    parents = local_keeper.below(keeper)
    line: set[int] = set()
    pid = next((pid for pid in parents if _number(pid) == number), keeper)
    while pid != keeper:
        line.add(pid)
        pid = parents[pid]
    return line


def _number(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return -1
