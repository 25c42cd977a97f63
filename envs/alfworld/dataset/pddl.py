"""PDDL text: nested lists of words, and the sections of a planning problem."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from aem_gym.errors import ConfigError

Node: TypeAlias = "str | list[Node]"
"""A word, or a parenthesis."""

_TOKEN = re.compile(r"[()]|[^\s()]+")
_FLAT = re.compile(r"(?:\s*\([^()]*\))*\s*")
_PARENTHESIS = re.compile(r"[()]")
_COMMENT = re.compile(r";[^\n]*")
_OBJECTS = re.compile(r"\(\s*:objects(?![^\s()])", re.IGNORECASE)
_INIT = re.compile(r"\(\s*:init(?![^\s()])")

_DEEPEST = 100
"""Real problems have ten levels; functions below use recursion."""


class ProblemError(ConfigError):
    """A planning problem cannot be read; the message names the fact, section or line."""


def parse(text: str) -> list[Node]:
    """The content of the one outermost parenthesis. Expects text without comments."""
    stack: list[list[Node]] = []
    current: list[Node] = []
    for match in _TOKEN.finditer(text):
        token = match[0]
        if token == "(":
            if len(stack) == _DEEPEST:
                raise ProblemError(f"more than {_DEEPEST} '(' inside one another")
            stack.append(current)
            current = []
        elif token == ")":
            if not stack:
                line = text.count("\n", 0, match.start()) + 1
                raise ProblemError(f"line {line}: ')' without its '('")
            done, current = current, stack.pop()
            current.append(done)
        else:
            current.append(token)
    if stack:
        raise ProblemError(f"the text ends inside {len(stack)} open '(': it was cut off or damaged")
    if len(current) != 1 or isinstance(current[0], str):
        raise ProblemError(f"expected one '(define ...)', got {len(current)} things side by side")
    return current[0]


def flat_lists(text: str, start: int) -> tuple[list[list[str]], list[Node], int]:
    """Read `(a b) (c d) ...` up to the ')' that ends it; ten times as fast as `parse`.

    Returns the lists without inner parentheses, those with, and the index of the closing ')'.
    """
    flat: list[list[str]] = []
    nested: list[Node] = []
    while True:
        run = _FLAT.match(text, start)
        assert run is not None
        flat += filter(None, map(str.split, run[0].replace("(", " ").split(")")))
        start = run.end()
        if text[start : start + 1] == ")":
            return flat, nested, start
        if text[start : start + 1] != "(":
            what = text[start : start + 40].split() or ["the end of the text"]
            raise ProblemError(f"expected facts like '(opened x)', got {what[0]}")
        end = _closing(text, start)
        nested.append(parse(text[start:end]))
        start = end


def _closing(text: str, start: int) -> int:
    """The index after the parenthesis that opens at `start`."""
    depth = 0
    for match in _PARENTHESIS.finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if depth == 0:
            return match.end()
    raise ProblemError("the text ends inside an open '(': it was cut off or damaged")


def show(node: Node, limit: int = 120) -> str:
    """A node as text, for messages."""
    text = node if isinstance(node, str) else f"({' '.join(show(part, limit) for part in node)})"
    return text if len(text) <= limit else f"{text[:limit]}..."


def typed_list(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, type) of `a b - t c - u d`; names without a type are objects. Raises ProblemError."""
    count = words.count("-")
    if 3 * count == len(words) == 3 * words[1::3].count("-"):  # `a - t b - u`, as is usual
        yield from zip(words[::3], words[2::3], strict=True)
        return
    waiting: list[str] = []
    rest = iter(words)
    for word in rest:
        if word != "-":
            waiting.append(word)
            continue
        kind = next(rest, None)
        if kind is None:
            raise ProblemError(f"expected a type after '-' ({' '.join(waiting) or 'nothing'})")
        yield from ((name, kind) for name in waiting)
        waiting = []
    yield from ((name, "object") for name in waiting)


@dataclass(frozen=True, slots=True)
class Sections:
    """The parts of a problem, in lower case: names differ without regard to case."""

    spelled: Mapping[str, str]
    """Name -> as it is written where it is listed first."""
    kinds: Mapping[str, str]
    """Name -> type, in the order of the list."""
    facts: Sequence[Sequence[str]]
    """`(predicate name ...)`, without costs and negations."""
    goal: Node


def read_sections(text: str) -> Sections:
    """The parts of `(define (problem ...) (:objects ...) (:init ...) (:goal ...))`.

    Raises ProblemError where a part is missing, there twice, or of another form.
    """
    text, words = _cut_out_objects(_COMMENT.sub("", text))
    names = [word.lower() for word in words]
    rest, facts = _cut_out_facts(text.lower())
    sections = _sections(parse(rest))
    for name in ("objects", "init"):
        if sections[name]:
            raise ProblemError(f"expected one section (:{name} ...), got another inside a section")
    if len(sections["goal"]) != 1:
        raise ProblemError(f"(:goal ...): expected one condition, got {len(sections['goal'])}")
    spelled = dict(zip(reversed(names), reversed(words), strict=True))
    return Sections(spelled, dict(typed_list(names)), facts, sections["goal"][0])


def _cut_out_objects(text: str) -> tuple[str, list[str]]:
    """(the text without the content of `(:objects ...)`, the words in it)."""
    head = _OBJECTS.search(text)
    if head is None:
        raise ProblemError("the section (:objects ...) is missing")
    end = text.find(")", head.end())
    if end < 0:
        raise ProblemError("(:objects ...): the text ends inside: it was cut off or damaged")
    listed = text[head.end() : end]
    if "(" in listed:
        raise ProblemError("(:objects ...): expected names and types, got a parenthesis")
    return text[: head.end()] + text[end:], listed.split()


def _cut_out_facts(text: str) -> tuple[str, list[list[str]]]:
    """(the text without the content of `(:init ...)`, its facts): nine tenths of a problem, flat.

    Costs and negations are left out.
    """
    head = _INIT.search(text)
    if head is None:
        raise ProblemError("the section (:init ...) is missing")
    facts, others, end = flat_lists(text, head.end())
    for other in others:
        if isinstance(other, str) or not other or other[0] not in ("=", "not"):
            raise ProblemError(f"(:init ...): expected facts like '(opened x)', got {show(other)}")
    return text[: head.end()] + text[end:], facts


def _sections(define: Sequence[Node]) -> dict[str, list[Node]]:
    """The parts of `(define (:part ...) ...)` by name, the three needed ones checked."""
    if not define or define[0] != "define":
        raise ProblemError("expected '(define (problem ...) ...)' at the beginning")
    sections: dict[str, list[Node]] = {}
    for part in define[1:]:
        if isinstance(part, str) or not part or not isinstance(part[0], str):
            raise ProblemError(f"expected sections like '(:init ...)', got {show(part)}")
        name = part[0].removeprefix(":")
        if name in sections:
            raise ProblemError(f"expected one section (:{name} ...), got two")
        sections[name] = part[1:]
    for name in ("objects", "init", "goal"):
        if name not in sections:
            raise ProblemError(f"the section (:{name} ...) is missing")
    return sections
