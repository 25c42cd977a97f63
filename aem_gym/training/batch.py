"""From groups of episodes to the tensors of a training step: rows, rewards, penalties."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aem_gym.config import Config
from aem_gym.credit.batch import ResponseBatch
from aem_gym.types import Episode, Group, PromptTemplate, Span, TrainingRow, Turn


@dataclass(frozen=True)
class TrainBatch:
    """One training step's data: episodes, their training rows, and one tensor row per response.

    Row i of `batch` is the i-th span of `rows`, counted through.
    """

    episodes: tuple[Episode, ...]
    place: tuple[tuple[int, int], ...]
    """Per episode, the number of its group and its own number in it."""
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
    """How an environment's rewards become those of training, and what is penalized."""

    scale: float = 1.0
    reward_source: str = "return"
    invalid_penalty: float = 0.1
    penalize: str = "format"

    @staticmethod
    def of(config: Config, template: PromptTemplate) -> Rewards:
        """As the run's settings and the environment's prompt template say."""
        return Rewards(
            template.reward_scale,
            template.reward_source,
            config.invalid_penalty,
            config.penalize,
        )

    def of_turns(self, episode: Episode) -> list[float]:
        """The scaled reward of each turn of an episode."""
        if self.reward_source == "won":
            last = len(episode.turns) - 1
            return [self.scale * (episode.won and turn == last) for turn in range(last + 1)]
        return [turn.reward * self.scale for turn in episode.turns]

    def invalid(self, turn: Turn) -> bool:
        """Whether a response is penalized."""
        return not turn.format_valid or (self.penalize == "inadmissible" and not turn.action_valid)

    def penalty(self, turn: Turn) -> float:
        """The invalid-action penalty of a response, <= 0; estimators add it to its advantage."""
        return -self.invalid_penalty if self.invalid(turn) else 0.0


def usable(episode: Episode, *, mask_truncated: bool) -> bool:
    """Whether an episode enters the loss: failed ones never, truncated ones by choice."""
    if episode.error is not None or not any(turn.response_ids for turn in episode.turns):
        return False
    return not (mask_truncated and episode.truncated)


def equal_returns(group: Group, rewards: Rewards, *, mask_truncated: bool) -> bool:
    """Whether a group's usable episodes all have the same return: there is nothing to compare."""
    counted = [e for e in group.episodes if usable(e, mask_truncated=mask_truncated)]
    return len({sum(rewards.of_turns(episode)) for episode in counted}) <= 1


def make_batch(
    groups: Sequence[Group], rewards: Rewards, *, mask_truncated: bool = False
) -> TrainBatch | None:
    """Tensors of the groups' usable episodes; None if there is none."""
    kept = [
        (g, i, episode)
        for g, group in enumerate(groups)
        for i, episode in enumerate(group.episodes)
        if usable(episode, mask_truncated=mask_truncated)
    ]
    if not kept:
        return None
    episodes = tuple(episode for _, _, episode in kept)
    rows = training_rows(enumerate(episodes))
    first = [0]
    for row in rows:
        first.append(first[-1] + len(row.spans))
    spans = [span for row in rows for span in row.spans]
    batch = _responses(episodes, [g for g, _, _ in kept], spans, rewards)
    return TrainBatch(episodes, tuple((g, i) for g, i, _ in kept), tuple(rows), batch, tuple(first))


def _responses(
    episodes: Sequence[Episode], groups: Sequence[int], spans: Sequence[Span], rewards: Rewards
) -> ResponseBatch:
    """One tensor row per span; `groups` holds the group of each episode."""
    turns = [episodes[span.episode].turns[span.turn] for span in spans]
    earned = [rewards.of_turns(episode) for episode in episodes]
    returns = [sum(each) for each in earned]
    anchors: dict[str, int] = {}
    mask, logprobs, entropies = _token_tensors(turns)
    return ResponseBatch(
        returns=torch.tensor([returns[s.episode] for s in spans]),
        step_rewards=torch.tensor([earned[s.episode][s.turn] for s in spans]),
        penalties=torch.tensor([rewards.penalty(turn) for turn in turns]),
        group_ids=torch.tensor([groups[s.episode] for s in spans]),
        trajectory_ids=torch.tensor([s.episode for s in spans]),
        turns=torch.tensor([s.turn for s in spans]),
        anchor_ids=torch.tensor([anchors.setdefault(t.anchor, len(anchors)) for t in turns]),
        mask=mask,
        logprobs=logprobs,
        entropies=entropies,
    )


def _token_tensors(turns: Sequence[Turn]) -> tuple[Tensor, Tensor, Tensor]:
    """(mask, log-probabilities, entropies), (N, T) each; 0 where the policy does not know them."""
    lengths = torch.tensor([len(turn.response_ids) for turn in turns])
    mask = torch.arange(int(lengths.max()))[None, :] < lengths[:, None]

    def padded(values: list[tuple[float, ...]]) -> Tensor:
        known = [v or (0.0,) * len(t.response_ids) for v, t in zip(values, turns, strict=True)]
        flat = torch.tensor([x for each in known for x in each])
        return torch.zeros(mask.shape).masked_scatter(mask, flat)

    return mask, padded([t.logprobs for t in turns]), padded([t.entropies for t in turns])


def training_rows(episodes: Iterable[tuple[int, Episode]]) -> list[TrainingRow]:
    """The training rows of (number, episode) pairs, episode by episode, turn by turn.

    A `transcript` episode is one row with a span per turn, a `window` episode one row per turn.
    Tokens are those kept from generation. Turns without response tokens have no span.
    """
    rows: list[TrainingRow] = []
    for number, episode in episodes:
        transcript = episode.context == "transcript"
        rows += _transcript(number, episode) if transcript else _window(number, episode)
    return rows


def _transcript(number: int, episode: Episode) -> list[TrainingRow]:
    ids: list[int] = []
    spans: list[Span] = []
    for place, turn in enumerate(episode.turns):
        ids += turn.prompt_ids
        if turn.response_ids:
            spans.append(Span(len(ids), len(ids) + len(turn.response_ids), number, place))
        ids += turn.response_ids
    return [TrainingRow(tuple(ids), tuple(spans))] if spans else []


def _window(number: int, episode: Episode) -> list[TrainingRow]:
    return [
        TrainingRow(
            turn.prompt_ids + turn.response_ids,
            (Span(len(turn.prompt_ids), len(turn.prompt_ids + turn.response_ids), number, place),),
        )
        for place, turn in enumerate(episode.turns)
        if turn.response_ids
    ]
