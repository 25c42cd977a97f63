"""A real tiny policy for tests: ALFWorld's texts, a few seconds of cloning, adapters that act."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.config import Config
from aem_gym.rollout.envs import EnvDescription, EnvSpec
from aem_gym.rollout.pool import EnvPool
from aem_gym.types import Demo, Episode, Group, PromptTemplate

if TYPE_CHECKING:
    from aem_gym.protocols import TrainableAgent

ENV = EnvSpec("aem_gym/ALFWorld-v0", {"difficulty": "small", "split": "train"})


@dataclass(frozen=True)
class Tiny:
    """A cloned base model, and what it was made from."""

    folder: Path
    config: Config
    template: PromptTemplate
    description: EnvDescription
    demos: list[Demo] = field(repr=False)

    def agent(
        self, *, adapted: bool = True, value_head: bool = False, **changes: Any
    ) -> TrainableAgent:
        """A fresh agent with an adapter; `adapted`: one that changes what the model does."""
        import torch

        from aem_gym.agents.build import open_agent

        config = self.changed(**changes)
        agent = open_agent(config, self.template, str(self.folder), value_head=value_head)
        if adapted:
            draws = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for name, weight in agent.learner.parameters().items():
                    if "lora_B" in name:
                        weight += 0.05 * torch.randn(weight.shape, generator=draws)
            agent.policy.publish(agent.learner)
        return agent

    def changed(self, **changes: Any) -> Config:
        """The configuration with changes."""
        return replace(self.config, **changes)

    def groups(
        self,
        agent: Any,
        groups: int = 3,
        size: int = 3,
        temperature: float = 1.0,
        **limits: Any,
    ) -> list[Group]:
        """Rollouts of an agent on training tasks."""
        from aem_gym.rollout.collector import Collector, CollectorSettings, grouped, requests_for

        settings = {"context": agent.builder.kind, "max_turns": 4, **limits}
        requests = requests_for(range(groups), size, "test")
        with EnvPool(ENV) as pool:
            collector = Collector(pool, agent, CollectorSettings(self.template, **settings))
            return grouped(collector.run(requests, temperature=temperature), size)


def make_tiny_policy(folder: Path) -> Tiny:
    """Clone 30 demonstrations for 40 steps: responses that are long, short, cut off and whole."""
    import torch

    from aem_gym.agents.build import open_agent
    from aem_gym.agents.tiny import Tiny as TinyModel
    from aem_gym.protocols import EpisodeStart
    from aem_gym.settings import settle
    from aem_gym.training.cloning import CloningSettings, clone
    from aem_gym.training.demonstrations import Demonstrator

    torch.set_num_threads(1)
    given = {"env": ENV.env_id, "model": "tiny", "max_new_tokens": 10, "max_turns": 4}
    config = settle({**given, "device": "cpu", "threads": 1, "loggers": []}).config
    with EnvPool(ENV) as pool:
        description = pool.describe()
        demos = Demonstrator(pool, seed=1, noise=0.1).expert(30)
    template = description.prompt_templates["compact"]
    TinyModel.make(folder, config, template, demos, description.lexicon)
    agent = open_agent(config, template, str(folder), adapter=False)
    start = EpisodeStart(0, 0, description.instructions, "", template)
    rows = [row for demo in demos for row in agent.tokenize(demo, start)]
    clone(agent.learner, rows, CloningSettings(steps=40, batch=8, warmup=5))
    agent.learner.save(folder)
    return Tiny(folder, config, template, description, demos)


def flat(groups: list[Group]) -> list[Episode]:
    """All episodes of some groups."""
    return [episode for group in groups for episode in group.episodes]
