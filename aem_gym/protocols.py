"""The roles of a run, and the messages between them. Anything with these methods fits.

An `Agent` acts in environments. A language agent is made of a `Policy`, which samples text, a
`ResponseFormat`, which reads it, and (in training) a `Learner`, which holds the weights. A `Logger`
receives what a run logs. Estimators, modulators and losses are functions: `aem_gym.credit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from aem_gym.types import (
    Demo,
    LabelledRow,
    PromptTemplate,
    StopReason,
    TrainingRow,
    Turn,
)

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

    from aem_gym.config import Config


# Acting ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EpisodeStart:
    """The facts of an episode that an agent gets before its first turn."""

    slot: int
    """Name of the live episode; unique among the live ones."""
    key: int
    """Seed of the episode's own randomness: the same whatever else runs beside it."""
    instructions: str = ""
    goal: str = ""
    template: PromptTemplate = field(default_factory=PromptTemplate)
    temperature: float = 1.0
    """Sampling temperature of this episode; 0 is greedy."""


@dataclass(frozen=True, slots=True)
class TurnInput:
    """The input of an agent for one turn of a live episode."""

    slot: int
    turn: int
    observation: str
    info: Mapping[str, Any]
    history: Sequence[Turn]
    ask_expert: Callable[[], tuple[str, str] | None] = lambda: None
    """The environment's expert for this very state: (thought, action), or None without one."""


@dataclass(frozen=True, slots=True)
class Response:
    """An agent's answer to one turn. `action` is what the environment gets."""

    action: str
    text: str = ""
    thought: str = ""
    format_valid: bool = True
    prompt_ids: tuple[int, ...] = ()
    response_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    cut: bool = False
    stop: bool = False
    """The agent ends the episode here: a person who quits, a context that is full."""
    stop_reason: StopReason = StopReason.AGENT_STOPPED
    """Why, where `stop` is set."""
    error: str | None = None
    compacted: bool = False
    """`prompt_ids` is a whole prompt in a transcript, because earlier turns were left out."""


@runtime_checkable
class Agent(Protocol):
    """Acts in live episodes, all of them in one call."""

    name: str

    def begin(self, start: EpisodeStart) -> None:
        """A new episode lives in `start.slot`."""
        ...

    def act(self, inputs: Sequence[TurnInput]) -> list[Response]:
        """One response per input, in their order. Must not raise on any observation."""
        ...

    def end(self, slot: int) -> None:
        """The episode in `slot` is over; its memory can be freed."""
        ...


@runtime_checkable
class AsyncAgent(Agent, Protocol):
    """An agent that can also be asked about each live episode by itself.

    The collector does so where its `policy` is an `AsyncPolicy`.
    """

    async def respond(self, turn: TurnInput) -> Response:
        """The response to one turn, while others are under way."""
        ...


@runtime_checkable
class ResponseFormat(Protocol):
    """A written form of responses. `parse(render(thought, action))` is (thought, action, True)."""

    name: str

    def render(self, thought: str, action: str) -> str:
        """The text of a response."""
        ...

    def parse(self, text: str) -> tuple[str, str, bool]:
        """(thought, action, valid) of any text; never raises."""
        ...


# Sampling ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue."""

    slot: int
    """The live episode, so that a policy can keep its KV cache across turns."""
    prompt_ids: tuple[int, ...]
    """The whole prompt from its first token."""
    key: int
    """Seed of this response's draws."""
    temperature: float = 1.0
    """Divides the logits. 0 takes the most likely token, and reports the log-probabilities and
    entropies of temperature 1."""
    max_new_tokens: int | None = None
    """Longest response to this prompt, which the policy has to keep; None: the policy's limit."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A sampled continuation: ids with, per token, log-probability and full entropy (nats)."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    """Empty where a policy that is not `exact` does not know them; the learner computes them."""
    cut: bool
    """True if the token limit came before the end token."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """The settings of a policy besides the weights."""

    max_new_tokens: int
    """Longest response, end token included; a request may allow less."""
    max_length: int
    """Longest prompt with its response."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """`sampler_options` of the configuration: the policy's own."""
    max_staleness: int = 0
    """Earlier versions that a `VersionedPolicy` keeps beside the newest."""
    end_ids: Sequence[int] = ()
    """Tokens that end a response: those of the chat template and of the tokenizer."""


class PolicyBase(Protocol):
    """The methods that both kinds of policy share."""

    exact: bool
    """Its log-probabilities are the learner's own, to rounding in float32."""

    def publish(self, learner: Learner) -> int:
        """Sample from the learner's present weights from now on; the new version, from 1."""
        ...

    def release(self, slot: int) -> None:
        """The episode in `slot` is over: free what is cached for it."""
        ...

    def close(self) -> None:
        """End what runs in the background."""
        ...


@runtime_checkable
class BatchPolicy(PolicyBase, Protocol):
    """A policy in this process, which continues all prompts together."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One continuation per request, in their order."""
        ...


@runtime_checkable
class AsyncPolicy(PolicyBase, Protocol):
    """A policy behind a server, which continues each prompt by itself."""

    async def sample(self, request: GenerationRequest) -> Generation:
        """One continuation."""
        ...


@runtime_checkable
class VersionedPolicy(AsyncPolicy, Protocol):
    """A policy that can sample under an earlier version while newer ones are published."""

    version: int
    """The newest one, as `publish` returned it; 0 before."""

    def pin(self, version: int | None) -> None:
        """Sample under `version` from now on, whatever is published; None: under the newest.

        It is one of the last `max_staleness` + 1 of them.
        """
        ...

    def rest(self) -> None:
        """Nothing is sampled until the next request: what it holds may be given free."""
        ...


Policy: TypeAlias = BatchPolicy | AsyncPolicy
"""Registered as a function `(learner: Learner, settings: SamplingSettings) -> Policy`."""


# Learning ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of N responses for training; T is the longest. Row i is the i-th span."""

    logprobs: Tensor
    """(N, T), differentiable if asked for; 0 in the padding."""
    entropies: Tensor
    """(N, T), detached; 0 in the padding."""
    mask: Tensor
    """(N, T) bool, the response's tokens."""
    values: Tensor | None = None
    """(N,) the value head at the last prompt token of each response; None without a head."""


@runtime_checkable
class Learner(Protocol):
    """The weights that train. Registered as `(LearnerSettings) -> Learner`."""

    tokenizer: Any
    """A transformers tokenizer with a chat template."""

    def score(
        self, rows: Sequence[TrainingRow], *, temperature: float, reference: bool = False
    ) -> Scores:
        """Log-probabilities and entropies of all spans, in order of rows and spans.

        `reference` reads them with the frozen reference policy, without gradient.
        """
        ...

    def logprobs_at(self, ids: Tensor, positions: Tensor) -> Tensor:
        """Differentiable log-probabilities (M,) of chosen tokens.

        Args:
            ids: (B, L) tokens.
            positions: (B, L) bool, which of them, read row by row; never column 0.
        """
        ...

    def parameters(self) -> Mapping[str, Parameter]:
        """The weights that train, by name."""
        ...

    def freeze_reference(self) -> None:
        """Freeze the current policy as the reference of the KL term."""
        ...

    def save(self, folder: Path) -> None:
        """Write what trains to `folder` (PEFT format, the value head beside it)."""
        ...

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""
        ...


@dataclass(frozen=True, slots=True)
class LearnerSettings:
    """The arguments of a learner's factory."""

    config: Config
    base: str
    """Hub id or folder of the base model."""
    adapter: bool = True
    """Train a new LoRA adapter; False: all weights."""
    value_head: bool = False
    base_name: str | None = None
    """How saved adapters name their base model, for peft to find it; None: the name it was loaded
    by, of a folder only the last part."""


@runtime_checkable
class TrainableAgent(Agent, Protocol):
    """A language agent whose weights can be trained."""

    policy: Policy
    learner: Learner

    def prepare(self, turn: TurnInput) -> GenerationRequest | Response:
        """The prompt of a turn; a `Response` with `stop` where the context is full."""
        ...

    def finish(self, request: GenerationRequest, generation: Generation) -> Response:
        """The response that a generation is."""
        ...

    def tokenize(self, demo: Demo, start: EpisodeStart) -> list[LabelledRow]:
        """A demonstration as rows to clone, as if the policy had acted so."""
        ...


class BaseModel(Protocol):
    """A model that is known by a name of its own, with the settings that suit it."""

    @property
    def defaults(self) -> Mapping[str, Any]:
        """Settings of runs with it, keys of `Config`."""
        ...

    @property
    def from_scratch(self) -> bool:
        """It knows nothing: it is made for the run, and has to be cloned before RL."""
        ...

    @property
    def prompt_template(self) -> str:
        """Name of the environment's prompt template that suits it; empty: by the context."""
        ...

    def check(self, config: Config) -> None:
        """Raise ConfigError where an option of the model is wrong. Loads nothing."""
        ...

    def locate(self) -> str:
        """The hub id or folder to load; may fetch it. Only where `from_scratch` is false."""
        ...

    def make(
        self,
        folder: Path,
        config: Config,
        template: PromptTemplate,
        demos: Sequence[Demo],
        lexicon: Sequence[str],
    ) -> None:
        """Write a new model and its tokenizer to `folder`. Only where `from_scratch` is true."""
        ...


# Logging -----------------------------------------------------------------------------------------


@runtime_checkable
class Logger(Protocol):
    """Receives what a run logs, beside its files.

    Registered as `(run, config, step) -> Logger | None` (None: left out). `run` is its folder,
    `step` the RL steps that are done.
    """

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The figures of a training step (`success_rate`, `stop/won`, ...), from step 1."""
        ...

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        """The figures of an evaluation; `by_type` holds those of each task type."""
        ...

    def episodes(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        """The episodes of a step, as in `episodes.jsonl`: text samples come from here."""
        ...

    def close(self) -> None:
        """Flush and close."""
        ...
