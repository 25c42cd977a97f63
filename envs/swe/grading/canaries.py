"""Canaries: tests of our own among the hidden ones, with known outcomes.

Code under test shares a process with its tests and could change what they report. Some canaries
have to fail, some to pass. Those inside a hidden file are of the kinds that the file's own tests
are of (functions, methods of a TestCase, `raises`, `approx`, parameters, fixtures) and about what
the file imports; others lie in files of their own. Names are drawn from the words of the task's
tests.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from random import Random

from aem_gym.envs.swe.grading.copies import parse
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.logs import Status

_FOLDERS = 3
_PASSING = (
    "assert sorted([{a}, {b}]) == [min({a}, {b}), max({a}, {b})]",
    "assert len('{w}' * {a}) == {n} * {a}",
    "assert {a} + {b} == {sum}",
)
_FAILING = (
    "assert {a} + {b} == {sum} + 1",
    "assert '{w}'.upper() == '{w}'",
    "{{}}['{w}']",
    "raise ValueError('{w}')",
)
# Kind -> (pattern in a file, bodies that pass, bodies that fail); {v} is what the file imports.
_KINDS: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "assert": (
        r"\bassert\b",
        ("assert ({v}, {a}) == ({v}, {a})", "assert [{v}, {a}] != [{v}]"),
        ("assert ({v}, {a}) == ({v}, {b})", "assert [{v}] == [{v}, {v}]", "assert {v} in ()"),
    ),
    "raises": (
        r"\braises\b",
        ("with __import__('pytest').raises(KeyError): {{}}[{a}]",),
        (
            "with __import__('pytest').raises(KeyError): int()",
            "with __import__('pytest').raises(KeyError): int('{w}')",
            "__import__('pytest').raises(ValueError, int)",
            "with __import__('pytest').raises(ValueError, match='{w} {a}'): int('{w}')",
        ),
    ),
    "approx": (
        r"\bapprox\b",
        ("assert {a}.0 == __import__('pytest').approx({a} + 1e-9)",),
        ("assert {a} == __import__('pytest').approx({b})",),
    ),
    "parameters": (
        r"\bparametrize\b",
        ("@parametrize assert number >= {a}",),
        ("@parametrize assert number < {a}",),
    ),
    "fixture": (
        r"\bfixture\b|\bmonkeypatch\b|\btmp_?path\b|\bcapsys\b",
        ("@tmpdir assert tmpdir.check()",),
        ("@tmpdir assert not tmpdir.check()",),
    ),
}
_CASE: Mapping[str, tuple[str, str]] = {
    "assertEqual": ("({v}, {a}), ({v}, {a})", "[{v}], [{v}, {v}]"),
    "assertNotEqual": ("[{v}], [{v}, {v}]", "({v}, {a}), ({v}, {a})"),
    "assertTrue": ("[{v}]", "not [{v}]"),
    "assertFalse": ("not [{v}]", "[{v}]"),
    "assertIn": ("{a}, [{a}, {v}]", "{a}, ()"),
    "assertRaises": ("ValueError, int, '{w}'", "ValueError, int"),
    "assertIsInstance": ("{a}, int", "{a}, str"),
    "assertIsNone": ("None", "[{v}]"),
    "assertListEqual": ("[{a}], [{a}]", "[{a}], [{b}]"),
    "assertDictEqual": ("{{1: {a}}}, {{1: {a}}}", "{{1: {a}}}, {{1: {b}}}"),
}


@dataclass(frozen=True, slots=True)
class Canaries:
    """Files to write among the hidden tests, and their known outcomes."""

    files: Mapping[str, bytes]
    outcomes: Mapping[str, bool]
    """Name of a test function, used by no test of the task -> whether it passes."""

    def wrong(self, statuses: Mapping[str, Status]) -> tuple[str, ...]:
        """The names whose outcome is not the known one."""
        seen = {name.rpartition("::")[2]: status for name, status in statuses.items()}
        good = {True: (Status.PASSED,), False: (Status.FAILED, Status.ERROR)}
        return tuple(n for n, passes in self.outcomes.items() if seen.get(n) not in good[passes])


@dataclass(frozen=True, slots=True)
class Inside:
    """Canaries at the end of a hidden file."""

    text: bytes
    outcomes: Mapping[str, tuple[str, bool]]
    """Node id -> (kind, whether it passes)."""


class Names:
    """Draws names from the words of a task's tests that none of them has."""

    def __init__(self, task: SweTask, random: Random) -> None:
        tests = (*task.fail_to_pass, *task.pass_to_pass)
        self._taken = {re.split(r"[\[ (]", test)[0].rpartition("::")[2] for test in tests}
        words = sorted({w for name in self._taken for w in name.split("_")} - {"test", ""})
        words = [w for w in words if re.fullmatch("[a-z]+", w)]
        self.words = words or ["value", "order", "empty"]
        self._random = random

    def test(self) -> str:
        for length in range(2, 99):
            words = (self._random.choice(self.words) for _ in range(min(length, 6)))
            name = f"test_{'_'.join(words)}"
            if length > 9:
                name += f"_{self._random.randint(2, 9999)}"
            if name not in self._taken:
                break
        self._taken.add(name)
        return name


def draw_canaries(task: SweTask, paths: Sequence[str], random: Random) -> Canaries:
    """Canaries in files of their own; none if the test runner runs no plain functions.

    They are written beside the test files of a task. The code under test must not be able to guess
    `random`.
    """
    if "runtests.py" in task.test_command:
        return Canaries({}, {})
    names = Names(task, random)
    folders = sorted({str(PurePosixPath(path).parent) for path in paths if path.endswith(".py")})
    files: dict[str, bytes] = {}
    outcomes: dict[str, bool] = {}
    for folder in random.sample(folders, min(_FOLDERS, len(folders))):
        functions = []
        for passes in _plan(random):
            name = names.test()
            outcomes[name] = passes
            bodies = _PASSING if passes else _FAILING
            body = _fill(random.choice(bodies), names, random, "0")
            functions.append(f"def {name}():\n    {body}\n")
        path = PurePosixPath(folder) / f"{names.test()}_{random.randint(2, 99)}.py"
        files[str(path)] = "\n\n".join(functions).encode()
    return Canaries(files, outcomes)


def draw_inside(path: str, content: bytes, names: Names, random: Random) -> Inside:
    """Canaries to append to a hidden file."""
    source = content.decode("utf-8", "replace")
    value = _imported(content, random)
    parts: list[str] = []
    outcomes: dict[str, tuple[str, bool]] = {}
    kinds = [kind for kind, (pattern, *_) in _KINDS.items() if re.search(pattern, source)]
    for kind in kinds or ["assert"]:
        for passes in (True, False):
            name = names.test()
            body = random.choice(_KINDS[kind][1 if passes else 2])
            head, ids = _head(name, body, random)
            outcomes |= {f"{path}::{name}{end}": (kind, passes) for end in ids}
            body = re.sub(r"^@\w+ ", "", body)
            parts.append(f"{head}\n    {_fill(body, names, random, value)}\n")
    if "TestCase" in source or "self.assert" in source:
        parts.append(_case(path, source, value, names, random, outcomes))
    random.shuffle(parts)
    return Inside(("\n\n\n" + "\n\n".join(parts)).encode(), outcomes)


def _head(name: str, body: str, random: Random) -> tuple[str, tuple[str, ...]]:
    """(the line that defines a test, the ends of its node ids)."""
    if body.startswith("@parametrize"):
        n = random.randint(100, 900)
        mark = f"@__import__('pytest').mark.parametrize('number', [{n}, {n + 1}])"
        return f"{mark}\ndef {name}(number):", (f"[{n}]", f"[{n + 1}]")
    return f"def {name}({'tmpdir' if body.startswith('@tmpdir') else ''}):", ("",)


def _case(
    path: str,
    source: str,
    value: str,
    names: Names,
    random: Random,
    outcomes: dict[str, tuple[str, bool]],
) -> str:
    """A TestCase with the helpers that a file uses; adds to the outcomes."""
    name = "".join(word.title() for word in names.test().split("_"))
    lines = [f"class {name}(__import__('unittest').TestCase):"]
    used = [helper for helper in _CASE if helper in source] or ["assertEqual"]
    for helper in random.sample(used, min(4, len(used))):
        for passes in (True, False):
            method = names.test()
            outcomes[f"{path}::{name}::{method}"] = (helper, passes)
            arguments = _fill(_CASE[helper][0 if passes else 1], names, random, value)
            lines.append(f"    def {method}(self):\n        self.{helper}({arguments})\n")
    return "\n".join(lines)


def _imported(content: bytes, random: Random) -> str:
    """A name that a file imports, by which its tests reach the package."""
    try:
        body = parse(content).body
    except (SyntaxError, ValueError):
        return "0"
    found = []
    for node in body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            module = getattr(node, "module", None) or ""
            if module.partition(".")[0] not in ("__future__", "pytest", "unittest", "typing"):
                found += [(a.asname or a.name).partition(".")[0] for a in node.names]
    return random.choice([name for name in found if name != "*"] or ["0"])


def _plan(random: Random) -> list[bool]:
    plan = [True] * random.randint(2, 4) + [False] * random.randint(2, 4)
    random.shuffle(plan)
    return plan


def _fill(body: str, names: Names, random: Random, value: str) -> str:
    word = random.choice(names.words)
    a, b = random.sample(range(2, 99), 2)
    return body.format(a=a, b=b, sum=a + b, w=word, n=len(word), v=value)
