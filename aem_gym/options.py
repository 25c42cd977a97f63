"""Options of components, checked once before a run: their names, types and ranges.

What an option takes is read off the component's own signature: `flag: bool = True` takes true or
false, `weight: float = 1.0` a finite number, `gamma: Share = 0.95` a number from 0 to 1. Where an
annotation is not understood, nothing is checked: components of other packages may take anything.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import NoneType, SimpleNamespace, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin, get_type_hints

from aem_gym.errors import ConfigError, UnknownNameError

RULES: Mapping[str, tuple[str, Callable[[float, float], bool]]] = {
    "at_least": ("at least", operator.ge),
    "above": ("above", operator.gt),
    "below": ("below", operator.lt),
    "at_most": ("at most", operator.le),
}
"""Kind of a bound -> its words, and whether a number keeps it."""
_INFINITY = float("inf")


@dataclass(frozen=True)
class Bounds:
    """The range of a number: `Annotated[float, Bounds(above=0)]`."""

    at_least: float | None = None
    above: float | None = None
    below: float | None = None
    at_most: float | None = None

    def given(self) -> dict[str, float]:
        return {kind: bound for kind, bound in vars(self).items() if bound is not None}

    def hold(self, value: float) -> bool:
        return all(RULES[kind][1](value, bound) for kind, bound in self.given().items())

    def __str__(self) -> str:
        return " and ".join(f"{RULES[kind][0]} {bound}" for kind, bound in self.given().items())


Share: TypeAlias = Annotated[float, Bounds(at_least=0, at_most=1)]
NotNegative: TypeAlias = Annotated[float, Bounds(at_least=0)]
Positive: TypeAlias = Annotated[float, Bounds(above=0)]
AboveOne: TypeAlias = Annotated[float, Bounds(above=1)]


def check_options(
    key: str, function: Callable[..., Any], options: Mapping[str, Any], given: Iterable[str] = ()
) -> None:
    """Does `function` take each of `options` by keyword, and its value?

    Args:
        key: the setting that holds the options, for messages.
        function: the component.
        options: names and values to check.
        given: keyword arguments that the caller passes itself, so not options.

    Raises:
        UnknownNameError: it does not take one; lists what `key` may hold.
        ConfigError: a value of another type, out of range, or not finite.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return
    known = {p.name for p in parameters if p.default is not p.empty or p.kind is p.KEYWORD_ONLY}
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for name in options:
        if not anything and name not in known - set(given):
            kind = f"option in {key} (of {getattr(function, '__name__', function)})"
            raise UnknownNameError(kind, name, known - set(given))
    check_values(key, function, options)


def check_values(key: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise ConfigError where `function` cannot use the value of an option that it has."""
    parameters = inspect.signature(function).parameters
    for name, value in options.items():
        if name not in parameters or _is_same(value, parameters[name].default):
            continue
        hint = _hint(function, parameters[name])
        if not _takes(hint, value):
            raise ConfigError(f"{key}.{name}: expected {_text(hint)}, got {value!r}")


def _is_same(value: Any, default: Any) -> bool:
    """Whether a value is the default: those of other packages may be infinite, or anything."""
    return value is default or (
        type(value) is type(default) and isinstance(value, float | str) and value == default
    )


def _hint(function: Callable[..., Any], parameter: inspect.Parameter) -> Any:
    """What a parameter takes as a type; Any where nothing says it, or in a way not understood."""
    if parameter.annotation is parameter.empty:
        if isinstance(parameter.default, bool):
            return bool | None
        return float | None if isinstance(parameter.default, int | float) else Any
    inner: Any = inspect.unwrap(function)
    called = getattr(inner, "__init__" if isinstance(inner, type) else "__call__")
    names = getattr(inner, "__globals__", None) or getattr(called, "__globals__", {})
    holder = SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return get_type_hints(holder, names, include_extras=True)[parameter.name]
    except Exception:  # a name of another package that exists for type checkers only, say
        return Any


def _takes(hint: Any, value: Any) -> bool:
    """Whether a value is of a type; true for types that are not understood."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [part for part in parts[1:] if isinstance(part, Bounds)]
        return _takes(parts[0], value) and all(each.hold(value) for each in bounds)
    if origin in (Union, UnionType):
        return any(_takes(part, value) for part in parts)
    if origin is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    if hint is float:  # YAML's 1 is an int
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and -_INFINITY < value < _INFINITY
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint) if hint in (bool, str, NoneType) else True


def _text(hint: Any) -> str:
    """A type in words, as `_takes` understands it."""
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "a text"}
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        bounds = [str(part) for part in parts[1:] if isinstance(part, Bounds)]
        return " ".join([_text(parts[0]), *bounds])
    if origin in (Union, UnionType):
        return " or ".join(map(_text, parts))
    if origin is Literal:
        return " or ".join(map(repr, parts))
    return "null" if hint is NoneType else words.get(hint, str(hint))
