"""The policy RL starts from: a base model, and its clone of demonstrations, cached by content."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import logging
import math
from collections.abc import Iterable
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import msgspec
from tqdm.auto import tqdm

from aem_gym.config import Config
from aem_gym.errors import ConfigError, NoExpertError, OutputError, UnknownNameError
from aem_gym.io import atomic_folder, atomic_write, cache_folder, digest_files, exclusive
from aem_gym.models import find_model, fingerprint
from aem_gym.protocols import EpisodeStart, TrainableAgent
from aem_gym.registry import FORMATS, LEARNERS, MODELS, Registry, env_factory, import_object
from aem_gym.rollout.envs import EnvDescription
from aem_gym.rollout.pool import open_pool
from aem_gym.seeding import derive
from aem_gym.training.cloning import CloningSettings, clone
from aem_gym.training.demonstrations import Demonstrator
from aem_gym.types import Demo, LabelledRow, PromptTemplate

logger = logging.getLogger(__name__)

_INFO = "warmstart.json"
"""Written last: a clone without it is not whole."""
_MANY = 0.02
"""The share of rows left out from which on it is worth a warning."""
_FOR_ADAPTERS = {"muon_lr": 0.0, "adamw_lr": 5e-4, "observation_share": 0.0}
"""Cloning into an adapter of a pretrained model: it can read already."""


def warm_start(
    config: Config, description: EnvDescription, template: PromptTemplate
) -> tuple[str, Path | None]:
    """Clone, or take the clone made earlier from the same settings and code.

    Returns:
        The base model (name, hub id or folder), and the folder of a cloned adapter on it, if any.

    Raises:
        NoExpertError: cloning was asked for (or the model needs it) and nothing can be cloned.
    """
    check_warm_start(config)
    source, scratch = _source(config, description), find_model(config.model).from_scratch
    if source == "none":
        return config.model, None
    folder = cache_folder() / "warmstarts" / _content_key(config, template, source)
    if (folder / _INFO).exists() or not _make_alone(config, description, template, source, folder):
        logger.info("warm start: taken from the cache (%s)", folder.name)
    _tell_of_lost_rows(folder, config)
    return (str(folder), None) if scratch else (config.model, folder)


def check_warm_start(config: Config) -> None:
    """Check the settings of the clone before anything is played.

    Raises:
        ConfigError: the model cannot do without one, or `warmstart_options` holds a wrong value.
    """
    if config.warmstart == "none" and find_model(config.model).from_scratch:
        raise ConfigError(
            f"model {config.model} starts from nothing and has to be cloned first: leave "
            "--warmstart at auto, or choose a pretrained --model"
        )
    _settings(config)


def _tell_of_lost_rows(folder: Path, config: Config) -> None:
    """Say which share of the demonstrations was too long to be cloned: those are the hard ones."""
    info = json.loads((folder / _INFO).read_text(encoding="utf-8"))
    lost, rows = info["too_long"], info["too_long"] + info["rows"]
    if lost:
        logger.log(
            logging.WARNING if lost >= _MANY * rows else logging.INFO,
            "warm start: %d of %d rows of demonstrations are longer than max_length %d and were "
            "left out, so long episodes are not learned: raise --max-length",
            *(lost, rows, config.max_length),
        )


def _source(config: Config, description: EnvDescription) -> str:
    if config.warmstart != "auto":
        return config.warmstart
    if not find_model(config.model).from_scratch:
        return "none"
    return "expert" if description.has_expert else "random"


def _make_alone(
    config: Config,
    description: EnvDescription,
    template: PromptTemplate,
    source: str,
    folder: Path,
) -> bool:
    """Make the clone; False if another process made it while this one waited."""
    try:
        # Runs begun together (paired modulators, say) want the same clone.
        with exclusive(folder.with_name(f".{folder.name}.lock")):
            if (folder / _INFO).exists():
                return False
            logger.info("warm start: cloning demonstrations, once for runs with these settings")
            _make(config, description, template, source, folder)
            return True
    except OutputError as error:
        raise OutputError(
            f"the warm start cannot be kept in the cache ({error}). Set AEM_GYM_CACHE to a folder "
            "with some space that you may write to"
        ) from error


def _make(
    config: Config,
    description: EnvDescription,
    template: PromptTemplate,
    source: str,
    folder: Path,
) -> None:
    open_agent, model = import_object("aem_gym.agents.build:open_agent"), find_model(config.model)
    demos = collect_demonstrations(config, template, source)
    with atomic_folder(folder) as temporary:
        if model.from_scratch:
            model.make(temporary, config, template, demos, description.lexicon)
            agent = open_agent(config, template, str(temporary), adapter=False)
        else:
            agent = open_agent(config, template, config.model)
        info = _clone(agent, config, description, template, demos)
        agent.learner.save(temporary)
        atomic_write(temporary / _INFO, json.dumps(info | {"source": source}))


def collect_demonstrations(config: Config, template: PromptTemplate, source: str) -> list[Demo]:
    """Demonstrations on the training split, of the expert or of random play."""
    with (
        open_pool(config, config.train_split, config.warmstart_env_args) as pool,
        tqdm(total=config.warmstart_episodes, desc="demonstrations", unit="ep") as bar,
    ):
        demonstrator = Demonstrator(
            pool,
            seed=derive(config.seed, "warmstart"),
            noise=config.warmstart_noise,
            max_turns=template.max_turns,
            keep_all=config.warmstart_keep == "all",
        )

        def advance(new: int) -> None:
            bar.update(new)

        play = demonstrator.expert if source == "expert" else demonstrator.random
        return play(config.warmstart_episodes, advance)


def _clone(
    agent: TrainableAgent,
    config: Config,
    description: EnvDescription,
    template: PromptTemplate,
    demos: list[Demo],
) -> dict[str, Any]:
    rows = list(_tokenized(agent, description, template, demos))
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

        loss = clone(agent.learner, rows, settings, progress)
    tokens = sum(len(row.ids) for row in rows) / len(rows)
    return {
        "demonstrations": len(demos),
        "rows": len(rows),
        "too_long": max(0, _possible_rows(config, demos) - len(rows)),
        "tokens_per_row": round(tokens, 1),
        "steps": settings.steps,
        "loss": loss if math.isfinite(loss) else None,  # without a step there is none
    }


def _possible_rows(config: Config, demos: list[Demo]) -> int:
    """How many rows there are to clone if all are short enough: one a turn, or one an episode."""
    steps = [sum(step.imitate for step in demo.steps) for demo in demos]
    return sum(steps) if config.context == "window" else sum(map(bool, steps))


def _settings(config: Config) -> CloningSettings:
    scratch = find_model(config.model).from_scratch
    chosen: dict[str, Any] = {} if scratch else dict(_FOR_ADAPTERS)
    chosen |= config.warmstart_options
    own = {"steps": config.warmstart_steps, "batch": config.warmstart_batch}
    own["seed"] = derive(config.seed, "cloning")
    known = [field.name for field in fields(CloningSettings) if field.name not in own]
    for name in chosen:
        if name not in known:
            hint = "(Flags: --warmstart-steps, --warmstart-batch, --seed.)" if name in own else ""
            raise UnknownNameError("key of warmstart_options", name, known, hint)
    try:
        return msgspec.convert(chosen | own, CloningSettings)
    except msgspec.ValidationError as error:
        raise ConfigError(f"warmstart_options: {error}") from error


def _tokenized(
    agent: TrainableAgent,
    description: EnvDescription,
    template: PromptTemplate,
    demos: list[Demo],
) -> Iterable[LabelledRow]:
    for demo in demos:
        start = EpisodeStart(0, 0, description.instructions, demo.goal, template)
        yield from agent.tokenize(demo, start)


# The cache ---------------------------------------------------------------------------------------

_KEYS = (
    *("env", "env_args", "train_split", "model", "model_options", "context", "response_format"),
    "chat_template_kwargs",
    *("max_length", "max_turns", "seed", "learner", "warmstart_episodes", "warmstart_steps"),
    *("warmstart_batch", "warmstart_noise", "warmstart_keep", "warmstart_env_args"),
    *("warmstart_options", "threads", "dtype", "device", "deterministic"),
)
_CODE_AND_TEXTS = {".py", ".json", ".jsonl", ".yaml", ".yml", ".txt"}
_KEYS_OF_ADAPTERS = ("lora_rank", "lora_alpha", "lora_dropout", "lora_targets")


def _content_key(config: Config, template: PromptTemplate, source: str) -> str:
    """Names everything the clone depends on: settings, code of agents and environment, versions."""
    scratch = find_model(config.model).from_scratch
    content = {key: getattr(config, key) for key in _KEYS + (() if scratch else _KEYS_OF_ADAPTERS)}
    content |= {"template": asdict(template), "source": source}
    content |= {} if scratch else {"base": fingerprint(config)}
    content |= {"code": digest_files(_sources()), "env_code": _class_digest(config.env)}
    content |= {"own_code": _own_digests(config, template)}
    packages = ("torch", "transformers", "tokenizers", *(() if scratch else ("peft",)))
    content |= {name: version(name) for name in packages}
    text = json.dumps(content, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _sources() -> list[Path]:
    """The files of this package that a demonstration and its cloning pass through."""
    here = Path(__file__).resolve().parent
    core = [here.parent / f"{name}.py" for name in ("logprobs", "seeding", "text_env", "types")]
    parts = [*(here.parent / "agents").glob("**/*.py"), *(here.parent / "rollout").glob("*.py")]
    own = [here / f"{name}.py" for name in ("warmstart", "cloning", "demonstrations")]
    return [*core, *parts, *own]


def _own_digests(config: Config, template: PromptTemplate) -> list[str]:
    """Digests of the components of a clone that are not of this package."""
    form = template.response_format if config.response_format == "auto" else config.response_format
    named = [(FORMATS, form), (LEARNERS, config.learner)]
    if config.model in MODELS.names() or ":" in config.model:
        named.append((MODELS, config.model))
    return [digest for registry, name in named for digest in _component_digests(registry, name)]


def _component_digests(registry: Registry, name: str) -> list[str]:
    """Of the module that a name points at, and of the one that the component's class is from."""
    if registry is MODELS and Path(name).expanduser().is_dir():
        return []  # its weights have a fingerprint
    part = registry.load(name)
    part = part if hasattr(part, "__qualname__") else type(part)
    modules = {part.__module__, name.partition(":")[0] if ":" in name else part.__module__}
    others = sorted(m for m in modules if m.partition(".")[0] != __name__.partition(".")[0])
    return [_code_digest(part, module) for module in others]


def _class_digest(env: str) -> str:
    """Digest of an environment's code and texts; of one elsewhere also of what it declares."""
    factory = env_factory(env)
    served = getattr(factory, "served_digest", "")
    return _code_digest(factory, getattr(factory, "__module__", "")) + str(served)


def _code_digest(factory: Any, module: str) -> str:
    """Digest of code and texts: of a package, a module, or the class itself.

    A class of a script or notebook (`__main__`) has no module to look up.
    """
    spec = importlib.util.find_spec(module) if module and module != "__main__" else None
    if spec is not None and spec.origin and spec.origin.endswith(".py"):
        file = Path(spec.origin)
        package = (file.parent / "__init__.py").exists()
        files = (f for f in file.parent.rglob("*") if f.suffix in _CODE_AND_TEXTS)
        return digest_files(files if package else [file])
    try:
        text = inspect.getsource(factory)
    except (OSError, TypeError):  # typed into an interpreter
        text = repr([_code(v) for v in vars(factory).values() if isinstance(v, FunctionType)])
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _code(function: FunctionType | CodeType) -> tuple[Any, ...]:
    """The code of a function, without its place in a file."""
    code = function.__code__ if isinstance(function, FunctionType) else function
    constants = tuple(_code(c) if isinstance(c, CodeType) else c for c in code.co_consts)
    return (code.co_code, code.co_names, constants)
