"""Adapters on a real vLLM server: old versions leave the server and the folder as new ones come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import urllib3

from aem_gym.concurrency import run_async
from aem_gym.protocols import GenerationRequest
from tests.engines.test_vllm import options, pytestmark
from tests.tiny import Tiny

__all__ = ["pytestmark"]


def served(policy: Any) -> set[str]:
    """Names of the adapters that the server has."""
    own = policy._own
    answer = urllib3.request(
        "GET", f"{own.url}/v1/models", headers={"Authorization": f"Bearer {own.key}"}
    )
    return {each["id"] for each in json.loads(answer.data)["data"] if each.get("parent")}


def version(name: str) -> int:
    return int(name.rpartition("-v")[2])


def test_old_versions_leave_the_server_and_the_folder(tiny: Tiny, tmp_path: Path) -> None:
    folder = tmp_path / "adapters"
    given = options(tmp_path, adapters=str(folder), merge=False)
    agent: Any = tiny.agent(sampler="vllm", sampler_options=given)
    policy, most = agent.policy, 0
    first = max(version(path.name) for path in folder.glob("aem-*-v*"))
    try:
        for number in range(5):
            run_async(policy.sample(GenerationRequest(number, (1, 2, 3), 1)))
            policy.publish(agent.learner)
            there = {path.name for path in folder.glob("aem-*-v*")}
            assert served(policy) == there
            most = max(most, len(there))
        assert most == policy.options.versions
        assert max(map(version, there)) == first + 5, "the newest stays"
    finally:
        policy.close()
    assert list(folder.iterdir()) == []
