"""Hidden tests of every kind: honest answers pass, and what bends only one kind does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.tasks.base import SweTask
from tests.envs.swe.grading.test_attacks_reports import in_module
from tests.envs.swe.swe_bench import FIX, GOLD, HIDDEN, Bench

pytestmark = pytest.mark.docker

_TESTS = '''
import unittest

import pytest
from pytest import approx, raises

from calc import add, double


class TestSums(unittest.TestCase):
    """Methods."""

    def setUp(self):
        self.two = double(1)

    def test_sum(self):
        self.assertEqual(add(self.two, 2), 4)

    def test_twice(self):
        self.assertTrue(double(3) == 6)

    @unittest.expectedFailure
    def test_expected_failure(self):
        self.assertEqual(double(1), 3)

    @unittest.skip("not here")
    def test_left_out(self):
        self.fail()


@pytest.fixture(params=[1, 2])
def number(request):
    return request.param


def test_with_fixture(number):
    assert add(number, 0.5) == approx(number + 0.5)


@pytest.mark.parametrize("a, b", [(1, 2), (3, 4)])
def test_with_parameters(a, b):
    assert add(a, b) == a + b


def test_errors():
    with raises(TypeError):
        double(None) + "x"


@pytest.mark.xfail(reason="never")
def test_xfail():
    assert double(1) == 1


def test_monkeypatch(monkeypatch):
    monkeypatch.setattr(unittest.TestCase, "assertEqual", lambda *args: None)
    monkeypatch.setattr("builtins.abs", lambda value: 7)
    monkeypatch.setattr(pytest, "raises", None)
    assert abs(1) == 7
    assert double(1) == 2


def test_output(capsys):
    print(double(2))
    assert capsys.readouterr().out == "4\\n"


def documented():
    """Doctests.

    >>> double(4)
    8
    """
'''
FILE = "tests/test_calc.py"
FIRST = (
    "TestSums::test_sum",
    *("test_with_fixture[1]", "test_with_fixture[2]"),
    *("test_with_parameters[1-2]", "test_with_parameters[3-4]"),
)
ALWAYS = (
    *("TestSums::test_twice", "TestSums::test_expected_failure", "TestSums::test_left_out"),
    *("test_errors", "test_xfail", "test_monkeypatch", "test_output"),
    "test_calc.documented",
)
BENT = {
    "methods of TestCase": """
        import unittest
        for name in dir(unittest.TestCase):
            if name.startswith('assert'):
                setattr(unittest.TestCase, name, lambda self, *args, **kwargs: None)
    """,
    "methods are not called": """
        import _pytest.unittest as u
        u.TestCaseFunction.runtest = lambda self: None
    """,
    "approx": """
        import _pytest.python_api as a
        a.ApproxScalar.__eq__ = lambda self, other: True
    """,
    "raises": """
        import contextlib, pytest
        @contextlib.contextmanager
        def raises(*args, **kwargs):
            try: yield
            except Exception: pass
        pytest.raises = raises
    """,
    "xfail as soon as something fails": """
        import _pytest.python as p, pytest
        def runtest(self, old=p.Function.runtest):
            try: old(self)
            except Exception: pytest.xfail('x')
        p.Function.runtest = runtest
    """,
}


@pytest.fixture
def task(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweTask:
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path))
    return replace(
        bench.task,
        hidden={FILE: _TESTS.encode(), "conftest.py": b"import pytest\n"},
        fail_to_pass=tuple(f"{FILE}::{name}" for name in FIRST),
        pass_to_pass=tuple(f"{FILE}::{name}" for name in ALWAYS),
        test_command=f"python -m pytest --doctest-modules --junitxml={{report}} {FILE}",
    )


def test_honest_answers_resolve_and_none_does_not(bench: Bench, task: SweTask) -> None:
    gold = grade(bench.engine, task, GOLD)
    assert gold.resolved, gold
    other = bench.answer(f"{FIX}; echo 'print(\"loaded\")' >> calc.py; echo note > note.txt")
    assert grade(bench.engine, task, other).resolved
    empty = grade(bench.engine, task, "", run_empty=True)
    assert not empty.resolved
    assert set(empty.failed) <= set(task.fail_to_pass)


@pytest.mark.parametrize("kind", BENT)
def test_what_bends_one_kind_resolves_nothing(bench: Bench, task: SweTask, kind: str) -> None:
    verdict = grade(bench.engine, task, bench.answer(in_module(BENT[kind])))
    assert not verdict.resolved


def test_a_skip_that_the_gold_patch_has_not_is_a_failure(bench: Bench, task: SweTask) -> None:
    skipping = "import pytest\\ndef double(a): pytest.skip('x')"
    verdict = grade(bench.engine, task, bench.answer(f'{FIX}; printf "{skipping}" >> calc.py'))
    assert not verdict.resolved


def test_xfail_resolves_nothing(bench: Bench) -> None:
    code = "import pytest\\ndef add(a, b): pytest.xfail('x')\\ndouble = add\\n"
    verdict = bench.attempt(f'printf "{code}" > calc.py')
    assert not verdict.resolved
    assert set(verdict.failed) >= set(bench.task.fail_to_pass)


def test_a_test_that_passes_only_after_another_is_judged_as_with_the_gold_patch(
    bench: Bench, task: SweTask
) -> None:
    tests = HIDDEN + b"\n\nSEEN = []\n\n\ndef test_first():\n    SEEN.append(1)\n"
    tests += b"\n\ndef test_second():\n    assert SEEN and add(1, 1) == 2\n"
    order = replace(
        task,
        hidden={FILE: tests},
        fail_to_pass=(f"{FILE}::test_second",),
        pass_to_pass=(f"{FILE}::test_first", f"{FILE}::test_double"),
    )
    assert grade(bench.engine, order, GOLD).resolved
    assert grade(bench.engine, order, bench.answer(f"{FIX}; echo note > note.txt")).resolved
    assert not grade(bench.engine, order, bench.answer("echo '# no' >> calc.py")).resolved
