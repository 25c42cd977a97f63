"""`aem-gym envs`: which environments there are."""

from __future__ import annotations

from importlib.metadata import entry_points

import click


@click.command()
def envs() -> None:
    """List the registered text environments, one line each."""
    rows = [(name, _about(name)) for name in env_ids()]
    width = max(len(name) for name, _ in rows)
    for name, about in rows:
        click.echo(f"{name:<{width}}  {about}")


def env_ids() -> list[str]:
    """Ids of the built-in environments and of those other packages register for us."""
    import gymnasium as gym

    from aem_gym.registry import register_envs

    register_envs()
    ours = {name for name in gym.registry if name.startswith("aem_gym/")}
    return sorted(ours | {point.name for point in entry_points(group="aem_gym.envs")})


def _about(name: str) -> str:
    """First line of the environment's documentation, or why it cannot be loaded."""
    from aem_gym.errors import ConfigError
    from aem_gym.training.config_check import env_factory

    try:
        text = (env_factory(name).__doc__ or "").strip()
    except ConfigError as error:
        return f"cannot be loaded: {error}"
    return text.split("\n")[0]
