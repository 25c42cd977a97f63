"""Episodes of our environments as TRL's `rollout_func` gives them. Imports nothing of TRL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from aem_gym.errors import ConfigError, EnvironmentFailure, check_name
from aem_gym.protocols import TrainableAgent
from aem_gym.registry import import_object
from aem_gym.rollout.collector import Collector, CollectorSettings, RolloutRequest
from aem_gym.rollout.pool import open_pool
from aem_gym.seeding import derive
from aem_gym.settings import settle
from aem_gym.training.credit import Rewards
from aem_gym.training.setup import choose_template
from aem_gym.types import Episode

SPANS, ENTROPIES, PENALTIES = "aem_spans", "aem_entropies", "aem_penalties"
"""Columns for `AEMGRPOTrainer`: of each response its first and last token, of each token its
entropy and its response's penalty."""

SETTINGS = (
    *("env_args", "prompt_template", "reward_scale", "response_format", "chat_template_kwargs"),
    *("max_turns", "max_length", "max_new_tokens", "sampler_options", "invalid_penalty"),
    *("penalize", "overlong_buffer", "overlong_penalty", "max_concurrent_episodes", "workers"),
    *("step_timeout", "reset_timeout"),
)
"""Settings of ours that a rollout has; TRL's own decide the rest."""


def rollout_func(
    env: str | type,
    *,
    model: str,
    split: str = "train",
    on_episodes: Callable[[list[Episode]], None] | None = None,
    **settings: Any,
) -> EnvRollouts:
    """A `rollout_func` for TRL that plays one of our environments. Close it when done.

    Args:
        env: id, `module:Class` or class of the environment.
        model: the name, hub id or folder that the trainer's model is loaded from, or `tiny`: it
            decides the prompt template and what is not set here.
        split: of the tasks.
        on_episodes: called with the episodes of this process, in the order of the prompts.
        settings: of our configuration, those in `SETTINGS` (docs/configuration.md).

    Raises:
        UnknownNameError, ConfigError: a setting that does not exist or does not concern rollouts,
            an environment that cannot be made.
    """
    for name in settings:
        check_name("setting of rollout_func", name, SETTINGS)
    given = {"env": env, "model": model, "context": "transcript", **settings}
    return EnvRollouts(given, split, on_episodes)


class EnvRollouts:
    """Plays the tasks whose seeds are the prompts, with the trainer's model. A context manager.

    The draws of an episode depend on the trainer's seed, the step, and the episode's place among
    those of all processes: one process and several sample the same.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        split: str,
        on_episodes: Callable[[list[Episode]], None] | None = None,
    ) -> None:
        self.config, self.on_episodes = settle(settings).config, on_episodes
        self.pool = open_pool(self.config, split)
        self.template = choose_template(self.config, self.pool.describe())
        self.rewards = Rewards.of(self.config, self.template)
        self._agent: TrainableAgent | None = None
        self._calls = (-1, 0)

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, Any]:
        """The completions of the prompts, in their order, as TRL wants them."""
        requests = self._requests(prompts, trainer)
        with _sampling(trainer):
            if self._agent is None:
                self._agent = self._open_agent(trainer)
            else:
                self._agent.policy.publish(self._agent.learner)
            limits = (self.template.max_turns, self.config.max_concurrent_episodes)
            settings = CollectorSettings(self.template, self.config.context, *limits)
            collector = Collector(self.pool, self._agent, settings)
            episodes = collector.run(requests, temperature=trainer.temperature)
        if self.on_episodes is not None:
            self.on_episodes(episodes)
        if all(episode.error for episode in episodes):
            raise EnvironmentFailure(f"all episodes failed, the first with: {episodes[0].error}")
        exact = self._agent.policy.exact and trainer.accelerator.mixed_precision == "no"
        end = int(trainer.processing_class.eos_token_id)
        return self._columns(episodes, end, exact=exact)

    def close(self) -> None:
        """Close the environments."""
        self.pool.close()
        if self._agent is not None:
            self._agent.policy.close()

    def __enter__(self) -> EnvRollouts:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _requests(self, prompts: Sequence[str], trainer: Any) -> list[RolloutRequest]:
        """One per prompt: TRL repeats each as often as its group is large."""
        training = bool(trainer.model.training)
        size = trainer.num_generations if training else trainer.num_generations_eval
        step = int(trainer.state.global_step)
        self._calls = (step, self._calls[1] + 1 if self._calls[0] == step else 0)
        stream = (int(trainer.args.seed), "train" if training else "eval", *self._calls)
        first = trainer.accelerator.process_index * len(prompts)
        return [
            RolloutRequest(seed, place % size, derive("trl", *stream, place, seed))
            for place, seed in enumerate(map(_seed_of, prompts), first)
        ]

    def _open_agent(self, trainer: Any) -> TrainableAgent:
        check_trainer(trainer)
        borrow_agent = import_object("aem_gym.agents.borrowed:borrow_agent")
        model = trainer.accelerator.unwrap_model(trainer.model)
        agent: TrainableAgent = borrow_agent(
            self.config, self.template, model, trainer.processing_class
        )
        return agent

    def _columns(self, episodes: Sequence[Episode], end: int, *, exact: bool) -> dict[str, Any]:
        rows = [self._row(episode, end) for episode in episodes]
        columns = {name: [row[name] for row in rows] for name in rows[0]}
        if not exact:  # then the learner's are right, and not the sampler's
            del columns[ENTROPIES]
        return columns

    def _row(self, episode: Episode, end: int) -> dict[str, Any]:
        """An episode as prompt and completion; one that failed counts nowhere."""
        turns = [turn for turn in episode.turns if turn.response_ids]
        failed = episode.error is not None or not turns
        if not turns:
            return _nothing(end)
        ids: list[int] = []
        mask: list[int] = []
        tokens: dict[str, list[float]] = {"logprobs": [], ENTROPIES: [], PENALTIES: []}
        spans: list[tuple[int, int]] = []
        for number, turn in enumerate(turns):
            added, sampled = turn.prompt_ids if number else (), len(turn.response_ids)
            spans.append((len(ids) + len(added), len(ids) + len(added) + sampled))
            ids += [*added, *turn.response_ids]
            mask += [0] * len(added) + [0 if failed else 1] * sampled
            penalties = (self.rewards.penalty(turn),) * sampled
            values = (turn.logprobs, turn.entropies or (0.0,) * sampled, penalties)
            for column, known in zip(tokens.values(), values, strict=True):
                column += [0.0] * len(added) + list(known)
        return {
            "prompt_ids": list(turns[0].prompt_ids),
            "completion_ids": ids,
            "env_mask": mask,
            **tokens,
            SPANS: spans,
            "env_return": None if failed else sum(self.rewards.of_turns(episode)),
            "env_won": None if failed else episode.won,
            "env_turns": len(turns),
        }


def episode_return(
    completions: Sequence[Any],
    env_return: Sequence[float | None],
    env_won: Sequence[bool | None],
    env_turns: Sequence[int],
    log_metric: Callable[[str, float], None] | None = None,
    **_: Any,
) -> list[float | None]:
    """The reward function for our `rollout_func`: the episode's scaled return.

    None for an episode whose environment failed: TRL leaves it out. Logs the share of episodes that
    were won, and failed, and their mean length in turns.
    """
    whole = [won for won in env_won if won is not None]
    if log_metric is not None:
        log_metric("env/failed", 1 - len(whole) / len(env_won))
        log_metric("env/turns", sum(env_turns) / len(env_turns))
        if whole:
            log_metric("env/success_rate", sum(whole) / len(whole))
    return list(env_return)


def check_trainer(trainer: Any) -> None:
    """Raise ConfigError where a trainer's model cannot be sampled as its settings say."""
    if trainer.use_vllm:
        raise ConfigError(
            "use_vllm: rollout_func samples from trainer.model itself. Leave use_vllm out, or "
            "train with our own loop: train.py --sampler vllm"
        )
    if trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled:
        raise ConfigError(
            "rollout_func cannot sample from a model that is sharded over processes. Start the "
            "script with torchrun and without FSDP or DeepSpeed"
        )
    plain = {"top_p": (1, None), "top_k": (0, None), "min_p": (None, 0), "repetition_penalty": (1,)}
    for name, off in plain.items():
        found = getattr(trainer, name)
        if found not in off:
            raise ConfigError(
                f"{name}: expected {off[0]}, got {found!r}: entropies and log-probabilities are "
                "those of the whole distribution. Leave it out of the GRPOConfig"
            )


@contextmanager
def _sampling(trainer: Any) -> Iterator[None]:
    """The model as it samples, without checkpoints of activations; afterwards as it was before.

    Where they are on, a model that trains drops its KV cache and says nothing.
    """
    training = [module for module in trainer.model.modules() if module.training]
    trainer.model.eval()
    try:
        with torch.no_grad(), trainer.accelerator.autocast():
            yield
    finally:
        for module in training:
            module.training = True


def _seed_of(prompt: object) -> int:
    if isinstance(prompt, str) and prompt.strip().isdecimal():
        return int(prompt)
    raise ConfigError(
        f"expected the seed of a task as prompt, got {prompt!r:.80}. Make the data set with "
        "aem_gym.integrations.trl.task_seeds(range(1000))"
    )


def _nothing(end: int) -> dict[str, Any]:
    """What stands for an episode without a response."""
    row: dict[str, Any] = {"prompt_ids": [end], "completion_ids": [end], "env_mask": [0]}
    row |= {name: [0.0] for name in ("logprobs", ENTROPIES, PENALTIES)}
    return row | {SPANS: [], "env_return": None, "env_won": None, "env_turns": 0}
