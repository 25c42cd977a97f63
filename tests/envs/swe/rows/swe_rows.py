"""A repository with a mistake in its past, as a row of SWE-bench. Its names are flask's, so that
SWE-bench's grader knows how its tests are run."""

from __future__ import annotations

import difflib
import json
from pathlib import Path

from tests.envs.swe.swe_bench import BROKEN, GOLD, HIDDEN, VISIBLE
from tests.envs.swe.swe_own import git

SETUP = b"from setuptools import setup\nsetup(name='calc', version='1', py_modules=['calc'])\n"


def write_mirror(mirror: Path) -> str:
    """A bare clone of the repository; the commit before the mistake is mended."""
    work = mirror.parent / "work"
    (work / "tests").mkdir(parents=True)
    git(work, "init", "-q", "-b", "main")
    for state in (b"# the past\n", BROKEN, BROKEN.replace(b"a - b", b"a + b")):
        (work / "calc.py").write_bytes(state)
        (work / "setup.py").write_bytes(SETUP)
        (work / "tests" / "test_calc.py").write_bytes(VISIBLE)
        git(work, "add", "-A")
        git(work, "commit", "-q", "-m", "change")
    mirror.parent.mkdir(parents=True, exist_ok=True)
    git(work, "clone", "-q", "--bare", str(work), str(mirror))
    return git(work, "rev-parse", "HEAD~1")


def record(commit: str = "0" * 40, **changes: object) -> dict[str, object]:
    """The row, as it stands in a file."""
    return {
        "instance_id": "pallets__flask-1",
        "repo": "pallets/flask",
        "base_commit": commit,
        "version": "2.3",
        "problem_statement": "add is wrong",
        "patch": "diff --git a/calc.py b/calc.py\n" + GOLD,
        "test_patch": hidden_patch(),
        "FAIL_TO_PASS": json.dumps(["tests/test_calc.py::test_add_secret"]),
        "PASS_TO_PASS": ["tests/test_calc.py::test_double"],
        **changes,
    }


def write_rows(file: Path, *rows: object) -> Path:
    """A file of rows; what is no text becomes JSON."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    file.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return file


def hidden_patch() -> str:
    """The diff that brings the hidden tests."""
    lines = (content.decode().splitlines(keepends=True) for content in (VISIBLE, HIDDEN))
    path = "tests/test_calc.py"
    return f"diff --git a/{path} b/{path}\n" + "".join(
        difflib.unified_diff(*lines, f"a/{path}", f"b/{path}")
    )
