"""Engines by name."""

from __future__ import annotations

from aem_gym.envs.swe.sandbox.base import SandboxEngine
from aem_gym.errors import UnknownNameError

ENGINES = ("auto", "docker", "podman", "bubblewrap", "process")
TRUSTED = ("docker", "podman")
"""Those whose walls and limits are real."""


def open_engine(name: str = "auto") -> SandboxEngine:
    """An engine that works now. Close it when done.

    Args:
        name: `docker`, `podman`, or `auto` for whichever answers; `bubblewrap` and `process` run
            code that is trusted, and have to be asked for.

    Raises:
        UnknownNameError: no such engine.
        SandboxError: it does not answer; says how to start it.
    """
    if name not in ENGINES:
        raise UnknownNameError("sandbox engine", name, ENGINES)
    if name in ("auto", *TRUSTED):
        from aem_gym.envs.swe.sandbox.connect import find
        from aem_gym.envs.swe.sandbox.containers import ContainerEngine

        return ContainerEngine(find(name))
    from aem_gym.envs.swe.sandbox.local import LocalEngine

    return LocalEngine(name)
