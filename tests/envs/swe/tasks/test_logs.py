"""Log readers: statuses come back from what a runner prints; nothing makes a reader raise."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from xml.sax.saxutils import quoteattr

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.swe.tasks.logs import (
    READERS,
    Status,
    read_cargo_output,
    read_django_output,
    read_go_output,
    read_jest_output,
    read_junit_output,
    read_mocha_output,
    read_pytest_output,
    read_sympy_output,
    read_tap_output,
    read_unittest_output,
    reader_name,
    reader_of,
)
from aem_gym.errors import UnknownNameError

P, X, S, F, E = Status
Expected = Mapping[str, Status]

words = st.text("abcdefgh", min_size=1, max_size=6)
idents = st.builds("test_{}".format, words)
titles = st.lists(words, min_size=1, max_size=4).map(" ".join)
modules = st.lists(words, min_size=1, max_size=3).map(".".join)
noise = st.lists(
    st.sampled_from(["", "warning: x", "collected 3 items", "  at line 3", "{not json", "=== RUN"]),
    max_size=3,
)


def statuses(names: st.SearchStrategy[str], *of: Status) -> st.SearchStrategy[dict[str, Status]]:
    return st.dictionaries(names, st.sampled_from(of), max_size=6)


def between(lines: list[str], noise: list[str]) -> str:
    """Lines with some noise after each."""
    return "".join(f"{line}\n" + "".join(f"{n}\n" for n in noise) for line in lines)


@given(statuses(st.builds("tests/{}.py::{}".format, idents, idents), *Status), noise)
def test_pytest(found: Expected, extra: list[str]) -> None:
    mark = {P: "PASSED", X: "XFAIL", S: "SKIPPED", F: "FAILED", E: "ERROR"}
    lines = [f"{mark[s]} {n}" + " - why PASSED x" * (s != P) for n, s in found.items()]
    assert read_pytest_output(between(lines, extra)) == found


@given(statuses(st.tuples(idents, modules).map(":".join), *Status), noise, st.booleans())
def test_unittest(found: Expected, extra: list[str], documented: bool) -> None:
    mark = {P: "ok", X: "expected failure", S: "skipped 'x'", F: "FAIL", E: "ERROR"}
    lines, wanted = [], {}
    for number, (each, status) in enumerate(found.items()):
        name, owner = each.split(":")
        case = f"{name} ({owner}.{name})" if number % 2 else f"{name} ({owner})"
        lines.append(f"{case}\nIt says so. ... {mark[status]}" if documented else
                     f"{case} ... {mark[status]}")  # fmt: skip
        wanted[f"{owner}.{name}"] = wanted[f"{name} ({owner})"] = status
    read = read_unittest_output(between(lines, [] if documented else extra))
    assert wanted.items() <= read.items() and len(read) <= 3 * len(found)


@given(statuses(st.builds("{} ({}.Case)".format, idents, modules), P, X, S, F, E), noise)
def test_django(found: Expected, extra: list[str]) -> None:
    mark = {P: "ok", X: "expected failure", S: "skipped 'x'", F: "FAIL", E: "ERROR"}
    lines = [f"{name} ... {mark[status]}" for name, status in found.items()]
    again = [f"{mark[s]}: {name}" for name, s in found.items() if s >= F]
    assert read_django_output(between(lines + again, extra)) == found


@given(statuses(idents, *Status), noise)
def test_sympy(found: Expected, extra: list[str]) -> None:
    mark = {P: "ok", X: "f", S: "s", F: "F", E: "E"}
    lines = [f"{name} {mark[status]}" for name, status in found.items()]
    lines[-1:] = [f"{line}   [OK]" for line in lines[-1:]]
    assert read_sympy_output(between(lines, extra)) == found


GO = {P: "PASS", S: "SKIP", F: "FAIL"}
go_names = st.builds("Test{}{}".format, words, st.sampled_from(["", "/sub_one", "/a/b", "/x_(1)"]))


@given(statuses(go_names, P, S, F), noise)
def test_go(found: Expected, extra: list[str]) -> None:
    lines = [f"{'    ' * n.count('/')}--- {GO[s]}: {n} (0.01s)" for n, s in found.items()]
    assert read_go_output(between([*lines, "ok  \tcalc\t0.01s"], extra)) == found
    events = [json.dumps({"Action": GO[s].lower(), "Test": n}) for n, s in found.items()]
    events += ['{"Action": "pass", "Package": "calc"}', '{"Action": "run", "Test": "TestA"}']
    assert read_go_output(between(events, extra)) == found


@given(statuses(st.lists(words, min_size=1, max_size=3).map("::".join), P, S, F), noise)
def test_cargo(found: Expected, extra: list[str]) -> None:
    mark = {P: "ok", S: "ignored", F: "FAILED"}
    lines = [f"test {name} ... {mark[status]}" for name, status in found.items()]
    lines += ["test result: FAILED. 1 passed; 1 failed"]
    assert read_cargo_output(between(lines, extra)) == found


TREES = st.lists(
    st.tuples(st.lists(titles, max_size=2), titles, st.sampled_from([P, S, F])), max_size=6
)


def tree(found: list[tuple[list[str], str, Status]], marks: Mapping[Status, str]) -> str:
    lines = []
    for suites, name, status in found:
        lines += [f"{'  ' * depth}{title}" for depth, title in enumerate(suites, 1)]
        lines.append(f"{'  ' * (len(suites) + 1)}{marks[status]} {name} (12 ms)")
        lines.append("file.test.js")
    return "\n".join(lines)


def expected(found: list[tuple[list[str], str, Status]]) -> Expected:
    wanted: dict[str, Status] = {}
    for suites, name, status in found:
        for each in (name, *(j.join([*suites, name]) for j in (" > ", " ", "."))):
            wanted[each] = max(status, wanted.get(each, status))
    return wanted


@given(TREES)
def test_jest_and_mocha(found: list[tuple[list[str], str, Status]]) -> None:
    wanted = expected(found)
    jest = "PASS src/a.test.js\n" + tree(found, {P: "✓", S: "○", F: "✕"})
    assert read_jest_output(jest) == wanted
    end = "\n\n  3 passing (12ms)\n  1 failing\n\n  1) suite\n       name:\n     Error: no\n"
    assert read_mocha_output(tree(found, {P: "✔", S: "-", F: "1)"}) + end) == wanted
    assert read_jest_output(f"\x1b[32m{jest}\x1b[0m") == wanted


@given(statuses(titles, P, S, F), noise)
def test_tap(found: Expected, extra: list[str]) -> None:
    mark = {P: "ok {} - {}", S: "ok {} - {} # SKIP later", F: "not ok {} - {}"}
    lines = [mark[s].format(i, n) for i, (n, s) in enumerate(found.items(), 1)]
    assert read_tap_output(between(["TAP version 13", *lines, "1..3"], extra)) == found


BODIES = {
    P: "",
    S: "<skipped/>",
    F: '<failure message="no">trace</failure>',
    E: '<error message="no"/>',
}


@given(statuses(titles, P, S, F, E), words, st.booleans())
def test_junit_of_any_runner(found: Expected, owner: str, twice: bool) -> None:
    cases = "".join(
        f"<testcase classname={quoteattr(owner)} name={quoteattr(n)}>{BODIES[s]}</testcase>"
        for n, s in found.items()
    )
    one = f'<?xml version="1.0"?>\n<testsuite name="x">{cases}</testsuite>\n'
    read = read_junit_output("building\n" + one * (1 + twice) + "done\n")
    assert {name: read[name] for name in found} == found
    assert {name: read[f"{owner}.{name}"] for name in found} == found


def test_a_report_with_entities_of_its_own_holds_no_test() -> None:
    bomb = '<testsuite><!DOCTYPE a [<!ENTITY b "c">]><testcase name="x"/></testsuite>'
    assert read_junit_output(bomb) == {} and read_junit_output("<testsuite>") == {}


PIECES = st.sampled_from(
    ["--- PASS: ", "test ", " ... ok", "ok 1 - ", "✓ ", "PASSED ", "<testsuite>", "</testsuite>",
     '{"Test": 1}', "\n", "  ", "::", " (", ")", "FAIL: ", "[", "\x1b[31m", "1) ", "passing"]
)  # fmt: skip


@pytest.mark.parametrize("name", READERS)
@given(output=st.text() | st.lists(PIECES | words).map("".join))
def test_any_output_is_read(name: str, output: str) -> None:
    assert all(isinstance(s, Status) and n for n, s in READERS[name](output).items())


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("piece", [" ", "(", "test ", "ok 1 ", "✓ a\n", "<testsuite ", "{", "--- "])
def test_long_output_is_read_in_linear_time(name: str, piece: str) -> None:
    READERS[name](piece * 50_000)
    READERS[name](f"{piece * 50_000}\n--- PASS: x ... ok")


@given(st.permutations(["PASSED a::b", "FAILED a::b", "SKIPPED a::b"]))
def test_the_worst_status_of_a_name_counts(lines: list[str]) -> None:
    assert read_pytest_output("\n".join(lines)) == {"a::b": F}


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("python -m pytest --junitxml={report} tests", "pytest"),
        ("pytest -rA", "pytest"),
        ("make check", "pytest"),
        ("./tests/runtests.py --verbosity 2", "django"),
        ("bin/test -C --verbose", "sympy"),
        ("python3 -m unittest -v", "unittest"),
        ("GOFLAGS=-mod=vendor go test -v ./...", "go"),
        ("cargo test --lib", "cargo"),
        ("npx jest --verbose", "jest"),
        ("npx mocha -R spec", "mocha"),
        ("node --test", "tap"),
    ],
)
def test_the_command_tells_the_reader_unless_one_is_named(command: str, name: str) -> None:
    assert reader_name(command) == name and reader_of(command) is READERS[name]
    assert reader_name(command, "junit") == "junit"
    with pytest.raises(UnknownNameError, match="Did you mean 'cargo'"):
        reader_name(command, "carg")


CASES = '''import unittest
class Case(unittest.TestCase):
    def test_good(self): pass
    def test_told(self):
        """It is told."""
    def test_bad(self): self.fail("no")
    def test_broken(self): raise ValueError("no")
    @unittest.skip("later")
    def test_left(self): pass
    @unittest.expectedFailure
    def test_known(self): self.fail("known")
'''


def test_what_unittest_itself_prints(tmp_path: object, run: Callable[[str], str]) -> None:
    wanted = {"good": P, "told": P, "bad": F, "broken": E, "left": S, "known": X}
    read = read_unittest_output(run(CASES))
    assert {f"test_own.Case.test_{n}": s for n, s in wanted.items()}.items() <= read.items()


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    def once(code: str) -> str:
        folder = tmp_path_factory.mktemp("unittest")
        (folder / "test_own.py").write_text(code)
        argv = ["python", "-m", "unittest", "-v"]
        return subprocess.run(argv, cwd=folder, capture_output=True, text=True).stderr

    return once
