"""What a failing test did, as a few lines of code that a user could have run."""

from __future__ import annotations

import ast
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from aem_gym.envs.swe.tasks.cuts import function_of
from aem_gym.envs.swe.tasks.mutations import FunctionNode, functions, parse

_MOST_LINES = 15


@dataclass(frozen=True, slots=True)
class Snippet:
    """Code that shows a failure."""

    setup: tuple[str, ...]
    """Lines that come before it."""
    statement: str
    """Which failed."""


def snippet(source: bytes, test: str, line: int, values: Mapping[str, str]) -> Snippet | None:
    """The statement of a test at a line, and what of the test's own it builds on.

    Args:
        source: the test's file.
        test: its node id.
        line: where it failed.
        values: of its variables; for those that the test does not set itself.

    Returns:
        None if there is no statement at that line.
    """
    tree = parse(source)
    function = dict(functions(tree)).get(function_of(test)[1]) if tree else None
    if function is None:
        return None
    around = [node for node in _statements(function) if _holds(node, line)]
    if not around:
        return None
    needed = _read(around[-1])
    setup: list[str] = []
    before = [node for node in function.body if node.lineno < around[0].lineno]
    for node in reversed(before):
        if _written(node) & needed:
            needed |= _read(node)
            setup = [*_lines(source, node), *setup]
    if len(setup) > _MOST_LINES:
        setup = []
    written = {name for node in before for name in _written(node)}
    unset = sorted((needed & values.keys()) - written)
    given = [f"{name} = {values[name]}" for name in unset]
    return Snippet((*given, *setup), "\n".join(_lines(source, around[-1])))


def _statements(function: FunctionNode) -> Iterator[ast.stmt]:
    """All statements within a function, outer ones first."""
    return (node for node in ast.walk(function) if isinstance(node, ast.stmt) if node != function)


def _holds(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or 0)


def _lines(source: bytes, node: ast.stmt) -> list[str]:
    found = source.splitlines()[node.lineno - 1 : node.end_lineno]
    return textwrap.dedent(b"\n".join(found).decode("utf-8")).split("\n")


def _read(node: ast.AST) -> set[str]:
    names = (part for part in ast.walk(node) if isinstance(part, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Load)}


def _written(node: ast.stmt) -> set[str]:
    """Names that a statement sets, or changes by calling a method of theirs."""
    found: set[str] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            found.add(part.id)
        elif isinstance(part, FunctionNode | ast.ClassDef):
            found.add(part.name)
        elif isinstance(part, ast.alias):
            found.add((part.asname or part.name).partition(".")[0])
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        owner = node.value.func
        if isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name):
            found.add(owner.value.id)
    return found - {"self"}
