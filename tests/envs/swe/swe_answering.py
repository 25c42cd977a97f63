"""What needs a container engine: skipped where none answers, unless one has to be there."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TypeVar

import pytest

from aem_gym.envs.swe.sandbox.base import SandboxError

_T = TypeVar("_T")


def or_skip(ask: Callable[[], _T]) -> _T:
    """What an engine answers. With AEM_REQUIRE_DOCKER=1 a missing engine is a failure."""
    try:
        return ask()
    except SandboxError as error:
        if os.environ.get("AEM_REQUIRE_DOCKER"):
            raise
        pytest.skip(f"needs a container engine: {error}")
