"""Makes trainable agents from a configuration: the one place that knows how the parts fit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aem_gym.agents.formats import response_format
from aem_gym.agents.language import LanguageAgent
from aem_gym.agents.prompts import PromptBuilder
from aem_gym.errors import ConfigError
from aem_gym.models import find_model
from aem_gym.protocols import (
    AsyncPolicy,
    BatchPolicy,
    Learner,
    LearnerSettings,
    Policy,
    SamplingSettings,
    TrainableAgent,
)
from aem_gym.registry import LEARNERS, SAMPLERS
from aem_gym.types import PromptTemplate

if TYPE_CHECKING:
    from aem_gym.config import Config


def open_agent(
    config: Config,
    template: PromptTemplate,
    base: str,
    *,
    adapter: bool = True,
    value_head: bool = False,
) -> TrainableAgent:
    """Load a base model and make it an agent, its weights published to the sampler.

    Args:
        config: learner, sampler and their options, LoRA, context, lengths.
        template: its response format is used where the configuration leaves it open.
        base: hub id, registered name or folder.
        adapter: train a new LoRA adapter; False: train all weights.
        value_head: add one (PPO).

    Raises:
        UnknownNameError: no learner, sampler or response format of that name.
        ConfigError: a component does not fit its role.
        ModelError: the base model cannot be loaded.
    """
    # A model made for a run lives in the run's own folder, whatever that is called.
    base_name = "model" if find_model(config.model).from_scratch else None
    settings = LearnerSettings(config, base, adapter, value_head, base_name)
    learner: Learner = _checked(
        LEARNERS.load(config.learner)(settings), (Learner,), f"learner {config.learner!r}"
    )
    limits = SamplingSettings(config.max_new_tokens, config.max_length, _sampler_options(config))
    policy: Policy = _checked(
        SAMPLERS.load(config.sampler)(learner, limits),
        (BatchPolicy, AsyncPolicy),
        f"sampler {config.sampler!r}",
    )
    policy.publish(learner)
    name = template.response_format if config.response_format == "auto" else config.response_format
    return LanguageAgent(
        policy,
        learner,
        PromptBuilder(learner.tokenizer, config.context),
        response_format(name),
        max_length=config.max_length,
        max_new_tokens=config.max_new_tokens,
    )


def _sampler_options(config: Config) -> dict[str, Any]:
    """The sampler's options, with the old spelling of `merge`."""
    options = dict(config.sampler_options)
    if config.sampler == "hf" and "merge_for_sampling" in config.model_options:
        options.setdefault("merge", config.model_options["merge_for_sampling"])
    return options


def _checked(part: Any, roles: tuple[type, ...], what: str) -> Any:
    if isinstance(part, roles):
        return part
    names = " or ".join(role.__name__ for role in roles)
    raise ConfigError(f"{what}: expected a {names} (aem_gym.protocols), got {part!r:.80}")
