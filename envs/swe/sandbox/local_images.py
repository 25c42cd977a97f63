"""Images of sandboxes without container: a repository and a virtual environment, in a folder.

Made once and kept in the cache; a folder appears there when all of it is ready.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aem_gym.envs.swe import images
from aem_gym.envs.swe.images.host import FOLDER, host_settings
from aem_gym.envs.swe.images.locks import one_at_a_time
from aem_gym.envs.swe.sandbox.base import WORKDIR, ImagePlan, Limits, SandboxError
from aem_gym.envs.swe.sandbox.local_walls import (
    VENV,
    Bubblewrap,
    NoWalls,
    Walls,
    inside,
    lay_out,
)
from aem_gym.envs.swe.sandbox.runs import is_left_over, new_run
from aem_gym.io import cache_folder

_LAYOUT = "2"
"""Counts up when images have to be laid out differently from before."""
_ABOUT = "image.json"
_PART = ".part-"
_CONTAINERS = "use a container engine: --engine docker or podman"
_ASK = (
    "import json, sys; print(json.dumps([sys._base_executable or sys.executable, "
    "sys.base_prefix, '%d.%d.%d' % sys.version_info[:3]]))"
)
_BUILD = {
    "PYTHONDONTWRITEBYTECODE": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "PIP_ROOT_USER_ACTION": "ignore",
    "PIP_PROGRESS_BAR": "off",
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
}
_HOSTS_OWN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONUNBUFFERED", "PYTHONWARNINGS")


@dataclass(frozen=True, slots=True)
class Python:
    """An interpreter of this machine."""

    executable: str
    prefix: str
    version: str

    @property
    def folders(self) -> tuple[str, ...]:
        """What has to be there for it to run, beside the system's own."""
        return () if Path(self.prefix).is_relative_to("/usr") else (self.prefix,)


@dataclass(frozen=True, slots=True)
class About:
    """What an image says of itself."""

    python: Python
    den: str
    """Where it was made."""
    mentions: tuple[str, ...]
    """Text files that name that place."""


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image that is ready."""

    folder: Path
    about: About

    def copy(self, den: Path, walls: Walls) -> None:
        """Lay its repository out in the den of a sandbox, and what else each has for itself."""
        places = (WORKDIR, VENV) if walls.own_venv else (WORKDIR,)
        for place in places:
            inside(den, place).parent.mkdir(parents=True, exist_ok=True)
            _run(["cp", "-a", str(inside(self.folder, place)), str(inside(den, place))])
        for name in self.about.mentions if walls.own_venv else ():
            path = den / name
            content = path.read_bytes()
            path.write_bytes(content.replace(self.about.den.encode(), str(den).encode()))


def open_image(name: str) -> LocalImage:
    """The image that a sandbox is to start from. Raises SandboxError: it is none of ours."""
    folder = Path(name)
    try:
        about = msgspec.json.decode((folder / _ABOUT).read_bytes(), type=About)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        raise SandboxError(
            f"expected an image that this engine has made, got {name!r}: {_CONTAINERS}"
        ) from error
    return LocalImage(folder, about)


def ensure(plan: ImagePlan | str, engine: str) -> str:
    """The folder of an image, made by plan if it is not there yet.

    Raises:
        SandboxError: it cannot be made here; says the mend.
    """
    if isinstance(plan, str):
        raise SandboxError(f"{plan}: images by name exist in containers only: {_CONTAINERS}")
    if plan.packages:
        raise SandboxError(
            f"{plan.name} needs packages of the system ({', '.join(plan.packages)}), which "
            f"containers alone can have: {_CONTAINERS}"
        )
    python = find_python(plan.python)
    tools = (Path(images.__path__[0]) / "requirements.txt").read_bytes()
    depends = f"{_LAYOUT} {plan.name} {python}".encode() + tools
    key = hashlib.sha256(depends).hexdigest()[:12]
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", plan.name.rpartition(":")[0])
    place = cache_folder().absolute() / "swe" / "local" / engine / f"{readable}-{key}"
    if not (place / _ABOUT).is_file():
        with one_at_a_time(str(place), lambda line: None):
            if not (place / _ABOUT).is_file():
                _make(plan, python, tools, engine, place)
    return str(place)


def find_python(version: str) -> Python:
    """An interpreter of a version (`3.9`; empty: the one that runs this).

    Raises:
        SandboxError: there is none.
    """
    command = shutil.which(f"python{version}") if version else sys.executable
    try:
        told = subprocess.run(
            [command or "", "-c", _ASK], capture_output=True, text=True, check=True, timeout=60
        ).stdout
        return Python(*msgspec.json.decode(told, type=tuple[str, str, str]))
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        raise SandboxError(
            f"expected python{version} on the PATH, got "
            f"{command and f'{command}, which does not run' or 'nothing'}. Install it (uv python "
            f"install {version}, or pyenv install {version}), or {_CONTAINERS}"
        ) from error


def _make(plan: ImagePlan, python: Python, tools: bytes, engine: str, place: Path) -> None:
    """Build in a folder beside the finished ones, and move it there in one go."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for part in place.parent.glob(f"{_PART}*"):
        if is_left_over(part.name.removeprefix(_PART)):
            shutil.rmtree(part, ignore_errors=True)
    den = place.parent / f"{_PART}{new_run()}"
    try:
        lay_out(den)
        shutil.copytree(plan.folder, inside(den, WORKDIR), symlinks=True)
        inside(den, VENV).mkdir(parents=True)
        (den / "tmp" / "tools.txt").write_bytes(tools)
        _install(plan, python, engine, den)
        mentions = tuple(_mentions(den)) if engine == "process" else ()
        about = About(python, str(den), mentions)
        for folder in ("tmp", "var", "home", "run"):
            shutil.rmtree(den / folder)
        (den / _ABOUT).write_bytes(msgspec.json.encode(about))
        den.rename(place)
    except OSError as error:
        if not (place / _ABOUT).is_file():  # else another process was faster
            raise SandboxError(f"{plan.name} cannot be made in {den}: {error}") from error
    finally:
        shutil.rmtree(den, ignore_errors=True)


def _install(plan: ImagePlan, python: Python, engine: str, den: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in _HOSTS_OWN}
    walls: Walls = NoWalls()
    if engine == "bubblewrap":
        limits = Limits(network=True, pids=4096)
        walls = Bubblewrap(limits, "build", python.folders, inside(den, VENV), building=True)
        host = host_settings()
        environment = dict(host.environment)
        for name, content in host.files.items():
            (den / FOLDER.lstrip("/")).mkdir(exist_ok=True)
            (den / FOLDER.lstrip("/") / name).write_bytes(content)
    environment |= {**walls.environment(den, 0), **_BUILD}
    steps = (
        f"{python.executable} -m venv {VENV}",
        "python -m pip install --quiet --upgrade -r /tmp/tools.txt",
        *plan.install,
    )
    for step in steps:
        argv = walls.argv(den, ["/bin/sh", "-ec", step], 0, WORKDIR)
        _run(argv, inside(den, WORKDIR), environment, f"{plan.name}: {step}")


def _mentions(den: Path) -> Iterator[str]:
    """Text files that name the folder in which they were made.

    What is compiled does, too, and need not be changed: Python looks where it lies now.
    """
    word = str(den).encode()
    for place in (WORKDIR, VENV):
        for path in inside(den, place).rglob("*"):
            if path.is_symlink() or not path.is_file() or path.suffix == ".pyc":
                continue
            content = path.read_bytes()
            if word in content and b"\0" not in content:
                yield str(path.relative_to(den))


def _run(
    argv: Sequence[str],
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
    doing: str = "",
) -> None:
    done = subprocess.run(
        argv,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode:
        what = doing or " ".join(argv)
        raise SandboxError(f"{what}: exit code {done.returncode}: {done.stdout.strip()[-800:]}")
