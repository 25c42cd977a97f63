"""Ready images: a repository in its place, installed, with nothing beside it that gives it away.

In a ready image the repository lies in `PRISTINE`, where only root can look; a sandbox copies it to
`WORKDIR` at start. What was installed from `WORKDIR` refers to it there.
"""

from __future__ import annotations

import hashlib
import re
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from aem_gym.envs.swe.images.bases import ensure_base, is_ready
from aem_gym.envs.swe.images.labels import NAME, PARENT, RECIPE, WAY, recipe
from aem_gym.envs.swe.images.layout import FINISH, SETTLE, TOOLS, USER
from aem_gym.envs.swe.images.locks import one_at_a_time
from aem_gym.envs.swe.images.pull import find_or_pull, inspect, labels
from aem_gym.envs.swe.images.workshop import Log, Workshop
from aem_gym.envs.swe.sandbox.base import AGENT, WORKDIR, ImagePlan, SandboxError

if TYPE_CHECKING:
    import docker

_DISTANCE = 12


def ensure(client: docker.DockerClient, plan: ImagePlan | str, *, log: Log | None = None) -> str:
    """The name of a ready image that is there now.

    Args:
        client: the engine.
        plan: how it is built where it is not there yet, or the name of an image: one of ours, or
            one that a ready image is derived from (pulled if it is not there).
        log: takes each line that builds print.

    Raises:
        SandboxError: it cannot be built or pulled: what failed, and the mend.
    """
    log = log or (lambda line: None)
    if isinstance(plan, str):
        return _derived(client, plan, log)
    if is_ready(client, plan.name):
        return plan.name
    with one_at_a_time(plan.name, log):
        if not is_ready(client, plan.name):
            _build(client, plan, log)
    return plan.name


def _build(client: docker.DockerClient, plan: ImagePlan, log: Log) -> None:
    base = ensure_base(client, plan.python, log=log)
    way = labels(inspect(client, base)).get(WAY, "")
    log(f"build {plan.name} on {base}")
    with Workshop(client, base, log) as shop, _archive(plan.folder) as archive:
        if plan.packages:
            names = " ".join(plan.packages)
            install = f"apt-get install -y -qq --no-install-recommends {names}"
            shop.run(f"apt-get update -qq && {install}", f"{plan.name}: {install}")
        shop.put(WORKDIR, archive)
        for command in plan.install:
            shop.run(command, f"{plan.name}: {command}", folder=WORKDIR)
        keep = "yes" if (plan.folder / "build").exists() else ""
        shop.run(FINISH + SETTLE, f"{plan.name}: tidy up", env={"KEEP_BUILD": keep})
        shop.commit(plan.name, "package", {WAY: way})


def _derived(client: docker.DockerClient, image: str, log: Log) -> str:
    """A ready image from one that is not ours; made anew when that has changed."""
    parent = find_or_pull(client, image, log)
    if labels(inspect(client, image)).get(NAME) == image:
        return image
    name = derived_name(image)
    if _fits(client, name, parent):
        return name
    with one_at_a_time(name, log):
        if not _fits(client, name, parent):
            log(f"derive {name} from {image}")
            with Workshop(client, image, log) as shop:
                shop.run(TOOLS, f"{image}: look for tools")
                shop.run(USER + SETTLE, f"{image}: lay out")
                shop.commit(name, "derived", {WAY: f"image: {image}"})
    return name


def derived_name(image: str) -> str:
    """The name of the ready image that is derived from an image."""
    slug = re.sub(r"[^a-z0-9]+", "-", image.lower()).strip("-")[-80:].strip("-")
    return f"aem-swe/derived:{slug}-{hashlib.sha256(image.encode()).hexdigest()[:_DISTANCE]}"


def _fits(client: docker.DockerClient, name: str, parent: str) -> bool:
    told = labels(inspect(client, name))
    return told.get(RECIPE) == recipe() and told.get(PARENT) == parent


def _archive(folder: Path) -> IO[bytes]:
    """The files of a folder, the agent's."""
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
