"""SWE-bench's own grader in our sandboxes, for scores that are compared with published ones.

It runs the evaluation script that SWE-bench makes for a row, and SWE-bench's reader judges the log.
It believes what a test run prints: a patch with a `conftest.py` can turn its failures into passes
(docs/swe_bench.md), so use it for patches of people and of agents that were not trained against it.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from typing import Any

from aem_gym.envs.swe.grading.grader import OUTPUT_BYTES, unfit
from aem_gym.envs.swe.sandbox.base import (
    AGENT,
    WORKDIR,
    Limits,
    Sandbox,
    SandboxEngine,
    SandboxError,
    SandboxSpec,
)
from aem_gym.envs.swe.tasks.base import SweTask, Verdict
from aem_gym.envs.swe.tasks.rows import Row
from aem_gym.envs.swe.workspace import SECONDS, prepare
from aem_gym.errors import ConfigError, MissingDependencyError

_SCRIPT, _PATCH = "/tmp/eval.sh", "/tmp/patch.diff"
# In the order in which the harness tries them.
_APPLY = f"""
cd {WORKDIR} && cat > {_PATCH}
git apply --verbose {_PATCH} || git apply --verbose --reject {_PATCH} \\
    || patch --batch --fuzz=5 -p1 -i {_PATCH}
"""
# Commands that only inform; of a repository with a single commit they would print all of it.
_INFORMS = ("git status", "git show", "git -c core.fileMode=false diff")


def grade_officially(engine: SandboxEngine, row: Row, task: SweTask, patch: str) -> Verdict:
    """Grade a patch as SWE-bench does, in a new sandbox.

    As in SWE-bench, the patch is applied unchanged, then the hidden tests, and the log alone
    decides; tests run for an empty patch, too. Unlike there, tests run as the agent, without
    network, and nothing is installed again.

    Raises:
        MissingDependencyError: the extra `swebench` is not installed.
        ConfigError: SWE-bench knows no such version of the repository.
        SandboxError: grading itself failed, which says nothing about the patch.
    """
    script, spec = official_spec(row)
    tests = (*row.fail_to_pass, *row.pass_to_pass)
    if patch.strip() and (reason := unfit(patch)):
        return Verdict(False, tests, reason)
    limits = Limits(output_bytes=OUTPUT_BYTES)
    sandbox = engine.start(SandboxSpec(engine.image(task.image), limits))
    try:
        prepare(sandbox, task)
        if patch.strip() and (said := _apply(sandbox, patch)):
            return Verdict(False, tests, f"the patch does not apply: {said}", patch)
        log = _run(sandbox, script, task)
    finally:
        sandbox.close()
    if log is None:
        return Verdict(False, tests, f"the tests gave no result in {task.timeout:g} s", patch)
    return read_log(log, row, spec, patch)


def _run(sandbox: Sandbox, script: str, task: SweTask) -> str | None:
    """The log of an evaluation script; None if it did not end in time."""
    sandbox.write(_SCRIPT, script.encode("utf-8", "surrogateescape"))
    command = f"exec bash {_SCRIPT} 2>&1"  # into one pipe, so that lines keep their order
    ran = sandbox.execute(["/bin/bash", "-c", command], task.timeout, user=AGENT)
    if ran.elided and not ran.timed_out:
        raise SandboxError(f"{task.task_id}: its log is longer than {OUTPUT_BYTES:,} bytes")
    return None if ran.timed_out else ran.output


def official_spec(row: Row) -> tuple[str, Any]:
    """(SWE-bench's evaluation script of a row, its `TestSpec`). Needs no network.

    Installation is left out of the script: sandboxes have no network, and an image is installed.
    """
    try:
        constants = importlib.import_module("swebench.harness.constants")
        scripts = importlib.import_module("swebench.harness.test_spec.create_scripts")
        specs = importlib.import_module("swebench.harness.test_spec.test_spec")
    except ImportError as error:
        purpose = "SWE-bench's grader"
        raise MissingDependencyError("swebench", "swebench", purpose) from error
    known = constants.MAP_REPO_VERSION_TO_SPECS.get(row.repo, {})
    if row.version not in known:
        raise ConfigError(
            f"{row.instance_id}: expected a version of {row.repo} among "
            f"{', '.join(known) or 'none: SWE-bench does not know it'}, got {row.version!r}"
        )
    settings = {key: value for key, value in known[row.version].items() if key != "install"}
    # In a sandbox the base commit is the only one, whatever its name.
    lines = scripts.make_eval_script_list(
        _instance(row), settings, "testbed", WORKDIR, "HEAD", row.test_patch
    )
    spec = specs.TestSpec(
        instance_id=row.instance_id,
        repo=row.repo,
        version=row.version,
        repo_script_list=[],
        eval_script_list=[line for line in lines if not line.startswith(_INFORMS)],
        env_script_list=[],
        arch="x86_64",
        FAIL_TO_PASS=list(row.fail_to_pass),
        PASS_TO_PASS=list(row.pass_to_pass),
        language="py",
        docker_specs={},
        namespace="swebench",
    )
    return str(spec.eval_script), spec


def read_log(log: str, row: Row, spec: Any, patch: str) -> Verdict:
    """The verdict of SWE-bench's reader about the log of an evaluation script."""
    grading = importlib.import_module("swebench.harness.grading")
    prediction = {"instance_id": row.instance_id, "model_patch": patch}
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", errors="replace") as file:
        file.write(log)
        file.flush()
        report = grading.get_eval_report(spec, prediction, file.name, True)[row.instance_id]
    statuses: Mapping[str, Mapping[str, list[str]]] = report.get("tests_status", {})
    failed = tuple(test for group in statuses.values() for test in group["failure"])
    reason = "" if statuses else f"the log holds no tests: {log.strip()[-300:]}"
    return Verdict(bool(report["resolved"]), failed, reason, patch)


def _instance(row: Row) -> dict[str, str]:
    return {
        "instance_id": row.instance_id,
        "repo": row.repo,
        "version": row.version,
        "base_commit": "HEAD",
        "test_patch": row.test_patch,
    }


def _apply(sandbox: Sandbox, patch: str) -> str:
    """Apply a patch; returns the end of the messages if it does not apply."""
    data = patch.encode("utf-8", "surrogateescape")
    ran = sandbox.execute(["/bin/sh", "-c", _APPLY], SECONDS, user=AGENT, stdin=data)
    return "" if ran.exit_code == 0 else ran.output.strip()[-300:] or f"exit code {ran.exit_code}"
