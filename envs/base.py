"""The base class of text environments, where environments have always imported it from."""

from aem_gym.text_env import INFO_DEFAULTS, TextEnv

__all__ = ["INFO_DEFAULTS", "TextEnv"]
