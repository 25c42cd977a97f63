"""The original engine behind TextWorld, with the interface of the native one.

For comparison: it takes some 20 steps a second. Needs `pip install "aem-gym[alfworld]"`.
"""

from __future__ import annotations

import contextlib
import importlib
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aem_gym.envs.alfworld.authoring.logic import find_logic, join_grammar
from aem_gym.envs.alfworld.authoring.problem_writer import write_problem
from aem_gym.envs.alfworld.dataset.gamefile import GameContent, decode, split_grammar
from aem_gym.envs.alfworld.engine import PlayableEngine
from aem_gym.envs.alfworld.game import Game, printed_names
from aem_gym.errors import MissingDependencyError


def start_engine(
    game: Game,
    path: Path | None = None,
    logic: Path | None = None,
    previous: PlayableEngine | None = None,
) -> PlayableEngine:
    """An engine that plays `game` in TextWorld.

    Args:
        game: with the names that are to be printed.
        path: the file it was read from, if any; its problem and rules are used unchanged.
        logic: folder of the original's rules, for generated games; else see `find_logic`.
        previous: the engine of the episode before, which is used again if it is of this kind.

    Raises:
        MissingDependencyError: textworld is not installed.
        ConfigError: the original's rules are not found.
    """
    names = {thing.id: thing.name for thing in game.objects}
    names |= {place.id: place.name for place in game.receptacles}
    names |= dict(zip(game.location_ids, game.locations, strict=True))
    data = game_data(replace(game, sentence=harmless(game.sentence)), path, logic)
    if isinstance(previous, TextWorldEngine):
        previous.load(data, names)
        return previous
    return TextWorldEngine(data, names)


def game_data(game: Game, path: Path | None, logic: Path | None = None) -> dict[str, str]:
    """The content of a game file, with the game's own sentence as its task."""
    if path is not None:
        raw = decode(path, GameContent)
        domain, problem = raw.pddl_domain, raw.pddl_problem
        grammar = split_grammar(raw.grammar)[0]
    else:
        rules = find_logic(game.dialect, logic)
        domain, grammar, problem = rules.domain, rules.grammar, write_problem(game)
    grammar = join_grammar(grammar, game.sentence)
    return {"pddl_domain": domain, "grammar": grammar, "pddl_problem": problem}


def harmless(sentence: str) -> str:
    """A task in words that the original's grammar cannot take for code; prints the same.

    The original evaluates what stands in braces as Python. A semicolon in the place of the first
    such mark ends the text there.
    """
    return re.sub(r"[\[{#]", ";", sentence)


class TextWorldEngine:
    """One running game in the real engine; isolated from others in the process.

    The planner and the expert are never used, and nothing is drawn at random.

    Args:
        game: a game file, or its decoded content.
        names: identifier -> printed name; default: numbered as the original does.

    Raises:
        MissingDependencyError: textworld is not installed.
    """

    def __init__(
        self, game: Path | Mapping[str, Any], names: Mapping[str, str] | None = None
    ) -> None:
        textworld = _textworld()
        infos = textworld.EnvInfos(won=True, admissible_commands=True)
        self._env: Any = textworld.envs.PddlEnv(infos)
        self._state: Any = None
        self.won = False
        self.load(game, names)

    def load(self, game: Path | Mapping[str, Any], names: Mapping[str, str] | None = None) -> None:
        """Take another game; `reset` starts it.

        Every `TextWorldEngine` keeps a copy of the planner's library in memory as long as the
        process lives (unloading one crashes the process when it ends), so use one for many games.
        """
        with _own_arguments():
            self._env.load(str(game) if isinstance(game, Path) else game)
        entities = self._env._entity_infos
        given = {identifier.lower(): name for identifier, name in (names or {}).items()}
        if not given:
            given = printed_names(info.id for info in entities.values())
        for info in entities.values():  # ids without a number print a final space there
            info.name = given.get(info.id, f"{info.id} ")

    def reset(self) -> str:
        with _own_arguments():
            self._state = self._env.reset()
        self.won = bool(self._state["won"])
        return str(self._state["feedback"])

    def step(self, command: str) -> tuple[str, bool]:
        known = command.strip() in self._state["admissible_commands"]
        self._state, _, _ = self._env.step(command)
        self.won = bool(self._state["won"])
        return str(self._state["feedback"]), known

    def admissible(self) -> list[str]:
        return list(self._state["admissible_commands"])

    def contained(self) -> dict[str, list[str]]:
        names = {key: info.name for key, info in self._env._entity_infos.items()}
        found: dict[str, list[str]] = {}
        for fact in self._state["_facts"]:
            things = [argument.name for argument in fact.arguments]
            if fact.name == "receptacleatlocation":
                found.setdefault(names[things[0]], [])
            elif fact.name == "inreceptacle":
                found.setdefault(names[things[1]], []).append(names[things[0]])
        return found

    def close(self) -> None:
        self._env.close()


@contextlib.contextmanager
def _own_arguments() -> Iterator[None]:
    """Keep `sys.argv`: the original's translator puts its own there."""
    kept = sys.argv
    try:
        yield
    finally:
        sys.argv = kept


def _textworld() -> Any:
    try:
        importlib.import_module("textworld.envs")
        return importlib.import_module("textworld")
    except ImportError as error:
        raise MissingDependencyError("textworld", "alfworld", "backend='textworld'") from error
