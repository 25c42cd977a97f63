"""AEM and our environments in verl (v1 trainer, 0.9.1): docs/verl.md.

`VERL_USE_EXTERNAL_MODULES=aem_gym.integrations.verl` lets every process of a job import this, which
registers the trainers `aem_sync`, `aem_colocate_async` and `aem_separate_async`, and the agent loop
`aem_gym`. Both read the section `aem_gym` of the job's configuration.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset

from aem_gym.errors import ConfigError
from aem_gym.integrations.verl_credit import QueueRow, modulate
from aem_gym.integrations.verl_episodes import (
    EpisodeRow,
    rows_of,
    settled,
    stage_of,
    task_rows,
)
from aem_gym.registry import import_object
from aem_gym.rollout.collector import RolloutRequest
from aem_gym.seeding import derive
from aem_gym.training.credit import check_credit
from aem_gym.types import Episode
from aem_gym.yaml_io import dump_yaml

INSTALL = """pip install torch==2.13.0
pip install --no-deps verl==0.9.1
pip install "transformers<5.11" tensordict==0.10.0 TransferQueue ray hydra-core accelerate peft \
    codetiming datasets dill numpy pandas pyarrow pybind11 pylatexenc torchdata wandb packaging \
    tensorboard cachetools uvicorn fastapi pyzmq msgspec aiohttp"""

try:
    import transfer_queue as tq  # type: ignore[import-not-found]
    from omegaconf import OmegaConf, open_dict  # type: ignore[import-not-found]
    from tensordict import TensorDict  # type: ignore[import-not-found]
    from verl.experimental.agent_loop import (  # type: ignore[import-not-found]
        AgentLoopBase,
        AgentLoopOutput,
    )
    from verl.experimental.agent_loop.agent_loop import (  # type: ignore[import-not-found]
        AgentLoopMetrics,
        register,
    )
    from verl.trainer.ppo.v1 import (  # type: ignore[import-not-found]
        PPOTrainer,
        PPOTrainerColocateAsync,
        PPOTrainerSeparateAsync,
        PPOTrainerSync,
        register_trainer,
    )
except ImportError as missing:
    raise ImportError(
        f"aem_gym.integrations.verl needs verl 0.9.1 ({missing}). In an environment of its own:\n"
        + INSTALL
    ) from missing


def section_of(config: Any) -> dict[str, Any]:
    """The section `aem_gym` of verl's configuration. Raises ConfigError where there is none."""
    section = config.get("aem_gym")
    if section is None:
        raise ConfigError(
            "aem_gym: verl's configuration has no such section. Give +aem_gym.env=... and "
            "+aem_gym.model=..., or start from examples/verl/alfworld.yaml"
        )
    found: dict[str, Any] = OmegaConf.to_container(section, resolve=True)
    return found


# Credit ------------------------------------------------------------------------------------------

_TENSORS = ("response_mask", "old_log_probs", "entropy", "advantages", "rm_scores")


def modulate_queue(batch: Any, config: Any, step: int) -> tuple[Any, dict[str, float]]:
    """Penalties and the modulator on the advantages of a batch in verl's queue.

    Args:
        batch: its KVBatchMeta, with advantages and entropies.
        config: our settings.
        step: of training.

    Returns:
        Its KVBatchMeta, and the figures of the step.
    """
    keys, partition = batch.keys, batch.partition_id
    fields = ["uid", "extra_fields", *_TENSORS]
    data = tq.kv_batch_get(keys=keys, partition_id=partition, select_fields=fields)
    rows = _rows(keys, data)
    real = [place for place, tag in enumerate(batch.tags) if not tag.get("is_padding", False)]
    changed, figures = modulate([rows[place] for place in real], config, step)
    result = [row.advantages for row in rows]
    for place, advantages in zip(real, changed, strict=True):
        result[place] = advantages
    nested = torch.nested.as_nested_tensor(result, layout=torch.jagged)
    written = TensorDict({"advantages": nested}, batch_size=len(result))
    return tq.kv_batch_put(keys=keys, partition_id=partition, fields=written), figures


def _notes(extra: Any) -> Mapping[str, Any]:
    found = getattr(extra, "data", extra)
    return found.get("aem_gym") or {} if isinstance(found, dict) else {}


def _rows(keys: Sequence[str], data: Any) -> list[QueueRow]:
    each = {name: list(data[name].unbind()) for name in _TENSORS}
    uids, notes = list(data["uid"]), list(data["extra_fields"])
    return [
        QueueRow(
            group=str(uids[number]),
            trajectory=key.rsplit("_", 1)[0],  # uid_session_index: a session is an episode
            reward=float(each["rm_scores"][number].sum()),
            mask=each["response_mask"][number].bool(),
            logprobs=each["old_log_probs"][number],
            entropies=each["entropy"][number],
            advantages=each["advantages"][number],
            notes=_notes(notes[number]),
        )
        for number, key in enumerate(keys)
    ]


class _Modulating(PPOTrainer):  # type: ignore[misc]  # without verl it is Any
    """Modulates what the estimator of a trainer gives."""

    mode = ""
    """Verl's own name of the trainer."""

    def __init__(self, config: Any) -> None:
        self.aem_gym = settled(section_of(config))
        check_credit(self.aem_gym)
        if (config.algorithm.get("rollout_correction") or {}).get("bypass_mode"):
            raise ConfigError(
                "AEM needs the entropies of the pass that gives the old log-probabilities, which "
                "is left out. Give algorithm.rollout_correction.bypass_mode=false"
            )
        with open_dict(config):
            # Verl chooses buffers and options by this name, and knows its own ones alone.
            config.trainer.v1.trainer_mode = self.mode
        super().__init__(config)

    def _compute_advantage(self, batch: Any, metrics: dict[str, Any]) -> Any:
        batch = super()._compute_advantage(batch, metrics)
        batch, figures = modulate_queue(batch, self.aem_gym, self.global_steps)
        metrics.update({f"aem/{name}": value for name, value in figures.items()})
        return batch


@register_trainer("aem_sync")
class AEMTrainerSync(_Modulating, PPOTrainerSync):  # type: ignore[misc]
    """Verl's synchronous trainer, with AEM."""

    mode = "sync"


@register_trainer("aem_colocate_async")
class AEMTrainerColocateAsync(_Modulating, PPOTrainerColocateAsync):  # type: ignore[misc]
    """Verl's asynchronous trainer on common GPUs, with AEM."""

    mode = "colocate_async"


@register_trainer("aem_separate_async")
class AEMTrainerSeparateAsync(_Modulating, PPOTrainerSeparateAsync):  # type: ignore[misc]
    """Verl's asynchronous trainer on GPUs of its own, with AEM."""

    mode = "separate_async"


# Episodes ----------------------------------------------------------------------------------------


class TaskSeeds(Dataset[dict[str, Any]]):
    """The tasks of a job: no file, as a seed is a task. `data.custom_cls` names this class.

    Args:
        data_files: `train:COUNT`, the tasks of `train.py` with the same seed in their order, or
            `eval:COUNT`, the fixed tasks of its evaluations; one, or a list of them.
        config: verl's section `data`, with ours as `aem_gym`.
        max_samples: most rows; -1: all.
    """

    def __init__(
        self,
        data_files: str | Sequence[str],
        tokenizer: Any,
        config: Any,
        processor: Any = None,
        max_samples: int = -1,
    ) -> None:
        ours = settled(section_of(config))
        files = [data_files] if isinstance(data_files, str) else list(data_files)
        rows = [row for text in files for row in task_rows(text, ours)]
        self.rows = rows if max_samples < 0 else rows[:max_samples]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.rows[number]


@register("aem_gym")
class EpisodeLoop(AgentLoopBase):  # type: ignore[misc]  # without verl it is Any
    """An agent loop that plays one episode of the environment that `aem_gym.env` names.

    The task is that of the row's `index`, a seed, in the split `extra_info.split` (`TaskSeeds`).
    With `rollout.full_determinism`, each response has a seed of its own.
    """

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.stage = stage_of(dump_yaml(section_of(self.config)), self.tokenizer)
        self.make_policy = import_object("aem_gym.agents.verl_policy:ServerPolicy")

    async def run(
        self,
        sampling_params: dict[str, Any],
        *,
        index: int | None = None,
        extra_info: Mapping[str, Any] | None = None,
        global_steps: int = 0,
        session_id: int = 0,
        **_: Any,
    ) -> Any:
        """An AgentLoopOutput; in a `window` a list of them, one per response.

        Raises:
            ConfigError: the data do not say which task.
            InfrastructureError: the episode failed. Verl leaves it out of its group.
        """
        if index is None or "split" not in (extra_info or {}):
            raise ConfigError(
                "the agent loop aem_gym needs index (the seed of a task) and extra_info.split. "
                "Give data.custom_cls.path=pkg://aem_gym.integrations.verl and "
                "data.custom_cls.name=TaskSeeds"
            )
        stage, settings = self.stage, self.rollout_config
        seeded = bool(settings.get("full_determinism", False))
        ends = stage.builder.stop_ids
        policy = self.make_policy(
            self.server_manager, sampling_params, ends, seeded, int(global_steps)
        )
        agent = stage.agent(policy, settings.prompt_length, settings.response_length)
        seed, rollout = int(index), int(session_id)
        key = derive(stage.config.seed, "verl", int(global_steps), seed, rollout)
        request = RolloutRequest(seed, rollout, key)
        temperature, clock = float(sampling_params["temperature"]), time.perf_counter()
        split = str((extra_info or {})["split"])
        episode = await stage.play(agent, split, request, temperature)
        seconds = time.perf_counter() - clock
        rows = rows_of(episode, stage.rewards)
        made = [self._output(row, episode, policy, seconds) for row in rows]
        return made[0] if episode.context == "transcript" else made

    def _output(self, row: EpisodeRow, episode: Episode, policy: Any, seconds: float) -> Any:
        spent = {"generate_sequences": policy.seconds, "tool_calls": seconds - policy.seconds}
        return AgentLoopOutput(
            prompt_ids=row.prompt_ids,
            response_ids=row.response_ids,
            response_mask=row.mask,
            response_logprobs=row.logprobs,
            reward_score=sum(self.stage.rewards.of_turns(episode)),
            num_turns=2 * len(episode.turns),
            metrics=AgentLoopMetrics(**spent, num_preempted=policy.preempted),
            extra_fields={
                "min_global_steps": min(policy.versions, default=policy.step),
                "max_global_steps": max(policy.versions, default=policy.step),
                # Verl's name of the figure that validation reports first.
                "reward_extra_info": {"acc": float(episode.won), "env_score": episode.score},
                "aem_gym": row.notes,
            },
        )
