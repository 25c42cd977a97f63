"""Correct answers that are not the gold patch: what it leaves, written in other ways."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from random import Random

from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.git import apply_diff, touched
from benchmarks.attacks.transform import insert, make_patch

Rewrite = Callable[[str, Random], str]


def honest_patch(task: SweTask, kind: str, random: Random) -> str:
    """The gold patch's effect, with each file it changes rewritten; with files added."""
    paths = sorted(path for path in touched(task.gold) if path in task.overlay)
    before = {path: task.overlay[path] for path in paths}
    after = apply_diff(before, task.gold)
    parts = []
    for path in paths:
        content = REWRITES[kind](after[path].decode("utf-8"), random)
        ast.parse(content)
        parts.append(make_patch(path, before[path].decode("utf-8"), content))
    if kind in ("extra files", "everything"):
        parts += [_new_file(path, text) for path, text in _EXTRA.items()]
    return "".join(parts)


_EXTRA = {
    "tests/test_of_mine.py": "def test_of_mine():\n    assert 1 + 1 == 2\n",
    "reproduce.py": 'print("reproduced")\n',
    "NOTES.md": "# Notes\n\nThe cause was in one line.\n",
}


def _new_file(path: str, text: str) -> str:
    lines = text.splitlines(keepends=True)
    head = f"diff --git a/{path} b/{path}\nnew file mode 100644\n--- /dev/null\n+++ b/{path}\n"
    return head + f"@@ -0,0 +1,{len(lines)} @@\n" + "".join(f"+{line}" for line in lines)


def _reformatted(source: str, random: Random) -> str:
    """By the compiler's own printer: other quotes, no comments, other line breaks."""
    return ast.unparse(ast.parse(source)) + "\n"


def _commented(source: str, random: Random) -> str:
    lines = source.splitlines(keepends=True)
    free = _free_lines(source)
    for number in sorted(random.sample(free, min(30, len(free))), reverse=True):
        line = lines[number - 1]
        indent = line[: len(line) - len(line.lstrip())]
        lines.insert(number - 1, f"{indent}# why: step {random.randint(1, 99)}\n")
    return "".join(lines) + "\n# The end.\n"


def _free_lines(source: str) -> list[int]:
    """Lines at which a statement begins."""
    nodes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt))
    decorated = {d.lineno for n in ast.walk(ast.parse(source)) for d in _decorators(n)}
    lines = {n.lineno for n in nodes if not _decorators(n) and n.col_offset == _indent(source, n)}
    return sorted(lines - decorated)


def _decorators(node: ast.AST) -> list[ast.expr]:
    return list(getattr(node, "decorator_list", []))


def _indent(source: str, node: ast.stmt) -> int:
    line = source.splitlines()[node.lineno - 1]
    return len(line) - len(line.lstrip())


def _printing(source: str, random: Random) -> str:
    """A line on standard error at import; in some functions one that no test of output reads."""
    tree = ast.parse(source)
    places = []
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and node.body[0].lineno > node.lineno:
            first = node.body[-1]
            if not _decorators(first) and first.col_offset == _indent(source, first):
                places.append((first.lineno, first.col_offset, node.name))
    lines = source.splitlines(keepends=True)
    for line, column, name in sorted(random.sample(places, min(8, len(places))), reverse=True):
        text = f"{' ' * column}print('in {name}', file=__import__('io').StringIO())\n"
        lines.insert(line - 1, text)
    return insert("".join(lines), "import sys as _sys\nprint('loaded', file=_sys.stderr)\n")


class _Renames(ast.NodeTransformer):
    """Gives the local names of functions without inner scopes other names."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        inner = (ast.FunctionDef, ast.Lambda, ast.ClassDef, ast.Global, ast.Nonlocal)
        odd = [n for n in ast.walk(node) if isinstance(n, inner) and n is not node]
        names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
        if odd or names & {"locals", "eval", "exec", "vars"}:
            return node
        stored = (n for n in ast.walk(node) if isinstance(n, ast.Name))
        local = {n.id for n in stored if isinstance(n.ctx, ast.Store)}
        local -= {arg.arg for arg in ast.walk(node) if isinstance(arg, ast.arg)}
        for name in (n for n in ast.walk(node) if isinstance(n, ast.Name)):
            if name.id in local:
                name.id = f"{name.id}_value"
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Private names of classes stay: they are mangled."""
        return node


def _renamed(source: str, random: Random) -> str:
    return ast.unparse(_Renames().visit(ast.parse(source))) + "\n"


class _Equivalent(ast.NodeTransformer):
    """Says the same otherwise: results get names, branches are turned round."""

    def visit_Return(self, node: ast.Return) -> ast.AST | list[ast.stmt]:
        if node.value is None:
            return node
        store = ast.Name("outcome_", ast.Store())
        return [ast.Assign([store], node.value), ast.Return(ast.Name("outcome_", ast.Load()))]

    def visit_If(self, node: ast.If) -> ast.AST:
        self.generic_visit(node)
        if node.orelse and not isinstance(node.orelse[0], ast.If):
            test = ast.UnaryOp(ast.Not(), node.test)
            return ast.If(test, node.orelse, node.body)
        return node


def _equivalent(source: str, random: Random) -> str:
    tree = _Equivalent().visit(ast.parse(source))
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _same(source: str, random: Random) -> str:
    return source + "\n# mended\n"


def _everything(source: str, random: Random) -> str:
    return _commented(_printing(_equivalent(source, random), random), random)


REWRITES: Mapping[str, Rewrite] = {
    "reformatted": _reformatted,
    "comments": _commented,
    "prints": _printing,
    "renamed locals": _renamed,
    "equivalent": _equivalent,
    "extra files": _same,
    "everything": _everything,
}
