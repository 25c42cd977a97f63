"""Environments served by a real OpenEnv server are those of this process, to any client."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from aem_gym.agents.baselines import ExpertAgent, RandomAgent
from aem_gym.evaluation import eval_spec, run_episode
from aem_gym.registry import find_env
from aem_gym.rollout.collector import Collector, CollectorSettings, requests_for
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool, env_kwargs, env_parameters
from aem_gym.settings import settle
from aem_gym.types import Episode, StopReason
from tests.engines.openenv.servers import (
    MARKS,
    PYTHON,
    ROOT,
    TOKEN,
    Server,
    Start,
)
from tests.test_docs import blocks
from tests.training.runs import SMALL, lines, train_process

pytestmark = MARKS


def play(
    env: str, agent: Any, episodes: int, env_args: dict[str, Any] | None = None
) -> list[Episode]:
    """Episodes side by side, as a run collects them."""
    with EnvPool(EnvSpec(env, env_args or {})) as pool:
        template = next(iter(pool.describe().prompt_templates.values()))
        collector = Collector(pool, agent, CollectorSettings(template))
        return collector.run(requests_for(range(episodes), 1, "t"))


# The same as in this process ---------------------------------------------------------------------


@pytest.mark.parametrize("agent", [ExpertAgent, RandomAgent])
@pytest.mark.parametrize(
    ("name", "env_args", "extra"),
    [
        ("alfworld", {"difficulty": "small"}, {}),
        ("alfworld", {"difficulty": "full", "max_turns": 9}, {"difficulty": "full"}),
        ("webshop", {"difficulty": "easy", "split": "test"}, {"split": "test"}),
    ],
)
def test_an_episode_is_that_of_this_process(
    openenv: dict[str, Server], name: str, env_args: Any, extra: Any, agent: Callable[[], Any]
) -> None:
    here = play(name, agent(), 16, env_args)
    extra = extra | {k: v for k, v in env_args.items() if k == "max_turns"}
    there = play(f"openenv:{openenv[name].url()}", agent(), 16, extra)
    assert here == there and len({e.task_id for e in here}) > 8
    assert all(e.error is None for e in there)


@pytest.mark.parametrize(("name", "difficulty"), [("alfworld", "small"), ("webshop", "easy")])
def test_every_answer_is_the_same_byte_for_byte(
    openenv: dict[str, Server], name: str, difficulty: str
) -> None:
    """Infos, flags and rewards, in and after an episode; also of nonsense, and of a chosen task."""
    actions = [
        "look",
        "",
        "\ud800",
        "search[a b]",
        "click[buy now]",
        "go to fridge 1",
        "\x00é\n" * 3,
    ]
    there = gym.make(find_env(f"openenv:{openenv[name].url()}"), disable_env_checker=True)
    here = gym.make(find_env(name), difficulty=difficulty, disable_env_checker=True)
    with closing(there), closing(here):
        task = here.reset(seed=5)[1]["task_id"]
        for options in (None, {"task_id": task}):
            assert here.reset(seed=9, options=options) == there.reset(seed=9, options=options)
            for action in actions:
                clean = action.encode(errors="replace").decode()  # as the collector gives it
                one, other = here.step(clean), there.step(action)
                assert one == other
                if one[2] or one[3]:
                    break


@pytest.mark.parametrize(("name", "difficulty"), [("alfworld", "small"), ("webshop", "easy")])
def test_it_declares_what_the_environment_declares(
    openenv: dict[str, Server], name: str, difficulty: str
) -> None:
    """Prompt templates, instructions, limits, suggested settings, and the evaluation's protocol."""
    env = f"openenv:{openenv[name].url()}"
    here = settle({"env": name, "env_args": {"difficulty": difficulty}}).config
    there = settle({"env": env}).config
    assert there.env == env
    for setting, value in vars(here).items():
        if setting not in ("env", "env_args", "warmstart_env_args", "out"):
            assert getattr(there, setting) == value, setting
    assert "split" in env_parameters(env)[0] and "url" not in env_parameters(env)[0]
    specs, about = [], []
    for config in (here, there):
        kwargs = env_kwargs(config, config.eval_split)
        with EnvPool(EnvSpec(config.env, kwargs)) as pool:
            about.append(pool.describe())
            template = next(iter(about[-1].prompt_templates.values()))
            specs.append(eval_spec(config, template, about[-1]))
    assert about[1].waits and about[1].has_expert
    for field in ("instructions", "prompt_templates", "lexicon", "max_turns", "task_types"):
        assert getattr(about[0], field) == getattr(about[1], field), field
    assert about[0].protocol == about[1].protocol
    assert (specs[0].split, specs[0].tasks) == (specs[1].split, specs[1].tasks)


def test_a_run_through_it_is_the_run_in_this_process(
    openenv: dict[str, Server], tmp_path: Path
) -> None:
    settings = {**SMALL, "steps": 2, "eval_every": 1, "eval_episodes": 4}
    flags = [f"{k}={v}" for k, v in settings.items() if k != "loggers"]
    envs = {"here": "alfworld", "there": f"openenv:{openenv['alfworld'].url()}"}
    for name, env in envs.items():
        out = ["--env", env, "--out", str(tmp_path / name)]
        process = train_process([*flags, *out], cwd=tmp_path)
        stdout, stderr = process.communicate(timeout=300)
        assert process.returncode == 0, stderr
    runs = [lines(tmp_path / name / "metrics.jsonl") for name in envs]
    assert len(runs[0]) == len(runs[1]) == 2
    for one, other in zip(*runs, strict=True):
        timed = {key for key in one if key.startswith("seconds")}
        assert {k: one[k] for k in one.keys() - timed} == {k: other[k] for k in one.keys() - timed}


def test_32_sessions_at_once_and_the_expert_wins_all(
    openenv: dict[str, Server], capsys: pytest.CaptureFixture[str]
) -> None:
    """In full rooms, where the expert has 50 turns."""
    env, args = f"openenv:{openenv['alfworld'].url()}", {"difficulty": "full"}
    took: dict[str, float] = {}
    for agent in (RandomAgent(), ExpertAgent()):
        began = time.perf_counter()
        episodes = play(env, agent, 32, args)
        seconds = time.perf_counter() - began
        took[agent.name] = 1e3 * seconds / sum(len(e.turns) for e in episodes)
        assert all(e.error is None for e in episodes)
    assert [e.stop_reason for e in episodes] == [StopReason.WON] * 32
    with capsys.disabled():
        print("\n32 sessions, ms a step:", {k: round(v, 2) for k, v in took.items()})


# OpenEnv's own client ----------------------------------------------------------------------------


def real_client(url: str, seeds: Sequence[int], **environment: str) -> list[dict[str, Any]]:
    job = [PYTHON, str(Path(__file__).with_name("client_job.py")), url, *map(str, seeds)]
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | environment
    done = subprocess.run(job, capture_output=True, text=True, timeout=300, env=environ)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("name", ["alfworld", "token"])
def test_openenvs_own_client_plays_the_same(openenv: dict[str, Server], name: str) -> None:
    """It knows nothing of us; 16 sessions at once. Also where workers hold the environments."""
    given = {"AEM_OPENENV_TOKEN": TOKEN} if name == "token" else {}
    found = real_client(openenv[name].url(), range(16), **given)
    for seed, there in enumerate(found):
        here = run_episode("alfworld", "expert", seed=seed, env_args={"difficulty": "small"})
        assert there["won"] and there["reward"] == 1.0 and there["steps"] == len(here.turns)
        assert there["actions"] == [turn.action for turn in here.turns]
        assert there["texts"][:-1] == [turn.observation for turn in here.turns]


def test_the_blocks_of_the_page_run(start_openenv: Start, tmp_path: Path) -> None:
    """As they are, but for the port; the one with OpenEnv's client in its environment."""
    page = ROOT / "docs" / "openenv.md"
    found = [block for block in blocks(page) if block.language in ("bash", "python")]
    bash = [line for block in found if block.language == "bash" for line in block.text.splitlines()]
    serve, served = (shlex.split(line) for line in bash if line.startswith("aem-gym serve"))
    (export,) = (line for line in bash if line.startswith("export "))
    made = subprocess.run(
        ["bash", "-c", f'{export.replace("python", sys.executable)}; echo "$AEM_OPENENV_TOKEN"'],
        capture_output=True,
        text=True,
    )
    here = start_openenv(*serve[2:])
    elsewhere = start_openenv(*served[2:], AEM_OPENENV_TOKEN=made.stdout.strip())
    assert elsewhere.url().startswith("http://0.0.0.0:")
    code = [b.text.replace("http://127.0.0.1:8000", here.url()) for b in found]
    ours, theirs = (text for text, b in zip(code, found, strict=True) if b.language == "python")
    for program, text, printed in (
        (sys.executable, ours, "won "),
        (PYTHON, theirs, "1.0 True"),
    ):
        done = subprocess.run([program, "-c", text], capture_output=True, text=True, cwd=ROOT)
        assert done.stdout.startswith(printed), done.stderr
    (train,) = (shlex.split(line) for line in bash if line.startswith("python train.py"))
    env = train[-1].replace("http://127.0.0.1:8000", here.url())
    few = ["steps=1", "groups=2", "group_size=2", "warmstart_episodes=20", "warmstart_steps=2"]
    few += ["eval_episodes=2", "threads=1", f"out={tmp_path / 'run'}"]
    process = train_process([*few, train[-2], env], cwd=tmp_path)
    assert process.wait(300) == 0
