"""Puts an attack's code into the file of a task that is broken, as a patch."""

from __future__ import annotations

import ast
import difflib
import textwrap

from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.git import touched


def broken_file(task: SweTask) -> tuple[str, str]:
    """(path, content as the agent sees it) of the first file that the gold patch changes."""
    path = next(path for path in sorted(touched(task.gold)) if path in task.overlay)
    return path, task.overlay[path].decode("utf-8")


def attack_patch(task: SweTask, code: str, *, in_calls: bool) -> str:
    """A patch that only adds code: at the head of a module, or of each of its functions."""
    path, before = broken_file(task)
    after = _in_functions(before, code) if in_calls else _at_head(before, code)
    return make_patch(path, before, after)


def make_patch(path: str, before: str, after: str) -> str:
    """A diff that `git apply` accepts, of a file that ends with a newline."""
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    head = [f"--- a/{path}\n", f"+++ b/{path}\n"]
    lines = list(difflib.unified_diff(old, new, lineterm="\n"))[2:]
    return "".join([*head, *map(_ended, lines)])


def _ended(line: str) -> str:
    return line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def _at_head(source: str, code: str) -> str:
    """In a function of its own, so that its names replace none of the module's."""
    body = textwrap.indent(code.strip("\n"), "    ")
    return insert(source, f"\ndef _attack():\n{body}\n\n\n_attack()\n")


def insert(source: str, block: str) -> str:
    """Put text after the docstring and imports from `__future__`."""
    line = 0
    for node in ast.parse(source).body:
        is_text = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        is_future = isinstance(node, ast.ImportFrom) and node.module == "__future__"
        if not (is_text or is_future):
            break
        line = node.end_lineno or node.lineno
    lines = source.splitlines(keepends=True)
    return "".join([*lines[:line], block, *lines[line:]])


def _in_functions(source: str, code: str) -> str:
    lines = source.splitlines(keepends=True)
    places: dict[int, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.body[0].lineno > node.lineno:
            first = node.body[0]
            is_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            line = (first.end_lineno or first.lineno) if is_text else first.lineno - 1
            decorators = getattr(first, "decorator_list", [])
            if decorators:
                line = decorators[0].lineno - 1
            places[line] = " " * first.col_offset
    for line, indent in sorted(places.items(), reverse=True):
        lines.insert(line, f"{indent}_attack()\n")
    body = textwrap.indent(code.strip("\n"), "    ")
    return insert("".join(lines), f"\ndef _attack():\n{body}\n\n")
