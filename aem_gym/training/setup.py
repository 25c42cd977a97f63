"""Before the first step: checks, then everything a run needs, made in order."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from aem_gym.config import Config
from aem_gym.console import quiet_loading
from aem_gym.errors import CheckpointError, ConfigError, UnknownNameError
from aem_gym.evaluation import EvalSpec, eval_spec
from aem_gym.io import atomic_folder, atomic_write
from aem_gym.models import find_model, fingerprint
from aem_gym.protocols import TrainableAgent
from aem_gym.registry import (
    ESTIMATORS,
    FORMATS,
    LEARNERS,
    LOGGERS,
    LOSSES,
    MODULATORS,
    SAMPLERS,
    env_factory,
    env_tool,
    import_object,
)
from aem_gym.rollout.collector import Collector, CollectorSettings
from aem_gym.rollout.envs import EnvDescription
from aem_gym.rollout.pool import env_kwargs, env_parameters, open_pool
from aem_gym.runs import BASE, START, TEMPLATE, check_base
from aem_gym.training.adapter import check_adapter, keep_start, open_adapter
from aem_gym.types import PromptTemplate

if TYPE_CHECKING:
    from aem_gym.training.distributed import World

logger = logging.getLogger(__name__)

_OWN_ARGUMENTS = {
    *("conversation", "messages", "tokenize", "add_generation_prompt", "continue_final_message"),
    *("padding", "truncation", "max_length", "return_tensors", "return_dict", "tokenizer_kwargs"),
}
"""Arguments of `apply_chat_template` that are not variables of a template."""
_DEVICE = re.compile(r"^(auto|cpu|mps|cuda(:\d+)?)$")


# Checks ------------------------------------------------------------------------------------------


def check_run(config: Config, *, starts: bool = True) -> None:
    """Everything that can be checked before a model loads; `--dry-run` does the same.

    Makes the environments of both splits once. Estimator, modulator, loss and device are tried
    where torch is installed. Unless the run `starts` here, what it needs of this machine for its
    sampler is only warned about.

    Raises:
        UnknownNameError: a component, argument or option that does not exist; lists what does.
        ConfigError: a value out of range, or values that do not go together.
    """
    _check_relations(config)
    _check_selection(config)
    check_adapter(config)
    for registry, name in (
        (ESTIMATORS, config.estimator),
        (MODULATORS, config.modulator),
        (SAMPLERS, config.sampler),
        (LEARNERS, config.learner),
        *((LOGGERS, name) for name in config.loggers),
        *(((LOSSES, config.loss),) if config.loss != "auto" else ()),
        *(((FORMATS, config.response_format),) if config.response_format != "auto" else ()),
    ):
        registry.check(name)
    find_model(config.model).check(config)
    _check_env(config)
    if importlib.util.find_spec("torch") is None:
        logger.info("torch is not installed: estimator, loss and device were not tried")
        return
    from aem_gym.training.ahead import no_versions
    from aem_gym.training.breaker import rules_of
    from aem_gym.training.credit import check_credit
    from aem_gym.training.update import check_loss
    from aem_gym.training.warmstart import check_warm_start

    if config.max_staleness and not hasattr(SAMPLERS.load(config.sampler), "pin"):
        raise no_versions(config)
    import_object("aem_gym.agents.build:check_sampler")(config, starts)
    check_warm_start(config)
    check_credit(config)
    check_loss(config)
    rules_of(config)
    import_object("aem_gym.agents.models:resolve_device")(config.device)


def _check_relations(config: Config) -> None:
    if config.max_new_tokens >= config.max_length:
        raise ConfigError(
            f"max_new_tokens ({config.max_new_tokens}) must be below max_length "
            f"({config.max_length}): a prompt has to fit as well"
        )
    if config.context_limit == "compact" and config.context != "transcript":
        raise ConfigError(
            f"context_limit compact: a prompt of the context {config.context} holds the last turns "
            "only, as --history says. Give --context transcript, or leave --context-limit out"
        )
    taken = sorted(_OWN_ARGUMENTS & config.chat_template_kwargs.keys())
    if taken:
        raise ConfigError(f"chat_template_kwargs.{taken[0]}: cannot be set; prompts decide it")
    if isinstance(config.mini_batch, str) and not re.fullmatch(r"1/[1-9]\d*", config.mini_batch):
        raise ConfigError(
            f"mini_batch: expected a number of rows, or a share such as 1/2, got "
            f"{config.mini_batch!r}"
        )
    if isinstance(config.token_samples, str) and config.token_samples != "all":
        raise ConfigError(f"token_samples: expected a number, or all, got {config.token_samples!r}")
    if not _DEVICE.match(config.device):
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {config.device!r}")
    if not config.lora_targets:
        raise ConfigError("lora_targets: expected all-linear or names of layers, got none")
    if config.shard_base and config.sampler == "hf":
        raise ConfigError(
            "shard_base: sampling through a base model that is spread over processes would fetch "
            "all of it for every token. Give --sampler vllm (docs/cluster.md)"
        )
    if config.shard_base and (config.model_options.keys() & {"quantization", "compile"}):
        raise ConfigError(
            "shard_base: a quantized or compiled base model cannot be spread. Leave "
            "model_options.quantization and model_options.compile out, or --shard-base"
        )
    if config.out is not None and not config.out.strip():
        raise ConfigError("out: expected a folder, got an empty text")


def _check_selection(config: Config) -> None:
    """Raise ConfigError where the best checkpoint cannot be chosen as the settings say."""
    if config.patience and config.keep_best is None:
        raise ConfigError(
            "patience: name the split that results are compared on, with --keep-best (not "
            f"{config.eval_split}, unless the held-out result need not be unbiased)"
        )
    if config.keep_best is not None and not config.eval_every:
        raise ConfigError("keep_best: there is no evaluation to choose by: give --eval-every")
    splits = "split" in env_kwargs(config, config.eval_split)
    if config.keep_best not in (None, config.eval_split) and not splits:
        raise ConfigError(
            f"keep_best: {config.env} has no splits, so the best can only be chosen on the "
            f"tasks of the evaluation: --keep-best {config.eval_split} says that it may"
        )


def _check_env(config: Config) -> None:
    """Arguments, prompt template, what the environment runs on, and its making."""
    factory = env_factory(config.env)
    names, takes_any = env_parameters(config.env)
    for key in (*config.env_args, *config.warmstart_env_args):
        if key not in names and not takes_any:
            raise UnknownNameError(f"argument of {config.env}:", key, names)
    templates = getattr(factory, "prompt_templates", None)
    known = ("auto", *templates) if isinstance(templates, Mapping) else ("auto",)
    if config.prompt_template not in known:
        raise UnknownNameError(
            "prompt template", config.prompt_template, known, f"(Of {config.env}.)"
        )
    preflight = env_tool(factory, "preflight")
    splits = (config.train_split, config.eval_split, config.keep_best)
    for split in dict.fromkeys(filter(None, splits)):
        kwargs = env_kwargs(config, split)
        with open_pool(replace(config, workers=0), split) as pool:
            description = pool.describe()
        if split == config.train_split:
            _check_context(config, description)
        if preflight is not None:
            preflight(kwargs)
            preflight = None


def _check_context(config: Config, description: EnvDescription) -> None:
    """Warn where long responses would end episodes before the turn limit does."""
    turns = choose_template(config, description).max_turns or description.max_turns
    fit = config.max_length // config.max_new_tokens
    ends = config.context == "transcript" and config.context_limit == "stop"
    if ends and turns is not None and fit < turns:
        logger.warning(
            "max_length %d holds at most %d responses of max_new_tokens %d, and an episode has up "
            "to %d turns: long responses will end it before (stop_reason context_full). Raise "
            "--max-length (%d holds all, without what is observed), lower --max-new-tokens, or "
            "give --context-limit compact",
            config.max_length,
            fit,
            config.max_new_tokens,
            turns,
            turns * config.max_new_tokens,
        )


# Components --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunComponents:
    """Agent and environments of a run."""

    agent: TrainableAgent
    template: PromptTemplate
    collector: Collector
    """Of the training split."""
    evaluator: Collector
    """Of the evaluation split."""
    eval_spec: EvalSpec
    selector: Selector | None = None
    """Of the split by which the best checkpoint is chosen, where that is another."""
    world: World | None = None
    """The other processes of the run, if there are any."""


@dataclass(frozen=True)
class Selector:
    """What plays the episodes by which checkpoints are compared, and which those are."""

    collector: Collector
    spec: EvalSpec


def prepare_torch(config: Config) -> None:
    """Threads and deterministic kernels: what makes two runs byte-identical on one machine."""
    import torch

    if config.threads:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        # Asked for by cuBLAS before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        # Nothing reads such memory, and filling it costs 4% of a step.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def open_components(
    config: Config, run: Path, world: World | None = None
) -> Iterator[RunComponents]:
    """Make the components, warm start included; environments are closed at the end."""
    best = config.keep_best if config.keep_best != config.eval_split else None
    with (
        open_pool(config, config.train_split) as pool,
        open_pool(config, config.eval_split) as eval_pool,
        open_pool(config, best) if best else nullcontext() as best_pool,
    ):
        description = pool.describe()
        template = choose_template(config, description)
        start = partial(_start, config, description, template, run)
        with quiet_loading():
            begun = start() if world is None else world.first(start)
            agent = _make_agent(config, template, begun)
        if not find_model(config.model).from_scratch:
            check_base(run, fingerprint(config))
        settings = CollectorSettings(
            template, config.context, template.max_turns, config.max_concurrent_episodes
        )
        selector = None
        if best and best_pool is not None:
            chosen = eval_spec(replace(config, eval_split=best), template, best_pool.describe())
            selector = Selector(Collector(best_pool, agent, settings), chosen)
        parts = RunComponents(
            agent=agent,
            template=template,
            collector=Collector(pool, agent, settings),
            evaluator=Collector(eval_pool, agent, settings),
            eval_spec=eval_spec(config, template, eval_pool.describe()),
            selector=selector,
        )
        try:
            yield parts if world is None else _shared(parts, world)
        finally:
            agent.policy.close()


def _shared(parts: RunComponents, world: World) -> RunComponents:
    """The components of one of several processes."""
    from aem_gym.training.shared import SharedCollector, check_alike

    check_alike(parts.agent.learner, world)
    selector = parts.selector
    if selector is not None:
        selector = replace(selector, collector=SharedCollector(selector.collector, world))
    return replace(
        parts,
        collector=SharedCollector(parts.collector, world),
        evaluator=SharedCollector(parts.evaluator, world),
        selector=selector,
        world=world,
    )


def _start(
    config: Config, description: EnvDescription, template: PromptTemplate, run: Path
) -> tuple[str, str | None, Path | None]:
    """The base model that RL starts from, the name it is saved by, and the adapter.

    The run keeps copies: of the adapter, and of a base made from scratch.
    """
    atomic_write(run / TEMPLATE, msgspec.json.encode(template))
    base, adapter = _beginning(config, description, template, run)
    if not find_model(config.model).from_scratch:
        return base, None, adapter
    if not (run / BASE).exists():
        with atomic_folder(run / BASE) as folder:
            shutil.copytree(base, folder, dirs_exist_ok=True)
    # Equal runs give equal bytes, so adapters name the clone they share, not the run's copy.
    return str(run / BASE), base, adapter


def _beginning(
    config: Config, description: EnvDescription, template: PromptTemplate, run: Path
) -> tuple[str, Path | None]:
    from aem_gym.training.warmstart import warm_start

    if config.adapter is not None:
        return open_adapter(config, run)
    if config.resume and (run / START).is_dir():  # today's clone may be another one
        return config.model, run / START
    base, adapter = warm_start(config, description, template)
    return base, None if adapter is None else keep_start(adapter, run)


def choose_template(config: Config, description: EnvDescription) -> PromptTemplate:
    """The prompt template of a run: the named one, or the one that suits model and context.

    Raises:
        UnknownNameError: the environment has no prompt template of that name.
    """
    templates = description.prompt_templates
    name = config.prompt_template
    if name == "auto":
        by_context = "published" if config.context == "window" else config.context
        name = find_model(config.model).prompt_template or by_context
        name = name if name in templates else next(iter(templates))
    if name not in templates:
        raise UnknownNameError("prompt template", name, templates)
    template = templates[name]
    changes: dict[str, Any] = {
        "history": config.history,
        "max_turns": config.max_turns,
        "invalid_feedback": config.invalid_feedback,
    }
    template = replace(template, **{k: v for k, v in changes.items() if v is not None})
    try:
        template.invalid_feedback.format(observation="", admissible="")
    except (LookupError, ValueError) as error:
        raise ConfigError(
            "invalid_feedback: expected a text with the fields {observation} and {admissible} "
            f"(write other braces double), got {template.invalid_feedback!r} ({error!r})"
        ) from error
    return template


def _make_agent(
    config: Config, template: PromptTemplate, begun: tuple[str, str | None, Path | None]
) -> TrainableAgent:
    """The agent RL starts from, of what `_start` found."""
    from aem_gym.credit.estimators import needs_of

    base, name, adapter = begun
    needs_values = needs_of(ESTIMATORS.load(config.estimator)).needs_values
    open_agent = import_object("aem_gym.agents.build:open_agent")
    agent: TrainableAgent = open_agent(
        config, template, base, value_head=needs_values, base_name=name
    )
    if adapter is not None:
        agent.learner.load(adapter)
        _check_loaded(agent, adapter)
        agent.policy.publish(agent.learner)
    return agent


def _check_loaded(agent: TrainableAgent, adapter: Path) -> None:
    """Raise CheckpointError where an adapter holds NaN or inf."""
    import torch

    for name, weight in agent.learner.parameters().items():
        if not bool(torch.isfinite(weight).all()):
            raise CheckpointError(f"{adapter}: {name} holds NaN or inf: train it again")
