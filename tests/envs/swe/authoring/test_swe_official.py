"""SWE-bench's own grader beside ours: the same verdicts, where nobody cheats."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.swe.authoring.predictions import main, read_predictions
from aem_gym.envs.swe.authoring.swebench_grader import grade_officially, official_spec
from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.sandbox.base import ImagePlan, SandboxEngine
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.git import checkout
from aem_gym.envs.swe.tasks.logs import read_django_output, read_pytest_output, read_sympy_output
from aem_gym.envs.swe.tasks.rows import Row, read_row
from aem_gym.envs.swe.tasks.swebench import make_task
from aem_gym.errors import ConfigError, MissingDependencyError
from tests.envs.swe.rows.swe_rows import record, write_mirror, write_rows
from tests.envs.swe.swe_bench import GOLD

PARSERS = {
    "pytest": read_pytest_output,
    "sympy": read_sympy_output,
    "django": read_django_output,
}
EXTRA = 'pip install "aem-gym[swebench]"'
THERE = importlib.util.find_spec("swebench") is not None
needs_extra = pytest.mark.skipif(not THERE, reason=f"needs SWE-bench's harness: {EXTRA}")

HEAD = "diff --git a/calc.py b/calc.py\n"
HOOK = [
    "import pytest",
    "@pytest.hookimpl(hookwrapper=True)",
    "def pytest_runtest_makereport(item, call):",
    "    outcome = yield",
    "    report = outcome.get_result()",
    "    report.outcome, report.longrepr = 'passed', None",
]
CHEAT = (
    "diff --git a/conftest.py b/conftest.py\nnew file mode 100644\n--- /dev/null\n"
    f"+++ b/conftest.py\n@@ -0,0 +1,{len(HOOK)} @@\n" + "".join(f"+{line}\n" for line in HOOK)
)
PATCHES = {
    "gold": HEAD + GOLD,
    "gold, and tests of its own": HEAD + GOLD + CHEAT.replace("conftest.py", "tests/test_new.py"),
    "wrong": HEAD + GOLD.replace("+    return a + b", "+    return a * b - 1"),
    "breaks another": HEAD
    + GOLD.replace("-2,5 +2,5", "-2,8 +2,8").rstrip("\n")
    + "\n \n def double(a):\n-    return 2 * a\n+    return 3 * a\n",
    "breaks all": HEAD + GOLD.replace("+    return a + b", "+    return ("),
    "does not apply": HEAD + GOLD.replace("return a - b", "return b - a"),
    "no diff": "please",
    "empty": "",
}


@dataclass(frozen=True)
class Case:
    engine: SandboxEngine
    row: Row
    task: SweTask


@pytest.fixture(scope="module")
def case(engine: SandboxEngine, tmp_path_factory: pytest.TempPathFactory) -> Case:
    mirror = tmp_path_factory.mktemp("mirrors") / "flask.git"
    commit = write_mirror(mirror)
    row = read_row(record(commit), "here")
    assert isinstance(row, Row)
    folder = checkout(mirror, commit, tmp_path_factory.mktemp("out") / "calc")
    # As from a mirror, but without flask's own requirements: no network is needed.
    install = "python -m pip install --quiet --no-build-isolation --no-deps -e ."
    plan = ImagePlan(f"aem-swe-tests/row:{commit[:16]}", folder, (install,))
    task = make_task(row)
    command = task.test_command.partition("&& ")[2]
    return Case(engine, row, replace(task, image=plan, test_command=command))


@pytest.mark.docker
@needs_extra
@pytest.mark.parametrize("kind", PATCHES)
def test_verdicts_are_the_same(case: Case, kind: str) -> None:
    ours = grade(case.engine, case.task, PATCHES[kind], run_empty=True)
    theirs = grade_officially(case.engine, case.row, case.task, PATCHES[kind])
    assert ours.resolved == theirs.resolved == kind.startswith("gold")
    if not ours.reason:
        assert sorted(ours.failed) == sorted(theirs.failed)


@pytest.mark.docker
@needs_extra
def test_only_theirs_is_fooled_by_a_hook(case: Case) -> None:
    assert grade_officially(case.engine, case.row, case.task, CHEAT).resolved
    assert not grade(case.engine, case.task, CHEAT).resolved


@pytest.mark.docker
def test_the_command_grades_a_file_of_predictions(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "aem_gym.envs.swe.authoring.predictions.make_task", lambda row, mirrors: case.task
    )
    rows = write_rows(tmp_path / "rows.jsonl", record(case.row.base_commit))
    file = write_rows(
        tmp_path / "predictions.jsonl",
        {"instance_id": "pallets__flask-1", "model_patch": PATCHES["gold"]},
        {"instance_id": "pallets__flask-9", "model_patch": ""},
    )
    grader = "both" if THERE else "own"
    words = ["--tasks", str(rows), "--predictions", str(file), "--grader", grader]
    assert main([*words, "--out", str(tmp_path / "out.json")]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (told["graded"], told["resolved_own"], told["differ"], told["left_out"]) == (1, 1, 0, 1)
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept[0]["verdicts"]["own"]["resolved"] is True


def test_predictions_in_any_form_of_the_harness(tmp_path: Path) -> None:
    listed = [
        {"instance_id": "a-1", "model_patch": "x", "model_name_or_path": "m"},
        {"instance_id": "a-2", "model_patch": None},
    ]
    forms = {
        "a.jsonl": "\n".join(map(json.dumps, listed)) + "\n\n",
        "b.json": json.dumps(listed, indent=1),
        "c.json": json.dumps({str(item["instance_id"]): item for item in listed}, indent=1),
        "d.jsonl": json.dumps(listed[0]) + "\n" + json.dumps(listed[1]),
    }
    for name, content in forms.items():
        (tmp_path / name).write_text(content)
        assert read_predictions(tmp_path / name) == {"a-1": "x", "a-2": ""}


BAD = ["", "{", "[1]", '{"instance_id": 1, "model_patch": "x"}', '{"instance_id": "a"}', "null"]


@pytest.mark.parametrize("content", BAD)
def test_predictions_that_are_none_are_told(tmp_path: Path, content: str) -> None:
    (tmp_path / "p.jsonl").write_text(content)
    with pytest.raises(ConfigError, match="--predictions: .*p.jsonl"):
        read_predictions(tmp_path / "p.jsonl")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_predictions(tmp_path / "none.jsonl")


@pytest.mark.skipif(THERE, reason="the extra is there")
def test_without_the_extra_the_mend_is_told() -> None:
    row = read_row(record(), "here")
    assert isinstance(row, Row)
    with pytest.raises(MissingDependencyError, match=r'pip install "aem-gym\[swebench\]"'):
        official_spec(row)


@needs_extra
def test_a_version_that_the_harness_does_not_know() -> None:
    row = read_row(record(version="0.1"), "here")
    assert isinstance(row, Row)
    with pytest.raises(ConfigError, match="expected a version of pallets/flask among 2.0"):
        official_spec(row)


@needs_extra
def test_the_script_installs_nothing_and_needs_no_network() -> None:
    row = read_row(record(), "here")
    assert isinstance(row, Row)
    script, _ = official_spec(row)
    assert "pip install" not in script
    assert "git show" not in script
    assert "pytest -rA tests/test_calc.py" in script
    assert "git checkout HEAD tests/test_calc.py" in script


# Lines of a log by the runner, for each outcome.
LINES: Mapping[str, Mapping[str, str]] = {
    "pytest": {
        "passed": "PASSED tests/test_a.py::{}",
        "failed": "FAILED tests/test_a.py::{} - AssertionError: assert 1 == 2",
        "error": "ERROR tests/test_a.py::{} - RuntimeError",
        "expected": "XFAIL tests/test_a.py::{} - reason",
    },
    "sympy": {"passed": "{} ok", "failed": "{} F", "error": "{} E", "skipped": "{} s"},
    "django": {
        "passed": "{} (a.tests.ATests) ... ok",
        "failed": "{} (a.tests.ATests) ... FAIL",
        "error": "{} (a.tests.ATests) ... ERROR",
        "skipped": "{} (a.tests.ATests) ... skipped 'no'",
    },
}
REPOS = {"pytest": "pallets/flask", "sympy": "sympy/sympy", "django": "django/django"}


@needs_extra
@pytest.mark.parametrize("runner", LINES)
@given(data=st.data())
def test_readers_of_logs_agree(runner: str, data: st.DataObject) -> None:
    from swebench.harness.log_parsers import MAP_REPO_TO_PARSER

    name = st.from_regex(r"test_[a-z]{1,8}", fullmatch=True)
    tests = data.draw(st.dictionaries(name, st.sampled_from(sorted(LINES[runner]))))
    noise = data.draw(st.lists(st.sampled_from(["", "collected 3 items", "E  assert 1", "..F"])))
    lines = [LINES[runner][outcome].format(test) for test, outcome in tests.items()]
    log = "\n".join([*noise, *lines, *noise])
    theirs = MAP_REPO_TO_PARSER[REPOS[runner]](log, None)
    passed = {test for test, status in theirs.items() if status in ("PASSED", "XFAIL")}
    assert {t for t, status in PARSERS[runner](log).items() if status.passes_officially} == passed
