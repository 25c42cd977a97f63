"""Config in and out: YAML files, flags, dotted overrides, and the documentation of each field.

Precedence: defaults < what the environment suggests < file < flags and overrides.
Everything here is torch-free.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import logging
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import msgspec

from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.registry import find_env
from aem_gym.training.config import DEFAULT_ENV, Config
from aem_gym.training.config_yaml import dump_yaml, load_yaml

logger = logging.getLogger(__name__)

CONFIG_NAME = "config.yaml"
"""File name of the resolved configuration in a run's folder."""


@cache
def field_docs() -> dict[str, str]:
    """Field name -> its documentation: the string literal under it in the source of Config."""
    tree = ast.parse(inspect.getsource(Config)).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs: dict[str, str] = {}
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                docs[node.target.id] = " ".join(text.value.split())
    return docs


@cache
def field_types() -> dict[str, Any]:
    """Field name -> its type."""
    return get_type_hints(Config)


def field_names() -> list[str]:
    """All keys of a configuration, in the order of its documentation."""
    return [f.name for f in dataclasses.fields(Config)]


def to_dict(config: Config) -> dict[str, Any]:
    """The configuration as plain YAML values."""
    return dataclasses.asdict(config)


def to_yaml(config: Config) -> str:
    """The configuration as YAML, every key spelled out."""
    return dump_yaml(to_dict(config))


def from_dict(values: Mapping[str, Any], source: str = "the configuration") -> Config:
    """A Config of plain values; keys that are absent have their defaults.

    Args:
        values: key -> YAML value.
        source: what the values came from, for messages.

    Raises:
        UnknownNameError: no such key; names the near one.
        ConfigError: a value of the wrong type; names key, expected and got.
    """
    checked = {str(k): _typed(str(k), v, source) for k, v in values.items()}
    return Config(**checked)


def _typed(key: str, value: Any, source: str) -> Any:
    """`value` as the type of the field `key`."""
    types = field_types()
    if key not in types:
        raise UnknownNameError("configuration key", key, types, f"(In {source}.)")
    try:
        return msgspec.convert(value, types[key])
    except msgspec.ValidationError as error:
        raise ConfigError(
            f"{source}: {key}: expected {type_text(types[key])}, got {value!r}. "
            f"What it is: {field_docs()[key]}"
        ) from error


def type_text(hint: Any) -> str:
    """A type in words: `int or null`, `transcript or window`, `key: value pairs`."""
    words = {int: "int", float: "number", str: "text", bool: "true or false", type(None): "null"}
    if hint in words:
        return words[hint]
    if getattr(hint, "__origin__", None) is dict:
        return "key: value pairs"
    if getattr(hint, "__origin__", None) is list:
        return f"a list of {type_text(hint.__args__[0])}"
    return " or ".join(type_text(a) if a in words else type_text_of(a) for a in hint.__args__)


def type_text_of(part: Any) -> str:
    """One alternative of a union or a Literal, in words."""
    return part if isinstance(part, str) else type_text(part)


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
    """The Config of a YAML file, or of a run's folder (its config.yaml)."""
    path = Path(path)
    path = path / CONFIG_NAME if path.is_dir() else path
    return from_dict(load_values(path), str(path))


def parse_override(text: str) -> tuple[list[str], Any]:
    """`key.sub=value` as (["key", "sub"], value); the value is read as YAML.

    Raises:
        ConfigError: no `=`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    parts = key.strip().lstrip("-").replace("-", "_").split(".")
    if not equals or not all(parts):
        raise ConfigError(f"override {text!r}: expected key=value or key.sub=value")
    return parts, load_yaml(value, f"override {text!r}") if value else ""


def apply_override(values: dict[str, Any], parts: list[str], value: Any) -> None:
    """Set `values[key][sub]... = value` in place; sub-keys exist only in fields of options."""
    types = field_types()
    if parts[0] not in types:
        raise UnknownNameError("configuration key", parts[0], types)
    if len(parts) == 1:
        values[parts[0]] = value
        return
    if getattr(types[parts[0]], "__origin__", None) is not dict:
        raise ConfigError(
            f"{'.'.join(parts)}: {parts[0]} is {type_text(types[parts[0]])} and has no sub-keys"
        )
    inside = values[parts[0]] = dict(values.get(parts[0]) or {})
    for part in parts[1:-1]:
        inside[part] = dict(inside.get(part) or {})
        inside = inside[part]
    inside[parts[-1]] = value


def resolve(
    file: str | Path | None = None,
    flags: Mapping[str, Any] | None = None,
    overrides: Iterable[str] = (),
) -> Config:
    """Defaults, then the file, then flags, then dotted overrides.

    Args:
        file: YAML file. Without one, `resume` starts from the configuration of its run.
        flags: whole fields by name; `env_args` are merged key by key.
        overrides: `key.sub=value` texts, later ones winning.

    Raises:
        ConfigError: see `from_dict`, `load_values` and `parse_override`.
    """
    flags = dict(flags or {})
    parsed = [parse_override(text) for text in overrides]
    given = {**flags, **{parts[0]: value for parts, value in parsed if len(parts) == 1}}
    values = _base(file, given)
    _choose_env(values, given.get("env"))
    _suggest(values, given.get("model", values.get("model", Config.model)))
    flags.pop("env", None)
    env_args = flags.pop("env_args", {})
    values.update(flags)
    for key, value in env_args.items():
        apply_override(values, ["env_args", key], value)
    for parts, value in parsed:
        if parts != ["env"]:
            apply_override(values, parts, value)
    return from_dict(values, str(file) if file else "the command line")


def _base(file: str | Path | None, given: Mapping[str, Any]) -> dict[str, Any]:
    """The values that flags go on top of."""
    if file is not None:
        return load_values(file)
    out = given.get("out")
    saved = Path(str(out)) / CONFIG_NAME if out and given.get("resume") is True else None
    if saved is None or not saved.is_file():
        return {}
    logger.info("resuming with the configuration in %s", saved)
    return load_values(saved)


def _choose_env(values: dict[str, Any], asked: Any) -> None:
    """Settle the environment's full id, and drop what was meant for another environment."""
    before = _full_id(values.get("env", DEFAULT_ENV))
    env = _full_id(asked) if asked is not None else before
    if env != before:
        for key in ("env_args", "warmstart_env_args", "train_split", "eval_split"):
            values.pop(key, None)
    values["env"] = env
    if isinstance(env, str):
        chosen = Config(env=env).env_args
        if chosen:
            values.setdefault("env_args", chosen)


def _suggest(values: dict[str, Any], model: Any) -> None:
    """Fill in what the environment suggests for runs in it, with the model first of all."""
    from aem_gym.training.config_check import MODELS, env_factory

    env = values["env"]
    if not isinstance(env, str):
        return  # from_dict tells what is wrong with it
    factory = env_factory(env)
    by_model = getattr(factory, "model_defaults", {}).get(model) if model in MODELS else None
    for suggested in (by_model, getattr(factory, "defaults", None)):
        for key, value in suggested.items() if isinstance(suggested, Mapping) else ():
            values.setdefault(key, value)


def _full_id(name: Any) -> Any:
    """The registered id of an environment; other packages' `module:Id` stay as they are."""
    if not isinstance(name, str):
        return name  # from_dict tells what is wrong with it
    found = find_env(name)
    return name if ":" in name and not found.startswith("aem_gym/") else found
