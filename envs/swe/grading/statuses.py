"""Statuses of tests, read from what test runners write.

A test that is named more than once in a report (set-up, call and tear-down; one name in several
files; ids cut at a space, as SWE-bench writes them) has the worst of its statuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from pathlib import PurePosixPath
from xml.etree import ElementTree


class Status(IntEnum):
    """The status of a test; the larger, the worse."""

    PASSED = 0
    XFAILED = 1
    SKIPPED = 2
    FAILED = 3
    ERROR = 4

    @property
    def passes_officially(self) -> bool:
        """As SWE-bench counts, where an expected failure passes."""
        return self <= Status.XFAILED


class ReportError(ValueError):
    """A report is not in the format of its test runner."""


def read_junit(content: bytes) -> dict[str, Status]:
    """Statuses by node id from pytest's junit XML of the family `xunit1`. Raises ReportError."""
    if b"<!DOCTYPE" in content[:1000] or b"<!ENTITY" in content:
        raise ReportError("expected pytest's junit XML, got one with entities of its own")
    try:
        root = ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError) as error:
        raise ReportError(f"expected pytest's junit XML, got something else ({error})") from error
    return _worst((_node_id(case), _status(case)) for case in root.iter("testcase"))


def read_pytest_output(output: str) -> dict[str, Status]:
    """Statuses by node id from the summary that `pytest -rA` prints at the end."""
    named = {"PASSED": Status.PASSED, "FAILED": Status.FAILED, "ERROR": Status.ERROR}
    named |= {"SKIPPED": Status.SKIPPED, "XFAIL": Status.XFAILED}
    found = []
    for line in output.splitlines():
        word, _, rest = line.partition(" ")
        if word in named and rest.strip():
            found.append((rest.split(" - ")[0].split()[0], named[word]))
    return _worst(found)


def read_sympy_output(output: str) -> dict[str, Status]:
    """Statuses by function name from sympy's own runner (`bin/test -C --verbose`)."""
    ends = {" ok": Status.PASSED, " F": Status.FAILED, " E": Status.ERROR}
    ends |= {" f": Status.XFAILED, " s": Status.SKIPPED}
    found = []
    for line in output.splitlines():
        # The last test of a file shares its line with the result of the file.
        line = re.sub(r"\s*\[(OK|FAIL)\]\s*$", "", line).strip()
        if line.startswith("test_"):
            found += [(line.split()[0], s) for end, s in ends.items() if line.endswith(end)]
    # Failures are listed again below a rule: `____ path/test_x.py:test_name ____`.
    for name in re.findall(r"^_+ \S+\.py:(\w+) _+$", output, re.M):
        found.append((name, Status.FAILED))
    return _worst(found)


def read_django_output(output: str) -> dict[str, Status]:
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
    return _worst(found)


def reader_of(command: str) -> Callable[[str], dict[str, Status]]:
    """The parser for the output of a test command."""
    if "bin/test" in command:
        return read_sympy_output
    return read_django_output if "runtests.py" in command else read_pytest_output


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


def _worst(found: Iterable[tuple[str, Status]]) -> dict[str, Status]:
    statuses: dict[str, Status] = {}
    for name, status in found:
        statuses[name] = max(status, statuses.get(name, status))
    return statuses


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
