"""A complete environment without an expert: random play wins now and then."""

from collections.abc import Mapping
from typing import Any

from aem_gym import StepResult, Task, TextEnv

WORDS = ("amber", "brick", "cloud", "dwarf", "flame", "ghost", "jumpy", "knife", "lemon", "tiger")


def marks(guess: str, secret: str) -> str:
    """`+` in its place, `?` elsewhere in the word, `-` not in it (no letter comes twice)."""
    return "".join(
        "+" if a == b else "?" if a in secret else "-" for a, b in zip(guess, secret, strict=True)
    )


class WordleLike(TextEnv):
    """Find the secret word in three guesses. A task's id is the word's place in the list."""

    instructions = (
        "Find the secret word. After a guess, each letter is marked: + in its place, ? in another "
        f"place, - not in the word. Words: {' '.join(WORDS)}."
    )
    max_turns = 3

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        drawn = str(self.np_random.integers(len(WORDS)))
        task_id = options.get("task_id") or drawn
        self.secret, self.possible = WORDS[int(task_id)], WORDS
        return Task(task_id, goal="find the word"), self.look("Guess.")

    def act(self, action: str) -> StepResult:
        if action not in WORDS:
            return self.look("That is not one of the words.", action_valid=False)
        if action == self.secret:
            return StepResult(f"Yes, {action}!", reward=1.0, terminated=True, won=True)
        seen = marks(action, self.secret)
        self.possible = [word for word in self.possible if marks(action, word) == seen]
        return self.look(f"{action} {seen}")

    def look(self, text: str, action_valid: bool = True) -> StepResult:
        text = f"{text} Possible: {' '.join(self.possible)}."
        return StepResult(text, admissible_actions=WORDS, action_valid=action_valid)
