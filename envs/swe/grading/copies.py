"""Copies of hidden tests that have to fail, made by text edits of their files.

A copy is the test itself, under its own name and in its own place, up to its last statement. An
assertion there is followed by one about the same values that cannot hold, through the same helper
(`assertEqual`, `raises`, ...); without one, and before each `return`, a plain one that cannot hold
is put. Whoever lets failures of this test pass lets its copy pass, too. Only the lines that change
are touched, so that line numbers in the file stay what they are wherever possible.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

_PAIRS = (("left", "right"), ("got", "want"), ("first", "second"), ("value", "other"))
_RAISES = (
    *("raises", "warns", "assertRaises", "assertRaisesRegex", "assertWarns"),
    *("assertWarnsRegex", "assertRaisesRegexp", "deprecated_call"),
)
_EQUAL = (
    *("assertEqual", "assertEquals", "assertListEqual", "assertDictEqual", "assertTupleEqual"),
    *("assertSetEqual", "assertSequenceEqual", "assertMultiLineEqual", "assertCountEqual"),
    *("assertItemsEqual", "assertAlmostEqual"),
)
# What cannot hold after `self.HELPER(a)` or `self.HELPER(a, b)` did.
_NOT_AFTER: Mapping[str, tuple[int, str]] = {
    "assertTrue": (1, "self.assertTrue(not {a})"),
    "assert_": (1, "self.assert_(not {a})"),
    "assertFalse": (1, "self.assertFalse(not {a})"),
    "assertIsNone": (1, "self.assertIsNone([{a}])"),
    "assertIsNotNone": (1, "self.assertIsNotNone(None if {a} is not None else {a})"),
    "assertIn": (2, "self.assertIn({a}, ())"),
    "assertNotIn": (2, "self.assertNotIn({a}, [{a}])"),
    "assertIs": (2, "self.assertIs({a}, [{b}])"),
    "assertIsInstance": (2, "self.assertIsInstance([{a}], ())"),
    **{name: (2, "self.assertEqual([{a}], [{b}, {b}])") for name in _EQUAL},
    "assertNotEqual": (2, "self.assertNotEqual([{a}], [{a}])"),
}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Edited:
    """A file in which some tests are copies that have to fail."""

    content: bytes
    lines: Mapping[str, frozenset[int]]
    """Test function (`Class.name` or `name`) -> lines at which its copy fails."""


@dataclass(frozen=True, slots=True)
class _Edit:
    """Replace the bytes from one place to another; a place is a line (from 1) and a byte in it."""

    begin: tuple[int, int]
    end: tuple[int, int]
    text: bytes
    is_line: bool = False
    """It adds a line of its own."""


def function_of(test: str) -> str:
    """`Class.name` of a node id `file::Class::name[parameters]`."""
    return re.split(r"\[", test, maxsplit=1)[0].partition("::")[2].replace("::", ".")


def make_copies(content: bytes, functions: Sequence[str], random: Random) -> Edited:
    """A file with some of its test functions turned into copies.

    Functions that are not in the file, and those that never come to an end (generators, a last
    `raise`), are left out of `lines` and stay as they are.
    """
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return Edited(content, {})
    lines = content.split(b"\n")
    edits: dict[str, list[_Edit]] = {}
    for name in sorted(set(functions)):
        found = _find(tree, name.split("."))
        if found is not None and (made := _Sabotage(lines, found, random).edits()):
            edits[name] = made
    every = list(dict.fromkeys(edit for made in edits.values() for edit in made))
    added = sorted(edit.begin[0] for edit in every if edit.is_line)
    where = {}
    for name, made in edits.items():
        spans = (_span(edit, sum(line < edit.begin[0] for line in added)) for edit in made)
        where[name] = frozenset(line for span in spans for line in span)
    return Edited(b"\n".join(_apply(lines, every)), where)


def _span(edit: _Edit, shift: int) -> range:
    begin, end = edit.begin[0], max(edit.end[0], edit.begin[0] + edit.text.count(b"\n"))
    return range(begin + shift, end + shift + 1)


def _apply(lines: list[bytes], edits: Sequence[_Edit]) -> list[bytes]:
    lines = list(lines)
    for edit in sorted(edits, key=lambda e: e.begin, reverse=True):
        (line, column), (last, end) = edit.begin, edit.end
        if edit.is_line:
            lines.insert(line - 1, edit.text)
            continue
        rest = lines[last - 1][end:]
        lines[line - 1 : last] = [lines[line - 1][:column] + edit.text + rest]
    return b"\n".join(lines).split(b"\n")


def _find(tree: ast.Module, names: Sequence[str]) -> Function | None:
    """The definition of a test, if nothing else in the file uses it."""
    scope: ast.AST = tree
    for name in names[:-1]:
        inner = [n for n in _within(scope) if isinstance(n, ast.ClassDef) and n.name == name]
        if not inner or _is_used(tree, name):
            return None
        scope = inner[-1]
    if _is_used(tree, names[-1]):
        return None
    found = [n for n in _within(scope) if isinstance(n, Function) and n.name == names[-1]]
    return found[-1] if found else None


def _is_used(tree: ast.Module, name: str) -> bool:
    """Whether a file names it anywhere but where it is defined: a base class, an alias, a call."""
    nodes = ast.walk(tree)
    return any(name in (getattr(n, "id", ""), getattr(n, "attr", "")) for n in nodes)


def _within(scope: ast.AST) -> Iterator[ast.stmt]:
    """The statements of a scope, also those in its branches."""
    for child in ast.iter_child_nodes(scope):
        if isinstance(child, ast.stmt):
            yield child
            if not isinstance(child, Function | ast.ClassDef):
                yield from _within(child)
        elif isinstance(child, ast.ExceptHandler):
            yield from _within(child)


def _inside(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions and classes in it."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, Function | ast.ClassDef | ast.Lambda):
            yield from _inside(child)


class _Sabotage:
    """Makes the edits that turn one test into a copy."""

    def __init__(self, lines: Sequence[bytes], function: Function, random: Random) -> None:
        self._lines, self._function, self._random = lines, function, random
        self._nodes = list(_inside(function))
        taken = {node.id for node in ast.walk(function) if isinstance(node, ast.Name)}
        taken |= {node.arg for node in ast.walk(function) if isinstance(node, ast.arg)}
        number = random.randint(2, 99)
        free = [pair for pair in _PAIRS if not taken & set(pair)]
        self.a, self.b = random.choice(free) if free else (f"left{number}", f"right{number}")
        helpers = (n.attr for n in self._nodes if isinstance(n, ast.Attribute))
        self._is_case = any(name.startswith("assert") for name in helpers)

    def edits(self) -> list[_Edit]:
        if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in self._nodes):
            return []
        last = self._function.body[-1]
        returns = [node for node in self._nodes if isinstance(node, ast.Return)]
        made = [self._before(node) for node in returns]
        if isinstance(last, ast.Return):
            return made
        if isinstance(last, ast.Raise):
            return []
        compound = hasattr(last, "body") or isinstance(last, ast.Match)
        return [*made, self._after_block(last) if compound else self._after(last)]

    def _plain(self) -> str:
        """A statement that cannot hold, about nothing."""
        n, m = self._random.randint(2, 99), self._random.randint(2, 99)
        if self._is_case:
            return f"self.assertEqual({n}, {n + m})"
        return self._random.choice((f"assert {n} + {m} == {n}", f"assert {n} == {n + m}"))

    def _source(self, node: ast.expr) -> str:
        """The text of an expression; its end is always known after parsing."""
        last, end = node.end_lineno or node.lineno, node.end_col_offset or 0
        lines = [bytes(line) for line in self._lines[node.lineno - 1 : last]]
        lines[-1] = lines[-1][:end]
        lines[0] = lines[0][node.col_offset :]
        return b"\n".join(lines).decode("utf-8", "surrogateescape")

    def _before(self, node: ast.stmt) -> _Edit:
        place = (node.lineno, node.col_offset)
        return _Edit(place, place, f"{self._plain()}; ".encode())

    def _after(self, node: ast.stmt) -> _Edit:
        end = (node.end_lineno or node.lineno, node.end_col_offset or 0)
        text = self._doubled(node)
        if text is None:
            return _Edit(end, end, f"; {self._plain()}".encode())
        begin = (node.lineno, node.col_offset)
        lost = end[0] - begin[0] - text.count("\n")
        text = text.replace("= (", "= (" + "\n" * lost, 1)
        return _Edit(begin, end, text.encode("utf-8", "surrogateescape"))

    def _doubled(self, node: ast.stmt) -> str | None:
        """An assertion, and one about the same values that cannot hold."""
        if isinstance(node, ast.Assert):
            return self._doubled_assert(node)
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            return None
        call, whole = node.value, self._source(node.value)
        name = getattr(call.func, "attr", getattr(call.func, "id", ""))
        plain = not any(isinstance(arg, ast.Starred) for arg in call.args)
        args = [self._source(arg) for arg in call.args]
        if name in _RAISES and len(args) > 1 and plain:
            kept = 2 if "Regex" in name else 1
            return f"{whole}; {self._source(call.func)}({', '.join([*args[:kept], 'int'])})"
        number, then = _NOT_AFTER.get(name, (0, ""))
        if not (number and plain and len(args) >= number and not call.keywords):
            return None
        if self._source(call.func) != f"self.{name}":
            return None
        names = (self.a, self.b)[:number]
        sets = "".join(f"{x} = ({arg}); " for x, arg in zip(names, args, strict=False))
        then = then.format(a=self.a, b=self.b)
        return f"{sets}self.{name}({', '.join([*names, *args[number:]])}); {then}"

    def _doubled_assert(self, node: ast.Assert) -> str:
        a, b, test = self.a, self.b, node.test
        if not (isinstance(test, ast.Compare) and len(test.ops) == 1):
            return f"{a} = ({self._source(test)}); assert {a}; assert not {a}"
        left, right = self._source(test.left), self._source(test.comparators[0])
        signs = {ast.Eq: "==", ast.NotEq: "!=", ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">"}
        signs |= {ast.GtE: ">=", ast.Is: "is", ast.IsNot: "is not", ast.In: "in"}
        sign = signs.get(type(test.ops[0]), "not in")
        after = [f"assert not {a} {sign} {b}", f"assert not ({a} {sign} {b})"]
        if sign == "==":
            after += [f"assert [{a}] == [{b}, {b}]", f"assert ({a}, 2) == ({b}, 3)"]
        if sign.endswith("in"):  # an iterator is used up by now
            after = [f"assert {a} in ()" if sign == "in" else f"assert {a} not in [{a}]"]
        then = self._random.choice(after)
        return f"{a} = ({left}); {b} = ({right}); assert {a} {sign} {b}; {then}"

    def _after_block(self, node: ast.stmt) -> _Edit:
        """On the line after a block: an empty one if there is one, so that no line moves."""
        text = self._plain()
        if isinstance(node, ast.With) and isinstance(node.items[0].context_expr, ast.Call):
            call = node.items[0].context_expr
            if getattr(call.func, "attr", getattr(call.func, "id", "")) in _RAISES:
                text = f"with {self._source(call)}: int()"
        indent = self._lines[node.lineno - 1][: node.col_offset]
        line = (node.end_lineno or node.lineno) + 1
        content = indent + text.encode("utf-8", "surrogateescape")
        empty = line <= len(self._lines) and not self._lines[line - 1].strip()
        if not empty:
            return _Edit((line, 0), (line, 0), content, is_line=True)
        return _Edit((line, 0), (line, len(self._lines[line - 1])), content)
