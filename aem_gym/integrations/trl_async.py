"""AEM for TRL's `AsyncGRPOTrainer` (docs/trl.md). TRL packs with a kernel for NVIDIA's Hopper GPUs.

Needs TRL and PEFT, in an environment of their own: `pip install "aem-gym[trl]"`.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aem_gym.credit.modulators import aem
from aem_gym.errors import ConfigError, MissingDependencyError
from aem_gym.integrations.completions import Completions, modulate, number_responses
from aem_gym.options import check_options
from aem_gym.seeding import derive

try:
    from trl.experimental.async_grpo import AsyncGRPOTrainer  # type: ignore[import-not-found]
    from trl.experimental.async_grpo.packing import TreeRow  # type: ignore[import-not-found]
except ImportError as error:
    raise MissingDependencyError("trl", "trl", "aem_gym.integrations.trl_async") from error

_TREE = ("tree_kv_index", "tree_cu_seqlens_q", "tree_cu_seqlens_k")


class AEMAsyncGRPOTrainer(AsyncGRPOTrainer):  # type: ignore[misc]  # without TRL it is Any
    """TRL's `AsyncGRPOTrainer`, each response's advantage multiplied by AEM's coefficient.

    A group is modulated when it leaves the queue of the rollouts: its entropies come from a pass of
    the policy as it is then, at most `max_staleness` updates after the one that sampled it. A
    response is a run of `completion_mask`. TRL's samples carry one advantage, so each response
    becomes a sample of its own; they share their tokens, which TRL reads once.

    Args:
        given: arguments of `AsyncGRPOTrainer`.
        aem_options: options of AEM: `lam`, `threshold`, `scope`, ... (docs/aem.md); the scope
            batch is a group.
        named: arguments of `AsyncGRPOTrainer`.

    Raises:
        UnknownNameError: an option that AEM does not have.
        ConfigError: a model that is sharded over processes, whose first one cannot read by itself.
    """

    def __init__(
        self, *given: Any, aem_options: dict[str, Any] | None = None, **named: Any
    ) -> None:
        self.aem_options = dict(aem_options or {})
        check_options("aem_options", aem, self.aem_options, ("generator",))
        super().__init__(*given, **named)
        if self.is_fsdp_enabled and self.accelerator.num_processes > 1:
            raise ConfigError(
                "AEMAsyncGRPOTrainer: the entropies of a group come from a pass of the first "
                "process alone, which a model sharded by FSDP cannot make. Train without FSDP, or "
                "with our own loop: torchrun --nproc_per_node N train.py --shard-base"
            )
        if self.accelerator.is_main_process:
            waiting: Any = self.rollout_queue
            self.rollout_queue: Any = _GroupQueue(
                waiting, self._modulated, self.args.num_generations
            )

    def _modulated(self, samples: Sequence[Any]) -> list[Any]:
        """A group's samples, with one for each response."""
        if self.model_version - samples[0].model_version > self.args.max_staleness:
            return list(samples)  # they are dropped next
        shape = (len(samples), max(len(sample.input_ids) for sample in samples))
        mask, logprobs, entropies = torch.zeros(3, *shape)
        for row, sample in enumerate(samples):
            mask[row, : len(sample.input_ids)] = torch.from_numpy(sample.completion_mask)
        logprobs[mask.bool()], entropies[mask.bool()] = self._scores(samples)
        numbers = number_responses(mask)
        advantages = torch.tensor([float(sample.advantage) for sample in samples])
        one = torch.zeros(len(samples), dtype=torch.long)
        group = Completions(numbers, entropies, logprobs, torch.zeros(shape), advantages, one)
        seed = derive(self.args.seed, "shuffle", samples[0].group_id) % 2**31
        credit = modulate(group, self.aem_options, seed)
        for name, value in credit.figures.items():
            self._metrics["train"][f"aem/{name}"].append(value)
        return _by_response(samples, numbers.numpy(), credit.advantages.numpy())

    def _scores(self, samples: Sequence[Any]) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (M,) of the samples' trained tokens, in their order."""
        rows = [TreeRow()]
        budget = self.args.token_budget or 0
        for sample in samples:
            fields = ("input_ids", "completion_mask", "old_log_probs", "advantage", "group_id")
            packable = {name: getattr(sample, name) for name in fields}
            if rows[-1].samples and not rows[-1].fits(packable, budget):
                rows.append(TreeRow())
            rows[-1].add(packable)
        model = self.accelerator.unwrap_model(self.model)
        training = [module for module in model.modules() if module.training]
        model.eval()
        with torch.no_grad(), self.accelerator.autocast():
            found = [_read(model, row.pack(), self.accelerator.device) for row in rows]
        for module in training:
            module.training = True
        logprobs, entropies = zip(*found, strict=True)
        return torch.cat(logprobs), torch.cat(entropies)


class _GroupQueue:
    """The queue of a rollout worker, read by whole groups, which `change` is applied to.

    A worker puts a group's samples one after the other, and more than `size` of them where a
    conversation was taken apart: a group is whole when the next one begins, or nothing comes.
    """

    def __init__(self, inner: Any, change: Callable[[list[Any]], list[Any]], size: int) -> None:
        self.inner, self.change, self.size = inner, change, size
        self._coming: list[Any] = []
        self._ready: list[Any] = []

    def get(self, timeout: float | None = None) -> Any:
        """The next sample. Raises queue.Empty where none is ready in `timeout` seconds."""
        while not self._ready:
            try:
                sample = self.inner.get(timeout=timeout)
            except queue.Empty:
                if len(self._coming) < self.size:
                    raise
                self._ready, self._coming = self.change(self._coming), []
                continue
            if self._coming and self._coming[-1].group_id != sample.group_id:
                self._ready, self._coming = self.change(self._coming), []
            self._coming.append(sample)
        return self._ready.pop(0)

    def qsize(self) -> int:
        """About how many samples wait."""
        return int(self.inner.qsize()) + len(self._coming) + len(self._ready)


def _read(model: Any, packed: dict[str, Tensor], device: torch.device) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (M,) of a packed row's trained tokens."""
    inputs = {name: value.to(device) for name, value in packed.items()}
    longest = inputs["tree_max_seqlens"].tolist()
    output = model(
        input_ids=inputs["input_ids"][None],
        position_ids=inputs["position_ids"][None],
        shift_labels=inputs["shift_labels"][None],
        fused_lm_head=True,
        tree_max_seqlen_q=longest[0],
        tree_max_seqlen_k=longest[1],
        **{name: inputs[name] for name in _TREE},
    )
    logprobs, entropies = (
        found.flatten()[inputs["token_index"]].float().cpu()
        for found in (output.log_probs, output.entropy)
    )
    return logprobs, entropies


def _by_response(
    samples: Sequence[Any], numbers: np.ndarray[Any, Any], advantages: np.ndarray[Any, Any]
) -> list[Any]:
    """One sample per response, which trains on its tokens alone and carries its advantage."""
    split = []
    for sample, row, values in zip(samples, numbers, advantages, strict=True):
        of_token = row[: len(sample.input_ids)]
        for number in range(1, int(row.max()) + 1):
            mine = of_token == number
            mask = mine.astype(sample.completion_mask.dtype)
            advantage = float(values[: len(mine)][mine][0])
            split.append(replace(sample, completion_mask=mask, advantage=advantage))
    return split
