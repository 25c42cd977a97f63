"""A complete environment with an expert."""

from collections.abc import Mapping
from typing import Any

from aem_gym import StepResult, Task, TextEnv

COLOURS = ("red", "green", "blue")
TURNS = tuple(f"turn {colour}" for colour in COLOURS)
DIGITS = 4


class Lockbox(TextEnv):
    """Set three dials to a code, then open the box. A task's id is dials and code: `013-210`."""

    instructions = (
        "Set the dials to the code and open the box. A turn moves one dial up by one, and from "
        f"{DIGITS - 1} to 0. Actions: {', '.join((*TURNS, 'open'))}."
    )
    max_turns = 12

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        drawn = "".join(str(d) for d in self.np_random.integers(DIGITS, size=2 * len(COLOURS)))
        task_id = options.get("task_id") or f"{drawn[:3]}-{drawn[3:]}"
        self.dials, self.code = ([int(d) for d in part] for part in task_id.split("-"))
        return Task(task_id, goal="open the box"), self.look("A box with three dials.")

    def act(self, action: str) -> StepResult:
        if action == "open":
            won = self.dials == self.code
            text = "The box opens." if won else "The bolt snaps: locked for good."
            return StepResult(text, reward=float(won), terminated=True, won=won)
        if action not in TURNS:
            return self.look("Nothing happens.", action_valid=False)
        dial = TURNS.index(action)
        self.dials[dial] = (self.dials[dial] + 1) % DIGITS
        return self.look("Click.")

    def look(self, text: str, action_valid: bool = True) -> StepResult:
        dials = zip(COLOURS, self.dials, self.code, strict=True)
        text += " " + ", ".join(f"{c} {dial} (code {digit})" for c, dial, digit in dials)
        return StepResult(text, admissible_actions=[*TURNS, "open"], action_valid=action_valid)

    def expert(self) -> tuple[str, str]:
        for colour, dial, digit in zip(COLOURS, self.dials, self.code, strict=True):
            if dial != digit:
                return f"{colour} must be {digit}", f"turn {colour}"
        return "all dials are right", "open"
