"""What the real engine said in a game: recorded once, compared as often as one likes."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from aem_gym.envs.alfworld.dataset.gamefile import read_game
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.engine import Engine
from aem_gym.envs.alfworld.game import Game, renamed
from aem_gym.envs.alfworld.oracle import HouseholdOracle
from aem_gym.io import replace_file
from benchmarks.alfworld.fuzz import command as any_command
from benchmarks.alfworld.scenarios import Scenario

_AFTER_WIN = 3
"""Steps that are played on after the game is won."""
_VERSION = 1


@dataclass(frozen=True, slots=True)
class State:
    """One answer of the real engine."""

    command: str | None
    observation: str
    admissible: list[str]
    won: bool


@dataclass(frozen=True, slots=True)
class Transcript:
    """A game as the real engine played it."""

    states: list[State]
    names: dict[str, str] | None
    """Identifier in lower case -> printed name, where numbers were shuffled."""


@dataclass(frozen=True, slots=True)
class Difference:
    """Where the native engine answered otherwise."""

    step: int
    command: str | None
    what: str
    real: Any
    native: Any

    def __str__(self) -> str:
        if self.what == "admissible":
            missing = sorted(set(self.real) - set(self.native))
            surplus = sorted(set(self.native) - set(self.real))
            return (
                f"step {self.step}, {self.command!r}: admissible commands: missing {missing}, "
                f"too many {surplus}"
            )
        return (
            f"step {self.step}, {self.command!r}, {self.what}:\n  real   {self.real!r}\n"
            f"  native {self.native!r}"
        )


def recorded(
    scenario: Scenario, steps: int, out: Path, *, fresh: bool = False, remember: bool = True
) -> Transcript:
    """The real engine's transcript of a scenario, kept in `out`.

    Args:
        scenario: what to play.
        steps: how many at most.
        out: folder of the transcripts.
        fresh: ask the real engine even if it has answered.
        remember: see `remember_parses`.
    """
    parts = (_VERSION, steps, scenario.content, scenario.shuffle, scenario.seed)
    key = hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:24]
    path = out / key[:2] / f"{key}.json.gz"
    if path.exists() and not fresh:
        return load(path)[1]
    if remember:
        remember_parses()
    transcript = record(scenario, steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = {"scenario": asdict(scenario), **asdict(transcript)}
    replace_file(path, gzip.compress(json.dumps(kept).encode()))
    return transcript


@cache
def remember_parses() -> None:
    """Let the real engine's two parsers keep what they have parsed, for this process.

    It parses the same few hundred phrases of its grammar at every step. A parser's result
    depends on the text alone and is only read, so its answers stay what they are; with this it
    gives them nearly three times as fast. Nothing else of it is touched.
    """
    import textworld.envs.pddl.textgen as phrases
    import textworld.logic as conditions

    for module in (phrases, conditions):
        module._PARSER.parse = lru_cache(maxsize=None)(module._PARSER.parse)


def load(path: Path) -> tuple[Scenario, Transcript]:
    """A transcript that was kept, and the scenario it is of."""
    raw = json.loads(gzip.decompress(path.read_bytes()))
    states = [State(**state) for state in raw["states"]]
    return Scenario(**raw["scenario"]), Transcript(states, raw["names"])


def record(scenario: Scenario, steps: int) -> Transcript:
    """Play a scenario in the real engine, driven as alfworld drives it."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler

    infos = textworld.EnvInfos(won=True, admissible_commands=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.tw-pddl"
        path.write_text(scenario.content)
        random.seed(scenario.seed)  # the demangler shuffles with the global generator
        demangler = AlfredDemangler(shuffle=scenario.shuffle)
        env = textworld.start(str(path), infos, wrappers=[demangler])
    names = None
    if scenario.shuffle:
        names = {key: info.name for key, info in env._entity_infos.items()}
    commands = Commands(scenario.seed)
    state, won_at = env.reset(), steps
    states = [_state(None, state)]
    while len(states) <= min(steps, won_at + _AFTER_WIN):
        command = commands.next(states[-1])
        state, _, _ = env.step(command)
        states.append(_state(command, state))
        if states[-1].won:
            won_at = min(won_at, len(states) - 1)
    env.close()
    return Transcript(states, names)


def _state(command: str | None, state: Mapping[str, Any]) -> State:
    feedback, admissible = str(state["feedback"]), list(state["admissible_commands"])
    return State(command, feedback, admissible, bool(state["won"]))


class Commands:
    """A mix of the oracle, random admissible commands, mutated ones, and nonsense."""

    def __init__(self, seed: str) -> None:
        self._rng = random.Random(f"commands {seed}")
        self._oracle = HouseholdOracle("likely", Draws("parity", seed), dict)
        self._seen = ["look"] * 50
        self._greed = self._rng.choice((0.0, 0.5, 0.9))
        """How often the oracle has its way."""

    def next(self, state: State) -> str:
        """The next command, from what the real engine said last."""
        rng, admissible = self._rng, state.admissible
        self._oracle.read(state.observation)
        self._seen[rng.randrange(len(self._seen))] = rng.choice(admissible)
        kind = rng.random()
        if kind < self._greed:
            return self._oracle.choose(admissible)[1]
        if kind < self._greed + 0.8 * (1 - self._greed):
            near = [command for command in admissible if not command.startswith("go to ")]
            return rng.choice(near if rng.random() < 0.7 else admissible)
        return any_command(rng, admissible, self._seen)


def native_game(scenario: Scenario, names: Mapping[str, str] | None) -> Game:
    """The scenario's game, read from a file as users' files are."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "game.tw-pddl"
        path.write_text(scenario.content)
        game = read_game(path, task_id=scenario.name).game
    if names is None:
        return game
    ids = [thing.id for thing in (*game.objects, *game.receptacles)] + list(game.location_ids)
    return renamed(game, {key: names[key.lower()] for key in ids})


def compare(scenario: Scenario, transcript: Transcript) -> list[Difference]:
    """All differences of the native engine; none is what we want."""
    engine = Engine(native_game(scenario, transcript.names))
    found: list[Difference] = []
    for number, state in enumerate(transcript.states):
        if state.command is None:
            observation = engine.reset()
        else:
            observation, _ = engine.step(state.command)
        native = {
            "observation": observation,
            "admissible": engine.admissible(),
            "won": engine.won,
        }
        found += [
            Difference(number, state.command, what, getattr(state, what), answer)
            for what, answer in native.items()
            if getattr(state, what) != answer
        ]
    return found
