"""`aem-gym serve ENV`: an environment for OpenEnv clients, here or elsewhere."""

from __future__ import annotations

from typing import Any

import click

from aem_gym.commands.flags import env_arg_option, parse_env_args
from aem_gym.openenv_protocol import TOKEN_ENV


@click.command()
@click.argument("env")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    show_default=True,
    help="0: any free one, which is printed.",
)
@click.option(
    "--sessions",
    type=click.IntRange(1),
    default=256,
    show_default=True,
    help="Most sessions at once; a run holds one for each of its live episodes.",
)
@click.option(
    "--workers",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Processes that hold the environments, for each set of arguments; 0: this one.",
)
@click.option(
    "--allow",
    metavar="NAME",
    multiple=True,
    help="A further argument of ENV that clients may set, beside split and max_turns; may be "
    "repeated.",
)
@click.option(
    "--idle-seconds",
    type=click.FloatRange(0, min_open=True),
    default=3600.0,
    show_default=True,
    help="A session that sends nothing for so long is closed.",
)
@click.option(
    "--largest-message",
    type=click.IntRange(1024),
    default=1024 * 1024,
    show_default=True,
    help="Most bytes of a message from a client.",
)
@click.option(
    "--step-timeout", type=float, default=60.0, show_default=True, help="Seconds for one step."
)
@click.option(
    "--reset-timeout", type=float, default=120.0, show_default=True, help="Seconds for one reset."
)
@click.option(
    "--token-env",
    metavar="NAME",
    default=TOKEN_ENV,
    show_default=True,
    help="Environment variable with the token that clients have to send. An address that others "
    "can reach is refused without one.",
)
@env_arg_option
def serve(env: str, allow: tuple[str, ...], env_arg: tuple[str, ...], **options: Any) -> None:
    """Serve ENV to OpenEnv clients, until Ctrl-C.

    Our own runs use it as their environment with --env openenv:http://HOST:PORT. Needs: pip install
    "aem-gym[openenv-server]".
    """
    from aem_gym.integrations import openenv_server as server
    from aem_gym.integrations.openenv_host import ServedSettings

    pool = {name: options.pop(name) for name in ("workers", "step_timeout", "reset_timeout")}
    served = ServedSettings(env, parse_env_args(env_arg), allow, **pool)
    settings = server.ServerSettings(**options)
    server.serve(
        served, settings, lambda url: click.echo(f"{env} is served at {url} (Ctrl-C stops it)")
    )
    click.echo("stopped")
