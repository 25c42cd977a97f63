"""The data that flows through a run: Turn -> Episode -> Group -> TrainingRow. All frozen.

Units: rewards and returns are the environment's own (training scales them); log-probabilities and
entropies are in nats, at the sampling temperature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import msgspec


class StopReason(StrEnum):
    """The reason why an episode ended."""

    WON = "won"
    LOST = "lost"
    """The task is over and was not solved."""
    SUBMITTED = "submitted"
    """The agent handed in an answer that was graded and does not count as won."""
    TURN_LIMIT = "turn_limit"
    CONTEXT_FULL = "context_full"
    """The next prompt and its response do not fit into `max_length` (`context_limit`)."""
    AGENT_STOPPED = "agent_stopped"
    """The agent gave up: a person who quit."""
    ENV_ERROR = "env_error"
    """The environment raised, hung, or broke its contract."""
    AGENT_ERROR = "agent_error"
    """The agent raised, or answered with something else than a response."""
    INFRASTRUCTURE = "infrastructure"
    """What the environment runs on failed (a container engine, a server), as it says itself."""


REPLY = "(no action) "
"""Begins the action of a response in which there is none: a thought, or a call that cannot be read.
A `TextEnv` answers with the rest of that text, and nothing happens in it."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call, for response formats with function calls.

    The action of a call is the text of its argument `action`; else the tool's name and, if it has
    arguments, a space and a JSON object of them.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name of a parameter -> its JSON schema."""
    required: tuple[str, ...] = ()
    action: str = ""
    """Name of the parameter that is itself an action (a shell command)."""


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """The text in which an environment is shown to an agent; `aem_gym.agents.language` renders it.

    The templates are `str.format` strings. Fields: `{instructions} {goal} {observation}
    {admissible} {history} {step} {next_step} {shown}`: the number of past turns, the same + 1, and
    how many of them `{history}` holds.
    """

    name: str = "default"
    system: str = ""
    """Role text, sent once as the system message. Empty: no system message."""
    first: str = "{instructions}\n\n{goal}\n\n{observation}"
    """The user message of turn 0."""
    later: str = "{observation}"
    """The user message of the following turns in the `transcript` context."""
    window: str = (
        "{instructions}\n\n{goal}\n\nYou have taken {step} steps. The last {shown}:\n{history}\n\n"
        "Now: {observation}"
    )
    """The whole user message of the following turns in the `window` context."""
    history_item: str = "[{step}] {observation} -> {action}"
    """One past turn inside `{history}`."""
    history: int = 2
    """How many past turns `{history}` holds."""
    response_format: str = "tags"
    """The default response format, by name: docs/agents.md lists them."""
    tools: tuple[Tool, ...] = ()
    """What may be called, in response formats with function calls; without any, one tool `act`."""
    invalid_feedback: str = ""
    """Shown in place of the observation after an invalid action, with the fields `{observation}`
    and `{admissible}`. Empty: the observation alone."""
    max_turns: int | None = None
    """Turn limit of an episode; None leaves it to the environment."""
    reward_scale: float = 1.0
    """Factor on the environment's reward in training (published ALFWorld and WebShop runs: 10)."""
    hidden_actions: tuple[str, ...] = ()
    """Admissible actions left out of `{admissible}` (published ALFWorld prompts hide `help`)."""
    rewrite: tuple[tuple[str, str], ...] = ()
    """(regular expression, replacement) pairs, applied in order to each observation shown."""
    rewrite_actions: tuple[tuple[str, str], ...] = ()
    """The same for each action in `{admissible}`."""
    longest_window: int | None = None
    """Most characters of a `window` prompt: a longer one is shown without history, as `first`."""
    reward_source: Literal["return", "won"] = "return"
    """What training rewards: the environment's rewards, or 1 at the end of a won episode."""


@dataclass(frozen=True, slots=True)
class Turn:
    """One observation, the agent's whole response to it, and what came of it."""

    observation: str
    response: str
    """The response's text as generated, end token not included."""
    thought: str
    action: str
    reward: float = 0.0
    format_valid: bool = True
    """Whether the response could be parsed (judged by the agent's response format)."""
    action_valid: bool = True
    """Whether the environment admitted the action."""
    prompt_ids: tuple[int, ...] = ()
    """`transcript`: the tokens added before this response. `window`: the whole prompt."""
    response_ids: tuple[int, ...] = ()
    """The response's tokens as sampled, end token included. Never re-tokenised."""
    logprobs: tuple[float, ...] = ()
    """Per token, under the sampling policy at the sampling temperature."""
    entropies: tuple[float, ...] = ()
    """Per token, of the full vocabulary distribution the token was drawn from."""
    cut: bool = False
    """The response reached the token limit before its end token."""
    error: str | None = None
    compacted: bool = False
    """The transcript was full and was compacted: `prompt_ids` is the whole prompt."""

    @property
    def valid(self) -> bool:
        """Whether the response could be parsed, and its action was admitted."""
        return self.format_valid and self.action_valid

    @property
    def response_entropy(self) -> float:
        """Hbar: the mean token entropy of the response, in nats (0 without tokens)."""
        return sum(self.entropies) / len(self.entropies) if self.entropies else 0.0

    @property
    def surprisal(self) -> float:
        """S: minus the summed log-probability of the response, in nats."""
        return -sum(self.logprobs)

    @property
    def anchor(self) -> str:
        """Hash of the raw observation (GiGPO groups equal states by it)."""
        return hashlib.blake2b(self.observation.encode(), digest_size=8).hexdigest()


@dataclass(frozen=True, slots=True)
class Episode:
    """One rollout of one task."""

    task_id: str
    task_type: str
    goal: str
    seed: int
    """The seed given to `env.reset`."""
    rollout: int
    """Which rollout of its group, from 0."""
    turns: tuple[Turn, ...] = ()
    won: bool = False
    score: float = 0.0
    terminated: bool = False
    truncated: bool = False
    context: str = "transcript"
    error: str | None = None
    """Why the episode failed, if the environment or the agent did. Such episodes are masked."""
    stop_reason: StopReason = StopReason.TURN_LIMIT

    @property
    def reward(self) -> float:
        """The episode's return: the sum of the environment's rewards."""
        return sum(turn.reward for turn in self.turns)

    def to_json(self) -> bytes:
        """One line of JSON, without the newline."""
        return msgspec.json.encode(self)

    @staticmethod
    def from_json(line: bytes | str) -> Episode:
        """Read back `to_json`. Raises msgspec.ValidationError on anything else."""
        return msgspec.json.decode(line, type=Episode)


@dataclass(frozen=True, slots=True)
class Group:
    """The G rollouts of one task instance: same environment seed, same first prompt."""

    seed: int
    episodes: tuple[Episode, ...]


@dataclass(frozen=True, slots=True)
class Span:
    """The place of one response in a sequence: tokens `start` to `end` (exclusive)."""

    start: int
    end: int
    episode: int
    """Index of the episode in the step's flat list of episodes."""
    turn: int


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """One training row: token ids, and the spans in them that the policy generated."""

    ids: tuple[int, ...]
    spans: tuple[Span, ...]


@dataclass(frozen=True, slots=True)
class Task:
    """The task of an episode, as an environment reports it."""

    task_id: str
    task_type: str = "default"
    goal: str = ""


@dataclass(frozen=True, slots=True)
class StepResult:
    """An environment's answer to one action (or to the start of an episode)."""

    observation: str
    reward: float = 0.0
    terminated: bool = False
    won: bool = False
    score: float | None = None
    """Graded result in 0..1; None means 1 if won, else 0."""
    admissible_actions: tuple[str, ...] | list[str] = ()
    action_valid: bool = True
    error: str = ""
    """Why the episode cannot go on, where what it runs on has failed: it ends as truncated, and is
    left out of results and training."""
    submitted: bool = False
    """The agent has handed in its answer, and this is the verdict on it."""
    extra: dict[str, Any] = field(default_factory=dict)
    """Further info keys of this environment."""


INFO_DEFAULTS: Mapping[str, Any] = {
    "task_id": "",
    "task_type": "default",
    "goal": "",
    "admissible_actions": [],
    "action_valid": True,
    "won": False,
    "score": 0.0,
}
"""The info keys every environment reports, with the values assumed where one does not."""


@dataclass(frozen=True, slots=True)
class DemoStep:
    """One turn of a demonstration."""

    observation: str
    thought: str
    action: str
    imitate: bool = True
    """False for an action that was only fed (noise), to show how to recover from it."""
    admissible_actions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Demo:
    """A demonstration as text: what a warm start clones."""

    goal: str
    steps: tuple[DemoStep, ...]


PROMPT, IMITATE, IGNORE = 0, 1, 2
"""Labels of tokens in a `LabelledRow`: read, imitated, or neither (a noise action)."""


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """A demonstration as tokens: one row of behaviour cloning."""

    ids: tuple[int, ...]
    labels: bytes
    """Per token PROMPT, IMITATE or IGNORE."""
