"""The policy RL starts from: a base model, and what cloning made of it, cached by content."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from aem_gym.errors import ConfigError, NoExpertError, OutputError, UnknownNameError
from aem_gym.io import atomic_folder, atomic_write, cache_folder, exclusive
from aem_gym.protocols import EpisodeStart, TrainableAgent
from aem_gym.registry import import_object
from aem_gym.rollout.pool import EnvDescription, EnvPool, EnvSpec
from aem_gym.seeding import derive
from aem_gym.training.cloning import CloningSettings, clone
from aem_gym.training.config import Config
from aem_gym.training.config_check import env_kwargs, pool_limits
from aem_gym.training.demonstrations import Demonstrator
from aem_gym.types import Demo, LabelledRow, PromptTemplate

logger = logging.getLogger(__name__)

_INFO = "warmstart.json"
"""Written last: a clone without it is not whole."""
_FOR_ADAPTERS = {"muon_lr": 0.0, "adamw_lr": 5e-4, "observation_share": 0.0}
"""Cloning into an adapter of a pretrained model: it can read already."""


@dataclass(frozen=True, slots=True)
class WarmStart:
    """What RL starts from."""

    base: str
    """Model name, hub id or folder."""
    adapter: Path | None
    """A cloned adapter on it, or None for a fresh one."""
    info: dict[str, Any]
    """What cloning did: demonstrations, loss; empty without cloning."""


def choose_recipe(config: Config, description: EnvDescription) -> PromptTemplate:
    """The recipe of a run: the named one, or the one that fits model and context.

    Raises:
        UnknownNameError: the environment has no recipe of that name.
    """
    prompt_templates = description.prompt_templates
    name = config.recipe
    if name == "auto":
        fitting = {"tiny": "compact"}.get(config.model, config.context)
        fitting = "published" if fitting == "window" else fitting
        name = fitting if fitting in prompt_templates else next(iter(prompt_templates))
    if name not in prompt_templates:
        raise UnknownNameError("recipe", name, prompt_templates)
    recipe = prompt_templates[name]
    if config.history is not None:
        recipe = replace(recipe, history=config.history)
    if config.reward_scale is not None:
        recipe = replace(recipe, reward_scale=config.reward_scale)
    return replace(recipe, max_turns=config.max_turns or recipe.max_turns)


def warm_start(config: Config, description: EnvDescription, recipe: PromptTemplate) -> WarmStart:
    """Clone, or take the clone made earlier from the same settings and code.

    Raises:
        NoExpertError: cloning was asked for (or `tiny` needs it) and nothing can be cloned.
    """
    source = _source(config, description)
    if source == "none":
        if config.model == "tiny":
            raise ConfigError(
                "model tiny starts from nothing and has to be cloned first: leave --warmstart at "
                "auto, or choose a pretrained --model"
            )
        return WarmStart(config.model, None, {})
    _settings(config)  # wrong ones are told before anything is played
    folder = cache_folder() / "warmstarts" / _content_key(config, recipe, source)
    if (folder / _INFO).exists() or not _make_alone(config, description, recipe, source, folder):
        logger.info("warm start: taken from the cache (%s)", folder.name)
    info = json.loads((folder / _INFO).read_text())
    if config.model == "tiny":
        return WarmStart(str(folder), None, info)
    return WarmStart(config.model, folder, info)


def _source(config: Config, description: EnvDescription) -> str:
    if config.warmstart != "auto":
        return config.warmstart
    if config.model != "tiny":
        return "none"
    return "expert" if description.has_expert else "random"


def _make_alone(
    config: Config, description: EnvDescription, recipe: PromptTemplate, source: str, folder: Path
) -> bool:
    """Make the clone; False if another process, waited for, has made it in the meantime."""
    try:
        # Runs begun together (paired modulators, say) want the same clone.
        with exclusive(folder.with_name(f".{folder.name}.lock")):
            if (folder / _INFO).exists():
                return False
            _make(config, description, recipe, source, folder)
            return True
    except OutputError as error:
        raise OutputError(
            f"the warm start cannot be kept in the cache ({error}). Set AEM_GYM_CACHE to a folder "
            "with some space that you may write to"
        ) from error


def _make(
    config: Config, description: EnvDescription, recipe: PromptTemplate, source: str, folder: Path
) -> None:
    build = import_object("aem_gym.agents.build:open_agent")
    demos = collect_demonstrations(config, recipe, source)
    with atomic_folder(folder) as temporary:
        if config.model == "tiny":
            fresh = import_object("aem_gym.agents.build:make_fresh")
            fresh(temporary, config, recipe, demos, description.lexicon)
            agent = build(config, recipe, str(temporary), adapter=False)
        else:
            agent = build(config, recipe, config.model)
        info = _clone(agent, config, description, recipe, demos)
        agent.save(temporary)
        atomic_write(temporary / _INFO, json.dumps(info | {"source": source}))


def collect_demonstrations(config: Config, recipe: PromptTemplate, source: str) -> list[Demo]:
    """Demonstrations on the training split, of the expert or of random play."""
    arguments = env_kwargs(config, config.train_split) | config.warmstart_env_args
    spec = EnvSpec(config.env, arguments)
    with (
        EnvPool(spec, **pool_limits(config)) as pool,
        tqdm(total=config.warmstart_episodes, desc="demonstrations", unit="ep") as bar,
    ):
        demonstrator = Demonstrator(
            pool,
            seed=derive(config.seed, "warmstart"),
            noise=config.warmstart_noise,
            max_turns=recipe.max_turns,
            keep_all=config.warmstart_keep == "all",
        )
        play = demonstrator.expert if source == "expert" else demonstrator.random
        return play(config.warmstart_episodes, lambda new: _advance(bar, new))


def _advance(bar: Any, new: int) -> None:
    bar.update(new)


def _clone(
    agent: TrainableAgent,
    config: Config,
    description: EnvDescription,
    recipe: PromptTemplate,
    demos: list[Demo],
) -> dict[str, Any]:
    rows = list(_tokenized(agent, description, recipe, demos))
    if not rows:
        raise NoExpertError(
            f"none of {len(demos)} demonstrations fits into {config.max_length} tokens: raise "
            "--max-length"
        )
    settings = _settings(config)
    with tqdm(total=settings.steps, desc="cloning", unit="step") as bar:

        def progress(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
            bar.update()

        loss = clone(agent, rows, settings, progress)
    tokens = sum(len(row.ids) for row in rows) / len(rows)
    return {
        "demonstrations": len(demos),
        "rows": len(rows),
        "tokens_per_row": round(tokens, 1),
        "steps": settings.steps,
        "loss": loss,
    }


def _settings(config: Config) -> CloningSettings:
    chosen: dict[str, Any] = {} if config.model == "tiny" else dict(_FOR_ADAPTERS)
    chosen |= config.warmstart_options
    chosen |= {"steps": config.warmstart_steps, "batch": config.warmstart_batch}
    chosen["seed"] = derive(config.seed, "cloning")
    known = [field.name for field in fields(CloningSettings)]
    for name in chosen:
        if name not in known:
            raise UnknownNameError("key of warmstart_options", name, known)
    return CloningSettings(**chosen)


def _tokenized(
    agent: TrainableAgent, description: EnvDescription, recipe: PromptTemplate, demos: list[Demo]
) -> Iterable[LabelledRow]:
    for demo in demos:
        start = EpisodeStart(0, 0, description.instructions, demo.goal, recipe)
        yield from agent.tokenize(demo, start)


_KEYS = (
    *("env", "env_args", "train_split", "model", "model_options", "context", "response_format"),
    *("max_length", "seed", "warmstart_episodes", "warmstart_steps", "warmstart_batch"),
    *("warmstart_noise", "warmstart_keep", "warmstart_env_args", "warmstart_options"),
    *("threads", "dtype", "device"),
)
_KEYS_OF_ADAPTERS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets")


def _content_key(config: Config, recipe: PromptTemplate, source: str) -> str:
    """Names everything the clone depends on: settings, code of agents and environment, versions."""
    keys = _KEYS if config.model == "tiny" else _KEYS + _KEYS_OF_ADAPTERS
    content = {key: getattr(config, key) for key in keys}
    content |= {"recipe": asdict(recipe), "source": source, "code": _code_digest(config.env)}
    content |= {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _code_digest(env: str) -> str:
    """Digest of the sources a demonstration and its cloning pass through."""
    import gymnasium as gym

    from aem_gym.registry import find_env

    package = Path(__file__).resolve().parents[1]
    entry = gym.registry[find_env(env)].entry_point
    files = [*(package / "agents").glob("**/*.py"), Path(__file__)]
    files += [package / "training" / f"{name}.py" for name in ("cloning", "demonstrations")]
    files += _env_sources(entry)
    digest = hashlib.blake2b(digest_size=16)
    for file in sorted(set(files)):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _env_sources(entry: str | Callable[..., Any] | None) -> list[Path]:
    """The module of an environment, and all below its package if it lives in one of its own."""
    import importlib.util

    module = entry.partition(":")[0] if isinstance(entry, str) else getattr(entry, "__module__", "")
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return []
    file = Path(spec.origin)
    return list(file.parent.rglob("*.py")) if (file.parent / "__init__.py").exists() else [file]
