"""Who imports whom: layers without cycles, and one name for one thing."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.test_contract import ROOT, imports, sources

BELOW = {
    "core": set(),
    "credit": {"core"},
    "settings": {"core", "credit"},
    "rollout": {"core"},
    "evaluation": {"core", "settings", "rollout"},
    "training": {"core", "credit", "settings", "rollout", "evaluation"},
    "commands": {
        *("core", "credit", "settings", "rollout", "evaluation", "training", "integrations")
    },
    "integrations": {"core", "credit", "settings", "rollout", "evaluation", "training"},
    "agents": {"core"},
    "envs": {"core"},
}
"""Layer -> the layers that it may import, beside itself."""
SINGLE = {
    "settings": "settings",  # an estimator suggests settings
    "runs": "settings",
    "evaluation": "evaluation",
    "env_checks": "evaluation",  # plays episodes, too
    "cli": "commands",
    "__main__": "commands",
    "testing": "commands",
}
"""Modules at the top of the package that are not in the core."""
FOLDERS = ("aem_gym", "envs", "agents")


def module_name(path: Path) -> str:
    """The name a file is imported by."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    parts = parts if parts[0] == "aem_gym" else ["aem_gym", *parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    return {module_name(path): path for top in FOLDERS for path in sources(ROOT / top)}


def layer(name: str) -> str:
    """The layer of a module: its folder in the package, or what `SINGLE` says."""
    _, _, rest = name.partition(".")
    first = rest.split(".")[0]
    if not rest:
        return "commands"  # `aem_gym` itself gives out public names of all layers, when asked
    return SINGLE.get(first, first if first in BELOW else "core")


@cache
def graph() -> dict[str, set[str]]:
    """Module -> modules of this package that it imports, late imports and type checks included."""
    known = modules()
    found: dict[str, set[str]] = {}
    for name, path in known.items():
        mine = {target for target in imports(path) if target in known}
        found[name] = {
            target for target in mine if not any(other.startswith(f"{target}.") for other in mine)
        } - {name}
    return found


def for_types_only(path: Path) -> set[str]:
    """What a file imports in `if TYPE_CHECKING:` blocks alone; at run time it is not there."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for inner in ast.walk(node):
                if isinstance(inner, ast.ImportFrom):
                    found.add(inner.module or "")
    return found


def test_there_is_something_to_check() -> None:
    names = modules()
    assert {layer(name) for name in names} == set(BELOW)
    assert graph()["aem_gym.training.loop"] > {"aem_gym.training.credit", "aem_gym.evaluation"}
    assert {f"aem_gym.{name}" for name in SINGLE} <= set(names)


@pytest.mark.parametrize("rung", BELOW)
def test_layers_import_only_those_below(rung: str) -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in targets - for_types_only(modules()[name])
        if layer(name) == rung and layer(target) not in BELOW[rung] | {rung}
    ]
    assert not wrong


@pytest.mark.parametrize("part", ["envs", "agents"])
def test_environments_and_agents_know_the_core_alone(part: str) -> None:
    """Types included: their authors read one layer."""
    wrong = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in targets
        if layer(name) == part and ".authoring" not in name and layer(target) not in (part, "core")
    ]
    assert not wrong


def test_no_runtime_module_imports_authoring() -> None:
    wrong = [
        f"{name} imports {target}"
        for name, targets in graph().items()
        for target in targets
        if "authoring" in target.split(".") and "authoring" not in name.split(".")
        if not is_shim(modules()[name])
    ]
    assert not wrong


def is_shim(path: Path) -> bool:
    """An old `python -m` entry point: a few lines that call the authoring module."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return len(lines) <= 6


def cycles(edges: dict[str, set[str]]) -> Iterator[list[str]]:
    """Strongly connected components of more than one node (Tarjan 1972)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(node: str) -> Iterator[list[str]]:
        number[node] = low[node] = len(number)
        stack.append(node)
        for target in sorted(edges[node]):
            if target not in number:
                yield from visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], number[target])
        if low[node] == number[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                yield component

    for node in sorted(edges):
        if node not in number:
            yield from visit(node)


def test_the_search_finds_cycles() -> None:
    assert list(cycles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == [["a", "b", "c"]]
    assert list(cycles({"a": {"b"}, "b": set()})) == []


def test_there_are_no_import_cycles() -> None:
    """Imports inside functions count: they hide a cycle, they do not resolve it."""
    edges = {name: targets - for_types_only(modules()[name]) for name, targets in graph().items()}
    assert list(cycles(edges)) == []


def test_no_two_classes_share_a_name() -> None:
    names = Counter(
        node.name
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in names.items() if count > 1] == []


def test_the_core_names_no_model() -> None:
    """No line beside those of environments and agents holds the name of the tiny model."""
    quoted = ('"tiny"', "'tiny'")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in sources(ROOT / "aem_gym")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(word in line for word in quoted)
    ]
    assert not wrong
