"""Debian's root file system without a registry: debootstrap from its archive, then imported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from aem_gym.envs.swe.images.labels import IMAGE, NAME, WAY
from aem_gym.envs.swe.images.pull import image_id, inspect, labels
from aem_gym.envs.swe.sandbox.base import SandboxError
from aem_gym.envs.swe.sandbox.connect import explained

if TYPE_CHECKING:
    import docker
    from aem_gym.envs.swe.images.workshop import Log

SUITES = {"3.9": "bullseye", "3.11": "bookworm", "3.13": "trixie"}
"""Python -> the release of Debian that has it."""
_MIRRORS = ("http://deb.debian.org/debian", "http://archive.debian.org/debian")
"""Old releases move from the first to the second."""
_MIRROR = "AEM_DEBIAN_MIRROR"
_KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_SECONDS = 1800
_NOT_NEEDED = (
    *("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/man"),
    *("usr/share/locale", "usr/share/info"),
)
"""Emptied: a third of it all."""


def root_file_system(client: docker.DockerClient, suite: str, log: Log) -> str:
    """The name of an image of a minimal Debian; made once.

    Raises:
        SandboxError: it cannot be made here; says what is missing.
    """
    name = f"aem-swe/debian:{suite}"
    if labels(inspect(client, name)).get(NAME) == name:
        return name
    _check_tools(suite)
    with tempfile.TemporaryDirectory(prefix="aem-debian-") as temporary:
        # debootstrap refuses what is mounted `nodev` or `noexec`, which says so in its words.
        root = Path(temporary) / "root"
        mirror = _bootstrap(suite, root, log)
        for folder in _NOT_NEEDED:
            _empty(root / folder)
        archive = Path(temporary) / "root.tar"
        _run(["tar", "--numeric-owner", "-C", str(root), "-cf", str(archive), "."])
        shutil.rmtree(root)
        with explained(f"import {name}"):
            told = client.api.import_image(
                str(archive),
                repository="aem-swe/debian",
                tag=suite,
                changes=[
                    f"LABEL {IMAGE}=root",
                    f"LABEL {NAME}={name}",
                    f'LABEL {WAY}="debootstrap {suite} {mirror}"',
                ],
            )
            # podman calls it `latest`, whatever it is to be called.
            client.api.tag(json.loads(told.splitlines()[-1])["status"], "aem-swe/debian", suite)
    if not image_id(client, name):
        raise SandboxError(f"{name} was imported, and is not there. Is the engine's disk full?")
    return name


def _check_tools(suite: str) -> None:
    if os.geteuid() != 0:
        raise SandboxError(f"debootstrap {suite} needs root: run it with sudo")
    if not shutil.which("debootstrap"):
        raise SandboxError("debootstrap is not installed: apt-get install debootstrap")
    if not _KEYS.is_file():
        raise SandboxError(
            f"the keys of Debian are not in {_KEYS}: apt-get install debian-archive-keyring"
        )


def _bootstrap(suite: str, root: Path, log: Log) -> str:
    """Fill a folder with a minimal Debian; from which mirror."""
    own = os.environ.get(_MIRROR)
    failures = []
    for mirror in (own,) if own else _MIRRORS:
        log(f"debootstrap {suite} from {mirror}")
        options = ["--variant=minbase", f"--keyring={_KEYS}"]
        try:
            _run(["debootstrap", *options, suite, str(root), mirror])
        except SandboxError as error:
            failures.append(str(error))
            shutil.rmtree(root, ignore_errors=True)
        else:
            return mirror
    raise SandboxError(f"{'; '.join(failures)}. Another mirror: {_MIRROR}=URL")


def _run(command: list[str]) -> None:
    environment = {**os.environ, "LC_ALL": "C", "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    try:
        subprocess.run(command, env=environment, check=True, capture_output=True, timeout=_SECONDS)
    except subprocess.CalledProcessError as error:
        told = (error.stderr + error.stdout).decode(errors="replace").strip().splitlines()
        last = " / ".join([line for line in told if line.startswith("E:")] or told[-3:])
        raise SandboxError(f"{' '.join(command)}: {last}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SandboxError(f"{command[0]}: {error}") from error


def _empty(folder: Path) -> None:
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
