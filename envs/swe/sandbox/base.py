"""The interface of a sandbox engine, and the data that goes in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from aem_gym.errors import InfrastructureError

AGENT = 1000
"""User and group id of the agent. Process 1 and everything it must not touch belong to root."""
WORKDIR = "/testbed"
"""Where the repository lies in a sandbox, as in SWE-bench's images."""
PRISTINE = "/opt/aem/testbed"
"""Where an image keeps the repository, readable by root alone: copied to `WORKDIR` at start."""
HOME = "/home/agent"
HOSTNAME = "sandbox"
STORE = "/run/aem"
"""A folder that only root can enter: what the answer is compared with."""
LABEL = "aem.run"
"""On every container; the value names the run that made it."""
ENVIRONMENT: Mapping[str, str] = {
    "TZ": "UTC",
    "LANG": "C.UTF-8",
    "PYTHONHASHSEED": "0",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_RETRIES": "0",
    "PAGER": "cat",
    "TERM": "dumb",
    "NO_COLOR": "1",
}
"""Of every program in a sandbox, so that the same actions give the same bytes."""


class SandboxError(InfrastructureError):
    """The engine, an image or a sandbox failed: nobody's answer was wrong."""


@dataclass(frozen=True, slots=True)
class Limits:
    memory_mb: int = 1024
    """Of its processes; files in writable places are in memory too and come on top."""
    cpus: float = 1.0
    pids: int = 256
    disk_mb: int = 512
    """For the repository, and for root's /run; /tmp and the home folder have half of it each, and
    /var/tmp and /dev/shm 64 MB."""
    inodes: int = 200_000
    """Files and folders in each writable place."""
    output_bytes: int = 1_000_000
    """Of one command; more is cut out of the middle, and at ten times that it is killed."""
    network: bool = False


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """How to build an image that does not exist yet."""

    name: str
    """`NAME:TAG`; the tag is a hash of everything the content depends on."""
    folder: Path
    """Becomes the content of `WORKDIR`, owned by the agent."""
    install: tuple[str, ...] = ()
    """Shell commands, run as root in `WORKDIR` with network."""
    python: str = ""
    """The version needed (`3.9`); empty: any."""
    packages: tuple[str, ...] = ()
    """System packages (Debian), installed before `install` runs."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """An image of others, from which a ready one is derived."""

    name: str
    """It is pulled if it is not there."""
    folder: str = WORKDIR
    """Where the repository lies in it; a link leads from there to `WORKDIR` afterwards."""
    removed: tuple[str, ...] = ()
    """Paths in it that nobody may see (hidden tests)."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    image: str
    """A name that `SandboxEngine.image` returned."""
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class CommandResult:
    output: str
    """Standard output and error in the order printed, decoded with replacement, no escape codes."""
    exit_code: int | None
    """None if the command was killed at its deadline, or ended its shell."""
    timed_out: bool = False
    elided: int = 0
    """Bytes left out of the middle of the output."""


class Sandbox(Protocol):
    """One running sandbox. Every method but `close` raises SandboxError if it is gone."""

    name: str

    def run(self, command: str, timeout: float) -> CommandResult:
        """Run a command of the agent in its one persistent shell (folder and variables stay).

        Processes that the command leaves running are killed when it ends. After a timeout, or if
        the command ended the shell (`exit`), the next call starts a new shell in `WORKDIR`.
        """
        ...

    def execute(
        self, argv: Sequence[str], timeout: float, *, user: int = 0, stdin: bytes = b""
    ) -> CommandResult:
        """Run a program outside the agent's shell, as root by default."""
        ...

    def kill_agent(self) -> None:
        """Kill everything that runs as the agent, its shell too; the next `run` starts a new one.

        Called before root reads what the agent can change, so that nothing changes it meanwhile.
        """
        ...

    def read(self, path: str, limit: int = 10_000_000, *, user: int = AGENT) -> bytes:
        """At most `limit` bytes of a file that `user` may read.

        Raises FileNotFoundError, and OSError for anything but a regular file.
        """
        ...

    def write(self, path: str, content: bytes, *, user: int = AGENT) -> None:
        """Write a file and make its folders. Raises OSError if it cannot be written there."""
        ...

    def close(self) -> None:
        """Remove the sandbox and everything in it. May be called twice; raises nothing."""
        ...


@runtime_checkable
class SandboxEngine(Protocol):
    """Makes images and starts sandboxes. docs/swe_engines.md shows how to add an engine.

    An engine is registered as a factory: a class or function called without arguments, that raises
    SandboxError (with the command that fixes it) if the engine does not work on this machine.
    Methods are called from several threads at once.

    What an environment relies on, and the built-in container engines keep:

    - The agent runs as uid `AGENT` and cannot become root, read `PRISTINE` or `STORE`, reach the
      network, or see processes outside its sandbox.
    - A fresh sandbox has a copy of the image's repository in `WORKDIR`, with git, patch, tar,
      findutils, bash and `python` on the PATH, and the variables of `ENVIRONMENT`.
    - `Limits` hold for all processes together, deadlines hold for what a command starts in the
      background, and the same commands print the same bytes.
    - Nothing outlives the process that made it, also when that is killed.
    """

    name: str
    isolates: bool
    """True only if code that nobody has read may run in it: the limits above are enforced."""

    def image(self, plan: ImagePlan | ImageSource | str) -> str:
        """The name of an image that exists now: built from the plan, or pulled by name.

        Raises:
            SandboxError: it cannot be built or pulled; the message says what to do.
        """
        ...

    def start(self, spec: SandboxSpec) -> Sandbox:
        """Start a fresh sandbox.

        Raises:
            SandboxError: no engine, image or permission; the message says what to do.
        """
        ...

    def sweep(self) -> int:
        """Remove the sandboxes of processes that no longer run; how many there were."""
        ...

    def close(self) -> None:
        """Remove all sandboxes that this object started. May be called twice; raises nothing."""
        ...
