"""A tiny package that is broken, as a task whose image holds what was there before."""

from __future__ import annotations

import hashlib
import textwrap
from dataclasses import dataclass
from pathlib import Path

from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.sandbox.base import (
    AGENT,
    WORKDIR,
    CommandResult,
    ImagePlan,
    Limits,
    Sandbox,
    SandboxEngine,
    SandboxSpec,
)
from aem_gym.envs.swe.tasks.base import SweTask, Verdict
from aem_gym.envs.swe.workspace import Workspace, prepare, take_patch

BROKEN = b'''"""Sums."""


def add(a, b):
    return a - b


def double(a):
    return 2 * a
'''
MENDED = BROKEN.replace(b"a - b", b"a + b")
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
_FILES = {"calc.py": MENDED, "tests/test_calc.py": HIDDEN, "data/note.txt": b"a note\n"}


@dataclass(frozen=True)
class Bench:
    """Lets an agent's commands loose on the task, and grades what they leave."""

    engine: SandboxEngine
    task: SweTask

    def open(self, limits: Limits | None = None) -> Sandbox:
        image = self.engine.image(self.task.image)
        return self.engine.start(SandboxSpec(image, limits or Limits()))

    def answer(self, commands: str, timeout: float = 60) -> str:
        sandbox = self.open()
        try:
            workspace = prepare(sandbox, self.task)
            sandbox.run(commands, timeout)
            return take_patch(sandbox, workspace)
        finally:
            sandbox.close()

    def grade(self, patch: str) -> Verdict:
        return grade(self.engine, self.task, patch)

    def attempt(self, commands: str) -> Verdict:
        return self.grade(self.answer(commands))


@dataclass(frozen=True)
class Episode:
    """An agent's sandbox, with the task laid out."""

    sandbox: Sandbox
    workspace: Workspace

    def run(self, command: str, timeout: float = 30) -> str:
        """What a command prints; it may fail."""
        return self.sandbox.run(command, timeout).output

    def python(self, code: str, timeout: float = 30) -> CommandResult:
        """Run Python code as the agent."""
        script = textwrap.dedent(code)
        return self.sandbox.run(f"python - <<'END'\n{script}\nEND", timeout)

    def take(self) -> str:
        return take_patch(self.sandbox, self.workspace)

    def processes(self) -> list[str]:
        """What runs as the agent, its one shell aside. Read by root, from the kernel."""
        script = 'cat /proc/[0-9]*/status 2>/dev/null | grep -E "^(Name|State|Uid):"'
        lines = self.sandbox.execute(["/bin/sh", "-c", script], 20).output.splitlines()
        names, states, uids = (
            [line.split()[1] for line in lines if line.startswith(key)]
            for key in ("Name:", "State:", "Uid:")
        )
        alive = zip(names, states, uids, strict=True)
        found = [name for name, state, uid in alive if uid == str(AGENT) and state not in "ZX"]
        if "bash" in found:
            found.remove("bash")
        return found

    def answers(self) -> None:
        """The next command finds the shell in order and nothing else."""
        assert self.run("echo alive") == "alive\n"
        assert self.processes() == []

    def is_well(self) -> None:
        """The episode can go on and be graded, whatever was done."""
        self.answers()
        assert self.sandbox.execute(["/bin/echo", "alive"], 20).output == "alive\n"
        self.run(f"cd {WORKDIR}; {FIX}")
        assert "+    return a + b" in self.take()
        assert self.processes() == []


def write_package(folder: Path) -> ImagePlan:
    """The package as it was before it was broken, hidden tests included."""
    digest = hashlib.sha256()
    for path, content in _FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
        digest.update(path.encode() + content)
    return ImagePlan(name=f"aem-swe-tests:{digest.hexdigest()[:12]}", folder=folder)


def calc_task(image: ImagePlan | str) -> SweTask:
    return SweTask(
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
