"""Groups of episodes to the tensors that estimators and modulators read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aem_gym.credit.batch import ResponseBatch
from aem_gym.rollout.sequences import sequences
from aem_gym.types import Episode, Group, TrainingRow


@dataclass(frozen=True)
class TrainBatch:
    """One training step's data: episodes, their training rows, and one tensor row per response.

    Row i of `batch` is the i-th span of `rows`, counted through.
    """

    episodes: tuple[Episode, ...]
    group_of: tuple[int, ...]
    """Per episode, the number of its group."""
    rows: tuple[TrainingRow, ...]
    batch: ResponseBatch
    first_span: tuple[int, ...]
    """Per training row, the number of its first response; one more at the end."""

    def responses(self, rows: Sequence[int]) -> Tensor:
        """Numbers (n,) of the responses of the given training rows, in their order."""
        ranges = [torch.arange(self.first_span[r], self.first_span[r + 1]) for r in rows]
        return torch.cat(ranges)


@dataclass(frozen=True, slots=True)
class Rewards:
    """How the environment's rewards become those of training."""

    scale: float = 1.0
    invalid_penalty: float = 0.1
    invalid_means: str = "format"
    reward_source: str = "return"

    def of(self, episode: Episode) -> list[float]:
        """What each turn of an episode earns in training."""
        if self.reward_source == "won":
            last = len(episode.turns) - 1
            return [self.scale * (episode.won and turn == last) for turn in range(last + 1)]
        return [turn.reward * self.scale for turn in episode.turns]

    def invalid(self, format_valid: bool, action_valid: bool) -> bool:
        """Whether a response is penalised."""
        return not format_valid or (self.invalid_means == "inadmissible" and not action_valid)


def usable(episode: Episode, *, mask_truncated: bool) -> bool:
    """Whether an episode enters the loss: failed ones never, truncated ones by choice."""
    if episode.error is not None or not any(turn.response_ids for turn in episode.turns):
        return False
    return not (mask_truncated and episode.truncated)


def make_step(
    groups: Sequence[Group], rewards: Rewards, *, mask_truncated: bool = False
) -> TrainBatch | None:
    """Tensors of the groups' usable episodes; None if there is none."""
    numbered = [(g, e) for g, group in enumerate(groups) for e in group.episodes]
    kept = [(g, e) for g, e in numbered if usable(e, mask_truncated=mask_truncated)]
    if not kept:
        return None
    rows = sequences(enumerate(e for _, e in kept))
    spans = [span for row in rows for span in row.spans]
    episodes = tuple(e for _, e in kept)
    turns = [episodes[span.episode].turns[span.turn] for span in spans]
    anchors: dict[str, int] = {}
    penalties = [
        -rewards.invalid_penalty if rewards.invalid(t.format_valid, t.action_valid) else 0.0
        for t in turns
    ]
    mask, logprobs, entropies = _token_tensors([(t.logprobs, t.entropies) for t in turns])
    earned = [rewards.of(episode) for episode in episodes]
    returns = [sum(each) for each in earned]
    batch = ResponseBatch(
        returns=torch.tensor([returns[s.episode] for s in spans]),
        step_rewards=torch.tensor([earned[s.episode][s.turn] for s in spans]),
        penalties=torch.tensor(penalties),
        group_ids=torch.tensor([kept[s.episode][0] for s in spans]),
        trajectory_ids=torch.tensor([s.episode for s in spans]),
        turns=torch.tensor([s.turn for s in spans]),
        anchor_ids=torch.tensor([anchors.setdefault(t.anchor, len(anchors)) for t in turns]),
        mask=mask,
        logprobs=logprobs,
        entropies=entropies,
    )
    first = [0]
    for row in rows:
        first.append(first[-1] + len(row.spans))
    return TrainBatch(episodes, tuple(g for g, _ in kept), tuple(rows), batch, tuple(first))


def _token_tensors(
    tokens: Sequence[tuple[Sequence[float], Sequence[float]]],
) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(len(logprobs) for logprobs, _ in tokens)
    lengths = torch.tensor([len(logprobs) for logprobs, _ in tokens])
    mask = torch.arange(longest)[None, :] < lengths[:, None]
    flat = torch.tensor([[x for pair in tokens for x in pair[i]] for i in (0, 1)])
    logprobs, entropies = (torch.zeros(mask.shape).masked_scatter(mask, values) for values in flat)
    return mask, logprobs, entropies
