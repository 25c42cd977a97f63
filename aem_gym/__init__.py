"""aem_gym: train LLM agents on multi-turn text tasks.

Importing registers the environment ids with Gymnasium and loads nothing heavy; the names below are
imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from aem_gym.registry import register_envs

if TYPE_CHECKING:
    from aem_gym.config import Config
    from aem_gym.credit import aem_coefficients
    from aem_gym.env_checks import check_text_env
    from aem_gym.evaluation import evaluate, load_agent, run_episode
    from aem_gym.text_env import TextEnv
    from aem_gym.training.loop import train
    from aem_gym.types import PromptTemplate, StepResult, Task

__version__ = "0.2.0"
_PUBLIC = {
    "Config": "aem_gym.config",
    "PromptTemplate": "aem_gym.types",
    "StepResult": "aem_gym.types",
    "Task": "aem_gym.types",
    "TextEnv": "aem_gym.text_env",
    "aem_coefficients": "aem_gym.credit",
    "check_text_env": "aem_gym.env_checks",
    "evaluate": "aem_gym.evaluation",
    "load_agent": "aem_gym.evaluation",
    "run_episode": "aem_gym.evaluation",
    "train": "aem_gym.training.loop",
}
__all__ = [
    "Config",
    "PromptTemplate",
    "StepResult",
    "Task",
    "TextEnv",
    "__version__",
    "aem_coefficients",
    "check_text_env",
    "evaluate",
    "load_agent",
    "run_episode",
    "train",
]

register_envs()


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'aem_gym' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
