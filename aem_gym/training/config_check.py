"""Is a configuration possible? Asked before anything is started; fast and without torch."""

from __future__ import annotations

import importlib.util
import inspect
import math
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.registry import ESTIMATORS, MODULATORS, Registry, find_env, import_object
from aem_gym.training.config import Config

MODELS = ("tiny", "smollm2")
"""Models known by a name of their own."""

_AT_LEAST = {
    **dict.fromkeys(("max_length", "max_new_tokens", "lora_rank", "groups", "epochs"), 1),
    **dict.fromkeys(("updates_per_batch", "micro_batch", "max_rounds", "keep_checkpoints"), 1),
    **dict.fromkeys(("warmstart_episodes", "warmstart_batch", "save_every", "mini_batch"), 1),
    **dict.fromkeys(("eval_episodes", "max_turns", "group_size"), 1),
    **dict.fromkeys(("steps", "lr_warmup", "weight_decay", "grad_clip", "eval_every"), 0),
    **dict.fromkeys(("eval_seed", "seed", "threads", "workers", "token_samples"), 0),
    **dict.fromkeys(("eval_temperature", "invalid_penalty", "kl_coef", "history"), 0),
    **dict.fromkeys(("warmstart_steps", "lora_dropout", "warmstart_noise", "max_live"), 0),
}
_ABOVE = {
    **dict.fromkeys(("temperature", "lr", "lora_alpha", "clip_low", "clip_high"), 0),
    **dict.fromkeys(("reward_scale", "step_timeout", "reset_timeout"), 0),
    "dual_clip": 1,
}
_BELOW = {"lora_dropout": 1, "clip_low": 1}
_AT_MOST = {"warmstart_noise": 1, "seed": 2**63 - 1, "eval_seed": 2**63 - 1}
_COMPARES = {"grpo", "dr_grpo", "rloo", "reinforce_pp_baseline", "dapo", "gspo", "gigpo"}
"""Estimators that compare the rollouts of a group with each other."""
_GIVEN = {"seed", "max_positions", "generator", "unmodulated"}
"""Keyword arguments that the program gives, so not options."""
_HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*/[\w.-]+$")
_DEVICE = re.compile(r"^(auto|cpu|mps|cuda(:\d+)?)$")


def validate(config: Config) -> None:
    """Check ranges, relations and names.

    Raises:
        UnknownNameError: an environment, argument, estimator, modulator or model that does not
            exist; lists what does.
        ConfigError: a value out of range, or values that do not go together.
    """
    check_ranges(config)
    _check_relations(config)
    check_registered(ESTIMATORS, config.estimator)
    check_registered(MODULATORS, config.modulator)
    check_model(config.model)
    _check_tiny_options(config)
    check_env(config)
    check_presentation(config)


def check_ranges(config: Config) -> None:
    """Raise ConfigError where a number is out of its range."""
    rules: list[tuple[dict[str, int], str, Callable[[float, float], bool]]] = [
        (_AT_LEAST, "at least", lambda value, bound: value >= bound),
        (_ABOVE, "above", lambda value, bound: value > bound),
        (_BELOW, "below", lambda value, bound: value < bound),
        (_AT_MOST, "at most", lambda value, bound: value <= bound),
    ]
    for bounds, words, holds in rules:
        for key, bound in bounds.items():
            value = getattr(config, key)
            if value is not None and not (math.isfinite(value) and holds(value, bound)):
                raise ConfigError(f"{key}: expected a number {words} {bound}, got {value!r}")


def _check_relations(config: Config) -> None:
    if config.max_new_tokens >= config.max_length:
        raise ConfigError(
            f"max_new_tokens ({config.max_new_tokens}) must be below max_length "
            f"({config.max_length}): a prompt has to fit as well"
        )
    if config.group_size == 1 and config.estimator in _COMPARES:
        raise ConfigError(
            f"group_size 1 leaves nothing to compare with: the estimator {config.estimator!r} "
            "needs group_size >= 2 (ppo and reinforce_pp do not)"
        )
    if not _DEVICE.match(config.device):
        raise ConfigError(f"device: expected auto, cpu, cuda, cuda:N or mps, got {config.device!r}")
    if not config.lora_targets:
        raise ConfigError("lora_targets: expected all-linear or names of layers, got none")
    if config.out is not None and not config.out.strip():
        raise ConfigError("out: expected a folder, got an empty text")


def check_registered(registry: Registry, name: str) -> None:
    """Is `name` registered, or a `module:attribute` whose module exists? Imports no built-in.

    Raises:
        UnknownNameError: neither; lists the known names.
    """
    module = name.partition(":")[0]
    if name in registry.names() or (":" in name and _module_exists(module)):
        return
    hint = f"Your own: write module:attribute, or register it in the group {registry.group!r}."
    raise UnknownNameError(registry.kind, name, registry.names(), hint)


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError):
        return False


def check_model(model: str) -> None:
    """Is `model` a known name, a model folder, or written like a Hugging Face id?

    Raises:
        ConfigError: a folder without config.json.
        UnknownNameError: none of these.
    """
    if model in MODELS:
        return
    folder = Path(model).expanduser()
    if model.strip() and folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(
                f"model {model!r} is a folder without config.json, so not a model in the "
                "Hugging Face format. Point --model at the folder that save_pretrained wrote."
            )
        return
    looks_like_path = model.startswith((".", "/", "~")) or model.count("/") > 1
    if _HUB_ID.match(model) and not looks_like_path:
        return
    hint = "Or a folder holding config.json, or a Hugging Face id (owner/name)."
    raise UnknownNameError("model", model, MODELS, hint)


def check_options(
    key: str, function: Callable[..., Any], options: Iterable[str], also: Iterable[str] = ()
) -> None:
    """Does `function` take each of `options` by keyword? `also` are known beside its own.

    Raises:
        UnknownNameError: it does not; lists what `key` may hold.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = {p.name for p in parameters if p.default is not p.empty or p.kind is p.KEYWORD_ONLY}
    known = (known - _GIVEN) | set(also)
    for name in options:
        if name not in known:
            kind = f"option in {key} (of {getattr(function, '__name__', function)})"
            raise UnknownNameError(kind, name, known)


def _check_tiny_options(config: Config) -> None:
    """The sizes of `tiny`, which it would meet only after its demonstrations."""
    if config.model != "tiny":
        return
    make = import_object("aem_gym.agents.tiny:make_tiny", "model")
    check_options("model_options", make, config.model_options, also=("vocab_size",))
    for name, value in config.model_options.items():
        if not (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            raise ConfigError(f"model_options.{name}: expected int above 0, got {value!r}")


def check_env(config: Config) -> None:
    """Does the environment exist, and does it take `env_args` and `warmstart_env_args`?

    Raises:
        UnknownNameError: no such environment, or no such argument of it.
    """
    names, takes_any = env_parameters(config.env)
    for key in (*config.env_args, *config.warmstart_env_args):
        if key not in names and not takes_any:
            raise UnknownNameError(f"argument of {config.env}:", key, names)


def check_presentation(config: Config) -> None:
    """Do the recipe and the response format exist?

    Raises:
        UnknownNameError: one of them does not.
    """
    formats = import_object("aem_gym.agents.formats:FORMATS", "response formats")
    if config.response_format not in ("auto", *formats):
        raise UnknownNameError("response format", config.response_format, ("auto", *formats))
    prompt_templates = getattr(env_factory(config.env), "prompt_templates", None)
    known = ("auto", *prompt_templates) if isinstance(prompt_templates, Mapping) else ("auto",)
    if config.recipe not in known:
        raise UnknownNameError("recipe", config.recipe, known, f"(Of {config.env}.)")


def env_factory(env: str) -> Any:
    """What makes the environment: a class, or a function."""
    import gymnasium as gym

    entry = gym.registry[find_env(env)].entry_point
    return import_object(entry, "environment") if isinstance(entry, str) else entry


def env_parameters(env: str) -> tuple[list[str], bool]:
    """Names of the arguments `gym.make(env, ...)` takes, and whether it takes any other."""
    try:
        parameters = inspect.signature(env_factory(env)).parameters.values()
    except (TypeError, ValueError):
        return [], True
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = {p.name for p in parameters if p.kind in kinds}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    return sorted(names | {"render_mode", "max_episode_steps"}), takes_any


def env_kwargs(config: Config, split: str) -> dict[str, Any]:
    """What to pass to `gym.make(config.env, ...)` for the tasks of `split`.

    `split` is passed only where the constructor names such an argument, and never over one that
    `env_args` holds.
    """
    kwargs = dict(config.env_args)
    if "split" in env_parameters(config.env)[0]:
        kwargs.setdefault("split", split)
    return kwargs


def pool_limits(config: Config) -> dict[str, Any]:
    """How the environments of a run are held, as arguments of `EnvPool`."""
    names = ("workers", "step_timeout", "reset_timeout")
    return {name: getattr(config, name) for name in names}


_MAY_CHANGE = {
    *("out", "resume", "steps", "device", "threads", "workers", "step_timeout", "save_every"),
    *("keep_checkpoints", "tensorboard", "micro_batch", "gradient_checkpointing"),
    *("reset_timeout", "max_live"),
}


def check_resume(saved: Config, now: Config) -> None:
    """May a run begun with `saved` go on with `now`? Only what names no result may differ.

    Raises:
        ConfigError: other settings differ; names them with both values.
    """
    free = _MAY_CHANGE - ({"steps"} if saved.lr_schedule != "constant" else set())
    differing = [
        f"{name} ({getattr(saved, name)!r} then, {getattr(now, name)!r} now)"
        for name in vars(saved)
        if name not in free and getattr(saved, name) != getattr(now, name)
    ]
    if differing:
        raise ConfigError(
            f"--resume: the run in {now.run_folder} was begun with other settings: "
            f"{'; '.join(differing)}. Leave those flags out, or start anew with another --out."
        )
