"""A repository of one's own with some history, as a file of tasks."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import yaml

from tests.envs.swe.swe_bench import BROKEN, GOLD, HIDDEN, MENDED, VISIBLE

IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in {
        "NAME": "a",
        "EMAIL": "a@localhost",
        "DATE": "2024-01-01T00:00:00Z",
    }.items()
}


def git(folder: Path, *words: str) -> str:
    env = {**os.environ, **IDENTITY, "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run(
        ["git", "-c", "core.hooksPath=/dev/null", *words],
        cwd=folder,
        env=env,
        check=True,
        capture_output=True,
    )
    return done.stdout.decode().strip()


def write_tasks(folder: Path, **changes: object) -> Path:
    """The file of two tasks, beside the repository that they are about."""
    repo = folder / "calc"
    (repo / "tests").mkdir(parents=True)
    git(repo, "init", "-q", "-b", "main")
    for content, message in ((MENDED, "once it was right"), (BROKEN, "break it")):
        (repo / "calc.py").write_bytes(content)
        (repo / "tests" / "test_calc.py").write_bytes(VISIBLE)
        git(repo, "add", ".")
        git(repo, "commit", "-q", "-m", message)
    broken = git(repo, "rev-parse", "--short", "HEAD")
    (repo / "calc.py").write_bytes(MENDED)
    git(repo, "commit", "-qam", "mend it")
    (folder / "hidden.py").write_bytes(HIDDEN)
    (folder / "gold.patch").write_text(GOLD)
    task = {
        "id": "add",
        "commit": broken,
        "issue": "add(2, 2) gives 0",
        "tests": {"tests/test_calc.py": "hidden.py"},
        "fail_to_pass": ["tests/test_calc.py::test_add_secret"],
        "pass_to_pass": ["tests/test_calc.py::test_double"],
        "gold": "gold.patch",
    }
    content = {
        "repo": "calc",
        "test_command": "python -m pytest --junitxml={report} tests/test_calc.py",
        "tasks": [task, {**task, "id": "without-gold", "gold": "", "split": "test"}],
        **changes,
    }
    file = folder / "tasks.yaml"
    file.write_text(yaml.safe_dump(content))
    return file
