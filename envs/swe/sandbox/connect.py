"""Finding an engine, and saying what is wrong with it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aem_gym.envs.swe.sandbox.base import SandboxError

if TYPE_CHECKING:
    import docker

START_DOCKER = "sudo systemctl start docker (or, without systemd: sudo dockerd &)"
START_PODMAN = "systemctl --user start podman.socket (or: podman system service -t 0 &)"


@dataclass(frozen=True, slots=True)
class Found:
    """An engine that answers."""

    name: str
    """`docker` or `podman`."""
    version: str
    url: str
    root: str
    """Where it keeps images and containers, on its machine."""
    client: docker.DockerClient


def sockets(name: str = "auto") -> list[str]:
    """The addresses at which an engine would answer, the likeliest first."""
    if told := os.environ.get("DOCKER_HOST"):
        return [told]
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"))
    own = Path.home() / ".docker" / "run" / "docker.sock"
    docker = [Path("/var/run/docker.sock"), runtime / "docker.sock", own]
    podman = [runtime / "podman" / "podman.sock", Path("/run/podman/podman.sock")]
    chosen = {"docker": docker, "podman": podman}.get(name, docker + podman)
    return [f"unix://{path}" for path in chosen]


def find(name: str = "auto", timeout: int = 60) -> Found:
    """The first engine that answers.

    Args:
        name: `docker`, `podman`, or `auto`: whichever there is.
        timeout: seconds for each of its answers, from then on.

    Raises:
        SandboxError: none does; says what was tried and how to start one.
    """
    tried = []
    for url in sockets(name):
        try:
            found = _open(url, timeout)
        except SandboxError as error:
            tried.append(f"{url}: {error}")
            continue
        if name in ("auto", found.name):
            return found
        found.client.close()
        tried.append(f"{url}: it is {found.name}, not {name}")
    refused = next((told for told in tried if "permission" in told), "")
    if refused:
        raise SandboxError(
            f"no permission to use the engine at {refused.partition(': ')[0]}: "
            "sudo usermod -aG docker $USER, then log in again; or run podman as yourself: "
            f"{START_PODMAN}"
        )
    mend = START_PODMAN if name == "podman" else f"{START_DOCKER}; podman: {START_PODMAN}"
    raise SandboxError(
        f"no container engine answers ({'; '.join(tried)}). Start one: {mend}. One that is "
        "elsewhere: set DOCKER_HOST. aem-gym doctor tells what is there"
    )


def _open(url: str, timeout: int) -> Found:
    import docker

    path = url.removeprefix("unix://")
    if path != url and not Path(path).exists():
        raise SandboxError("not there")
    with explained("connect"):
        environment = {**os.environ, "DOCKER_HOST": url}
        client = docker.from_env(environment=environment, timeout=timeout, max_pool_size=64)
        version = client.version()
        names = " ".join(part.get("Name", "") for part in version.get("Components") or [])
        root = str(client.info().get("DockerRootDir", ""))
    name = "podman" if "podman" in names.lower() else "docker"
    return Found(name, str(version.get("Version", "unknown")), url, root, client)


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Let every error of the engine through as a SandboxError that says how to mend it."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except (DockerException, RequestException, OSError) as error:
        if isinstance(error, SandboxError):
            raise
        raise SandboxError(_explain(doing, error)) from error


def _explain(doing: str, error: BaseException) -> str:
    told = _root(error)
    low = f"{told} {error}".lower()
    for signs, mend in _MENDS:
        if any(sign in low for sign in signs):
            return f"{doing}: {told}. {mend}"
    return f"{doing}: {told}"


_MENDS = (
    (
        ("no space left", "disk quota"),
        "The engine's disk is full: docker system df shows by what; "
        "python -m aem_gym.envs.swe.images prune removes the images of aem_gym",
    ),
    (
        ("container-init binary",),
        "podman needs a first process for containers: sudo apt-get install catatonit",
    ),
    (
        ("permission denied",),
        "Your user has no permission to use the engine: sudo usermod -aG docker $USER, then log "
        "in again",
    ),
    (
        ("no such image", "manifest unknown", "not found: does not exist", "image not known"),
        "The image is not there: name another, or build ours: python -m aem_gym.envs.swe.images "
        "base",
    ),
    (
        ("no such container", "is not running", "no container with"),
        "The container is gone: it was removed from outside, or the engine was restarted",
    ),
    (
        ("connection refused", "connection aborted", "no such file", "timed out", "broken pipe"),
        f"The engine does not answer. Start it: {START_DOCKER}",
    ),
)


def _root(error: BaseException) -> str:
    """The first cause, in one line: what the libraries above it wrap is repeated by all."""
    told = str(getattr(error, "explanation", "") or "")
    while not told and (below := error.__cause__ or error.__context__) is not None:
        error = below
    return (told or str(error)).strip().replace("\n", " ")[:300]
