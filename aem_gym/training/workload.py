"""What a training step has to do, in tokens: the input of the memory and time formulas."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from aem_gym.config import Config
from aem_gym.episodes import read_episodes
from aem_gym.errors import ConfigError, check_name
from aem_gym.types import Episode

_TURNS = 50
"""Turns of an episode where neither the settings nor the environment has a limit."""


class TurnLengths(NamedTuple):
    """The tokens of a turn."""

    prompt: int
    response: int
    compacted: bool = False
    """The prompt is whole: a transcript goes on in a new row."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One training step in tokens. Means, but for `longest`, `longest_response`, `most_turns`."""

    episodes: float
    """Rollouts of a step."""
    turns: float
    """Of an episode."""
    most_turns: float
    """Of the longest episode, which the others' rows wait for."""
    prompt: float
    """New tokens that a turn's prompt adds; in the window context the whole prompt."""
    response: float
    """Sampled tokens of a turn."""
    longest_response: float
    """Of the turn's longest response: rows are sampled together."""
    longest: float
    """Tokens of the longest training row."""
    rows_per_episode: float
    """1, one more each time a context is compacted, or in the window context one for each turn."""

    @property
    def row(self) -> float:
        """Mean tokens of a training row."""
        return self.turns * (self.prompt + self.response) / self.rows_per_episode

    @property
    def rows(self) -> float:
        """Training rows of a step."""
        return self.episodes * self.rows_per_episode

    @property
    def sampled(self) -> float:
        """Sampled tokens of a step."""
        return self.episodes * self.turns * self.response

    @property
    def tokens(self) -> float:
        """Tokens that the learner reads in one pass over a step's rows."""
        return self.rows * self.row

    def as_dict(self) -> dict[str, float]:
        return dataclasses.asdict(self)

    @staticmethod
    def at_limits(config: Config, max_turns: int | None = None) -> Workload:
        """Every episode fills its context, every response is as long as it may be.

        `max_turns` is the environment's limit, where the settings have none.
        """
        response, longest = float(config.max_new_tokens), float(config.max_length)
        turns = float(config.max_turns or max_turns or _TURNS)
        window = config.context == "window"
        rows = turns if window else 1.0
        if config.context_limit == "compact":  # all rows but the first begin half full
            rows += ceil(max(0.0, turns * response - longest) / (longest / 2))
        elif not window:
            turns = max(1.0, min(turns, longest // response))
        rounds = config.max_rounds if config.drop_equal_groups else 1
        return Workload(
            episodes=float(ceil(config.groups * config.oversample) * config.group_size * rounds),
            turns=turns,
            most_turns=turns,
            prompt=longest * rows / turns - response,
            response=response,
            longest_response=response,
            longest=longest,
            rows_per_episode=rows,
        )

    @staticmethod
    def of_episodes(episodes: Sequence[Episode], context: str, steps: int) -> Workload:
        """What `steps` steps with these episodes had to do."""
        lengths = [
            [TurnLengths(len(t.prompt_ids), len(t.response_ids), t.compacted) for t in e.turns]
            for e in episodes
        ]
        return Workload.of_lengths(lengths, context, steps)

    @staticmethod
    def of_lengths(episodes: Sequence[Sequence[TurnLengths]], context: str, steps: int) -> Workload:
        """The same from the lengths of each turn, step after step."""
        played = [episode for episode in episodes if episode]
        if not played:
            raise ConfigError("workload: expected episodes with turns, got none")
        per_step = max(1, len(played) // steps)
        rounds: dict[tuple[int, int], int] = {}
        for place, episode in enumerate(played):
            for number, turn in enumerate(episode):
                key = (place // per_step, number)
                rounds[key] = max(rounds.get(key, 0), turn.response)
        turns = [turn for episode in played for turn in episode]
        rows = [row for episode in played for row in _row_lengths(episode, context == "window")]
        return Workload(
            episodes=len(played) / steps,
            turns=len(turns) / len(played),
            most_turns=len(rounds) / steps,
            prompt=sum(turn.prompt for turn in turns) / len(turns),
            response=sum(turn.response for turn in turns) / len(turns),
            longest_response=sum(rounds.values()) / len(rounds),
            longest=max(rows),
            rows_per_episode=len(rows) / len(played),
        )

    def changed(self, values: Mapping[str, Any]) -> Workload:
        """With some figures replaced. Raises where a name or a value is wrong."""
        names = [f.name for f in dataclasses.fields(Workload)]
        for name, value in values.items():
            check_name("figure of the workload", name, names)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"workload {name}: expected a number above 0, got {value!r}")
        return dataclasses.replace(self, **{k: float(v) for k, v in values.items()})


def _row_lengths(episode: Sequence[TurnLengths], window: bool) -> list[int]:
    """Tokens of an episode's training rows."""
    rows: list[int] = []
    for turn in episode:
        if window or turn.compacted or not rows:
            rows.append(0)
        rows[-1] += turn.prompt + turn.response
    return rows


def workload_of_run(folder: Path, config: Config) -> Workload:
    """What a run had to do, for one step of `config`.

    Lengths come from the episodes that kept their tokens (`token_samples`).

    Raises:
        ConfigError: the folder is no run, or none of its episodes has tokens.
    """
    lengths = []
    try:
        for turns in (record["turns"] for record in read_episodes(folder)):
            if turns and all("prompt_ids" in turn for turn in turns):
                lengths.append([_lengths_of(turn) for turn in turns])
    except (ConfigError, KeyError) as error:
        raise ConfigError(f"--workload {folder}: expected a run's folder: {error}") from error
    if not lengths:
        raise ConfigError(f"--workload {folder}: no episode has its tokens; see token_samples")
    work = Workload.of_lengths(lengths, config.context, 1)
    return work.changed({"episodes": config.groups * config.group_size})


def _lengths_of(turn: Mapping[str, Any]) -> TurnLengths:
    sizes = (len(turn["prompt_ids"]), len(turn["response_ids"]))
    return TurnLengths(*sizes, bool(turn.get("compacted")))
