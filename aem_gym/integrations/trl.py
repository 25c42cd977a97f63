"""AEM and our environments in TRL: a `GRPOTrainer`, and a `rollout_func` for it (docs/trl.md).

Needs TRL and PEFT, in an environment of their own: `pip install "aem-gym[trl]"`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from aem_gym.credit.modulators import aem
from aem_gym.errors import ConfigError, MissingDependencyError
from aem_gym.integrations.completions import Completions, modulate, number_responses
from aem_gym.integrations.trl_rollouts import (
    ENTROPIES,
    PENALTIES,
    SPANS,
    EnvRollouts,
    episode_return,
    rollout_func,
)
from aem_gym.options import check_options
from aem_gym.seeding import derive

try:
    from datasets import Dataset  # type: ignore[import-not-found]
    from trl import GRPOTrainer  # type: ignore[import-not-found]
except ImportError as error:
    raise MissingDependencyError("trl", "trl", "aem_gym.integrations.trl") from error

for _name in ("_generate_and_score_completions", "_get_per_token_logps_and_entropies"):
    if not hasattr(GRPOTrainer, _name):
        raise ConfigError(
            f"TRL's GRPOTrainer has no {_name}, which AEM changes: pip install trl==1.16.0"
        )

__all__ = ["AEMGRPOTrainer", "EnvRollouts", "episode_return", "rollout_func", "task_seeds"]


def task_seeds(seeds: Iterable[int]) -> Dataset:
    """A data set whose prompts are seeds of tasks, for a trainer with our `rollout_func`."""
    return Dataset.from_list([{"prompt": str(int(seed))} for seed in seeds])


class AEMGRPOTrainer(GRPOTrainer):  # type: ignore[misc]  # without TRL it is Any
    """TRL's `GRPOTrainer`, each response's advantage multiplied by AEM's coefficient.

    Entropies are exact: those that our `rollout_func` recorded while it sampled, or else those of
    a pass of the policy before the update. Groups may be spread over processes. A response is what
    lies between two texts of the environment (`env_mask`, tools); without those, the completion.
    The metrics have the figures of our own runs as `aem/alpha_mean`, ...

    Args:
        given: arguments of `GRPOTrainer`.
        aem_options: options of AEM: `lam`, `threshold`, `scope`, ... (docs/aem.md).
        processes: how many there have to be. `accelerate launch --cpu` starts one, whatever
            it was asked for, and says nothing: use `torchrun --nproc_per_node N`.
        named: arguments of `GRPOTrainer`.

    Raises:
        UnknownNameError, ConfigError: an option that AEM does not have; another number of
            processes.
    """

    def __init__(
        self,
        *given: Any,
        aem_options: dict[str, Any] | None = None,
        processes: int | None = None,
        **named: Any,
    ) -> None:
        self.aem_options = dict(aem_options or {})
        check_options("aem_options", aem, self.aem_options, ("generator",))
        super().__init__(*given, **named)
        self._scored: tuple[Tensor, Tensor] | None = None
        found = self.accelerator.num_processes
        if processes is not None and processes != found:
            raise ConfigError(
                f"processes: expected {processes}, got {found}. Start the script with "
                f"torchrun --nproc_per_node {processes} SCRIPT (accelerate launch --cpu starts one)"
            )

    def _get_per_token_logps_and_entropies(self, model: Any, *given: Any, **named: Any) -> Any:
        """The same, and keeps what the policy's first pass over a batch gives."""
        keeps = self._scored is None and model is self.model and not torch.is_grad_enabled()
        if keeps:
            named["compute_entropy"] = True
        found = super()._get_per_token_logps_and_entropies(model, *given, **named)
        if keeps:
            self._scored = found[:2]
        return found

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self._scored = None
        output: dict[str, Any] = super()._generate_and_score_completions(inputs)
        if self.model.training:
            output["advantages"] = self._modulated(inputs, output)
        self._scored = None
        return output

    def _modulated(self, inputs: Sequence[dict[str, Any]], output: dict[str, Any]) -> Tensor:
        """Advantages (B, C) of this process's completions, from the groups of all processes."""
        mask = output["completion_mask"] * output.get("tool_mask", 1)
        logprobs, entropies = self._scores(inputs, output)
        spans = [row[SPANS] for row in inputs] if SPANS in inputs[0] else None
        numbers = number_responses(mask, spans)
        parts = {"responses": numbers, "entropies": entropies, "logprobs": logprobs}
        parts["penalties"] = _padded([row.get(PENALTIES, ()) for row in inputs], entropies)
        across = self.accelerator.pad_across_processes
        parts = {name: across(part, dim=1) for name, part in parts.items()}
        parts = self.accelerator.gather({**parts, "advantages": output["advantages"]})
        places = torch.arange(len(parts["advantages"]), device=mask.device)
        seed = derive(self.args.seed, "shuffle", self.state.global_step) % 2**31
        every = Completions(**parts, groups=places // self.num_generations)
        credit = modulate(every, self.aem_options, seed)
        for name, value in credit.figures.items():
            self._metrics["train"][f"aem/{name}"].append(value)
        own = slice(self.accelerator.process_index * len(mask), None)
        return credit.advantages[own][: len(mask), : mask.shape[1]]

    def _scores(
        self, inputs: Sequence[dict[str, Any]], output: dict[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies (B, C) under the policy that the batch was sampled by."""
        like = output["completion_mask"].to(torch.float32)
        if ENTROPIES in inputs[0]:
            return output["sampling_per_token_logps"], _padded([r[ENTROPIES] for r in inputs], like)
        if self._scored is None or "old_per_token_logps" not in output:
            self._scored = None  # that was the reference's pass
            ids, mask = (
                torch.cat([output[f"prompt_{name}"], output[f"completion_{name}"]], dim=1)
                for name in ("ids", "mask")
            )
            with torch.no_grad():
                batch = self.args.per_device_train_batch_size
                self._get_per_token_logps_and_entropies(
                    self.model, ids, mask, like.shape[1], batch_size=batch
                )
        assert self._scored is not None
        return self._scored


def _padded(rows: Sequence[Sequence[float]], like: Tensor) -> Tensor:
    """Rows of numbers as a tensor such as `like` (B, C), 0 behind their ends."""
    found = torch.zeros_like(like)
    for place, row in enumerate(rows):
        found[place, : len(row)] = torch.tensor(row, dtype=found.dtype)
    return found
