"""One of each part that joins aem_gym from another package: 10 to 30 lines each.

The roles are described in aem_gym.protocols, the functions in aem_gym.credit.
"""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aem_gym.credit import LossOutput, Modulated, ResponseBatch, estimator
from aem_gym.envs.swe.sandbox.base import ImagePlan, Sandbox, SandboxSpec
from aem_gym.envs.swe.sandbox.engines import open_engine
from aem_gym.protocols import Generation, GenerationRequest, SamplingSettings


class PlainPolicy:
    """A sampler without a cache: it reads the whole sequence again for every token."""

    exact = True  # float32 models only: its log-probabilities are the learner's own

    def __init__(self, learner: Any, settings: SamplingSettings) -> None:
        self.limit, self.version = settings.max_new_tokens, 0
        self.end_ids = {*learner.end_ids, *settings.end_ids}

    def publish(self, learner: Any) -> int:
        self.model = learner.model
        self.version += 1
        return self.version

    @torch.no_grad()
    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        self.model.eval()
        return [self.continued(request) for request in requests]

    def continued(self, request: GenerationRequest) -> Generation:
        draws, ids = np.random.default_rng(request.key), list(request.prompt_ids)
        new: list[tuple[int, float, float]] = []
        limit = request.max_new_tokens or self.limit
        while len(new) < limit and not (new and new[-1][0] in self.end_ids):
            logits = self.model(torch.tensor([ids])).logits[0, -1].float()
            logp = torch.log_softmax(logits / (request.temperature or 1.0), -1)
            cdf = logp.double().exp().cumsum(0)
            token = int(torch.searchsorted(cdf, draws.random() * float(cdf[-1]), right=True))
            if request.temperature == 0:
                token = int(logits.argmax())
            new.append((token, float(logp[token]), float(-(logp.exp() * logp).sum())))
            ids.append(token)
        tokens, logprobs, entropies = zip(*new, strict=True)
        return Generation(tokens, logprobs, entropies, cut=tokens[-1] not in self.end_ids)

    def release(self, slot: int) -> None:
        pass

    def close(self) -> None:
        pass


@estimator(needs_values=True, loss="cispo", clip_high=0.3, drops_equal_groups=True)
def value_baseline(batch: ResponseBatch, *, weight: float = 1.0) -> Tensor:
    """The return minus the value head's estimate: a critic without discounting."""
    assert batch.values is not None
    return batch.returns - weight * batch.values + batch.penalties


def surest(batch: ResponseBatch, advantages: Tensor, *, part: float = 0.5) -> Modulated:
    """Double the advantage of the surest `part` of all responses."""
    limit = torch.quantile(batch.response_entropy, part)
    alpha = 1.0 + (batch.response_entropy <= limit).float()
    per_token = (alpha * advantages)[:, None] * batch.mask
    return Modulated(per_token, alpha, {"surest_limit": float(limit)})


def cispo(
    logprobs: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, *, clip_high: float = 0.2
) -> LossOutput:
    """Clipped importance weights without their gradient (MiniMax-M1, arXiv 2506.13585)."""
    ratio = torch.exp((logprobs - old).masked_fill(~mask, 0)).detach().clamp(max=1 + clip_high)
    loss = -ratio * advantages * logprobs
    return LossOutput(loss.masked_fill(~mask, 0), {"ratio": (ratio * mask).sum()})


class Arrow:
    """`thought -> action`."""

    name = "arrow"

    def render(self, thought: str, action: str) -> str:
        return f"{thought} -> {action}"

    def parse(self, text: str) -> tuple[str, str, bool]:
        thought, arrow, action = text.partition(" -> ")
        return (thought, action.strip(), True) if arrow and action.strip() else ("", text, False)


class CsvLogger:
    """Writes success by step to `success.csv` in the run's folder."""

    def __init__(self, run: Path, config: Any, step: int) -> None:
        self.file = (run / "success.csv").open("a", newline="")
        self.rows = csv.writer(self.file)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.rows.writerow([step, values.get("success_rate_all", "")])

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        self.rows.writerow([step, values["success"]])

    def episodes(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        pass

    def close(self) -> None:
        self.file.close()


class CountingEngine:
    """A sandbox engine: `process` (for trusted code), with its sandboxes counted."""

    name = "counting"
    isolates = False  # True only if code that nobody has read may run in it

    def __init__(self) -> None:
        self.started = 0
        self.inner = open_engine("process")

    def image(self, plan: ImagePlan | str) -> str:
        return self.inner.image(plan)

    def start(self, spec: SandboxSpec) -> Sandbox:
        self.started += 1
        return self.inner.start(spec)

    def sweep(self) -> int:
        return self.inner.sweep()

    def close(self) -> None:
        self.inner.close()
