"""Issue texts like those of a user who met the failure, made by rules from a seed.

They contain what was called, the result and the expected result. They name neither a test nor a
line, and name the function only if it is public.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

import numpy as np

from aem_gym.envs.swe.authoring.mutations import function_of, parse
from aem_gym.envs.swe.authoring.snippets import Snippet, snippet

_LINES = 6
_WIDTH = 200
_FRAME = re.compile(r"^(\S+\.py):(\d+): in ")
_CHAIN = re.compile(r"^(?:During handling of|The above exception was).* exception.*:$", re.M)
_LOCAL = re.compile(r"^ {8}(\w+) += (.*)$")
_OBJECT = re.compile(r"<(?:bound method|function|built-in function) ([\w.]+)[^<>]*(?:<[^<>]*>)?>")
_ADDRESS = re.compile(r" at 0x[0-9a-f]+")
_GIVEAWAY = re.compile(r"\.py\b|/tmp|/testbed|Use -v to|where (\w+) = [\w.]+\.\1$")
_OWN = ("AssertionError", "assert", "Failed")
"""Errors that tests raise themselves."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Pytest's report of a failing test."""

    test: str
    """Its node id."""
    line: int
    """Of the test's file, where it failed; 0 if unknown."""
    said: tuple[str, ...]
    """The error and pytest's explanation, without lines that would name the test."""
    values: Mapping[str, str]
    """The test's variables whose values are literals."""


@dataclass(frozen=True, slots=True)
class IssueSubject:
    module: str
    function: str
    """Qualified name."""
    docstring: str

    @property
    def public(self) -> bool:
        whole = f"{self.module}.{self.function}"
        return not any(part.startswith("_") for part in whole.split("."))

    @property
    def public_module(self) -> str:
        """The module, or the package that holds it where the module is not public."""
        return self.module.partition("._")[0]


def read_failure(test: str, message: str) -> Failure:
    """The failure in pytest's message (`--tb=short --showlocals`) about a test.

    Of a chain of errors it is the last, which is the one that a user sees.
    """
    frames, errors = _read_trace(_CHAIN.split(message)[-1])
    file, whole = function_of(test)
    own = next((frame for frame in frames if frame.file == file), _Frame("", 0))
    indent = min((len(text) - len(text.lstrip()) for text in errors), default=0)
    said = [text[indent:] for text in errors if text.strip()]
    last = frames[-1] if frames else own
    if [text.strip() for text in said] == ["AssertionError"] and last is not own:
        # Pytest does not explain an assert of a helper; its variables do.
        said += [f"{name} = {value}" for name, value in last.values.items()]
    name = whole.rpartition(".")[2]
    clean = [_clean(text)[:_WIDTH] for text in said]
    kept = [text for text in clean if name not in text and not _GIVEAWAY.search(text)]
    plain = {name: value for name, value in own.values.items() if _plain(value)}
    return Failure(test, own.line, tuple(kept[:_LINES]), plain)


@dataclass(frozen=True, slots=True)
class _Frame:
    """A place in a trace."""

    file: str
    line: int
    values: dict[str, str] = field(default_factory=dict)


def _read_trace(message: str) -> tuple[list[_Frame], list[str]]:
    """The frames of a trace, outer ones first, and the lines of the error."""
    frames: list[_Frame] = []
    errors: list[str] = []
    for text in message.splitlines():
        if found := _FRAME.match(text):
            frames.append(_Frame(found[1], int(found[2])))
        elif text.startswith("E  "):
            errors.append(text[1:])
        elif frames and (local := _LOCAL.match(text)):
            frames[-1].values[local[1]] = local[2]
    return frames, errors


def subject(source: bytes, path: str, function: str) -> IssueSubject:
    parts = list(PurePosixPath(path).with_suffix("").parts)
    parts = parts[1:] if parts[0] == "src" else parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    docstring = ""
    tree = parse(source)
    body: list[ast.stmt] = tree.body if tree else []
    for name in function.split("."):
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        node = next((n for n in body if isinstance(n, kinds) and n.name == name), None)
        if node is None:
            break
        docstring, body = ast.get_docstring(node) or "", node.body
    return IssueSubject(".".join(parts), function, docstring)


def issue(about: IssueSubject, failure: Failure, tests: bytes, rng: np.random.Generator) -> str:
    """The text of an issue about a failing test of the file `tests`.

    `rng` decides the words, and whether the function is named.
    """
    code = snippet(tests, failure.test, failure.line, failure.values) if failure.line else None
    named = about.public and bool(rng.random() < 0.75 or code is None)
    name = f"{about.module}.{about.function}" if named else about.public_module
    paragraphs = [_title(name, failure, rng), _pick(rng, _OPENINGS).format(name=name)]
    first = re.split(r"\n\s*\n|\n\s*(?:>>>|:|\.\. )", about.docstring.strip())[0]
    if named and first:
        said = "\n".join(f"> {line.strip()}" for line in first.splitlines()[:6])
        paragraphs.append(f"{_pick(rng, _DOCUMENTED)}\n\n{said}")
    paragraphs += [_evidence(code, failure, rng), _pick(rng, _CLOSINGS)]
    return "\n\n".join(part for part in paragraphs if part) + "\n"


_OPENINGS = (
    "I came across this with the current version of `{name}`.",
    "After an update, code of mine that uses `{name}` no longer works.",
    "Something is wrong in `{name}`; it used to work.",
    "`{name}` does not do what I expect of it.",
)
_DOCUMENTED = (
    "The documentation says:",
    "From its docstring:",
    "As I understand this description, my use of it is right:",
)
_CLOSINGS = (
    "Other uses seem to be fine.",
    "Could somebody look into it? The rest of my code is unaffected.",
    "I have not found the cause.",
    "",
)


def _title(name: str, failure: Failure, rng: np.random.Generator) -> str:
    error = _error(failure)
    if error:
        return _pick(rng, (f"{error} in `{name}`", f"`{name}` fails with {error}"))
    return _pick(rng, (f"Wrong result from `{name}`", f"`{name}` misbehaves"))


def _error(failure: Failure) -> str:
    """The name of the exception, unless the test raised it itself."""
    name = failure.said[0].partition(":")[0] if failure.said else ""
    own = name in _OWN or not re.fullmatch(r"[A-Za-z_][\w.]+", name)
    return "" if own else name.rpartition(".")[2]


def _evidence(code: Snippet | None, failure: Failure, rng: np.random.Generator) -> str:
    """The code that was run, the result and the expected result."""
    if code is None:
        return f"What I see:\n\n{_block(failure.said)}" if failure.said else ""
    compared = _compared(code, failure)
    intro = _pick(rng, ("To reproduce:", "What I ran:", "A short example:"))
    if compared is not None:
        ran = f"{intro}\n\n{_block((*code.setup, compared.code))}"
        if rng.random() < 0.5:
            return f"{ran}\n\ngives `{compared.actual}`. I expected `{compared.expected}`."
        return f"{ran}\n\nExpected: `{compared.expected}`\n\nActual: `{compared.actual}`"
    if not _error(failure):
        intro = _pick(rng, ("This should hold, but does not:", "I expected this to hold:"))
    ran = f"{intro}\n\n{_block((*code.setup, *code.statement.splitlines()))}"
    return f"{ran}\n\nWhat I get:\n\n{_block(failure.said)}" if failure.said else ran


@dataclass(frozen=True, slots=True)
class _Compared:
    code: str
    actual: str
    expected: str


def _compared(code: Snippet, failure: Failure) -> _Compared | None:
    """The two values, if exactly one side is a call: its value is the actual one."""
    said = failure.said[0].removeprefix("AssertionError: ") if failure.said else ""
    values = _sides(said) if said.startswith("assert ") else None
    if values is None and (found := re.fullmatch(r"(.+) != (.+)", said)):
        values = (found[1], found[2])
    sides = _sides(code.statement)
    if sides is None or values is None or ("(" in sides[0]) == ("(" in sides[1]):
        return None
    came = 0 if "(" in sides[0] else 1
    return _Compared(sides[came], values[came], values[1 - came])


def _block(lines: Sequence[str]) -> str:
    return "\n".join(f"    {line}".rstrip() for line in lines)


def _sides(statement: str) -> tuple[str, str] | None:
    try:
        body = ast.parse(statement).body
    except (SyntaxError, ValueError):
        return None
    node = body[0] if len(body) == 1 else None
    if isinstance(node, ast.Assert) and isinstance(node.test, ast.Compare):
        test = node.test
        if len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            return _source(statement, test.left), _source(statement, test.comparators[0])
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        call = node.value
        if ast.unparse(call.func) == "self.assertEqual" and len(call.args) >= 2:
            return _source(statement, call.args[0]), _source(statement, call.args[1])
    return None


def _source(text: str, node: ast.expr) -> str:
    return ast.get_source_segment(text, node) or ast.unparse(node)


def _clean(line: str) -> str:
    return _ADDRESS.sub("", _OBJECT.sub(lambda found: found[1].rpartition(".")[2], line))


def _plain(value: str) -> bool:
    try:
        ast.literal_eval(value)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return len(value) <= _WIDTH


def _pick(rng: np.random.Generator, texts: tuple[str, ...]) -> str:
    return texts[int(rng.integers(len(texts)))]
