"""Mutations: slips in a function that still compile, and that a few hundred bytes describe."""

from __future__ import annotations

import ast
import hashlib
import tokenize
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from io import BytesIO
from itertools import zip_longest

import numpy as np

from aem_gym.envs.swe.tasks.operators import Edit, Text, edits
from aem_gym.errors import AemGymError

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


class MutationError(AemGymError, ValueError):
    """A mutation does not belong to the source at hand."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One edit of one file, which can be made again wherever the same file is."""

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
    """SHA-256 of the file as it was (16 digits)."""

    def apply(self, source: bytes) -> bytes:
        """The file with the edit.

        Raises:
            MutationError: it is another file.
        """
        if digest(source) != self.source:
            raise MutationError(
                f"{self.path}: expected the file with SHA-256 {self.source}..., got "
                f"{digest(source)}...: this mutation was made for another version. Fetch the "
                "version that the suite names, or make the suite anew with "
                "python -m aem_gym.envs.swe.tasks.generate"
            )
        return source[: self.start] + self.replacement.encode() + source[self.end :]

    def reverse(self, source: bytes) -> Mutation:
        """The mutation that undoes this one, given the file as it was."""
        mutated = self.apply(source)
        return replace(
            self,
            end=self.start + len(self.replacement.encode()),
            replacement=source[self.start : self.end].decode("utf-8"),
            source=digest(mutated),
        )


def digest(source: bytes) -> str:
    """What tells a file from every other: 16 digits of its SHA-256."""
    return hashlib.sha256(source).hexdigest()[:16]


def functions(tree: ast.Module) -> Iterator[tuple[str, FunctionNode]]:
    """Functions and methods with their qualified names; none that lie within a function.

    A name that is defined twice (by version, by system) is left out: which one counts is not known
    from the source.
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
    """Every mutation of a file in a random order, in which kinds of slips take turns.

    Args:
        source: a Python file in UTF-8; others have no mutants.
        path: in the repository.
        rng: decides the order.
        function: only of this one.
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
    """The tree of a file; None if it is not Python in UTF-8, or does not compile.

    The tree is kept for the next who asks: it is not to be changed.
    """
    try:
        if tokenize.detect_encoding(BytesIO(source).readline)[0] != "utf-8":
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # `"" is x` and old escapes are no business of ours
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
