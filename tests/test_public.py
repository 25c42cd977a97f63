"""`import aem_gym` in a script: environments of `__main__`, and the public names."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aem_gym
from aem_gym.config import Config
from aem_gym.settings import load_config, settle
from tests.training.runs import ROOT

SCRIPT = """
import json, sys
import aem_gym
from aem_gym import StepResult, Task, TextEnv


class Door(TextEnv):
    max_turns = 4

    def start(self, options):
        self.right = ["left", "right"][self.np_random.integers(2)]
        return Task(self.right), StepResult("Two doors.", admissible_actions=["left", "right"])

    def act(self, action):
        won = action == self.right
        return StepResult("Done.", float(won), True, won=won)


if __name__ == "__main__":
    summary = aem_gym.train(env=Door, **json.loads(sys.argv[1]))
    result = aem_gym.evaluate(summary["run"], episodes=5)
    other = aem_gym.evaluate("random", env=Door, episodes=5)
    episode = aem_gym.run_episode(Door, summary["run"], seed=3)
    agent = aem_gym.load_agent(summary["run"])
    again = aem_gym.run_episode(Door, agent, seed=3)
    shown = [episode.stop_reason, len(episode.turns), again == episode]
    ordered = result.low <= result.success <= result.high
    print(json.dumps([summary, result.episodes, other.episodes, ordered, shown]))
"""
SMALL: dict[str, Any] = {
    **{"steps": 2, "groups": 2, "group_size": 3, "eval_every": 2, "eval_episodes": 4},
    **{"warmstart_episodes": 20, "warmstart_steps": 20, "warmstart_batch": 4, "threads": 1},
    **{"device": "cpu", "max_new_tokens": 8, "loggers": []},
}


def python(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *args],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=280,
    )


def test_an_environment_of_the_script_itself_is_trained_evaluated_and_played(
    tmp_path: Path,
) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    # In a worker process, too, the class of the script is found.
    for name, workers in (("here", 0), ("there", 1)):
        settings = {**SMALL, "out": str(tmp_path / name), "workers": workers}
        done = python("script.py", json.dumps(settings), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        summary, episodes, others, ordered, (reason, turns, same) = json.loads(
            done.stdout.splitlines()[-1]
        )
        assert summary["steps"] == 2 and Path(summary["run"]) == tmp_path / name
        assert (episodes, others, ordered, same) == (5, 5, True, True)
        assert reason in ("won", "lost") and turns == 1
    first, second = [
        (tmp_path / name / "episodes.jsonl").read_bytes() for name in ("here", "there")
    ]
    assert first == second


def test_a_class_that_is_typed_in_has_no_file(tmp_path: Path) -> None:
    """As in a notebook or an interpreter: there is no source to look at."""
    settings = {**SMALL, "out": str(tmp_path / "run"), "steps": 1, "eval_every": 0}
    code = SCRIPT.split("if __name__")[0]
    code += "print(aem_gym.train(env=Door, **json.loads(sys.argv[1]))['steps'])"
    done = python("-c", code, json.dumps(settings), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "1"


def test_an_environments_own_settings_hold_from_python_too(tmp_path: Path) -> None:
    """WebShop has other splits than the default job."""
    out = tmp_path / "shop"
    small = {**SMALL, "steps": 0, "eval_episodes": 2, "warmstart_steps": 2, "eval_every": 1}
    summary = aem_gym.train(Config(env="aem_gym/WebShop-v0", out=out, **small))  # type: ignore[arg-type]
    assert summary["steps"] == 0 and summary["run"] == str(out)
    saved, shop = load_config(out), settle({"env": "webshop"}).config
    assert (
        (saved.eval_split, saved.env_args)
        == (shop.eval_split, shop.env_args)
        == (
            "test",
            {"difficulty": "easy"} | shop.env_args,
        )
    )


def test_public_names_are_listed_and_there() -> None:
    assert {"train", "evaluate", "load_agent", "run_episode", "TextEnv"} <= set(dir(aem_gym))
    for name in aem_gym.__all__:
        assert getattr(aem_gym, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        _ = aem_gym.trian


# Debugging ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", ["aem_gym.envs.alfworld.env", "aem_gym.agents.baselines"])
def test_modules_load_by_the_path_one_edits(module: str, tmp_path: Path) -> None:
    code = f"import {module} as m; print(m.__file__)"
    shown = python("-c", code, cwd=tmp_path).stdout.strip()
    assert shown == os.path.realpath(shown)
    assert Path(shown).relative_to(ROOT).parts[0] in ("envs", "agents")


def test_a_breakpoint_in_an_environment_stops(tmp_path: Path) -> None:
    import inspect

    from aem_gym.envs.alfworld.env import ALFWorldEnv

    source, first = inspect.getsourcelines(ALFWorldEnv.act)
    body = next(
        number
        for number, line in enumerate(source[1:], first + 1)
        if line.strip() and not line.strip().startswith(('"""', ")", "self,", "action"))
    )
    (tmp_path / "script.py").write_text(
        "import gymnasium as gym\n"
        "env = gym.make('aem_gym:aem_gym/ALFWorld-v0')\n"
        "env.reset(seed=1)\n"
        "env.step('look')\n"
    )
    where = f"{ROOT}/envs/alfworld/env.py:{body}"
    commands = ["import aem_gym.envs.alfworld.env", f"b {where}", "c", "w", "q"]
    flags = [part for command in commands for part in ("-c", command)]
    done = python("-m", "pdb", *flags, "script.py", cwd=tmp_path)
    assert f"> {where.rsplit(':')[0]}({body})act()" in done.stdout, done.stdout + done.stderr
