"""Data sets other than SWE-bench: rows in their columns grade gold 1 and empty 0, or say why."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.sandbox.base import ImageSource, SandboxEngine, SandboxSpec
from aem_gym.envs.swe.sources import open_source
from aem_gym.envs.swe.tasks.base import RowError, SweTask
from aem_gym.envs.swe.tasks.dialects import dialect_of, read_task
from aem_gym.envs.swe.workspace import prepare
from aem_gym.errors import ConfigError
from tests.envs.swe.rows import swe_dialects as rows

Make = Callable[[SandboxEngine, Path], dict[str, Any]]
JS = ("nodejs", "mocha")


def swe_bench(engine: SandboxEngine, folder: Path) -> dict[str, Any]:
    """SWE-bench's columns with an image and a test command of their own."""
    image = rows.package_image(engine, folder / "image", rows.PYTHON)
    return rows.base_row(folder, image=image, test_command="pytest -rA")


def swe_gym(engine: SandboxEngine, folder: Path) -> dict[str, Any]:
    image = rows.package_image(engine, folder / "image", rows.PYTHON)
    return rows.base_row(folder, repo="pydantic/pydantic", image=image)


def swe_rebench(engine: SandboxEngine, folder: Path) -> dict[str, Any]:
    config = {
        "python": "3.11",
        "install": "pip install -e .",
        "test_cmd": "pytest --no-header -rA --tb=line --color=no -p no:cacheprovider",
        "log_parser": "parse_log_pytest",
    }
    image = rows.package_image(engine, folder / "image", rows.PYTHON)
    return rows.base_row(folder, docker_image=image, install_config=config, meta={})


def nemotron(engine: SandboxEngine, folder: Path) -> dict[str, Any]:
    inner = swe_rebench(engine, folder)
    about = {
        "instance_id": inner["instance_id"],
        "dataset_name": "nebius/SWE-rebench",
        "split": "train",
        "problem_statement": inner["problem_statement"],
        "instance_dict": json.dumps(inner),
    }
    return {"responses_create_params": {"input": [], "metadata": about}, "agent_ref": {}}


def swe_smith(engine: SandboxEngine, folder: Path) -> dict[str, Any]:
    """Its image is without the bug; the patch puts it in."""
    good = {"calc.py": rows.MENDED, "tests/test_calc.py": rows.HIDDEN}
    return {
        "instance_id": "own__calc.01234567.func_basic__a1b2c3",
        "repo": "swesmith/own__calc.01234567",
        "patch": rows.diff(folder / "bug", good, {"calc.py": rows.BROKEN}),
        "FAIL_TO_PASS": rows.FAILS,
        "PASS_TO_PASS": rows.PASSES,
        "image_name": rows.package_image(engine, folder / "image", good),
        "problem_statement": "add(2, 2) gives 0",
    }


def r2e_gym(engine: SandboxEngine, folder: Path) -> dict[str, Any]:
    """Its image has the hidden tests in /r2e_tests."""
    files = {f"/testbed/{name}": content for name, content in rows.PYTHON.items()}
    files["/r2e_tests/test_1.py"] = rows.R2E_FILE.encode()
    files["/testbed/run_tests.sh"] = b"python -m pytest -rA r2e_tests\n"
    return rows.r2e_row(folder, rows.foreign_image(files))


def multilingual(engine: SandboxEngine, folder: Path) -> dict[str, Any]:
    """Go, as in SWE-bench Multilingual, with the test command in a column."""
    return rows.base_row(
        folder,
        repo="caddyserver/caddy",
        patch=rows.diff(folder / "go", rows.GO, rows.GO_FIXED),
        test_patch=rows.diff(folder / "go tests", rows.GO, rows.GO_TESTS),
        FAIL_TO_PASS=["TestAdd", "TestAdd/one", "TestAdd/two"],
        PASS_TO_PASS=["TestDouble"],
        image=rows.package_image(engine, folder / "image", rows.GO, ("golang-go",)),
        test_cmd="go test -v ./...",
    )


def swe_bench_pro(engine: SandboxEngine, folder: Path) -> dict[str, Any]:
    """JavaScript in /app, with lists as Python literals."""
    files = {f"/app/{name}": content for name, content in rows.SCRIPT.items()}
    row = rows.base_row(
        folder,
        patch=rows.diff(folder / "js", rows.SCRIPT, rows.SCRIPT_FIXED),
        test_patch=rows.diff(folder / "js tests", rows.SCRIPT, rows.SCRIPT_TESTS),
        fail_to_pass="['calc #add() adds']",
        pass_to_pass="['calc doubles']",
        selected_test_files_to_run="['test/calc.spec.js']",
        requirements="- add adds",
        interface="",
        repo_language="js",
        before_repo_set_cmd="git reset --hard",
        dockerhub_tag="own.calc-1",
        image=rows.foreign_image(files, JS),
        test_command="mocha --reporter xunit {files}",
        log_reader="junit",
    )
    return {name: value for name, value in row.items() if not name.endswith("TO_PASS")}


DATA: dict[str, tuple[Make, str]] = {
    "columns": (swe_bench, "columns"),
    "SWE-Gym": (swe_gym, "SWE-Gym"),
    "SWE-rebench": (swe_rebench, "SWE-rebench"),
    "Nemotron": (nemotron, "Nemotron"),
    "SWE-smith": (swe_smith, "SWE-smith"),
    "R2E-Gym": (r2e_gym, "R2E-Gym"),
    "Multilingual, Go": (multilingual, "columns"),
    "Pro, JavaScript": (swe_bench_pro, "SWE-bench Pro"),
}


@pytest.mark.docker
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", DATA)
def test_gold_is_resolved_and_nothing_is_not(
    name: str, engine: SandboxEngine, tmp_path: Path
) -> None:
    """Through the file of rows, as a user gives it."""
    make, dialect = DATA[name]
    row = make(engine, tmp_path)
    found = dialect_of(row)
    assert found is not None and found.name == dialect
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps(row) + "\n")
    source = open_source(str(file))
    task = source.task(source.ids("test")[0])
    assert task.problem.startswith("add(2, 2) gives 0")
    gold = grade(engine, task, task.gold)
    assert gold.resolved, (gold.reason, gold.failed)
    empty = grade(engine, task, "", run_empty=True)
    assert not empty.resolved and set(empty.failed) == set(task.fail_to_pass), empty.reason


@pytest.mark.docker
def test_the_agent_of_r2e_gym_sees_no_hidden_tests(engine: SandboxEngine, tmp_path: Path) -> None:
    task = read_task(r2e_gym(engine, tmp_path), "here")
    assert task is not None
    sandbox = engine.start(SandboxSpec(engine.image(task.image)))
    try:
        prepare(sandbox, task)
        seen = sandbox.run("ls / /testbed /root; cat /testbed/run_tests.sh", 30).output
        assert "r2e_tests" not in seen and "No such file" in seen
    finally:
        sandbox.close()


@pytest.mark.docker
def test_the_agent_of_swe_smith_sees_no_history_before_the_bug(
    engine: SandboxEngine, tmp_path: Path
) -> None:
    task = read_task(swe_smith(engine, tmp_path), "here")
    assert task is not None and task.bug_patch
    sandbox = engine.start(SandboxSpec(engine.image(task.image)))
    try:
        prepare(sandbox, task)
        seen = sandbox.run("git log --all --oneline; git status --short; cat calc.py", 30).output
        assert "return a - b" in seen and "a + b" not in seen and seen.count("base") == 1
        assert "a + b" not in sandbox.run("git log -p --all -- calc.py", 30).output
    finally:
        sandbox.close()


@pytest.mark.docker
def test_a_repository_elsewhere_is_found_at_both_places(
    engine: SandboxEngine, tmp_path: Path
) -> None:
    task = read_task(swe_bench_pro(engine, tmp_path), "here")
    assert task is not None and isinstance(task.image, ImageSource)
    assert task.image.folder == "/app" and "- add adds" in task.problem
    sandbox = engine.start(SandboxSpec(engine.image(task.image)))
    try:
        prepare(sandbox, task)
        assert "calc.js" in sandbox.run("cd /app && ls && cd /testbed && ls", 30).output
    finally:
        sandbox.close()


# Without an engine -------------------------------------------------------------------------------


def minimal(**more: Any) -> dict[str, Any]:
    patch = "diff --git a/calc.py b/calc.py\n--- a/calc.py\n+++ b/calc.py\n@@ -1 +1 @@\n-a\n+b\n"
    return {
        "instance_id": "own__calc-1",
        "repo": "own/calc",
        "problem_statement": "wrong",
        "patch": patch,
        "test_patch": patch.replace("calc.py", "tests/test_calc.py"),
        "FAIL_TO_PASS": ["tests/test_calc.py::test_a"],
        "PASS_TO_PASS": "[]",
    } | more


def task_of(**more: Any) -> SweTask:
    task = read_task(minimal(**more), "line 3")
    assert task is not None
    return task


def test_images_are_those_of_the_data_set() -> None:
    gym = task_of(repo="getmoto/moto", instance_id="getmoto__moto-5752")
    assert gym.image == ImageSource("xingyaoww/sweb.eval.x86_64.getmoto_s_moto-5752:latest")
    assert "python -m pytest -n0 -rA --junitxml={report} tests/test_calc.py" in gym.test_command
    rebench = task_of(install_config=json.dumps({"test_cmd": "pytest -rA"}))
    assert rebench.image == ImageSource("swerebench/sweb.eval.x86_64.own_1776_calc-1")
    named = task_of(install_config={"test_cmd": "cargo test"} | CARGO, image_name="mine:1")
    assert named.image == ImageSource("mine:1") and named.log == "cargo"
    assert named.test_command.endswith("cargo test") and "tests/" not in named.test_command
    pro = task_of(selected_test_files_to_run="[]", dockerhub_tag="a.b-1", test_cmd="x")
    assert pro.image == ImageSource("jefzda/sweap-images:a.b-1", "/app")


CARGO = {"log_parser": "parse_log_cargo"}
INNER = {"instance_dict": json.dumps(minimal()), "dataset_name": "SWE-bench"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pro": ({"selected_test_files_to_run": "[]"}, "run_scripts/ of scaleapi/SWE-bench_Pro-os"),
    "multi": ({"org": "a", "number": 1, "fix_patch": "x"}, "scripts in its image"),
    "mypy": ({"repo": "python/mypy"}, "chooses tests by keyword"),
    "smith": ({"image_name": "x", "test_patch": "", "FAIL_TO_PASS": ["TestX"]}, "no node ids"),
    "smith bug": (
        {"image_name": "x", "test_patch": "", "patch": "Binary files a and b differ\n"},
        "cannot be reversed",
    ),
    "parser": (
        {"install_config": {"test_cmd": "x", "log_parser": "parse_log_phpunit"}},
        "got 'parse_log_phpunit'",
    ),
    "no command": ({"install_config": {"python": "3.9"}}, "install_config.test_cmd"),
    "config": ({"install_config": "{"}, "install_config: expected JSON"),
    "r2e": ({"execution_result_content": "{}"}, "test_file_codes"),
    "r2e runner": (
        {
            "execution_result_content": {
                "test_file_codes": ["", ""],
                "test_file_names": ["test_1.py", "tornado_unittest_runner.py"],
            }
        },
        "tornado_unittest_runner.py, a runner of R2E-Gym's own",
    ),
    "nemo": ({"responses_create_params": {}}, "expected instance_dict"),
    "nemo inner": ({"responses_create_params": {"metadata": INNER}}, "hub:NAME@SPLIT"),
    "reader": ({"test_cmd": "x", "image": "y", "log_reader": "tap13"}, "log reader among pytest"),
    "no image": ({"test_cmd": "x"}, "the image in the column image or docker_image"),
    "lists": ({"test_cmd": "x", "image": "y", "PASS_TO_PASS": "[1"}, "column PASS_TO_PASS"),
    "no tests": ({"test_cmd": "x", "image": "y", "FAIL_TO_PASS": "[]"}, "got none"),
    "outside": (
        {"test_cmd": "x", "image": "y", "patch": "--- a/../x\n+++ b/../x\n"},
        "in the repository",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_graded_is_refused_with_the_true_reason(name: str) -> None:
    more, why = REFUSED[name]
    with pytest.raises(RowError) as error:
        read_task(minimal(**more), "line 3")
    assert why in str(error.value) and str(error.value).startswith("line 3 (")


def test_rows_that_are_refused_are_left_out_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    good = minimal(test_cmd="pytest", image="mine:1")
    file = tmp_path / "rows.jsonl"
    refused = [minimal(instance_id=f"own__calc-{n}", **REFUSED["multi"][0]) for n in (2, 3)]
    file.write_text("\n".join(json.dumps(row) for row in (good, *refused)))
    assert list(open_source(str(file)).entries) == ["own__calc-1"]
    assert "2 malformed" in caplog.text and "scripts in its image" in caplog.text
    only = tmp_path / "only.jsonl"
    only.write_text("\n".join(json.dumps(row) for row in refused))
    with pytest.raises(ConfigError, match="2 malformed"):
        open_source(str(only))


def test_the_digest_changes_with_any_part_of_a_row(tmp_path: Path) -> None:
    digests = set()
    for number, more in enumerate([{}, {"image": "mine:2"}, {"test_cmd": "pytest -x"}]):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(json.dumps(minimal(**({"test_cmd": "pytest", "image": "mine:1"} | more))))
        digests.add(open_source(str(file)).digest())
    assert len(digests) == 3


def test_a_dataset_of_the_hub_is_named_with_its_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """The library is replaced: there is no hub here."""
    import sys
    from types import SimpleNamespace

    asked = []

    def load(name: str, split: str) -> list[dict[str, Any]]:
        asked.append((name, split))
        return [minimal(test_cmd="pytest", image="mine:1")]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))
    assert list(open_source("hub:own/rows@dev").entries) == ["own__calc-1"]
    assert list(open_source("hub:own/others").entries) == ["own__calc-1"]
    assert asked == [("own/rows", "dev"), ("own/others", "test")]
