"""A tiny broken package as a task, in real containers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.sandbox.base import Sandbox, SandboxSpec
from aem_gym.envs.swe.tasks.base import SweTask, Verdict
from aem_gym.envs.swe.workspace import prepare, take_patch
from tests.envs.swe.grading.containers import Containers, available, docker

BROKEN = b'''"""Sums."""


def add(a, b):
    return a - b


def double(a):
    return 2 * a
'''
VISIBLE = b"from calc import double\n\n\ndef test_double():\n    assert double(2) == 4\n"
HIDDEN = (
    VISIBLE.replace(b"import double", b"import add, double")
    + b"\n\ndef test_add_secret():\n    assert add(2, 2) == 4\n"
)
FIX = "sed -i 's/return a - b/return a + b/' calc.py"
GOLD = """--- a/calc.py
+++ b/calc.py
@@ -2,5 +2,5 @@
 
 
 def add(a, b):
-    return a - b
+    return a + b
 
"""


@dataclass(frozen=True)
class Bench:
    """Lets an agent's commands loose on the task, and grades what they leave."""

    engine: Containers
    task: SweTask

    def open(self) -> Sandbox:
        return self.engine.start(SandboxSpec(str(self.task.image)))

    def answer(self, commands: str) -> str:
        sandbox = self.open()
        try:
            workspace = prepare(sandbox, self.task)
            sandbox.run(commands, 60)
            return take_patch(sandbox, workspace)
        finally:
            sandbox.close()

    def grade(self, patch: str) -> Verdict:
        return grade(self.engine, self.task, patch)

    def attempt(self, commands: str) -> Verdict:
        return self.grade(self.answer(commands))


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    image = os.environ.get("AEM_SANDBOX_IMAGE", "grading-py:1")
    if not available() or docker("image", "inspect", image).returncode != 0:
        pytest.skip("needs a Docker engine and a sandbox image")
    task = SweTask(
        task_id="calc",
        repo="calc",
        problem="add is wrong",
        image=image,
        fail_to_pass=("tests/test_calc.py::test_add_secret",),
        pass_to_pass=("tests/test_calc.py::test_double",),
        test_command="python -m pytest --junitxml={report} tests/test_calc.py",
        hidden={"tests/test_calc.py": HIDDEN},
        overlay={"calc.py": BROKEN, "tests/test_calc.py": VISIBLE},
        gold=GOLD,
    )
    yield Bench(Containers(), task)


@pytest.fixture
def opened(bench: Bench) -> Iterator[Callable[[], Sandbox]]:
    """Opens sandboxes that are closed with the test."""
    sandboxes: list[Sandbox] = []

    def open_one() -> Sandbox:
        sandboxes.append(bench.open())
        return sandboxes[-1]

    yield open_one
    for sandbox in sandboxes:
        sandbox.close()
