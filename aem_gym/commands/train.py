"""`aem-gym train`, the same as train.py: settings in, one JSON line out."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import sys
from typing import Any

import click

from aem_gym.commands.flags import (
    EVERYDAY,
    config_options,
    given_flags,
    parse_env_args,
    parted_settings,
)
from aem_gym.config import field_types
from aem_gym.errors import AemGymError, MissingDependencyError, MissingEngineError
from aem_gym.settings import Settled, settle, to_yaml
from aem_gym.training.distributed import process_rank

logger = logging.getLogger(__name__)

_NEEDED = ("torch", "transformers", "peft")


class _TrainCommand(click.Command):
    """Shows the everyday settings first and the others under a heading of their own."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        everyday: list[tuple[str, str]] = []
        other: list[tuple[str, str]] = []
        for option in self.get_params(ctx):
            record = option.get_help_record(ctx)
            if record is not None and isinstance(option, click.Option):
                rare = option.name in field_types() and option.name not in EVERYDAY
                (other if rare else everyday).append(record)
        for heading, records in (("Everyday options", everyday), ("All other settings", other)):
            with formatter.section(heading):
                formatter.write_dl(records)
        with formatter.section("Settings with parts, given as NAME.KEY=VALUE (no flags)"):
            formatter.write_dl(parted_settings())


def run_training(config_file: str | None, dry_run: bool, explain: bool, **given: Any) -> None:
    about = {name: given.pop(name) for name in ("model_config", "workload")}
    overrides = [*given.pop("set"), *given.pop("overrides")]
    env_args = parse_env_args(given.pop("env_arg"))
    flags = given_flags(given) | {f"env_args.{key}": value for key, value in env_args.items()}
    settled = settle(file=config_file, flags=flags, overrides=overrides)
    rank = process_rank()
    if dry_run or explain:
        if not rank:
            _dry_run(settled, explain, **about)
        return
    for package in _NEEDED:
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, "train", "Training")
    from aem_gym.training.loop import train

    with contextlib.redirect_stdout(sys.stderr):  # whatever a library prints
        summary = _as_follower(settled, rank) if rank else train(settled.config)
    if not rank:
        click.echo(json.dumps(summary))


def _as_follower(settled: Settled, rank: int) -> dict[str, Any]:
    """Train as one of several processes that is not the first: only what goes wrong is said."""
    from aem_gym.training.loop import train

    logging.getLogger().setLevel(logging.WARNING)
    logging.getLogger("aem_gym.training").setLevel(logging.ERROR)  # the first says the same
    try:
        return train(settled.config)
    except KeyboardInterrupt:
        raise click.exceptions.Exit(130) from None
    except AemGymError as error:
        logger.error("process %d: error: %s", rank, error)
        raise click.exceptions.Exit(2) from error


def _dry_run(settled: Settled, explain: bool, **about: Any) -> None:
    """Check, and print settings, memory and time; without an engine of the environment, too."""
    from aem_gym.commands.estimate import estimate_lines
    from aem_gym.training.setup import check_run

    missing: MissingEngineError | None = None
    try:
        check_run(settled.config, starts=False)
    except MissingEngineError as error:
        missing = error
    lines = list(estimate_lines(settled.config, **about))
    click.echo(settled.explain() if explain else to_yaml(settled.config), nl=False)
    click.echo("\n".join(lines))
    if missing is not None:
        raise missing


def _command() -> click.Command:
    settings = config_options()
    own: list[click.Parameter] = [
        click.Option(
            ["--config", "config_file"], metavar="FILE", help="YAML file of settings; flags win."
        ),
        click.Option(
            ["--env-arg"],
            metavar="KEY=VALUE",
            multiple=True,
            help="Argument of the environment; may be repeated. The value is read as YAML.",
        ),
        click.Option(
            ["--set"],
            metavar="KEY[.SUB]=VALUE",
            multiple=True,
            help="Any setting or part of one, e.g. modulator_options.lam=0.5; may be repeated.",
        ),
        click.Option(
            ["--dry-run"],
            is_flag=True,
            help="Check the settings, as far as no model is needed; print them as YAML, with the "
            "memory and time that they take (docs/memory.md).",
        ),
        click.Option(
            ["--explain"], is_flag=True, help="The same, with the layer that each value came from."
        ),
        click.Option(
            ["--model-config"],
            metavar="FILE",
            help="With --dry-run: config.json of the model, or its folder, for the estimate.",
        ),
        click.Option(
            ["--workload"],
            metavar="RUN|KEY=VALUE",
            multiple=True,
            help="With --dry-run: estimate for episodes as a run had them, or with other turns, "
            "prompt, response, longest, ...; else every episode at its limits. May be repeated.",
        ),
    ]
    arguments = [click.Argument(["overrides"], nargs=-1, metavar="[KEY.SUB=VALUE]...")]
    return _TrainCommand(
        "train",
        params=[*own, *settings, *arguments],
        callback=run_training,
        help="Train an agent on an environment.\n\nWithout arguments: generated household tasks, "
        "the tiny policy, GRPO + AEM, on the CPU. A setting is taken from the last of these that "
        "gives it: built-in default (shown in brackets), environment, model, both, estimator, "
        "--config, flags and KEY.SUB=VALUE; --explain shows which. The last line on stdout is a "
        "JSON object with the outcome.",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


train = _command()
