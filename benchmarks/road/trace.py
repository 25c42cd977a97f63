"""Notes which functions of a tree's package a job enters.

A script that runs in a process of its own:

    python -P trace.py {step | grading} TREE REPORT

`step`: `train.py` with the fixed workload of `JOB`. The training step that is counted is the
second one: what is entered between the writing of the first and of the second line of
`metrics.jsonl`. That is one whole turn of the loop, with logging, and without warm start,
evaluation and checkpoint. The length of that file is read whenever a function of the package is
entered, so that no name of the package has to be known here.
`grading`: the expert solves a task of SWE; what its last action, `submit`, enters is counted.

REPORT receives one JSON object.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import tempfile
import threading
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

JOB = (
    *("--env", "aem_gym/ALFWorld-v0", "--env-arg", "difficulty=small", "--model", "tiny"),
    *("--steps", "3", "--groups", "2", "--group-size", "4", "--eval-every", "0"),
    *("--warmstart-episodes", "64", "--warmstart-steps", "30", "--save-every", "100"),
)
"""Two tasks with four rollouts each, and a warm start that is only long enough to have one."""
LEFT_OUT = 3
"""Exit status where no engine answers."""
_FUNCTION = 0x1  # CO_OPTIMIZED: code of a function, not of a module or the body of a class


class Tracer:
    """Counts calls of functions below a folder, by file, in the order of first entry.

    Args:
        package: the folder.
        metrics: a file; calls while it has exactly one line are also counted apart.
    """

    def __init__(self, package: Path, metrics: Path | None = None) -> None:
        # Environments and agents may be loaded by the real path of their folders.
        linked = (package, (package / "envs").resolve(), (package / "agents").resolve())
        self.package, self.metrics = tuple(f"{folder}{os.sep}" for folder in linked), metrics
        self.calls: dict[str, int] = {}
        self.step: dict[str, int] = {}
        self.functions: set[CodeType] = set()
        self.changes = 0
        self._last, self._size, self._lines = "", 0, 0

    def start(self) -> None:
        """Note calls from now on, in this thread and those that it starts."""
        threading.setprofile(self)
        sys.setprofile(self)

    def stop(self) -> None:
        """Note nothing any more."""
        sys.setprofile(None)
        threading.setprofile(None)

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """A profile function; generators that go on are noted as calls, too."""
        code = frame.f_code
        file = code.co_filename
        if event != "call" or not code.co_flags & _FUNCTION or not file.startswith(self.package):
            return
        self.calls[file] = self.calls.get(file, 0) + 1
        if self.metrics is None or self._lines_written() == 1:
            self.step[file] = self.step.get(file, 0) + 1
            self.functions.add(code)
            self.changes += file != self._last
            self._last = file

    def _lines_written(self) -> int:
        assert self.metrics is not None
        try:
            size = os.stat(self.metrics).st_size
        except OSError:
            return 0
        if size != self._size:
            self._size, self._lines = size, self.metrics.read_bytes().count(b"\n")
        return self._lines

    def report(self, tree: Path) -> dict[str, Any]:
        """Files below `tree` with their counts; per file, first and last line of each function."""
        spans: dict[str, dict[int, int]] = {}
        for code in self.functions:
            last = max([line for *_, line in code.co_lines() if line], default=0)
            known = spans.setdefault(_inside(code.co_filename, tree), {})
            known[code.co_firstlineno] = max(last, known.get(code.co_firstlineno, 0))
        return {
            "job": {_inside(file, tree): n for file, n in self.calls.items()},
            "step": {_inside(file, tree): n for file, n in self.step.items()},
            "spans": spans,
            "changes": self.changes,
        }


def _inside(file: str, tree: Path) -> str:
    """A file's path below `tree`, through the links of the package."""
    path = os.path.relpath(file, tree)
    return path if path.startswith("aem_gym") else os.path.join("aem_gym", path)


def trace_step(tree: Path) -> Tracer:
    """Train with `train.py` of the tree."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        os.environ["AEM_GYM_CACHE"] = str(Path(folder, "cache"))
        tracer = Tracer(tree / "aem_gym", run / "metrics.jsonl")
        sys.argv = ["train.py", *JOB, "--out", str(run)]
        tracer.start()
        try:
            runpy.run_path(str(tree / "train.py"), run_name="__main__")
        except SystemExit as end:
            if end.code:
                raise
        finally:
            tracer.stop()
    return tracer


def trace_grading(tree: Path) -> Tracer:
    """Let the expert solve a task of the shipped suite, and note what its grading enters."""
    import docker

    try:
        docker.from_env().ping()
    except Exception as error:  # whatever the client raises: there is no engine to be had
        print(f"no engine answers: {error}", file=sys.stderr)
        sys.exit(LEFT_OUT)
    import gymnasium as gym

    env: Any = gym.make("aem_gym:aem_gym/SWE-v0", max_turns=12, engine="docker").unwrapped
    tracer = Tracer(tree / "aem_gym")
    env.reset(seed=0)
    over = False
    while not over:
        _, action = env.expert()
        submits = action.strip().startswith("submit")
        if submits:
            tracer.start()
        _, _, terminated, truncated, info = env.step(action)
        tracer.stop()
        over = terminated or truncated
    env.close()
    if not info["won"]:
        sys.exit(f"the expert's episode was not graded as resolved: {info}")
    return tracer


def main() -> None:
    """Run the job and write the report."""
    what, tree, report = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    import aem_gym

    found = Path(aem_gym.__file__ or "").parent
    if found != tree / "aem_gym":
        sys.exit(f"aem_gym: expected the package of {tree}, got {found}")
    tracer = {"step": trace_step, "grading": trace_grading}[what](tree)
    report.write_text(json.dumps(tracer.report(tree)))


if __name__ == "__main__":
    main()
