"""Statuses of tests from what their runner printed or reported: one pure function per runner.

A test that is named more than once (set-up, call and tear-down; one name in several files or
packages) has the worst of its statuses. Some data sets name a test by its path in suites and others
by its last part; a reader gives both, and the names are looked up as a row writes them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from pathlib import PurePosixPath
from typing import TypeAlias
from xml.etree import ElementTree

from aem_gym.errors import UnknownNameError


class Status(IntEnum):
    """The status of a test; the larger, the worse."""

    PASSED = 0
    XFAILED = 1
    SKIPPED = 2
    FAILED = 3
    ERROR = 4

    @property
    def passes(self) -> bool:
        """As SWE-bench counts: an expected failure passes, a skipped test does not."""
        return self <= Status.XFAILED


Statuses: TypeAlias = dict[str, Status]
_Found: TypeAlias = Iterable[tuple[str, Status]]


class ReportError(ValueError):
    """A report is not in the format of its test runner."""


_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_JOINERS = (" > ", " ", ".")
"""Between suites and tests, in the names of different data sets."""


# Python ------------------------------------------------------------------------------------------

_PYTEST = {
    **{"PASSED": Status.PASSED, "FAILED": Status.FAILED, "ERROR": Status.ERROR},
    **{"SKIPPED": Status.SKIPPED, "XFAIL": Status.XFAILED, "XPASS": Status.PASSED},
}


def read_pytest_output(output: str) -> Statuses:
    """Statuses by node id from the summary that `pytest -rA` prints at the end."""
    found = []
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        if word in _PYTEST and rest.strip():
            found.append((rest.split(" - ")[0].split()[0], _PYTEST[word]))
    return worst(found)


_UNITTEST = {
    **{"ok": Status.PASSED, "FAIL": Status.FAILED, "ERROR": Status.ERROR},
    **{"expected failure": Status.XFAILED, "unexpected success": Status.FAILED},
}
_CASE = re.compile(r"(\w+) \(([\w.]+)\)")


def read_unittest_output(output: str) -> Statuses:
    """Statuses from `python -m unittest -v`, as `test_x (package.Case)` and `package.Case.test_x`.

    Python 3.11 and later print `test_x (package.Case.test_x)`. A test with a docstring has its
    status on the line of that.
    """
    found: list[tuple[str, Status]] = []
    before = ""
    for line in map(str.strip, output.splitlines()):
        name, dots, end = line.rpartition(" ... ")
        case = _CASE.match(name if dots else line) or _CASE.fullmatch(before)
        if dots and case and (end in _UNITTEST or end.startswith("skipped")):
            found += _named(case, _UNITTEST.get(end, Status.SKIPPED))
        elif (match := re.match(r"(FAIL|ERROR): (.*)", line)) and (case := _CASE.match(match[2])):
            found += _named(case, _UNITTEST[match[1]])
        before = line
    return worst(found)


def _named(case: re.Match[str], status: Status) -> Iterator[tuple[str, Status]]:
    name, owner = case[1], case[2].removesuffix(f".{case[1]}")
    yield f"{name} ({owner})", status
    yield f"{name} ({owner}.{name})", status
    yield f"{owner}.{name}", status


def read_django_output(output: str) -> Statuses:
    """Statuses by `name (class)` from django's runner with `--verbosity 2`."""
    ends = {"ok": Status.PASSED, "FAIL": Status.FAILED, "ERROR": Status.ERROR}
    ends |= {"expected failure": Status.XFAILED}
    found = []
    for line in map(str.strip, output.splitlines()):
        name, dots, end = line.rpartition(" ... ")
        if dots and (end in ends or end.startswith("skipped")):
            found.append((name, ends.get(end, Status.SKIPPED)))
        elif match := re.match(r"(FAIL|ERROR): (.*)", line):
            found.append((match[2], ends[match[1]]))
    return worst(found)


def read_sympy_output(output: str) -> Statuses:
    """Statuses by function name from sympy's own runner (`bin/test -C --verbose`)."""
    ends = {" ok": Status.PASSED, " F": Status.FAILED, " E": Status.ERROR}
    ends |= {" f": Status.XFAILED, " s": Status.SKIPPED}
    found = []
    for line in output.splitlines():
        # The last test of a file shares its line with the result of the file.
        line = line.strip().removesuffix("[OK]").removesuffix("[FAIL]").rstrip()
        if line.startswith("test_"):
            found += [(line.split()[0], s) for end, s in ends.items() if line.endswith(end)]
    # Failures are listed again below a rule: `____ path/test_x.py:test_name ____`.
    for name in re.findall(r"^_+ \S+\.py:(\w+) _+$", output, re.M):
        found.append((name, Status.FAILED))
    return worst(found)


# Go and Rust -------------------------------------------------------------------------------------

_GO = {"PASS": Status.PASSED, "FAIL": Status.FAILED, "SKIP": Status.SKIPPED}
_GO_LINE = re.compile(r"\s*--- (PASS|FAIL|SKIP): (.+?) \([^()]*\)$")


def read_go_output(output: str) -> Statuses:
    """Statuses by test name (`TestSum/small`) from `go test -v`, or `go test -json`."""
    found = []
    for line in output.splitlines():
        if match := _GO_LINE.match(line):
            found.append((match[2], _GO[match[1]]))
        elif line.startswith("{"):
            found += _go_event(line)
    return worst(found)


def _go_event(line: str) -> Iterator[tuple[str, Status]]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return
    name, action = event.get("Test"), event.get("Action")
    if isinstance(name, str) and isinstance(action, str) and action.upper() in _GO:
        yield name, _GO[action.upper()]


_CARGO = {"ok": Status.PASSED, "FAILED": Status.FAILED, "ignored": Status.SKIPPED}
_CARGO_LINE = re.compile(r"test (.+?)(?: - should panic)? \.\.\. (ok|FAILED|ignored)\b")


def read_cargo_output(output: str) -> Statuses:
    """Statuses by path (`sum::tests::small`) from `cargo test`."""
    lines = map(_CARGO_LINE.match, output.splitlines())
    return worst((match[1], _CARGO[match[2]]) for match in lines if match)


# JavaScript --------------------------------------------------------------------------------------

_TIME = re.compile(r"\s+\(\d+(?:\.\d+)?\s*m?s\)$")
_MARKS = {
    **dict.fromkeys("✓✔√", Status.PASSED),
    **dict.fromkeys("✕✖×", Status.FAILED),
    **dict.fromkeys("○✎", Status.SKIPPED),
}
_MARKED = re.compile(rf"(\s*)([{''.join(_MARKS)}]) (.+)")
_NUMBERED = re.compile(r"(\s+)\d+\) (.+)")
_PENDING = re.compile(r"(\s+)- (.+)")
_MOCHA_END = re.compile(r"^\s*\d+ passing\b.*$", re.MULTILINE)


def read_jest_output(output: str) -> Statuses:
    """Statuses from `jest --verbose` (and vitest's tree), by name and by suites and name."""
    return worst(_tree(output, marked_only=True))


def read_mocha_output(output: str) -> Statuses:
    """Statuses from mocha's reporter `spec`, by name and by suites and name.

    What follows the number of passing tests repeats the failures with their traces.
    """
    return worst(_tree(_MOCHA_END.split(output, maxsplit=1)[0], marked_only=False))


def _tree(output: str, *, marked_only: bool) -> _Found:
    """Tests of an indented tree of suites."""
    suites: list[tuple[int, str]] = []
    for line in _ESCAPES.sub("", output).splitlines():
        if not line.strip():
            continue
        match, status = _MARKED.fullmatch(line), Status.FAILED
        if match:
            indent, status, name = len(match[1]), _MARKS[match[2]], match[3]
        elif not marked_only and (match := _NUMBERED.fullmatch(line)):
            indent, name = len(match[1]), match[2]
        elif not marked_only and (match := _PENDING.fullmatch(line)):
            indent, name, status = len(match[1]), match[2], Status.SKIPPED
        else:
            indent = len(line) - len(line.lstrip())
            suites = [(depth, title) for depth, title in suites if depth < indent]
            suites += [(indent, line.strip())] if indent else []
            continue
        name = _TIME.sub("", name).strip()
        path = [title for depth, title in suites if depth < indent]
        yield from dict.fromkeys((n, status) for n in (name, *_joined([*path, name])))


def _joined(path: list[str]) -> Iterator[str]:
    for joiner in _JOINERS:
        yield joiner.join(path)


_TAP = re.compile(r"(\s*)(not )?ok \d+(?: - | )?(.*?)(?:\s+#\s*(SKIP|TODO)\b.*)?$", re.IGNORECASE)


def read_tap_output(output: str) -> Statuses:
    """Statuses by name from the Test Anything Protocol (`node --test`, tape)."""
    found = []
    for line in output.splitlines():
        if (match := _TAP.match(line)) and match[3].strip():
            status = Status.FAILED if match[2] else Status.PASSED
            found.append((match[3].strip(), Status.SKIPPED if match[4] else status))
    return worst(found)


# Reports -----------------------------------------------------------------------------------------


def read_junit(content: bytes) -> Statuses:
    """Statuses by node id from pytest's junit XML of the family `xunit1`. Raises ReportError."""
    return worst((_node_id(case), _status(case)) for case in _cases(content))


_XML_HEAD = re.compile(r"<\?xml[^>]*\?>")


def read_junit_output(output: str) -> Statuses:
    """Statuses from junit XML of any runner that is printed: one report, or several in turn.

    For a command that ends in `cat build/test-results/*.xml`, or mocha's reporter `xunit`. By name,
    and by class or suite and name. A report that is no XML holds no test.
    """
    found = []
    for part in _XML_HEAD.split(output):
        start, end = part.find("<testsuite"), part.rfind("</testsuite")
        body = part[start : part.find(">", end) + 1] if 0 <= start < end else ""
        with contextlib.suppress(ReportError):
            for case in _cases(body.encode("utf-8", "replace")) if body else ():
                found += [(name, _status(case)) for name in _names(case)]
    return worst(found)


def _names(case: ElementTree.Element) -> Iterable[str]:
    name, owner = case.get("name", ""), case.get("classname", "")
    joined = (f"{owner}{joiner}{name}" for joiner in (*_JOINERS, "::", "#") if owner)
    return dict.fromkeys((name, *joined))


def _cases(content: bytes) -> Iterator[ElementTree.Element]:
    if b"<!DOCTYPE" in content or b"<!ENTITY" in content:
        raise ReportError("expected junit XML, got one with entities of its own")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise ReportError(f"expected junit XML, got something else ({error})") from error
    return root.iter("testcase")


def _node_id(case: ElementTree.Element) -> str:
    """`tests/test_x.py::Class::name` of file `tests/test_x.py`, class name `tests.test_x.Class`."""
    name, owner = case.get("name", ""), case.get("classname", "")
    file = case.get("file", "")
    if not owner:  # a file that could not be collected: its dotted name is the test
        return file or name
    if not file:
        raise ReportError("expected junit XML of the family xunit1, with file names")
    module = ".".join(PurePosixPath(file).with_suffix("").parts)
    inner = owner.removeprefix(module).strip(".") if owner.startswith(module) else ""
    return "::".join([file, *(part for part in inner.split(".") if part), name])


def _status(case: ElementTree.Element) -> Status:
    marks = {child.tag: child.get("type", "") + child.get("message", "") for child in case}
    if "error" in marks:
        return Status.ERROR
    if "failure" in marks:
        return Status.FAILED
    if "skipped" in marks:
        words = marks["skipped"]  # of pytest 4 and 5
        expected = "pytest.xfail" in words or "expected test failure" in words
        return Status.XFAILED if expected else Status.SKIPPED
    return Status.PASSED


# By name -----------------------------------------------------------------------------------------

Reader: TypeAlias = Callable[[str], Statuses]
READERS: Mapping[str, Reader] = {
    "pytest": read_pytest_output,
    "unittest": read_unittest_output,
    "django": read_django_output,
    "sympy": read_sympy_output,
    "go": read_go_output,
    "cargo": read_cargo_output,
    "jest": read_jest_output,
    "mocha": read_mocha_output,
    "tap": read_tap_output,
    "junit": read_junit_output,
}
HARNESS_PARSERS: Mapping[str, str] = {
    **{f"parse_log_{name}": name for name in READERS},
    **{"parse_log_gotest": "go", "parse_log_pytest_v2": "pytest"},
    **{"parse_log_pytest_options": "pytest", "parse_log_vitest": "jest"},
}
"""Parser of SWE-bench's harness and its forks -> reader of ours."""
_BY_COMMAND = (
    (r"bin/test\b", "sympy"),
    (r"runtests\.py", "django"),
    (r"\bgo test\b|gotestsum", "go"),
    (r"\bcargo\b", "cargo"),
    (r"\b(jest|vitest)\b", "jest"),
    (r"\bmocha\b", "mocha"),
    (r"node --test|\btape\b", "tap"),
    (r"-m unittest|\bpython\S* -m unittest", "unittest"),
)


def reader_name(command: str, log: str = "") -> str:
    """The reader that `log` names, or else the one for a test command; at last that of pytest.

    Raises:
        UnknownNameError: there is no reader of that name; lists those there are.
    """
    if log:
        if log not in READERS:
            raise UnknownNameError("log reader", log, READERS)
        return log
    return next((name for pattern, name in _BY_COMMAND if re.search(pattern, command)), "pytest")


def reader_of(command: str, log: str = "") -> Reader:
    """The function that reads the output of a test command; `log` is as in `reader_name`."""
    return READERS[reader_name(command, log)]


def status_of(test: str, statuses: Mapping[str, Status]) -> Status | None:
    """The status of a test; None if it did not run.

    Ids of SWE-bench end at the first space of a parameter; such an id means all tests that start
    with it.
    """
    if test in statuses:
        return statuses[test]
    if "[" not in test or test.endswith("]"):
        return None
    return max((s for name, s in statuses.items() if name.split()[0] == test), default=None)


def worst(found: _Found) -> Statuses:
    """Statuses by name; the worst of a name that is there more than once."""
    statuses: Statuses = {}
    for name, status in found:
        statuses[name] = max(status, statuses.get(name, status))
    return statuses
