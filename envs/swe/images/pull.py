"""Images from a registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aem_gym.envs.swe.sandbox.base import SandboxError
from aem_gym.envs.swe.sandbox.connect import explained

if TYPE_CHECKING:
    import docker
    from aem_gym.envs.swe.images.workshop import Log

_UNREACHABLE = ("no such host", "dial tcp", "timeout", "timed out", "connection", "lookup", "eof")
_UNKNOWN = ("not found", "manifest unknown", "pull access denied", "no such image", "denied")


def find_or_pull(client: docker.DockerClient, name: str, log: Log | None = None) -> str:
    """The id of the image of that name; pulled if it is not there.

    Raises:
        SandboxError: the registry cannot be reached or does not know it, or the disk is full.
    """
    found = image_id(client, name)
    if found:
        return found
    if log:
        log(f"pull {name}")
    _pull(client, name)
    found = image_id(client, name)
    if not found:
        raise SandboxError(f"{name} was pulled, and is not there. Try: docker pull {name}")
    return found


def image_id(client: docker.DockerClient, name: str) -> str:
    """The id of an image that is there; empty: it is not."""
    return str((inspect(client, name) or {}).get("Id", ""))


def inspect(client: docker.DockerClient, name: str) -> dict[str, object] | None:
    """What the engine knows of an image; None: it is not there."""
    from docker.errors import ImageNotFound

    with explained(f"look at the image {name}"):
        try:
            return dict(client.images.get(name).attrs)
        except ImageNotFound:
            return None


def labels(found: dict[str, object] | None) -> dict[str, str]:
    """The labels of an image, as `inspect` tells them."""
    config = (found or {}).get("Config")
    told = config.get("Labels") if isinstance(config, dict) else None
    return dict(told or {})


def _pull(client: docker.DockerClient, name: str) -> None:
    from docker.errors import DockerException
    from requests.exceptions import RequestException

    repository, tag = _split(name)
    try:
        for event in client.api.pull(repository, tag=tag, stream=True, decode=True):
            if "error" in event:
                raise SandboxError(_explain(name, str(event["error"])))
    except (DockerException, RequestException, OSError) as error:
        if isinstance(error, SandboxError):
            raise
        raise SandboxError(_explain(name, str(error))) from error


def _split(name: str) -> tuple[str, str | None]:
    """Repository and tag; of `NAME@sha256:...` all is the repository."""
    if "@" in name:
        return name, None
    repository, _, tag = name.rpartition(":")
    return (repository, tag) if repository and "/" not in tag else (name, "latest")


def _explain(name: str, told: str) -> str:
    low, short = told.lower(), " ".join(told.split())[:300]
    if "no space left" in low:
        mend = "The engine's disk is full: python -m aem_gym.envs.swe.images prune"
    elif any(sign in low for sign in _UNKNOWN) and "no such host" not in low:
        mend = f"The registry does not know it. Is the name right, or a login needed? {_LOGIN}"
    elif any(sign in low for sign in _UNREACHABLE):
        mend = (
            "The registry cannot be reached. Bring the image from where it can: docker save "
            f"{name} | gzip > image.tgz there, docker load < image.tgz here"
        )
    else:
        mend = f"Try: docker pull {name}"
    return f"{name} is not there and cannot be pulled: {short}. {mend}"


_LOGIN = "docker login"
