"""Cuts functions out of test files, to hide tests."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator

from aem_gym.envs.swe.authoring.mutations import functions, parse


def function_of(test: str) -> tuple[str, str]:
    """File and qualified name of the function of a node id: `a.py::C::f[x]` -> `a.py`, `C.f`."""
    file, _, rest = test.partition("::")
    return file, rest.partition("[")[0].replace("::", ".")


def names(source: bytes) -> frozenset[str]:
    """Qualified names of the functions that can be cut out of a file."""
    tree = parse(source)
    return frozenset(name for name, _ in functions(tree)) if tree else frozenset()


def cut(source: bytes, gone: Collection[str]) -> bytes | None:
    """A file without some functions, by qualified names; None if that cannot be done.

    Whole lines are removed, decorators included. A class without a body gets a `pass`.
    """
    tree = parse(source)
    nodes = dict(functions(tree)) if tree else {}
    if tree is None or not nodes.keys() >= set(gone):
        return None
    cuts = sorted((nodes[name] for name in gone), key=lambda node: node.lineno, reverse=True)
    emptied = [owner.body[0] for owner in _classes(tree) if set(owner.body) <= set(cuts)]
    lines = source.splitlines(keepends=True)
    for node in cuts:
        first = min([node.lineno, *(part.lineno for part in node.decorator_list)]) - 1
        rest = [b" " * node.col_offset + b"pass\n"] if node in emptied else []
        lines[first : node.end_lineno] = rest
    return b"".join(lines)


def _classes(node: ast.Module | ast.ClassDef) -> Iterator[ast.ClassDef]:
    for inner in node.body:
        if isinstance(inner, ast.ClassDef):
            yield inner
            yield from _classes(inner)
