"""Sampling through the servers of verl, an episode at a time: `aem_gym.integrations.verl`.

A server is anything with the method `generate` of verl's LLMServerClient; nothing here needs verl.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from aem_gym.agents.language import LanguageAgent
from aem_gym.errors import InfrastructureError, describe
from aem_gym.protocols import Generation, GenerationRequest, Learner, Response

_SHOWN = 200


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
