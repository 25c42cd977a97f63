"""Removing containers by their label."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from aem_gym.envs.swe.sandbox.base import LABEL
from aem_gym.envs.swe.sandbox.connect import explained
from aem_gym.envs.swe.sandbox.runs import is_left_over

if TYPE_CHECKING:
    import docker


def remove_run(client: docker.DockerClient, run: str) -> int:
    """Remove all containers of a run; how many. Raises SandboxError: the engine fails."""
    return _remove(client, f"{LABEL}={run}", lambda label: True)


def remove_left_over(client: docker.DockerClient) -> int:
    """Remove the containers of this machine's dead processes; how many."""
    return _remove(client, LABEL, is_left_over)


def remove(client: docker.DockerClient, container: str) -> None:
    """Remove a container with its volumes. That it is gone already is no error."""
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


def _remove(client: docker.DockerClient, label: str, chosen: Callable[[str], bool]) -> int:
    count = 0
    with explained("list sandboxes"):
        found = client.api.containers(all=True, filters={"label": label})
    for container in found:
        if chosen(container["Labels"].get(LABEL, "")):
            remove(client, container["Id"])
            count += 1
    return count
