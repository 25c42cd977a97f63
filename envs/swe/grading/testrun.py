"""Running a task's tests once, and whether what they say is to be believed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from aem_gym.envs.swe.grading.canaries import Canaries
from aem_gym.envs.swe.grading.reports import (
    ReportError,
    Status,
    read_junit,
    reader_of,
    status_of,
)
from aem_gym.envs.swe.sandbox.base import AGENT, WORKDIR, CommandResult, Sandbox
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.workspace import end_of

_REPORT_BYTES = 50_000_000
# Also after those of the repository's own settings: nothing ends a run before its last test.
_PYTEST = "-p no:cacheprovider --maxfail=0 --continue-on-collection-errors --color=no"
_JUNIT = "-o junit_family=xunit1"
_TESTS_FAILED = 1
"""The exit code of pytest, and of most others, when tests ran and some failed: canaries do."""


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a run of the tests came to."""

    __test__ = False

    statuses: Mapping[str, Status]
    reason: str = ""
    """Why it is not to be believed."""
    output: str = ""


def run_tests(sandbox: Sandbox, task: SweTask, canaries: Canaries, folder: str) -> TestRun:
    """Run a task's tests as the agent.

    Args:
        sandbox: with patch, hidden tests and canaries in place.
        task: has the command.
        canaries: their files are appended to the command.
        folder: is made, for the report; its name is not to be guessed beforehand.

    Raises:
        SandboxError: the sandbox failed, not the tests.
    """
    report = str(PurePosixPath(folder) / "report.xml")
    command = f"mkdir -m 700 {folder} && cd {WORKDIR} && {_command(task, canaries, report)}"
    ran = sandbox.execute(["/bin/bash", "-c", command], task.timeout, user=AGENT)
    if ran.timed_out:
        return TestRun({}, f"the tests gave no result in {task.timeout:g} s", ran.output)
    sandbox.kill_agent()  # what the tests left running does not write the report
    try:
        statuses = _read(sandbox, task, ran, report)
    except (ReportError, OSError) as error:
        return TestRun({}, f"the tests left no report ({error}; {end_of(ran)})", ran.output)
    return TestRun(statuses, _doubt(ran, statuses, canaries), ran.output)


def passes(test: str, statuses: Mapping[str, Status]) -> bool:
    """Whether a test ran and passed."""
    status = status_of(test, statuses)
    return status is not None and status.passes


def _command(task: SweTask, canaries: Canaries, report: str) -> str:
    words = [task.test_command.replace("{report}", report)]
    if "{report}" in task.test_command:
        words.append(_JUNIT)
    if "{report}" in task.test_command or "pytest" in task.test_command:
        words.append(_PYTEST)
    return " ".join([*words, *(shlex.quote(path) for path in canaries.files)])


def _read(sandbox: Sandbox, task: SweTask, ran: CommandResult, report: str) -> Mapping[str, Status]:
    if "{report}" in task.test_command:
        return read_junit(sandbox.read(report, _REPORT_BYTES))
    if ran.elided:
        raise ReportError("more output than is read")
    return reader_of(task.test_command)(ran.output)


def _doubt(ran: CommandResult, statuses: Mapping[str, Status], canaries: Canaries) -> str:
    """Why a report is not to be believed; empty: it is."""
    wrong = canaries.wrong(statuses)
    if not statuses or (canaries.files and len(wrong) == len(canaries.outcomes)):
        return f"the tests did not run to their end ({end_of(ran)})"
    if wrong:
        return (
            f"the report is not to be believed: {len(wrong)} of {len(canaries.outcomes)} tests "
            "whose outcome is known came out otherwise"
        )
    if canaries.files and ran.exit_code != _TESTS_FAILED:
        return (
            "the report is not to be believed: tests failed in it, and the exit code was "
            f"{ran.exit_code} where {_TESTS_FAILED} was expected"
        )
    return ""
