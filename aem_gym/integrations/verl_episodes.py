"""Episodes of our environments for verl, and its rows made of them. Nothing here needs verl."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from aem_gym.config import Config
from aem_gym.errors import ConfigError, InfrastructureError, check_name
from aem_gym.protocols import Agent, AsyncPolicy
from aem_gym.registry import import_object
from aem_gym.rollout.collector import Collector, CollectorSettings, RolloutRequest
from aem_gym.rollout.pool import EnvPool, open_pool
from aem_gym.seeding import derive
from aem_gym.settings import settle
from aem_gym.training.credit import Rewards
from aem_gym.training.setup import choose_template
from aem_gym.types import Episode, Turn
from aem_gym.yaml_io import load_yaml

SETTINGS = (
    *("env", "env_args", "train_split", "eval_split", "step_timeout", "reset_timeout", "seed"),
    *("model", "context", "history", "prompt_template", "response_format", "max_turns"),
    *("max_new_tokens", "chat_template_kwargs", "reward_scale", "invalid_penalty", "penalize"),
    *("overlong_buffer", "overlong_penalty", "modulator", "modulator_options", "eval_seed"),
)
"""Our settings that mean something in a job of verl: its section `aem_gym`."""


def settled(section: Mapping[str, Any]) -> Config:
    """The section `aem_gym` of verl's configuration as our settings.

    Raises:
        ConfigError: a setting that is missing, that verl has a setting of its own for, or of the
            wrong type.
    """
    for name in section:
        check_name("setting in aem_gym (what verl sets itself is set there)", name, SETTINGS)
    for name in ("env", "model"):
        if section.get(name) is None:
            raise ConfigError(
                f"aem_gym.{name}: is missing. Give +aem_gym.{name}=..., or start from "
                "examples/verl/alfworld.yaml"
            )
    return settle(dict(section)).config


class Stage:
    """What the episodes of a process share: settings, prompts, and environments.

    Args:
        config: settled.
        tokenizer: of the model.
    """

    def __init__(self, config: Config, tokenizer: Any) -> None:
        self.config = config
        self._free: dict[str, list[EnvPool]] = {}
        with self.pool(config.train_split) as pool:
            self.template = choose_template(config, pool.describe())
        open_writing = import_object("aem_gym.agents.build:open_writing")
        self.builder, self.form = open_writing(config, self.template, tokenizer)
        self.rewards = Rewards.of(config, self.template)

    @contextlib.contextmanager
    def pool(self, split: str) -> Iterator[EnvPool]:
        """An environment that no other episode has, kept for the next one."""
        free = self._free.setdefault(split, [])
        pool = free.pop() if free else open_pool(self.config, split)
        try:
            yield pool
        except BaseException:
            pool.close()
            raise
        free.append(pool)

    def agent(self, policy: AsyncPolicy, prompt_length: int, response_length: int) -> Agent:
        """An agent for one episode within verl's limits. Raises ConfigError if none fits."""
        longest = self.config.max_new_tokens
        if longest > response_length:
            raise ConfigError(
                f"aem_gym.max_new_tokens: {longest} is above data.max_response_length = "
                f"{response_length}, which holds all responses of a transcript"
            )
        limits: dict[str, Any] = {"max_length": prompt_length + response_length}
        limits |= {"max_new_tokens": longest, "response_length": response_length}
        kind = import_object("aem_gym.agents.verl_policy:EpisodeAgent")
        made: Agent = kind(policy, None, self.builder, self.form, template=self.template, **limits)
        return made

    async def play(
        self, agent: Agent, split: str, request: RolloutRequest, temperature: float
    ) -> Episode:
        """One episode, beside others in the same event loop."""
        settings = CollectorSettings(self.template, self.config.context)
        with self.pool(split) as pool:
            collector = Collector(pool, agent, settings)
            return (await collector.collect([request], temperature=temperature))[0]


@lru_cache(maxsize=4)
def stage_of(section: str, tokenizer: Any) -> Stage:
    """The stage of a process: verl makes an agent loop per episode, and they share one.

    Args:
        section: `aem_gym` of verl's configuration as YAML.
        tokenizer: the same object for all.
    """
    return Stage(settled(load_yaml(section, "aem_gym")), tokenizer)


def task_rows(text: str, config: Config) -> list[dict[str, Any]]:
    """The tasks that `train:COUNT` or `eval:COUNT` names, as rows of verl's data."""
    purpose, _, count = text.partition(":")
    if purpose not in ("train", "eval") or not count.isdecimal():
        raise ConfigError(f"data files: expected train:COUNT or eval:COUNT, got {text!r}")
    split = config.eval_split
    seeds: Sequence[int] = range(config.eval_seed, config.eval_seed + int(count))
    if purpose == "train":
        split = config.train_split
        seeds = [derive(config.seed, "task", number) >> 31 for number in range(int(count))]
    return [
        {
            "raw_prompt": [{"role": "user", "content": f"task {seed}"}],  # the environment's own
            "index": seed,
            "data_source": config.env,
            "extra_info": {"split": split, "index": seed},
        }
        for seed in seeds
    ]


# Rows --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class EpisodeRow:
    """A prompt with what followed it, as verl trains on it."""

    prompt_ids: list[int]
    response_ids: list[int]
    mask: list[int]
    """1 for the tokens that the policy generated."""
    logprobs: list[float]
    notes: dict[str, Any]
    """Of `verl_credit.QueueRow`."""


def rows_of(episode: Episode, rewards: Rewards) -> list[EpisodeRow]:
    """A transcript as one row; in a `window`, a row per response, in their order.

    Raises:
        InfrastructureError: the episode failed, or has no response. Verl leaves it out so.
    """
    turns = [(number, turn) for number, turn in enumerate(episode.turns) if turn.response_ids]
    if episode.error is not None or not turns:
        why = episode.error or f"{episode.stop_reason.value} before the first response"
        raise InfrastructureError(f"task {episode.seed}, rollout {episode.rollout}: {why}")
    if episode.context == "transcript":
        return [_row(turns, episode, rewards)]
    return [_row([turn], episode, rewards) for turn in turns]


def _row(turns: Sequence[tuple[int, Turn]], episode: Episode, rewards: Rewards) -> EpisodeRow:
    ids: list[int] = []
    mask: list[int] = []
    logprobs: list[float] = []
    spans: list[list[int]] = []
    for place, (_, turn) in enumerate(turns):
        between = list(turn.prompt_ids) if place else []
        start = len(ids) + len(between)
        ids += [*between, *turn.response_ids]
        mask += [0] * len(between) + [1] * len(turn.response_ids)
        logprobs += [0.0] * len(between) + list(turn.logprobs)
        spans.append([start, len(ids)])
    notes = {
        "spans": spans,
        "turns": [number for number, _ in turns],
        "penalties": [rewards.penalty(turn) for _, turn in turns],
        "won": episode.won,
    }
    return EpisodeRow(list(turns[0][1].prompt_ids), ids, mask, logprobs, notes)
