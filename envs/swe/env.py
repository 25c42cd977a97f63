"""SWEEnv: resolve an issue of a repository in a sandbox, as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from typing import Any, ClassVar

import numpy as np
from gymnasium.utils import seeding

from aem_gym import __version__
from aem_gym.envs.swe.grading.grader import grade
from aem_gym.envs.swe.oracle import PatchOracle
from aem_gym.envs.swe.pool import PreparedSandbox, shared_pool
from aem_gym.envs.swe.prompts import PROMPT_TEMPLATES
from aem_gym.envs.swe.sandbox.base import WORKDIR, Limits, SandboxError
from aem_gym.envs.swe.sandbox.engines import ENGINES
from aem_gym.envs.swe.sources import TaskSource, open_source
from aem_gym.envs.swe.tasks.base import SPLITS, SweTask, Verdict
from aem_gym.envs.swe.tools.files import AgentFiles
from aem_gym.envs.swe.tools.grammar import instructions
from aem_gym.envs.swe.tools.toolbox import Toolbox
from aem_gym.envs.swe.workspace import take_patch
from aem_gym.errors import ConfigError, check_name
from aem_gym.spaces import TextSpace
from aem_gym.text_env import TextEnv
from aem_gym.types import StepResult, Task

_OPTIONS = ("task_id",)
_LONGEST_ACTION = 200_000
_ALWAYS = ("git diff", "ls", "submit")
"""Examples of admissible actions; any shell command is one."""
_SMALL: Mapping[str, Any] = {"repos": "inflection", "max_turns": 8, "max_observation": 1200}
_WARM_START: Mapping[str, Any] = {
    "env_args": _SMALL,
    "warmstart_episodes": 8,
    "warmstart_noise": 0.0,
    "max_length": 4096,
}


class SWEEnv(TextEnv):
    """Read, run and change a repository in a sandbox until its issue is resolved; then submit.

    The reward is 1 if all hidden tests pass after `submit`, else 0. An episode that reaches the
    limit of steps is truncated and not graded, unless `grade_at_limit`. An episode whose sandbox
    or engine fails is truncated, with the reason in `info["error"]`.

    Args:
        split: `train`, `eval` or `test` (docs/swe.md lists the tasks of each).
        tasks: a shipped suite (`default`) or its `.jsonl` file; rows of SWE-bench and data sets
            like it (`.jsonl` file, `.json` list, folder, `hub:ID@SPLIT`); a `.yaml` or `.json`
            file about a repository of yours.
        eval_tasks: another source for the tasks of `eval` and `test`.
        repos: only tasks of these packages or repositories; a list, or names joined by commas.
        engine: `docker`, `podman`, `auto` for whichever answers, or (without isolation)
            `bubblewrap` or `process`.
        mirrors: folder of bare clones to build images of rows from; without it they are pulled.
        bash_only: the shell and `submit` are the only tools.
        max_turns: limit of steps.
        step_timeout: seconds that a command may take.
        max_observation: most characters of an observation.
        grade_at_limit: grade the repository as it is at the limit of steps.
        limits: of the sandbox: memory_mb, cpus, pids, disk_mb, network, ...
        render_mode: None or `ansi`.

    Raises:
        ConfigError: a value is out of range, or tasks are missing; UnknownNameError lists the
            known names. No engine is needed before `reset`.
    """

    prompt_templates = PROMPT_TEMPLATES
    max_turns = 50
    waits: ClassVar[bool] = True
    defaults: ClassVar[Mapping[str, Any]] = {
        "eval_split": "eval",
        "eval_episodes": 64,
        "mask_truncated": True,
        "max_length": 32_768,
        "max_new_tokens": 2_048,
        "max_concurrent_episodes": 32,
        # Grading alone may take 30 minutes, and the first reset builds or pulls an image.
        "step_timeout": 2400.0,
        "reset_timeout": 3600.0,
    }
    # Smoke runs of minutes on a CPU, on one small package: the models learn to copy what they were
    # shown, not to program.
    model_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            **_WARM_START,
            "warmstart_steps": 300,
            "warmstart_batch": 4,
            "max_new_tokens": 160,
            "steps": 2,
            "groups": 2,
            "group_size": 4,
            "eval_every": 2,
            "eval_episodes": 4,
        },
        "smollm2": {
            **_WARM_START,
            "warmstart": "expert",
            "warmstart_steps": 8,
            "warmstart_batch": 1,
            "max_new_tokens": 120,
            "steps": 1,
            "groups": 1,
            "group_size": 2,
            "eval_every": 0,
            "micro_batch": 1,
        },
    }
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
        check_name("split", split, SPLITS)
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
        self._release: Callable[[], None] | None = None
        self._toolbox: Toolbox | None = None
        self._oracle: PatchOracle | None = None
        self._expected: object = None

    @property
    def task_types(self) -> tuple[str, ...]:
        """The packages or repositories of the tasks."""
        return tuple(sorted({self._source.entries[name].repo for name in self._ids}))

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {
            "tasks": self._source.name,
            "tasks_digest": self._source.digest(),
            "number": len(self._ids),
            "code_version": __version__,
        }

    def prefetch(self, seed: int | None, options: Mapping[str, Any] | None = None) -> None:
        wanted = (seed, tuple(sorted((options or {}).items())))
        if seed is None or self._expected == wanted:
            return
        task = self._draw(seeding.np_random(seed)[0], options or {})
        self._expected = wanted
        shared_pool(self.engine).prefetch(task, self.limits)

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        """Draw a task of the split, or take `options["task_id"]` (of any split)."""
        self._drop()
        self._expected = None
        task = self._now = self._draw(self.np_random, options)
        pool = shared_pool(self.engine)
        self._ready = pool.take(task, self.limits)
        sandbox = self._ready.sandbox
        self._release = pool.lend(sandbox, self)
        self._toolbox = Toolbox(sandbox, self.bash_only, self._step_timeout, self._longest)
        self._oracle = PatchOracle(task, AgentFiles(sandbox), self.bash_only)
        text = f"{task.problem.strip()}\n\nThe repository is in {WORKDIR}."
        return Task(task.task_id, task.repo, task.problem.strip()), self._outcome(text, 0)

    def act(self, action: str) -> StepResult:
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

    def reply(self, action: str) -> StepResult:
        return self.act(action)  # it takes a step like any other

    def expert(self) -> tuple[str, str]:
        if self._oracle is None:
            raise ConfigError("there is no episode yet: call reset() first")
        return self._oracle.choose()

    def abandon(self) -> None:
        """Remove the sandbox while a call hangs in another thread, which then fails."""
        self._drop()

    def close(self) -> None:
        self._drop()
        super().close()

    def _draw(self, rng: np.random.Generator, options: Mapping[str, Any]) -> SweTask:
        for name in options:
            check_name("reset option", name, _OPTIONS)
        drawn = self._ids[int(rng.integers(len(self._ids)))]
        return self._source.task(str(options.get("task_id", drawn)))

    def _submit(self) -> StepResult:
        """Take the agent's patch, release its sandbox, and grade the patch in another one."""
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
        won, score = verdict.resolved, float(verdict.resolved)
        return StepResult(text, reward=score, terminated=True, won=won, submitted=True, extra=extra)

    def _outcome(self, text: str, taken: int, *, valid: bool = True, error: str = "") -> StepResult:
        left = self.max_turns - taken
        text = f"{text}\n[{left} step{'s' * (left != 1)} left]" if not error else text
        return StepResult(
            text, admissible_actions=_ALWAYS, action_valid=valid, error=error, extra=_facts()
        )

    def _drop(self) -> None:
        """Release the sandbox; the pool removes it."""
        if self._release is not None:
            self._release()
        self._ready = self._toolbox = self._oracle = self._release = None


def _facts(verdict: Verdict | None = None, size: int = 0) -> dict[str, Any]:
    """The info keys of this environment, with empty values before grading."""
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
    """The tasks of an environment; with `whole`, all tasks of a source without splits."""
    if whole and not any(entry.split for entry in source.entries.values()):
        split = "test"
    return source.ids(split, repos)


def _limits(values: Mapping[str, Any]) -> Limits:
    known = {item.name: item.default for item in fields(Limits)}
    for name, value in values.items():
        check_name("key of limits", name, known)
        kind = bool if isinstance(known[name], bool) else (int, float)
        if not isinstance(value, kind) or (value <= 0 and kind is not bool):
            raise ConfigError(f"limits.{name}: expected a value like {known[name]}, got {value!r}")
    return Limits(**values)


def _names(asked: Iterable[str] | str | None) -> tuple[str, ...]:
    if asked is None:
        return ()
    names = asked.split(",") if isinstance(asked, str) else list(asked)
    return tuple(name.strip() for name in names if name.strip())
