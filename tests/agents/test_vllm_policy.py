"""Options of the sampler vllm, and what it says without a server."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from aem_gym.agents.vllm_server import _inherited, why_it_ended
from aem_gym.concurrency import run_async
from aem_gym.errors import ConfigError
from aem_gym.protocols import GenerationRequest
from tests.tiny import Tiny


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "x"}, "unknown option of the sampler vllm 'url'.*Did you mean 'urls'"),
        ({"urls": "localhost:8000", "adapters": "x"}, "expected http://HOST:PORT"),
        ({"urls": "http://a:1"}, "adapters: name a folder"),
        ({"urls": "http://a:1", "adapters": "x"}, "VLLM_API_KEY to the servers' API key"),
        ({"server": {"port": 1}}, "server.port: cannot be set"),
        (
            {"urls": "http://localhost:1", "adapters": "x", "merge": True},
            "merge: for a server of our",
        ),
        (
            {"urls": "http://localhost:1", "adapters": "x", "sleep": True},
            "sleep: for a server of our",
        ),
        ({"python": sys.executable, "sleep": True}, "sleep: vLLM sleeps on GPUs only"),
        ({"env": {"X": True}}, "env"),
        ({"timeout": "long"}, "timeout|float"),
    ],
)
def test_wrong_options_are_refused(
    tiny: Tiny, given: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    with pytest.raises(ConfigError, match=message):
        tiny.agent(sampler="vllm", sampler_options=given)


def test_without_vllm_the_error_says_how_to_get_it(tiny: Tiny, tmp_path: Path) -> None:
    agent: Any = tiny.agent(
        sampler="vllm",
        sampler_options={"python": sys.executable, "log": str(tmp_path / "log")},
    )
    policy = agent.policy
    request = GenerationRequest(0, (1, 2, 3), 1)
    with pytest.raises(ConfigError, match="not installed: pip install vllm"):
        run_async(policy.sample(request))
    policy.close()


def test_the_cause_of_a_servers_end_stands_before_what_follows_from_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    told = "(EngineCore pid=7) ERROR 11-28 23:38:12 [core.py:1512] RuntimeError: disk on fire"
    flood = "(APIServer pid=9) ERROR 11-28 23:38:{:02} [error.py:54] EngineDeadError: see above"
    log.write_text("\n".join(["starting", told, *map(flood.format, range(60)), "goodbye"]))
    said = why_it_ended(log).splitlines()
    assert said[1:] == ["  RuntimeError: disk on fire", "  EngineDeadError: see above"]
    log.write_text("starting\nstopped by its owner\n")
    assert why_it_ended(log).splitlines()[-1] == "  stopped by its owner"
    assert why_it_ended(tmp_path / "none") == ""


def test_a_server_does_not_join_torchruns_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """It gets the GPU of the process that starts it."""
    for name, value in {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    found = _inherited()
    assert found["CUDA_VISIBLE_DEVICES"] == "1"
    assert not {"RANK", "LOCAL_RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID"} & found.keys()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert _inherited()["CUDA_VISIBLE_DEVICES"] == "6"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert _inherited()["CUDA_VISIBLE_DEVICES"] == "4,6"
