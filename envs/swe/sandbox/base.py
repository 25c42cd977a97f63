"""What a sandbox is: the role that every engine fills, and the data that goes in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from aem_gym.errors import AemGymError

AGENT = 1000
"""User and group id of the agent. Process 1 and everything it must not touch belong to root."""
WORKDIR = "/testbed"
"""Where the repository lies in a sandbox, as in SWE-bench's images."""
PRISTINE = "/opt/aem/testbed"
"""Where a ready image keeps the repository, for root alone: it is copied to `WORKDIR` at start."""
HOME = "/home/agent"
STORE = "/run/aem"
"""A folder that only root can enter: what the answer is made of."""
LABEL = "aem.run"
"""Every container bears it; the value names the run that made it."""
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
"""The same actions are to give the same bytes."""


class SandboxError(AemGymError, RuntimeError):
    """The engine, an image or a sandbox failed: nobody's answer was wrong."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a sandbox may use."""

    memory_mb: int = 1024
    """Of its processes; what it keeps in writable places is in memory, too, and comes on top."""
    cpus: float = 1.0
    pids: int = 256
    disk_mb: int = 512
    """For the repository; each other writable place (/tmp, the home folder) has half of it."""
    inodes: int = 200_000
    """Files and folders in each writable place."""
    output_bytes: int = 1_000_000
    """Of one command; more is cut out of the middle, and at ten times that it is killed."""
    network: bool = False


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """How an image is made where it is not there yet."""

    name: str
    """`NAME:TAG`; the tag is a hash of all that the content depends on."""
    folder: Path
    """What becomes the content of `WORKDIR`, owned by the agent."""
    install: tuple[str, ...] = ()
    """Shell commands, run as root in `WORKDIR` while the network is there."""
    python: str = ""
    """The version that is needed (`3.9`); empty: any."""
    packages: tuple[str, ...] = ()
    """Of the system (Debian), before `install`."""


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox starts from."""

    image: str
    """Its name, as `SandboxEngine.image` gave it."""
    limits: Limits = field(default_factory=Limits)
    environment: Mapping[str, str] = field(default_factory=dict)
    """On top of `ENVIRONMENT`."""
    workdir: str = WORKDIR
    hostname: str = "sandbox"


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command came to."""

    output: str
    """Standard output and error as they came, decoded with replacement, without escape codes."""
    exit_code: int | None
    """None if it was killed at its deadline, or took its shell with it."""
    timed_out: bool = False
    elided: int = 0
    """Bytes left out of the middle of the output."""


class Sandbox(Protocol):
    """One running sandbox. Every method raises `SandboxError` if it is gone."""

    name: str

    def run(self, command: str, timeout: float) -> Ran:
        """Run a command of the agent in its one persistent shell (it keeps folder and variables).

        What the command leaves running is killed when it ends. After a time-out, or if the shell
        is gone (`exit`), the next call starts a new shell in the repository.
        """
        ...

    def execute(
        self, argv: Sequence[str], timeout: float, *, user: int = 0, stdin: bytes = b""
    ) -> Ran:
        """Run a program outside the agent's shell, as root unless said otherwise."""
        ...

    def halt(self) -> None:
        """End everything that runs for the agent, its shell too; the next `run` starts a new one.

        Before root looks at what the agent can change: nobody is there to change it meanwhile.
        """
        ...

    def read(self, path: str, limit: int = 10_000_000, *, user: int = AGENT) -> bytes:
        """A file's content, at most so many bytes, as far as a user may read it.

        Raises FileNotFoundError, and OSError for what is no regular file.
        """
        ...

    def write(self, path: str, content: bytes, *, user: int = AGENT) -> None:
        """Write a file, its folders included."""
        ...

    def close(self) -> None:
        """Remove it and all it holds. May be called twice; raises nothing."""
        ...


class SandboxEngine(Protocol):
    """Starts sandboxes."""

    name: str
    """`docker`, `podman`, `bubblewrap` or `process`."""
    isolates: bool
    """Whether untrusted code may run in it: limits and walls are real."""

    def image(self, plan: ImagePlan | str) -> str:
        """The name of an image that is there now: built by plan, or pulled by name.

        Raises SandboxError: it cannot be built or pulled; says the mend.
        """
        ...

    def start(self, spec: SandboxSpec) -> Sandbox:
        """A fresh sandbox. Raises SandboxError: no engine, image or permission; says the mend."""
        ...

    def sweep(self) -> int:
        """Remove what runs of dead processes have left; how many."""
        ...

    def close(self) -> None:
        """Remove all sandboxes of this run."""
        ...
