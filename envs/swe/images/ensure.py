"""The images that sandboxes start from: found, or built or pulled when they are first needed.

A ready image keeps its repository in `PRISTINE`, where only root can look; a sandbox copies it to
`WORKDIR` at start. What was installed from `WORKDIR` refers to it there. It is built on a base: a
Python of some version, pip, pytest, git, and the user `agent`. Three ways lead to a base:
`python:VERSION-slim` of a registry; without one, the release of Debian that has the version; a
Python of this machine on any Debian.
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from aem_gym.envs.swe.images.builder import (
    IMAGE,
    NAME,
    PARENT,
    RECIPE,
    WAY,
    ImageBuilder,
    image_id,
    image_labels,
    recipe,
)
from aem_gym.envs.swe.images.host import (
    FOLDER,
    PYTHON_FOLDER,
    SUITES,
    Log,
    debian_archive,
    find_interpreter,
    lock_file,
    pack,
    setup_files,
)
from aem_gym.envs.swe.sandbox.base import AGENT, WORKDIR, ImagePlan, ImageSource, SandboxError
from aem_gym.envs.swe.sandbox.connect import DISK_FULL, explained
from aem_gym.io import exclusive

if TYPE_CHECKING:
    import docker

DEFAULT_PYTHON = "3.11"
"""Where any will do."""
_NEWEST_DEBIAN = "bookworm"
_DIGITS = 12
_UNREACHABLE = ("no such host", "dial tcp", "timeout", "timed out", "connection", "lookup", "eof")
_UNKNOWN = ("not found", "manifest unknown", "pull access denied", "no such image", "denied")


def ensure_image(
    client: docker.DockerClient, plan: ImagePlan | ImageSource | str, *, log: Log | None = None
) -> str:
    """The name of a ready image that exists now: built, or derived from an image that is named.

    Raises:
        SandboxError: it cannot be built or pulled: what failed, and what to do.
    """
    log = log or (lambda line: None)
    if not isinstance(plan, ImagePlan):
        source = ImageSource(plan) if isinstance(plan, str) else plan
        return _ensure_derived(client, source, log)
    if not is_ready(client, plan.name):
        with exclusive(lock_file(plan.name)):
            if not is_ready(client, plan.name):
                _build(client, plan, log)
    return plan.name


def _build(client: docker.DockerClient, plan: ImagePlan, log: Log) -> None:
    base = ensure_base(client, plan.python, log=log)
    way = image_labels(client, base).get(WAY, "")
    log(f"build {plan.name} on {base}")
    with ImageBuilder(client, base, log) as builder, _archive(plan.folder) as archive:
        if plan.packages:
            names = " ".join(plan.packages)
            install = f"apt-get install -y -qq --no-install-recommends {names}"
            builder.run(f"apt-get update -qq && {install}", f"{plan.name}: {install}")
        builder.put(WORKDIR, archive)
        for command in plan.install:
            builder.run(command, f"{plan.name}: {command}", folder=WORKDIR)
        keep = (plan.folder / "build").exists()
        builder.lay_out("tidy_repository; settle", f"{plan.name}: tidy up", keep_build=keep)
        builder.commit(plan.name, "package", {WAY: way})


def _ensure_derived(client: docker.DockerClient, source: ImageSource, log: Log) -> str:
    """A ready image from one of others; made again when that has changed."""
    image = source.name
    parent = find_or_pull(client, image, log)
    if image_labels(client, image).get(NAME) == image:
        return image
    name = derived_name(source)

    def is_current() -> bool:
        labels = image_labels(client, name)
        return labels.get(RECIPE) == recipe() and labels.get(PARENT) == parent

    if not is_current():
        with exclusive(lock_file(name)):
            if not is_current():
                log(f"derive {name} from {image}")
                with ImageBuilder(client, image, log) as builder:
                    _derive(builder, source)
                    builder.commit(name, "derived", {WAY: f"image: {image}"})
    return name


def _derive(builder: ImageBuilder, source: ImageSource) -> None:
    builder.lay_out("find_tools", f"{source.name}: look for tools")
    if source.removed:
        paths = " ".join(map(shlex.quote, source.removed))
        builder.run(f"rm -rf -- {paths}", f"{source.name}: remove hidden tests")
    if source.folder != WORKDIR:
        command = f"adopt {shlex.quote(source.folder)}"
        builder.lay_out(command, f"{source.name}: take the repository from {source.folder}")
    builder.lay_out("add_agent; settle", f"{source.name}: lay out")


def derived_name(source: ImageSource | str) -> str:
    """The name of the ready image that is derived from an image."""
    source = ImageSource(source) if isinstance(source, str) else source
    image = source.name
    slug = re.sub(r"[^a-z0-9]+", "-", image.lower()).strip("-")[-80:].strip("-")
    about = image if source == ImageSource(image) else repr(source)
    return f"aem-swe/derived:{slug}-{hashlib.sha256(about.encode()).hexdigest()[:_DIGITS]}"


def is_ready(client: docker.DockerClient, name: str) -> bool:
    """Whether an image of aem_gym exists, made as it would be made now."""
    labels = image_labels(client, name)
    return labels.get(RECIPE) == recipe() and labels.get(NAME) == name


def _archive(folder: Path) -> IO[bytes]:
    """The files of a folder, owned by the agent."""
    if not folder.is_dir():
        raise SandboxError(f"expected the folder {folder}, got none: it is an image's content")
    stream: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - the caller's
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(folder, ".", filter=_agents)
    stream.seek(0)
    return stream


def _agents(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = AGENT
    entry.uname = entry.gname = "agent"
    return entry


@dataclass(frozen=True, slots=True)
class BaseImage:
    image: str
    way: str
    """Where its Python comes from, in words."""
    archive: Callable[[], IO[bytes]] | None = None
    """A Python that is brought along, for `PYTHON_FOLDER`."""
    python: str = ""
    """Its program."""


def base_name(python: str = "") -> str:
    """The name of the base with a version of Python (`3.9`); empty: any."""
    return f"aem-swe/base:{python or DEFAULT_PYTHON}"


def ensure_base(
    client: docker.DockerClient,
    python: str = "",
    *,
    way: str = "auto",
    rebuild: bool = False,
    log: Log | None = None,
) -> str:
    """Make sure that the base image for a Python version exists; returns its name.

    `python` is a version (`3.9`), or empty: any. `way` is one of `WAYS`, an image to build on, or
    `auto`: the first way that works.

    Raises:
        SandboxError: no way leads to it; the message says why, and what to do.
    """
    python, log = python or DEFAULT_PYTHON, log or (lambda line: None)
    if not re.fullmatch(r"\d+\.\d+", python):
        raise SandboxError(f"expected a version of Python as 3.9, got {python!r}")
    name = base_name(python)
    if rebuild or not is_ready(client, name):
        with exclusive(lock_file(name)):
            if rebuild or not is_ready(client, name):
                _build_base(client, name, _base_image(client, python, way, log), log)
    return name


def _build_base(client: docker.DockerClient, name: str, base: BaseImage, log: Log) -> None:
    log(f"build {name} on {base.image}")
    with ImageBuilder(client, base.image, log) as builder:
        if base.archive:
            with base.archive() as archive:
                builder.put(PYTHON_FOLDER, archive)
        builder.put_files(FOLDER, setup_files())
        environment = {"AEM_PYTHON": base.python} if base.python else {}
        builder.run(f"sh {FOLDER}/setup.sh", f"{name}: setup.sh", env=environment)
        builder.lay_out("settle", f"{name}: lay out")
        changes = [f"WORKDIR {WORKDIR}", "ENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"]
        builder.commit(name, "base", {WAY: base.way}, changes)


def _base_image(client: docker.DockerClient, python: str, way: str, log: Log) -> BaseImage:
    if way not in ("auto", *WAYS):
        find_or_pull(client, way, log)
        return BaseImage(way, f"image {way}")
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
        + "\nFix one of these, or name an image to build on: python -m aem_gym.envs.swe.images "
        f"base --python {python} --from IMAGE"
    )


def _from_registry(client: docker.DockerClient, python: str, log: Log) -> BaseImage:
    image = f"python:{python}-slim"
    find_or_pull(client, image, log)
    return BaseImage(image, f"registry: {image}")


def _from_debian(client: docker.DockerClient, python: str, log: Log) -> BaseImage:
    if python not in SUITES:
        raise SandboxError(f"no release of Debian has Python {python} ({', '.join(SUITES)})")
    suite = SUITES[python]
    return BaseImage(_ensure_debian(client, suite, log), f"debian: {suite}")


def _from_interpreter(client: docker.DockerClient, python: str, log: Log) -> BaseImage:
    found = find_interpreter(python)
    try:
        image = _ensure_debian(client, _NEWEST_DEBIAN, log)
    except SandboxError:
        image = f"debian:{_NEWEST_DEBIAN}-slim"
        find_or_pull(client, image, log)
    way = f"interpreter: {found.prefix} on {image}"
    return BaseImage(image, way, lambda: pack(found), f"{PYTHON_FOLDER}/bin/python{python}")


WAYS: dict[str, Callable[[docker.DockerClient, str, Log], BaseImage]] = {
    "registry": _from_registry,
    "debian": _from_debian,
    "interpreter": _from_interpreter,
}
"""In the order in which they are tried."""


def _ensure_debian(client: docker.DockerClient, suite: str, log: Log) -> str:
    name = f"aem-swe/debian:{suite}"
    if image_labels(client, name).get(NAME) == name:
        return name
    with debian_archive(suite, log) as (archive, mirror), explained(f"import {name}"):
        labels = {IMAGE: "root", NAME: name, WAY: f"debootstrap {suite} {mirror}"}
        answer = client.api.import_image(
            str(archive),
            repository="aem-swe/debian",
            tag=suite,
            changes=[f'LABEL {key}="{value}"' for key, value in labels.items()],
        )
        # podman calls it `latest`, whatever it is to be called.
        client.api.tag(json.loads(answer.splitlines()[-1])["status"], "aem-swe/debian", suite)
    return name


def find_or_pull(client: docker.DockerClient, name: str, log: Log) -> str:
    """The id of the image of that name; pulled if it is not there. Raises SandboxError."""
    from docker.errors import DockerException
    from docker.utils import parse_repository_tag
    from requests.exceptions import RequestException

    if found := image_id(client, name):
        return found
    log(f"pull {name}")
    repository, tag = parse_repository_tag(name)
    try:
        for event in client.api.pull(repository, tag=tag or "latest", stream=True, decode=True):
            if "error" in event:
                raise SandboxError(_why_not_pulled(name, str(event["error"])))
    except (DockerException, RequestException, OSError) as error:
        raise SandboxError(_why_not_pulled(name, str(error))) from error
    return image_id(client, name)


def _why_not_pulled(name: str, answer: str) -> str:
    low, short = answer.lower(), " ".join(answer.split())[:300]
    if "no space left" in low:
        advice = DISK_FULL
    elif any(sign in low for sign in _UNKNOWN) and "no such host" not in low:
        advice = "The registry does not know it. Is the name right, or a login needed? docker login"
    elif any(sign in low for sign in _UNREACHABLE):
        advice = (
            "The registry cannot be reached. Bring the image from where it can: docker save "
            f"{name} | gzip > image.tgz there, docker load < image.tgz here"
        )
    else:
        advice = f"Try: docker pull {name}"
    return f"{name} is not there and cannot be pulled: {short}. {advice}"
