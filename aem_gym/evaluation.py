"""Evaluation: fixed tasks, one episode each, success with its interval."""

from __future__ import annotations

import itertools
import json
import logging
import math
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from aem_gym.config import Config, check_ranges
from aem_gym.console import quiet_loading
from aem_gym.errors import ConfigError, EnvironmentFailure
from aem_gym.io import atomic_write, explained
from aem_gym.protocols import Agent, TrainableAgent
from aem_gym.registry import AGENTS, env_name, import_object
from aem_gym.rollout.collector import Collector, CollectorSettings, RolloutRequest, requests_for
from aem_gym.rollout.envs import EnvDescription, EnvSpec
from aem_gym.rollout.pool import EnvPool, env_kwargs, open_pool
from aem_gym.runs import BASE, run_adapter, run_config, run_template
from aem_gym.seeding import derive
from aem_gym.settings import settle
from aem_gym.types import Episode, PromptTemplate

logger = logging.getLogger(__name__)

BASELINES = ("random", "expert")


@dataclass(frozen=True, slots=True)
class EvalSpec:
    """Everything an evaluation's score depends on besides the agent."""

    env: str
    env_args: dict[str, object]
    split: str
    episodes: int
    seed: int
    """Task i is `env.reset(seed=seed + i)`."""
    temperature: float
    max_turns: int | None
    prompt_template: str
    context: str
    tasks: Mapping[str, object] = field(default_factory=dict)
    """What the environment declares that its scores depend on: sizes, limits, digests."""

    @property
    def task_seeds(self) -> range:
        return range(self.seed, self.seed + self.episodes)


@dataclass(frozen=True, slots=True)
class TypeScore:
    """Figures of one task type."""

    episodes: int
    success: float


@dataclass(frozen=True, slots=True)
class EvalResult:
    """The figures of one evaluation. Fractions are 0..1."""

    episodes: int
    """Episodes without an error."""
    success: float
    low: float
    """Lower end of the 95% Wilson interval of the success rate."""
    high: float
    """Upper end."""
    score: float
    """Mean graded score."""
    turns: float
    """Mean number of turns."""
    invalid_format: float
    """Share of responses that could not be parsed."""
    invalid_action: float
    """Share of actions that the environment did not admit."""
    by_type: dict[str, TypeScore]
    errors: int
    """Episodes that failed, because of the environment or the agent; not counted above."""
    stops: dict[str, int] = field(default_factory=dict)
    """Why episodes ended (`aem_gym.types.StopReason`), failed ones included."""


def summarize(episodes: Sequence[Episode], task_types: Sequence[str] = ()) -> EvalResult:
    """Figures of finished episodes.

    Args:
        episodes: finished ones.
        task_types: the order of `by_type`; others follow by name.
    """
    order = {name: number for number, name in enumerate(task_types)}
    counted = [e for e in episodes if e.error is None]
    turns = [turn for e in counted for turn in e.turns]
    wins = sum(e.won for e in counted)
    low, high = wilson_interval(wins, len(counted))
    types: dict[str, list[bool]] = {}
    for episode in counted:
        types.setdefault(episode.task_type, []).append(episode.won)
    return EvalResult(
        episodes=len(counted),
        success=_mean([e.won for e in counted]),
        low=low,
        high=high,
        score=_mean([e.score for e in counted]),
        turns=_mean([len(e.turns) for e in counted]),
        invalid_format=_mean([not t.format_valid for t in turns]),
        invalid_action=_mean([not t.action_valid for t in turns]),
        by_type={
            name: TypeScore(len(types[name]), _mean(types[name]))
            for name in sorted(types, key=lambda name: (order.get(name, len(order)), name))
        },
        errors=len(episodes) - len(counted),
        stops=dict(sorted(Counter(e.stop_reason.value for e in episodes).items())),
    )


def wilson_interval(wins: int, total: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95% interval of a success rate (JASA 1927); (0, 1) without episodes."""
    if total == 0:
        return 0.0, 1.0
    rate = wins / total
    centre = rate + z * z / (2 * total)
    spread = z * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    # The ends 0 and 1 are exact; rounding would miss them by an ulp.
    low = (centre - spread) / scale if wins else 0.0
    high = (centre + spread) / scale if wins < total else 1.0
    return low, high


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


# Agents ------------------------------------------------------------------------------------------


def load_agent(run: str | Path, *, device: str = "auto") -> TrainableAgent:
    """The agent of a finished or interrupted run, ready to act.

    Args:
        run: the run's folder.
        device: where to put the model: auto, cpu, cuda, cuda:N or mps.

    Raises:
        CheckpointError: the folder is not a run, or holds no adapter yet.
    """
    folder = Path(run)
    config = replace(run_config(folder), device=device)
    template = run_template(folder)
    base = str(folder / BASE) if (folder / BASE).exists() else config.model
    open_agent = import_object("aem_gym.agents.build:open_agent")
    with quiet_loading():
        agent: TrainableAgent = open_agent(config, template, base)
        agent.learner.load(run_adapter(folder))
        agent.policy.publish(agent.learner)
    return agent


def find_agent(who: str | Path | Agent) -> tuple[Agent, Path | None]:
    """An agent, and the folder of its run.

    Args:
        who: an agent, the name of one (`random`, `expert`, `module:attribute`), or a run's folder.
    """
    if isinstance(who, str | Path) and (Path(who) / "config.yaml").is_file():
        return load_agent(who), Path(who)
    if isinstance(who, str | Path):
        made: Agent = AGENTS.load(str(who))()
        return made, None
    if not isinstance(who, Agent):
        raise ConfigError(
            f"agent: expected the folder of a run, a name ({', '.join(AGENTS.names())}), or an "
            f"object with begin, act and end (aem_gym.protocols.Agent), got {who!r}"
        )
    return who, None


def run_episode(
    env: Any,
    agent: str | Path | Agent,
    *,
    seed: int = 0,
    temperature: float = 1.0,
    env_args: Mapping[str, Any] | None = None,
) -> Episode:
    """Play one episode.

    Args:
        env: id or class of the environment, or one made by `gym.make`, which stays open.
        agent: an agent, the name of one (`random`, `expert`), or the folder of a run.
        seed: of the task, and of the agent's draws.
        temperature: sampling temperature of a language agent; 0 is greedy.
        env_args: arguments of the environment, where it is not made already.

    Returns:
        The episode: `.turns`, `.won`, `.score`, `.stop_reason`, `.error`.
    """
    found, _ = find_agent(agent)
    if env_args and not isinstance(env, str | type):
        raise ConfigError(
            "run_episode: env_args are for an id or a class; this one is made already"
        )
    spec = EnvSpec.of(env, env_args or {})
    with EnvPool(spec) as pool:
        templates = pool.describe().prompt_templates
        template = getattr(found, "template", None) or next(iter(templates.values()))
        context = getattr(getattr(found, "builder", None), "kind", "transcript")
        collector = Collector(pool, found, CollectorSettings(template, context))
        request = RolloutRequest(seed, 0, derive(seed, "play"))
        return collector.run([request], temperature=temperature)[0]


# Evaluation --------------------------------------------------------------------------------------


def evaluate(
    agent: str | Path | Agent,
    *,
    env: Any = None,
    episodes: int | None = None,
    split: str | None = None,
    temperature: float | None = None,
    seed: int | None = None,
    env_args: Mapping[str, Any] | None = None,
) -> EvalResult:
    """Evaluate an agent on fixed held-out tasks.

    Args:
        agent: the folder of a run, an agent, or the name of one (`random`, `expert`).
        env: id or class of the environment; default: the run's.
        episodes: number of tasks; this and the following default to the run's own evaluation.
        split: of the environment.
        temperature: sampling temperature; 0 is greedy.
        seed: of the tasks.
        env_args: arguments of the environment, over the run's own.

    Returns:
        The figures: `success` with its 95% interval `low` to `high`, `score`, `by_type`, ...

    Raises:
        CheckpointError: the folder holds no adapter yet.
        ConfigError: a value out of range, a name that does not exist, or no environment given.
        EnvironmentFailure: every episode failed.
    """
    found, run = find_agent(agent)
    template: PromptTemplate | None = getattr(found, "template", None)
    if run is None and env is None:
        raise ConfigError("evaluate: env is missing: which environment shall the agent play in?")
    base = settle({"env": env}).config if run is None else run_config(run)
    base = base if run is not None else replace(base, env_args={})
    given = {"episodes": episodes, "split": split, "temperature": temperature, "seed": seed}
    config = _changed(base, env=env, env_args=env_args, **given)
    context = getattr(getattr(found, "builder", None), "kind", config.context)
    config = replace(config, context=context)
    with open_pool(config, config.eval_split) as pool:
        about = pool.describe()
        template = template or next(iter(about.prompt_templates.values()))
        spec = eval_spec(config, template, about)
        result = evaluate_agent(found, pool, spec, template, live=config.max_concurrent_episodes)
    if result.errors and not result.episodes:
        raise EnvironmentFailure(f"each of {result.errors} episodes failed: see the log")
    return result


@dataclass(frozen=True)
class Evaluation:
    """Scores of several agents on the same tasks, with how they were made."""

    protocol: EvalSpec
    results: dict[str, EvalResult]


def evaluate_run(
    run: str | Path,
    *,
    baselines: bool = True,
    out: str | Path | None = None,
    device: str = "auto",
    **changes: Any,
) -> Evaluation:
    """Evaluate a run, with random agent and expert on the same tasks beside it.

    Args:
        run: the run's folder.
        baselines: also run the random agent, and the expert where there is one.
        out: where the scores go as JSON; default: `eval-SPLIT-tTEMPERATURE.json` in the run
            (`eval-tTEMPERATURE.json` without splits), with `-2`, `-3`, ... where that holds other
            tasks' scores.
        device: where the model goes.
        changes: env, env_args, episodes, split, temperature and seed, as for `evaluate`.

    Raises:
        CheckpointError: the folder is not a run, or holds no adapter yet.
        ConfigError: a value out of range, or a name that does not exist.
        OutputError: the scores cannot be written (checked before any episode runs).
    """
    folder = Path(run)
    config = _changed(run_config(folder), **changes)
    template = run_template(folder)
    agents: dict[str, Agent] = {_label(folder): load_agent(folder, device=device)}
    with open_pool(config, config.eval_split) as pool:
        spec = eval_spec(config, template, pool.describe())
        split = f"{spec.split}-" if spec.split else ""
        target = folder / f"eval-{split}t{spec.temperature:g}.json"
        target = _writable(Path(out).expanduser() if out else target)
        agents |= _baselines(pool) if baselines else {}
        live = config.max_concurrent_episodes
        results = {
            name: evaluate_agent(who, pool, spec, template, label=name, live=live)
            for name, who in agents.items()
        }
    evaluation = Evaluation(spec, results)
    target = target if out else _unlike_others(target, evaluation)
    atomic_write(target, _as_json(evaluation))
    logger.info("scores written to %s", target)
    return evaluation


def evaluate_agent(
    agent: Agent,
    pool: EnvPool,
    spec: EvalSpec,
    template: PromptTemplate,
    *,
    label: str = "evaluation",
    live: int = 0,
) -> EvalResult:
    """Scores of one agent under a specification; with a progress bar called `label`.

    `live` is the most episodes at once; 0: all.
    """
    settings = CollectorSettings(template, spec.context, spec.max_turns, live)
    return play(Collector(pool, agent, settings), spec, label)


def play(collector: Collector, spec: EvalSpec, label: str) -> EvalResult:
    """Scores of the collector's agent on the tasks of `spec`; with a progress bar."""
    requests = requests_for(spec.task_seeds, 1, spec.seed, "evaluation")
    how: dict[str, Any] = {"unit": "ep", "leave": False, "disable": collector.quiet}
    with tqdm(total=len(requests), desc=label, **how) as bar:

        def count(_episode: Episode) -> None:
            bar.update()

        episodes = collector.run(requests, temperature=spec.temperature, on_end=count)
        return summarize(episodes, collector.description.task_types)


def eval_spec(config: Config, template: PromptTemplate, description: EnvDescription) -> EvalSpec:
    """The evaluation that a configuration asks for."""
    kwargs = env_kwargs(config, config.eval_split)
    return EvalSpec(
        env=config.env,
        env_args={key: value for key, value in kwargs.items() if key != "split"},
        split=str(kwargs.get("split", "")),
        episodes=config.eval_episodes,
        seed=config.eval_seed,
        temperature=config.eval_temperature,
        max_turns=template.max_turns,
        prompt_template=template.name,
        context=config.context,
        tasks=description.protocol,
    )


def _writable(target: Path) -> Path:
    """`target`, whose folder takes files: better to know before an hour of episodes than after."""
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=target.parent):
            return target


def _as_json(evaluation: Evaluation) -> str:
    """With NumPy's numbers as numbers, and what else a protocol may hold as text."""

    def plain(value: Any) -> Any:
        return value.item() if isinstance(value, np.generic) else str(value)

    return json.dumps(asdict(evaluation), indent=1, default=plain)


def _unlike_others(target: Path, evaluation: Evaluation) -> Path:
    """The first of `target`, `target-2`, ... that holds no scores but those made here again."""
    numbered = (target.with_stem(f"{target.stem}-{number}") for number in itertools.count(2))
    names = itertools.chain([target], numbered)
    return next(name for name in names if _may_be_replaced(name, evaluation))


def _may_be_replaced(target: Path, evaluation: Evaluation) -> bool:
    protocol = json.loads(_as_json(evaluation))["protocol"]
    try:
        there = json.loads(target.read_bytes())
        return there["protocol"] == protocol and set(there["results"]) <= set(evaluation.results)
    except FileNotFoundError:
        return True
    except (OSError, ValueError, KeyError, TypeError):
        return False  # not written here


def _baselines(pool: EnvPool) -> dict[str, Agent]:
    has_expert = pool.describe().has_expert
    return {name: AGENTS.load(name)() for name in BASELINES if name != "expert" or has_expert}


def _label(folder: Path) -> str:
    """The name of a run in its scores: its folder's, never a baseline's."""
    name = folder.resolve().name
    return f"{name} (run)" if name in BASELINES else name


def _changed(config: Config, *, env: Any = None, **changes: Any) -> Config:
    """The configuration with what was given (not None) in place of the run's own."""
    other = config if env is None else settle({"env": env_name(env)}).config
    if other.env != config.env:
        # The run's arguments and splits belong to its own environment.
        config = replace(config, env=other.env, env_args={}, eval_split=other.eval_split)
    given = {name: value for name, value in changes.items() if value is not None}
    if "env_args" in given:
        given["env_args"] = {**config.env_args, **given["env_args"]}
    names = {name: name if name == "env_args" else f"eval_{name}" for name in given}
    changed = replace(config, **{names[name]: value for name, value in given.items()})
    check_ranges(vars(changed))
    return changed
