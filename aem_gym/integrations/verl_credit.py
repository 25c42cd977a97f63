"""Credit for the rows of verl's queue: advantages per token in, modulated ones out.

A row is a prompt with what followed it; in a transcript that holds several responses, with the
environment's texts between them. Nothing here needs verl.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from aem_gym.config import Config
from aem_gym.credit.batch import ResponseBatch, credit_metrics
from aem_gym.training.credit import CreditRule

_ZERO = torch.zeros(1)


@dataclass(frozen=True)
class QueueRow:
    """One row; T is the number of tokens behind its prompt."""

    group: str
    """The task instance whose rollouts are compared: verl's uid."""
    trajectory: str
    reward: float
    """The return of its episode."""
    mask: Tensor
    """(T,) bool: the tokens that enter the loss."""
    logprobs: Tensor
    """(T,) under the policy that the update starts from."""
    entropies: Tensor
    """(T,) of the whole vocabulary, under the same policy."""
    advantages: Tensor
    """(T,) of verl's estimator."""
    notes: Mapping[str, Any] = field(default_factory=dict)
    """What our agent loop says of its responses: `spans`, `turns`, `penalties`, `won`. Without it
    each run of masked tokens is a response."""


@dataclass(frozen=True)
class _Place:
    """Where a response is, and what was said of it."""

    row: int
    start: int
    end: int
    turn: int
    penalty: float


def modulate(
    rows: Sequence[QueueRow], config: Config, step: int
) -> tuple[list[Tensor], dict[str, float]]:
    """The advantages of each row, (T,), after penalty and modulator, and figures of the step.

    Tokens outside of the responses keep what they had. Where an advantage varies over the tokens
    of a response (GAE), the modulator sees its mean, and alpha multiplies each token's.

    Args:
        rows: those of the step, without padding.
        config: its modulator with its options, and the seed.
        step: seeds draws.

    Raises:
        ComponentError: the modulator returned something else than it has to.
    """
    clock = time.perf_counter()
    places = [place for number, row in enumerate(rows) for place in _places(number, row)]
    if not places:
        return [row.advantages for row in rows], {}
    batch, given = _batch(rows, places), _tokens(rows, places, "advantages")
    learned = _tokens(rows, places, "mask").bool()
    given = given + batch.penalties[:, None] * learned
    base = _per_response(given, learned)
    rule = replace(CreditRule.of(config), estimator=lambda _: base)
    found = rule.assign(batch, step).modulated
    changed = found.advantages + found.alpha[:, None] * (given - base[:, None])
    result = [row.advantages.clone() for row in rows]
    for place, values in zip(places, changed, strict=True):
        result[place.row][place.start : place.end] = values[: place.end - place.start]
    won = torch.tensor([bool(rows[place.row].notes.get("won")) for place in places])
    known = all("won" in row.notes for row in rows)
    threshold = float(rule.modulator_options.get("threshold", 0.1))
    figures = credit_metrics(batch, found.alpha, base, won if known else None, threshold=threshold)
    return result, {**figures, **found.info, "seconds": time.perf_counter() - clock}


def _places(number: int, row: QueueRow) -> list[_Place]:
    spans: Sequence[Sequence[int]] = row.notes.get("spans") or _runs(row.mask)
    turns = row.notes.get("turns") or range(len(spans))
    penalties = row.notes.get("penalties") or [0.0] * len(spans)
    each = zip(spans, turns, penalties, strict=True)
    return [_Place(number, start, end, turn, penalty) for (start, end), turn, penalty in each]


def _runs(mask: Tensor) -> list[tuple[int, int]]:
    """Where the runs of ones in a mask (T,) begin and end."""
    edges = torch.diff(torch.cat([_ZERO, mask.float(), _ZERO]))
    starts, ends = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
    return list(zip(starts, ends, strict=True))


def _batch(rows: Sequence[QueueRow], places: Sequence[_Place]) -> ResponseBatch:
    groups = _numbers([rows[place.row].group for place in places])
    returns = torch.tensor([rows[place.row].reward for place in places])
    lengths = torch.tensor([place.end - place.start for place in places])
    return ResponseBatch(
        returns=returns,
        step_rewards=torch.zeros_like(returns),
        penalties=torch.tensor([place.penalty for place in places]),
        group_ids=groups,
        trajectory_ids=_numbers([rows[place.row].trajectory for place in places]),
        turns=torch.tensor([place.turn for place in places]),
        anchor_ids=torch.arange(len(places)),
        mask=torch.arange(int(lengths.max()))[None, :] < lengths[:, None],
        logprobs=_tokens(rows, places, "logprobs"),
        entropies=_tokens(rows, places, "entropies"),
    )


def _tokens(rows: Sequence[QueueRow], places: Sequence[_Place], name: str) -> Tensor:
    """A field of the rows, a row per response: (N, longest), 0 in the padding."""
    parts = [getattr(rows[p.row], name)[p.start : p.end].float() for p in places]
    return pad_sequence(parts, batch_first=True)


def _per_response(tokens: Tensor, mask: Tensor) -> Tensor:
    """(N,): the value that all masked tokens of a response share, or else their mean."""
    first = tokens.gather(1, mask.long().argmax(1, keepdim=True))[:, 0] * mask.any(1)
    mean = (tokens * mask).sum(1) / mask.sum(1).clamp(min=1)
    constant = ((tokens == first[:, None]) | ~mask).all(1)
    return torch.where(constant, first, mean)


def _numbers(names: Sequence[str]) -> Tensor:
    known: dict[str, int] = {}
    return torch.tensor([known.setdefault(name, len(known)) for name in names])
