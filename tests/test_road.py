"""The counts of benchmarks.road: imports, cycles, class names, and the functions entered."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.road.source import (
    cycles,
    imports,
    read_modules,
    repeated_classes,
    single_importers,
    span_lines,
)
from benchmarks.road.trace import Tracer

ROOT = Path(__file__).resolve().parents[1]


def write(tree: Path, **files: str) -> Path:
    """A package of the given modules; `__` in a name is a folder."""
    package = tree / "aem_gym"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name, text in files.items():
        file = package / f"{name.replace('__', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        (file.parent / "__init__.py").touch()
        file.write_text(text)
    return tree


def edges(tree: Path) -> set[tuple[str, str]]:
    found = imports(tree, read_modules(tree))
    return {(e.source.removeprefix("aem_gym."), e.target.removeprefix("aem_gym.")) for e in found}


def test_every_way_to_import_is_an_edge(tmp_path: Path) -> None:
    tree = write(
        tmp_path,
        a="import aem_gym.b\nfrom aem_gym import c\nfrom aem_gym.d import thing\nimport os",
        b="def late():\n    from aem_gym.a import x",
        c="NAMES = {name: f'aem_gym.a:{name}' for name in 'xy'}\nB = 'aem_gym.b:B'",
        d="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from aem_gym import c",
        sub__e="from .f import g\nfrom ..a import x\nfrom . import f\nimport aem_gym.sub",
        sub__f="'''No import: aem_gym.a:x'''",
    )
    (tree / "pyproject.toml").write_text("[project.scripts]\ncommand = 'aem_gym.d:main'")
    assert edges(tree) == {
        *(("a", "b"), ("a", "c"), ("a", "d"), ("b", "a"), ("c", "a"), ("c", "b"), ("d", "c")),
        *(("sub.e", "sub.f"), ("sub.e", "a"), ("sub.e", "sub"), ("pyproject.toml", "d")),
    }


def test_a_module_with_one_importer_is_found(tmp_path: Path) -> None:
    tree = write(
        tmp_path,
        a="import aem_gym.b\nfrom aem_gym.b import x\nimport aem_gym.c",
        b="import aem_gym.c",
        c="",
        d="OTHER = 'aem_gym.e:main'",
        e="",
    )
    modules = read_modules(tree)
    single = single_importers(modules, imports(tree, modules))
    assert single == {"aem_gym.b": "aem_gym.a", "aem_gym.e": "aem_gym.d"}


@pytest.mark.parametrize(
    ("back", "expected"),
    [
        ("def late():\n    import aem_gym.a", [["aem_gym.a", "aem_gym.b", "aem_gym.c"]]),
        ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import aem_gym.a", []),
        ("A = 'aem_gym.a:A'", []),
        ("", []),
    ],
)
def test_late_imports_close_cycles_and_type_checks_do_not(
    back: str, expected: list[list[str]], tmp_path: Path
) -> None:
    tree = write(tmp_path, a="import aem_gym.b", b="from aem_gym import c", c=back)
    assert cycles(imports(tree, read_modules(tree))) == expected


def test_class_names_defined_twice_are_found(tmp_path: Path) -> None:
    tree = write(
        tmp_path, a="class A:\n    class In: ...\nclass _P: ...", b="class In: ...\nclass _P: ..."
    )
    found = repeated_classes(read_modules(tree))
    assert found == {
        "In": ["aem_gym/a.py:2", "aem_gym/b.py:1"],
        "_P": ["aem_gym/a.py:3", "aem_gym/b.py:2"],
    }


def test_authoring_is_told_by_its_folder(tmp_path: Path) -> None:
    modules = read_modules(write(tmp_path, a="x = 1\n", authoring__b="x = 1\ny = 2\n"))
    assert [m.name for m in modules.values() if m.authoring] == [
        "aem_gym.authoring",
        "aem_gym.authoring.b",
    ]


CODE = """
def outer(metrics):
    def inner():
        return [
            1,
        ]

    metrics.write_text("one\\n")
    return inner()


class Thing:
    @property
    def value(self):
        return (lambda: 1)()


def unused():
    return 1
"""


def test_functions_are_noted_between_two_lines_of_the_metrics(tmp_path: Path) -> None:
    tree = write(tmp_path, a=CODE)
    file, metrics = tree / "aem_gym" / "a.py", tree / "metrics.jsonl"
    tracer, space = Tracer(tree / "aem_gym", metrics), {}
    tracer.start()
    try:
        exec(compile(CODE, str(file), "exec"), space)
        space["outer"](metrics)
        assert space["Thing"]().value == 1
        metrics.write_text("one\ntwo\n")
        space["unused"]()
    finally:
        tracer.stop()
    report = tracer.report(tree)
    assert report["job"] == {"aem_gym/a.py": 5}  # outer, inner, value, its lambda, unused
    assert report["step"] == {"aem_gym/a.py": 3}  # without outer and unused
    module = read_modules(tree)["aem_gym.a"]
    assert span_lines(module, report["spans"]["aem_gym/a.py"]) == 4 + 3


def test_this_tree_can_be_read() -> None:
    modules = read_modules(ROOT)
    assert "aem_gym.envs.alfworld.env" in modules and "aem_gym.registry" in modules
    targets = {edge.target for edge in imports(ROOT, modules)}
    assert "aem_gym.envs.alfworld.env" in targets  # by its registered string
    assert "aem_gym.cli" in targets  # by its entry point
