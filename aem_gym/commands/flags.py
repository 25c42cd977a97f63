"""Flags made from the fields of Config, so that no setting is written down twice."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

from aem_gym.config import built_in, field_docs, field_types, is_options, type_text
from aem_gym.errors import ConfigError
from aem_gym.settings import OLD_NAMES
from aem_gym.yaml_io import dump_yaml, load_yaml

EVERYDAY = (
    *("env", "model", "estimator", "modulator", "context", "groups", "group_size", "steps"),
    *("seed", "out", "resume", "device", "lr", "temperature", "micro_batch", "max_new_tokens"),
    *("eval_every", "save_every"),
)
"""The settings that `--help` shows first."""
_OLD_BOOLEANS = ("save_tokens", "tensorboard")
_WITH_VALUE = ("drop_equal_groups",)
"""Settings that are true or false, whose flag has always taken a value."""


def env_arg_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds `--env-arg KEY=VALUE`, repeatable; the command gets `env_arg`, a tuple of texts."""
    text = "Argument of the environment; may be repeated. The value is read as YAML."
    return click.option("--env-arg", metavar="KEY=VALUE", multiple=True, help=text)(command)


def parse_env_args(texts: Iterable[str]) -> dict[str, Any]:
    """`("a=1", "b=x")` as `{"a": 1, "b": "x"}`.

    Raises:
        ConfigError: a text without `=`, or a value that is not YAML.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--env-arg {text!r}: expected KEY=VALUE")
        found[key.strip()] = load_yaml(value, f"--env-arg {text!r}") if value else ""
    return found


def config_options() -> list[click.Option]:
    """One option per setting, the everyday ones first; old spellings are hidden.

    The value None means: not given.
    """
    order = [*EVERYDAY, *(name for name in field_types() if name not in EVERYDAY)]
    return [
        *(_option(name) for name in order if not is_options(name)),
        *(_old_option(name) for name in OLD_NAMES),
    ]


def parted_settings() -> list[tuple[str, str]]:
    """The settings that hold options by name, which have no flag, and what they are for."""
    return [(name, field_docs()[name]) for name in field_types() if is_options(name)]


def given_flags(values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given as flags, as YAML values.

    Raises:
        ConfigError: a value that is not YAML.
    """
    return {name: _value(name, value) for name, value in values.items() if value is not None}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _option(name: str) -> click.Option:
    flag, hint = _flag(name), field_types()[name]
    value = built_in()[name]
    listed = isinstance(value, list | tuple)
    # YAML ends a document that is one scalar with three dots.
    default = ",".join(value) if listed else dump_yaml(value).strip().removesuffix("\n...")
    text = f"{field_docs()[name]} [{'unset' if default == 'null' else default}]"
    if hint is bool and name not in _WITH_VALUE:
        return click.Option([f"{flag}/--no-{flag[2:]}"], default=None, help=text)
    if list[str] in (hint, *getattr(hint, "__args__", ())):
        return click.Option([flag], default=None, metavar="TEXT|[A,B]", help=text)
    choices = ("true", "false") if hint is bool else getattr(hint, "__args__", ())
    if choices and all(isinstance(choice, str) for choice in choices):
        return click.Option([flag], default=None, metavar="|".join(choices), help=text)
    words = type_text(hint).removesuffix(" or null")
    return click.Option([flag], default=None, metavar=words.upper(), help=text)


def _old_option(name: str) -> click.Option:
    flag = _flag(name)
    names = [f"{flag}/--no-{flag[2:]}"] if name in _OLD_BOOLEANS else [flag]
    return click.Option(names, default=None, hidden=True)


def _value(name: str, value: Any) -> Any:
    """A flag's text as a YAML value; where the setting is a text, the text itself."""
    if not isinstance(value, str):
        return value
    hint = field_types().get(
        name, int if name == "updates_per_batch" or name == "max_live" else str
    )
    kinds = getattr(hint, "__args__", (hint,))
    if hint == list[str] and not value.startswith("["):
        return value.split(",")
    if hint is str or all(isinstance(kind, str) for kind in kinds):
        return value
    if str in kinds and not value.startswith("[") and value not in ("null", "~"):
        return int(value) if int in kinds and value.lstrip("-").isdigit() else value
    return load_yaml(value, f"{_flag(name)} {value}")
