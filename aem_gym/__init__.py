"""aem_gym: train LLM agents on multi-turn text tasks.

Importing registers the environment ids with Gymnasium and loads nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aem_gym.registry import register_envs

if TYPE_CHECKING:
    from aem_gym.evaluation.runner import load_agent

__version__ = "0.1.0"
__all__ = ["__version__", "load_agent"]

register_envs()


def __getattr__(name: str) -> Any:
    """Names that need torch are imported on first use."""
    if name == "load_agent":
        from aem_gym.evaluation.runner import load_agent

        return load_agent
    raise AttributeError(f"module 'aem_gym' has no attribute {name!r}")
