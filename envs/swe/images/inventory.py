"""The images of ours that an engine holds: what they are, what they take, and away with them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from aem_gym.envs.swe.images.labels import IMAGE, NAME, PARENT, RECIPE, WAY, recipe
from aem_gym.envs.swe.images.workshop import forget
from aem_gym.envs.swe.sandbox.connect import explained

if TYPE_CHECKING:
    import docker

_ORDER = ("derived", "package", "base", "root")
"""Those come first that others are not made from."""


@dataclass(frozen=True, slots=True)
class Held:
    """An image of ours."""

    id: str
    name: str
    """The one it was made under; empty: a newer one has taken it."""
    kind: str
    way: str
    """Where its Python came from."""
    current: bool
    """Whether it would be made the same way now."""
    size: int
    """Bytes, with what it shares with the image it was made from."""
    own: int
    """Bytes without that."""


def held(client: docker.DockerClient) -> list[Held]:
    """The images of ours, bases first.

    Raises:
        SandboxError: the engine fails.
    """
    with explained("list images"):
        found = client.api.images(filters={"label": NAME})
        sizes = {image["Id"]: image["Size"] for image in client.api.images(all=True)}
    images = []
    for image in found:
        told = image["Labels"] or {}
        names = [name for name in image["RepoTags"] or () if name != "<none>:<none>"]
        if names and told[NAME] not in names:
            continue  # somebody's own, built on one of ours
        size, kind = int(image["Size"]), told.get(IMAGE, "")
        images.append(
            Held(
                id=image["Id"],
                name=told[NAME] if names else "",
                kind=kind,
                way=told.get(WAY, ""),
                current=kind == "root" or told.get(RECIPE) == recipe(),
                size=size,
                own=size - sizes.get(told.get(PARENT), 0),
            )
        )
    return sorted(images, key=lambda image: (-_rank(image), image.name, image.id))


def remove_all(client: docker.DockerClient, *, keep_bases: bool) -> tuple[list[Held], list[Held]]:
    """Remove the images of ours; which are gone, and which are in use and stay.

    Raises:
        SandboxError: the engine fails.
    """
    gone: list[Held] = []
    stay: list[Held] = []
    for image in reversed(held(client)):
        if keep_bases and image.kind in ("base", "root") and image.name and image.current:
            continue
        # By name: what somebody has given a name of his own stays under that.
        removed = forget(client, image.name or image.id)
        (gone if removed else stay).append(image)
    return gone, stay


def _rank(image: Held) -> int:
    return _ORDER.index(image.kind) if image.kind in _ORDER else 0
