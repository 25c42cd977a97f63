"""Episodes of our environments for verl: its servers as a policy, episodes as its rows.

Nothing here needs verl; a server is anything with the method `generate` of verl's LLMServerClient.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from aem_gym.agents.build import open_writing
from aem_gym.agents.language import LanguageAgent
from aem_gym.config import Config
from aem_gym.errors import ConfigError, InfrastructureError, check_name, describe
from aem_gym.protocols import Generation, GenerationRequest, Learner, Response
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
_SHOWN = 200


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


class Server(Protocol):
    """The part of verl's LLMServerClient that is used."""

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Any:
        """A TokenOutput: `token_ids`, `log_probs`, `stop_reason`, `extra_fields`."""
        ...


@dataclass
class ServerPolicy:
    """An `AsyncPolicy` on verl's servers, for one episode.

    Args:
        server: verl's `server_manager`.
        sampling: verl's parameters: temperature, top_p, ...
        end_ids: tokens that end a response.
        seeded: send each response's key as its seed. An engine is slower so.
        step: of training, for servers that do not say whose weights they have.
    """

    server: Server
    sampling: Mapping[str, Any]
    end_ids: Sequence[int]
    seeded: bool = False
    step: int = 0
    exact: bool = field(default=False, init=False)
    seconds: float = field(default=0.0, init=False)
    """Time spent in the server."""
    preempted: int = field(default=-1, init=False)
    """How often the engine interrupted a request; -1: it does not say."""
    versions: list[int] = field(default_factory=list, init=False)
    """Steps of training whose weights gave the responses."""

    def __post_init__(self) -> None:
        # The same for all turns, so that they go to the server that holds the prefix.
        self._name = uuid.uuid4().hex

    async def sample(self, request: GenerationRequest) -> Generation:
        """One continuation.

        Raises:
            InfrastructureError: the server failed, or ended the request half-way.
        """
        params = {**self.sampling, "temperature": request.temperature, "logprobs": True}
        params |= {"stop_token_ids": list(self.end_ids), "max_tokens": request.max_new_tokens}
        if self.seeded:
            params["seed"] = request.key
        clock, ids = time.perf_counter(), list(request.prompt_ids)
        try:
            made = await self.server.generate(self._name, prompt_ids=ids, sampling_params=params)
        except Exception as error:
            raise InfrastructureError(f"verl's server: {describe(error)}") from error
        self.seconds += time.perf_counter() - clock
        if made.num_preempted is not None:
            self.preempted = max(self.preempted, 0) + made.num_preempted
        if made.stop_reason == "aborted" or not made.token_ids or made.log_probs is None:
            raise InfrastructureError(
                "verl's server: expected a whole response with log-probabilities, got "
                f"{str(made):.{_SHOWN}}"
            )
        for name in ("min_global_steps", "max_global_steps"):
            if made.extra_fields.get(name) is not None:
                self.versions.append(int(made.extra_fields[name]))
        tokens = tuple(made.token_ids)
        return Generation(tokens, tuple(made.log_probs), (), tokens[-1] not in self.end_ids)

    def publish(self, learner: Learner) -> int:
        """Verl gives its servers the weights itself."""
        raise NotImplementedError("verl publishes weights to its servers itself")

    def release(self, slot: int) -> None:
        """Servers forget prefixes by themselves."""

    def close(self) -> None:
        """The servers belong to verl."""


class EpisodeAgent(LanguageAgent[None]):
    """A language agent for one episode, whose transcript fits verl's two limits.

    Args:
        response_length: most tokens behind the first prompt, the environment's texts included.
        more: as for `LanguageAgent`.
    """

    def __init__(self, *args: Any, response_length: int, **more: Any) -> None:
        super().__init__(*args, **more)
        self.response_length = response_length

    def finish(self, request: GenerationRequest, generation: Generation) -> Response:
        if self.builder.kind == "transcript" and not self._live[request.slot].transcript:
            # verl counts from the first prompt, whose length is known only now.
            limit = len(request.prompt_ids) + self.response_length
            self.max_length = min(self.max_length, limit)
        return super().finish(request, generation)


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

    def agent(self, policy: ServerPolicy, prompt_length: int, response_length: int) -> EpisodeAgent:
        """An agent for one episode within verl's limits. Raises ConfigError if none fits."""
        longest = self.config.max_new_tokens
        if longest > response_length:
            raise ConfigError(
                f"aem_gym.max_new_tokens: {longest} is above data.max_response_length = "
                f"{response_length}, which holds all responses of a transcript"
            )
        limits: dict[str, Any] = {"max_length": prompt_length + response_length}
        limits |= {"max_new_tokens": longest, "response_length": response_length}
        return EpisodeAgent(policy, None, self.builder, self.form, template=self.template, **limits)

    async def play(
        self, agent: EpisodeAgent, split: str, request: RolloutRequest, temperature: float
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
