"""Suites in real containers: what is shipped and what is made holds, and what does not is found."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from aem_gym.envs.swe.authoring import generate
from aem_gym.envs.swe.authoring.suites import one_hunk_diff
from aem_gym.envs.swe.authoring.validate import from_suite, main, sample, validate
from aem_gym.envs.swe.sandbox.base import SandboxEngine
from aem_gym.envs.swe.tasks.git import touched
from aem_gym.envs.swe.tasks.packages import PackageError
from aem_gym.envs.swe.tasks.suites import load_suite, read_suite
from tests.envs.swe.authoring.swe_library import write_library

pytestmark = [pytest.mark.docker, pytest.mark.slow, pytest.mark.timeout(900)]

UNLIKE_A_SANDBOX = """
import pathlib


def test_passes_only_outside_of_a_sandbox():
    assert not pathlib.Path("/testbed").exists()
"""


@pytest.fixture(scope="module")
def suite(engine: SandboxEngine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of a package of our own, tried in the engine as it is made."""
    folder = write_library(tmp_path_factory.mktemp("own") / "library")
    (folder / "tests" / "test_place.py").write_text(UNLIKE_A_SANDBOX)
    out = folder.parent / "suite.jsonl"
    command = ["--package", str(folder), "--out", str(out), "--jobs", "1"]
    assert generate.main([*command, "--python", sys.executable, "--engine", engine.name]) == 0
    return out


def last_line(text: str) -> dict[str, Any]:
    found = json.loads(text.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_some_tasks_of_the_default_suite_hold(engine: SandboxEngine) -> None:
    try:
        candidates = from_suite("default").candidates
    except PackageError as error:
        pytest.skip(f"needs the package index once: {error}")
    results = list(validate(engine, sample(candidates, 6, seed=1), {}))
    assert len({result.repo for result in results}) == 6
    assert all(result.valid for result in results), [r for r in results if not r.valid]


def test_tests_that_fail_in_a_sandbox_are_none_of_a_suites(suite: Path) -> None:
    packages, tasks = read_suite(suite)
    assert len(tasks) >= 4
    assert {test.partition("::")[0] for test in packages["library"].tests} == {
        "tests/test_shelf.py"
    }


def test_a_suite_that_was_made_is_valid(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, kept = tmp_path / "validated.json", tmp_path / "kept.jsonl"
    command = ["--suite", str(suite), "--out", str(out), "--keep-valid", str(kept)]
    assert main(command) == 0
    number = len(load_suite(suite))
    said = last_line(capsys.readouterr().out)
    assert (said["tasks"], said["valid"]) == (number, number)
    assert kept.read_bytes() == suite.read_bytes()
    before = json.loads(out.read_text())
    assert main(command) == 0  # nothing is graded again
    assert json.loads(out.read_text()) == before


def test_what_is_not_valid_is_dropped(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package, good, bad = map(json.loads, suite.read_text().splitlines()[:3])
    (path,) = touched(bad["bug_patch"])
    content = (suite.parent / "library" / path).read_bytes()
    bad["bug_patch"] = one_hunk_diff(path, content, b"# breaks nothing\n" + content)
    spoiled, kept = tmp_path / "spoiled.jsonl", tmp_path / "kept.jsonl"
    spoiled.write_text("".join(json.dumps(row) + "\n" for row in (package, good, bad)))
    out = tmp_path / "validated.json"
    assert main(["--suite", str(spoiled), "--out", str(out), "--keep-valid", str(kept)]) == 1
    said = capsys.readouterr().out
    assert (last_line(said)["tasks"], last_line(said)["valid"]) == (2, 1)
    assert f"{bad['instance_id']}: " in said
    assert [task.task_id for task in load_suite(kept)] == [good["instance_id"]]
