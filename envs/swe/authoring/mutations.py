"""Changes of Python files: small errors in a function, and functions that are cut out."""

from __future__ import annotations

import ast
import hashlib
import tokenize
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from itertools import zip_longest

import numpy as np

from aem_gym.envs.swe.authoring.operators import Edit, Text, edits
from aem_gym.errors import AemGymError

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class MutationError(AemGymError, ValueError):
    """A mutation was made for another file."""


@dataclass(frozen=True, slots=True)
class Mutation:
    path: str
    """In the repository, with forward slashes."""
    operator: str
    function: str
    """Its qualified name in the file, such as `Cache.get`."""
    start: int
    end: int
    """The bytes from `start` to before `end` are replaced."""
    replacement: str
    source: str
    """SHA-256 of the file before the edit (16 digits)."""

    def apply(self, source: bytes) -> bytes:
        """The file with the edit. Raises MutationError if it is another file."""
        if digest(source) != self.source:
            raise MutationError(
                f"{self.path}: expected the file with SHA-256 {self.source}..., got "
                f"{digest(source)}...: the mutation was made for another version. Delete the "
                "journal beside the suite, and run aem-gym swe generate again"
            )
        return source[: self.start] + self.replacement.encode() + source[self.end :]


def digest(source: bytes) -> str:
    return hashlib.sha256(source).hexdigest()[:16]


def functions(tree: ast.Module) -> Iterator[tuple[str, FunctionNode]]:
    """Functions and methods with their qualified names; none that lie within a function.

    A name that is defined twice (by version, by system) is left out: either may be the one in use.
    """
    found: dict[str, list[FunctionNode]] = {}
    waiting: list[tuple[str, ast.stmt]] = [("", node) for node in reversed(tree.body)]
    while waiting:
        prefix, node = waiting.pop()
        if isinstance(node, FunctionNode):
            found.setdefault(prefix + node.name, []).append(node)
        elif isinstance(node, ast.ClassDef):
            waiting += [(f"{prefix}{node.name}.", inner) for inner in reversed(node.body)]
    for name, nodes in found.items():
        if len(nodes) == 1:
            yield name, nodes[0]


def mutants(
    source: bytes, path: str, rng: np.random.Generator, *, function: str | None = None
) -> Iterator[Mutation]:
    """All mutations of a file (or of one function) in random order; the operators take turns.

    A file that is not Python in UTF-8 has none.
    """
    tree = parse(source)
    if tree is None:
        return
    text, before = Text(source), ast.dump(tree)
    found = [
        (name, edit)
        for name, node in functions(tree)
        if function in (None, name)
        for edit in edits(node, text)
    ]
    for name, edit in _mixed(found, rng):
        mutation = Mutation(
            path, edit.operator, name, edit.start, edit.end, edit.replacement, digest(source)
        )
        after = parse(mutation.apply(source))
        if after is not None and ast.dump(after) != before:
            yield mutation


@lru_cache(maxsize=8)
def parse(source: bytes) -> ast.Module | None:
    """The tree (cached: do not change it); None if it does not compile or is not UTF-8."""
    try:
        if tokenize.detect_encoding(BytesIO(source).readline)[0] != "utf-8":
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as `"" is x` and old escapes
            tree = ast.parse(source)
            compile(tree, "<mutant>", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError):
        return None
    return tree


def _mixed(found: list[tuple[str, Edit]], rng: np.random.Generator) -> Iterator[tuple[str, Edit]]:
    kinds: dict[str, list[tuple[str, Edit]]] = {}
    for index in rng.permutation(len(found)):
        kinds.setdefault(found[index][1].operator, []).append(found[index])
    for row in zip_longest(*kinds.values()):
        yield from (item for item in row if item is not None)


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
