"""Random batches as plain Python rows, and the same as tensors."""

from __future__ import annotations

import math
import random
import statistics
from dataclasses import dataclass, field

import torch
from hypothesis import strategies as st

from aem_gym.credit import ResponseBatch
from aem_gym.registry import Registry


def shipped(registry: Registry) -> list[str]:
    """The names of this package's own components; another package's may be installed beside it."""
    return sorted(registry._table())


@dataclass
class Row:
    ret: float
    reward: float
    penalty: float
    group: int
    trajectory: int
    turn: int
    anchor: int
    value: float
    excluded: bool = False
    logprobs: list[float] = field(default_factory=list)
    entropies: list[float] = field(default_factory=list)

    @property
    def mean_entropy(self) -> float:
        return sum(self.entropies) / len(self.entropies)

    @property
    def counted(self) -> bool:
        return bool(self.entropies) and not self.excluded


def make_rows(
    seed: int, groups: int, size: int, empty: bool = True, exclude: bool = True
) -> list[Row]:
    """Groups of up to `size` episodes, in shuffled order, with every irregularity allowed."""
    rng = random.Random(seed)
    rows: list[Row] = []
    trajectory = rng.randrange(100)
    for group in range(groups):
        degenerate = rng.random() < 0.3
        for _ in range(rng.randint(1, size)):
            trajectory += rng.randint(1, 3)
            ret = 0.3 if degenerate else rng.choice([0.0, 10.0, rng.uniform(0, 10)])
            for turn in range(rng.randint(1, 4)):
                tokens = rng.randint(0 if empty else 1, 5)
                row = Row(
                    ret=ret,
                    reward=rng.choice([0.0, 1.0, rng.uniform(-1, 1)]),
                    penalty=rng.choice([0.0, 0.0, -0.1]),
                    group=group * 7 + 3,
                    trajectory=trajectory,
                    turn=turn * 2,
                    anchor=rng.randint(0, 2),
                    value=rng.uniform(-1, 1),
                    logprobs=[-rng.expovariate(1.0) for _ in range(tokens)],
                    entropies=[rng.uniform(0, 2) for _ in range(tokens)],
                )
                rows.append(row)
                if exclude and rng.random() < 0.1:
                    rows.append(Row(**{**row.__dict__, "excluded": True}))
    if exclude and groups > 1 and rng.random() < 0.3:
        for row in rows:
            row.excluded |= row.group == 3
    rng.shuffle(rows)
    return rows


def to_batch(
    rows: list[Row], dtype: torch.dtype = torch.float64, pad: int = 0, junk: float = 0.0
) -> ResponseBatch:
    """The rows as tensors; `junk` fills what lies outside the mask."""
    width = max(len(row.entropies) for row in rows) + pad

    def column(name: str) -> torch.Tensor:
        return torch.tensor([getattr(row, name) for row in rows], dtype=dtype)

    def ids(name: str) -> torch.Tensor:
        return torch.tensor([getattr(row, name) for row in rows])

    def tokens(name: str) -> torch.Tensor:
        padded = [getattr(r, name) + [junk] * (width - len(getattr(r, name))) for r in rows]
        return torch.tensor(padded, dtype=dtype).reshape(len(rows), width)

    lengths = torch.tensor([len(row.entropies) for row in rows])
    return ResponseBatch(
        returns=column("ret"),
        step_rewards=column("reward"),
        penalties=column("penalty"),
        group_ids=ids("group"),
        trajectory_ids=ids("trajectory"),
        turns=ids("turn"),
        anchor_ids=ids("anchor"),
        mask=torch.arange(width) < lengths[:, None],
        logprobs=tokens("logprobs"),
        entropies=tokens("entropies"),
        values=column("value"),
        excluded=ids("excluded"),
    )


row_lists = st.builds(
    make_rows, seed=st.integers(0, 2**32), groups=st.integers(1, 4), size=st.integers(1, 5)
)
dtypes = st.sampled_from([torch.float32, torch.float64])


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """Float32 against a float64 reference; dividing by a small std magnifies rounding."""
    return {"rtol": 2e-4, "atol": 2e-4} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-9}


def reference_alpha(entropies, groups, lam=1.0, threshold=0.1, counted=None):
    """Section 2 of the method, word by word; None marks a response without tokens."""
    counted = [True] * len(entropies) if counted is None else counted
    result = []
    for mine, group in zip(entropies, groups, strict=True):
        members = [
            h
            for h, g, c in zip(entropies, groups, counted, strict=True)
            if g == group and c and h is not None
        ]
        spread = max(members) - min(members) if members else 0.0
        if mine is None or len(members) < 2 or spread < threshold or spread == 0:
            result.append(1.0)
            continue
        low = min(members)
        mean = statistics.fmean(math.exp(-lam * (h - low) / spread) for h in members)
        scaled = min(1.0, max(0.0, (mine - low) / spread))  # matters for rows not counted
        result.append(math.exp(-lam * scaled) / mean)
    return result
