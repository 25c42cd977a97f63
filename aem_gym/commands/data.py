"""`aem-gym data`: what is there of the data that environments need, and how to get the rest."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable

    from aem_gym.datasets import DataReport

_SHOWN = 10
_PATH = click.Path(path_type=Path)


@click.command()
@click.argument("env", required=False)
@click.argument("action", required=False, type=click.Choice(["import"]), metavar="[import")
@click.argument("source", required=False, type=_PATH, metavar="DIR]")
@click.option("--data-dir", help="Look in this folder instead of where the environment would.")
@click.option("--all", "show_all", is_flag=True, help=f"List all damage, not the first {_SHOWN}.")
@click.option("--out", type=_PATH, help="import: the folder to make; default: one in the cache.")
@click.option("--num-products", type=click.IntRange(1), help="import: only the first N products.")
@click.option("--seed", type=int, help="import: seed of generated values such as hidden prices.")
@click.option("--nouns", type=_PATH, help="import: a file with the nouns of titles.")
@click.option("--spacy", metavar="MODEL", help="import: find nouns with this spaCy model.")
def data(
    env: str | None,
    action: str | None,
    source: Path | None,
    data_dir: str | None,
    show_all: bool,
    **options: Any,
) -> int:
    """Show what data ENV has; without ENV, which environments use any.

    With `import DIR`, convert the downloaded data in DIR to a format that ENV opens quickly. An
    interrupted import resumes with the same command.

    Exit status with ENV: 0 all of it is there, 1 something is missing or damaged.
    """
    from aem_gym.errors import ConfigError

    given = {name: value for name, value in options.items() if value is not None}
    if action:
        if env is None or source is None:
            raise ConfigError("import: say what: aem-gym data ENV import DIR")
        if data_dir:
            raise ConfigError("--data-dir: for an import, say where it goes: --out FOLDER")
        _import(env, source, given)
        return 0
    for name in given:
        option = f"--{name.replace('_', '-')}"
        raise ConfigError(f"{option}: is for imports: aem-gym data ENV import DIR {option} ...")
    if env is None:
        if data_dir:
            raise ConfigError("--data-dir: say for which environment: aem-gym data ENV")
        _list()
        return 0
    report = _reporter(env)(data_dir)
    _show(env, report, None if show_all else _SHOWN)
    return 0 if report.complete else 1


def _reporter(env: str) -> Callable[..., DataReport]:
    """The environment's `data_report`. Raises ConfigError if it has none."""
    from aem_gym.errors import ConfigError
    from aem_gym.registry import env_factory, env_tool

    report = env_tool(env_factory(env), "data_report")
    if report is None:
        raise ConfigError(
            f"env: {env!r} uses no data from elsewhere. Those that do: "
            f"{', '.join(name for name, _ in _with_data()) or 'none'}"
        )
    return report


def _import(env: str, source: Path, options: Mapping[str, Any]) -> None:
    """Import data of an environment that can, and print the result."""
    from aem_gym.errors import ConfigError
    from aem_gym.registry import env_factory, env_tool

    import_data = env_tool(env_factory(env), "import_data")
    if import_data is None:
        raise ConfigError(f"env: {env!r} cannot import data: it has no import_data")
    known = inspect.signature(import_data).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    renamed = {"folder" if name == "out" else name: value for name, value in options.items()}
    for name in renamed:
        if name not in known and not takes_any:
            raise ConfigError(f"--{name.replace('_', '-')}: {env!r} has no such option for imports")
    done = import_data(source, **renamed)
    click.echo(f"{'imported' if done.made else 'there already'}: {done.items:,} in {done.place}")
    if done.skipped:
        click.echo(f"{done.skipped:,} could not be used")
    for line in (done.note, done.use and f"To use them: {done.use}"):
        if line:
            click.echo(line)


def _with_data() -> Iterator[tuple[str, Callable[..., DataReport]]]:
    """Ids of the environments with a `data_report`, and that function."""
    from aem_gym.errors import ConfigError
    from aem_gym.registry import env_factory, env_ids, env_tool

    for name in env_ids():
        try:
            report = env_tool(env_factory(name), "data_report")
        except ConfigError:  # another package's, that cannot be loaded: `aem-gym envs` says why
            continue
        if report is not None:
            yield name, report


def _list() -> None:
    """A line for each environment with data."""
    rows = [(name, report()) for name, report in _with_data()]
    width = max((len(name) for name, _ in rows), default=0)
    for name, report in rows:
        click.echo(f"{_mark(report.complete)}  {name:<{width}}  {_state(report)}")


def _state(report: DataReport) -> str:
    found = sum(part.found for part in report.parts)
    known = [part.expected for part in report.parts if part.expected is not None]
    of = f" of {sum(known):,}" if len(known) == len(report.parts) else ""
    damaged = f", {len(report.damaged):,} damaged" if report.damaged else ""
    return f"{report.title}: {found:,}{of}{damaged} in {report.place}"


def _show(env: str, report: DataReport, most: int | None) -> None:
    click.echo(f"{env}: {report.title} in {report.place}")
    rows = [(part, f"{part.found:,}") for part in report.parts]
    counts = [f"of {p.expected:,}" if p.expected is not None else "" for p in report.parts]
    name = max((len(part.name) for part in report.parts), default=0)
    found = max((len(text) for _, text in rows), default=0)
    all_of_it = max(map(len, counts), default=0)
    for (part, text), count in zip(rows, counts, strict=True):
        line = f"{part.name:<{name}}  {text:>{found}} {count:<{all_of_it}}  {part.note}"
        click.echo(f"{_mark(part.complete)}  {line.rstrip()}")
    shown = report.damaged[:most]
    for line in shown:
        click.echo(f"{click.style('damaged', fg='red')}  {line}")
    if len(shown) < len(report.damaged):
        click.echo(f"... and {len(report.damaged) - len(shown):,} more damaged: --all lists them")
    if not report.complete and report.advice:
        click.echo(f"\n{report.advice}")


def _mark(complete: bool) -> str:
    return click.style("ok", fg="green") if complete else click.style("--", fg="yellow")
