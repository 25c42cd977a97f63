"""Makes trainable agents from a configuration: the one place that knows how the parts fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.agents.chat import SWITCHES
from aem_gym.agents.compacting import CompactingAgent
from aem_gym.agents.formats import Thinking, response_format, writes_thoughts
from aem_gym.agents.language import LanguageAgent, PromptBuilder
from aem_gym.agents.tool_formats import ToolFormat, told
from aem_gym.errors import ConfigError
from aem_gym.models import find_model
from aem_gym.protocols import (
    AsyncPolicy,
    BatchPolicy,
    Learner,
    LearnerSettings,
    Policy,
    ResponseFormat,
    SamplingSettings,
    TrainableAgent,
)
from aem_gym.registry import LEARNERS, SAMPLERS, Registry
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
    base_name: str | None = None,
) -> TrainableAgent:
    """Load a base model and make it an agent, its weights published to the sampler.

    Args:
        config: a settled one.
        template: its response format is used where the configuration leaves it open.
        base: hub id, registered name or folder.
        adapter: train a new LoRA adapter; False: train all weights.
        value_head: add one (PPO).
        base_name: a lasting copy of a base made from scratch, which saved adapters name.

    Raises:
        UnknownNameError: no learner, sampler or response format of that name.
        ConfigError, ModelError: a component does not fit its role, a model cannot be loaded.
    """
    name = _base_name(config.model, base_name or base)
    settings = LearnerSettings(config, base, adapter, value_head, name)
    learner: Learner = _component(LEARNERS, config.learner, (settings,), Learner)
    return agent_of(config, template, learner)


def agent_of(config: Config, template: PromptTemplate, learner: Learner) -> TrainableAgent:
    """An agent around a learner, whose weights are published to its sampler.

    Raises:
        UnknownNameError: no sampler or response format of that name.
        ConfigError, ModelError: the sampler does not fit its role, or cannot sample the model.
    """
    builder, form = open_writing(config, template, learner.tokenizer)
    lengths = config.max_new_tokens, config.max_length
    options = _sampler_options(config)
    limits = SamplingSettings(*lengths, options, config.max_staleness, builder.stop_ids)
    roles = (BatchPolicy, AsyncPolicy)
    policy: Policy = _component(SAMPLERS, config.sampler, (learner, limits), *roles)
    policy.publish(learner)
    kind = CompactingAgent if config.context_limit == "compact" else LanguageAgent
    return kind(
        policy,
        learner,
        builder,
        form,
        max_length=config.max_length,
        max_new_tokens=config.max_new_tokens,
        template=template,
    )


def open_writing(
    config: Config, template: PromptTemplate, tokenizer: Any
) -> tuple[PromptBuilder, ResponseFormat]:
    """What renders the prompts of a model, and what reads its responses.

    Raises:
        UnknownNameError: no response format of that name.
    """
    name = template.response_format if config.response_format == "auto" else config.response_format
    form, variables = response_format(name), config.chat_template_kwargs
    form = form.of(template.tools) if isinstance(form, ToolFormat) else form
    thinks, tags = writes_thoughts(form), form.render("a thought", "an action")
    text, tools = told(form, tokenizer, variables)
    about = {"thinks": thinks, "tags": tags, "told": text, "tools": tools}
    builder = PromptBuilder(tokenizer, config.context, variables, **about)
    if builder.pieces.opened or any(variables.get(name) for name in SWITCHES):
        form = Thinking(form, builder.pieces.opened)
    return builder, form


def check_sampler(config: Config, starts: bool) -> None:
    """Check the sampler's options, as far as it can without a model.

    Unless the run `starts` here, what is missing on this machine is only warned about.

    Raises:
        UnknownNameError, ConfigError: an option does not exist or is wrong, or the sampler is not
            installed.
    """
    options = _sampler_options(config)
    check = getattr(SAMPLERS.load(config.sampler), "check_options", None)
    if check is not None:
        check(options, starts)


def _base_name(model: str, base: str) -> str:
    """The name by which peft finds the base model of a saved adapter: a hub id, or a folder."""
    known = find_model(model)
    place = base if known.from_scratch else known.locate()
    folder = Path(place).expanduser()
    return str(folder.resolve()) if folder.is_dir() else place


def _sampler_options(config: Config) -> dict[str, Any]:
    """The sampler's options, with its servers, and with the old spelling of `merge`."""
    options = dict(config.sampler_options)
    if config.sampler_url:
        if config.sampler == "hf":
            raise ConfigError("sampler_url: the sampler hf uses no server. Give --sampler vllm")
        options["urls"] = list(config.sampler_url)
    if config.sampler == "hf" and "merge_for_sampling" in config.model_options:
        options.setdefault("merge", config.model_options["merge_for_sampling"])
    return options


def _component(registry: Registry, name: str, given: tuple[Any, ...], *roles: type) -> Any:
    """Make a registered component, and check that it fits one of its roles."""
    part = registry.load(name)(*given)
    if isinstance(part, roles):
        return part
    names = " or ".join(role.__name__ for role in roles)
    raise ConfigError(
        f"{registry.kind} {name!r}: expected a {names} (aem_gym.protocols), got {part!r:.80}"
    )
