"""An engine to build images in."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from aem_gym.envs.swe.sandbox.base import SandboxError
from aem_gym.envs.swe.sandbox.connect import find
from tests.envs.swe.images.swe_images import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Skips where no engine answers; with AEM_REQUIRE_DOCKER=1 that is a failure."""
    try:
        found = find()
    except SandboxError as error:
        if os.environ.get("AEM_REQUIRE_DOCKER"):
            raise
        pytest.skip(f"needs a container engine: {error}")
    opened = Lab(found.client)
    yield opened
    opened.close()
    found.client.close()
