"""What a run leaves behind: every episode, every figure, TensorBoard curves.

`episodes.jsonl` holds no clock times and no paths: two runs of the same seed give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from aem_gym.io import JsonLines
from aem_gym.types import Episode, Turn

EPISODES = "episodes.jsonl"
FILES = (EPISODES, "metrics.jsonl", "evaluations.jsonl")


@dataclass(frozen=True, slots=True)
class TurnCredit:
    """What credit assignment gave one response."""

    alpha: float
    base_advantage: float
    """Of the estimator."""
    advantage: float
    """After modulation, mean over the response's tokens."""


def episode_record(
    step: int,
    group: int,
    episode: Episode,
    credits: Mapping[int, TurnCredit],
    *,
    dropped: bool = False,
    tokens: bool = False,
) -> dict[str, Any]:
    """One line of episodes.jsonl.

    Args:
        step: RL step, from 1.
        group: number of the group within the step.
        episode: what happened.
        credits: per turn; turns without one were not trained on.
        dropped: the group was left out (all returns equal).
        tokens: include ids, log-probabilities and entropies.
    """
    return {
        "step": step,
        "group": group,
        "rollout": episode.rollout,
        "task_id": episode.task_id,
        "task_type": episode.task_type,
        "goal": episode.goal,
        "seed": episode.seed,
        "won": episode.won,
        "score": episode.score,
        "reward": episode.reward,
        "terminated": episode.terminated,
        "truncated": episode.truncated,
        "error": episode.error,
        "dropped": dropped,
        "context": episode.context,
        "turns": [
            _turn_record(turn, credits.get(number), tokens)
            for number, turn in enumerate(episode.turns)
        ],
    }


def _turn_record(turn: Turn, credit: TurnCredit | None, tokens: bool) -> dict[str, Any]:
    record: dict[str, Any] = {
        "observation": turn.observation,
        "response": turn.response,
        "thought": turn.thought,
        "action": turn.action,
        "reward": turn.reward,
        "format_valid": turn.format_valid,
        "action_valid": turn.action_valid,
        "cut": turn.cut,
        "tokens": len(turn.response_ids),
        "response_entropy": turn.response_entropy,
        "surprisal": turn.surprisal,
    }
    if credit is not None:
        record |= {
            "alpha": credit.alpha,
            "base_advantage": credit.base_advantage,
            "advantage": credit.advantage,
        }
    if turn.error is not None:
        record["error"] = turn.error
    if tokens:
        record |= {
            "prompt_ids": turn.prompt_ids,
            "response_ids": turn.response_ids,
            "logprobs": turn.logprobs,
            "entropies": turn.entropies,
        }
    return record


class Recorder:
    """Writes a run's files; can be cut back to where a checkpoint left them.

    Args:
        run: the run's folder.
        offsets: bytes of each file to keep, from `sync` at the checkpoint; missing: start anew.
        step: RL steps done, where TensorBoard goes on.
        tensorboard: whether to write TensorBoard files.
    """

    def __init__(
        self, run: Path, offsets: Mapping[str, int], *, step: int = 0, tensorboard: bool = True
    ) -> None:
        self._files = {name: JsonLines(run / name, offsets.get(name, 0)) for name in FILES}
        self._board = _open_board(run / "tensorboard", step) if tensorboard else None

    def episodes(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Append lines to episodes.jsonl."""
        for record in records:
            self._files["episodes.jsonl"].write(msgspec.json.encode(record))
        self._files["episodes.jsonl"].flush()

    def metrics(self, step: int, figures: Mapping[str, float]) -> None:
        """Append a line to metrics.jsonl, and the figures to TensorBoard."""
        self._write("metrics.jsonl", {"step": step, **figures})
        self._scalars(step, figures)

    def evaluation(self, step: int, figures: Mapping[str, Any]) -> None:
        """Append a line to evaluations.jsonl; plain numbers go to TensorBoard too."""
        self._write("evaluations.jsonl", {"step": step, **figures})
        numbers = {
            f"eval/{name}": float(value)
            for name, value in figures.items()
            if isinstance(value, int | float)
        }
        self._scalars(step, numbers)

    def sync(self) -> dict[str, int]:
        """Bring everything to the disk; the size of each file, for the checkpoint."""
        return {name: file.sync() for name, file in self._files.items()}

    def close(self) -> None:
        """Flush and close all files."""
        for file in self._files.values():
            file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> Recorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, name: str, record: Mapping[str, Any]) -> None:
        self._files[name].write(msgspec.json.encode(record))
        self._files[name].flush()

    def _scalars(self, step: int, figures: Mapping[str, float]) -> None:
        if self._board is not None:
            for name, value in figures.items():
                tag = name if "/" in name else f"train/{name}"
                self._board.add_scalar(tag, value, step)


def _open_board(folder: Path, step: int) -> Any:
    """A TensorBoard writer, or None where the package is missing (it is only a view)."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
