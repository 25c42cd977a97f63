"""AEM for libraries whose rows are completions: one row per episode, several responses in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aem_gym.credit.batch import ResponseBatch, Segments, credit_metrics
from aem_gym.credit.modulators import aem

Spans = Sequence[tuple[int, int]]
"""Of each response of a completion its first token, and the one behind its last."""


@dataclass(frozen=True)
class Completions:
    """B completions of one step, all groups whole; C = the longest. Entropies are in nats."""

    responses: Tensor
    """(B, C) long: the number of the response, from 1, that a token belongs to; 0: of none."""
    entropies: Tensor
    """(B, C) exact entropy at each token."""
    logprobs: Tensor
    """(B, C); the proxy mean-surprisal alone reads them."""
    penalties: Tensor
    """(B, C) <= 0: the invalid-action penalty of the token's response."""
    advantages: Tensor
    """(B,) of the base estimator."""
    groups: Tensor
    """(B,) long: the task instance whose rollouts are compared."""


@dataclass(frozen=True)
class CompletionCredit:
    """What AEM makes of completions. Nothing in it carries a gradient."""

    advantages: Tensor
    """(B, C), 0 outside of responses."""
    alpha: Tensor
    """(N,) of the responses, completion by completion, in their order."""
    figures: dict[str, float]
    """`alpha_mean`, `response_entropy_mean`, ... (docs/runs.md)."""


def number_responses(mask: Tensor, spans: Sequence[Spans] | None = None) -> Tensor:
    """Which response each token of completions belongs to, (B, C) long, from 1; 0: to none.

    Without `spans`, each run of tokens in `mask` (B, C) is one. What lies outside of the mask
    belongs to none in any case.
    """
    mask = mask.bool()
    if spans is None:
        before = torch.nn.functional.pad(mask, (1, 0))[:, :-1]
        return (mask & ~before).cumsum(1) * mask
    numbers = torch.zeros_like(mask, dtype=torch.long)
    for row, found in enumerate(spans):
        for number, (start, end) in enumerate(found, 1):
            numbers[row, start:end] = number
    return numbers * mask


@torch.no_grad()
def modulate(given: Completions, options: Mapping[str, Any], seed: int = 0) -> CompletionCredit:
    """Multiply the advantage of each response by AEM's coefficient.

    `options` are those of `aem_gym.credit.modulators.aem`; `seed` is that of its option shuffle.
    A response's penalty is added to its advantage first, as our estimators do.
    """
    rows, columns = given.responses.nonzero(as_tuple=True)  # (M,) tokens
    if not rows.numel():
        return CompletionCredit(torch.zeros_like(given.entropies), given.advantages[:0], {})
    per_row = int(given.responses.max()) + 1
    response = Segments.of(rows * per_row + given.responses[rows, columns])
    first = columns.new_full((response.count,), columns.numel())
    first.scatter_reduce_(0, response.index, torch.arange(len(rows), device=rows.device), "amin")
    token = torch.arange(len(rows), device=rows.device) - first[response.index]
    batch = _responses(given, rows, columns, (response.index, token), first)
    base = given.advantages[rows[first]] + given.penalties[rows[first], columns[first]]
    modulated = aem(batch, base, **{"generator": seed, **options})
    advantages = torch.zeros_like(given.entropies)
    advantages[rows, columns] = modulated.advantages[response.index, token].to(advantages.dtype)
    threshold = float(options.get("threshold", 0.1))
    figures = credit_metrics(batch, modulated.alpha, base, threshold=threshold)
    return CompletionCredit(advantages, modulated.alpha, figures)


def _responses(
    given: Completions, rows: Tensor, columns: Tensor, place: tuple[Tensor, Tensor], first: Tensor
) -> ResponseBatch:
    """One row per response; `place` is where each of the tokens at `rows`, `columns` goes."""
    shape = (len(first), int(place[1].max()) + 1)
    owner = rows[first]
    nothing = given.advantages.new_zeros(len(first))  # AEM reads neither rewards nor anchors
    per_token = {
        name: getattr(given, name).new_zeros(shape).index_put(place, getattr(given, name)[at])
        for at in [(rows, columns)]
        for name in ("entropies", "logprobs")
    }
    return ResponseBatch(
        returns=nothing,
        step_rewards=nothing,
        penalties=given.penalties[owner, columns[first]],
        group_ids=given.groups[owner],
        trajectory_ids=owner,
        turns=given.responses[owner, columns[first]] - 1,
        anchor_ids=torch.zeros_like(owner),
        mask=torch.zeros(shape, dtype=torch.bool, device=rows.device).index_put(
            place, torch.ones_like(rows, dtype=torch.bool)
        ),
        **per_token,
    )
