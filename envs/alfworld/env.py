"""ALFWorldEnv: household tasks in text, as a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from aem_gym.datasets import DataReport, Exported
from aem_gym.envs.alfworld.backends import BACKENDS, PlayableEngine, start_engine
from aem_gym.envs.alfworld.constants import OBJECT_CLASSES, RECEPTACLE_CLASSES, TASK_TYPES
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.oracle import SEARCHES, Oracle
from aem_gym.envs.alfworld.recipes import RECIPES, instructions_for
from aem_gym.envs.alfworld.rooms import DIFFICULTIES
from aem_gym.envs.alfworld.sources import KINDS, Found, GameSource, game_from_file, open_source
from aem_gym.envs.alfworld.splits import SPLITS
from aem_gym.envs.alfworld.text import DIALECTS, told
from aem_gym.envs.base import TextEnv
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.types import StepResult, Task

_MAX_TURNS = {"full": 50, "small": 14}
_EXPERT_SEARCH = {"full": "likely", "small": "random"}
"""Small rooms are there to learn in: 14 turns are enough for who knows where things usually are
(`likely` wins 99.9%), and not for who looks around at random (94.1%), as demonstrations do."""
_OPTIONS = ("task_id", "task_type", "game")


class ALFWorldEnv(TextEnv):
    """Find, clean, heat, cool, light and put away things in rooms described in text.

    Args:
        split: `train`, `valid_seen` (new tasks in known rooms) or `valid_unseen` (new rooms).
        difficulty: of generated games: `full` (rooms like the original's) or `small` (6-8
            receptacles).
        task_types: which of the six to draw from; a list, or names joined by commas.
        dialect: of generated games: `0.4` (`move X to Y`) or `0.3` (`put X in/on Y`, as in
            published results). Official games bring their own.
        games: `generated` or `official`; default: official if `data_dir` is given.
        data_dir: the folder with the official `json_2.1.1`; default `$ALFWORLD_DATA`.
        goals: of official games: `template`, or `human` for a person's words.
        num_games: only the first so many official games; default all.
        shuffle_numbers: deal out the numbers of things anew in every episode.
        backend: `native`, or `textworld` for the original engine (slow; extra `alfworld`).
        logic_dir: with `textworld` and generated games: the folder of the original's rules.
        max_turns: turn limit; default 50, or 14 in `small` rooms.
        expert_search: how `expert` looks for things (`aem_gym.envs.alfworld.oracle.SEARCHES`);
            default `likely`, or `random` in `small` rooms.
        expert_noise: how often `expert` takes a random admissible action instead (0 to 1).
        render_mode: None or `ansi`.

    Raises:
        ConfigError: a value is out of range, or data is missing; UnknownNameError lists the names
            there are.
    """

    prompt_templates = RECIPES

    def __init__(
        self,
        *,
        split: str = "train",
        difficulty: str = "full",
        task_types: Iterable[str] | str | None = None,
        dialect: str = "0.4",
        games: str | None = None,
        data_dir: str | None = None,
        goals: str = "template",
        num_games: int | None = None,
        shuffle_numbers: bool = False,
        backend: str = "native",
        logic_dir: str | None = None,
        max_turns: int | None = None,
        expert_search: str | None = None,
        expert_noise: float = 0.0,
        render_mode: str | None = None,
    ) -> None:
        dialect = str(dialect)  # a number where a configuration file forgot the quotes
        games = games or ("official" if data_dir else "generated")
        _known("split", split, SPLITS)
        _known("difficulty", difficulty, DIFFICULTIES)
        _known("dialect", dialect, DIALECTS)
        _known("games", games, KINDS)
        _known("backend", backend, BACKENDS)
        size = "full" if games == "official" else difficulty
        self.expert_search = expert_search or _EXPERT_SEARCH[size]
        _known("expert_search", self.expert_search, SEARCHES)
        if not 0.0 <= expert_noise <= 1.0:
            raise ConfigError(f"expert_noise: expected a share from 0 to 1, got {expert_noise}")
        super().__init__(
            max_turns=_MAX_TURNS[size] if max_turns is None else max_turns, render_mode=render_mode
        )
        self.split, self.difficulty, self.backend = split, difficulty, backend
        self.task_types = _task_types(task_types)
        self._source: GameSource = open_source(
            games, split, difficulty, dialect, self.task_types, data_dir, goals, num_games
        )
        self.dialect = self._source.dialect
        self.instructions = instructions_for(self.dialect)
        self._shuffle, self._noise = shuffle_numbers, expert_noise
        self._logic_dir = Path(logic_dir).expanduser() if logic_dir else None
        self._engine: PlayableEngine | None = None
        self._oracle: Oracle | None = None
        self._unread: list[str] = []

    @property
    def lexicon(self) -> tuple[str, ...]:
        """The class names as printed: the nouns of this world."""
        return tuple(sorted(name.lower() for name in {*OBJECT_CLASSES, *RECEPTACLE_CLASSES}))

    @classmethod
    def data_report(cls, data_dir: str | None = None) -> DataReport:
        """What is there of the official data, for `aem-gym data`."""
        from aem_gym.envs.alfworld.official.report import data_report

        return data_report(data_dir)

    @classmethod
    def export_games(
        cls,
        folder: Path,
        *,
        games: int,
        split: str = "train",
        seed: int = 0,
        logic: Path | None = None,
        env_args: Mapping[str, Any] | None = None,
    ) -> Exported:
        """Write generated games as an official data folder (`aem-gym export`).

        `env_args` may say `difficulty`, `dialect` and `task_types`. See
        `aem_gym.envs.alfworld.official.export.export_games`.
        """
        from aem_gym.envs.alfworld.official.export import export_games

        args = dict(env_args or {})
        for name in args:
            _known("argument of generated games", name, ("difficulty", "dialect", "task_types"))
        checked = cls(split=split, **args)
        return export_games(
            folder,
            games=games,
            split=split,
            seed=seed,
            difficulty=checked.difficulty,
            dialect=checked.dialect,
            task_types=checked.task_types,
            logic=logic,
        )

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        """Draw a game of the split, or take the one that `options` ask for.

        `options["task_id"]` gives exactly that game, whatever the split and difficulty of this
        environment; `options["game"]` plays any game file; `options["task_type"]` restricts the
        draw.
        """
        for name in options:
            _known("reset option", name, _OPTIONS)
        expert_seed = int(self.np_random.integers(2**31))
        found = self._find(options)
        game = found.game
        if self._shuffle:
            from aem_gym.envs.alfworld.official.shuffle import shuffle_numbers

            game = shuffle_numbers(game, self.np_random)
        self._engine = start_engine(
            self.backend, game, found.path, self._logic_dir, previous=self._engine
        )
        observation = self._engine.reset()
        self._oracle = Oracle(
            self.expert_search,
            Draws("alfworld", "expert", expert_seed),
            self._engine.contained,
            goal=game.goal,
            noise=self._noise,
        )
        self._unread = [observation]
        task = Task(game.task_id, game.goal.task_type, told(game.sentence))
        return task, StepResult(observation, admissible_actions=self._engine.admissible())

    def _find(self, options: Mapping[str, Any]) -> Found:
        if "game" in options:
            return game_from_file(str(options["game"]))
        if "task_id" in options:
            return self._source.load(str(options["task_id"]), self.np_random)
        types = self.task_types
        if "task_type" in options:
            types = _task_types(str(options["task_type"]))
        return self._source.load(self._source.draw(self.np_random, types), self.np_random)

    def act(self, action: str) -> StepResult:
        """Answer one command; anything inadmissible is answered "Nothing happens."."""
        engine = self._playing()
        observation, valid = engine.step(action)
        self._unread.append(observation)
        return StepResult(
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

    def close(self) -> None:
        """Give back what the engine holds."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        super().close()

    def _playing(self) -> PlayableEngine:
        if self._engine is None:
            raise ConfigError("there is no episode yet: call reset() first")
        return self._engine


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
