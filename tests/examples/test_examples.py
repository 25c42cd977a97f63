"""The example packages, installed as a third party's would be, in a process of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aem_gym

ROOT = Path(aem_gym.__file__).parents[1]
IDS = {"lockbox": "lockbox/Lockbox-v0", "wordle_like": "wordle_like/WordleLike-v0"}

PACKAGES = (*IDS, "own_parts")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the examples, without a network."""
    site = tmp_path_factory.mktemp("site")
    copies = tmp_path_factory.mktemp("examples")  # setuptools builds beside the sources
    for name in PACKAGES:
        (copies / name).mkdir()
        for path in (ROOT / "examples" / name).iterdir():
            if path.is_file():
                (copies / name / path.name).write_bytes(path.read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            *options,
            *(str(copies / name) for name in PACKAGES),
        ],
        check=True,
        timeout=120,
    )
    return site


def run(site: Path, code: str) -> Any:
    """What `code` prints, read as JSON; nothing of the working directory can be imported."""
    answer = subprocess.run(
        [sys.executable, "-P", "-c", code],
        env={**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.parametrize(("name", "env_id"), IDS.items())
def test_found_made_and_clean(site: Path, name: str, env_id: str) -> None:
    code = f"""
import json, sys
import aem_gym, gymnasium as gym
from aem_gym.registry import find_env
from aem_gym.env_checks import check_text_env
short = find_env({env_id.split("/")[1].split("-")[0].lower()!r})
loaded = {name!r} in sys.modules
env = gym.make(find_env({env_id!r}))
check_text_env({env_id!r}, seeds=range(5))
print(json.dumps([short, loaded, sys.modules[{name!r}].__file__]))
"""
    short, loaded, path = run(site, code)
    assert short == env_id
    assert not loaded  # knowing the id imports nothing
    assert Path(path).parent == site


@pytest.mark.parametrize("env_id", IDS.values())
def test_made_without_importing_aem_gym_first(site: Path, env_id: str) -> None:
    code = f"""
import gymnasium as gym, json
print(json.dumps(gym.make("aem_gym:{env_id}").reset(seed=1)[1]["task_id"]))
"""
    assert run(site, code)


def play(site: Path, agent: str, env_id: str, episodes: int) -> list[list[Any]]:
    """[won, turns, error] of each episode that the collector runs with a built-in agent."""
    code = f"""
import json
from aem_gym.registry import AGENTS
from aem_gym.rollout.collector import Collector, CollectorSettings, requests_for
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool
with EnvPool(EnvSpec({env_id!r})) as pool:
    settings = CollectorSettings(pool.describe().prompt_templates["default"])
    collector = Collector(pool, AGENTS.load({agent!r})(), settings)
    played = collector.run(requests_for(range({episodes}), 1, 0))
print(json.dumps([[e.won, len(e.turns), e.error] for e in played]))
"""
    answer: list[list[Any]] = run(site, code)
    return answer


def test_lockbox_has_an_expert_that_always_wins(site: Path) -> None:
    played = play(site, "expert", IDS["lockbox"], 100)
    assert all(won and error is None for won, _, error in played)
    assert max(turns for _, turns, _ in played) <= 12


def test_wordle_like_has_none_and_random_play_wins_now_and_then(site: Path) -> None:
    played = play(site, "random", IDS["wordle_like"], 400)
    assert 0.05 <= sum(won for won, _, _ in played) / 400 <= 0.35
    assert all(error is None for *_, error in played)
    (_, _, error) = play(site, "expert", IDS["wordle_like"], 1)[0]
    assert "NoExpertError" in error


def test_wordle_like_can_be_won_by_reading(site: Path) -> None:
    """What is shown suffices: picking a word that is still possible wins nearly always."""
    code = f"""
import gymnasium as gym, aem_gym, json
won = 0
for seed in range(200):
    env = gym.make({IDS["wordle_like"]!r})
    observation, info = env.reset(seed=seed)
    done = False
    while not done:
        guess = observation.split("Possible: ")[1].rstrip(".").split()[0]
        observation, _, terminated, truncated, info = env.step(guess)
        done = terminated or truncated
    won += info["won"]
print(json.dumps(won / 200))
"""
    assert run(site, code) > 0.9


def test_both_train_unchanged(site: Path, tmp_path: Path) -> None:
    """By `train()`, warm start included: from the expert, or from what random play won."""
    code = f"""
import contextlib, json, sys
from pathlib import Path
from aem_gym import train
found = {{}}
for name, env in {IDS!r}.items():
    out = Path({str(tmp_path)!r}) / name
    config = dict(
        env=env, out=str(out), steps=2, groups=6, group_size=4, response_format="short",
        warmstart_episodes=60, warmstart_steps=60, warmstart_batch=8, eval_every=2,
        eval_episodes=10, device="cpu", threads=1, loggers=[],
    )
    with contextlib.redirect_stdout(sys.stderr):
        summary = train(**config)
    found[name] = [summary["steps"], summary["success_before"], summary["success_after"]]
print(json.dumps(found))
"""
    found = run(site, code)
    for name in IDS:
        steps, before, after = found[name]
        assert steps == 2 and 0 <= before <= 1 and 0 <= after <= 1
        lines = (tmp_path / name / "episodes.jsonl").read_text().splitlines()
        episodes = [json.loads(line) for line in lines]
        assert len(episodes) == 2 * 6 * 4 and not any(e["error"] for e in episodes)
        # It has learned to speak: its actions are the environment's.
        turns = [turn for e in episodes for turn in e["turns"]]
        assert sum(turn["action_valid"] for turn in turns) > 0.2 * len(turns)
        assert any("alpha" in turn for turn in turns)


@pytest.mark.parametrize("name", IDS)
def test_the_environment_fits_on_a_page(name: str) -> None:
    assert len((ROOT / "examples" / name / f"{name}.py").read_text().splitlines()) < 50


PARTS = {
    "sampler": "PlainPolicy",
    "estimator": "value_baseline",
    "modulator": "surest",
    "loss": "cispo",
    "response_format": "Arrow",
}
OWN = {
    "sampler": "plain",
    "estimator": "value_baseline",
    "modulator": "surest",
    "loss": "auto",
    "response_format": "arrow",
    "loggers": ["csv"],
}


@pytest.mark.parametrize("how", ["entry points", "module:attribute"])
def test_own_parts_train_together(site: Path, tmp_path: Path, how: str) -> None:
    """Sampler, estimator with needs, modulator, loss, format and logger of another package."""
    own: dict[str, Any] = dict(OWN)
    if how == "module:attribute":
        own = {kind: f"own_parts:{name}" for kind, name in PARTS.items()}
        own["loggers"] = ["own_parts:CsvLogger"]
    code = f"""
import contextlib, json, sys
from aem_gym import train
from aem_gym.settings import settle
suggested = settle({{"estimator": {own["estimator"]!r}}}).config.drop_equal_groups
with contextlib.redirect_stdout(sys.stderr):
    summary = train(
        env={IDS["lockbox"]!r}, out={str(tmp_path / "run")!r}, steps=1, groups=2, group_size=2,
        warmstart_episodes=40, warmstart_steps=30, warmstart_batch=8, eval_every=0,
        modulator_options={{"part": 0.25}}, estimator_options={{"weight": 0.5}},
        device="cpu", threads=1, max_new_tokens=12, drop_equal_groups=False, **{own!r},
    )
print(json.dumps([summary["steps"], suggested]))
"""
    assert run(site, code) == [1, True]  # the estimator asks for dynamic sampling
    folder = tmp_path / "run"
    rows = (folder / "success.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["1"]
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [m for m in metrics if "surest_limit" in m]
    assert trained and all(m["ratio"] > 0 for m in trained)
    assert (folder / "adapter" / "value_head.safetensors").exists()
    episodes = [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]
    for turn in (turn for e in episodes for turn in e["turns"]):
        _, arrow, action = turn["response"].partition(" -> ")
        parsed = bool(arrow and action.strip())
        assert turn["format_valid"] == (parsed and not turn["cut"])


def test_a_sandbox_engine_joins(site: Path) -> None:
    code = """
import json
from aem_gym.envs.swe.sandbox.engines import ENGINES, open_engine
named, direct = open_engine("counting"), open_engine("own_parts:CountingEngine")
print(json.dumps(["counting" in ENGINES.names(), named.name, direct.name, direct.isolates]))
"""
    assert run(site, code) == [True, "counting", "counting", False]
