"""The step's figures against plain Python, and the batch they are read from."""

from __future__ import annotations

import dataclasses
import math
import statistics
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings

from aem_gym.credit import aem
from aem_gym.credit.batch import credit_metrics
from tests.credit.cases import make_rows, row_lists, to_batch


def reference(rows, alpha, advantages, won) -> dict[str, float]:
    items = [
        (r, a, x, w) for r, a, x, w in zip(rows, alpha, advantages, won, strict=True) if r.counted
    ]
    if not items:
        return {}
    groups = {g: [i for i in items if i[0].group == g] for g in {r.group for r, *_ in items}}
    ranges = {
        g: max(i[0].mean_entropy for i in m) - min(i[0].mean_entropy for i in m)
        for g, m in groups.items()
    }

    def covariance(members):
        mean_a = statistics.fmean(a for _, a, _, _ in members)
        mean_x = statistics.fmean(x for _, _, x, _ in members)
        return statistics.fmean((a - mean_a) * (x - mean_x) for _, a, x, _ in members)

    def v(success):
        gaps = [(-sum(r.logprobs) - sum(r.entropies)) ** 2 for r, _, _, w in items if w == success]
        return {"v_success" if success else "v_fail": statistics.fmean(gaps)} if gaps else {}

    entropies = [r.mean_entropy for r, *_ in items]
    lengths = [len(r.entropies) for r, *_ in items]
    episodes = {r.trajectory: w for r, w in zip(rows, won, strict=True) if not r.excluded}
    result = {
        "alpha_mean": statistics.fmean(a for _, a, _, _ in items),
        "alpha_min": min(a for _, a, _, _ in items),
        "alpha_max": max(a for _, a, _, _ in items),
        "share_below_threshold": statistics.fmean(s < 0.1 for s in ranges.values()),
        "response_entropy_mean": statistics.fmean(entropies),
        "response_entropy_range": statistics.fmean(ranges.values()),
        "share_negative_advantage": statistics.fmean(x < 0 for _, _, x, _ in items),
        "cov_alpha_advantage": statistics.fmean(covariance(m) for m in groups.values()),
        "response_length_mean": statistics.fmean(lengths),
        "success_rate": statistics.fmean(episodes.values()),
        **v(True),
        **v(False),
    }
    if len(set(entropies)) > 1 and len(set(lengths)) > 1:
        result["corr_entropy_length"] = statistics.correlation(entropies, lengths)
    return result


@settings(max_examples=60, deadline=None)
@given(rows=row_lists)
def test_matches_the_reference(rows):
    batch = to_batch(rows, pad=1, junk=float("nan"))
    advantages = torch.linspace(-1, 1, len(rows), dtype=torch.float64)
    modulated = aem(batch, advantages)
    won = [r.ret == 10.0 for r in rows]
    found = credit_metrics(batch, modulated.alpha, advantages, torch.tensor(won))
    expected = reference(rows, modulated.alpha.tolist(), advantages.tolist(), won)
    assert found == pytest.approx(expected)
    assert all(math.isfinite(x) for x in found.values())


def test_success_is_optional_and_absent_figures_are_left_out():
    batch = to_batch(make_rows(1, 2, 3, exclude=False))
    modulated = aem(batch, batch.returns)
    assert "v_fail" not in credit_metrics(batch, modulated.alpha, batch.returns)
    everyone = torch.ones(len(batch.returns), dtype=torch.bool)
    found = credit_metrics(batch, modulated.alpha, batch.returns, everyone)
    assert found["success_rate"] == 1
    assert "v_success" in found and "v_fail" not in found


def test_covariance_is_the_shift_of_the_groups_mean_advantage():
    batch = to_batch(make_rows(4, 1, 6, exclude=False))
    advantages = torch.linspace(-1, 2, len(batch.returns), dtype=torch.float64)
    modulated = aem(batch, advantages)
    keep = batch.counted
    shift = (modulated.advantages[keep, 0] - advantages[keep]).mean()
    found = credit_metrics(batch, modulated.alpha, advantages)
    assert found["cov_alpha_advantage"] == pytest.approx(shift.item())
    assert abs(shift) > 1e-4


def test_a_batch_says_which_tensor_does_not_fit():
    batch = to_batch(make_rows(1, 2, 3))
    with pytest.raises(ValueError, match="ResponseBatch.turns: expected shape"):
        dataclasses.replace(batch, turns=batch.turns[:-1])
    with pytest.raises(ValueError, match=r"ResponseBatch.mask: expected torch.bool"):
        dataclasses.replace(batch, mask=batch.mask.float())
    with pytest.raises(ValueError, match=r"mask \(N, T\)"):
        dataclasses.replace(batch, mask=batch.mask[:-1])


def test_importing_the_package_does_not_import_torch():
    code = "import sys, aem_gym, aem_gym.registry; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
