"""From what was given to the settings of a run: one function merges the layers.

built-in < environment < model < environment x model < estimator < file < flags. The same function
serves Python, YAML files and flags, so that a setting means the same wherever it is given.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from aem_gym.config import (
    UNSET,
    Config,
    built_in,
    check_ranges,
    field_docs,
    field_types,
    is_options,
    type_text,
)
from aem_gym.errors import ConfigError, InfrastructureError, UnknownNameError
from aem_gym.models import find_model
from aem_gym.registry import ENVS, ESTIMATORS, MODELS, env_factory, env_name, find_env
from aem_gym.yaml_io import dump_yaml, load_yaml

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
"""File name of the settled configuration in a run's folder."""
_RENAMED = {
    "recipe": "prompt_template",
    "invalid_means": "penalize",
    "max_live": "max_concurrent_episodes",
}
OLD_NAMES = (*_RENAMED, "updates_per_batch", "save_tokens", "tensorboard")
"""Old spellings of settings, which stay valid."""
_OF_THE_ENV = ("env_args", "warmstart_env_args", "train_split", "eval_split")
"""Settings of a file that are about its environment, and do not hold for another one."""

Layer = tuple[str, Mapping[str, Any]]
"""A layer's name and its values: of a setting, or of one of its options (`setting.key`)."""


@dataclass(frozen=True)
class Settled:
    """The settings of a run, all of them with a value."""

    config: Config
    origin: Mapping[str, str]
    """Setting, or `setting.key` of options -> the layer its value came from."""

    def explain(self) -> str:
        """The configuration as YAML, with the layer of each value as a comment."""
        lines = []
        for name, value in vars(self.config).items():
            text = dump_yaml({name: value}).rstrip("\n").split("\n")
            parts = {k: v for k, v in self.origin.items() if k.split(".")[0] == name}
            inner = [f"{k.partition('.')[2]}: {v}" for k, v in sorted(parts.items()) if "." in k]
            where = ", ".join([*([parts[name]] if name in parts else []), *inner])
            lines += [f"{text[0]:<44} # {where}", *text[1:]]
        return "\n".join(lines) + "\n"


def settle(
    given: Config | Mapping[str, Any] | None = None,
    *,
    file: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> Settled:
    """Merge what was given with what environment, model and estimator suggest.

    Args:
        given: settings from Python: a `Config`, or values by name.
        file: YAML file. Without one, `resume` starts from the configuration of its run.
        flags: settings by name, or `setting.key` for one of their options.
        overrides: `key.sub=value` texts, later ones winning.

    Raises:
        UnknownNameError: no such setting, environment, model or estimator; names the near one.
        ConfigError: a value of the wrong type or out of its range, or a file that is not one.
    """
    values = given.given() if isinstance(given, Config) else dict(given or {})
    top = [("given", _renamed(values, "the settings"))]
    top += [("flag", _renamed(flags or {}, "the command line"))]
    top += [("flag", _renamed(dict([parse_override(text)]), text)) for text in overrides]
    chosen = merge(top)[0]
    source, saved = _file_layer(file, chosen)
    asked = UNSET if chosen.get("env") is None else env_name(chosen["env"])
    base = saved.get("env") or ENVS.default()
    env = _full_id(base if asked is UNSET else asked)
    if env != _full_id(base):
        saved = {k: v for k, v in saved.items() if k.split(".")[0] not in _OF_THE_ENV}
    layers: list[Layer] = [*_suggested(env, {**saved, **chosen}), (source, saved), *top]
    values, origin = merge([("built-in", built_in()), *layers])
    values["env"] = env
    values["model"] = MODELS.default() if values["model"] is None else values["model"]
    checked = {
        key: _typed(key, value, source if key in saved else "the settings")
        for key, value in values.items()
    }
    check_ranges(checked)
    _check_one_limit(merge([(source, saved), *top])[0])
    return Settled(Config(**checked), origin)


def _check_one_limit(given: Mapping[str, Any]) -> None:
    limit, inner = given.get("max_turns"), (given.get("env_args") or {}).get("max_turns")
    if limit is not None and inner not in (None, limit):
        raise ConfigError(
            f"max_turns: {limit} and env_args.max_turns: {inner} differ: give one of them"
        )


def merge(layers: Iterable[Layer]) -> tuple[dict[str, Any], dict[str, str]]:
    """Values of the layers, later ones winning, and the layer that each value came from.

    A whole setting replaces what was there before; `setting.key` changes one of its options.
    """
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for layer, new in layers:
        for key, value in new.items():
            name, *path = key.split(".")
            if not path:
                origin = {k: v for k, v in origin.items() if k.split(".")[0] != name}
                values[name] = value
            else:
                inside = values[name] = dict(values.get(name) or {})
                for part in path[:-1]:
                    if not isinstance(inside.get(part) or {}, Mapping):
                        raise ConfigError(f"{key}: {part} is {inside[part]!r} and has no sub-keys")
                    inside[part] = dict(inside.get(part) or {})
                    inside = inside[part]
                inside[path[-1]] = value
            origin[key] = layer
    return values, origin


def _suggested(env: Any, given: Mapping[str, Any]) -> list[Layer]:
    """The layers of environment, model, both, and estimator."""
    model = given.get("model")
    model = MODELS.default() if model is None else model
    factory = _declaring(env) if isinstance(env, str) else None
    by_model = _settings_of(factory, "model_defaults")
    layers: list[Layer] = [("environment", _settings_of(factory, "defaults"))]
    if isinstance(model, str):
        layers.append(("model", find_model(model).defaults))
        layers.append(("environment x model", by_model.get(model, {})))
    layers = [(name, _renamed(values, f"the {name}")) for name, values in layers]
    estimator = given.get("estimator", merge(layers)[0].get("estimator", built_in()["estimator"]))
    return [*layers, ("estimator", _estimator_settings(estimator))]


def _declaring(env: str) -> Any:
    """The environment's class; None where it is elsewhere and does not answer.

    What a run has saved can be read then; a new one is refused when its environment is made.
    """
    try:
        return env_factory(env)
    except InfrastructureError as error:
        logger.warning("%s: the settings that it suggests are not known: %s", env, error)
        return None


def _settings_of(factory: Any, attribute: str) -> Mapping[str, Any]:
    found = getattr(factory, attribute, None)
    return found if isinstance(found, Mapping) else {}


def _estimator_settings(name: Any) -> Mapping[str, Any]:
    """The settings that an estimator suggests; none without torch, which it needs."""
    if not isinstance(name, str) or importlib.util.find_spec("torch") is None:
        return {}
    from aem_gym.credit.estimators import needs_of

    needs = needs_of(ESTIMATORS.load(name))
    return {"drop_equal_groups": True} if needs.drops_equal_groups else {}


def _file_layer(file: str | Path | None, chosen: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the values of the file that the given settings go on top of."""
    if file is not None:
        return str(file), _renamed(load_values(file), str(file))
    out = chosen.get("out")
    saved = Path(str(out)) / CONFIG_NAME if out and chosen.get("resume") is True else None
    if saved is None or not saved.is_file():
        return "file", {}
    return str(saved), _renamed(load_values(saved), str(saved))


def _full_id(name: Any) -> Any:
    """The registered id of an environment; other packages' `module:Id` stay as they are."""
    if not isinstance(name, str):
        return name  # `_typed` says what is wrong with it
    found = find_env(name)
    return name if ":" in name and not found.startswith("aem_gym/") else found


def _renamed(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The values under the present names of their settings.

    Raises:
        UnknownNameError: no such setting.
        ConfigError: options of a setting that has none, or a bad value of an old spelling.
    """
    renamed: dict[str, Any] = {}
    for key, value in values.items():
        name, dot, rest = str(key).partition(".")
        if value is None and name == "drop_equal_groups":
            continue  # which left it to the estimator before 0.2
        if name == "mini_batch" and value is None:
            renamed |= {"mini_batch": f"1/{values.get('updates_per_batch', 2)}"}
            continue
        if name in OLD_NAMES and not dot:
            # A present spelling beside an old one wins.
            new = _converted(name, value, source)
            renamed |= {k: v for k, v in new.items() if values.get(k) is None}
            logger.warning("%s: %s is now %s", source, name, " ".join(new))
            continue
        name = _RENAMED.get(name, name)
        if name not in field_types():
            raise UnknownNameError("configuration key", name, field_types(), f"(In {source}.)")
        if dot and not is_options(name):
            kind = type_text(field_types()[name])
            raise ConfigError(f"{name}.{rest}: {name} is {kind} and has no sub-keys")
        renamed[name + dot + rest] = value
    return renamed


def _converted(name: str, value: Any, source: str) -> dict[str, Any]:
    """An old setting under its present name; where its meaning changed, with the present value."""
    if name in _RENAMED:
        return {_RENAMED[name]: value}
    if name == "updates_per_batch":
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{source}: {name}: expected a number above 0, got {value!r}")
        return {"mini_batch": f"1/{value}"}
    if not isinstance(value, bool):
        raise ConfigError(f"{source}: {name}: expected true or false, got {value!r}")
    if name == "save_tokens":
        return {"token_samples": "all" if value else built_in()["token_samples"]}
    return {"loggers": ["tensorboard"] if value else []}


def _typed(key: str, value: Any, source: str) -> Any:
    """`value` as the type of the field `key`; a path is a text."""
    try:
        return msgspec.convert(str(value) if isinstance(value, Path) else value, field_types()[key])
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{source}: {key}: expected {type_text(field_types()[key])}, got {value!r}. "
            f"What it is: {field_docs()[key]}"
        ) from error


def parse_override(text: str) -> tuple[str, Any]:
    """`key.sub=value` as ("key.sub", value); the value is read as YAML.

    Raises:
        ConfigError: no `=`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    key = key.strip().lstrip("-").replace("-", "_")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"override {text!r}: expected key=value or key.sub=value")
    return key, load_yaml(value, f"override {text!r}") if value else ""


def load_values(path: str | Path) -> dict[str, Any]:
    """The keys and values of a YAML file.

    Raises:
        ConfigError: no such file, not text, not YAML (with the line), or not `key: value` lines.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigError(f"--config {path}: cannot be read: {reason}") from error
    values = load_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got {type(values).__name__}")
    return values


def load_config(path: str | Path) -> Config:
    """The settled Config of a YAML file, or of a run's folder (its config.yaml)."""
    path = Path(path)
    return settle(file=path / CONFIG_NAME if path.is_dir() else path).config


def to_yaml(config: Config) -> str:
    """The configuration as YAML, every key spelled out.

    Raises:
        ConfigError: a setting holds what YAML cannot; names it.
    """
    parts = []
    for name, value in vars(config).items():
        try:
            parts.append(dump_yaml({name: value}))
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from error
    return "".join(parts)
