"""Names to components: built-in ones, those of installed packages, and `module:attribute`.

A third party adds a component through an entry point of its own package; nothing here changes.
Values are import strings, so registering costs nothing and imports nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from aem_gym.errors import ConfigError, UnknownNameError


class Registry:
    """Finds components of one kind by name.

    Args:
        kind: what the names name, for messages ("estimator").
        group: the entry-point group in which other packages register theirs.
        builtin: name -> `module:attribute`.
    """

    def __init__(self, kind: str, group: str, builtin: Mapping[str, str]) -> None:
        self.kind, self.group, self._builtin = kind, group, dict(builtin)

    def names(self) -> list[str]:
        """All known names, sorted. Imports none of the components."""
        return sorted({*self._builtin, *(point.name for point in entry_points(group=self.group))})

    def load(self, name: str) -> Any:
        """The component called `name`.

        Raises:
            UnknownNameError: no such name; lists what exists and suggests the nearest.
            ConfigError: the component is registered but cannot be imported.
        """
        target = self._builtin.get(name)
        if target is None:
            found = [p for p in entry_points(group=self.group) if p.name == name]
            target = found[0].value if found else name if ":" in name else None
        if target is None:
            hint = f"Your own: write module:attribute, or register it in the group {self.group!r}."
            raise UnknownNameError(self.kind, name, self.names(), hint)
        return import_object(target, self.kind)


def import_object(target: str, kind: str = "object") -> Any:
    """Import `module:attribute`. Raises ConfigError with the reason if that fails."""
    module_name, _, attribute = target.partition(":")
    try:
        value: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{kind} {target!r} cannot be imported: {error}") from error
    return value


def env_tool(factory: Any, name: str) -> Callable[..., Any] | None:
    """What an environment registers for a command of `aem-gym`, loaded now; None if it has none.

    An environment class names its tools in `tools`, as `module:function`, so that what imports,
    exports or shows data is not part of the environment itself. A classmethod of that name works
    too.

    Args:
        factory: the environment class.
        name: `data_report`, `import_data`, `export_games`, `page_app` (aem_gym.datasets says what
            each takes and returns) or `doctor`.
    """
    tools = getattr(factory, "tools", None)
    target = tools.get(name) if isinstance(tools, Mapping) else None
    tool: Any = (
        import_object(target, name) if isinstance(target, str) else getattr(factory, name, None)
    )
    return tool if callable(tool) else None


ESTIMATORS = Registry(
    "estimator",
    "aem_gym.estimators",
    {
        name: f"aem_gym.credit.advantages:{function}"
        for name, function in {
            "grpo": "grpo",
            "dr_grpo": "dr_grpo",
            "rloo": "rloo",
            "reinforce_pp": "reinforce_pp",
            "reinforce_pp_baseline": "reinforce_pp_baseline",
            "ppo": "ppo",
            "dapo": "grpo",
            "gspo": "grpo",
            "gigpo": "gigpo",
        }.items()
    },
)
MODULATORS = Registry(
    "modulator",
    "aem_gym.modulators",
    {
        "none": "aem_gym.credit.modulation:identity",
        "aem": "aem_gym.credit.modulation:aem",
        "empg": "aem_gym.credit.modulation:empg",
        "entropy_shaping": "aem_gym.credit.modulation:entropy_shaping",
    },
)
AGENTS = Registry(
    "agent",
    "aem_gym.agents",
    {
        "random": "aem_gym.agents.random:RandomAgent",
        "expert": "aem_gym.agents.expert:ExpertAgent",
        "human": "aem_gym.agents.human:HumanAgent",
    },
)

_BUILTIN_ENVS = {
    "aem_gym/ALFWorld-v0": "aem_gym.envs.alfworld.env:ALFWorldEnv",
    "aem_gym/WebShop-v0": "aem_gym.envs.webshop.env:WebShopEnv",
    "aem_gym/SWE-v0": "aem_gym.envs.swe.env:SWEEnv",
}


def register_envs() -> None:
    """Register the built-in ids, and those in the entry-point group `aem_gym.envs`.

    An entry point's name is the id (or the name inside the namespace of its package), its value
    the environment class. The ids are strings only: no environment is imported.
    """
    import gymnasium as gym

    targets = dict(_BUILTIN_ENVS)
    for point in entry_points(group="aem_gym.envs"):
        targets.setdefault(point.name, point.value)
    for env_id, target in targets.items():
        if env_id not in gym.registry:
            gym.register(env_id, entry_point=target, disable_env_checker=True)


def find_env(name: str) -> str:
    """The registered id for `name`: an id, `module:Id`, or an id without its namespace or version.

    Raises:
        UnknownNameError: nothing is called that; lists the text environments that exist.
    """
    import gymnasium as gym

    register_envs()
    module, _, bare = name.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except Exception as error:  # another package's code: anything may happen in it
            raise ConfigError(
                f"environment {name!r}: the module {module!r} cannot be imported: "
                f"{type(error).__name__}: {error}. Install it, or mend its name or its code"
            ) from error
    if bare in gym.registry:
        return bare
    ours = [i for i in gym.registry if i.startswith("aem_gym/")] + [
        point.name for point in entry_points(group="aem_gym.envs")
    ]
    short = {i.split("/")[-1].rsplit("-v", 1)[0].lower(): i for i in ours}
    if bare.lower() in short:
        return short[bare.lower()]
    hint = "Any other Gymnasium id works too once its package is imported: --env package:Id."
    raise UnknownNameError("environment", name, ours, hint)
