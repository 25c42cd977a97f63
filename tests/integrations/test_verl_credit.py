"""Credit on verl's rows is the credit of the same responses, however rows hold them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.config import Config
from aem_gym.credit.batch import ResponseBatch
from aem_gym.integrations.verl_credit import QueueRow, modulate
from aem_gym.settings import settle
from aem_gym.training.credit import CreditRule
from tests.credit.cases import Row, make_rows, to_batch

JUNK = 7.5
"""Entropy of the environment's tokens, which must not count."""


def config(modulator: str = "aem", **options: Any) -> Config:
    return settle({"modulator": modulator, "modulator_options": options, "seed": 3}).config


def base_of(batch: ResponseBatch) -> torch.Tensor:
    """Advantages as verl's estimator gives them: the same on each row of an episode."""
    unpunished = replace(batch, penalties=torch.zeros_like(batch.penalties))
    return CreditRule.of(config("none")).assign(unpunished, 1).base


def transcripts(rows: list[Row], base: torch.Tensor, *, notes: bool = True) -> list[QueueRow]:
    """A row per episode: its responses with two tokens of the environment between them."""
    made = []
    for episode in dict.fromkeys(row.trajectory for row in rows):
        turns = sorted((row.turn, n) for n, row in enumerate(rows) if row.trajectory == episode)
        mine = [rows[n] for _, n in turns]
        ids, spans = 0, []
        parts: dict[str, list[float]] = {"mask": [], "logprobs": [], "entropies": []}
        for place, row in enumerate(mine):
            gap, length = 2 * bool(place), len(row.entropies)
            spans.append((ids + gap, ids + gap + length))
            ids += gap + length
            parts["mask"] += [0] * gap + [1] * length
            parts["logprobs"] += [0.0] * gap + row.logprobs
            parts["entropies"] += [JUNK] * gap + row.entropies
        said = {"spans": spans, "turns": [row.turn for row in mine]}
        said |= {"penalties": [row.penalty for row in mine], "won": mine[0].ret > 5}
        mask = torch.tensor(parts["mask"]).bool()
        made.append(
            QueueRow(
                f"task {mine[0].group}",
                f"episode {episode}",
                mine[0].ret,
                mask,
                torch.tensor(parts["logprobs"]),
                torch.tensor(parts["entropies"]),
                base[turns[0][1]] * mask,
                said if notes else {},
            )
        )
    return made


def windows(rows: list[Row], base: torch.Tensor) -> list[QueueRow]:
    """A row per response."""
    return [
        QueueRow(
            f"task {row.group}",
            f"episode {row.trajectory}",
            row.ret,
            torch.ones(len(row.entropies), dtype=torch.bool),
            torch.tensor(row.logprobs),
            torch.tensor(row.entropies),
            base[n].expand(len(row.entropies)),
            {"spans": [(0, len(row.entropies))], "turns": [row.turn], "penalties": [row.penalty]},
        )
        for n, row in enumerate(rows)
    ]


def cases(seed: int) -> tuple[list[Row], ResponseBatch, torch.Tensor]:
    rows = make_rows(seed, 3, 3, empty=False, exclude=False)
    batch = to_batch(rows, dtype=torch.float32)
    return rows, batch, base_of(batch)


MODULATORS = [
    ("none", {}),
    ("aem", {}),
    ("aem", {"scope": "batch", "recentre": True, "threshold": 0.0}),
    ("aem", {"only": "negative", "lam": 2.0}),
    ("aem", {"shuffle": True}),
    ("entropy_shaping", {}),
]


@pytest.mark.parametrize(("name", "options"), MODULATORS)
@given(seed=st.integers(0, 10**6))
def test_rows_get_the_credit_of_their_responses(name: str, options: Any, seed: int) -> None:
    rows, batch, base = cases(seed)
    ours = config(name, **options)
    rule = replace(CreditRule.of(ours), estimator=lambda _: base + batch.penalties)
    wanted = rule.assign(batch, 1).modulated.advantages
    for number, found in enumerate(modulate(windows(rows, base), ours, 1)[0]):
        assert torch.allclose(found, wanted[number, : len(found)], rtol=0, atol=1e-6)
    if options.get("shuffle"):
        return  # its draws follow the order of the rows
    made, figures = modulate(transcripts(rows, base), ours, 1)
    by_name = {}
    for row, values in zip(transcripts(rows, base), made, strict=True):
        assert not values[~row.mask].any()
        for turn, (start, end) in zip(row.notes["turns"], row.notes["spans"], strict=True):
            by_name[row.trajectory, turn] = values[start:end]
    for number, row in enumerate(rows):
        mine = by_name[f"episode {row.trajectory}", row.turn]
        assert torch.allclose(mine, wanted[number, : len(mine)], rtol=0, atol=1e-6)
    assert figures["alpha_mean"] > 0 and "success_rate" in figures


@given(seed=st.integers(0, 10**6))
def test_without_notes_the_mask_tells_the_responses(seed: int) -> None:
    rows, _, base = cases(seed)
    rows = [replace(row, penalty=0.0) for row in rows]
    noted, _ = modulate(transcripts(rows, base), config(), 1)
    plain, figures = modulate(transcripts(rows, base, notes=False), config(), 1)
    assert all(map(torch.equal, noted, plain))
    assert "success_rate" not in figures


def test_no_modulation_is_verls_own_advantage_bit_for_bit() -> None:
    rows, _, base = cases(5)
    rows = [replace(row, penalty=0.0) for row in rows]
    given_rows = transcripts(rows, base)
    for ours in (config("none"), config(lam=0.0)):
        made, _ = modulate(given_rows, ours, 1)
        assert all(map(torch.equal, made, [row.advantages for row in given_rows]))


def test_rejected_tokens_count_as_entropy_and_get_no_penalty() -> None:
    """Verl's rejection sampling clears parts of the mask; the response stays what it was."""
    rows, _, base = cases(5)
    before = transcripts(rows, base)
    whole, _ = modulate(before, config(), 1)
    after = [replace(row, mask=row.mask & (torch.arange(len(row.mask)) > 0)) for row in before]
    after = [replace(row, advantages=row.advantages * row.mask) for row in after]
    part, _ = modulate(after, config(), 1)
    for row, old, new in zip(after, whole, part, strict=True):
        assert torch.allclose(old[row.mask], new[row.mask], rtol=0, atol=1e-6)
        assert not new[~row.mask].any()


def test_an_advantage_that_varies_over_tokens_is_scaled_by_alpha() -> None:
    rows, batch, base = cases(11)
    rows = [replace(row, penalty=0.0) for row in rows]
    draws = torch.Generator().manual_seed(1)
    made = windows(rows, base)
    made = [replace(r, advantages=torch.randn(len(r.mask), generator=draws)) for r in made]
    changed, _ = modulate(made, config(threshold=0.0), 1)
    alpha = CreditRule.of(config(threshold=0.0)).assign(batch, 1).modulated.alpha
    assert float((alpha - 1).abs().max()) > 0.1
    for number, (row, found) in enumerate(zip(made, changed, strict=True)):
        assert torch.allclose(found, alpha[number] * row.advantages, rtol=0, atol=1e-5)


def test_no_rows_are_no_error() -> None:
    assert modulate([], config(), 1) == ([], {})
