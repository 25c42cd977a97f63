"""How an environment of ours speaks through an OpenEnv server: what client and server share.

Everything travels in OpenEnv's own messages, so that OpenEnv's clients can use our servers, too:

    reset  {"seed": 3, "env_args": {"split": "train"}, "options": {...}}
    step   {"text": "look"}, an action; {"ask": "expert"} and {"ask": "describe"} change nothing
    state  {"protocol": PROTOCOL, "episode_id": ..., "step_count": ..., "seed": ...}
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aem_gym.types import PromptTemplate

PROTOCOL = "aem_gym/1"
"""In the state of every session of ours; other servers have none."""
TOKEN_ENV = "AEM_OPENENV_TOKEN"
"""The environment variable that holds a server's token, unless a setting names another."""


@dataclass(frozen=True, slots=True)
class ServedEnv:
    """What a server says about its environment, for given arguments."""

    env: str
    instructions: str = ""
    prompt_templates: dict[str, PromptTemplate] = field(default_factory=dict)
    lexicon: tuple[str, ...] = ()
    max_turns: int | None = None
    has_expert: bool = False
    task_types: tuple[str, ...] = ()
    protocol: dict[str, Any] = field(default_factory=dict)
    """What scores depend on: see `TextEnv`."""
    arguments: tuple[str, ...] = ()
    """The arguments of the environment that a client may set."""
    defaults: dict[str, Any] = field(default_factory=dict)
    """Settings that the environment suggests to runs."""
    model_defaults: dict[str, dict[str, Any]] = field(default_factory=dict)


def settable(values: Mapping[str, Any], arguments: tuple[str, ...]) -> dict[str, Any]:
    """The suggested settings `values` without arguments of the environment that no client may set.

    Those are the server's choice.
    """
    kept: dict[str, Any] = {}
    for name, value in values.items():
        if name in ("env_args", "warmstart_env_args") and isinstance(value, Mapping):
            value = {key: each for key, each in value.items() if key in arguments}
        kept[name] = value
    return kept
