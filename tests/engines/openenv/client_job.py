"""Plays with OpenEnv's own client: `python client_job.py URL SEED...`; prints JSON.

Runs in the environment of AEM_OPENENV_PYTHON, which need not have aem_gym.
"""

import asyncio
import json
import os
import sys

from openenv.core.generic_client import GenericEnvClient


async def episode(url: str, seed: int) -> dict[str, object]:
    """What the expert's episode shows to a client that knows nothing of us."""
    token = os.environ.get("AEM_OPENENV_TOKEN")
    headers = {"Authorization": f"Bearer {token}"} if token else None
    async with GenericEnvClient(base_url=url, headers=headers, message_timeout_s=300) as env:
        result = await env.reset(seed=seed)
        texts, actions = [result.observation["text"]], []
        while not result.done:
            asked = await env.step({"ask": "expert"})
            actions.append(asked.observation["info"]["expert"][1])
            result = await env.step({"text": actions[-1]})
            texts.append(result.observation["text"])
        state = await env.state()
    won = result.observation["info"]["won"]
    steps = state["step_count"]
    return {"texts": texts, "actions": actions, "won": won, "reward": result.reward, "steps": steps}


async def main() -> None:
    url, *seeds = sys.argv[1:]
    print(json.dumps(await asyncio.gather(*(episode(url, int(seed)) for seed in seeds))))


asyncio.run(main())
