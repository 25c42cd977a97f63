"""ALFWorldEnv: household tasks in text, as a Gymnasium environment, and its prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import aem_gym
from aem_gym.envs.alfworld.classes import OBJECT_CLASSES, RECEPTACLE_CLASSES, SPLITS, TASK_TYPES
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.engine import Engine, PlayableEngine
from aem_gym.envs.alfworld.game import GOALS, Game, GameGoal, LoadedGame, shuffle_numbers
from aem_gym.envs.alfworld.generator import GeneratedGames
from aem_gym.envs.alfworld.oracle import SEARCHES, HouseholdOracle
from aem_gym.envs.alfworld.rooms import DIFFICULTIES
from aem_gym.envs.alfworld.text import DIALECTS, TEXTS, printed_sentence
from aem_gym.errors import ConfigError, check_name
from aem_gym.registry import env_tool
from aem_gym.text_env import TextEnv
from aem_gym.types import PromptTemplate, StepResult, Task

if TYPE_CHECKING:
    from aem_gym.envs.alfworld.dataset.games import DatasetGames

SOURCES = ("generated", "official")
BACKENDS = ("native", "textworld")
_MAX_TURNS = {"full": 50, "small": 14}
_EXPERT_SEARCH = {"full": "likely", "small": "random"}
"""Small rooms leave something to learn: within 14 turns `likely` wins 99.9% of their games, the
`random` search of demonstrations 94.1%."""
_OPTIONS = ("task_id", "task_type", "game")


def _template(name: str, fields: Mapping[str, Any]) -> PromptTemplate:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return PromptTemplate(name, **values)


PROMPT_TEMPLATES = {name: _template(name, fields) for name, fields in TEXTS["prompts"].items()}


class ALFWorldEnv(TextEnv):
    """Find, clean, heat, cool, light and put away things in rooms described in text.

    Args:
        split: `train`, `valid_seen` (new tasks in known rooms) or `valid_unseen` (new rooms).
        difficulty: of generated games: `full` (rooms like the original's) or `small` (6-8
            receptacles).
        task_types: which of the six to draw from; a list, or names joined by commas.
        dialect: of generated games: `0.4` (`move X to Y`) or `0.3` (`put X in/on Y`, as in
            published results). Official games bring their own.
        source: of games: `generated` or `official`; default: official if `data_dir` is given.
        data_dir: the folder with the official `json_2.1.1`; default `$ALFWORLD_DATA`.
        goals: of official games: `template`, or `human` for a person's words.
        num_games: only the first so many official games; default all.
        shuffle_numbers: deal out the numbers of things again in every episode.
        backend: `native`, or `textworld` for the original engine (slow; extra `alfworld`).
        logic_dir: with `textworld` and generated games: the folder of the original's rules.
        max_turns: turn limit; default 50, or 14 in `small` rooms.
        expert_search: how `expert` looks for things (`aem_gym.envs.alfworld.oracle.SEARCHES`);
            default `likely`, or `random` in `small` rooms.
        expert_noise: how often `expert` takes a random admissible action instead (0 to 1).
        render_mode: None or `ansi`.
        games: the old name of `source`.

    Raises:
        ConfigError: a value is out of range, or data is missing; UnknownNameError lists the names
            there are.
    """

    prompt_templates = PROMPT_TEMPLATES
    defaults: ClassVar[Mapping[str, Any]] = {"env_args": {"difficulty": "small"}}
    model_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tiny": {"max_new_tokens": 12}}
    tools: ClassVar[Mapping[str, str]] = {
        "data_report": "aem_gym.envs.alfworld.authoring.report:data_report",
        "export_games": "aem_gym.envs.alfworld.authoring.export:export_games",
        "textworld_engine": "aem_gym.envs.alfworld.authoring.textworld_backend:start_engine",
    }

    def __init__(
        self,
        *,
        split: str = "train",
        difficulty: str = "full",
        task_types: Iterable[str] | str | None = None,
        dialect: str = "0.4",
        source: str | None = None,
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
        games: str | None = None,
    ) -> None:
        dialect = str(dialect)  # a number where a configuration file forgot the quotes
        source = source or games or ("official" if data_dir else "generated")
        if games not in (None, source):
            raise ConfigError(f"games: the old name of source, which is {source!r}; leave it out")
        check_name("split", split, SPLITS)
        check_name("difficulty", difficulty, DIFFICULTIES)
        check_name("dialect", dialect, DIALECTS)
        check_name("source", source, SOURCES)
        check_name("backend", backend, BACKENDS)
        check_name("goals", goals, GOALS)
        size = "full" if source == "official" else difficulty
        self.expert_search = expert_search or _EXPERT_SEARCH[size]
        check_name("expert_search", self.expert_search, SEARCHES)
        if not 0.0 <= expert_noise <= 1.0:
            raise ConfigError(f"expert_noise: expected a share from 0 to 1, got {expert_noise}")
        super().__init__(
            max_turns=_MAX_TURNS[size] if max_turns is None else max_turns, render_mode=render_mode
        )
        self.split, self.difficulty, self.backend = split, difficulty, backend
        self.task_types = _task_types(task_types)
        self._source: GeneratedGames | DatasetGames = GeneratedGames(split, difficulty, dialect)
        if source == "official":
            from aem_gym.envs.alfworld.dataset.games import shared_games

            self._source = shared_games(data_dir, split, self.task_types, goals, num_games)
        self.dialect = self._source.dialect
        self.instructions = _instructions(self.dialect)
        self._shuffle, self._noise = shuffle_numbers, expert_noise
        self._logic_dir = Path(logic_dir).expanduser() if logic_dir else None
        self._engine: PlayableEngine | None = None
        self._oracle: HouseholdOracle | None = None
        self._for_oracle: tuple[int, GameGoal | None] = (0, None)
        self._unread: list[str] = []

    @property
    def lexicon(self) -> tuple[str, ...]:
        """The class names as printed: the nouns of this world."""
        return tuple(sorted(name.lower() for name in {*OBJECT_CLASSES, *RECEPTACLE_CLASSES}))

    @property
    def protocol(self) -> Mapping[str, str]:
        """What scores depend on besides the arguments."""
        return {"tasks_digest": self._source.digest(), "code_version": aem_gym.__version__}

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        """Draw a game; `options`: one `task_type`, a `task_id` of any split, or a `game` file."""
        draws = self.np_random
        expert_seed = int(draws.integers(2**31))
        loaded = self._load(options) if options else self._source.draw_game(draws, self.task_types)
        game = shuffle_numbers(loaded.game, draws) if self._shuffle else loaded.game
        native = self.backend == "native"
        self._engine = Engine(game) if native else self._start_textworld(game, loaded.path)
        observation = self._engine.reset()
        self._oracle, self._for_oracle = None, (expert_seed, game.goal)
        self._unread = [observation]
        task = Task(game.task_id, game.goal.task_type, printed_sentence(game.sentence))
        return task, StepResult(observation, admissible_actions=self._engine.admissible())

    def _start_textworld(self, game: Game, path: Path | None) -> PlayableEngine:
        start: Any = env_tool(ALFWorldEnv, "textworld_engine")
        engine: PlayableEngine = start(game, path, self._logic_dir, self._engine)
        return engine

    def _load(self, options: Mapping[str, Any]) -> LoadedGame:
        for name in options:
            check_name("reset option", name, _OPTIONS)
        if "game" in options:
            from aem_gym.envs.alfworld.dataset.games import game_from_file

            return game_from_file(str(options["game"]))
        if "task_id" in options:
            return self._source.load(str(options["task_id"]), self.np_random)
        types = self.task_types
        if "task_type" in options:
            types = _task_types(str(options["task_type"]))
        return self._source.draw_game(self.np_random, types)

    def act(self, action: str) -> StepResult:
        engine = self._playing()
        observation, valid = engine.step(action)
        self._unread.append(observation)
        won = engine.won
        return StepResult(observation, float(won), won, won, None, engine.admissible(), valid)

    def expert(self) -> tuple[str, str]:
        engine = self._playing()
        self._oracle = self._oracle or self._new_oracle(engine)
        for observation in self._unread:
            self._oracle.read(observation)
        self._unread = []
        return self._oracle.choose(engine.admissible())

    def _new_oracle(self, engine: PlayableEngine) -> HouseholdOracle:
        seed, goal = self._for_oracle
        draws = Draws("alfworld", "expert", seed)
        return HouseholdOracle(
            self.expert_search, draws, engine.contained, goal=goal, noise=self._noise
        )

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None
        super().close()

    def _playing(self) -> PlayableEngine:
        if self._engine is None:
            raise ConfigError("there is no episode yet: call reset() first")
        return self._engine


@cache
def _instructions(dialect: str) -> str:
    """The action grammar in words, one string for all environments."""
    put = DIALECTS[dialect].put.format("<object>", "<receptacle>")
    return str(TEXTS["instructions"].format(put=put))


def _task_types(asked: Iterable[str] | str | None) -> tuple[str, ...]:
    if asked is None:
        return TASK_TYPES
    names = [name.strip() for name in asked.split(",")] if isinstance(asked, str) else list(asked)
    for name in names:
        check_name("task type", name, TASK_TYPES)
    if not names:
        raise ConfigError(f"task_types: expected at least one of {', '.join(TASK_TYPES)}, got none")
    return tuple(name for name in TASK_TYPES if name in names)
