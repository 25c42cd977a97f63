"""Environments that a policy of 30 cloning steps wins now and then, and ones that fail."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from aem_gym.errors import InfrastructureError
from aem_gym.text_env import TextEnv
from aem_gym.types import PromptTemplate, StepResult, Task

DOORS = ("red door", "green door", "blue door")


class Guess(TextEnv):
    """Two rooms, three doors each, one of them right: random play wins one time in nine."""

    instructions = "Open the right door, twice."
    prompt_templates = {
        "compact": PromptTemplate(name="compact", first="{observation}", response_format="short")
    }
    max_turns = 5

    def __init__(self, *, hint: bool = False, padding: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.hint, self.padding = hint, padding

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        self.right = [DOORS[i] for i in self.np_random.integers(3, size=2)]
        kind = "same" if self.right[0] == self.right[1] else "mixed"
        return Task("-".join(self.right), kind, "open both"), self.show("A room.")

    def act(self, action: str) -> StepResult:
        if action not in DOORS:
            return self.show("No such door.", action_valid=False)
        if action != self.right[0]:
            return StepResult("Locked for good.", terminated=True, admissible_actions=DOORS)
        self.right = self.right[1:]
        if not self.right:
            return StepResult("Out!", 1.0, True, won=True, admissible_actions=DOORS)
        return self.show("Another room.")

    def show(self, text: str, action_valid: bool = True) -> StepResult:
        text += f" The {self.right[0]} shines." if self.hint else " Three doors."
        text += " long" * self.padding
        return StepResult(text, admissible_actions=DOORS, action_valid=action_valid)

    def expert(self) -> tuple[str, str]:
        return "this one", self.right[0]


class NoExpert(Guess):
    """The same without an expert."""

    expert = None  # type: ignore[assignment]


class Corridor(Guess):
    """Twenty rooms, in each of which the right door shines: long, and won by who reads."""

    max_turns = 24

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"hint": True, **kwargs})

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        self.right = [DOORS[i] for i in self.np_random.integers(3, size=20)]
        return Task("-".join(self.right), "long", "open all"), self.show("A room.")


class Hopeless(Guess):
    """Nobody wins, and there is no expert."""

    expert = None  # type: ignore[assignment]

    def act(self, action: str) -> StepResult:
        return StepResult("Locked for good.", terminated=True, admissible_actions=DOORS)


class Troubled(Guess):
    """Some tasks fail, each in a way of its own; which one is decided by the seed."""

    faults = ("none", "reset", "step", "type", "hang", "odd")

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self.fault = self.faults[(seed or 0) % len(self.faults)]
        if self.fault == "reset":
            raise RuntimeError("no reset today")
        observation, info = super().reset(seed=seed, options=options)
        if self.fault == "odd":
            observation = "\ud800 \x00\x1b[31m \u202e \U0001f6aa \u4f60\u597d " + "long " * 200
        return observation, info

    def step(self, action: str) -> Any:
        if self.fault == "step":
            raise ValueError("no step today")
        if self.fault == "type":
            return 7, 0.0, False, False, {}
        while self.fault == "hang":
            with contextlib.suppress(Exception):
                time.sleep(0.01)
        return super().step(action)


class Outage(Guess):
    """What it runs on is away for the next `down` resets."""

    down = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        if Outage.down:
            Outage.down -= 1
            raise InfrastructureError("the server is away")
        return super().reset(seed=seed, options=options)


class Endless(Guess):
    """Nobody wins or loses: all returns are equal."""

    def act(self, action: str) -> StepResult:
        return self.show("A room.")


class Broken(Guess):
    """Every episode fails at its first step."""

    def step(self, action: str) -> Any:
        raise ValueError("no step today")


def register() -> None:
    games = (Guess, NoExpert, Corridor, Hopeless, Troubled, Outage, Endless, Broken)
    for name in (game.__name__ for game in games):
        if f"guess-test/{name}-v0" not in gym.registry:
            gym.register(f"guess-test/{name}-v0", f"{__name__}:{name}", disable_env_checker=True)


register()
