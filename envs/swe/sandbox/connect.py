"""A container engine: finding it, explaining its errors, what all its containers share."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.envs.swe.sandbox.base import LABEL, SandboxError

if TYPE_CHECKING:
    import docker

START_DOCKER = "sudo systemctl start docker (or, without systemd: sudo dockerd &)"
START_PODMAN = "systemctl --user start podman.socket (or: podman system service -t 0 &)"
WITHOUT = "--env-arg engine=bubblewrap (of aem-gym swe: --engine bubblewrap)"
"""How an engine without containers is chosen."""
DISK_FULL = (
    "The engine's disk is full: docker system df shows by what; "
    "python -m aem_gym.envs.swe.images prune removes the images of aem_gym"
)
_ADVICE = (
    (("no space left", "disk quota"), DISK_FULL),
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
        "The image does not exist: name another, or build the base with python -m "
        "aem_gym.envs.swe.images base",
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


_PODMAN_PROCESSES = 32_768
"""What its service may have itself."""


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """A container engine that answers."""

    name: str
    """`docker` or `podman`."""
    version: str
    url: str
    root: str
    """Where it keeps images and containers, on its machine."""
    client: docker.DockerClient


def sockets(name: str = "auto") -> list[str]:
    """The addresses where an engine may answer, the likeliest first."""
    if chosen := os.environ.get("DOCKER_HOST"):
        return [chosen]
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}"))
    desktop = Path.home() / ".docker" / "run" / "docker.sock"
    docker = [Path("/var/run/docker.sock"), runtime / "docker.sock", desktop]
    podman = [runtime / "podman" / "podman.sock", Path("/run/podman/podman.sock")]
    paths = {"docker": docker, "podman": podman}.get(name, docker + podman)
    return [f"unix://{path}" for path in paths]


def find(name: str = "auto", timeout: int = 60) -> EngineInfo:
    """The first engine that answers: `docker`, `podman`, or either (`auto`).

    `timeout` is in seconds, for each of its answers from then on.

    Raises:
        SandboxError: none answers; the message says how to start one.
    """
    failures = {}
    for url in sockets(name):
        try:
            found = _open(url, timeout)
        except FileNotFoundError:
            continue
        except SandboxError as error:
            failures[url] = str(error)
            continue
        if name in ("auto", found.name):
            return found
        found.client.close()
        failures[url] = f"it is {found.name}, not {name}"
    refused = next((url for url, error in failures.items() if "permission" in error), "")
    if refused:
        raise SandboxError(
            f"no permission to use the engine at {refused}: sudo usermod -aG docker $USER, then "
            f"log in again; or run podman as yourself: {START_PODMAN}"
        )
    tried = "".join(f" at {url} ({error})" for url, error in failures.items())
    if not tried and "DOCKER_HOST" in os.environ:
        tried = f" at DOCKER_HOST={os.environ['DOCKER_HOST']} (no such socket)"
    start = START_PODMAN if name == "podman" else START_DOCKER
    raise SandboxError(
        f"no container engine answers{tried}. Start one: {start}. `aem-gym doctor` lists other "
        f"ways; trusted code runs without one: {WITHOUT}"
    )


def _open(url: str, timeout: int) -> EngineInfo:
    import docker

    path = url.removeprefix("unix://")
    if path != url and not Path(path).exists():
        raise FileNotFoundError(path)
    with explained("connect"):
        environment = {**os.environ, "DOCKER_HOST": url}
        client = docker.from_env(environment=environment, timeout=timeout, max_pool_size=64)
        version = client.version()
        names = " ".join(part.get("Name", "") for part in version.get("Components") or [])
        root = str(client.info().get("DockerRootDir", ""))
    name = "podman" if "podman" in names.lower() else "docker"
    return EngineInfo(name, str(version.get("Version", "unknown")), url, root, client)


@contextlib.contextmanager
def explained(doing: str) -> Iterator[None]:
    """Raise every error of the engine in the block as a SandboxError that says what to do."""
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    try:
        yield
    except SandboxError:
        raise
    except (DockerException, RequestException, OSError) as error:
        cause = _root_cause(error)
        low = f"{cause} {error}".lower()
        advice = (text for signs, text in _ADVICE if any(sign in low for sign in signs))
        raise SandboxError(". ".join([f"{doing}: {cause}", *advice][:2])) from error


def _root_cause(error: BaseException) -> str:
    """The message of the first cause: the libraries in between repeat it in their own."""
    text = str(getattr(error, "explanation", "") or "")
    while not text and (below := error.__cause__ or error.__context__) is not None:
        error = below
    return (text or str(error)).strip().replace("\n", " ")[:300]


def remove_containers(
    client: docker.DockerClient, label: str, chosen: Callable[[str], bool] = lambda run: True
) -> int:
    """Remove the containers with a label (`NAME` or `NAME=VALUE`) of chosen runs; how many."""
    with explained("list sandboxes"):
        found = client.api.containers(all=True, filters={"label": label})
    wanted = [one["Id"] for one in found if chosen(one["Labels"].get(LABEL, ""))]
    for container in wanted:
        remove_container(client, container)
    return len(wanted)


def remove_container(client: docker.DockerClient, container: str) -> None:
    """Remove a container with its volumes; it may be gone already. Raises SandboxError."""
    from docker.errors import APIError, NotFound

    with explained("remove a sandbox"):
        try:
            client.api.remove_container(container, v=True, force=True)
        except NotFound:
            return
        except APIError as error:
            if error.status_code != 409:  # it is being removed: by itself, or by somebody else
                raise
            with contextlib.suppress(NotFound):
                client.api.wait(container, timeout=30, condition="removed")


def ulimits(engine: str) -> list[dict[str, Any]]:
    """Limits of each process, as the SDK takes them."""
    # That of processes counts a user's in all containers; `pids_limit` is what holds. But podman's
    # own choice may be more than it is allowed to give.
    limits = {"core": 0, "nofile": 4096}
    if engine == "podman":
        most = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        limits["nproc"] = _PODMAN_PROCESSES if most < 0 else min(most, _PODMAN_PROCESSES)
    return [{"Name": name, "Soft": most, "Hard": most} for name, most in limits.items()]
