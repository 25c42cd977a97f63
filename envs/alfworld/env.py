"""ALFWorldEnv: household tasks in text, as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from aem_gym.envs.alfworld.constants import OBJECT_CLASSES, RECEPTACLE_CLASSES, TASK_TYPES
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.engine import Engine
from aem_gym.envs.alfworld.generator import draw_task, make_game, parse_task_id
from aem_gym.envs.alfworld.oracle import SEARCHES, Oracle
from aem_gym.envs.alfworld.recipes import RECIPES, instructions_for
from aem_gym.envs.alfworld.rooms import DIFFICULTIES
from aem_gym.envs.alfworld.splits import SPLITS
from aem_gym.envs.alfworld.text import DIALECTS
from aem_gym.envs.base import TextEnv
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.types import Outcome, Task

_MAX_TURNS = {"full": 50, "small": 14}
_EXPERT_SEARCH = {"full": "likely", "small": "random"}
"""Small rooms are there to learn in: 14 turns are enough for who knows where things usually are
(`likely` wins 99.8%), and not for who looks around at random (90.5%), as demonstrations do."""
_OPTIONS = ("task_id", "task_type")


class ALFWorldEnv(TextEnv):
    """Find, clean, heat, cool, light and put away things in rooms described in text.

    Args:
        split: `train`, `valid_seen` (new tasks in known rooms) or `valid_unseen` (new rooms).
        difficulty: `full` (rooms like the original's) or `small` (6-8 receptacles).
        task_types: which of the six to draw from; a list, or names joined by commas.
        dialect: `0.4` (`move X to Y`) or `0.3` (`put X in/on Y`, as in published results).
        max_turns: turn limit; default 50 (`full`) or 14 (`small`).
        expert_search: how `expert` looks for things (`aem_gym.envs.alfworld.oracle.SEARCHES`);
            default `likely` (`full`) or `random` (`small`).
        render_mode: None or `ansi`.

    Raises:
        ConfigError: a value is out of range; UnknownNameError lists the names there are.
    """

    recipes = RECIPES

    def __init__(
        self,
        *,
        split: str = "train",
        difficulty: str = "full",
        task_types: Iterable[str] | str | None = None,
        dialect: str = "0.4",
        max_turns: int | None = None,
        expert_search: str | None = None,
        render_mode: str | None = None,
    ) -> None:
        dialect = str(dialect)  # a number where a configuration file forgot the quotes
        _known("split", split, SPLITS)
        _known("difficulty", difficulty, DIFFICULTIES)
        _known("dialect", dialect, DIALECTS)
        search = _EXPERT_SEARCH[difficulty] if expert_search is None else expert_search
        _known("expert_search", search, SEARCHES)
        turns = _MAX_TURNS[difficulty] if max_turns is None else max_turns
        super().__init__(max_turns=turns, render_mode=render_mode)
        self.split, self.difficulty, self.dialect = split, difficulty, dialect
        self.expert_search = search
        self.task_types = _task_types(task_types)
        self.instructions = instructions_for(dialect)
        self._engine: Engine | None = None
        self._oracle: Oracle | None = None
        self._unread: list[str] = []

    @property
    def lexicon(self) -> tuple[str, ...]:
        """The class names as printed: the nouns of this world."""
        return tuple(sorted(name.lower() for name in {*OBJECT_CLASSES, *RECEPTACLE_CLASSES}))

    def start(self, options: Mapping[str, Any]) -> tuple[Task, Outcome]:
        """Draw a task of the split, or take the one that `options` ask for.

        `options["task_id"]` gives exactly that episode, whatever the split and difficulty of this
        environment; `options["task_type"]` restricts the draw.
        """
        for name in options:
            _known("reset option", name, _OPTIONS)
        expert_seed = int(self.np_random.integers(2**31))
        if "task_id" in options:
            spec = parse_task_id(str(options["task_id"]))
        else:
            types = self.task_types
            if "task_type" in options:
                types = _task_types(str(options["task_type"]))
            task_type = types[int(self.np_random.integers(len(types)))]
            spec = draw_task(self.np_random, self.split, self.difficulty, task_type)
        game = make_game(spec, self.dialect)
        self._engine = Engine(game)
        observation = self._engine.reset()
        self._oracle = Oracle(
            self.expert_search, Draws("alfworld", "expert", expert_seed), self._contents
        )
        self._unread = [observation]
        task = Task(spec.task_id, spec.combination.task_type, f"{game.sentence}.")
        return task, Outcome(observation, admissible_actions=self._engine.admissible())

    def act(self, action: str) -> Outcome:
        """Answer one command; anything inadmissible is answered "Nothing happens."."""
        engine = self._playing()
        observation, valid = engine.step(action)
        self._unread.append(observation)
        return Outcome(
            observation,
            reward=float(engine.won),
            terminated=engine.won,
            won=engine.won,
            admissible_actions=engine.admissible(),
            action_valid=valid,
        )

    def expert(self) -> tuple[str, str]:
        """The (thought, action) of the oracle for the present state."""
        engine = self._playing()
        assert self._oracle is not None
        for observation in self._unread:
            self._oracle.read(observation)
        self._unread = []
        return self._oracle.choose(engine.admissible())

    def _playing(self) -> Engine:
        if self._engine is None:
            raise ConfigError("there is no episode yet: call reset() first")
        return self._engine

    def _contents(self) -> dict[str, list[str]]:
        """What really is where; only the privileged oracle asks."""
        engine = self._playing()
        return {
            receptacle.name: [engine.game.objects[index].name for index in contents]
            for receptacle, contents in zip(engine.game.receptacles, engine.contents, strict=True)
        }


def _known(kind: str, name: str, names: Iterable[str]) -> None:
    if name not in tuple(names):
        raise UnknownNameError(kind, str(name), names)


def _task_types(asked: Iterable[str] | str | None) -> tuple[str, ...]:
    """The asked task types, in the published order."""
    if asked is None:
        return TASK_TYPES
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
    for name in names:
        _known("task type", name, TASK_TYPES)
    if not names:
        raise ConfigError(f"task_types: expected at least one of {', '.join(TASK_TYPES)}, got none")
    return tuple(name for name in TASK_TYPES if name in names)
