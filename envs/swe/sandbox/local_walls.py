"""What is around a sandbox without container, and how it names places: bubblewrap, or nothing.

Each sandbox is a folder, its `den`, that holds what it may write to, laid out as in a container:
`testbed`, `tmp`, `var/tmp`, `home/agent`, `run`. Behind walls a program sees these in their usual
places. Without walls it sees the machine as it is; then the paths in a command get the den in front
before it runs, and lose it again in what is printed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from aem_gym.envs.swe.sandbox.base import AGENT, ENVIRONMENT, HOME, STORE, WORKDIR, Limits

VENV = "/opt/venv"
"""The virtual environment of an image."""
SHIMS = "/opt/shims"
"""Programs for steps of root alone: changing owners does nothing, for all files have one."""
PLACES = (WORKDIR, "/tmp", "/var/tmp", HOME)
_PATH = "/usr/local/bin:/usr/bin:/bin"
_ETC = (
    *("alternatives", "ca-certificates", "crypto-policies", "ld.so.cache", "localtime"),
    *("mime.types", "nsswitch.conf", "os-release", "pki", "protocols", "services", "ssl"),
)
_ETC_NETWORK = ("gai.conf", "host.conf", "hosts", "resolv.conf")
_ACCOUNTS = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\nagent:x:{AGENT}:{AGENT}:agent:{HOME}:/bin/bash\n",
    "group": f"root:x:0:\nagent:x:{AGENT}:\n",
}
_BEFORE = r"(?<![\w.~/)}\]*?-])"


class Walls(Protocol):
    """Where programs of a sandbox run."""

    own_venv: bool
    """Whether each sandbox needs a virtual environment of its own: its path is another."""

    def argv(self, den: Path, program: Sequence[str], user: int, workdir: str) -> list[str]:
        """The command that runs a program in a sandbox."""
        ...

    def environment(self, den: Path, user: int) -> dict[str, str]:
        """Variables of its programs."""
        ...

    def folder(self, den: Path, workdir: str) -> Path:
        """The current folder of the command."""
        ...

    def inward(self, den: Path, text: str) -> str:
        """A command, with paths as the sandbox has them."""
        ...

    def outward(self, den: Path, text: str) -> str:
        """What was printed, with paths as in a container."""
        ...


def lay_out(den: Path) -> None:
    """Make the places of a sandbox, but for the repository."""
    for place in (*PLACES[1:], str(Path(STORE).parent), SHIMS, "/etc"):
        inside(den, place).mkdir(parents=True)
    for name, content in _ACCOUNTS.items():
        (den / "etc" / name).write_text(content)
    for name in ("chown", "chgrp"):
        shim = inside(den, SHIMS) / name
        shim.write_text("#!/bin/sh\nexit 0\n")
        shim.chmod(0o755)


def inside(den: Path, place: str) -> Path:
    """Where a place of a sandbox lies in its den."""
    return den / place.lstrip("/")


@dataclass(frozen=True, slots=True)
class Bubblewrap:
    """Namespaces: own processes, own files, no network, the system read-only. No bound on disk."""

    limits: Limits
    hostname: str
    system: tuple[str, ...]
    """Folders that hold the Python of the image, if they are not the system's."""
    venv: Path
    """Of the image; it is shared."""
    building: bool = False
    own_venv = False

    def argv(self, den: Path, program: Sequence[str], user: int, workdir: str) -> list[str]:
        """Root and the agent are one user outside; the agent has no way to root's store."""
        network = self.limits.network
        words = ["bwrap", "--unshare-all", *(["--share-net"] if network else [])]
        words += ["--die-with-parent", "--new-session", "--hostname", self.hostname]
        words += ["--uid", str(user), "--gid", str(user)]
        words += [*_system(), *(w for path in self.system for w in ("--ro-bind", path, path))]
        for name in _ETC + (_ETC_NETWORK if network else ()):
            words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        for name in _ACCOUNTS:
            words += ["--ro-bind", str(den / "etc" / name), f"/etc/{name}"]
        words += ["--proc", "/proc", "--dev", "/dev"]
        words += ["--bind" if self.building else "--ro-bind", str(self.venv), VENV]
        for place in PLACES:
            words += ["--bind", str(inside(den, place)), place]
        if user == 0:
            words += ["--ro-bind", str(inside(den, SHIMS)), SHIMS]
            words += ["--bind", str(den / "run"), "/run"]
        else:
            words += ["--tmpfs", "/run"]
        words += ["--chdir", workdir, "--"]
        # Counted within the namespace, on newer kernels; of a real root never.
        return [
            *words,
            "/bin/bash",
            "-c",
            f'ulimit -u {self.limits.pids}; exec "$@"',
            "-",
            *program,
        ]

    def environment(self, den: Path, user: int) -> dict[str, str]:
        """The same as in a container."""
        return _environment("", user)

    def folder(self, den: Path, workdir: str) -> Path:
        """Any: bubblewrap goes where it has to."""
        return den

    def inward(self, den: Path, text: str) -> str:
        """Paths are as in a container."""
        return text

    outward = inward


@dataclass(frozen=True, slots=True)
class NoWalls:
    """Nothing: programs run as the user, and can do what the user can."""

    own_venv = True

    def argv(self, den: Path, program: Sequence[str], user: int, workdir: str) -> list[str]:
        """The program, with paths in the den."""
        return [self.inward(den, word) for word in program]

    def environment(self, den: Path, user: int) -> dict[str, str]:
        """Home and temporary files lie in the den."""
        return {**_environment(str(den), user), "TMPDIR": str(den / "tmp")}

    def folder(self, den: Path, workdir: str) -> Path:
        """In the den; made anew where the agent has removed it."""
        folder = Path(self.inward(den, workdir))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def inward(self, den: Path, text: str) -> str:
        """Put the den before places of a sandbox."""
        places = "|".join(map(re.escape, (*PLACES, STORE, VENV)))
        return re.sub(rf"{_BEFORE}({places})(?![\w-]|\.\w)", lambda m: f"{den}{m[1]}", text)

    def outward(self, den: Path, text: str) -> str:
        """Take it away."""
        return text.replace(str(den), "")


def _environment(root: str, user: int) -> dict[str, str]:
    path = f"{root}{VENV}/bin:{_PATH}"
    if user == 0:
        return {**ENVIRONMENT, "PATH": f"{root}{SHIMS}:{path}", "HOME": "/root", "USER": "root"}
    return {**ENVIRONMENT, "PATH": path, "HOME": f"{root}{HOME}", "USER": "agent"}


def _system() -> list[str]:
    """The system's programs, whether or not `/bin` and the like are links into `/usr`."""
    words = ["--ro-bind", "/usr", "/usr"]
    for path in map(Path, ("/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")):
        if path.is_symlink():
            words += ["--symlink", str(path.readlink()), str(path)]
        elif path.is_dir():
            words += ["--ro-bind", str(path), str(path)]
    return words
