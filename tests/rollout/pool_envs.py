"""Environments for the pool's tests: one that answers, and those that fail on command."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import gymnasium as gym

from aem_gym.text_env import TextEnv
from aem_gym.types import StepResult, Task


class Counter(TextEnv):
    """Counts its turns; a drawn number and the process id tell where it runs and what it drew."""

    instructions = "Say anything."
    lexicon = ("one", "two")

    def __init__(self, *, length: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.length = length

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        self.drawn = int(self.np_random.integers(10**6))
        self.turn = 0
        return Task(str(options.get("task_id", "t")), goal="count"), StepResult(
            f"drew {self.drawn}"
        )

    def act(self, action: str) -> StepResult:
        self.turn += 1
        roll = int(self.np_random.integers(10**6))
        done = self.turn >= self.length
        text = f"{self.drawn}:{self.turn}:{roll}:{action}"
        return StepResult(text, float(done), done, won=done, admissible_actions=["one", "two"])

    def expert(self) -> tuple[str, str]:
        if self.turn == 2:
            raise RuntimeError("no idea")
        return f"turn {self.turn}", "one"


class Prefetching(Counter):
    """Says which resets it prefetched, and fails as an environment itself reports."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.prefetched: list[str] = []

    def prefetch(self, seed: int, options: Mapping[str, Any] | None) -> None:
        if seed == 13:
            raise ValueError("cannot be prefetched")
        self.prefetched.append(f"{seed}:{sorted(options or {})}")

    def act(self, action: str) -> StepResult:
        if action == "submit":
            return StepResult("graded", terminated=True, submitted=True, score=0.5)
        if action == "report":
            return StepResult("", error="the engine is gone")
        prefetched, self.prefetched = self.prefetched, []
        return StepResult(" ".join(prefetched), terminated=action == "end")


class Waiting(Counter):
    """Waits in another thread for what `gate` holds: nothing, its company, or for ever."""

    waits = True
    company: ClassVar[threading.Barrier] = threading.Barrier(1)
    abandoned: ClassVar[list[int]] = []

    def __init__(self, *, hang_at: int = -1, hang_in: str = "act", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hang_at, self.hang_in = hang_at, hang_in
        self.end = threading.Event()

    def _wait(self, where: str) -> None:
        if self.hang_in == where and self.seed == self.hang_at:
            self.end.wait(60)
            raise RuntimeError("abandoned")
        self.company.wait(20)

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        self.seed = self.np_random_seed
        self._wait("start")
        return super().start(options)

    def act(self, action: str) -> StepResult:
        self._wait("act")
        return super().act(action)

    def abandon(self) -> None:
        self.abandoned.append(self.seed)
        self.end.set()


def fail(action: str) -> Any:
    """Fail in the way the action names; None for all others."""
    if action == "raise":
        raise ValueError("broken on purpose")
    if action == "exit":
        raise SystemExit(3)
    if action == "hang":
        while True:
            with contextlib.suppress(Exception):  # an environment that swallows errors
                time.sleep(0.01)
    if action == "die":
        os._exit(7)
    return None


class Faulty(gym.Env[str, str]):
    """A third-party environment: gymnasium's own Text spaces, no info keys, faults on command."""

    observation_space = gym.spaces.Text(100)
    action_space = gym.spaces.Text(100)

    def __init__(self, reset_fault: str = "") -> None:
        self.reset_fault = reset_fault
        self.alive = os.getpid()

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        fail((options or {}).get("fault", self.reset_fault))
        return f"seed{seed}", {}

    def step(self, action: str) -> Any:
        fail(action)
        wrong: dict[str, Any] = {
            "number": (5, 0.0, False, False, {}),
            "four": ("x", 0.0, False, {}),
            "nan": ("x", float("nan"), False, False, {}),
            "inf": ("x", float("-inf"), True, False, {}),
            "huge": ("x", 1e39, True, False, {}),
            "nan score": ("x", 1.0, True, False, {"score": float("nan")}),
            "inf score": ("x", 1.0, True, False, {"score": float("inf")}),
            "nan won": ("x", 1.0, True, False, {"won": float("nan")}),
            "info": ("x", 0.0, False, False, None),
            "key": ("x", 0.0, False, False, {"admissible_actions": "go"}),
            "none": None,
            "unpicklable": ("x", 0.5, False, False, {"handle": lambda: 0, "kept": 1}),
            "pid": (str(os.getpid()), 0.0, False, False, {}),
            "win": ("x", 1, True, False, {}),
        }
        return wrong.get(action, (action, 0.0, False, False, {}))


class Unmakeable(gym.Env[str, str]):
    def __init__(self) -> None:
        raise OSError("the data is not there")


def register() -> None:
    for name in ("Counter", "Faulty", "Prefetching", "Unmakeable", "Waiting"):
        if f"pool-test/{name}-v0" not in gym.registry:
            gym.register(f"pool-test/{name}-v0", f"{__name__}:{name}", disable_env_checker=True)


register()
