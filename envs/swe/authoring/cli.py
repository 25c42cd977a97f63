"""The commands of `aem-gym swe`, each loaded when it is called."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence

import click

from aem_gym.registry import import_object

_COMMANDS: Mapping[str, tuple[str, str]] = {
    "generate": ("generate:main", "Make a suite of tasks from packages that ship tests."),
    "images": ("images:images_command", "Build, list and remove images of sandboxes."),
    "official": ("predictions:official_main", "Grade predictions by SWE-bench's own grader."),
    "predictions": ("predictions:main", "Grade predictions in SWE-bench's format."),
    "validate": ("validate:main", "Check that tasks can be solved, and not without a patch."),
}
"""Name -> (a click command or a `main(argv) -> int` of this package, help text)."""


class LazySweGroup(click.Group):
    """A group whose commands are strings until they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        target, short = _COMMANDS[cmd_name]
        found = import_object(f"{__package__}.{target}", "command")
        return found if isinstance(found, click.Command) else _passing_on(cmd_name, short, found)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, short) for name, (_, short) in sorted(_COMMANDS.items())])


def run_as_script(module: str, command: str) -> None:
    """Run a command of `aem-gym swe` if its earlier `module` is run as a script (`__name__`)."""
    if module == "__main__":
        swe([command, *sys.argv[1:]], prog_name="aem-gym swe")


def _passing_on(name: str, short: str, main: Callable[[Sequence[str]], int]) -> click.Command:
    """A command that hands its arguments to a `main` and ends with its exit status."""

    def run(arguments: tuple[str, ...]) -> None:
        click.get_current_context().exit(main(arguments))

    return click.Command(
        name,
        callback=run,
        params=[click.Argument(["arguments"], nargs=-1, type=click.UNPROCESSED)],
        help=short,
        add_help_option=False,
        context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
    )


@click.group("swe", cls=LazySweGroup)
def swe() -> None:
    """Make, validate and grade tasks of aem_gym/SWE-v0, and manage its images."""
