"""Names to components: built-in ones, those of installed packages, and `module:attribute`.

Another package adds a component through an entry point; nothing here changes. Tables hold import
strings, so registering costs nothing and imports nothing.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Mapping
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from aem_gym.errors import ConfigError, UnknownNameError, describe

_CREDIT = {
    "aem_gym.estimators": {
        name: f"aem_gym.credit.estimators:{name}"
        for name in ("grpo", "dr_grpo", "rloo", "reinforce_pp", "reinforce_pp_baseline")
        + ("ppo", "dapo", "gspo", "gigpo")
    },
    "aem_gym.modulators": {
        "none": "aem_gym.credit.modulators:identity",
        "aem": "aem_gym.credit.modulators:aem",
        "empg": "aem_gym.credit.modulators:empg",
        "entropy_shaping": "aem_gym.credit.modulators:entropy_shaping",
    },
    "aem_gym.losses": {
        name: f"aem_gym.credit.losses:{name}"
        for name in ("ppo_clip", "gspo", "clip_cov", "kl_cov", "reinforce")
    },
    "aem_gym.loggers": {"tensorboard": "aem_gym.training.records:tensorboard"},
}
_PACKAGES = ("aem_gym.envs.components", "aem_gym.agents.components")
"""Modules with the tables `COMPONENTS` (entry-point group -> name -> target) and `DEFAULTS`."""


class Registry:
    """Finds components of one kind by name.

    Args:
        kind: what the names name, for messages ("estimator").
        group: the entry-point group in which other packages register theirs.
        builtin: name -> `module:attribute`, beside those in the tables of this package.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str] | None = None) -> None:
        self.kind, self.group, self._builtin = kind, group, builtin or {}

    def names(self) -> list[str]:
        """All known names, sorted. Imports none of the components."""
        return sorted({*self._table(), *(point.name for point in _installed(self.group))})

    def default(self) -> str:
        for package in _PACKAGES:
            defaults: Mapping[str, str] = importlib.import_module(package).DEFAULTS
            if self.group in defaults:
                return defaults[self.group]
        raise ConfigError(f"no {self.kind} is registered as the default")

    def load(self, name: str) -> Any:
        """The component called `name`.

        Raises:
            UnknownNameError: no such name; lists what exists and suggests the nearest.
            ConfigError: the component is registered but cannot be imported.
        """
        target = self._table().get(name)
        if target is None:
            found = [p for p in _installed(self.group) if p.name == name]
            target = found[0].value if found else name if ":" in name else None
        if target is None:
            raise self.unknown(name)
        return import_object(target, self.kind)

    def check(self, name: str) -> None:
        """Is `name` registered, or a `module:attribute` that can be imported?

        Imports no registered component.

        Raises:
            UnknownNameError: neither; lists the known names.
            ConfigError: the attribute does not exist, or importing its module fails.
        """
        if name in self.names():
            return
        if ":" not in name or not _module_exists(name.split(":")[0]):
            raise self.unknown(name)
        self.load(name)

    def unknown(self, name: str) -> UnknownNameError:
        hint = f"Your own: write module:attribute, or register it in the group {self.group!r}."
        return UnknownNameError(self.kind, name, self.names(), hint)

    def _table(self) -> Mapping[str, str]:
        return {**_builtin(self.group), **self._builtin}


def _builtin(group: str) -> dict[str, str]:
    """The components of this package in an entry-point group."""
    found = dict(_CREDIT.get(group, {}))
    for package in _PACKAGES:
        found |= importlib.import_module(package).COMPONENTS.get(group, {})
    return found


def _module_exists(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except (ImportError, ValueError, TypeError):
        return name in ("__main__",)


def _installed(group: str) -> tuple[EntryPoint, ...]:
    """The entry points of a group. Kept until something is installed: reading them takes 10 ms."""
    folders = tuple(os.path.abspath(folder) for folder in sys.path)
    changed = tuple(os.stat(f).st_mtime_ns if os.path.exists(f) else 0 for f in folders)
    return _read(group, folders, changed)


@lru_cache(maxsize=64)
def _read(group: str, path: tuple[str, ...], changed: tuple[int, ...]) -> tuple[EntryPoint, ...]:
    return tuple(entry_points(group=group))


def import_object(target: str, kind: str = "object") -> Any:
    """Import `module:attribute`. Raises ConfigError with the reason if that fails."""
    module_name, _, attribute = target.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except Exception as error:  # another package's code: anything may happen in it
        reason = describe(error) if not isinstance(error, ImportError) else str(error)
        raise ConfigError(f"{kind} {target!r} cannot be imported: {reason}") from error
    return value


ESTIMATORS = Registry("estimator", "aem_gym.estimators")
MODULATORS = Registry("modulator", "aem_gym.modulators")
LOSSES = Registry("loss", "aem_gym.losses")
LOGGERS = Registry("logger", "aem_gym.loggers")
MODELS = Registry("model", "aem_gym.models")
LEARNERS = Registry("learner", "aem_gym.learners")
SAMPLERS = Registry("sampler", "aem_gym.samplers")
FORMATS = Registry("response format", "aem_gym.formats")
AGENTS = Registry("agent", "aem_gym.agents")
COMMANDS = Registry("command", "aem_gym.commands")
ENVS = Registry("environment", "aem_gym.envs")
_SCHEMES = "aem_gym.env_schemes"
"""Environments by address, `scheme:URL`: scheme -> class, which takes the address as `url`."""


# Environments ------------------------------------------------------------------------------------


def register_envs() -> None:
    """Register the built-in ids, and those in the entry-point group `aem_gym.envs`.

    An entry point's name is the id (or the name inside the namespace of its package), its value
    the environment class. The ids are strings only: no environment is imported.
    """
    import gymnasium as gym

    targets = _builtin(ENVS.group)
    for point in _installed(ENVS.group):
        targets.setdefault(point.name, point.value)
    for env_id, target in targets.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=target, disable_env_checker=True)


def env_name(env: Any) -> Any:
    """The name of an environment class in a configuration, `module:Class`; else `env` itself.

    The class is registered with Gymnasium on the way, so that one defined in a notebook is found.
    """
    if not isinstance(env, type):
        return env
    name = f"{env.__module__}:{env.__qualname__}"
    _register_class(name, env)
    return name


def find_env(name: str) -> str:
    """The registered id for an environment.

    Args:
        name: an id, an id without its namespace or version, `module:Id` (imports the module,
            which registers it), `module:Class`, or `openenv:URL`.

    Raises:
        UnknownNameError: nothing is called that; lists the text environments that exist.
        ConfigError: the module cannot be imported.
    """
    import gymnasium as gym

    register_envs()
    scheme, _, address = name.partition(":")
    if address and scheme in _builtin(_SCHEMES):
        return _register_address(scheme, address)
    module, _, bare = name.rpartition(":")
    if module:
        found = getattr(_import_env_module(name, module), bare, None)
        if callable(found):
            _register_class(name, found)
        if _class_id(name) in gym.registry:
            return _class_id(name)
    if bare in gym.registry:
        return bare
    ids = env_ids()
    short = {i.split("/")[-1].rsplit("-v", 1)[0].lower(): i for i in ids}
    if bare.lower() in short:
        return short[bare.lower()]
    hint = "Your own: write module:Class, or module:Id where importing the module registers the id."
    raise UnknownNameError("environment", name, ids, hint)


def env_ids() -> list[str]:
    """Ids of the built-in environments and of those that other packages register for aem_gym."""
    import gymnasium as gym

    register_envs()
    ids = {name for name in gym.registry if name.startswith("aem_gym/")}
    return sorted(ids | {point.name for point in _installed(ENVS.group)})


def env_factory(env: str) -> Any:
    """The class or function that makes the environment.

    A class that is registered for an address, and whose classmethod `described` takes it, is the
    one that this gives: what it declares then depends on the address.

    Raises:
        InfrastructureError: nothing answers at the address.
    """
    import gymnasium as gym

    spec = gym.registry[find_env(env)]
    entry = spec.entry_point
    factory = import_object(entry, "environment") if isinstance(entry, str) else entry
    described = getattr(factory, "described", None) if "url" in spec.kwargs else None
    return factory if described is None else described(spec.kwargs["url"])


def env_tool(factory: Any, name: str) -> Callable[..., Any] | None:
    """The tool that an environment registers for a command of `aem-gym`; None if it has none.

    An environment class names its tools in `tools`, as `module:function`, so that what imports,
    exports or shows data is not part of the environment itself. A classmethod of that name works
    too.

    Args:
        factory: the environment class.
        name: `data_report`, `import_data`, `export_games`, `page_app` (aem_gym.datasets says what
            each takes and returns), `doctor` or `preflight`.
    """
    tools = getattr(factory, "tools", None)
    target = tools.get(name) if isinstance(tools, Mapping) else None
    tool: Any = (
        import_object(target, name) if isinstance(target, str) else getattr(factory, name, None)
    )
    return tool if callable(tool) else None


def _class_id(name: str) -> str:
    """The Gymnasium id under which `module:Class` is registered."""
    module, _, cls = name.rpartition(":")
    namespace, plain = re.sub(r"[^\w-]", "-", module), re.sub(r"[^\w.-]", "-", cls)
    return f"{namespace}/{plain}-v0"


def _register_class(name: str, cls: Callable[..., Any]) -> None:
    """Register a class, or its newest definition where a notebook's cell ran again."""
    import gymnasium as gym

    env_id = _class_id(name)
    if env_id not in gym.registry or gym.registry[env_id].entry_point is not cls:
        gym.registry.pop(env_id, None)
        gym.register(env_id, entry_point=cls, disable_env_checker=True)


def _register_address(scheme: str, address: str) -> str:
    """Register the environment at an address; its id."""
    import gymnasium as gym

    short = hashlib.blake2b(address.encode(), digest_size=4).hexdigest()
    env_id = f"{scheme}/{re.sub(r'[^a-zA-Z0-9.]+', '-', address).strip('-')}-{short}-v0"
    if env_id not in gym.registry:
        target, kwargs = _builtin(_SCHEMES)[scheme], {"url": address}
        gym.register(env_id, entry_point=target, kwargs=kwargs, disable_env_checker=True)
    return env_id


def _import_env_module(name: str, module: str) -> Any:
    try:
        return importlib.import_module(module)
    except Exception as error:  # another package's code: anything may happen in it
        raise ConfigError(
            f"environment {name!r}: the module {module!r} cannot be imported: "
            f"{type(error).__name__}: {error}. Install it, run the command in its folder, or "
            "correct its name or its code"
        ) from error
