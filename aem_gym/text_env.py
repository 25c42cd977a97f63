"""TextEnv."""

from aem_gym.envs.base import TextEnv

__all__ = ["TextEnv"]
