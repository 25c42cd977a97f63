"""Bases: an image with a Python of some version, pip, pytest, git, and the user `agent`.

Three ways lead to one: `python:VERSION-slim` of a registry; without a registry, the release of
Debian that has the version; a Python of this machine on top of any Debian.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from aem_gym.envs.swe.images.debian import SUITES, root_file_system
from aem_gym.envs.swe.images.host import FOLDER
from aem_gym.envs.swe.images.interpreters import PLACE, find_interpreter, pack
from aem_gym.envs.swe.images.labels import NAME, RECIPE, WAY, recipe, setup_files
from aem_gym.envs.swe.images.layout import SETTLE
from aem_gym.envs.swe.images.locks import one_at_a_time
from aem_gym.envs.swe.images.pull import find_or_pull, inspect, labels
from aem_gym.envs.swe.images.workshop import Log, Workshop
from aem_gym.envs.swe.sandbox.base import WORKDIR, SandboxError

if TYPE_CHECKING:
    import docker

DEFAULT_PYTHON = "3.11"
"""For whom any will do."""
_NEWEST_DEBIAN = "bookworm"


@dataclass(frozen=True, slots=True)
class Ground:
    """What a base is built on."""

    image: str
    way: str
    """Where its Python comes from, in words."""
    archive: Callable[[], IO[bytes]] | None = None
    """A Python that is brought along, for `PLACE`."""
    python: str = ""
    """Its program."""


Way = Callable[["docker.DockerClient", str, Log], Ground]


def base_name(python: str = "") -> str:
    """The name of the base with a version of Python (`3.9`); empty: any."""
    return f"aem-swe/base:{python or DEFAULT_PYTHON}"


def ensure_base(
    client: docker.DockerClient,
    python: str = "",
    *,
    way: str = "auto",
    anew: bool = False,
    log: Log | None = None,
) -> str:
    """The name of the base with a version of Python, which is there now.

    Args:
        client: the engine.
        python: as `3.9`; empty: any.
        way: one of `WAYS`, an image to build on, or `auto`: the first way that works.
        anew: even if it is there.
        log: takes each line that the build prints.

    Raises:
        SandboxError: no way leads to it; says why each did not, and what to do.
    """
    python, log = python or DEFAULT_PYTHON, log or (lambda line: None)
    if not re.fullmatch(r"\d+\.\d+", python):
        raise SandboxError(f"expected a version of Python as 3.9, got {python!r}")
    name = base_name(python)
    if not anew and is_ready(client, name):
        return name
    with one_at_a_time(name, log):
        if anew or not is_ready(client, name):
            _build(client, name, _ground(client, python, way, log), log)
    return name


def is_ready(client: docker.DockerClient, name: str) -> bool:
    """Whether an image of ours is there, made as it would be made now."""
    told = labels(inspect(client, name))
    return told.get(RECIPE) == recipe() and told.get(NAME) == name


def _ground(client: docker.DockerClient, python: str, way: str, log: Log) -> Ground:
    if way not in ("auto", *WAYS):
        find_or_pull(client, way, log)
        return Ground(way, f"image {way}")
    failures = []
    for name, lead in WAYS.items():
        if way in ("auto", name):
            try:
                return lead(client, python, log)
            except SandboxError as error:
                log(f"no {name}: {error}")
                failures.append(f"  {name}: {error}")
    raise SandboxError(
        "\n".join([f"no way leads to a base image with Python {python}:", *failures])
        + "\nMend one of these, or name an image to build on: python -m aem_gym.envs.swe.images "
        f"base --python {python} --from IMAGE"
    )


def _registry(client: docker.DockerClient, python: str, log: Log) -> Ground:
    image = f"python:{python}-slim"
    find_or_pull(client, image, log)
    return Ground(image, f"registry: {image}")


def _debian(client: docker.DockerClient, python: str, log: Log) -> Ground:
    if python not in SUITES:
        raise SandboxError(f"no release of Debian has Python {python} ({', '.join(SUITES)})")
    suite = SUITES[python]
    return Ground(root_file_system(client, suite, log), f"debian: {suite}")


def _interpreter(client: docker.DockerClient, python: str, log: Log) -> Ground:
    found = find_interpreter(python)
    try:
        image = root_file_system(client, _NEWEST_DEBIAN, log)
    except SandboxError:
        image = f"debian:{_NEWEST_DEBIAN}-slim"
        find_or_pull(client, image, log)
    way = f"interpreter: {found.prefix} on {image}"
    return Ground(image, way, lambda: pack(found), found.there)


WAYS: dict[str, Way] = {"registry": _registry, "debian": _debian, "interpreter": _interpreter}
"""In the order in which they are tried."""


def _build(client: docker.DockerClient, name: str, ground: Ground, log: Log) -> None:
    log(f"build {name} on {ground.image}")
    with Workshop(client, ground.image, log) as shop:
        if ground.archive:
            with ground.archive() as archive:
                shop.put(PLACE, archive)
        shop.put_files(FOLDER, setup_files())
        environment = {"AEM_PYTHON": ground.python} if ground.python else {}
        shop.run(f"sh {FOLDER}/setup.sh", f"{name}: setup.sh", env=environment)
        shop.run(SETTLE, f"{name}: lay out")
        told = [f"WORKDIR {WORKDIR}", "ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]
        shop.commit(name, "base", {WAY: ground.way}, told)
