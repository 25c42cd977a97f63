"""ExpertAgent: does what the environment's own expert says."""

from __future__ import annotations

from collections.abc import Sequence

from aem_gym.protocols import EpisodeStart, Response, TurnInput


class ExpertAgent:
    """Asks the environment's expert at every turn. Demonstrations and oracle tests come from it.

    An episode in which the expert has no answer ends with an error that says so.
    """

    name = "expert"

    def begin(self, start: EpisodeStart) -> None:
        """The environment knows the state; nothing to remember."""

    def act(self, situations: Sequence[TurnInput]) -> list[Response]:
        """The expert's answer to each situation."""
        return [_respond(situation) for situation in situations]

    def end(self, slot: int) -> None:
        """Nothing to forget."""


def _respond(situation: TurnInput) -> Response:
    answer = situation.ask_expert()
    if answer is None:
        return Response(
            "",
            format_valid=False,
            error=f"NoExpertError: the environment's expert has no answer at turn {situation.turn}"
            " (it has no method `expert`, or the expert failed: see the log)",
        )
    thought, action = answer
    return Response(action, thought=thought)
