"""What holds for every environment that aem_gym registers, and for importing it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env

import aem_gym
from aem_gym.env_checks import check_text_env
from aem_gym.rollout.envs import CheckedStep, EnvSpec
from aem_gym.rollout.pool import EnvPool

ROOT = Path(aem_gym.__file__).parents[1]
IDS = sorted(env_id for env_id in gym.registry if env_id.startswith("aem_gym/"))
NEED_AN_ENGINE = {"aem_gym/SWE-v0"}
EACH = [
    pytest.param(env_id, marks=[pytest.mark.docker] if env_id in NEED_AN_ENGINE else [])
    for env_id in IDS
]


def run_python(code: str, **environment: str) -> str:
    """What `code` prints in a fresh process that finds the package but not the tests."""
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout.strip()


def follow_expert(pool: EnvPool, seeds: list[int]) -> dict[int, list[CheckedStep]]:
    """Every episode as the expert plays it."""
    seen = {s: [o] for s, o in zip(seeds, pool.reset([(s, s, None) for s in seeds]), strict=True)}
    live = list(seeds)
    while live:
        actions = [(slot, (pool.ask_expert(slot) or ("", ""))[1]) for slot in live]
        for slot, answer in zip(live, pool.step(actions), strict=True):
            seen[slot].append(answer)
        live = [s for s in live if not (seen[s][-1].terminated or seen[s][-1].truncated)]
    return seen


def test_there_are_environments() -> None:
    assert "aem_gym/ALFWorld-v0" in IDS


@pytest.mark.parametrize("env_id", EACH)
def test_the_contract_is_kept(env_id: str) -> None:
    check_text_env(env_id, seeds=range(3))


@pytest.mark.parametrize("env_id", EACH)
def test_gymnasiums_checker_has_nothing_to_say(env_id: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({}, {"render_mode": "ansi"}):
            env = gym.make(env_id, **options)
            check_env(env.unwrapped)
            env.close()


@pytest.mark.parametrize("env_id", EACH)
def test_vector_environments_agree(env_id: str) -> None:
    seen: list[list[Any]] = []
    for mode, kwargs in (("sync", {}), ("async", {"context": "forkserver"})):
        vector = gym.make_vec(env_id, 2, vectorization_mode=mode, vector_kwargs=kwargs)
        try:
            observations, info = vector.reset(seed=[3, 4])
            seen.append([observations, info["admissible_actions"].tolist()])
            for pick in (0, -1, 1):
                # An episode that is over lists none, and its next action is not looked at.
                listed = info["admissible_actions"]
                actions = tuple(one[pick] if one else "" for one in listed)
                observations, rewards, *_, info = vector.step(actions)
                seen[-1] += [observations, rewards.tolist(), info["score"].tolist()]
        finally:
            vector.close()
    assert seen[0] == seen[1]
    assert seen[0][0][0] != seen[0][0][1]


@pytest.mark.parametrize("env_id", EACH)
def test_the_expert_wins_and_another_process_sees_the_same_bytes(
    env_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker has another hash seed, so the order of a set would show."""
    seeds = list(range(4))
    with EnvPool(EnvSpec(env_id)) as here:
        assert here.describe().has_expert
        expected = follow_expert(here, seeds)
    monkeypatch.setenv("PYTHONHASHSEED", "12345")
    with EnvPool(EnvSpec(env_id), workers=1) as there:
        assert follow_expert(there, seeds) == expected
    assert all(answers[-1].info["won"] for answers in expected.values())
    assert all(answers[-1].terminated for answers in expected.values())


def test_an_environment_is_made_without_an_import_line() -> None:
    code = """
import gymnasium as gym
env = gym.make("aem_gym:aem_gym/ALFWorld-v0")
observation, info = env.reset(seed=0)
print(isinstance(observation, str) and info["task_id"] != "")
"""
    assert run_python(code) == "True"


def test_importing_is_light() -> None:
    """Neither torch nor any environment, agent or optional package comes with `import aem_gym`."""
    code = """
import sys, gymnasium, importlib.metadata
before = set(sys.modules)
import aem_gym
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
print(*sorted(name for name in sys.modules if name.startswith("aem_gym.")))
"""
    tops, ours = run_python(code).splitlines()
    heavy = {"torch", "transformers", "peft", "docker", "rapidfuzz", "yaml", "click", "tqdm"}
    assert not heavy & set(tops.split())
    light = {"aem_gym.registry", "aem_gym.errors"}
    tables = {
        f"aem_gym.{part}{table}" for part in ("envs", "agents") for table in ("", ".components")
    }
    assert set(ours.split()) <= light | tables


# Who may import whom -----------------------------------------------------------------------------

FOLDERS = {"core": "aem_gym", "envs": "envs", "agents": "agents"}
FORBIDDEN = {
    "core": ("aem_gym.envs", "aem_gym.agents", "envs", "agents"),
    "envs": ("aem_gym.agents", "envs", "agents"),
    "agents": ("aem_gym.envs", "envs", "agents"),
}


def sources(folder: Path) -> list[Path]:
    """All Python files below, symlinked folders left out."""
    return [
        Path(parent) / name
        for parent, _, names in os.walk(folder)
        for name in names
        if name.endswith(".py")
    ]


def imports(path: Path) -> list[str]:
    """The modules that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found += [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


@pytest.mark.parametrize("part", FOLDERS)
def test_dependencies_point_one_way(part: str) -> None:
    files = sources(ROOT / FOLDERS[part])
    assert files
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in files
        for name in imports(path)
        for banned in FORBIDDEN[part]
        if name == banned or name.startswith(f"{banned}.")
    ]
    assert not wrong


@pytest.mark.parametrize("folder", ["tests", "examples", "benchmarks", "docs", "docker"])
def test_nothing_imports_the_folders_under_their_bare_names(folder: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in [*sources(ROOT / folder), *ROOT.glob("*.py")]
        for name in imports(path)
        if name.split(".")[0] in ("envs", "agents")
    ]
    assert not wrong
