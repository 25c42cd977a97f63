"""What is asked of an answer: each test once as it is and once as a copy, drawn by the seed."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from aem_gym.envs.swe.grading.plan import Drawing, Version, choose
from aem_gym.envs.swe.grading.sessions import Alone, narrowed, read_stream
from aem_gym.envs.swe.sandbox.base import CommandResult
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.logs import Status

_FUNCTIONS = "".join(f"def test_{n}(value):\n    assert value\n\n\n" for n in range(12))
FILES = {path: _FUNCTIONS.encode() for path in ("tests/test_a.py", "tests/b.py", "tests/c.py")}
TASK = SweTask(
    task_id="t",
    repo="t",
    problem="",
    image="t",
    fail_to_pass=("tests/test_a.py::test_0[1]", "tests/test_a.py::test_0[2]", "tests/b.py::test_1"),
    pass_to_pass=tuple(
        f"{path}::test_{n}[1]"
        for path, numbers in {"tests/test_a.py": (2, 3, 4, 5), "tests/c.py": (6, 7, 8)}.items()
        for n in numbers
    ),
    test_command="python -m pytest --junitxml={report} tests/test_a.py tests/b.py tests/c.py",
)


def versions(seed: int) -> tuple[Version, Version]:
    random = Random(seed)
    asked = choose(TASK, random)
    contents = {path: FILES[path] for path in asked.paths}
    return Drawing(TASK, asked, contents, random).versions()


def test_what_is_a_copy_in_one_run_is_true_in_the_other() -> None:
    seen = set()
    for seed in range(20):
        first, second = versions(seed)
        functions = [{test.split("[")[0] for test in version.copies} for version in (first, second)]
        true = [{test.split("[")[0] for test in version.true} for version in (first, second)]
        assert functions[0] == true[1]
        assert functions[1] == true[0]
        seen |= {frozenset(functions[0])}
        for test in TASK.fail_to_pass:
            asked = (test in first.true) + (test in second.true)
            assert asked == 1
            assert test in {*first.orders.alone, *second.orders.alone}
        # Tests of functions that are copies in the first run all run in the second.
        assert set(first.orders.left) <= set(second.orders.batch)
    assert len(seen) > 10


def test_copies_are_in_the_files_of_their_version_alone() -> None:
    for version in versions(3):
        for path, content in version.files.items():
            is_whole = content.startswith(FILES[path])
            assert is_whole == (not any(test.startswith(path) for test in version.copies))


def test_few_tests_are_asked_often() -> None:
    task = replace(TASK, fail_to_pass=("tests/b.py::test_1",), pass_to_pass=())
    random = Random(0)
    asked = choose(task, random)
    drawing = Drawing(task, asked, {"tests/b.py": FILES["tests/b.py"]}, random)
    for version in drawing.versions():
        assert all(version.orders.alone[test] >= 4 for test in (*version.true, *version.copies))


def test_the_command_is_narrowed_to_the_files_that_are_asked() -> None:
    assert narrowed(TASK, {"tests/b.py"}).split("{report}")[1].split() == ["tests/b.py"]
    assert narrowed(TASK, {"tests/other.py"}) == TASK.test_command


STREAM = """
w "hello"
w "test" "a::x" "PASSED"
w "test" "a::x" "FAILED"
v "test" "a::y" "PASSED"
PASSED a::y
w "alone" "a::z" "PASSED" 0 []
w "exit" "a::z" 0
w "alone" "a::q" "PASSED" 0 ["unittest.case"]
w "exit" "a::q" 256
w "alone" "a::r" "PASSED" 0 []
w "alone" "a::r" "FAILED" 7 []
w "exit" "a::r" 0
w "done" 1
w broken "json
"""


def test_only_lines_with_the_word_count_and_the_worst_of_them() -> None:
    session = read_stream("w", CommandResult(STREAM, 1))
    assert session.statuses == {"a::x": Status.FAILED}
    assert session.alone == {"a::z": (Alone(Status.PASSED, 0),)}
    assert session.altered == {"unittest.case"}
    assert session.ended
    assert not read_stream("w", CommandResult(STREAM, 0)).ended
