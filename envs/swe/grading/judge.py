"""What an answer's tests came to, from two runs of them.

Both runs ask the tests of `plan.py` in processes of their own; the first also runs all others, in
one process. What is not as it should be is either a test that fails, or a deviation: something
that an honest answer has no reason for. Deviations count unless the gold patch shows the same ones
(`reference.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from random import Random

from aem_gym.envs.swe.grading.canaries import Canaries, draw_canaries
from aem_gym.envs.swe.grading.plan import Asked, Drawing, Version, choose
from aem_gym.envs.swe.grading.sessions import (
    Alone,
    Orders,
    SessionResult,
    is_pytest,
    run_session,
)
from aem_gym.envs.swe.sandbox.base import Sandbox
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.logs import Status, status_of
from aem_gym.envs.swe.workspace import end_of

_TESTS_FAILED = 1
"""The exit code of pytest, and of most others, when tests ran and some failed: canaries do."""
Lay = Callable[[Mapping[str, bytes]], None]
"""Writes files where the agent cannot change them, and removes what it left elsewhere."""


@dataclass(frozen=True, slots=True)
class Findings:
    failed: frozenset[str]
    """Tests of either list that did not pass."""
    deviations: frozenset[str]
    """Words for what an honest answer has no reason for."""
    reason: str
    """Why there is no result at all; empty if there is one."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A sandbox with patch and hidden tests in place."""

    sandbox: Sandbox
    task: SweTask
    hidden: tuple[str, ...]
    lay: Lay
    read: Callable[[str], bytes]
    """The content of a test file as the task has it."""
    home: str
    """The folder of the plug-in."""
    plugin: str

    def lay_again(self, files: Mapping[str, bytes]) -> None:
        """Write other files, when nothing that an earlier run left can meddle with them."""
        self.sandbox.kill_agent()
        self.lay(files)


def examine(setting: Setting, random: Random, excused: Set[str] = frozenset()) -> Findings:
    """Run the tests.

    `excused` are deviations that are known of the gold patch: a test that does not pass alone with
    it either is judged by a third run, of all tests in one process.

    Raises:
        SandboxError: the sandbox failed, not the tests.
    """
    task = setting.task
    until = time.monotonic() + task.timeout
    apart = {test for test in _tests(task) if f"alone {test}" in excused}
    asked = choose(task, random) if is_pytest(task) else Asked({})
    contents = {path: setting.read(path) for path in asked.paths}
    first, second = Drawing(task, asked, contents, random).versions()
    canaries = draw_canaries(task, setting.hidden, random)
    setting.lay({**first.files, **canaries.files})
    session = _run(setting, until, first.orders, tuple(canaries.files))
    reason = _doubt(session, canaries, task)
    deviations = _compare(first, session)
    statuses = _together(first, session)
    if second.orders.alone and not reason:
        setting.lay_again(second.files)
        session = _run(setting, until, second.orders)
        late = f"the tests gave no result in {task.timeout:g} s"
        reason = late if session.ran.timed_out else ""
        deviations |= _compare(second, session)
        statuses |= _together(second, session)
    failed = _failed(task, statuses)
    if failed and not reason and failed <= apart:
        setting.lay_again({**contents, **canaries.files})
        session = _run(setting, until, Orders(), tuple(canaries.files))
        reason = _doubt(session, canaries, task)
        failed = _failed(task, session.statuses)
    found = {test: status_of(test, statuses) for test in task.pass_to_pass}
    odd = (Status.XFAILED, Status.SKIPPED)
    deviations |= {f"{s.name} {test}" for test, s in found.items() if s in odd}
    return Findings(frozenset(failed), frozenset(deviations), reason)


def _run(
    setting: Setting, until: float, orders: Orders, more: tuple[str, ...] = ()
) -> SessionResult:
    left = max(0.1, until - time.monotonic())
    where = (setting.sandbox, setting.task, setting.home, setting.plugin)
    return run_session(*where, orders, timeout=left, more=more)


def _together(version: Version, session: SessionResult) -> dict[str, Status]:
    """The statuses of a run's true tests."""
    alone = {
        test: max((answer.status for answer in session.alone.get(test, ())), default=Status.ERROR)
        for test in version.true
    }
    return {**session.statuses, **alone}


def _failed(task: SweTask, statuses: Mapping[str, Status]) -> Set[str]:
    found = ((test, status_of(test, statuses)) for test in _tests(task))
    return {test for test, status in found if not _may_pass(test, status, task)}


def _tests(task: SweTask) -> tuple[str, ...]:
    return (*task.fail_to_pass, *task.pass_to_pass)


def _may_pass(test: str, status: Status | None, task: SweTask) -> bool:
    """FAIL_TO_PASS has to pass; for PASS_TO_PASS it depends on the gold patch."""
    if status is None or status >= Status.FAILED:
        return False
    return status is Status.PASSED or test not in task.fail_to_pass


def _compare(version: Version, session: SessionResult) -> set[str]:
    """What did not come out as it has to."""
    found = {f"altered {name}" for name in session.altered}
    if not session.ended:
        found.add("the end of a run")
    for test in version.true:
        answers = session.alone.get(test, ())
        if not _all_are(answers, Status.PASSED) or len(answers) < version.orders.alone[test]:
            found.add(f"alone {test}")
    for test, lines in version.copies.items():
        answers = session.alone.get(test, ())
        good = _all_are(answers, Status.FAILED) and all(a.line in lines for a in answers)
        if not good or len(answers) < version.orders.alone[test]:
            found.add(f"copy {test}")
    for test, (kind, passes) in version.inside.items():
        if session.statuses.get(test) is not (Status.PASSED if passes else Status.FAILED):
            found.add(f"canary {kind}")
    return found


def _all_are(answers: Iterable[Alone], status: Status) -> bool:
    return all(answer.status is status for answer in answers)


def _doubt(session: SessionResult, canaries: Canaries, task: SweTask) -> str:
    """The reason not to trust a run; empty if there is none."""
    if session.ran.timed_out:
        return f"the tests gave no result in {task.timeout:g} s"
    wrong = canaries.wrong(session.statuses)
    whole = session.ended and session.statuses
    if not whole or (canaries.files and len(wrong) == len(canaries.outcomes)):
        return f"the tests did not run to their end ({end_of(session.ran)})"
    if wrong:
        return (
            f"the report is not to be believed: {len(wrong)} of {len(canaries.outcomes)} tests "
            "whose outcome is known came out otherwise"
        )
    if canaries.files and session.exit_code != _TESTS_FAILED:
        return (
            "the report is not to be believed: tests failed in it, and the exit code was "
            f"{session.exit_code} where {_TESTS_FAILED} was expected"
        )
    return ""
