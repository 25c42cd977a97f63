"""What a component must offer to be interchangeable: roles and their messages.

`Agent` acts in environments; `Policy` is the model behind a language agent; `ResponseFormat`
turns (thought, action) into text and back. Anything with these methods fits; nothing to inherit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from aem_gym.types import Demo, LabelledRow, PromptTemplate, TrainingRow, Turn

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter


@dataclass(frozen=True, slots=True)
class EpisodeStart:
    """What an agent learns about an episode before its first turn."""

    slot: int
    """Name of the live episode; unique among the live ones."""
    key: int
    """Seed of the episode's own randomness: the same whatever else runs beside it."""
    instructions: str = ""
    goal: str = ""
    recipe: PromptTemplate = field(default_factory=PromptTemplate)


@dataclass(frozen=True, slots=True)
class TurnInput:
    """What an agent sees when it has to act in one live episode."""

    slot: int
    turn: int
    observation: str
    info: Mapping[str, Any]
    history: Sequence[Turn]
    ask_expert: Callable[[], tuple[str, str] | None] = lambda: None
    """The environment's expert for this very state: (thought, action), or None without one."""


@dataclass(frozen=True, slots=True)
class Response:
    """What an agent answers. `action` is what the environment gets."""

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
    """The agent gives up on the episode (a person who quits, a transcript that is full)."""
    error: str | None = None


@runtime_checkable
class Agent(Protocol):
    """Anything that acts. Batched: one call answers every live episode."""

    name: str

    def begin(self, start: EpisodeStart) -> None:
        """A new episode lives in `start.slot`."""
        ...

    def act(self, situations: Sequence[TurnInput]) -> list[Response]:
        """One response per situation, in their order. Must not raise on any observation."""
        ...

    def end(self, slot: int) -> None:
        """The episode in `slot` is over; its memory can go."""
        ...


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to continue. `slot` lets a generator keep its KV cache across turns."""

    slot: int
    prompt_ids: tuple[int, ...]
    """The whole prompt from its first token."""
    key: int
    """Seed of this response's draws."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A sampled continuation: ids with, per token, log-probability and full entropy (nats)."""

    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    entropies: tuple[float, ...]
    cut: bool
    """True if the token limit came before the end token."""


@runtime_checkable
class Policy(Protocol):
    """A model that continues prompts."""

    def generate(self, requests: Sequence[GenerationRequest]) -> list[Generation]:
        """One continuation per request, in their order."""
        ...

    def release(self, slot: int) -> None:
        """Forget what is cached for `slot`."""
        ...


@runtime_checkable
class ResponseFormat(Protocol):
    """How a response is written. `parse(render(thought, action))` gives (thought, action, True)."""

    name: str

    def render(self, thought: str, action: str) -> str:
        """The text of a response."""
        ...

    def parse(self, text: str) -> tuple[str, str, bool]:
        """(thought, action, valid) of any text; never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """What the learner reads of N responses; T is the longest. Row i is the i-th span."""

    logprobs: Tensor
    """(N, T), differentiable if asked for; 0 in the padding."""
    entropies: Tensor
    """(N, T), detached; 0 in the padding."""
    mask: Tensor
    """(N, T) bool, the response's tokens."""
    values: Tensor | None = None
    """(N,) the value head at the last prompt token of each response; None without a head."""


@runtime_checkable
class TrainableAgent(Agent, Protocol):
    """A language agent whose weights can be trained: what the trainer needs of it."""

    exact_sampling: bool
    """The sampler computes in the learner's precision: its log-probabilities can be used."""

    def tokenize(self, demo: Demo, start: EpisodeStart) -> list[LabelledRow]:
        """A demonstration as rows to clone, as if the policy had acted so."""
        ...

    def score(
        self, sequences: Sequence[TrainingRow], *, temperature: float, reference: bool = False
    ) -> Scores:
        """Log-probabilities and entropies of all spans, in order of sequences and spans."""
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

    def weights_changed(self) -> None:
        """Tell the sampler that the weights are others now."""
        ...

    def sampling(self, temperature: float) -> None:
        """Sample at this temperature from now on (0: greedy)."""
        ...

    def freeze_reference(self) -> None:
        """Keep the present policy as the one that the KL is measured to."""
        ...

    def save(self, folder: Path) -> None:
        """Write what trains to `folder` (PEFT format, the value head beside it)."""
        ...

    def load(self, folder: Path) -> None:
        """Read back what `save` wrote."""
        ...
