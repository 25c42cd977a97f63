"""Updates on recorded episodes, by one of several processes: what test_distributed starts.

    torchrun ... -m tests.training.replays FOLDER compact|plain|sharded ...

FOLDER holds a tiny policy and recorded groups; the figures of the updates, the scores before and
the weights after them go to FOLDER/out-N-WAY.pt. `plain` is the library's forward pass, which
`sharded` works with, on a whole base model.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import torch

from aem_gym.settings import settle
from aem_gym.training.credit import CreditRule, Rewards, make_batch
from aem_gym.training.distributed import open_world, process_count
from aem_gym.training.shared import SharedUpdater, shard_base
from aem_gym.training.update import Updater


def main(folder: Path, way: str) -> None:
    """Two updates on the recorded groups."""
    from aem_gym.agents.build import open_agent

    torch.set_num_threads(1)
    recorded: dict[str, Any] = pickle.loads((folder / "recorded.pickle").read_bytes())
    config = settle(recorded["settings"] | {"shard_base": way == "sharded"}).config
    with open_world(config) as world:
        agent = open_agent(config, recorded["template"], str(folder / "model"))
        agent.learner.load(folder / "adapter")
        agent.learner.freeze_reference()
        updater = Updater(agent.learner, config)
        if world is not None:
            updater = SharedUpdater(agent.learner, config, world)
        if way == "sharded":
            shard_base(agent.learner, config)
        if way == "plain":
            learner: Any = agent.learner
            learner.compact = None
        figures, tensors = [], dict[str, torch.Tensor]()
        for number, groups in enumerate(recorded["groups"]):
            batch = make_batch(groups, Rewards())
            assert batch is not None
            credit = CreditRule.of(config).assign(batch.batch, number)
            scores = updater.score(batch)
            of_step = updater.update(batch, credit, number)
            figures.append(of_step)
            tensors |= {
                f"alpha {number}": credit.modulated.alpha,
                f"logprobs {number}": scores.logprobs,
                f"entropies {number}": scores.entropies,
            }
        tensors |= {name: p.detach() for name, p in agent.learner.parameters().items()}
        if world is None or world.leads:
            name = f"out-{process_count()}-{way}.pt"
            torch.save({"figures": figures, "tensors": tensors}, folder / name)


if __name__ == "__main__":
    for each in sys.argv[2:]:
        main(Path(sys.argv[1]), each)
