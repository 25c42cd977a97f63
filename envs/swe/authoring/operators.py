"""Operators of mutations: each finds places in the tree of a function, and their replacements.

Every edit replaces the bytes of one node or one sign, so the layout and the comments around it stay
as they are. No brackets are added, as they would show the place; an operator may therefore bind
differently, which is an error like any other.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

LONGEST = 600
"""Most bytes that an edit may remove."""

_COMPARE: Mapping[type[ast.cmpop], tuple[str, str]] = {
    ast.Lt: ("<", "<="),
    ast.LtE: ("<=", "<"),
    ast.Gt: (">", ">="),
    ast.GtE: (">=", ">"),
    ast.Eq: ("==", "!="),
    ast.NotEq: ("!=", "=="),
    ast.Is: ("is", "is not"),
    ast.IsNot: (r"is\s+not", "is"),
    ast.In: ("in", "not in"),
    ast.NotIn: (r"not\s+in", "in"),
}
_ARITHMETIC: Mapping[type[ast.operator], tuple[str, str]] = {
    ast.Add: ("+", "-"),
    ast.Sub: ("-", "+"),
    ast.Mult: ("*", "+"),
    ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"),
    ast.Mod: ("%", "//"),
    ast.Pow: ("**", "*"),
    ast.BitAnd: ("&", "|"),
    ast.BitOr: ("|", "&"),
    ast.LShift: ("<<", ">>"),
    ast.RShift: (">>", "<<"),
}


@dataclass(frozen=True, slots=True)
class Edit:
    """Bytes from `start` to before `end` become `replacement`."""

    operator: str
    start: int
    end: int
    replacement: str


class Text:
    """A source with the places of its nodes in bytes."""

    def __init__(self, source: bytes) -> None:
        self.source = source
        self._lines = [0, *(match.end() for match in re.finditer(rb"\r\n|\r|\n", source))]

    def span(self, node: ast.expr | ast.stmt) -> tuple[int, int]:
        """Start and end of a node in bytes."""
        assert node.end_lineno is not None and node.end_col_offset is not None
        start = self._lines[node.lineno - 1] + node.col_offset
        return start, self._lines[node.end_lineno - 1] + node.end_col_offset

    def of(self, node: ast.expr | ast.stmt) -> str:
        start, end = self.span(node)
        return self.source[start:end].decode("utf-8")

    def replace(self, operator: str, node: ast.expr | ast.stmt, replacement: str) -> Edit:
        return Edit(operator, *self.span(node), replacement)

    def sign(
        self, operator: str, left: ast.expr, right: ast.expr, sign: str, replacement: str
    ) -> Iterator[Edit]:
        """The sign (a pattern) between two nodes becomes another."""
        start, end = self.span(left)[1], self.span(right)[0]
        found = re.search(sign.encode(), self.source[start:end])
        if found:
            yield Edit(operator, start + found.start(), start + found.end(), replacement)


def compare(node: ast.AST, text: Text) -> Iterator[Edit]:
    """`<` becomes `<=`, `in` becomes `not in`, and so on."""
    if isinstance(node, ast.Compare):
        sides = [node.left, *node.comparators]
        for left, op, right in zip(sides, node.ops, node.comparators, strict=False):
            sign, other = _COMPARE[type(op)]
            yield from text.sign("compare", left, right, sign, other)


def boolean(node: ast.AST, text: Text) -> Iterator[Edit]:
    """`and` becomes `or`, and the other way round."""
    if isinstance(node, ast.BoolOp) and len(node.values) == 2:
        sign, other = ("and", "or") if isinstance(node.op, ast.And) else ("or", "and")
        left, right = node.values
        yield from text.sign("boolean", left, right, rf"\b{sign}\b", other)


def arithmetic(node: ast.AST, text: Text) -> Iterator[Edit]:
    """`+` becomes `-`, `//` becomes `/`, and so on."""
    if isinstance(node, ast.BinOp) and type(node.op) in _ARITHMETIC:
        sign, other = _ARITHMETIC[type(node.op)]
        yield from text.sign("arithmetic", node.left, node.right, re.escape(sign), other)
    if isinstance(node, ast.AugAssign) and type(node.op) in _ARITHMETIC:
        sign, other = _ARITHMETIC[type(node.op)]
        sign = re.escape(f"{sign}=")
        yield from text.sign("arithmetic", node.target, node.value, sign, f"{other}=")


def constant(node: ast.AST, text: Text) -> Iterator[Edit]:
    """A number is off by one, a truth value is turned, a text is empty."""
    if not isinstance(node, ast.Constant):
        return
    value = node.value
    if isinstance(value, bool):
        yield text.replace("constant", node, str(not value))
    elif isinstance(value, int):
        yield text.replace("constant", node, str(value + 1))
        if value > 0:
            yield text.replace("constant", node, str(value - 1))
    elif isinstance(value, str | bytes) and value:
        yield text.replace("constant", node, repr(value[:0]))


def negate(node: ast.AST, text: Text) -> Iterator[Edit]:
    """A condition is turned round."""
    if not isinstance(node, ast.If | ast.While | ast.IfExp):
        return
    test = node.test
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        yield text.replace("negate", test, text.of(test.operand))
    else:
        yield text.replace("negate", test, f"not {text.of(test)}")


def condition(node: ast.AST, text: Text) -> Iterator[Edit]:
    """One of several conditions is gone, or a filter lets everything pass."""
    if isinstance(node, ast.BoolOp) and len(node.values) == 2:
        for kept in node.values:
            yield text.replace("condition", node, text.of(kept))
    if isinstance(node, ast.comprehension):
        for test in node.ifs:
            yield text.replace("condition", test, "True")


def statement(node: ast.AST, text: Text) -> Iterator[Edit]:
    """A call, a raise or the value of a return is gone."""
    is_call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    if isinstance(node, ast.Raise | ast.Delete | ast.Continue | ast.Break) or is_call:
        assert isinstance(node, ast.stmt)
        yield text.replace("statement", node, "pass")
    if isinstance(node, ast.Return) and node.value is not None:
        yield text.replace("statement", node.value, "None")


def assignment(node: ast.AST, text: Text) -> Iterator[Edit]:
    """An assignment is gone."""
    if isinstance(node, ast.Assign | ast.AugAssign):
        yield text.replace("assignment", node, "pass")


def swap(node: ast.AST, text: Text) -> Iterator[Edit]:
    """Operands, arguments or branches of an expression trade places."""
    pairs: list[tuple[ast.expr, ast.expr]] = []
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub | ast.Div | ast.Mod | ast.Add):
        pairs.append((node.left, node.right))
    elif isinstance(node, ast.Call) and len(node.args) >= 2 and not _starred(node.args[:2]):
        pairs.append((node.args[0], node.args[1]))
    elif isinstance(node, ast.IfExp):
        pairs.append((node.body, node.orelse))
    elif isinstance(node, ast.Tuple) and len(node.elts) == 2 and not _starred(node.elts):
        pairs.append((node.elts[0], node.elts[1]))
    for left, right in pairs:
        (start, left_end), (right_start, end) = text.span(left), text.span(right)
        between = text.source[left_end:right_start].decode("utf-8")
        if "(" not in between and ")" not in between:  # else a bracket would change its owner
            swapped = f"{text.of(right)}{between}{text.of(left)}"
            yield Edit("swap", start, end, swapped)


def loop(node: ast.AST, text: Text) -> Iterator[Edit]:
    """A loop is gone, or ends after its first round."""
    if isinstance(node, ast.For | ast.While):
        yield text.replace("loop", node, "pass")
        last = node.body[-1]
        if not isinstance(last, ast.Return | ast.Raise | ast.Break | ast.Continue):
            indent = " " * last.col_offset
            yield text.replace("loop", last, f"{text.of(last)}\n{indent}break")


def branch(node: ast.AST, text: Text) -> Iterator[Edit]:
    """The statements under a condition, or under its `else`, are gone."""
    if isinstance(node, ast.If):
        for body in (node.body, node.orelse):
            is_elif = len(body) == 1 and isinstance(body[0], ast.If)
            if body and not is_elif and not _docstring(body[0]):
                start, end = text.span(body[0])[0], text.span(body[-1])[1]
                yield Edit("branch", start, end, "pass")


OPERATORS: tuple[Callable[[ast.AST, Text], Iterator[Edit]], ...] = (
    compare,
    boolean,
    arithmetic,
    constant,
    negate,
    condition,
    statement,
    assignment,
    swap,
    loop,
    branch,
)


def edits(function: ast.FunctionDef | ast.AsyncFunctionDef, text: Text) -> Iterator[Edit]:
    """Every edit of a function's body, except those that leave nothing of it."""
    body = function.body[1:] if _docstring(function.body[0]) else function.body
    whole = text.span(body[0])[0] if len(body) == 1 else -1
    if len(body) == 1 and isinstance(body[0], ast.Return) and body[0].value is not None:
        whole = text.span(body[0].value)[0]
    for node in _nodes(body):
        for operator in OPERATORS:
            for edit in operator(node, text):
                emptied = edit.start == whole and edit.replacement in ("None", "pass")
                if not emptied and edit.end - edit.start <= LONGEST:
                    yield edit


def _nodes(body: list[ast.stmt]) -> Iterator[ast.AST]:
    waiting: list[ast.AST] = list(reversed(body))
    while waiting:
        node = waiting.pop()
        # Before Python 3.12 nodes within f-strings have wrong places.
        inner = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.JoinedStr
        if isinstance(node, inner) or (isinstance(node, ast.stmt) and _docstring(node)):
            continue
        yield node
        annotation = getattr(node, "annotation", None)
        children = [child for child in ast.iter_child_nodes(node) if child is not annotation]
        waiting += reversed(children)


def _docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _starred(nodes: list[ast.expr]) -> bool:
    return any(isinstance(node, ast.Starred) for node in nodes)
