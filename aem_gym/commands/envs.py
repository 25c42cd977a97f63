"""`aem-gym envs`: which environments there are."""

from __future__ import annotations

import click


@click.command()
def envs() -> None:
    """List the registered text environments, one line each."""
    from aem_gym.registry import env_ids

    rows = [(name, _about(name)) for name in env_ids()]
    width = max(len(name) for name, _ in rows)
    for name, about in rows:
        click.echo(f"{name:<{width}}  {about}")


def _about(name: str) -> str:
    """First line of the environment's documentation, or why it cannot be loaded."""
    from aem_gym.errors import ConfigError
    from aem_gym.registry import env_factory

    try:
        text = (env_factory(name).__doc__ or "").strip()
    except ConfigError as error:
        return f"cannot be loaded: {error}"
    return text.split("\n")[0]
