"""AEM on rows of completions is AEM on responses, wherever their tokens lie."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.credit.modulators import aem
from aem_gym.integrations.completions import Completions, modulate, number_responses
from tests.credit.cases import Row, make_rows, to_batch

OPTIONS: list[dict[str, Any]] = [
    *({}, {"lam": 0.0}, {"lam": 2.0, "threshold": 0.3}, {"scope": "batch"}),
    *({"scope": "trajectory", "proxy": "mean-surprisal"}, {"shuffle": True}, {"recentre": True}),
]


def laid_out(rows: list[Row], seed: int) -> tuple[Completions, list[tuple[int, int, int]]]:
    """Episodes as completions with texts of the environment between; where each row begins."""
    rng, episodes = random.Random(seed), dict[int, list[Row]]()
    for row in sorted(rows, key=lambda row: (row.trajectory, row.turn)):
        episodes.setdefault(row.trajectory, []).append(row)
    spans: list[list[tuple[int, int]]] = []
    for turns in episodes.values():
        at, found = 0, []
        for row in turns:
            at += rng.randint(1, 3)
            found.append((at, at + len(row.entropies)))
            at = found[-1][1]
        spans.append(found)
    width = max(found[-1][1] for found in spans) + 2
    mask, entropies, logprobs, penalties = torch.zeros(4, len(spans), width, dtype=torch.float64)
    places = []
    for line, (turns, found) in enumerate(zip(episodes.values(), spans, strict=True)):
        for row, (start, end) in zip(turns, found, strict=True):
            mask[line, start:end] = 1
            entropies[line, start:end] = torch.tensor(row.entropies, dtype=torch.float64)
            logprobs[line, start:end] = torch.tensor(row.logprobs, dtype=torch.float64)
            penalties[line, start:end] = row.penalty
            places.append((line, start, end))
    advantages = torch.tensor([turns[0].ret for turns in episodes.values()], dtype=torch.float64)
    groups = torch.tensor([turns[0].group for turns in episodes.values()])
    numbers = number_responses(mask)
    assert bool((numbers == number_responses(mask, spans)).all())
    return Completions(numbers, entropies, logprobs, penalties, advantages, groups), places


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(OPTIONS))
def test_as_our_modulator_on_responses(seed: int, options: dict[str, Any]) -> None:
    rows = make_rows(seed, 3, 4, empty=False, exclude=False)
    rows.sort(key=lambda row: (row.trajectory, row.turn))
    batch = to_batch(rows, dtype=torch.float64)
    expected = aem(batch, batch.returns + batch.penalties, **{"generator": 5, **options})
    completions, places = laid_out(rows, seed)
    found = modulate(completions, options, seed=5)
    assert torch.equal(found.alpha, expected.alpha)
    back = torch.zeros_like(found.advantages)
    for row, (line, start, end) in enumerate(places):
        back[line, start:end] = expected.advantages[row, : end - start]
    assert torch.equal(found.advantages, back)
    assert ("alpha_mean" in found.figures) and not found.advantages.requires_grad


def test_responses_are_runs_or_spans() -> None:
    mask = torch.tensor([[1, 1, 0, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]])
    numbers = [[1, 1, 0, 2, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 0]]
    assert number_responses(mask).tolist() == numbers
    spans = [[(0, 2), (3, 4)], [(0, 3)], [(0, 1), (1, 5)]]  # a failed episode, and two that touch
    numbers[2] = [1, 2, 2, 2, 0]
    assert number_responses(mask, spans).tolist() == numbers


def test_nothing_to_modulate() -> None:
    empty = torch.zeros(2, 3)
    none = torch.zeros(2, 3, dtype=torch.long)
    given = Completions(none, empty, empty, empty, torch.ones(2), none[:, 0])
    found = modulate(given, {})
    assert found.figures == {} and not found.advantages.any() and not len(found.alpha)


def test_options_that_do_not_exist_are_refused() -> None:
    numbers = torch.ones(1, 1, dtype=torch.long)
    one = torch.ones(1, 1)
    given = Completions(numbers, one, one, one * 0, torch.ones(1), torch.zeros(1).long())
    with pytest.raises(ValueError, match="scope"):
        modulate(given, {"scope": "groups"})
