"""`python -m aem_gym.envs.swe.images`: build bases, list images, remove them."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from aem_gym.envs.swe.images.bases import DEFAULT_PYTHON, WAYS, ensure_base
from aem_gym.envs.swe.images.inventory import Held, held, remove_all
from aem_gym.envs.swe.sandbox.connect import find
from aem_gym.errors import AemGymError

if TYPE_CHECKING:
    import docker

_engine = click.option(
    "--engine",
    default="auto",
    type=click.Choice(["auto", "docker", "podman"]),
    help="Which container engine; auto: the first that answers.",
)


@click.group()
def main() -> None:
    """Images of SWE sandboxes.

    Nothing has to be done by hand: what a task needs is built when it is first needed. With these
    commands the base is built beforehand, and the disk cleared afterwards.
    """


@main.command()
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
@click.option("--anew", is_flag=True, help="Build even if it is there.")
@click.option("--verbose", is_flag=True, help="Show what the commands of the build print.")
def base(
    engine: str, pythons: tuple[str, ...], way: str, image: str, anew: bool, verbose: bool
) -> None:
    """Build the base images now. What is there stays, unless --anew or --from is given."""

    def build(client: docker.DockerClient) -> None:
        for python in pythons:
            began = time.monotonic()
            log = _progress(verbose)
            name = ensure_base(client, python, way=image or way, anew=anew or bool(image), log=log)
            log("")
            click.echo(f"{name} is ready ({time.monotonic() - began:.0f} s)")

    _with_engine(engine, build)


@main.command("list")
@_engine
def list_images(engine: str) -> None:
    """List the images of aem_gym, with what they take of the disk."""
    _with_engine(engine, lambda client: _table(held(client)))


@main.command()
@_engine
@click.option("--keep-bases", is_flag=True, help="Remove only what is built on the bases.")
def prune(engine: str, keep_bases: bool) -> None:
    """Remove the images of aem_gym, and no others. They are built anew when they are needed."""

    def clear(client: docker.DockerClient) -> None:
        gone, stay = remove_all(client, keep_bases=keep_bases)
        click.echo(f"removed {len(gone)} images, {_mb(sum(image.own for image in gone))}")
        for image in stay:
            click.echo(f"in use, kept: {image.name or image.id}")

    _with_engine(engine, clear)


def _with_engine(name: str, action: Callable[[docker.DockerClient], Any]) -> None:
    try:
        found = find(name)
        try:
            action(found.client)
        finally:
            found.client.close()
    except AemGymError as error:
        raise click.ClickException(str(error)) from error


def _table(images: list[Held]) -> None:
    for image in images:
        name = image.name or f"{image.id[7:19]} (nameless)"
        note = "" if image.current else ", out of date"
        click.echo(f"{name:<56} {_mb(image.own):>8}  {image.kind}: {image.way}{note}")
    click.echo(f"{len(images)} images, {_mb(sum(image.own for image in images))}")


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


if __name__ == "__main__":
    main(prog_name="python -m aem_gym.envs.swe.images")
