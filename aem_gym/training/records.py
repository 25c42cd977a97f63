"""Records of a run: every episode, the metrics of every step, and its loggers.

Those of episodes hold no clock times and no paths: two runs of the same seed give the same bytes.
"""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from aem_gym.config import Config
from aem_gym.credit.batch import Segments, credit_metrics
from aem_gym.episodes import EPISODES, FOLDER, EpisodeFolder
from aem_gym.errors import ConfigError, describe
from aem_gym.io import JsonLines
from aem_gym.protocols import Logger
from aem_gym.registry import LOGGERS
from aem_gym.runs import EVALUATIONS, METRICS
from aem_gym.training.credit import Credit, Rewards, TrainBatch
from aem_gym.training.disk import compresses, warn_if_short
from aem_gym.types import Episode, Group, StopReason, Turn

logger = logging.getLogger(__name__)

AFTER = 3
"""Evaluations at the end whose mean is `success_after`."""

FILES = (EPISODES, METRICS, EVALUATIONS)


def step_metrics(
    episodes: Sequence[Episode],
    rewards: Rewards,
    step: TrainBatch | None,
    credit: Credit | None,
    threshold: float,
) -> dict[str, float]:
    """Figures of all episodes of a step, and of the credit of the usable ones (docs/runs.md)."""
    counted = [e for e in episodes if e.error is None]
    turns, total = [turn for e in counted for turn in e.turns], float(len(episodes))
    figures = {"episodes": total, "episode_errors": total - len(counted)}
    stops = Counter(e.stop_reason for e in episodes)
    figures |= {f"stop/{reason.value}": float(stops[reason]) for reason in StopReason}
    if counted:
        figures["success_rate_all"] = _mean([e.won for e in counted])
        figures["score_mean"] = _mean([e.score for e in counted])
        figures["turns_mean"] = _mean([len(e.turns) for e in counted])
        figures["truncated_rate"] = _mean([e.truncated for e in counted])
    figures["episodes_masked"] = total - (len(step.episodes) - len(step.masked) if step else 0)
    if turns:
        figures["invalid_format_rate"] = _mean([not t.format_valid for t in turns])
        figures["invalid_action_rate"] = _mean([not t.action_valid for t in turns])
        figures["penalised_rate"] = _mean([rewards.invalid(t) for t in turns])
        figures["cut_rate"] = _mean([t.cut for t in turns])
        figures |= {"compactions": float(n)} if (n := sum(t.compacted for t in turns)) else {}
        figures["tokens_generated"] = float(sum(len(t.response_ids) for t in turns))
    if step is not None and credit is not None:
        won = torch.tensor([e.won for e in step.episodes])[step.batch.trajectory_ids]
        alpha, base = credit.modulated.alpha, credit.base
        figures |= credit_metrics(step.batch, alpha, base, won, threshold=threshold)
        figures |= credit.modulated.info
        low, high = Segments.of(step.batch.group_ids).extremes(step.batch.returns)
        figures["groups_with_spread"] = float((high > low).sum())
        figures["alpha_spread"] = figures.get("alpha_max", 0.0) - figures.get("alpha_min", 0.0)
        figures["tokens_trained"] = float(sum(len(step.rows[i].ids) for i in step.learned))
        figures["seconds/modulation"] = credit.seconds
    return figures


@dataclass(frozen=True, slots=True)
class TurnCredit:
    """The credit of one response."""

    alpha: float
    base_advantage: float
    """Of the estimator."""
    advantage: float
    """After modulation, mean over the response's tokens."""


OfTurns = Mapping[int, TurnCredit]
TurnCredits = dict[tuple[int, int], dict[int, TurnCredit]]
"""Per (group, episode of the group), per turn of it: its credit."""


def turn_credits(step: TrainBatch | None, credit: Credit | None) -> TurnCredits:
    """The credit of everything that was trained on."""
    if step is None or credit is None:
        return {}
    batch, modulated = step.batch, credit.modulated
    advantages = modulated.advantages.sum(-1) / batch.lengths.clamp(min=1)
    columns = (batch.trajectory_ids, batch.turns, modulated.alpha, credit.base, advantages)
    found: TurnCredits = {}
    for trajectory, turn, *of_turn in zip(*(x.tolist() for x in columns), strict=True):
        if trajectory not in step.masked:
            found.setdefault(step.place[trajectory], {})[turn] = TurnCredit(*of_turn)
    return found


def episode_records(
    number: int,
    groups: Sequence[Group],
    dropped: Sequence[Group],
    step: TrainBatch | None,
    credit: Credit | None,
    tokens: int | str,
    first: int = 0,
) -> Iterator[dict[str, Any]]:
    """The lines of episodes.jsonl, dropped groups last; the first `tokens` (or all) keep tokens."""
    credits, seen = turn_credits(step, credit), 0
    for g, group in enumerate((*groups, *dropped)):
        out = g >= len(groups)
        for i, episode in enumerate(group.episodes):
            keep = tokens == "all" or seen < int(tokens)
            of_turns = credits.get((g, i), {})  # none for dropped groups
            yield episode_record(number, first + g, episode, of_turns, dropped=out, tokens=keep)
            seen += 1


def episode_record(
    step: int, group: int, episode: Episode, credits: OfTurns, *, dropped: bool, tokens: bool
) -> dict[str, Any]:
    """One line of episodes.jsonl; turns without a credit were not trained on."""
    turns = [_turn_record(turn, credits.get(i), tokens) for i, turn in enumerate(episode.turns)]
    record = {"step": step, "group": group} | _chosen(episode, _OF_EPISODE)
    return record | {"dropped": dropped, "context": episode.context, "turns": turns}


def _turn_record(turn: Turn, credit: TurnCredit | None, tokens: bool) -> dict[str, Any]:
    record = _chosen(turn, _OF_TURN) | {"tokens": len(turn.response_ids)}
    record |= _chosen(turn, ("response_entropy", "surprisal"))
    record |= {} if credit is None else _chosen(credit, _OF_CREDIT)
    record |= _chosen(turn, [name for name in _WHERE_SET if getattr(turn, name)])
    return record | (_chosen(turn, _OF_TOKENS) if tokens else {})


_OF_EPISODE = (
    *("rollout", "task_id", "task_type", "goal", "seed", "won", "score", "reward"),
    *("terminated", "truncated", "stop_reason", "error"),
)
_OF_TURN = (
    *("observation", "response", "thought", "action", "reward"),
    *("format_valid", "action_valid", "cut"),
)
_WHERE_SET = ("error", "compacted")
_OF_CREDIT = ("alpha", "base_advantage", "advantage")
_OF_TOKENS = ("prompt_ids", "response_ids", "logprobs", "entropies")


def _chosen(data: object, names: Sequence[str]) -> dict[str, Any]:
    return {name: getattr(data, name) for name in names}


def with_scores(groups: Sequence[Group], step: TrainBatch) -> list[Group]:
    """The groups with the log-probabilities and entropies that the step's credit is made of."""
    batch, turns = step.batch, {}
    scores = zip(batch.mask, batch.logprobs, batch.entropies, strict=True)
    places = zip(batch.trajectory_ids.tolist(), batch.turns.tolist(), scores, strict=True)
    for trajectory, turn, (mask, logprobs, entropies) in places:
        found = (tuple(logprobs[mask].tolist()), tuple(entropies[mask].tolist()))
        turns[(*step.place[trajectory], turn)] = found

    def rescored(place: tuple[int, int], episode: Episode) -> Episode:
        of_turns = (turns.get((*place, t)) for t in range(len(episode.turns)))
        pairs = zip(episode.turns, of_turns, strict=True)
        changed = [
            turn if new is None else replace(turn, logprobs=new[0], entropies=new[1])
            for turn, new in pairs
        ]
        return replace(episode, turns=tuple(changed))

    return [
        replace(group, episodes=tuple(rescored((g, i), e) for i, e in enumerate(group.episodes)))
        for g, group in enumerate(groups)
    ]


def _finite(figures: Mapping[str, float]) -> dict[str, float]:
    """The figures with `not_finite/NAME` in place of those that JSON cannot hold.

    A loss or modulator of one's own may give such a figure: that is no reason to stop.
    """
    lost = [name for name, value in figures.items() if not math.isfinite(value)]
    logger.warning("figures that are NaN or inf are left out: %s", ", ".join(lost))
    kept = {name: value for name, value in figures.items() if name not in lost}
    return kept | {f"not_finite/{name}": 1.0 for name in lost}


class Recorder:
    """Writes a run's files and calls its loggers; can be cut back to a checkpoint.

    Args:
        run: the run's folder.
        offsets: bytes of each file to keep, from `sync` at the checkpoint; missing: from 0.
        loggers: receive everything that is written.
        folder: where episodes go in place of `episodes.jsonl`; what that has already stays.
    """

    def __init__(
        self,
        run: Path,
        offsets: Mapping[str, int],
        loggers: Sequence[Logger] = (),
        folder: EpisodeFolder | None = None,
    ) -> None:
        plain = folder is None or (run / EPISODES).exists()
        names = [name for name in FILES if plain or name != EPISODES]
        self._files: dict[str, JsonLines | EpisodeFolder]
        self._files = {name: JsonLines(run / name, offsets.get(name, 0)) for name in names}
        if folder is not None:
            self._files[FOLDER] = folder
        self._episodes = folder or self._files[EPISODES]
        self._loggers = list(loggers)

    def episodes(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """Append the episodes of a step."""
        self._episodes.write(*map(msgspec.json.encode, records))
        self._call_loggers("episodes", step, records)

    def metrics(self, step: int, figures: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl."""
        if not all(map(math.isfinite, figures.values())):
            figures = _finite(figures)
        self._files[METRICS].write(msgspec.json.encode({"step": step, **figures}))
        self._call_loggers("metrics", step, figures)

    def evaluation(self, step: int, figures: Mapping[str, Any]) -> None:
        """Append a line to evaluations.jsonl."""
        self._files[EVALUATIONS].write(msgspec.json.encode({"step": step, **figures}))
        self._call_loggers("evaluation", step, figures)

    def sync(self) -> dict[str, int]:
        """Bring everything to the disk; the size of each file, for the checkpoint."""
        return {name: file.sync() for name, file in self._files.items()}

    def close(self) -> None:
        """Flush and close all files and loggers."""
        for file in self._files.values():
            file.close()
        self._call_loggers("close")

    def _call_loggers(self, method: str, *arguments: Any) -> None:
        """A logger that fails is left out from then on: it is only a view of the run."""
        for each in list(self._loggers):
            try:
                getattr(each, method)(*arguments)
            except Exception as error:
                self._leave_out(each, method, error)

    def _leave_out(self, failed: Any, method: str, error: Exception) -> None:
        name = type(failed).__name__
        logger.warning("logger %s failed in %s: %s", name, method, describe(error))
        self._loggers.remove(failed)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_recorder(
    config: Config, run: Path, offsets: Mapping[str, int], loggers: Sequence[Logger]
) -> Recorder:
    """The recorder of a run, with its episodes in the form that the settings ask for.

    A run that has a file for each step already goes on with it.
    """
    compress, folder = compresses(config), None
    if not offsets:
        warn_if_short(config, run)
    if compress or config.keep_episodes or (run / FOLDER).exists():
        kept = offsets.get(FOLDER, 0)
        folder = EpisodeFolder(run, kept, compress=compress, keep=config.keep_episodes)
    return Recorder(run, offsets, loggers, folder)


# Loggers -----------------------------------------------------------------------------------------


def open_loggers(config: Config, run: Path, step: int) -> list[Logger]:
    """The loggers of a run, by name. One whose package is not installed is left out."""
    makers: list[Callable[..., Logger | None]] = [LOGGERS.load(name) for name in config.loggers]
    made = []
    for name, make in zip(config.loggers, makers, strict=True):
        try:
            made.append(make(run, config, step))
        except Exception as error:  # a user's own logger raises whatever it likes
            raise ConfigError(f"logger {name!r} cannot be opened: {describe(error)}") from error
    return [each for each in made if each is not None]


class TensorBoardLogger:
    """Curves and text samples for `tensorboard --logdir runs`.

    Figures without a folder go to `train/`, those of evaluations to `eval/`, the success of each
    task type to `eval_by_type/`. The first episode of each step is shown as text.
    """

    def __init__(self, board: Any) -> None:
        self._board = board

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._board.add_scalar(name if "/" in name else f"train/{name}", value, step)

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(f"eval/{name}", float(value), step)
        for kind, figures in values.get("by_type", {}).items():
            self._board.add_scalar(f"eval_by_type/{kind}", figures["success"], step)

    def episodes(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        for record in records[:1]:
            lines = (f"{t['observation']}\n> {t['response']}" for t in record["turns"])
            text = "\n".join((f"{record['goal']} [{record['stop_reason']}]", *lines))
            self._board.add_text("episode", f"```\n{text}\n```", step)

    def close(self) -> None:
        """Flush and close the event file."""
        self._board.close()


def tensorboard(run: Path, config: Config, step: int) -> TensorBoardLogger | None:
    """The logger `tensorboard`; None where the package is missing (it is only a view)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    board: Any = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)
    if not step:
        text = "\n".join(f"    {name}: {value}" for name, value in vars(config).items())
        board.add_text("settings", text, 0)
    return TensorBoardLogger(board)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def rise(name: str, evaluations: list[dict[str, float]]) -> dict[str, float | None]:
    """A figure before training, after it (the mean of the last evaluations), and the gain."""
    last = [evaluation[name] for evaluation in evaluations[1:] if name in evaluation][-AFTER:]
    before = evaluations[0].get(name) if evaluations else None
    after = sum(last) / len(last) if last else None
    gain = None if before is None or after is None else after - before
    return {f"{name}_before": before, f"{name}_after": after, f"{name}_gain": gain}
