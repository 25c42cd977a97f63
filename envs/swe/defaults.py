"""Settings of training runs that nobody has set."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

RUN: Mapping[str, Any] = MappingProxyType(
    {
        "eval_split": "eval",
        "eval_episodes": 64,
        "mask_truncated": True,
        "max_length": 32_768,
        "max_new_tokens": 2_048,
        "max_live": 32,
        # An environment keeps its own limits: 90 s a command, at most 30 min of grading. A first
        # reset builds or pulls an image.
        "step_timeout": 2400.0,
        "reset_timeout": 3600.0,
    }
)
"""With any model."""

_SMALL: Mapping[str, Any] = {"repos": "inflection", "max_turns": 8, "max_observation": 1200}

TINY: Mapping[str, Any] = MappingProxyType(
    {
        "env_args": dict(_SMALL),
        "warmstart_episodes": 8,
        "warmstart_steps": 300,
        "warmstart_batch": 4,
        "warmstart_noise": 0.0,
        "max_length": 4096,
        "max_new_tokens": 160,
        "steps": 2,
        "groups": 2,
        "group_size": 4,
        "eval_every": 2,
        "eval_episodes": 4,
    }
)
"""A smoke run of minutes on a CPU: one small package. So small a model learns to copy what it was
shown, not to program."""

SMOLLM2: Mapping[str, Any] = MappingProxyType(
    {
        "env_args": dict(_SMALL),
        "warmstart": "expert",
        "warmstart_episodes": 8,
        "warmstart_steps": 8,
        "warmstart_batch": 1,
        "warmstart_noise": 0.0,
        "max_length": 4096,
        "max_new_tokens": 120,
        "steps": 1,
        "groups": 1,
        "group_size": 2,
        "eval_every": 0,
        "micro_batch": 1,
    }
)
"""The same with real weights of 135 million parameters."""
