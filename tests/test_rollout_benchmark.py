"""The pieces of `benchmarks.rollout`, small and without timing."""

from __future__ import annotations

from pathlib import Path

import pytest

from aem_gym.envs.swe.sandbox.base import SandboxError
from aem_gym.protocols import Response, TurnInput
from aem_gym.rollout.collector import Collector, CollectorSettings, requests_for
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool
from benchmarks.rollout import sandboxes, slow
from benchmarks.rollout.__main__ import ROOT, interpreter


class Echo:
    """An agent that says which turn it is, one call for all live episodes."""

    name = "echo"

    def __init__(self) -> None:
        self.asked: list[int] = []

    def begin(self, start: object) -> None:
        """It has no state."""

    def act(self, inputs: list[TurnInput]) -> list[Response]:
        self.asked.append(len(inputs))
        return [Response(f"turn {turn.turn}") for turn in inputs]

    def end(self, slot: int) -> None:
        """It has no state."""


def test_lockstep_has_a_barrier_each_turn_and_the_same_episodes() -> None:
    inner = Echo()
    settings = CollectorSettings(slow.SlowEnv.prompt_templates["compact"], max_turns=2)
    requests = requests_for(range(4), 1, "t")
    with EnvPool(EnvSpec.of(slow.SlowEnv)) as pool:
        assert pool.describe().waits
        first = Collector(pool, slow.Lockstep(inner), settings).run(requests)
        again = Collector(pool, slow.Lockstep(Echo()), settings).run(requests)
    assert inner.asked == [4, 4] and first == again
    assert len({episode.turns[0].observation for episode in first}) > 1
    slow.check_same(first, again)


def test_other_tokens_are_no_result() -> None:
    settings = CollectorSettings(slow.SlowEnv.prompt_templates["compact"], max_turns=1)
    with EnvPool(EnvSpec.of(slow.SlowEnv)) as pool:
        collector = Collector(pool, Echo(), settings)
        one, other = (collector.run(requests_for([seed], 1, "t")) for seed in (0, 1))
    with pytest.raises(RuntimeError, match="expected the same episodes"):
        slow.check_same(one, other)


def test_sandboxes_answer_and_are_played_both_ways(tmp_path: Path) -> None:
    try:
        engine = sandboxes.choose_engine()
    except SandboxError as error:
        pytest.skip(f"needs a sandbox engine: {error}")
    found = sandboxes.measure(engine, tmp_path, resets=4, sandboxes=2, commands=2)
    assert found["first_resets_ok"] == found["first_resets"] == 4
    assert found["sandbox_seconds"] >= 2.0 and found["sandbox_one_by_one_seconds"] >= 4.0


def test_a_python_without_vllm_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="expected a Python that has vLLM"):
        interpreter(str(tmp_path / "none"))
    assert (ROOT / "Makefile").read_text().count(".venv-vllm/.done:") == 1
