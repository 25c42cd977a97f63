"""The command line: `aem-gym COMMAND`. Errors a user can fix are one line; others a traceback.

Exit status: 0 done, 1 a check found something (missing data, an invalid task, a difference), 2 bad
input or a known failure, 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence

import click

import aem_gym
from aem_gym.commands.data import data
from aem_gym.commands.doctor import doctor
from aem_gym.commands.envs import envs
from aem_gym.commands.evaluate import evaluate
from aem_gym.commands.export import export
from aem_gym.commands.play import play
from aem_gym.commands.replay import replay
from aem_gym.commands.serve import serve
from aem_gym.commands.train import train
from aem_gym.console import REPEATS, ConsoleHandler
from aem_gym.errors import AemGymError, ConfigError
from aem_gym.registry import COMMANDS

DEBUG = "AEM_GYM_DEBUG"


class _App(click.Group):
    """The commands below, and those that environments and other packages register by name."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *COMMANDS.names()})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        found = super().get_command(ctx, cmd_name)
        if found is None and cmd_name in COMMANDS.names():
            try:
                loaded = COMMANDS.load(cmd_name)
            except ConfigError as error:
                return _broken(cmd_name, error)
            if isinstance(loaded, click.Command):
                return loaded
            expected = "expected a click.Command, the package that registers it gave"
            return _broken(
                cmd_name, ConfigError(f"command {cmd_name!r}: {expected} {loaded!r:.60}")
            )
        return found


def _broken(name: str, error: ConfigError) -> click.Command:
    """Stands in `--help` for a command that cannot be imported, and raises why when it is run."""

    def refuse(rest: tuple[str, ...]) -> None:
        raise error

    rest = click.Argument(["rest"], nargs=-1)
    settings = {"ignore_unknown_options": True}
    text = "(cannot be imported; run it to see why)"
    return click.Command(name, settings, refuse, [rest], short_help=text)


@click.group(
    cls=_App, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(aem_gym.__version__, prog_name="aem-gym")
def app() -> None:
    """Train language agents on multi-turn text tasks.

    Every command takes --debug, which shows the traceback of an error (as AEM_GYM_DEBUG=1 does).
    """


for _command in (train, evaluate, play, replay, envs, serve, data, export, doctor):
    app.add_command(_command)


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `aem-gym`: runs a command and ends the process with its status."""
    sys.exit(run(app, sys.argv[1:] if args is None else args, "aem-gym"))


def train_main() -> None:
    sys.exit(run(train, sys.argv[1:], "train.py"))


def run(command: click.Command, args: Sequence[str], name: str) -> int:
    """Run a command; returns its exit status."""
    if "--debug" in args:
        args = [arg for arg in args if arg != "--debug"]
        os.environ[DEBUG] = "1"
    # Read when torch is first imported: threads that wait without spinning. A small model on two
    # spinning threads is ten times slower as soon as another program is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # module:attribute of a file in the current folder
    debug = os.environ.get(DEBUG, "0") not in ("", "0")
    _log_to_console(debug)
    try:
        result = command.main(list(args), prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt) as error:
        # click turns a KeyboardInterrupt, whose text says how to go on, into an Abort.
        click.echo(str(error.__cause__ or error) or "interrupted", err=True)
        return 130
    except AemGymError as error:
        if debug:
            raise
        click.echo(f"error: {error}", err=True)
        return 2


def _log_to_console(debug: bool) -> None:
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO,
        format="%(asctime)s %(name)s: %(message)s" if debug else "%(message)s",
        handlers=[ConsoleHandler(repeats=None if debug else REPEATS)],
    )
    for noisy in ("httpx", "urllib3", "docker", "filelock", "fsspec", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # It has a handler of its own: each of its lines would come twice.
    logging.getLogger("huggingface_hub").propagate = False


if __name__ == "__main__":
    main()
