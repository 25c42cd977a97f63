"""Sandboxes without containers, for code that is trusted: `bubblewrap` and `process`.

Neither keeps out who wants to get out. They are for machines without a container engine, and to
validate generated tasks in bulk. Both run programs as the user who runs this, with limits of memory
and file size for each process, cap output, keep deadlines, and end what commands leave running.

- `bubblewrap`: namespaces of its own for processes, files, network and host name; the system is
  read-only and paths are as in a container. The agent and root are the same user outside. Not
  bounded: the disk, the CPU, all processes together; the number of processes where the kernel is
  too old for it, or the user is root.
- `process`: no walls. Commands see and change what the user can.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import secrets
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from aem_gym.envs.swe.sandbox import local_images
from aem_gym.envs.swe.sandbox.base import (
    ImagePlan,
    Limits,
    Ran,
    SandboxError,
    SandboxSpec,
)
from aem_gym.envs.swe.sandbox.container import RunningSandbox
from aem_gym.envs.swe.sandbox.local_programs import LocalPrograms
from aem_gym.envs.swe.sandbox.local_walls import VENV, Bubblewrap, NoWalls, Walls, inside, lay_out
from aem_gym.envs.swe.sandbox.runs import is_left_over, new_run

logger = logging.getLogger(__name__)

_PROGRAMS = ("bash", "cp", "find", "git", "iconv", "patch", "tar", "xargs")
_WARNING = (
    "the sandbox engine %r does not isolate: code runs as you%s. Let it run trusted code only, and "
    "train in containers: docker or podman"
)


class LocalEngine:
    """Starts sandboxes without containers. Untrusted code may not run in them.

    Args:
        name: `bubblewrap` or `process`.

    Raises:
        SandboxError: it does not work here; says the mend.
    """

    isolates = False

    def __init__(self, name: str) -> None:
        self.name = name
        self.run = new_run()
        self._root = Path(tempfile.gettempdir()).resolve() / f"aem-sandboxes-{os.getuid()}"
        self._open: dict[str, LocalSandbox] = {}
        self._lock = threading.Lock()
        self._images: dict[str, str] = {}
        _check(name)
        logger.warning(_WARNING, name, "" if name == "bubblewrap" else ", without any walls")
        self.sweep()

    def image(self, plan: ImagePlan | str) -> str:
        """The folder of an image that is there now, made by plan.

        Raises:
            SandboxError: it cannot be made, or is one of containers; says the mend.
        """
        wanted = plan if isinstance(plan, str) else plan.name
        if wanted not in self._images:
            self._images[wanted] = local_images.ensure(plan, self.name)
        return self._images[wanted]

    def start(self, spec: SandboxSpec) -> LocalSandbox:
        """A fresh sandbox, with a copy of the image's repository in its place.

        Raises:
            SandboxError: no such image, or the disk does not take it.
        """
        image = local_images.open_image(spec.image)
        walls = self._walls(image, spec)
        name = f"{self.run}-{secrets.token_hex(4)}"
        den = self._root / name
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._root.stat().st_uid != os.getuid():
                raise SandboxError("the folder above it belongs to somebody else")
            lay_out(den)
            image.copy(den, walls)
        except (OSError, SandboxError) as error:
            shutil.rmtree(den, ignore_errors=True)
            raise SandboxError(
                f"a sandbox cannot be laid out in {den}: {error}. TMPDIR names another disk"
            ) from error
        programs = LocalPrograms(den, walls, spec.limits, spec.environment, spec.workdir)

        def remove() -> None:
            programs.close()
            _remove(den)
            with self._lock:
                self._open.pop(name, None)

        sandbox = LocalSandbox(name, programs, spec.limits, remove, den, walls)
        with self._lock:
            self._open[name] = sandbox
        return sandbox

    def sweep(self) -> int:
        """Remove what dead processes of this machine have left; how many. Their programs are gone.

        A program's keeper sees its parent's end within half a second.
        """
        dens: list[Path] = []
        with contextlib.suppress(OSError):
            dens = list(self._root.iterdir())
        left = [den for den in dens if is_left_over(den.name.rpartition("-")[0])]
        for den in left:
            _remove(den)
        return len(left)

    def close(self) -> None:
        """Remove all sandboxes of this engine. May be called twice; raises nothing."""
        with self._lock:
            sandboxes = list(self._open.values())
        for sandbox in sandboxes:
            sandbox.close()
        with contextlib.suppress(OSError):
            self._root.rmdir()  # unless others are in it

    def _walls(self, image: local_images.LocalImage, spec: SandboxSpec) -> Walls:
        if self.name == "process":
            return NoWalls()
        venv = inside(image.folder, VENV)
        return Bubblewrap(spec.limits, spec.hostname, image.about.python.folders, venv)


class LocalSandbox(RunningSandbox):
    """A sandbox whose output names places as in a container."""

    def __init__(
        self,
        name: str,
        programs: LocalPrograms,
        limits: Limits,
        remove: Callable[[], None],
        den: Path,
        walls: Walls,
    ) -> None:
        super().__init__(name, programs, programs, limits, remove)
        self._den, self._walls = den, walls

    def run(self, command: str, timeout: float) -> Ran:
        """Run a command of the agent in its one persistent shell."""
        return self._renamed(super().run(self._walls.inward(self._den, command), timeout))

    def execute(
        self, argv: Sequence[str], timeout: float, *, user: int = 0, stdin: bytes = b""
    ) -> Ran:
        """Run a program outside the agent's shell; root's differ from the agent's by a store."""
        return self._renamed(super().execute(argv, timeout, user=user, stdin=stdin))

    def _renamed(self, ran: Ran) -> Ran:
        return dataclasses.replace(ran, output=self._walls.outward(self._den, ran.output))


def _check(name: str) -> None:
    """Raises SandboxError: what an engine needs is not there."""
    if not Path("/proc/thread-self/children").exists():
        raise SandboxError(
            f"the engine {name} needs Linux, with the children of processes in /proc "
            "(CONFIG_PROC_CHILDREN): use a container engine: --engine docker or podman"
        )
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if name == "bubblewrap" and shutil.which("bwrap") is None:
        missing.append("bubblewrap")
    if missing:
        words = " ".join(missing)
        raise SandboxError(f"the engine {name} needs {words}: sudo apt-get install {words}")
    if name == "bubblewrap":
        _check_bubblewrap()


def _check_bubblewrap() -> None:
    with tempfile.TemporaryDirectory() as folder:
        den = Path(folder)
        lay_out(den)
        (den / "testbed").mkdir()
        walls = Bubblewrap(Limits(), "probe", (), den)
        argv = walls.argv(den, ["/bin/true"], 0, "/")
        done = subprocess.run(argv, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise SandboxError(
            f"bubblewrap does not work here: {done.stderr.strip()[-300:]}. It needs namespaces of "
            "unprivileged users: sudo sysctl kernel.unprivileged_userns_clone=1, on Ubuntu sudo "
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0; or use --engine process"
        )


def _remove(den: Path) -> None:
    """Remove a den, also where a program has taken away its own permissions; raises nothing."""
    for _ in range(2):
        with contextlib.suppress(OSError):
            subprocess.run(["rm", "-rf", "--", str(den)], stderr=subprocess.DEVNULL)
        for top, folders, _ in os.walk(den):  # there is none, as a rule
            for folder in (Path(top, name) for name in folders):
                with contextlib.suppress(OSError):
                    if not folder.is_symlink():
                        folder.chmod(0o700)
