"""`aem-gym swe images`: build base images, list images, remove them."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from aem_gym.envs.swe.images.builder import IMAGE, NAME, PARENT, RECIPE, WAY, recipe, remove_image
from aem_gym.envs.swe.images.ensure import DEFAULT_PYTHON, WAYS, ensure_base
from aem_gym.envs.swe.sandbox.connect import explained, find
from aem_gym.errors import AemGymError

if TYPE_CHECKING:
    import docker

_ORDER = ("derived", "package", "base", "root")
"""Those come first that others are not made from."""

_engine = click.option(
    "--engine",
    default="auto",
    type=click.Choice(["auto", "docker", "podman"]),
    help="Which container engine; auto: the first that answers.",
)


@dataclass(frozen=True, slots=True)
class StoredImage:
    """An image of aem_gym that an engine holds."""

    id: str
    name: str
    """The one it was made under; empty: a newer one has taken it."""
    kind: str
    way: str
    """Where its Python came from."""
    current: bool
    """Whether it would be built the same way now."""
    own: int
    """Bytes without those that it shares with the image it was made from."""


def stored_images(client: docker.DockerClient) -> list[StoredImage]:
    with explained("list images"):
        found = client.api.images(filters={"label": NAME})
        sizes = {image["Id"]: image["Size"] for image in client.api.images(all=True)}
    images = []
    for image in found:
        labels = image["Labels"] or {}
        names = [name for name in image["RepoTags"] or () if name != "<none>:<none>"]
        if names and labels[NAME] not in names:
            continue  # somebody's own, built on one of these
        kind, name = labels.get(IMAGE, ""), labels[NAME] if names else ""
        current = kind == "root" or labels.get(RECIPE) == recipe()
        own = int(image["Size"]) - sizes.get(labels.get(PARENT), 0)
        images.append(StoredImage(image["Id"], name, kind, labels.get(WAY, ""), current, own))
    return sorted(images, key=lambda image: (-_rank(image), image.name, image.id))


def _rank(image: StoredImage) -> int:
    return _ORDER.index(image.kind) if image.kind in _ORDER else 0


def remove_images(
    client: docker.DockerClient, *, keep_bases: bool
) -> tuple[list[StoredImage], list[StoredImage]]:
    """Remove the images of aem_gym; returns those removed, and those in use, which stay."""
    gone: list[StoredImage] = []
    stay: list[StoredImage] = []
    for image in reversed(stored_images(client)):
        if keep_bases and image.kind in ("base", "root") and image.name and image.current:
            continue
        # By name: what somebody has given a name of his own stays under that.
        removed = remove_image(client, image.name or image.id)
        (gone if removed else stay).append(image)
    return gone, stay


@click.group("images")
def images_command() -> None:
    """Images of SWE sandboxes.

    Nothing has to be done by hand: what a task needs is built when it is first needed. With these
    commands the base is built beforehand, and the disk cleared afterwards.
    """


@images_command.command()
@_engine
@click.option(
    "--python",
    "pythons",
    multiple=True,
    default=(DEFAULT_PYTHON,),
    show_default=True,
    help="Version of Python; may be given several times. SWE-bench's older repositories need 3.9.",
)
@click.option(
    "--way",
    default="auto",
    type=click.Choice(["auto", *WAYS]),
    help="Where the Python comes from: python:VERSION-slim of a registry; Debian's archive (needs "
    "root and debootstrap); a Python of this machine. auto: the first that works.",
)
@click.option("--from", "image", default="", help="An image to build on instead.")
@click.option("--rebuild", is_flag=True, help="Build even if it exists.")
@click.option("--anew", is_flag=True, hidden=True, help="The earlier name of --rebuild.")
@click.option("--verbose", is_flag=True, help="Show what the commands of the build print.")
def base(
    engine: str,
    pythons: tuple[str, ...],
    way: str,
    image: str,
    rebuild: bool,
    anew: bool,
    verbose: bool,
) -> None:
    """Build the base images now. Existing ones stay, unless --rebuild or --from is given."""
    with _client(engine) as client:
        for python in pythons:
            began = time.monotonic()
            log = _progress(verbose)
            rebuild = rebuild or anew or bool(image)
            name = ensure_base(client, python, way=image or way, rebuild=rebuild, log=log)
            log("")
            click.echo(f"{name} is ready ({time.monotonic() - began:.0f} s)")


@images_command.command("list")
@_engine
def list_images(engine: str) -> None:
    """List the images of aem_gym, with the disk space each needs."""
    with _client(engine) as client:
        images = stored_images(client)
    for image in images:
        name = image.name or f"{image.id[7:19]} (nameless)"
        note = "" if image.current else ", out of date"
        click.echo(f"{name:<56} {_mb(image.own):>8}  {image.kind}: {image.way}{note}")
    click.echo(f"{len(images)} images, {_mb(sum(image.own for image in images))}")


@images_command.command()
@_engine
@click.option("--keep-bases", is_flag=True, help="Remove only what is built on the bases.")
def prune(engine: str, keep_bases: bool) -> None:
    """Remove the images of aem_gym, and no others. They are built again when they are needed."""
    with _client(engine) as client:
        gone, stay = remove_images(client, keep_bases=keep_bases)
    click.echo(f"removed {len(gone)} images, {_mb(sum(image.own for image in gone))}")
    for image in stay:
        click.echo(f"in use, kept: {image.name or image.id}")


@contextlib.contextmanager
def _client(engine: str) -> Iterator[docker.DockerClient]:
    try:
        with contextlib.closing(find(engine).client) as client:
            yield client
    except AemGymError as error:
        raise click.UsageError(str(error)) from error


def _mb(size: int) -> str:
    return f"{size / 1e6:.0f} MB"


def _progress(verbose: bool) -> Callable[[str], None]:
    """Shows the steps of a build; what its commands print, in one line that changes."""
    live = sys.stderr.isatty() and not verbose

    def show(line: str) -> None:
        if live:
            click.echo("\r\x1b[K", nl=False, err=True)
        if not line.startswith("  | ") or verbose:
            if line:
                click.echo(line, err=True)
        elif live:
            click.echo(line[: shutil.get_terminal_size().columns - 1], nl=False, err=True)

    return show
