"""Our episodes on a server such as verl's: their limits, their failures, and what is refused."""

from __future__ import annotations

import asyncio
import importlib.util
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aem_gym.agents.verl_policy import ServerPolicy
from aem_gym.errors import ConfigError, InfrastructureError
from aem_gym.integrations.verl_episodes import (
    Stage,
    rows_of,
    settled,
    task_rows,
)
from aem_gym.protocols import GenerationRequest
from aem_gym.rollout.collector import Collector, CollectorSettings, RolloutRequest
from aem_gym.rollout.pool import EnvPool
from aem_gym.training.credit import Rewards, training_rows
from aem_gym.types import Episode, StopReason
from tests.tiny import ENV, Tiny

ROOT = Path(__file__).resolve().parents[2]
SECTION = {
    "env": ENV.env_id,
    "env_args": {"difficulty": "small"},
    "model": "tiny",
    "prompt_template": "compact",
    "max_turns": 5,
    "max_new_tokens": 10,
}
SAMPLING = {"temperature": 1.0, "top_p": 1.0, "top_k": -1, "logprobs": False}


class Server:
    """`generate` as verl's LLMServerClient has it, on the policy of this process."""

    def __init__(self, policy: Any, **changes: Any) -> None:
        self.policy, self.changes, self.names, self.live = policy, changes, [], 0
        self.most = 0

    async def generate(
        self, request_id: str, *, prompt_ids: list[int], sampling_params: dict[str, Any]
    ) -> Any:
        self.names.append(request_id)
        self.live += 1
        self.most = max(self.most, self.live)
        await asyncio.sleep(0.002 * (len(prompt_ids) % 3))
        key, temperature = sampling_params.pop("seed"), sampling_params.pop("temperature")
        ids, most = tuple(prompt_ids), sampling_params.pop("max_tokens")
        made = self.policy.generate([GenerationRequest(0, ids, key, temperature, most)])[0]
        self.policy.release(0)
        self.live -= 1
        logprobs = list(made.logprobs) if sampling_params.pop("logprobs") else None
        steps = {"min_global_steps": 4, "max_global_steps": 5}
        answer = {"token_ids": list(made.ids), "log_probs": logprobs, "stop_reason": "completed"}
        answer |= {"num_preempted": 1, "extra_fields": steps, **self.changes}
        return SimpleNamespace(**answer)


def play(
    stage: Stage,
    server: Server,
    requests: Sequence[RolloutRequest],
    limits: tuple[int, int] = (1024, 1024),
) -> tuple[list[Episode], list[ServerPolicy]]:
    """All episodes at once, as a worker of verl plays them."""
    made = [ServerPolicy(server, SAMPLING, stage.builder.stop_ids, True) for _ in requests]

    async def every() -> list[Episode]:
        pairs = zip(made, requests, strict=True)
        agents = [(stage.agent(policy, *limits), request) for policy, request in pairs]
        return await asyncio.gather(*(stage.play(a, "train", r, 1.0) for a, r in agents))

    return asyncio.run(every()), made


@pytest.fixture(scope="module")
def agent(tiny: Tiny) -> Any:
    return tiny.agent(adapted=False)


REQUESTS = [RolloutRequest(seed, r, 10 * seed + r + 1) for seed in (3, 4) for r in range(3)]


@pytest.mark.parametrize("context", ["transcript", "window"])
def test_tokens_are_those_of_our_collector_and_rows_those_we_train_on(
    tiny: Tiny, agent: Any, context: str
) -> None:
    stage = Stage(settled({**SECTION, "context": context}), agent.learner.tokenizer)
    server = Server(agent.policy)
    episodes, policies = play(stage, server, REQUESTS)
    with EnvPool(ENV) as pool:
        mine = tiny.agent(adapted=False, context=context, max_length=2048)
        collector = Collector(pool, mine, CollectorSettings(stage.template, context))
        ours = collector.run(REQUESTS)
    assert server.most > 1 and len(set(server.names)) == len(REQUESTS)
    assert [p.preempted for p in policies] == [len(e.turns) for e in episodes]
    for number, (found, wanted) in enumerate(zip(episodes, ours, strict=True)):
        assert [t.response_ids for t in found.turns] == [t.response_ids for t in wanted.turns]
        rows, trained = rows_of(found, stage.rewards), training_rows([(number, wanted)])
        for row, training in zip(rows, trained, strict=True):
            start, length = len(row.prompt_ids), len(row.response_ids)
            assert tuple(row.prompt_ids + row.response_ids) == training.ids
            places = [(a + start, b + start) for a, b in row.notes["spans"]]
            assert places == [(span.start, span.end) for span in training.spans]
            assert row.notes["turns"] == [span.turn for span in training.spans]
            assert sum(row.mask) == sum(span.end - span.start for span in training.spans)
            assert len(row.mask) == len(row.logprobs) == length


def test_a_transcript_keeps_to_verls_limits(agent: Any) -> None:
    """Verl counts the prompt and what follows it apart. Tokens before the limit are the same."""
    stage = Stage(settled(SECTION), agent.learner.tokenizer)
    whole, _ = play(stage, Server(agent.policy), REQUESTS)
    most = len(rows_of(whole[0], stage.rewards)[0].response_ids) - 15
    cut, _ = play(stage, Server(agent.policy), REQUESTS, (1024, most))
    for short, long in zip(cut, whole, strict=True):
        row, full = (rows_of(episode, stage.rewards)[0] for episode in (short, long))
        assert len(row.response_ids) <= most
        assert row.response_ids == full.response_ids[: len(row.response_ids)]
    assert cut[0].stop_reason is StopReason.CONTEXT_FULL
    with pytest.raises(ConfigError, match="max_new_tokens.*data.max_response_length"):
        play(stage, Server(agent.policy), REQUESTS, (1024, 5))


def test_environments_are_used_again(agent: Any) -> None:
    stage = Stage(settled(SECTION), agent.learner.tokenizer)
    for _ in range(3):
        play(stage, Server(agent.policy), REQUESTS)
    assert len(stage._free["train"]) == len(REQUESTS)


@pytest.mark.parametrize(
    "changes", [{"stop_reason": "aborted"}, {"log_probs": None}, {"token_ids": []}]
)
def test_half_a_response_fails_its_episode(agent: Any, changes: dict[str, Any]) -> None:
    stage = Stage(settled(SECTION), agent.learner.tokenizer)
    episodes, _ = play(stage, Server(agent.policy, **changes), REQUESTS[:1])
    assert episodes[0].stop_reason is StopReason.INFRASTRUCTURE
    with pytest.raises(InfrastructureError, match="task 3, rollout 0.*expected a whole response"):
        rows_of(episodes[0], stage.rewards)


def test_an_episode_without_a_response_is_left_out(agent: Any) -> None:
    stage = Stage(settled(SECTION), agent.learner.tokenizer)
    episodes, _ = play(stage, Server(agent.policy), REQUESTS[:1], (8, 12))
    with pytest.raises(InfrastructureError, match="context_full before the first response"):
        rows_of(episodes[0], stage.rewards)


def test_penalties_and_success_travel_with_the_row(agent: Any) -> None:
    stage = Stage(settled({**SECTION, "invalid_penalty": 0.3}), agent.learner.tokenizer)
    episode = play(stage, Server(agent.policy), REQUESTS[:1])[0][0]
    turns = [replace(turn, format_valid=bool(n % 2)) for n, turn in enumerate(episode.turns)]
    episode = replace(episode, turns=tuple(turns), won=True)
    notes = rows_of(episode, stage.rewards)[0].notes
    assert notes["penalties"] == [
        Rewards.of(stage.config, stage.template).penalty(t) for t in turns
    ]
    assert -0.3 in notes["penalties"] and 0.0 in notes["penalties"] and notes["won"]


def test_tasks_are_those_of_a_run_of_ours() -> None:
    config = settled({**SECTION, "seed": 5})
    from aem_gym.seeding import derive

    train, fixed = task_rows("train:3", config), task_rows("eval:2", config)
    assert [row["index"] for row in train] == [derive(5, "task", n) >> 31 for n in range(3)]
    assert [row["index"] for row in fixed] == [config.eval_seed, config.eval_seed + 1]
    assert train[0]["extra_info"]["split"] == config.train_split
    assert fixed[0]["extra_info"]["split"] == config.eval_split
    with pytest.raises(ConfigError, match="train:COUNT or eval:COUNT"):
        task_rows("train.parquet", config)


def test_what_verl_sets_itself_is_refused_in_our_section() -> None:
    with pytest.raises(ConfigError, match="'lr'.*Known: .*modulator_options"):
        settled({**SECTION, "lr": 1e-6})
    with pytest.raises(ConfigError, match="aem_gym.env: is missing"):
        settled({"model": "tiny"})


@pytest.mark.skipif(bool(importlib.util.find_spec("verl")), reason="verl is installed here")
def test_without_verl_the_error_names_the_lines_that_install_it() -> None:
    command = [sys.executable, "-c", "import aem_gym.integrations.verl"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    lines = answer.stderr.replace("\\\n", "").splitlines()
    page = (ROOT / "docs/verl.md").read_text().splitlines()
    for line in ("pip install torch==2.13.0", "pip install --no-deps verl==0.9.1"):
        assert line in lines and line in page
    named = next(line for line in lines if "transformers" in line).split()[2:]
    known = (ROOT / "examples/verl/requirements.txt").read_text().split()
    assert [name.strip('"') for name in named] == known
