"""RandomAgent: the floor that any other agent has to beat."""

from __future__ import annotations

import re
from collections.abc import Sequence

from aem_gym.protocols import EpisodeStart, Response, TurnInput
from aem_gym.seeding import generator


class RandomAgent:
    """Draws uniformly from the admissible actions.

    Where the environment lists none, it says a random word of the observation. A draw depends on
    the episode's key and the turn alone, not on what else runs beside it.

    Args:
        hide: leave out the actions that the recipe hides from agents (ALFWorld's `help`).
    """

    name = "random"

    def __init__(self, *, hide: bool = True) -> None:
        self.hide = hide
        self._starts: dict[int, EpisodeStart] = {}

    def begin(self, start: EpisodeStart) -> None:
        """Remember the episode's key."""
        self._starts[start.slot] = start

    def act(self, situations: Sequence[TurnInput]) -> list[Response]:
        """One draw per situation."""
        return [Response(self._draw(situation)) for situation in situations]

    def end(self, slot: int) -> None:
        """Forget the episode."""
        self._starts.pop(slot, None)

    def _draw(self, situation: TurnInput) -> str:
        start = self._starts[situation.slot]
        hidden = start.recipe.hidden_actions if self.hide else ()
        admissible: list[str] = list(situation.info.get("admissible_actions", ()))
        choices: list[str] = (
            [action for action in admissible if action not in hidden]
            or admissible
            or re.findall(r"\w+", situation.observation)
            or [""]
        )
        place = int(generator(start.key, situation.turn, "random").integers(len(choices)))
        return choices[place]
