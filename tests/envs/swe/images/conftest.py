"""An engine to build images in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from aem_gym.envs.swe.sandbox.connect import find
from tests.envs.swe.images.swe_images import Lab
from tests.envs.swe.swe_answering import or_skip


@pytest.fixture
def lab() -> Iterator[Lab]:
    """Skips where no engine answers; with AEM_REQUIRE_DOCKER=1 that is a failure."""
    found = or_skip(find)
    opened = Lab(found.client)
    yield opened
    opened.close()
    found.client.close()
