"""Suites made from a package: each task is what it claims, whatever the jobs and interruptions."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from aem_gym.envs.swe.authoring.generate import main, release
from aem_gym.envs.swe.authoring.trials import trial
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.git import touched
from aem_gym.envs.swe.tasks.packages import source
from aem_gym.envs.swe.tasks.suites import load_suite
from tests.envs.swe.authoring.swe_library import write_library

Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """This Python without pytest's plugins, which take longer to load than a trial runs."""
    home = tmp_path_factory.mktemp("python")
    venv.create(home, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    off = "import os; os.environ['PYTEST_DISABLE_PLUGIN_AUTOLOAD'] = '1'"
    (site / "tests.pth").write_text(f"{Path(pytest.__file__).parents[1]}\n{off}\n")
    return home / "bin" / "python"


@pytest.fixture(scope="module")
def command(python: Path) -> Command:
    """Arguments for `generate`: the package's folder, the file of the suite, and more."""

    def arguments(folder: Path, out: Path, *more: str) -> list[str]:
        made = ["--package", str(folder), "--out", str(out), "--python", str(python)]
        return [*made, "--engine", "none", *more]

    return arguments


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_library(tmp_path_factory.mktemp("own") / "library")


@pytest.fixture(scope="module")
def suite(library: Path, command: Command) -> Path:
    out = library.parent / "suite.jsonl"
    assert main(command(library, out, "--jobs", "2")) == 0
    return out


@pytest.fixture(scope="module")
def tasks(suite: Path) -> list[SweTask]:
    return load_suite(suite)


def test_one_task_for_each_function_that_tests_notice(suite: Path, tasks: list[SweTask]) -> None:
    rows = [json.loads(line) for line in suite.read_text().splitlines()]
    changed = [row["bug_patch"] for row in rows if "bug_patch" in row]
    assert len(changed) == len(set(changed)) == len(tasks) >= 4
    assert all(touched(patch) == {"library/shelf.py"} for patch in changed)
    assert not suite.with_name(f"{suite.name}.journal").exists()


def test_each_task_fails_without_and_passes_with_its_patch(
    library: Path, tasks: list[SweTask], python: Path
) -> None:
    package = release(str(library))
    with trial(package, 60, python) as bench:
        for task in tasks:
            mutated = {p: c for p, c in task.overlay.items() if not p.startswith("tests/")}
            broken, mended = bench.run({**mutated, **task.hidden}), bench.run(task.hidden)
            assert not set(task.fail_to_pass) & broken.passed
            assert set(task.pass_to_pass) <= broken.passed
            assert {*task.fail_to_pass, *task.pass_to_pass} <= mended.passed
            assert "tests/test_shelf.py::test_always_fails" in mended.failed
            visible = bench.run(task.overlay)
            assert visible.failed == {"tests/test_shelf.py::test_always_fails"}


def test_what_an_agent_sees_tells_no_hidden_test(tasks: list[SweTask]) -> None:
    for task in tasks:
        names = {test.partition("[")[0].rpartition("::")[2] for test in task.fail_to_pass}
        for path, content in task.overlay.items():
            assert path in task.gold or not any(f"def {n}(" in content.decode() for n in names)
        assert not any(name in task.problem or name in task.task_id for name in names)
        removed = [line[1:].strip() for line in task.gold.splitlines() if line.startswith("-  ")]
        assert not any(len(line) > 9 and line in task.problem for line in removed)


def test_a_patch_restores_the_file(library: Path, tasks: list[SweTask], tmp_path: Path) -> None:
    original = source(release(str(library)))
    for task in tasks:
        folder = tmp_path / task.task_id
        for path, content in task.overlay.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        done = subprocess.run(
            ["git", "apply", "-"], cwd=folder, input=task.gold.encode(), capture_output=True
        )
        assert done.returncode == 0, done.stderr
        for path, content in task.overlay.items():
            now = (folder / path).read_bytes()
            assert now == (content if path in task.hidden else (original / path).read_bytes())


def test_the_suite_depends_on_neither_jobs_nor_interruptions(
    suite: Path, library: Path, command: Command
) -> None:
    out = library.parent / "again.jsonl"
    journal = out.with_name(f"{out.name}.journal")
    module = "aem_gym.envs.swe.tasks.generate"
    arguments = [sys.executable, "-m", module, *command(library, out, "--jobs", "1")]
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL)
    try:
        while not journal.exists() or len(journal.read_text().splitlines()) < 3:
            assert process.poll() is None
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not out.exists()
    with journal.open("a") as stream:
        stream.write('["library", "library/sh')  # as it looks when a disk is full
    assert main(command(library, out, "--jobs", "1")) == 0
    assert out.read_bytes() == suite.read_bytes()


def test_another_seed_gives_another_suite(suite: Path, library: Path, command: Command) -> None:
    out = library.parent / "other.jsonl"
    assert main(command(library, out, "--seed", "1", "--tasks", "2")) == 0
    assert len(load_suite(out)) == 2
    assert not set(out.read_text().splitlines()[1:]) & set(suite.read_text().splitlines()[1:])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--out", "suite.txt"], "--out FILE.jsonl"),
        (["--package", "no such folder"], "NAME==VERSION or a folder"),
    ],
)
def test_wrong_arguments(
    library: Path,
    command: Command,
    change: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main([*command(library, Path("suite.jsonl")), *change]) == 2
    assert message in capsys.readouterr().err


def test_tests_that_do_not_pass_say_how_to_see_it(
    tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_library(tmp_path / "library")
    (folder / "tests" / "test_shelf.py").write_text("import no_such_module\n")
    assert main(command(folder, tmp_path / "suite.jsonl")) == 2
    assert "--require NAME==VERSION" in capsys.readouterr().err
    assert not (tmp_path / "suite.jsonl").exists()
