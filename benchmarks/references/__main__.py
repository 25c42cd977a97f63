"""Our advantages and losses against TRL's own: `python -m benchmarks.references --trl PYTHON`.

PYTHON is the interpreter of an environment that has TRL (`pip install torch==2.13.0`, then `pip
install trl peft`). One set of tensors, in float64, is handed over as a file; `trl_side.py` gives it
to TRL's trainers there, and this process to `aem_gym.credit`. Losses are compared with their
gradients, advantages and penalties by value. The last line is one JSON object: per method the
largest difference, `trl` its version, and `worst`. Exit 1 where a difference is above 1e-6.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aem_gym.credit import estimators, losses
from aem_gym.credit.batch import ResponseBatch

LIMIT = 1e-6
GROUPS, SIZE, WIDTH = 3, 4, 7
_TRL_EPSILON = 1e-4
_PLAIN = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}


def make_case(seed: int = 0) -> dict[str, Any]:
    """Rows of three groups: log-probabilities far enough apart that every clip takes effect."""
    draws = torch.Generator().manual_seed(seed)
    n = GROUPS * SIZE

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws, dtype=torch.float64)

    lengths = torch.randint(1, WIDTH + 1, (n,), generator=draws)
    mask = torch.arange(WIDTH) < lengths[:, None]
    old = -noise(n, WIDTH).abs()
    tensors = {
        "old": old,
        "logprobs": old + 0.7 * noise(n, WIDTH),
        "reference": old + 0.3 * noise(n, WIDTH),
        "advantages": noise(n),
    }
    rewards = torch.rand(n, generator=draws).round(decimals=2)
    rewards[:SIZE] = 1.0  # a group with equal rewards
    case = {name: tensor.tolist() for name, tensor in tensors.items()}
    return case | {"mask": mask.tolist(), "rewards": rewards.tolist(), "group_size": SIZE}


def batch_of(case: dict[str, Any]) -> ResponseBatch:
    """The case as responses of one turn each."""
    returns = torch.tensor(case["rewards"], dtype=torch.float64)
    numbers, zeros = torch.arange(len(returns)), torch.zeros(len(returns), dtype=torch.long)
    old = torch.tensor(case["old"], dtype=torch.float64)
    return ResponseBatch(
        returns=returns,
        step_rewards=returns,
        penalties=torch.zeros_like(returns),
        group_ids=numbers // case["group_size"],
        trajectory_ids=numbers,
        turns=zeros,
        anchor_ids=zeros,
        mask=torch.tensor(case["mask"]),
        logprobs=old,
        entropies=old.abs(),
    )


def loss_of(
    case: dict[str, Any], function: Callable[..., losses.LossOutput], mode: str, **options: Any
) -> dict[str, Any]:
    """A loss of ours on the case, and its gradient.

    `kl` is the weight of the k3 divergence, which may be `weighted` by the ratio.
    """
    kl, weighted = options.pop("kl", 0.0), options.pop("weighted", False)
    mask = torch.tensor(case["mask"])
    now, old, reference = (
        torch.tensor(case[name], dtype=torch.float64) for name in ("logprobs", "old", "reference")
    )
    now.requires_grad_()
    advantages = torch.tensor(case["advantages"], dtype=torch.float64)[:, None].expand(mask.shape)
    per_token = function(now, old, advantages, mask, **options).per_token
    ratio = losses.log_ratio_of(now, old, mask).exp() if weighted else 1.0
    per_token = per_token + kl * losses.kl_k3(now, reference) * ratio * mask
    sizes: dict[str, Any] = {"total_tokens": mask.sum(), "total_rows": float(len(mask))}
    loss = losses.aggregate(per_token, mask, mode, **sizes, constant=float(WIDTH))
    (gradient,) = torch.autograd.grad(loss, now)
    return {"value": loss.tolist(), "gradient": gradient.tolist()}


def ours(case: dict[str, Any]) -> dict[str, Any]:
    """Every method that TRL has, by the names of `trl_side.py`."""
    batch, rows = batch_of(case), "seq-mean-token-mean"
    ppo, higher = losses.ppo_clip, _PLAIN | {"clip_high": 0.28}
    lengths = torch.tensor(case["mask"]).sum(-1)
    overlong = losses.overlong_penalty(lengths.double(), max_length=WIDTH, buffer=4)
    return {
        "advantages_grpo": estimators.grpo(batch, epsilon=_TRL_EPSILON).tolist(),
        "advantages_dr_grpo": estimators.dr_grpo(batch).tolist(),
        "advantages_rloo": estimators.rloo(batch).tolist(),
        "loss_grpo": loss_of(case, ppo, rows, **_PLAIN),
        "loss_grpo_kl": loss_of(case, ppo, rows, **_PLAIN, kl=0.1),
        "loss_grpo_kl_weighted": loss_of(case, ppo, rows, **_PLAIN, kl=0.1, weighted=True),
        "loss_dapo": loss_of(case, ppo, "token-mean", **higher),
        "loss_dr_grpo": loss_of(case, ppo, "token-sum-norm", **_PLAIN),
        "loss_delta": loss_of(case, ppo, "token-mean", **(_PLAIN | {"dual_clip": 1.5})),
        "loss_gspo": loss_of(case, losses.gspo, rows, clip_low=0.1, clip_high=0.2),
        "overlong": overlong.tolist(),
    }


def difference(first: Any, second: Any) -> float:
    """The largest difference of two trees of numbers."""
    if isinstance(first, dict):
        return max(difference(first[key], second[key]) for key in first)
    if isinstance(first, list):
        if len(first) != len(second):
            raise ValueError(f"expected {len(first)} numbers, got {len(second)}")
        return max(map(difference, first, second), default=0.0)
    return float(abs(first - second))


def main() -> int:
    """Run both sides and print their differences."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--trl", required=True, metavar="PYTHON", help="an interpreter with TRL")
    given, case = parser.parse_args(), make_case()
    with tempfile.TemporaryDirectory() as folder:
        path, answer = Path(folder) / "case.json", Path(folder) / "answer.json"
        path.write_text(json.dumps(case))
        script = Path(__file__).with_name("trl_side.py")
        command = [given.trl, "-P", str(script), str(path), str(answer)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            print(done.stderr[-4000:], file=sys.stderr)
            print(f"{given.trl} {script} failed with exit status {done.returncode}")
            return 2
        theirs = json.loads(answer.read_text())
    version = theirs.pop("trl")
    found = {name: difference(value, theirs[name]) for name, value in ours(case).items()}
    for name, value in found.items():
        print(f"{name:22} {value:.1e}")
    print(json.dumps({**found, "trl": version, "worst": max(found.values())}))
    return int(not max(found.values()) <= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
