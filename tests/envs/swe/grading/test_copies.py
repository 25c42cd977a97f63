"""A copy of a test fails where it has to, whatever it looks like; the rest of its file stays."""

from __future__ import annotations

import gc
import sys
import textwrap
import traceback
import unittest
from concurrent.futures import ThreadPoolExecutor
from random import Random
from typing import Any

import pytest

from aem_gym.envs.swe.grading.copies import function_of, make_copies

PLAIN = {
    "equal": "assert add(2, 2) == 4",
    "equal, with a message": 'assert add(2, 2) == 4, "no"',
    "not equal": "assert add(2, 2) != 5",
    "in": "assert 4 in iter([1, add(2, 2)])",
    "not in": "assert add(2, 2) not in [1]",
    "is": "assert add(None, None) is None",
    "is not": "assert add(2, 2) is not None",
    "less": "assert add(2, 2) < 5",
    "truth": "assert isinstance(add(2, 2), int)",
    "chain": "assert 3 < add(2, 2) < 5",
    "several lines": "assert add(\n    2, 2\n) == (\n    4\n)",
    "a comment behind": "assert add(2, 2) == 4  # as it is",
    "no assertion": "add(2, 2)",
    "raises": "with pytest.raises(ValueError):\n    add('x', 1)",
    "raises with a match": "with pytest.raises(ValueError, match='text'):\n    add('x', 1)",
    "raises as a call": "pytest.raises(ValueError, add, 'x', 1)",
    "raises among others": "with pytest.raises(ValueError), open('/dev/null'):\n    add('x', 1)",
    "a loop": "for n in range(3):\n    assert add(n, 0) == n",
    "a loop over nothing": "for n in []:\n    assert n",
    "a branch": "if add(1, 1):\n    assert True\nelse:\n    assert False",
    "an early return": "if add(1, 1):\n    return\nassert False",
    "a return at the end": "assert add(1, 1) == 2\nreturn None",
    "taken names": "left = right = got = want = first = second = value = other = 1\n"
    "assert add(left, right) == 2",
    "swallowed errors": "try:\n    assert add(1, 1) == 2\nexcept AssertionError:\n    pass",
    "other letters": "assert 'ü' * add(0, 2) == 'üü'",
}
CASE = {
    "assertEqual": "self.assertEqual(add(2, 2), 4)",
    "assertEqual, with a message": "self.assertEqual(add(2, 2), 4, 'no')",
    "assertNotEqual": "self.assertNotEqual(add(2, 2), 5)",
    "assertTrue": "self.assertTrue(add(2, 2))",
    "assertFalse": "self.assertFalse(add(0, 0))",
    "assertIn": "self.assertIn(add(2, 2), [4])",
    "assertNotIn": "self.assertNotIn(add(2, 2), [5])",
    "assertIs": "self.assertIs(add(None, None), None)",
    "assertIsNot": "self.assertIsNot(add(2, 2), None)",
    "assertIsNone": "self.assertIsNone(add(None, None))",
    "assertIsNotNone": "self.assertIsNotNone(add(2, 2))",
    "assertIsInstance": "self.assertIsInstance(add(2, 2), int)",
    "assertGreater": "self.assertGreater(add(2, 2), 3)",
    "assertAlmostEqual": "self.assertAlmostEqual(add(2, 2), 4.0)",
    "assertDictEqual": "self.assertDictEqual({1: add(2, 2)}, {1: 4})",
    "assertTupleEqual": "self.assertTupleEqual((add(2, 2),), (4,))",
    "assertListEqual": "self.assertListEqual([add(2, 2)], [4])",
    "assertCountEqual": "self.assertCountEqual([add(2, 2)], [4])",
    "assertRaises": "with self.assertRaises(ValueError):\n    add('x', 1)",
    "assertRaises as a call": "self.assertRaises(ValueError, add, 'x', 1)",
    "assertRaisesRegex": "with self.assertRaisesRegex(ValueError, 'text'):\n    add('x', 1)",
    "subTest": "for n in (1, 2):\n    with self.subTest(n=n):\n        self.assertTrue(add(n, 0))",
}
HEAD = """
import pytest, unittest

def add(a, b):
    if isinstance(a, str):
        raise ValueError('a text')
    return a if a is None else a + b

"""


def run(source: str, name: str) -> int:
    """The line at which a test fails; 0 if it passes."""
    names: dict[str, Any] = {}
    exec(compile(source, "test_it.py", "exec"), names)
    function = names.get(name)
    if function is None:
        kind: type[unittest.TestCase] = names["TestIt"]
        function = getattr(kind(name), name)
    try:
        function()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
    except BaseException as error:  # pytest's own: it did not raise
        frames = traceback.extract_tb(error.__traceback__)
    else:
        return 0
    return [f.lineno or 0 for f in frames if f.filename == "test_it.py" and f.name == name][-1]


@pytest.mark.parametrize("kind", [*PLAIN, *CASE])
@pytest.mark.parametrize("seed", range(3))
def test_a_copy_fails_where_it_has_to(kind: str, seed: int) -> None:
    is_case = kind in CASE
    body = (CASE if is_case else PLAIN)[kind]
    argument = "self" if is_case else ""
    code = f"def test_it({argument}):\n{textwrap.indent(body, '    ')}\n"
    if is_case:
        code = f"class TestIt(unittest.TestCase):\n{textwrap.indent(code, '    ')}"
    source = f"{HEAD}{code}\n\ndef test_after():\n    raise KeyError\n"
    assert run(source, "test_it") == 0
    name = "TestIt.test_it" if is_case else "test_it"
    edited = make_copies(source.encode(), [name], Random(seed))
    line = run(edited.content.decode(), "test_it")
    assert line in edited.lines[name], edited.content.decode()
    # What comes after it has not moved.
    assert run(edited.content.decode(), "test_after") == run(source, "test_after")


ALONE = {
    "a generator": "def test_it():\n    yield\n",
    "a raise at the end": "def test_it():\n    raise ValueError\n",
    "called by another": "def test_it():\n    pass\n\n\ndef test_other():\n    test_it()\n",
    "not there": "def test_other():\n    pass\n",
    "no Python": "def test_it(:\n",
}


@pytest.mark.parametrize("kind", ALONE)
def test_what_cannot_be_copied_stays(kind: str) -> None:
    content = ALONE[kind].encode()
    edited = make_copies(content, ["test_it"], Random(0))
    assert edited.lines == {} and edited.content == content


def test_a_class_with_others_below_it_stays() -> None:
    content = b"class A:\n    def test_it(self):\n        pass\n\n\nclass B(A):\n    pass\n"
    assert make_copies(content, ["A.test_it"], Random(0)).lines == {}


def test_all_copies_of_a_file_fail_at_lines_of_their_own() -> None:
    body = "    for n in (1,):\n        assert add(n, 0) == n\n"
    functions = [f"test_{n}" for n in range(6)]
    source = HEAD + "".join(f"def {name}():\n{body}" for name in functions)
    edited = make_copies(source.encode(), functions, Random(0))
    for name in functions:
        assert run(source, name) == 0
        assert run(edited.content.decode(), name) in edited.lines[name]


def test_functions_of_node_ids() -> None:
    assert function_of("tests/test_x.py::TestX::test_a[1::2-b]") == "TestX.test_a"
    assert function_of("test_x.py::test_a") == "test_a"


class _Cycle:
    """Garbage whose end lets another thread go on."""

    def __init__(self) -> None:
        self.me = self

    def __del__(self) -> None:
        sum(range(30))


def test_files_are_read_in_many_threads_at_once() -> None:
    """As many gradings of one process do; CPython's own reader is not made for it."""
    content = b"".join(
        b"def test_%d():\n    assert f(g(%d), [1, 2]) == 3\n" % (n, n) for n in range(300)
    )
    names = [f"test_{n}" for n in range(300)]

    def read(depth: int) -> int:
        if depth:
            return read(depth - 1)
        return sum(
            len(make_copies(content, names[:1], Random(0)).lines) for _ in range(30) if _Cycle()
        )

    interval, thresholds = sys.getswitchinterval(), gc.get_threshold()
    sys.setswitchinterval(1e-6)
    gc.set_threshold(50)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert list(threads.map(read, (0, 9, 18, 27))) == [30] * 4
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
