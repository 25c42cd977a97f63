"""The commands `aem-gym webshop ...`."""

from __future__ import annotations

import click


@click.group()
def webshop() -> None:
    """Tools for the WebShop environment."""


@webshop.command(
    context_settings={"ignore_unknown_options": True}, add_help_option=False, options_metavar=""
)
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
def conformance(options: tuple[str, ...]) -> int:
    """Compare with recordings of the official engine (see --help)."""
    from aem_gym.envs.webshop.authoring.conformance import main

    return main(options, "aem-gym webshop conformance")
