"""Counts over the source of the package: modules, lines, importers, import cycles, class names.

Nothing is imported: every figure comes from the syntax trees of the files below `aem_gym/`.
"""

from __future__ import annotations

import ast
import os
import re
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

PACKAGE = "aem_gym"
SHORT = 150
"""A module of fewer lines that only one other imports could be part of its importer."""
_TARGET = re.compile(rf"({PACKAGE}(?:\.\w+)*):[\w.]*")


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    name: str
    path: Path
    """Below the folder of the tree, through the links of `aem_gym/`."""
    lines: int
    tree: ast.Module

    @property
    def authoring(self) -> bool:
        """Whether it makes or shows data, off the road."""
        return "authoring" in self.path.parts

    @property
    def is_package(self) -> bool:
        """Whether it is the `__init__` of a folder."""
        return self.path.name == "__init__.py"


@dataclass(frozen=True)
class Import:
    """An edge from a module to another."""

    source: str
    target: str
    runtime: bool
    """An import statement that runs, at once or late: no string, and not only for type checks."""


def read_modules(tree: Path) -> dict[str, Module]:
    """All modules of the package below `tree`, by dotted name."""
    found = {}
    for folder, _, files in os.walk(tree / PACKAGE, followlinks=True):
        for file in sorted(files):
            if file.endswith(".py"):
                module = _read(tree, Path(folder, file))
                found[module.name] = module
    return dict(sorted(found.items()))


def _read(tree: Path, file: Path) -> Module:
    path = file.relative_to(tree)
    parts = path.with_suffix("").parts
    name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
    text = file.read_text(encoding="utf-8")
    return Module(name, path, len(text.splitlines()), ast.parse(text, str(path)))


def imports(tree: Path, modules: Mapping[str, Module]) -> list[Import]:
    """Every edge within the package, registered strings and entry points included."""
    found = []
    for module in modules.values():
        typing = _only_for_types(module.tree)
        for node in ast.walk(module.tree):
            for target in _targets(node, module, modules):
                if target != module.name:
                    statement = isinstance(node, ast.Import | ast.ImportFrom)
                    found.append(Import(module.name, target, statement and node not in typing))
    return found + [Import("pyproject.toml", name, False) for name in _entry_points(tree, modules)]


def _only_for_types(tree: ast.Module) -> set[ast.AST]:
    """Nodes below `if TYPE_CHECKING:`."""
    found: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            found.update(inner for child in node.body for inner in ast.walk(child))
    return found


def _targets(node: ast.AST, module: Module, modules: Mapping[str, Module]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in modules)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.name.split(".")
            above = parts[: len(parts) - node.level + module.is_package]
            base = ".".join([*above, base] if base else above)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            if inner in modules or base in modules:
                yield inner if inner in modules else base
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        match = _TARGET.fullmatch(node.value)
        if match and match[1] in modules:
            yield match[1]


def _entry_points(tree: Path, modules: Mapping[str, Module]) -> list[str]:
    file = tree / "pyproject.toml"
    if not file.is_file():
        return []
    project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    groups = [project.get("scripts", {}), *project.get("entry-points", {}).values()]
    named = [target.partition(":")[0] for group in groups for target in group.values()]
    return [name for name in named if name in modules]


def single_importers(modules: Mapping[str, Module], edges: list[Import]) -> dict[str, str]:
    """Modules with exactly one importer, and that importer; packages and entry points aside."""
    importers: dict[str, set[str]] = defaultdict(set)
    for edge in edges:
        importers[edge.target].add(edge.source)
    plain = [m for m in modules.values() if m.path.stem not in ("__init__", "__main__")]
    return {m.name: min(importers[m.name]) for m in plain if len(importers[m.name]) == 1}


def cycles(edges: list[Import]) -> list[list[str]]:
    """Groups of modules that import one another, directly or through others, late or at once."""
    following: dict[str, set[str]] = defaultdict(set)
    for edge in edges:
        if edge.runtime:
            following[edge.source].add(edge.target)
    reach = {name: _reachable(name, following) for name in list(following)}
    groups = {
        frozenset(other for other in reached if name in reach.get(other, ()))
        for name, reached in reach.items()
        if name in reached
    }
    return sorted(sorted(group) for group in groups)


def _reachable(start: str, following: Mapping[str, set[str]]) -> set[str]:
    found: set[str] = set()
    todo = [start]
    while todo:
        new = following.get(todo.pop(), set()) - found
        found |= new
        todo += new
    return found


def repeated_classes(modules: Mapping[str, Module]) -> dict[str, list[str]]:
    """Class names that are defined more than once, with the places."""
    places: dict[str, list[str]] = defaultdict(list)
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{module.path}:{node.lineno}")
    return {name: where for name, where in sorted(places.items()) if len(where) > 1}


def span_lines(module: Module, first_lines: Mapping[int, int]) -> int:
    """Lines covered by the functions entered; those of a nested function count once.

    Args:
        module: their file.
        first_lines: first line of a function's code (its decorators included) -> the last line
            that has code, for functions without a name.
    """
    ends: dict[int, int] = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = min([node.lineno, *(d.lineno for d in node.decorator_list)])
            ends[first] = node.end_lineno or node.lineno
    covered: set[int] = set()
    for first, last in first_lines.items():
        covered.update(range(first, ends.get(first, last) + 1))
    return len(covered)
