"""The tiny policy that acts: made once, then opened by every side.

Uses only what trees have had since b479e1c, the commit that the collector is compared with.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from aem_gym.config import Config
from aem_gym.protocols import EpisodeStart, TrainableAgent
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool
from aem_gym.settings import settle
from aem_gym.types import PromptTemplate

ENV = EnvSpec("aem_gym/ALFWorld-v0", {"difficulty": "small", "split": "train"})
MAX_NEW_TOKENS = 10


def settings(**changes: Any) -> Config:
    """The settings of all sides, settled."""
    given: dict[str, Any] = {"env": ENV.env_id, "model": "tiny", "max_new_tokens": MAX_NEW_TOKENS}
    given |= {"device": "cpu", "threads": 1, "loggers": [], "max_length": 1024}
    return settle({**given, **changes}).config


def make(folder: Path, demos: int, steps: int) -> None:
    """Clone some of ALFWorld's demonstrations: responses that are actions and mostly end."""
    from aem_gym.agents.build import open_agent
    from aem_gym.agents.tiny import Tiny
    from aem_gym.training.cloning import CloningSettings, clone
    from aem_gym.training.demonstrations import Demonstrator

    config = settings()
    with EnvPool(ENV) as pool:
        description = pool.describe()
        shown = Demonstrator(pool, seed=1, noise=0.1).expert(demos)
    template = description.prompt_templates["compact"]
    Tiny.make(folder, config, template, shown, description.lexicon)
    agent = open_agent(config, template, str(folder), adapter=False)
    start = EpisodeStart(0, 0, description.instructions, "", template)
    rows = [row for demo in shown for row in agent.tokenize(demo, start)]
    clone(agent.learner, rows, CloningSettings(steps=steps, batch=8, warmup=5))
    agent.learner.save(folder)


def load(folder: Path, template: PromptTemplate, **changes: Any) -> TrainableAgent:
    """An agent with the policy and an adapter that changes what it does."""
    import torch

    from aem_gym.agents.build import open_agent

    agent = open_agent(settings(**changes), template, str(folder))
    draws = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, weight in agent.learner.parameters().items():
            if "lora_B" in name:
                weight.add_(0.02 * torch.randn(weight.shape, generator=draws))
    agent.policy.publish(agent.learner)
    return agent
