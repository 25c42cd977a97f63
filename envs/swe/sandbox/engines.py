"""Sandbox engines by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from aem_gym.envs.swe.sandbox.base import SandboxEngine, SandboxError
from aem_gym.errors import ConfigError, MissingEngineError
from aem_gym.registry import Registry

ENGINES = Registry(
    "sandbox engine",
    "aem_gym.engines",
    {
        "auto": "aem_gym.envs.swe.sandbox.containers:open_any",
        "docker": "aem_gym.envs.swe.sandbox.containers:open_docker",
        "podman": "aem_gym.envs.swe.sandbox.containers:open_podman",
        "bubblewrap": "aem_gym.envs.swe.sandbox.local:BubblewrapEngine",
        "process": "aem_gym.envs.swe.sandbox.local:ProcessEngine",
    },
)
"""Factories, called without arguments, that return a `SandboxEngine`."""


def open_engine(name: str = "auto") -> SandboxEngine:
    """Open an engine that works on this machine. Close it when done.

    Args:
        name: `docker`, `podman`, or `auto` for whichever answers; `bubblewrap` or `process` for
            trusted code; the name of a registered engine, or `module:attribute`.

    Raises:
        UnknownNameError: no engine has this name.
        ConfigError: the factory does not return a sandbox engine.
        SandboxError: the engine does not work here; the message says what to do.
    """
    engine = ENGINES.load(name)()
    if not isinstance(engine, SandboxEngine):
        raise ConfigError(
            f"sandbox engine {name!r}: expected an object with name, isolates, image, start, sweep "
            f"and close (aem_gym.envs.swe.sandbox.base.SandboxEngine), got {type(engine).__name__}"
        )
    return engine


def check_engine(env_args: Mapping[str, Any]) -> None:
    """Check once, before a run, that the engine of an environment works.

    Args:
        env_args: the environment's arguments; `engine` is the only one used.

    Raises:
        ConfigError: it does not work or does not exist; the message says what to do.
    """
    try:
        open_engine(str(env_args.get("engine", "auto"))).close()
    except SandboxError as error:
        raise MissingEngineError(f"SWE needs a sandbox engine: {error}") from error
