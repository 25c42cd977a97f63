"""The environment: any source of tasks, real sandboxes, real grading, and every failure told."""

from __future__ import annotations

import gc
import json
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from aem_gym.envs.swe.env import SWEEnv
from aem_gym.envs.swe.pool import shared_pool
from aem_gym.envs.swe.sandbox.base import SandboxEngine, SandboxError
from aem_gym.envs.swe.sources import open_source
from aem_gym.errors import ConfigError, NoExpertError, UnknownNameError
from aem_gym.rollout.pool import EnvPool, EnvSpec
from aem_gym.testing import check_text_env
from tests.envs.swe.rows.swe_rows import record, write_mirror, write_rows
from tests.envs.swe.swe_own import write_tasks

FIX = "str_replace calc.py\n<old>a - b</old>\n<new>a + b</new>"
docker = pytest.mark.docker


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tasks(tmp_path_factory.mktemp("own")))


@pytest.fixture
def env(engine: SandboxEngine, tasks: str) -> Iterator[SWEEnv]:
    made = SWEEnv(tasks=tasks, split="test", max_turns=5)
    yield made
    made.close()


def begin(env: SWEEnv, task_id: str = "add", seed: int = 0) -> str:
    return env.reset(seed=seed, options={"task_id": task_id})[0]


def container(env: SWEEnv) -> str:
    assert env._ready is not None
    return env._ready.sandbox.name


def containers() -> set[str]:
    done = subprocess.run(
        ["docker", "ps", "-a", "--format", "{{.Names}}", "--filter", "label=aem.run"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


# Sources ----------------------------------------------------------------------------------------


def test_making_one_needs_no_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere.sock")
    env = gym.make("aem_gym/SWE-v0", engine="docker")
    inner: Any = env.unwrapped
    assert "semver" not in inner.task_types and "toolz" in inner.task_types
    assert inner.protocol["number"] == len(open_source("default").ids("train")) > 100
    with pytest.raises(SandboxError, match="dockerd"):
        env.reset(seed=0)
    env.close()
    with EnvPool(EnvSpec("aem_gym/SWE-v0", {"engine": "docker"})) as pool:
        (answer,) = pool.reset([(0, 0, None)])
        assert "dockerd" in str(answer.error)


def test_splits_of_the_suite_share_no_task() -> None:
    source = open_source("default")
    parts = [set(source.ids(split)) for split in ("train", "eval", "test")]
    assert sum(map(len, parts)) == len(set.union(*parts)) == len(source.entries)
    few = source.ids("train", ["inflection"])
    assert len(few) > 0 and all(source.entries[name].repo == "inflection" for name in few)


@pytest.mark.parametrize(
    ("changes", "told"),
    {
        "split": ({"split": "dev"}, "Known: eval, test, train"),
        "engine": ({"engine": "dokcer"}, "Did you mean 'docker'"),
        "suite": ({"tasks": "defualt"}, "Did you mean 'default'"),
        "repos": ({"repos": "toolzz"}, "Did you mean 'toolz'"),
        "empty split": ({"repos": "semver"}, "test 30"),
        "file": ({"tasks": "none.jsonl"}, "none.jsonl"),
        "own file": ({"tasks": "none.yaml"}, "cannot be read"),
        "limit": ({"limits": {"memory": 1}}, "memory_mb"),
        "limit's value": ({"limits": {"memory_mb": 0}}, "memory_mb"),
        "timeout": ({"step_timeout": 0}, "above 0"),
        "observation": ({"max_observation": 1}, "at least 200"),
    }.values(),
)
def test_wrong_arguments_are_told(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        SWEEnv(**changes)


def rows(folder: Path, count: int) -> Path:
    file = folder / "rows.jsonl"
    row = {
        "repo": "pallets/flask",
        "base_commit": "0" * 40,
        "version": "2.0",
        "problem_statement": "it fails",
        "patch": "--- a/x\n+++ b/x\n@@ -1 +1 @@\n-1\n+2\n",
        "test_patch": "--- a/tests/test_x.py\n+++ b/tests/test_x.py\n@@ -1 +1 @@\n-1\n+2\n",
        "FAIL_TO_PASS": '["tests/test_x.py::test"]',
        "PASS_TO_PASS": "[]",
    }
    lines = [json.dumps({**row, "instance_id": f"pallets__flask-{n}"}) for n in range(count)]
    file.write_text("\n".join([*lines, "{broken", json.dumps({"instance_id": "x", "repo": 3})]))
    return file


def test_rows_are_dealt_out_to_splits(tmp_path: Path) -> None:
    file = str(rows(tmp_path, 12))
    source = open_source(file)
    train, held = set(source.ids("train")), set(source.ids("eval"))
    assert len(train) == 10 and len(held) == 2 and not train & held
    assert set(source.ids("test")) == train | held
    assert SWEEnv(tasks="default", eval_tasks=file, split="eval").protocol["number"] == 12
    assert SWEEnv(tasks="default", eval_tasks=file).protocol["tasks"] == "default"
    assert open_source(str(tmp_path)).ids("test") == source.ids("test")
    assert source.task("pallets__flask-3").image.endswith("flask-3:latest")  # type: ignore[union-attr]
    with pytest.raises(UnknownNameError, match="pallets__flask-3"):
        source.task("pallets__flask-33")


def test_with_mirrors_only_rows_count_that_can_be_built(tmp_path: Path) -> None:
    commit = write_mirror(tmp_path / "mirrors" / "pallets__flask.git")
    others = {"instance_id": "django__django-1", "repo": "django/django"}
    file = write_rows(tmp_path / "rows.jsonl", record(commit), record(**others))
    assert set(open_source(str(file)).entries) == {"pallets__flask-1", "django__django-1"}
    assert set(open_source(str(file), str(tmp_path / "mirrors")).entries) == {"pallets__flask-1"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="Leave mirrors out"):
        open_source(str(file), str(tmp_path / "empty"))


@pytest.mark.parametrize(
    ("changes", "told"),
    {
        "no tasks": ({"tasks": []}, "at least one task"),
        "key": ({"test_comand": "x"}, "test_comand"),
        "kind": ({"install": "pip"}, "install"),
        "task": ({"tasks": [{"id": "x"}]}, "issue"),
        "twice": (
            {"tasks": 2 * [{"id": "x", "issue": "y", "fail_to_pass": ["z"], "test_patch": "p"}]},
            "x more than once",
        ),
        "no tests": ({"tasks": [{"id": "x", "issue": "y", "fail_to_pass": ["z"]}]}, "hidden tests"),
        "outside": (
            {"tasks": [{"id": "x", "issue": "y", "fail_to_pass": ["z"], "tests": {"../a": "b"}}]},
            "in the repository",
        ),
    }.values(),
)
def test_wrong_files_of_ones_own_are_told(
    changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=told):
        SWEEnv(tasks=str(write_tasks(tmp_path, **changes)))


def test_the_name_of_ones_own_repository_counts_from_its_file(tmp_path: Path) -> None:
    source = open_source(str(write_tasks(tmp_path, repo=".")))
    assert {entry.repo for entry in source.entries.values()} == {tmp_path.name}


@pytest.mark.parametrize(
    ("change", "told"), {"commit": "got none. See: git", "gold": "a file absent"}.items()
)
def test_what_a_file_of_ones_own_names_has_to_be_there(
    change: str, told: str, tmp_path: Path
) -> None:
    file = write_tasks(tmp_path)
    text = file.read_text()
    value = next(line for line in text.splitlines() if f"{change}: " in line).split(": ")[1]
    file.write_text(text.replace(f"{change}: {value}", f"{change}: absent"))
    with pytest.raises(ConfigError, match=told):
        open_source(str(file)).task("add")


# Episodes ---------------------------------------------------------------------------------------


@docker
def test_contract(engine: SandboxEngine, tasks: str) -> None:
    check_text_env(gym.make("aem_gym/SWE-v0", tasks=tasks, max_turns=4), steps=4)


@docker
def test_an_episode_that_is_won(env: SWEEnv) -> None:
    first = begin(env)
    assert first == "add(2, 2) gives 0\n\nThe repository is in /testbed.\n[5 steps left]"
    assert env.step("git log --oneline | wc -l; ls tests")[0].startswith("1\ntest_calc.py\n")
    assert env.step(FIX)[0].endswith("[3 steps left]")
    observation, reward, terminated, truncated, info = env.step("submit")
    assert (observation, reward, terminated, truncated) == (
        "The issue is resolved.",
        1,
        True,
        False,
    )
    assert info["won"] and info["resolved"] and info["score"] == 1 and info["error"] == ""
    assert info["patch_bytes"] > 0 and "+    return a + b" in info["patch"]
    with pytest.raises(gym.error.ResetNeeded):
        env.step("ls")


@docker
def test_episodes_that_are_lost(env: SWEEnv) -> None:
    for action, told in (("true", "the patch is empty"), ("echo x >> calc.py", "2 hidden tests")):
        begin(env)
        env.step(action)
        observation, reward, terminated, _, info = env.step("submit")
        assert told in observation and reward == 0 and terminated and not info["won"]
        assert info["failed_tests"] == 2


@docker
def test_the_limit_of_steps_is_not_graded_unless_asked(env: SWEEnv, tasks: str) -> None:
    begin(env)
    name = container(env)
    for _ in range(4):
        assert not any(env.step(FIX)[2:4])
    _, reward, terminated, truncated, info = env.step("true")
    assert (reward, terminated, truncated, info["error"]) == (0, False, True, "")
    gone(name)
    asked = SWEEnv(tasks=tasks, split="test", max_turns=1, grade_at_limit=True)
    begin(asked)
    assert asked.step(FIX)[1:3] == (1.0, True)
    asked.close()


def gone(name: str) -> None:
    deadline = time.monotonic() + 10
    while name in containers():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@docker
def test_same_actions_give_the_same_bytes(engine: SandboxEngine, tasks: str) -> None:
    actions = [
        "python -m pytest -q; ls -R; env | sort; hostname; ps -e -o comm= | sort -u",
        "no_such_command; cd tests && git status --short",
        FIX,
        'git diff; python -c \'print({"a", "b", "c"})\'',
        "submit",
    ]
    seen = []
    for warm in (False, True):
        env = SWEEnv(tasks=tasks, split="test")
        if warm:
            env.prefetch(3, {"task_id": "add"})
        answers = [(begin(env, seed=3), {})]
        for action in actions:
            observation, _, _, _, info = env.step(action)
            answers.append((observation, info))
            if warm and action != "submit":
                env.expert()
        env.close()
        seen.append(answers)
    assert seen[0] == seen[1]


@docker
def test_a_sandbox_that_dies_truncates_and_is_masked(engine: SandboxEngine, tasks: str) -> None:
    spec = EnvSpec("aem_gym/SWE-v0", {"tasks": tasks, "split": "test"})
    with EnvPool(spec) as pool:
        requests = [(slot, 0, {"task_id": "add"}) for slot in (0, 1)]
        assert [answer.error for answer in pool.reset(requests)] == [None, None]
        assert pool._local is not None
        inner: Any = pool._local._envs[0].unwrapped
        subprocess.run(["docker", "rm", "-f", container(inner)], check=True, capture_output=True)
        dead, alive = pool.step([(0, "ls"), (1, "ls")])
        assert dead.truncated and not dead.terminated and "SandboxError" in str(dead.error)
        assert alive.error is None and "calc.py" in alive.observation
        assert pool.reset(requests[:1])[0].error is None


@docker
def test_closing_leaves_nothing(env: SWEEnv) -> None:
    begin(env)
    name = container(env)
    assert name in containers()
    env.close()
    env.close()
    gone(name)


@docker
def test_an_environment_that_is_dropped_leaves_nothing(engine: SandboxEngine, tasks: str) -> None:
    env = SWEEnv(tasks=tasks, split="test")
    begin(env)
    name = container(env)
    with warnings.catch_warnings():
        warnings.simplefilter("error", ResourceWarning)
        del env
        gc.collect()
        gone(name)


@docker
def test_a_reset_that_was_told_of_has_its_sandbox_waiting(env: SWEEnv) -> None:
    pool, before = shared_pool("auto"), len(shared_pool("auto")._waiting)
    env.prefetch(7, {"task_id": "add"})
    env.prefetch(7, {"task_id": "add"})  # the same one: no second sandbox
    assert len(pool._waiting) == before + 1
    waiting = pool._waiting[-1][1].result().sandbox.name
    begin(env, seed=7)
    assert container(env) == waiting and len(pool._waiting) == before


@docker
def test_nonsense_is_answered(env: SWEEnv) -> None:
    begin(env)
    for action in ("", "\0", "view", "str_replace x\nlone \ud800"):
        observation, _, terminated, truncated, info = env.step(action)
        assert observation and not (terminated or truncated or info["action_valid"])


@docker
def test_only_bash(engine: SandboxEngine, tasks: str) -> None:
    env = SWEEnv(tasks=tasks, split="test", bash_only=True)
    begin(env)
    assert "command not found" in env.step("str_replace a")[0]
    while not (answer := env.step(env.expert()[1]))[2]:
        pass
    assert answer[1] == 1.0
    begin(env, "without-gold")
    with pytest.raises(NoExpertError):
        env.expert()
    env.close()
