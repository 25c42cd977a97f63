"""Copies of hidden tests that have to fail, made by text edits of their files.

A copy is the test itself, under its own name and in its own place, up to its last statement. An
assertion there becomes one about the same values, through the same helper, that cannot hold
whatever the values are; a last block under `raises` expects an exception that nobody raises; after
other statements, and before each `return`, a plain assertion that cannot hold is put. Whoever lets
failures of this test pass lets its copy pass, and whoever turns its failures round lets it pass,
too. Only the lines that change are touched, so that line numbers in the file stay what they are
wherever possible.
"""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

_PAIRS = (("left", "right"), ("got", "want"), ("first", "second"), ("value", "other"))
_RAISES = (
    *("raises", "warns", "assertRaises", "assertRaisesRegex", "assertWarns"),
    *("assertWarnsRegex", "assertRaisesRegexp", "deprecated_call"),
)
_NEVER = ("BufferError", "FloatingPointError", "ReferenceError", "StopAsyncIteration")
"""Exceptions that are no tests' business, and bases of no others."""
# What cannot hold instead of `self.HELPER(a)` or `self.HELPER(a, b)`.
_INSTEAD: Mapping[str, tuple[int, str]] = {
    "assertTrue": (1, "not [{a}]"),
    "assert_": (1, "not [{a}]"),
    "assertFalse": (1, "[{a}]"),
    "assertIsNone": (1, "[{a}]"),
    "assertIsNotNone": (1, "None if [{a}] else {a}"),
    "assertIn": (2, "{a}, ()"),
    "assertNotIn": (2, "{a}, [{a}]"),
    "assertIs": (2, "{a}, [{b}]"),
    "assertIsNot": (2, "{a}, {a}"),
    "assertIsInstance": (2, "[{a}], ()"),
    "assertNotEqual": (2, "[{a}], [{a}]"),
    "assertEqual": (2, "[{a}], [{b}, {b}]"),
    "assertEquals": (2, "[{a}], [{b}, {b}]"),
    "assertListEqual": (2, "[{a}], [{b}, {b}]"),
    "assertSequenceEqual": (2, "[{a}], [{b}, {b}]"),
    "assertCountEqual": (2, "[{a}], [{b}, {b}]"),
    "assertTupleEqual": (2, "({a},), ({b}, {b})"),
    "assertDictEqual": (2, "{{1: {a}}}, {{2: {b}}}"),
}
# What cannot hold instead of `assert a SIGN b`.
_SIGNS: Mapping[type[ast.cmpop], tuple[str, ...]] = {
    ast.Eq: ("[{a}] == [{b}, {b}]", "({a}, 2) == ({b}, 3)", "({a},) == ({b}, {b})"),
    ast.NotEq: ("[{a}] != [{a}]", "({b}, 1) != ({b}, 1)"),
    ast.In: ("{a} in ()", "{a} in []"),
    ast.NotIn: ("{a} not in [{a}]", "{a} not in ({b}, {a})"),
    ast.Is: ("[{a}] is {b}",),
    ast.IsNot: ("{a} is not {a}",),
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
    until: int = 0
    """The last line at which a test may fail by it, if that is after its end."""


def function_of(test: str) -> str:
    """`Class.name` of a node id `file::Class::name[parameters]`."""
    return re.split(r"\[", test, maxsplit=1)[0].partition("::")[2].replace("::", ".")


_PARSING = threading.Lock()


def parse(content: bytes) -> ast.Module:
    """The syntax tree of a file. Raises SyntaxError or ValueError.

    CPython counts the depth of the tree that it makes for all threads together, up to 3.12: two
    at a time may end in a SystemError.
    """
    with _PARSING:
        return ast.parse(content)


def make_copies(content: bytes, functions: Sequence[str], random: Random) -> Edited:
    """A file with some of its test functions turned into copies.

    Functions that are not in the file, and those that never come to an end (generators, a last
    `raise`), are left out of `lines` and stay as they are.
    """
    try:
        tree = parse(content)
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
    begin, lines = edit.begin[0], edit.text.count(b"\n")
    end = max(edit.end[0], begin + lines, edit.until)
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
        if not inner or _is_base(tree, name):
            return None
        scope = inner[-1]
    if _is_used(tree, names[-1]):
        return None
    found = [n for n in _within(scope) if isinstance(n, Function) and n.name == names[-1]]
    return found[-1] if found else None


def _is_base(tree: ast.Module, name: str) -> bool:
    """Whether a class of a file has others below it, or another name."""
    classes = (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    named = [base for node in classes for base in node.bases]
    named += [node.value for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    return any(isinstance(node, ast.Name) and node.id == name for node in named)


def _is_used(tree: ast.Module, name: str) -> bool:
    """Whether a file names a function anywhere but where it is defined: an alias, a call."""
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
        text = self._turned(node)
        if text is None:
            return _Edit(end, end, f"; {self._plain()}".encode())
        begin = (node.lineno, node.col_offset)
        lost = end[0] - begin[0] - text.count("\n")
        text = text.replace("= (", "= (" + "\n" * lost, 1)
        return _Edit(begin, end, text.encode("utf-8", "surrogateescape"))

    def _turned(self, node: ast.stmt) -> str | None:
        """An assertion that cannot hold in place of one."""
        if isinstance(node, ast.Assert):
            return self._turned_assert(node.test)
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)):
            return None
        call = node.value
        if (raising := self._raises_never(call)) is not None and len(call.args) > 1:
            return raising
        name, function = _name(call), self._source(call.func)
        number, then = _INSTEAD.get(name, (0, ""))
        plain = not call.keywords and not any(isinstance(a, ast.Starred) for a in call.args)
        if not (number and plain and len(call.args) >= number and function == f"self.{name}"):
            return None
        names = (self.a, self.b)[:number]
        pairs = zip(names, call.args, strict=False)
        sets = "".join(f"{x} = ({self._source(arg)}); " for x, arg in pairs)
        return f"{sets}{function}({then.format(a=self.a, b=self.b)})"

    def _turned_assert(self, test: ast.expr) -> str:
        a, b = self.a, self.b
        if not (isinstance(test, ast.Compare) and len(test.ops) == 1):
            return f"{a} = ({self._source(test)}); assert not [{a}]"
        left, right = self._source(test.left), self._source(test.comparators[0])
        forms = _SIGNS.get(type(test.ops[0]), _SIGNS[ast.Eq])
        then = self._random.choice(forms).format(a=a, b=b)
        return f"{a} = ({left}); {b} = ({right}); assert {then}"

    def _raises_never(self, call: ast.Call) -> str | None:
        """The text of a call of `raises` or its kin with an exception that nobody raises."""
        if _name(call) not in _RAISES or not call.args:
            return None
        whole, expected = self._source(call), self._source(call.args[0])
        head = self._source(call.func)
        rest = whole[len(head) :].replace(expected, self._random.choice(_NEVER), 1)
        return head + rest if whole.startswith(head) and "#" not in whole else None

    def _after_block(self, node: ast.stmt) -> _Edit:
        """On the line after a block: an empty one if there is one, so that no line moves."""
        if isinstance(node, ast.With) and len(node.items) == 1:
            call = node.items[0].context_expr
            if isinstance(call, ast.Call) and (text := self._raises_never(call)) is not None:
                begin = (call.lineno, call.col_offset)
                end = (call.end_lineno or call.lineno, call.end_col_offset or 0)
                content = text.encode("utf-8", "surrogateescape")
                return _Edit(begin, end, content, until=node.end_lineno or 0)
        indent = self._lines[node.lineno - 1][: node.col_offset]
        line = (node.end_lineno or node.lineno) + 1
        content = indent + self._plain().encode()
        empty = line <= len(self._lines) and not self._lines[line - 1].strip()
        if not empty:
            return _Edit((line, 0), (line, 0), content, is_line=True)
        return _Edit((line, 0), (line, len(self._lines[line - 1])), content)


def _name(call: ast.Call) -> str:
    return str(getattr(call.func, "attr", getattr(call.func, "id", "")))
