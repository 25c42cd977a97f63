"""Compares two recordings value by value.

A recording is a file of JSON lines `{"at": PLACE, "value": VALUE}`; VALUE may nest. Numbers are
equal only if all their digits are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

_NOTHING = "<nothing>"


@dataclass(frozen=True)
class Allowed:
    """Keys that may differ between the sides, at any depth of a part."""

    added: frozenset[str] = frozenset()
    """Keys that only the present tree has; one that ends in `/` allows all that begin with it."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Old key -> new key."""


@dataclass(frozen=True)
class Comparison:
    """How many values of a part were compared, and how many differ."""

    compared: int
    different: int
    first: str = ""
    """The first difference: its place, and both values."""


def compare(base: Path, present: Path, allowed: Allowed | None = None) -> Comparison:
    """Compare two recordings; a value that only one side has is a difference."""
    allowed = allowed or Allowed()
    compared = different = 0
    first = ""
    with base.open(encoding="utf-8") as old, present.open(encoding="utf-8") as new:
        for line, other in zip_longest(old, new, fillvalue="{}"):
            for place, one, two in _pairs(json.loads(line), json.loads(other), allowed):
                compared += 1
                if one != two:
                    different += 1
                    first = first or f"{place}: {_change(one, two)}"
    return Comparison(compared, different, first)


def _pairs(old: Any, new: Any, allowed: Allowed) -> Iterator[tuple[str, str, str]]:
    """Place and both values, as text, of every leaf of a line."""
    place = old.get("at", "") or f"{new.get('at', '')} (not in the base)"
    if old.get("at") != new.get("at"):
        yield "at", str(old.get("at", _NOTHING)), str(new.get("at", _NOTHING))
        return
    theirs = dict(_leaves(old.get("value"), "", allowed.renamed))
    ours = dict(_leaves(new.get("value"), "", {}))
    for path in dict.fromkeys([*theirs, *ours]):
        if path not in theirs and _is_added(path, allowed.added):
            continue
        yield place + path, theirs.get(path, _NOTHING), ours.get(path, _NOTHING)


def _is_added(path: str, added: frozenset[str]) -> bool:
    starts = tuple(key for key in added if key.endswith("/"))
    keys = [part.partition("[")[0] for part in path.split(".")]
    return any(key in added or (starts and key.startswith(starts)) for key in keys)


def _leaves(value: Any, path: str, renamed: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{renamed.get(key, key)}", renamed)
    elif isinstance(value, list) and value:
        yield f"{path}.length", str(len(value))
        for number, inner in enumerate(value):
            yield from _leaves(inner, f"{path}[{number}]", renamed)
    else:
        yield path, json.dumps(value)


def _change(old: str, new: str) -> str:
    """Both values; of long ones what is around the first character that differs."""
    same = next((i for i, (a, b) in enumerate(zip(old, new, strict=False)) if a != b), 0)
    start = max(0, same - 60)
    return " became ".join(_part(text, start) for text in (old, new))


def _part(text: str, start: int) -> str:
    if len(text) <= 200:
        return text
    end = start + 120
    return f"{'...' if start else ''}{text[start:end]}{'...' if end < len(text) else ''}"
