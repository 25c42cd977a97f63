"""What several tests of this folder start from."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from aem_gym.training.credit import Rewards, TrainBatch, make_batch
from tests.tiny import Tiny


@pytest.fixture(scope="module", params=["transcript", "window"])
def rollout(tiny: Tiny, request: pytest.FixtureRequest) -> tuple[str, TrainBatch]:
    """A step of real rollouts, with returns made up so that there is something to learn."""
    agent = tiny.agent(context=request.param)
    step = make_batch(tiny.groups(agent, 3, 3), Rewards())
    assert step is not None
    draws = torch.Generator().manual_seed(3)
    of_episode = torch.randint(0, 2, (len(step.episodes),), generator=draws).float()
    batch = replace(step.batch, returns=of_episode[step.batch.trajectory_ids])
    return request.param, replace(step, batch=batch)
