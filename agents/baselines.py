"""The agents without a model: random play, the environment's own expert, and a person."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import TextIO

from aem_gym.console import printable
from aem_gym.protocols import EpisodeStart, Response, TurnInput
from aem_gym.seeding import generator

HELP = "[?: what can I do   q: quit   \\text: send text as it is, \\q for instance]"


class RandomAgent:
    """Draws uniformly from the admissible actions: the floor that any other agent has to beat.

    Where the environment lists none, it says a random word of the observation. A draw depends on
    the episode's key and the turn alone, not on what else runs beside it.

    Args:
        hide: leave out the actions that the prompt template hides from agents (ALFWorld's `help`).
    """

    name = "random"

    def __init__(self, *, hide: bool = True) -> None:
        self.hide = hide
        self._starts: dict[int, EpisodeStart] = {}

    def begin(self, start: EpisodeStart) -> None:
        self._starts[start.slot] = start

    def act(self, inputs: Sequence[TurnInput]) -> list[Response]:
        return [Response(self._draw(turn)) for turn in inputs]

    def end(self, slot: int) -> None:
        self._starts.pop(slot, None)

    def _draw(self, turn: TurnInput) -> str:
        start = self._starts[turn.slot]
        hidden = start.template.hidden_actions if self.hide else ()
        admissible: list[str] = list(turn.info.get("admissible_actions", ()))
        choices: list[str] = (
            [action for action in admissible if action not in hidden]
            or admissible
            or re.findall(r"\w+", turn.observation)
            or [""]
        )
        place = int(generator(start.key, turn.turn, "random").integers(len(choices)))
        return choices[place]


class ExpertAgent:
    """Asks the environment's expert at every turn. Demonstrations and oracle tests come from it.

    An episode in which the expert has no answer ends with an error that says so.
    """

    name = "expert"

    def begin(self, start: EpisodeStart) -> None:
        pass

    def act(self, inputs: Sequence[TurnInput]) -> list[Response]:
        return [self._ask(turn) for turn in inputs]

    def end(self, slot: int) -> None:
        pass

    def _ask(self, turn: TurnInput) -> Response:
        answer = turn.ask_expert()
        if answer is not None:
            return Response(answer[1], thought=answer[0])
        error = (
            f"NoExpertError: the environment's expert has no answer at turn {turn.turn} "
            "(it has no method `expert`, or the expert failed: see the log)"
        )
        return Response("", format_valid=False, error=error)


class HumanAgent:
    r"""Shows each observation and reads the action from a line of input (`aem-gym play`).

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
        for text in (start.instructions, start.goal and f"Goal: {start.goal}", HELP):
            if text:
                self._say(f"{text}\n")

    def act(self, inputs: Sequence[TurnInput]) -> list[Response]:
        return [self._ask(turn) for turn in inputs]

    def end(self, slot: int) -> None:
        pass

    def _ask(self, turn: TurnInput) -> Response:
        self._say(printable(turn.observation))
        while True:
            self._say("> ", end="")
            line = (self._source or sys.stdin).readline()
            command = line.strip()
            if not line or command == "q":
                return Response("", text="q", stop=True)
            if command.startswith("\\"):
                return Response(command[1:])
            if command == "?":
                actions = turn.info.get("admissible_actions") or ["(anything)"]
                self._say("\n".join(f"  {action}" for action in actions))
            elif command:
                return Response(command)

    def _say(self, text: str, end: str = "\n") -> None:
        sink = self._sink or sys.stdout
        sink.write(text + end)
        sink.flush()
