"""Rollouts of ALFWorld in this process, as often as the driver asks.

    python -P alfworld.py MODEL_FOLDER DIGESTS [EPISODES]

Runs with the tree to time first on its path; `policy.py` lies beside this file. A line of DIGESTS
says which tokens were sampled.
"""

from __future__ import annotations

import hashlib
import itertools
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "train"))
sys.path.insert(0, str(Path(__file__).resolve().parent))

import policy
import signals

GROUP_SIZE = 8


def main() -> None:
    told = signals.Told()
    import torch

    from aem_gym.rollout.collector import Collector, CollectorSettings, requests_for
    from aem_gym.rollout.pool import EnvPool

    torch.set_num_threads(1)
    model, digests = map(Path, sys.argv[1:3])
    groups = int(sys.argv[3]) // GROUP_SIZE
    with EnvPool(policy.ENV) as pool:
        template = pool.describe().prompt_templates["compact"]
        agent = policy.load(model, template)
        collector = Collector(pool, agent, CollectorSettings(template))
        numbers = itertools.count()
        told.imported()

        def work() -> dict[str, Any]:
            seeds = range(groups * (number := next(numbers)), groups * (number + 1))
            episodes = collector.run(requests_for(seeds, GROUP_SIZE, "alfworld"))
            ids = [[turn.response_ids for turn in episode.turns] for episode in episodes]
            with digests.open("a") as file:
                file.write(hashlib.sha256(repr(ids).encode()).hexdigest() + "\n")
            return {}

        told.loop(work)


if __name__ == "__main__":
    main()
