"""HumanAgent: a person at a terminal (`aem-gym play`)."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from aem_gym.protocols import EpisodeStart, Response, TurnInput

HELP = "[?: what can I do   q: quit   \\text: send text as it is, \\q for instance]"


class HumanAgent:
    r"""Shows each observation and reads the action from a line of input.

    `?` lists the admissible actions, `q` (or the end of the input) gives up on the episode, and a
    leading backslash sends the rest of the line as it is.

    Args:
        source: where lines come from; standard input by default.
        sink: where text goes; standard output by default.
    """

    name = "human"

    def __init__(self, *, source: TextIO | None = None, sink: TextIO | None = None) -> None:
        self._source, self._sink = source, sink

    def begin(self, start: EpisodeStart) -> None:
        """Show what the episode is about."""
        for text in (start.instructions, start.goal and f"Goal: {start.goal}", HELP):
            if text:
                self._say(f"{text}\n")

    def act(self, situations: Sequence[TurnInput]) -> list[Response]:
        """One line of input per situation."""
        return [self._ask(situation) for situation in situations]

    def end(self, slot: int) -> None:
        """Nothing to forget."""

    def _ask(self, situation: TurnInput) -> Response:
        self._say(situation.observation)
        while True:
            self._say("> ", end="")
            line = (self._source or sys.stdin).readline()
            command = line.strip()
            if not line or command == "q":
                return Response("", text="q", stop=True)
            if command.startswith("\\"):
                return Response(command[1:])
            if command == "?":
                actions = situation.info.get("admissible_actions") or ["(anything)"]
                self._say("\n".join(f"  {action}" for action in actions))
            elif command:
                return Response(command)

    def _say(self, text: str, end: str = "\n") -> None:
        sink = self._sink or sys.stdout
        sink.write(text + end)
        sink.flush()
