"""The parts of a sandbox without container: its folder, its isolation, and its image.

Each sandbox is a folder, its `sandbox_dir`, with the places it may write to, laid out as in a
container: `testbed`, `tmp`, `var/tmp`, `home/agent`, `run`. In bubblewrap a program sees these in
their usual places. Without isolation it sees the machine as it is; then the paths in a command get
the sandbox_dir in front before it runs, and lose it again in what is printed.

An image is a folder in the cache with a repository and a virtual environment. It is made once, and
appears there when all of it is ready.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from aem_gym.envs.swe.images import host
from aem_gym.envs.swe.sandbox.base import (
    AGENT,
    ENVIRONMENT,
    HOME,
    HOSTNAME,
    STORE,
    WORKDIR,
    ImagePlan,
    ImageSource,
    Limits,
    SandboxError,
)
from aem_gym.io import cache_folder, exclusive

VENV = "/opt/venv"
"""The virtual environment of an image."""
_SHIMS = "/opt/shims"
"""Programs for steps of root alone: changing owners does nothing, for all files have one."""
_PLACES = (WORKDIR, "/tmp", "/var/tmp", HOME)
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
_LAYOUT = "3"
"""Counts up when images have to be laid out differently from before."""
_ABOUT = "image.json"
CONTAINERS = "use a container engine (engine=docker or engine=podman)"
_HOSTS_OWN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONUNBUFFERED", "PYTHONWARNINGS")


def lay_out(sandbox_dir: Path) -> None:
    """Make the places of a sandbox, but for the repository."""
    for place in (*_PLACES[1:], str(Path(STORE).parent), _SHIMS, "/etc"):
        inside(sandbox_dir, place).mkdir(parents=True)
    for name, content in _ACCOUNTS.items():
        (sandbox_dir / "etc" / name).write_text(content)
    for name in ("chown", "chgrp"):
        shim = inside(sandbox_dir, _SHIMS) / name
        shim.write_text("#!/bin/sh\nexit 0\n")
        shim.chmod(0o755)


def inside(sandbox_dir: Path, place: str) -> Path:
    """The path in a sandbox's folder of a place in the sandbox."""
    return sandbox_dir / place.lstrip("/")


@dataclass(frozen=True, slots=True)
class Isolation:
    """No isolation: programs run as the user, and can do what the user can."""

    sandbox_dir: Path
    own_venv = True
    """Whether each sandbox needs a virtual environment of its own: its path is another."""

    def argv(self, program: Sequence[str], user: int) -> list[str]:
        """The command that runs a program in the sandbox."""
        return [self.to_sandbox(word) for word in program]

    def environment(self, user: int) -> dict[str, str]:
        """The variables of its programs; home and temporary files are in the sandbox's folder."""
        root = self.sandbox_dir
        return {**_environment(str(root), user), "TMPDIR": str(root / "tmp")}

    def folder(self) -> Path:
        """The current folder of the command; made again where the agent has removed it."""
        folder = inside(self.sandbox_dir, WORKDIR)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def to_sandbox(self, command: str) -> str:
        """A command with the sandbox's folder in front of its places."""
        places = "|".join(map(re.escape, (*_PLACES, STORE, VENV)))
        pattern = rf"{_BEFORE}({places})(?![\w-]|\.\w)"
        return re.sub(pattern, lambda match: f"{self.sandbox_dir}{match[1]}", command)

    def to_host(self, output: str) -> str:
        """Output with paths as in a container."""
        return output.replace(str(self.sandbox_dir), "")


@dataclass(frozen=True, slots=True)
class Bubblewrap(Isolation):
    """Namespaces: own processes, own files, no network, the system read-only. No bound on disk."""

    venv: Path
    """Of the image; sandboxes share it."""
    prefix: str = "/usr"
    """Of the Python of the image."""
    limits: Limits = Limits()
    building: bool = False
    own_venv = False

    def argv(self, program: Sequence[str], user: int) -> list[str]:
        # Root and the agent are one user outside; the agent has no way to root's store.
        root, network = self.sandbox_dir, self.limits.network
        words = ["bwrap", "--unshare-all", *(["--share-net"] if network else [])]
        words += ["--die-with-parent", "--new-session", "--hostname", HOSTNAME]
        words += ["--uid", str(user), "--gid", str(user)]
        words += _system()
        if not Path(self.prefix).is_relative_to("/usr"):
            words += ["--ro-bind", self.prefix, self.prefix]
        for name in _ETC + (_ETC_NETWORK if network else ()):
            words += ["--ro-bind-try", f"/etc/{name}", f"/etc/{name}"]
        for name in _ACCOUNTS:
            words += ["--ro-bind", str(root / "etc" / name), f"/etc/{name}"]
        words += ["--proc", "/proc", "--dev", "/dev"]
        words += ["--bind" if self.building else "--ro-bind", str(self.venv), VENV]
        for place in _PLACES:
            words += ["--bind", str(inside(root, place)), place]
        if user == 0:
            words += ["--ro-bind", str(inside(root, _SHIMS)), _SHIMS]
            words += ["--bind", str(root / "run"), "/run"]
        else:
            words += ["--tmpfs", "/run"]
        # Processes are counted within the namespace on newer kernels; of a real root never.
        limit = f'ulimit -u {self.limits.pids}; exec "$@"'
        return [*words, "--chdir", WORKDIR, "--", "/bin/bash", "-c", limit, "-", *program]

    def environment(self, user: int) -> dict[str, str]:
        return _environment("", user)

    def folder(self) -> Path:
        return self.sandbox_dir  # bubblewrap changes to the right one

    def to_sandbox(self, command: str) -> str:
        return command

    def to_host(self, output: str) -> str:
        return output


def _environment(root: str, user: int) -> dict[str, str]:
    path = f"{root}{VENV}/bin:{_PATH}"
    if user == 0:
        return {**ENVIRONMENT, "PATH": f"{root}{_SHIMS}:{path}", "HOME": "/root", "USER": "root"}
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


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image that is ready."""

    folder: Path
    python: host.HostPython
    made_in: str
    """The folder where it was built."""
    mentions: tuple[str, ...]
    """Text files that name that folder."""

    def copy(self, sandbox_dir: Path, *, own_venv: bool) -> None:
        """Lay its repository out in a sandbox's folder, and what else each has for itself."""
        for place in (WORKDIR, VENV) if own_venv else (WORKDIR,):
            target = inside(sandbox_dir, place)
            target.parent.mkdir(parents=True, exist_ok=True)
            host.run_program(["cp", "-a", str(inside(self.folder, place)), str(target)])
        for name in self.mentions if own_venv else ():
            path = sandbox_dir / name
            content = path.read_bytes().replace(self.made_in.encode(), str(sandbox_dir).encode())
            path.write_bytes(content)


def open_image(name: str) -> LocalImage:
    """The image that a sandbox starts from. Raises SandboxError: no engine here has made it."""
    try:
        content = (Path(name) / _ABOUT).read_bytes()
        image = msgspec.json.decode(
            content, type=LocalImage, dec_hook=lambda kind, value: kind(value)
        )
    except (OSError, msgspec.DecodeError) as error:
        raise SandboxError(
            f"expected an image that this engine has made, got {name!r}: {CONTAINERS}"
        ) from error
    return replace(image, folder=Path(name))  # the cache may have been moved


def ensure_local_image(plan: ImagePlan | ImageSource | str, engine: str) -> str:
    """The folder of an image, made by plan if it does not exist yet.

    Raises:
        SandboxError: it cannot be made here; the message says what to do.
    """
    if not isinstance(plan, ImagePlan):
        name = plan if isinstance(plan, str) else plan.name
        raise SandboxError(f"{name}: images by name exist in containers only: {CONTAINERS}")
    if plan.packages:
        raise SandboxError(
            f"{plan.name} needs packages of the system ({', '.join(plan.packages)}), which "
            f"containers alone can have: {CONTAINERS}"
        )
    python = find_python(plan.python)
    tools = host.setup_files()["requirements.txt"]
    depends = f"{_LAYOUT} {plan.name} {python}".encode() + tools
    key = hashlib.sha256(depends).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", plan.name.rpartition(":")[0])
    place = cache_folder().absolute() / "swe" / "local" / engine / f"{readable}-{key}"
    if not (place / _ABOUT).is_file():
        with exclusive(host.lock_file(str(place))):
            if not (place / _ABOUT).is_file():
                _make(plan, python, tools, engine, place)
    return str(place)


def find_python(version: str) -> host.HostPython:
    """An interpreter of a version (`3.9`; empty: the one that runs this). Raises SandboxError."""
    command = shutil.which(f"python{version}") if version else sys.executable
    found = host.ask_python(command) if command else None
    if not found:
        raise SandboxError(
            f"expected python{version} on the PATH, got "
            f"{command and f'{command}, which does not run' or 'nothing'}. Install it (uv python "
            f"install {version}, or pyenv install {version}), or {CONTAINERS}"
        )
    return found


def _make(plan: ImagePlan, python: host.HostPython, tools: bytes, engine: str, place: Path) -> None:
    """Build in a folder beside it, and give that its name when it is complete."""
    part = place.with_name(f".part-{place.name}")
    shutil.rmtree(part, ignore_errors=True)  # of a process that was killed: this one has the lock
    try:
        lay_out(part)
        shutil.copytree(plan.folder, inside(part, WORKDIR), symlinks=True)
        inside(part, VENV).mkdir(parents=True)
        (part / "tmp" / "tools.txt").write_bytes(tools)
        _install(plan, python, engine, part)
        mentions = tuple(_mentions(part)) if engine == "process" else ()
        image = LocalImage(place, python, str(part), mentions)
        for folder in ("tmp", "var", "home", "run"):
            shutil.rmtree(part / folder)
        (part / _ABOUT).write_bytes(msgspec.json.encode(image, enc_hook=str))
        part.rename(place)
    except OSError as error:
        raise SandboxError(f"{plan.name} cannot be made in {part}: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _install(plan: ImagePlan, python: host.HostPython, engine: str, part: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in _HOSTS_OWN}
    isolation = Isolation(part)
    if engine == "bubblewrap":
        limits = Limits(network=True, pids=4096)
        venv = inside(part, VENV)
        isolation = Bubblewrap(part, venv, python.prefix, limits, building=True)
        settings = host.host_settings()
        environment = dict(settings.environment)
        for name, content in settings.files.items():
            inside(part, host.FOLDER).mkdir(exist_ok=True)
            (inside(part, host.FOLDER) / name).write_bytes(content)
    environment |= {**isolation.environment(0), **host.BUILD_ENVIRONMENT}
    steps = (
        f"{python.executable} -m venv {VENV}",
        "python -m pip install --quiet --upgrade -r /tmp/tools.txt",
        *plan.install,
    )
    for step in steps:
        argv = isolation.argv(["/bin/sh", "-ec", step], 0)
        folder = inside(part, WORKDIR)
        host.run_program(argv, f"{plan.name}: {step}", folder=folder, environment=environment)


def _mentions(part: Path) -> Iterator[str]:
    """Text files that contain the path of the folder in which they were made.

    Compiled files contain it, too, and work elsewhere all the same.
    """
    word = str(part).encode()
    for place in (WORKDIR, VENV):
        for path in inside(part, place).rglob("*"):
            if path.is_symlink() or not path.is_file() or path.suffix == ".pyc":
                continue
            content = path.read_bytes()
            if word in content and b"\0" not in content:
                yield str(path.relative_to(part))
