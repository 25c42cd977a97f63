"""A real tiny policy for tests: ALFWorld's texts, a few seconds of cloning, adapters that act."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aem_gym.rollout.pool import EnvDescription, EnvPool, EnvSpec
from aem_gym.training.config import Config
from aem_gym.types import Demo, Episode, Group, PromptTemplate

if TYPE_CHECKING:
    from aem_gym.agents.trainable import TrainableLanguageAgent

ENV = EnvSpec("aem_gym/ALFWorld-v0", {"difficulty": "small", "split": "train"})


@dataclass(frozen=True)
class Tiny:
    """A cloned base model, and what it was made from."""

    folder: Path
    config: Config
    recipe: PromptTemplate
    description: EnvDescription
    demos: list[Demo] = field(repr=False)

    def agent(
        self, *, adapted: bool = True, value_head: bool = False, **changes: Any
    ) -> TrainableLanguageAgent:
        """A fresh agent with an adapter; `adapted`: one that changes what the model does."""
        import torch

        from aem_gym.agents.build import open_agent

        config = self.changed(**changes)
        agent = open_agent(config, self.recipe, str(self.folder), value_head=value_head)
        if adapted:
            draws = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for name, weight in agent.parameters().items():
                    if "lora_B" in name:
                        weight += 0.05 * torch.randn(weight.shape, generator=draws)
            agent.weights_changed()
        return agent

    def changed(self, **changes: Any) -> Config:
        """The configuration with changes."""
        return Config(**{**vars(self.config), **changes})

    def groups(self, agent: Any, groups: int = 3, size: int = 3, **limits: Any) -> list[Group]:
        """Rollouts of an agent on training tasks."""
        from aem_gym.rollout.collector import Collector, CollectorSettings, grouped, requests_for

        settings = {"context": agent.builder.kind, "max_turns": 4, **limits}
        with EnvPool(ENV) as pool:
            collector = Collector(pool, agent, CollectorSettings(self.recipe, **settings))
            return grouped(collector.run(requests_for(range(groups), size, "test")), size)


def make_tiny_policy(folder: Path) -> Tiny:
    """Clone 30 demonstrations for 40 steps: responses that are long, short, cut off and whole."""
    import torch

    from aem_gym.agents.build import make_fresh, open_agent
    from aem_gym.protocols import EpisodeStart
    from aem_gym.training.cloning import CloningSettings, clone
    from aem_gym.training.demonstrations import Demonstrator

    torch.set_num_threads(1)
    config = Config(max_new_tokens=10, max_turns=4, device="cpu", threads=1, tensorboard=False)
    with EnvPool(ENV) as pool:
        description = pool.describe()
        demos = Demonstrator(pool, seed=1, noise=0.1).expert(30)
    recipe = description.prompt_templates["compact"]
    make_fresh(folder, config, recipe, demos, description.lexicon)
    agent = open_agent(config, recipe, str(folder), adapter=False)
    start = EpisodeStart(0, 0, description.instructions, "", recipe)
    rows = [row for demo in demos for row in agent.tokenize(demo, start)]
    clone(agent, rows, CloningSettings(steps=40, batch=8, warmup=5))
    agent.save(folder)
    return Tiny(folder, config, recipe, description, demos)


def flat(groups: list[Group]) -> list[Episode]:
    """All episodes of some groups."""
    return [episode for group in groups for episode in group.episodes]
