"""SWEEnv: mend a repository in a sandbox, as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
from gymnasium.utils import seeding

from aem_gym.envs.swe.defaults import RUN, SMOLLM2, TINY
from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.oracle import Oracle
from aem_gym.envs.swe.pool import PreparedSandbox, shared_pool
from aem_gym.envs.swe.recipes import RECIPES
from aem_gym.envs.swe.sandbox.base import WORKDIR, Limits, SandboxError
from aem_gym.envs.swe.sandbox.engines import ENGINES
from aem_gym.envs.swe.sources import TaskSource, open_source
from aem_gym.envs.swe.tasks.base import SweTask, Verdict
from aem_gym.envs.swe.tasks.split import SPLITS
from aem_gym.envs.swe.tools.files import AgentFiles
from aem_gym.envs.swe.tools.grammar import instructions
from aem_gym.envs.swe.tools.toolbox import Toolbox
from aem_gym.envs.swe.workspace import take_patch
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.spaces import TextSpace
from aem_gym.text_env import TextEnv
from aem_gym.types import StepResult, Task

_OPTIONS = ("task_id",)
_LONGEST_ACTION = 200_000
_ALWAYS = ("git diff", "ls", "submit")
"""Some of the actions that are possible at any time, of endlessly many."""


class SWEEnv(TextEnv):
    """Read, run and change a repository in a sandbox until its issue is resolved; then submit.

    The reward is 1 if all hidden tests pass after `submit`, else 0. An episode that reaches the
    limit of steps is truncated and not graded. One whose sandbox or engine fails is truncated, with
    the reason in `info["error"]`.

    Args:
        split: `train`, `eval` or `test` (docs/swe.md says which tasks each has).
        tasks: a shipped suite (`default`) or its `.jsonl` file; rows of SWE-bench (`.jsonl` file,
            folder, or a dataset's id); a `.yaml` or `.json` file about a repository of yours.
        eval_tasks: where the tasks of `eval` and `test` come from, if from elsewhere.
        repos: only tasks of these packages or repositories; a list, or names joined by commas.
        engine: `docker`, `podman`, `auto` for whichever answers, or (nothing is walled off)
            `bubblewrap` or `process`.
        mirrors: folder of bare clones that rows' images are built from; else they are pulled.
        bash_only: the shell and `submit` are the only tools.
        max_turns: limit of steps.
        step_timeout: seconds that a command may take.
        max_observation: most characters of an answer.
        grade_at_limit: grade what is there when the steps are used up.
        limits: of the sandbox: memory_mb, cpus, pids, disk_mb, network, ...
        render_mode: None or `ansi`.

    Raises:
        ConfigError: a value is out of range, or tasks are missing; UnknownNameError lists the
            names there are. No engine is needed before `reset`.
    """

    prompt_templates = RECIPES
    max_turns = 50
    defaults: ClassVar[Mapping[str, Any]] = RUN
    model_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": TINY, "smollm2": SMOLLM2}
    tools: ClassVar[Mapping[str, str]] = {
        "doctor": "aem_gym.envs.swe.authoring.doctor:findings",
        "preflight": "aem_gym.envs.swe.sandbox.engines:check_engine",
    }

    def __init__(
        self,
        *,
        split: str = "train",
        tasks: str = "default",
        eval_tasks: str | None = None,
        repos: Iterable[str] | str | None = None,
        engine: str = "auto",
        mirrors: str | None = None,
        bash_only: bool = False,
        max_turns: int | None = None,
        step_timeout: float = 90.0,
        max_observation: int = 10_000,
        grade_at_limit: bool = False,
        limits: Mapping[str, Any] | None = None,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(max_turns=max_turns, render_mode=render_mode)
        _known("split", split, SPLITS)
        ENGINES.check(engine)
        if step_timeout <= 0:
            raise ConfigError(f"step_timeout: expected seconds above 0, got {step_timeout}")
        if max_observation < 200:
            raise ConfigError(f"max_observation: expected at least 200, got {max_observation}")
        self.action_space = TextSpace(max_length=_LONGEST_ACTION)
        self.split, self.engine, self.bash_only = split, engine, bash_only
        self.limits = _limits(limits or {})
        self.instructions = instructions(bash_only=bash_only)
        self._step_timeout, self._longest = step_timeout, max_observation
        self._grade_at_limit = grade_at_limit
        elsewhere = eval_tasks is not None and split != "train"
        self._source = open_source(str(eval_tasks if elsewhere else tasks), mirrors)
        self._ids = _choose(self._source, split, _names(repos), whole=elsewhere)
        self._now: SweTask | None = None
        self._ready: PreparedSandbox | None = None
        self._toolbox: Toolbox | None = None
        self._oracle: Oracle | None = None
        self._expected: object = None

    @property
    def task_types(self) -> tuple[str, ...]:
        """The packages or repositories that the tasks are of."""
        return tuple(sorted({self._source.entries[name].repo for name in self._ids}))

    @property
    def protocol(self) -> Mapping[str, Any]:
        """What scores depend on besides the arguments."""
        source = self._source
        return {"tasks": source.name, "digest": source.digest, "number": len(self._ids)}

    def expect(self, seed: int | None, options: Mapping[str, Any] | None = None) -> None:
        """Make a sandbox ready in the background for the reset that comes next."""
        wanted = (seed, tuple(sorted((options or {}).items())))
        if seed is None or self._expected == wanted:
            return
        task = self._draw(seeding.np_random(seed)[0], options or {})
        self._expected = wanted
        shared_pool(self.engine).prefetch(task, self.limits)

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        """Draw a task of the split, or take `options["task_id"]` (of any split).

        Raises:
            SandboxError: no engine, image or sandbox to be had; says the mend.
        """
        self._drop()
        self._expected = None
        task = self._now = self._draw(self.np_random, options)
        self._ready = shared_pool(self.engine).take(task, self.limits)
        sandbox = self._ready.sandbox
        self._toolbox = Toolbox(sandbox, self.bash_only, self._step_timeout, self._longest)
        self._oracle = Oracle(task, AgentFiles(sandbox), self.bash_only)
        text = f"{task.problem.strip()}\n\nThe repository lies in {WORKDIR}."
        return Task(task.task_id, task.repo, task.problem.strip()), self._outcome(text, 0)

    def act(self, action: str) -> StepResult:
        """Do what an action asks for, in the sandbox."""
        assert self._toolbox is not None
        taken = self._turn + 1
        try:
            answer = self._toolbox.use(action)
            if answer.submits or (self._grade_at_limit and taken >= self.max_turns):
                return self._submit()
        except SandboxError as error:
            self._drop()
            return self._outcome("", taken, error=f"{type(error).__name__}: {error}")
        if taken >= self.max_turns:
            self._drop()
        return self._outcome(answer.text, taken, valid=answer.valid)

    def expert(self) -> tuple[str, str]:
        """The (thought, action) of the oracle for the present state.

        Raises:
            NoExpertError: the task has no gold patch.
        """
        if self._oracle is None:
            raise ConfigError("there is no episode yet: call reset() first")
        return self._oracle.choose()

    def close(self) -> None:
        """Remove the sandbox."""
        self._drop()
        super().close()

    def _draw(self, rng: np.random.Generator, options: Mapping[str, Any]) -> SweTask:
        for name in options:
            _known("reset option", name, _OPTIONS)
        drawn = self._ids[int(rng.integers(len(self._ids)))]
        return self._source.task(str(options.get("task_id", drawn)))

    def _submit(self) -> StepResult:
        """Take the answer, give the sandbox back, and grade in another one."""
        assert self._ready is not None and self._now is not None
        patch = take_patch(self._ready.sandbox, self._ready.workspace)
        self._drop()
        verdict = grade(shared_pool(self.engine).engine, self._now, patch, limits=self.limits)
        text = "The issue is resolved."
        if not verdict.resolved:
            total = len(self._now.fail_to_pass) + len(self._now.pass_to_pass)
            why = verdict.reason or f"{len(verdict.failed)} of {total} hidden tests fail"
            text = f"The issue is not resolved: {why}."
        extra = _facts(verdict, len(patch.encode("utf-8", "replace")))
        return StepResult(
            text,
            reward=float(verdict.resolved),
            terminated=True,
            won=verdict.resolved,
            extra=extra,
        )

    def _outcome(self, text: str, taken: int, *, valid: bool = True, error: str = "") -> StepResult:
        left = self.max_turns - taken
        text = f"{text}\n[{left} step{'s' * (left != 1)} left]" if not error else text
        return StepResult(
            text,
            admissible_actions=_ALWAYS,
            action_valid=valid,
            error=error,
            extra=_facts(),
        )

    def _drop(self) -> None:
        """Give the sandbox back, to be removed."""
        if self._ready is not None:
            shared_pool(self.engine).release(self._ready.sandbox)
        self._ready = self._toolbox = self._oracle = None


def _facts(verdict: Verdict | None = None, size: int = 0) -> dict[str, Any]:
    """The info keys of this environment; before grading, nothing is said."""
    verdict = verdict or Verdict(False)
    return {
        "resolved": verdict.resolved,
        "failed_tests": len(verdict.failed),
        "reason": verdict.reason,
        "patch": verdict.patch,
        "patch_bytes": size,
        "ignored": list(verdict.ignored),
        "error": "",
    }


def _choose(
    source: TaskSource, split: str, repos: tuple[str, ...], *, whole: bool
) -> tuple[str, ...]:
    """The tasks of an environment; `whole`: all of a source that has no splits."""
    if whole and not any(entry.split for entry in source.entries.values()):
        split = "test"
    return source.ids(split, repos)


def _limits(values: Mapping[str, Any]) -> Limits:
    known = {item.name: item.default for item in fields(Limits)}
    for name, value in values.items():
        _known("key of limits", name, known)
        kind = bool if isinstance(known[name], bool) else (int, float)
        if not isinstance(value, kind) or (value <= 0 and kind is not bool):
            raise ConfigError(f"limits.{name}: expected a value like {known[name]}, got {value!r}")
    return Limits(**values)


def _names(asked: Iterable[str] | str | None) -> tuple[str, ...]:
    if asked is None:
        return ()
    names = asked.split(",") if isinstance(asked, str) else list(asked)
    return tuple(name.strip() for name in names if name.strip())


def _known(kind: str, name: str, names: Iterable[str]) -> None:
    if name not in tuple(names):
        raise UnknownNameError(kind, str(name), names)
