"""`aem-gym export`: generated tasks in the original's format."""

from __future__ import annotations

from pathlib import Path

import click

from aem_gym.commands.flags import env_arg_option, parse_env_args


@click.command()
@click.argument("env")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--games", default=100, show_default=True, type=click.IntRange(1), help="How many.")
@click.option("--split", default="train", show_default=True, help="Of the environment.")
@click.option("--seed", default=0, show_default=True, help="Names the choice of tasks.")
@click.option(
    "--logic",
    type=click.Path(path_type=Path),
    help="Folder with what the format needs of the original, where it is not found by itself.",
)
@env_arg_option
def export(
    env: str,
    folder: Path,
    games: int,
    split: str,
    seed: int,
    logic: Path | None,
    env_arg: tuple[str, ...],
) -> None:
    """Write generated tasks of ENV to FOLDER in the original's format.

    Tasks that are there already are kept: the same command goes on where it was interrupted.
    """
    from aem_gym.errors import ConfigError
    from aem_gym.registry import env_factory, env_tool

    export_games = env_tool(env_factory(env), "export_games")
    if export_games is None:
        raise ConfigError(f"env: {env!r} cannot write its tasks: it has no export_games")
    done = export_games(
        folder, games=games, split=split, seed=seed, logic=logic, env_args=parse_env_args(env_arg)
    )
    click.echo(f"{done.written:,} written, {done.kept:,} there already: {done.place}")
    for name, count in done.by_type.items():
        click.echo(f"  {name:32} {count:,}")
    if done.use:
        click.echo(f"To use them: {done.use}")
