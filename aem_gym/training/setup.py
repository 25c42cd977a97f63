"""Everything a run needs, made in order: threads, environments, recipe, agent."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aem_gym.console import quiet_loading
from aem_gym.evaluation.protocol import EvalSpec
from aem_gym.evaluation.runner import RECIPE, eval_protocol
from aem_gym.io import atomic_folder, atomic_write
from aem_gym.protocols import TrainableAgent
from aem_gym.registry import import_object
from aem_gym.rollout.collector import Collector, CollectorSettings
from aem_gym.rollout.pool import EnvPool, EnvSpec
from aem_gym.training.assignment import estimator_defaults
from aem_gym.training.config import Config
from aem_gym.training.config_check import env_kwargs, pool_limits
from aem_gym.training.warmstart import WarmStart, choose_recipe, warm_start
from aem_gym.types import PromptTemplate

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """The parts of a run."""

    agent: TrainableAgent
    recipe: PromptTemplate
    warm: WarmStart
    collector: Collector
    """Of the training split."""
    evaluator: Collector
    """Of the evaluation split."""
    protocol: EvalSpec


def prepare_torch(config: Config) -> None:
    """Threads and deterministic kernels: what makes two runs byte-identical on one machine."""
    import torch

    if config.threads:
        torch.set_num_threads(config.threads)
    if config.deterministic:
        # Asked for by cuBLAS before its first use.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)


@contextmanager
def open_parts(config: Config, run: Path) -> Iterator[Parts]:
    """Make the parts, warm start included; environments are closed at the end."""
    limits = pool_limits(config)
    train = EnvSpec(config.env, env_kwargs(config, config.train_split))
    held_out = EnvSpec(config.env, env_kwargs(config, config.eval_split))
    with EnvPool(train, **limits) as pool, EnvPool(held_out, **limits) as eval_pool:
        description = pool.describe()
        recipe = choose_recipe(config, description)
        atomic_write(run / RECIPE, msgspec.json.encode(recipe))
        with quiet_loading():
            warm = warm_start(config, description, recipe)
            agent = make_agent(config, recipe, warm, run)
        settings = CollectorSettings(recipe, config.context, recipe.max_turns, config.max_live)
        yield Parts(
            agent=agent,
            recipe=recipe,
            warm=warm,
            collector=Collector(pool, agent, settings),
            evaluator=Collector(eval_pool, agent, settings),
            protocol=eval_protocol(config, recipe, eval_pool.describe()),
        )


def make_agent(
    config: Config, recipe: PromptTemplate, warm: WarmStart, run: Path
) -> TrainableAgent:
    """The agent RL starts from. A `tiny` base is copied into the run: it exists nowhere else."""
    base = warm.base
    if config.model == "tiny":
        if not (run / "model").exists():
            with atomic_folder(run / "model") as folder:
                shutil.copytree(base, folder, dirs_exist_ok=True)
        base = str(run / "model")
    open_agent = import_object("aem_gym.agents.build:open_agent")
    needs_values = estimator_defaults(config.estimator).needs_values
    agent: TrainableAgent = open_agent(config, recipe, base, value_head=needs_values)
    if warm.adapter is not None:
        agent.load(warm.adapter)
    return agent
