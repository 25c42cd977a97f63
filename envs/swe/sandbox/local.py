"""Sandboxes without containers, for code that is trusted: `bubblewrap` and `process`.

Neither stops code that tries to escape. They are for machines without a container engine, and to
validate generated tasks in bulk. Both run programs as the user who runs this, with limits of memory
and file size for each process, cap output, keep deadlines, and kill what commands leave running.
docs/swe_engines.md says what each of them does not limit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from aem_gym.envs.swe.sandbox import local_keeper
from aem_gym.envs.swe.sandbox.base import (
    CommandResult,
    ImagePlan,
    ImageSource,
    Limits,
    SandboxError,
    SandboxSpec,
)
from aem_gym.envs.swe.sandbox.local_images import (
    CONTAINERS,
    VENV,
    Bubblewrap,
    Isolation,
    LocalImage,
    ensure_local_image,
    inside,
    lay_out,
    open_image,
)
from aem_gym.envs.swe.sandbox.reaper import is_left_over, new_run
from aem_gym.envs.swe.sandbox.running import RunningSandbox
from aem_gym.envs.swe.sandbox.shell import Stream

logger = logging.getLogger(__name__)

_PROGRAMS = ("bash", "cp", "find", "git", "iconv", "patch", "tar", "xargs")
_CHUNK = 1 << 16
_SECONDS = 30.0
"""For a keeper to end when there is nothing left to keep."""


class ProcessEngine:
    """Runs commands as the user, in a folder, without any isolation."""

    name = "process"
    isolates = False
    _kind = "process"
    _programs: tuple[str, ...] = _PROGRAMS
    _warning = "code runs as you, and can change what you can"

    def __init__(self) -> None:
        self.run = new_run()
        self._root = Path(tempfile.gettempdir()).resolve() / f"aem-sandboxes-{os.getuid()}"
        self._open: set[LocalSandbox] = set()
        self._images: dict[str, str] = {}
        self._check()
        logger.warning(
            "the sandbox engine %r does not isolate: %s. Let it run trusted code only, and train "
            "in containers: docker or podman",
            self.name,
            self._warning,
        )
        self.sweep()

    def image(self, plan: ImagePlan | ImageSource | str) -> str:
        wanted = plan if isinstance(plan, str) else plan.name
        if wanted not in self._images:
            self._images[wanted] = ensure_local_image(plan, self._kind)
        return self._images[wanted]

    def start(self, spec: SandboxSpec) -> LocalSandbox:
        image = open_image(spec.image)
        name = f"{self.run}-{secrets.token_hex(4)}"
        sandbox_dir = self._root / name
        isolation = self._isolation(sandbox_dir, spec.limits, image)
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._root.stat().st_uid != os.getuid():
                raise SandboxError("the folder above it belongs to somebody else")
            lay_out(sandbox_dir)
            image.copy(sandbox_dir, own_venv=isolation.own_venv)
        except (OSError, SandboxError) as error:
            shutil.rmtree(sandbox_dir, ignore_errors=True)
            raise SandboxError(
                f"a sandbox cannot be laid out in {sandbox_dir}: {error}. TMPDIR names another disk"
            ) from error
        return LocalSandbox(name, isolation, spec.limits, self._open)

    def sweep(self) -> int:
        # Their programs are gone: a keeper sees its parent's end within half a second.
        folders: list[Path] = []
        with contextlib.suppress(OSError):
            folders = list(self._root.iterdir())
        left = [folder for folder in folders if is_left_over(folder.name.rpartition("-")[0])]
        for folder in left:
            _remove_folder(folder)
        return len(left)

    def close(self) -> None:
        for sandbox in list(self._open):
            sandbox.close()
        with contextlib.suppress(OSError):
            self._root.rmdir()  # unless others are in it

    def _isolation(self, sandbox_dir: Path, limits: Limits, image: LocalImage) -> Isolation:
        return Isolation(sandbox_dir)

    def _check(self) -> None:
        """Raises SandboxError: what the engine needs is missing."""
        if not Path("/proc/thread-self/children").exists():
            raise SandboxError(
                f"the engine {self.name} needs Linux, with the children of processes in /proc "
                f"(CONFIG_PROC_CHILDREN): {CONTAINERS}"
            )
        missing = [program for program in self._programs if shutil.which(program) is None]
        if missing:
            words = " ".join(missing).replace("bwrap", "bubblewrap")
            advice = f"{words}: sudo apt-get install {words}"
            raise SandboxError(f"the engine {self.name} needs {advice}")


class BubblewrapEngine(ProcessEngine):
    """Runs commands in namespaces of their own for processes, files, network and host name.

    The system is read-only and paths are as in a container. The agent and root are the same user
    outside. Not bounded: the disk, the CPU, all processes together; the number of processes where
    the kernel is too old for it, or the user is root.
    """

    name = _kind = "bubblewrap"
    _programs = (*_PROGRAMS, "bwrap")
    _warning = "code runs as you"

    def _isolation(self, sandbox_dir: Path, limits: Limits, image: LocalImage) -> Isolation:
        return Bubblewrap(sandbox_dir, inside(image.folder, VENV), image.python.prefix, limits)

    def _check(self) -> None:
        super()._check()
        with tempfile.TemporaryDirectory() as folder:
            lay_out(Path(folder))
            (Path(folder) / "testbed").mkdir()
            argv = Bubblewrap(Path(folder), Path(folder)).argv(["/bin/true"], 0)
            done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            raise SandboxError(
                f"bubblewrap does not work here: {done.stderr.strip()[-300:]}. It needs namespaces "
                "of unprivileged users: sudo sysctl kernel.unprivileged_userns_clone=1, on Ubuntu "
                "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0; or use "
                "engine=process"
            )


class LocalSandbox(RunningSandbox):
    """A sandbox whose programs run below keepers that this process starts.

    It is in the set `opened` until it is closed.
    """

    def __init__(
        self, name: str, isolation: Isolation, limits: Limits, opened: set[LocalSandbox]
    ) -> None:
        super().__init__(name, limits)
        self._isolation, self._limits, self._opened = isolation, limits, opened
        self._kept: dict[str, subprocess.Popen[bytes]] = {}
        opened.add(self)

    def run(self, command: str, timeout: float) -> CommandResult:
        return self._renamed(super().run(self._isolation.to_sandbox(command), timeout))

    def execute(
        self, argv: Sequence[str], timeout: float, *, user: int = 0, stdin: bytes = b""
    ) -> CommandResult:
        return self._renamed(super().execute(argv, timeout, user=user, stdin=stdin))

    def _renamed(self, result: CommandResult) -> CommandResult:
        return dataclasses.replace(result, output=self._isolation.to_host(result.output))

    def _start(self, argv: Sequence[str], user: int) -> tuple[str, Stream]:
        isolation, limits = self._isolation, self._limits
        numbers = (os.getpid(), limits.memory_mb, limits.disk_mb)
        keeper = [sys.executable, "-I", "-S", local_keeper.__file__, *map(str, numbers)]
        try:
            if self not in self._opened:
                raise FileNotFoundError("it is closed")
            process = subprocess.Popen(
                [*keeper, *isolation.argv(argv, user)],
                cwd=isolation.folder(),
                env=isolation.environment(user),
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

    def _exit_code(self, program: str, deadline: float) -> int | None:
        process = self._kept.get(program)
        if process is None:
            raise SandboxError("a program was killed from outside: the sandbox is closed")
        try:
            code = process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return None
        self._kept.pop(program, None)
        return code

    def _kill_agent(self, spared: int) -> None:
        if not spared:
            return self._kill_all()
        for process in list(self._kept.values()):
            if not local_keeper.kill_below(process.pid, _line_to(process.pid, spared)):
                raise SandboxError("what a command left running cannot be killed")

    def _kill_all(self) -> None:
        for program, process in list(self._kept.items()):
            ended = local_keeper.kill_below(process.pid)
            try:
                process.wait(_SECONDS if ended else 0)
            except subprocess.TimeoutExpired:
                raise SandboxError("a program of a sandbox cannot be killed") from None
            self._kept.pop(program, None)

    def _remove(self) -> None:
        self._opened.discard(self)
        with contextlib.suppress(SandboxError):
            self._kill_all()
        _remove_folder(self._isolation.sandbox_dir)


class PipeStream(Stream):
    """The pipes of a program that this process has started."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin and process.stdout
        self._in, self._out = process.stdin, process.stdout
        os.set_blocking(self._in.fileno(), False)
        os.set_blocking(self._out.fileno(), False)
        super().__init__(self._out, self._in)

    def finish(self) -> None:
        with contextlib.suppress(OSError):
            self._in.close()

    def close(self) -> None:
        self.finish()
        with contextlib.suppress(OSError):
            self._out.close()

    def _read(self) -> bytes:
        return os.read(self._out.fileno(), _CHUNK)

    def _write(self, data: memoryview) -> int:
        return os.write(self._in.fileno(), data)


def _line_to(keeper: int, number: int) -> set[int]:
    """The process that has this number in its own namespace, and all between it and its keeper."""
    parents = local_keeper.below(keeper)
    line: set[int] = set()
    pid = next((pid for pid in parents if _number_in_namespace(pid) == number), keeper)
    while pid != keeper:
        line.add(pid)
        pid = parents[pid]
    return line


def _number_in_namespace(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("NSpid:"):
                return int(line.split()[-1])
    return -1


def _remove_folder(folder: Path) -> None:
    """Remove it, also where a program has taken away its own permissions; raises nothing."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            subprocess.run(["rm", "-rf", "--", str(folder)], stderr=subprocess.DEVNULL)
        for top, names, _ in os.walk(folder):  # there is none, as a rule
            for path in (Path(top, name) for name in names):
                with contextlib.suppress(OSError):
                    if not path.is_symlink():
                        path.chmod(0o700)
