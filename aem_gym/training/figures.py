"""What a training step logs (docs/runs.md explains each figure)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from aem_gym.credit.metrics import credit_metrics
from aem_gym.rollout.recorder import TurnCredit, episode_record
from aem_gym.training.assignment import Credit
from aem_gym.training.batching import Rewards, TrainBatch
from aem_gym.types import Episode, Group


def step_figures(
    episodes: Sequence[Episode],
    rewards: Rewards,
    step: TrainBatch | None,
    credit: Credit | None,
    threshold: float,
) -> dict[str, float]:
    """Figures of all episodes of a step, and of the credit assigned to the usable ones."""
    counted = [e for e in episodes if e.error is None]
    turns = [turn for e in counted for turn in e.turns]
    figures: dict[str, float] = {"episodes": float(len(episodes))}
    figures["episode_errors"] = float(len(episodes) - len(counted))
    if counted:
        figures["success_rate_all"] = _mean([e.won for e in counted])
        figures["score_mean"] = _mean([e.score for e in counted])
        figures["turns_mean"] = _mean([len(e.turns) for e in counted])
        figures["truncated_rate"] = _mean([e.truncated for e in counted])
    trained = len(step.episodes) if step is not None else 0
    figures["episodes_masked"] = float(len(episodes) - trained)
    if turns:
        figures["invalid_format_rate"] = _mean([not t.format_valid for t in turns])
        figures["invalid_action_rate"] = _mean([not t.action_valid for t in turns])
        invalid = [rewards.invalid(t.format_valid, t.action_valid) for t in turns]
        figures["penalised_rate"] = _mean(invalid)
        figures["cut_rate"] = _mean([t.cut for t in turns])
        figures["tokens_generated"] = float(sum(len(t.response_ids) for t in turns))
    if step is not None and credit is not None:
        won = torch.tensor([e.won for e in step.episodes])[step.batch.trajectory_ids]
        figures |= credit_metrics(
            step.batch, credit.modulated, credit.base, won, threshold=threshold
        )
        figures |= credit.modulated.info
        figures["tokens_trained"] = float(sum(len(row.ids) for row in step.rows))
        figures["seconds/modulation"] = credit.seconds
    return figures


def turn_credits(
    step: TrainBatch | None, credit: Credit | None
) -> dict[int, dict[int, TurnCredit]]:
    """Per trained episode (by `id`), per turn: what it was credited."""
    if step is None or credit is None:
        return {}
    batch = step.batch
    lengths = batch.lengths.clamp(min=1)
    columns = zip(
        batch.trajectory_ids.tolist(),
        batch.turns.tolist(),
        credit.modulated.alpha.tolist(),
        credit.base.tolist(),
        (credit.modulated.advantages.sum(-1) / lengths).tolist(),
        strict=True,
    )
    found: dict[int, dict[int, TurnCredit]] = {}
    for trajectory, turn, alpha, base, advantage in columns:
        episode = id(step.episodes[trajectory])
        found.setdefault(episode, {})[turn] = TurnCredit(alpha, base, advantage)
    return found


def episode_records(
    number: int,
    groups: Sequence[Group],
    dropped: Sequence[Group],
    step: TrainBatch | None,
    credit: Credit | None,
    tokens: int | None,
) -> Iterator[dict[str, Any]]:
    """The lines of episodes.jsonl of one step, dropped groups last.

    Args:
        number: the step, from 1.
        groups: those trained on.
        dropped: those left out because all their returns were equal.
        step: tensors of `groups`.
        credit: what their responses were credited.
        tokens: how many episodes, from the first, keep their token-level arrays; None: all.
    """
    credits = turn_credits(step, credit)
    numbered = [(group, False) for group in groups] + [(group, True) for group in dropped]
    flat = ((place, e, out) for place, (group, out) in enumerate(numbered) for e in group.episodes)
    for seen, (place, episode, out) in enumerate(flat):
        with_tokens = tokens is None or seen < tokens
        credited = credits.get(id(episode), {})
        yield episode_record(number, place, episode, credited, dropped=out, tokens=with_tokens)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
