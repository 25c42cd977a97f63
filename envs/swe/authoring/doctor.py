"""Checks of `aem-gym doctor` for sandboxes: engines, disk, images, alternatives."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

from aem_gym.envs.swe.authoring.images import stored_images
from aem_gym.envs.swe.images.ensure import DEFAULT_PYTHON, base_name, is_ready
from aem_gym.envs.swe.sandbox.base import SandboxError
from aem_gym.envs.swe.sandbox.connect import (
    START_DOCKER,
    START_PODMAN,
    WITHOUT,
    EngineInfo,
    find,
    sockets,
)

if TYPE_CHECKING:
    import docker

Finding = tuple[bool, str, str]
"""(whether it is fine, what was checked, what was found or how to fix it)."""

_SECONDS = 5
_LITTLE_GB = 5.0
"""Free disk below which a few images more would fill it."""


def findings() -> Iterator[Finding]:
    """Every check in turn. None of them raises."""
    answering = None
    # DOCKER_HOST names one engine, of either kind.
    names = ("auto",) if os.environ.get("DOCKER_HOST") else ("docker", "podman")
    for name in names:
        try:
            found = find(name, _SECONDS)
        except SandboxError as error:
            yield False, "docker" if name == "auto" else name, _missing(name, str(error))
            continue
        yield True, found.name, f"engine {found.version} at {found.url}"
        answering = answering or found
    if answering:
        yield _disk(answering)
        yield _images(answering.client)
        answering.client.close()
    if shutil.which("bwrap"):
        yield True, "bubblewrap", f"installed, for trusted code only: {WITHOUT}"
    else:
        advice = "not installed (apt-get install bubblewrap); for trusted code only"
        yield False, "bubblewrap", advice


def _missing(name: str, error: str) -> str:
    if "permission" in error:
        return error
    if host := os.environ.get("DOCKER_HOST"):
        return f"no engine answers at DOCKER_HOST={host}. Start it, or unset DOCKER_HOST"
    program, start = ("podman", START_PODMAN) if name == "podman" else ("dockerd", START_DOCKER)
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if not shutil.which(program, path=path):
        package = "docker.io" if name == "docker" else "podman"
        return f"not installed (apt-get install {package}); one engine is enough"
    return f"no engine answers ({', '.join(sockets(name))}). Start it: {start}"


def _disk(engine: EngineInfo) -> Finding:
    try:
        free = shutil.disk_usage(engine.root).free / 1e9
    except OSError:
        return True, "engine's disk", f"{engine.root or 'unknown'} (not on this machine's files)"
    text = f"{free:.1f} GB free at {engine.root}"
    if free < _LITTLE_GB:
        prune = "python -m aem_gym.envs.swe.images prune, docker system prune"
        return False, "engine's disk", f"{text}: {prune}"
    return True, "engine's disk", text


def _images(client: docker.DockerClient) -> Finding:
    try:
        images = stored_images(client)
        ready = is_ready(client, base_name())
    except SandboxError as error:
        return False, "images", str(error)
    size = sum(image.own for image in images) / 1e9
    text = f"{len(images)} of aem_gym, {size:.1f} GB"
    if not ready:
        text += f"; no base with Python {DEFAULT_PYTHON} yet, it is built when first needed: "
        text += "python -m aem_gym.envs.swe.images base"
    return True, "images", text
