"""Evaluation of a trained run, with random and expert agents on the same tasks beside it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
from tqdm.auto import tqdm

from aem_gym.console import quiet_loading
from aem_gym.errors import CheckpointError
from aem_gym.evaluation.protocol import EvalSpec, Result, summarise
from aem_gym.io import atomic_write, explained
from aem_gym.protocols import Agent, TrainableAgent
from aem_gym.registry import AGENTS, import_object
from aem_gym.rollout.collector import Collector, CollectorSettings, requests_for
from aem_gym.rollout.pool import EnvDescription, EnvPool, EnvSpec
from aem_gym.training.checkpoint import CheckpointStore
from aem_gym.training.config import Config
from aem_gym.training.config_check import check_ranges, env_kwargs, pool_limits
from aem_gym.training.config_io import load_config
from aem_gym.types import Episode, PromptTemplate

RECIPE = "recipe.json"
BASELINES = ("random", "expert")


@dataclass(frozen=True)
class Evaluation:
    """Scores of several agents on the same tasks, with how they were made."""

    protocol: EvalSpec
    results: dict[str, Result]


def load_agent(run: str | Path, *, device: str = "auto") -> TrainableAgent:
    """The agent of a finished or interrupted run, ready to act.

    Args:
        run: the run's folder.
        device: where to put it.

    Raises:
        CheckpointError: the folder is not a run, or holds no adapter yet.
    """
    folder = Path(run)
    config = run_config(folder)
    recipe = run_recipe(folder)
    base = folder / "model"
    open_agent = import_object("aem_gym.agents.build:open_agent")
    config = replace(config, device=device)
    with quiet_loading():
        agent: TrainableAgent = open_agent(
            config, recipe, str(base) if base.exists() else config.model
        )
        agent.load(_adapter(folder))
    return agent


def run_config(folder: Path) -> Config:
    """The configuration of a run. Raises CheckpointError if `folder` is not one."""
    if not (folder / "config.yaml").is_file():
        raise CheckpointError(
            f"{folder} is not a run: it has no config.yaml. Train one with: python train.py "
            f"--out {folder}"
        )
    return load_config(folder / "config.yaml")


def run_recipe(folder: Path) -> PromptTemplate:
    """The recipe a run was trained with."""
    try:
        return msgspec.json.decode((folder / RECIPE).read_bytes(), type=PromptTemplate)
    except (OSError, msgspec.MsgspecError) as error:
        raise CheckpointError(
            f"{folder / RECIPE} cannot be read ({error}): the run never got past its warm start. "
            "Go on with: python train.py --resume --out ..."
        ) from error


def _adapter(folder: Path) -> Path:
    if (folder / "adapter").is_dir():
        return folder / "adapter"
    checkpoint = CheckpointStore(folder).latest()
    if checkpoint is None:
        raise CheckpointError(
            f"{folder} holds no adapter and no checkpoint yet. Go on with: python train.py "
            f"--resume --out {folder}"
        )
    return checkpoint.folder / "adapter"


def evaluate_run(
    run: str | Path,
    *,
    episodes: int | None = None,
    split: str | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    baselines: bool = True,
    env: str | None = None,
    env_args: Mapping[str, Any] | None = None,
    out: str | Path | None = None,
    device: str = "auto",
) -> Evaluation:
    """Evaluate a run on fixed tasks. What is not given is as in the run's own evaluation.

    Args:
        run: the run's folder.
        episodes: number of tasks.
        split: of the environment.
        temperature: 0 is greedy.
        seed: names the tasks.
        baselines: also run the random agent, and the expert where there is one.
        env: another environment.
        env_args: its arguments.
        out: where the scores go as JSON; default: `eval-SPLIT-tTEMPERATURE.json` in the run.
        device: where the model goes.

    Raises:
        CheckpointError: the folder is not a run, or holds no adapter yet.
        ConfigError: a value out of range, or a name that does not exist.
        OutputError: the scores cannot be written (asked before anything is played).
    """
    folder = Path(run)
    config = _changed(run_config(folder), episodes, split, temperature, seed, env, env_args)
    recipe = run_recipe(folder)
    check_ranges(config)
    target = folder / f"eval-{config.eval_split}-t{config.eval_temperature:g}.json"
    target = _writable(Path(out).expanduser() if out else target)
    kwargs = env_kwargs(config, config.eval_split)
    agent = load_agent(folder, device=device)
    agent.sampling(config.eval_temperature)
    agents: dict[str, Agent] = {_label(folder): agent}
    spec = EnvSpec(config.env, kwargs)
    with EnvPool(spec, **pool_limits(config)) as pool:
        protocol = eval_protocol(config, recipe, pool.describe())
        agents |= _baselines(pool) if baselines else {}
        results = {
            name: evaluate_agent(who, pool, protocol, recipe, label=name, live=config.max_live)
            for name, who in agents.items()
        }
    evaluation = Evaluation(protocol, results)
    atomic_write(target, json.dumps(asdict(evaluation), indent=1))
    return evaluation


def _writable(target: Path) -> Path:
    """`target`, whose folder takes files: better to know before an hour of episodes than after."""
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            return target


def _baselines(pool: EnvPool) -> dict[str, Agent]:
    has_expert = pool.describe().has_expert
    return {name: AGENTS.load(name)() for name in BASELINES if name != "expert" or has_expert}


def evaluate_agent(
    agent: Agent,
    pool: EnvPool,
    protocol: EvalSpec,
    recipe: PromptTemplate,
    *,
    label: str = "evaluation",
    live: int = 0,
) -> Result:
    """Scores of one agent under a protocol; with a progress bar called `label`.

    `live` is the most episodes at once; 0: all.
    """
    settings = CollectorSettings(recipe, protocol.context, protocol.max_turns, live)
    return play(Collector(pool, agent, settings), protocol, label)


def play(collector: Collector, protocol: EvalSpec, label: str) -> Result:
    """Scores of the collector's agent on the protocol's tasks; with a progress bar."""
    tickets = requests_for(protocol.task_seeds, 1, protocol.seed, "evaluation")
    with tqdm(total=len(tickets), desc=label, unit="ep", leave=False) as bar:

        def count(_episode: Episode) -> None:
            bar.update()

        return summarise(collector.run(tickets, count), collector.description.task_types)


def _label(folder: Path) -> str:
    """What the scores of a run are listed under: its folder's name, never a baseline's."""
    name = folder.resolve().name
    return f"{name} (run)" if name in BASELINES else name


def _changed(
    config: Config,
    episodes: int | None,
    split: str | None,
    temperature: float | None,
    seed: int | None,
    env: str | None,
    env_args: Mapping[str, Any] | None,
) -> Config:
    if env is not None and env_args is None:
        env_args = {}  # the run's own are meant for its own environment
    changes: dict[str, Any] = {
        "eval_episodes": episodes,
        "eval_split": split,
        "eval_temperature": temperature,
        "eval_seed": seed,
        "env": env,
        "env_args": None if env_args is None else dict(env_args),
    }
    return replace(config, **{k: v for k, v in changes.items() if v is not None})


def eval_protocol(config: Config, recipe: PromptTemplate, description: EnvDescription) -> EvalSpec:
    """How a configuration is evaluated, in environments that describe themselves so."""
    kwargs = env_kwargs(config, config.eval_split)
    return EvalSpec(
        env=config.env,
        env_args={key: value for key, value in kwargs.items() if key != "split"},
        split=str(kwargs.get("split", "")),
        episodes=config.eval_episodes,
        seed=config.eval_seed,
        temperature=config.eval_temperature,
        max_turns=recipe.max_turns,
        recipe=recipe.name,
        context=config.context,
        tasks=description.protocol,
    )
