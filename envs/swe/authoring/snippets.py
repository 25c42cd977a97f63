"""The code of a failing test as a few lines that a user could have run."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from aem_gym.envs.swe.authoring.mutations import FunctionNode, function_of, functions, parse

_MOST_LINES = 15
_DEFINITION = FunctionNode | ast.ClassDef


@dataclass(frozen=True, slots=True)
class Snippet:
    setup: tuple[str, ...]
    """Lines that come before it."""
    statement: str
    """The statement that failed."""
    unknown: frozenset[str] = frozenset()
    """Names that neither the snippet nor the test's file defines: fixtures and parameters."""


def snippet(source: bytes, test: str, line: int, values: Mapping[str, str]) -> Snippet | None:
    """The statement of a test at a line (None if there is none), and those that it depends on.

    `values` are values of variables, for those that the test does not set.
    """
    tree = parse(source)
    function = dict(functions(tree)).get(function_of(test)[1]) if tree else None
    if tree is None or function is None:
        return None
    around = [node for node in _statements(function) if _holds(node, line)]
    if not around:
        return None
    # A `try` is shown with the assertions in its handlers.
    caught = [node for node in around if isinstance(node, ast.Try)]
    shown = caught[-1] if caught and _in_handler(caught[-1], line) else around[-1]
    before = list(_before(function, shown))
    local = {name for node in before for name in _stored(node)}
    helpers = [node for node in tree.body if _is_helper(node) and not _written(node) & local]
    setup, needed = _setup(shown, [*helpers, *before])
    if len(_text(source, setup)) > _MOST_LINES:
        setup, needed = _setup(shown, before)
    while len(_text(source, setup)) > _MOST_LINES:
        setup = setup[1:]
    written = {name for node in before for name in _written(node)}
    unset = sorted((needed & values.keys()) - written)
    given = [f"{name} = {values[name]}" for name in unset]
    inner = _parameters(shown).union(*(_written(node) for node in (shown, *setup)))
    unknown = needed - inner - written - set(unset) - _known(source)
    lines = (*given, *_text(source, setup))
    return Snippet(lines, "\n".join(_lines(source, shown)), frozenset(unknown))


def _setup(shown: ast.stmt, before: Sequence[ast.stmt]) -> tuple[list[ast.stmt], set[str]]:
    """The statements that set the names a statement needs, and all names that these need."""
    needed = _read(shown)
    setup: list[ast.stmt] = []
    for node in reversed(before):
        if _written(node) & needed:
            needed |= _read(node)
            setup = [node, *setup]
    return setup, needed


def _before(function: FunctionNode, shown: ast.stmt) -> Iterator[ast.stmt]:
    """The statements that ran before one: those above it in its block and in those around it."""
    parent: ast.AST = function
    while parent is not shown:
        nodes: Sequence[ast.stmt | ast.excepthandler] = list(_children(parent))
        inside = next((node for node in nodes if _holds(node, shown.lineno)), None)
        if inside is None:
            return
        if isinstance(parent, ast.If):
            nodes = parent.body if inside in parent.body else parent.orelse
        for node in nodes:
            if isinstance(node, ast.stmt) and node.lineno < inside.lineno:
                yield node
        parent = inside


def _children(node: ast.AST) -> Iterator[ast.stmt | ast.excepthandler]:
    kinds = (ast.stmt, ast.excepthandler)
    return (child for child in ast.iter_child_nodes(node) if isinstance(child, kinds))


def _statements(function: FunctionNode) -> Iterator[ast.stmt]:
    return (node for node in ast.walk(function) if isinstance(node, ast.stmt) if node != function)


def _holds(node: ast.stmt | ast.excepthandler, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or 0)


def _in_handler(node: ast.Try, line: int) -> bool:
    return any(_holds(handler, line) for handler in node.handlers)


def _parameters(node: ast.AST) -> set[str]:
    return {part.arg for part in ast.walk(node) if isinstance(part, ast.arg)}


def _is_helper(node: ast.stmt) -> bool:
    """Whether a statement of a test's file is a helper of tests, not a test."""
    if isinstance(node, _DEFINITION):
        return not node.name.lower().startswith("test") and not node.decorator_list
    return isinstance(node, ast.Assign | ast.AnnAssign)


def _text(source: bytes, nodes: Iterable[ast.stmt]) -> list[str]:
    return [line for node in nodes for line in _lines(source, node)]


def _lines(source: bytes, node: ast.stmt) -> list[str]:
    """The lines of a statement, moved to the left; those of a long string stay as they are."""
    first = min([node.lineno, *(part.lineno for part in getattr(node, "decorator_list", ()))])
    found = source.decode("utf-8").split("\n")[first - 1 : node.end_lineno]
    fixed: set[int] = set()
    for part in ast.walk(node):
        if isinstance(part, ast.Constant | ast.JoinedStr) and part.end_lineno:
            fixed.update(range(part.lineno + 1, part.end_lineno + 1))
    margin = " " * node.col_offset
    lines = [
        line if number in fixed else line.removeprefix(margin)
        for number, line in enumerate(found, first)
    ]
    return [line.rstrip("\r") for line in lines]


def _read(node: ast.AST) -> set[str]:
    """Names that code reads from its surroundings."""
    names = [part for part in ast.walk(node) if isinstance(part, ast.Name)]
    read = {name.id for name in names if isinstance(name.ctx, ast.Load)}
    if not isinstance(node, _DEFINITION):
        return read
    own = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return read - own - _parameters(node)


@lru_cache(maxsize=4)
def _known(source: bytes) -> frozenset[str]:
    """Names that a file sets, imports or defines, and the builtins."""
    tree = parse(source)
    found = {"self", *dir(builtins)}
    for node in tree.body if tree else ():
        found |= _written(node)
    return frozenset(found)


def _stored(node: ast.AST) -> set[str]:
    """Names that code sets."""
    names = (part for part in ast.walk(node) if isinstance(part, ast.Name))
    return {name.id for name in names if isinstance(name.ctx, ast.Store)}


def _written(node: ast.stmt) -> set[str]:
    """Names that a statement sets or changes: by an item, an attribute or a method."""
    if isinstance(node, _DEFINITION):
        return {node.name}
    found = _stored(node)
    for part in ast.walk(node):
        if isinstance(part, ast.Subscript | ast.Attribute) and not isinstance(part.ctx, ast.Load):
            if isinstance(part.value, ast.Name):
                found.add(part.value.id)
        elif isinstance(part, _DEFINITION | ast.ExceptHandler) and part.name:
            found.add(part.name)
        elif isinstance(part, ast.alias):
            found.add((part.asname or part.name).partition(".")[0])
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        owner = node.value.func
        if isinstance(owner, ast.Attribute) and isinstance(owner.value, ast.Name):
            found.add(owner.value.id)
    return found - {"self"}
