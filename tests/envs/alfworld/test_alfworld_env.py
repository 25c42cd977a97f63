"""The environment keeps Gymnasium's contract, its options, and its word on determinism."""

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
from hypothesis import given, settings
from hypothesis import strategies as st

import aem_gym
from aem_gym.envs.alfworld.classes import TASK_TYPES
from aem_gym.envs.alfworld.env import ALFWorldEnv
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.registry import env_tool

TYPES = "pick_two_obj_and_place, look_at_obj_in_light"
DIGEST = """
import hashlib, gymnasium, aem_gym
digest = hashlib.sha256()
for difficulty in ("small", "full"):
    env = gymnasium.make("aem_gym/ALFWorld-v0", difficulty=difficulty)
    for seed in range(12):
        observation, info = env.reset(seed=seed)
        over = False
        while not over:
            digest.update(repr((observation, sorted(info.items()))).encode())
            action = env.unwrapped.expert()
            digest.update(repr(action).encode())
            observation, reward, terminated, truncated, info = env.step(action[1])
            over = terminated or truncated
print(digest.hexdigest())
"""


@pytest.mark.parametrize("difficulty", ["small", "full"])
@pytest.mark.parametrize("dialect", ["0.4", "0.3"])
def test_gymnasium_has_nothing_to_complain_of(difficulty: str, dialect: str) -> None:
    env = gym.make("aem_gym/ALFWorld-v0", difficulty=difficulty, dialect=dialect)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped, skip_render_check=True)


def test_the_same_in_every_process() -> None:
    digests = set()
    for hash_seed in ("0", "1", "12345"):
        done = subprocess.run(
            [sys.executable, "-c", DIGEST],
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(sys.path),
            },
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(done.stdout)
    assert len(digests) == 1


def test_a_task_id_brings_the_episode_back_in_any_environment() -> None:
    small, other = ALFWorldEnv(difficulty="small"), ALFWorldEnv(split="valid_unseen")
    for seed in range(25):
        observation, info = small.reset(seed=seed)
        again, info_again = other.reset(seed=999, options={"task_id": info["task_id"]})
        assert (again, info_again) == (observation, info)


def test_task_types_restrict_the_draw() -> None:
    env = ALFWorldEnv(difficulty="small", task_types=TYPES)
    assert env.task_types == ("look_at_obj_in_light", "pick_two_obj_and_place")
    assert {env.reset(seed=s)[1]["task_type"] for s in range(30)} == set(env.task_types)
    for task_type in TASK_TYPES:
        assert env.reset(options={"task_type": task_type})[1]["task_type"] == task_type


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"split": "test"}, UnknownNameError),
        ({"difficulty": "medium"}, UnknownNameError),
        ({"dialect": "0.5"}, UnknownNameError),
        ({"expert_search": "psychic"}, UnknownNameError),
        ({"goals": "humna"}, UnknownNameError),
        ({"task_types": "pick_and_place"}, UnknownNameError),
        ({"task_types": ["pick_and_place_simple", "dance"]}, UnknownNameError),
        ({"task_types": []}, ConfigError),
        ({"max_turns": 0}, ConfigError),
        ({"render_mode": "human"}, ConfigError),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        ALFWorldEnv(**options)


def test_errors_list_what_exists() -> None:
    with pytest.raises(UnknownNameError, match="Known: train, valid_seen, valid_unseen"):
        ALFWorldEnv(split="valid")
    with pytest.raises(UnknownNameError, match="Known: game, task_id, task_type"):
        ALFWorldEnv().reset(options={"taskid": "x"})


def test_a_number_for_a_dialect_is_understood() -> None:
    assert ALFWorldEnv(dialect=0.3).dialect == "0.3"  # type: ignore[arg-type]


def test_winning_ends_the_episode_with_reward_one() -> None:
    env = ALFWorldEnv(difficulty="small", render_mode="ansi")
    _, info = env.reset(seed=1)
    assert (info["won"], info["score"]) == (False, 0.0)
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated, truncated, info = env.step(env.expert()[1])
        assert not truncated
        rewards.append(reward)
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
    assert (info["won"], info["score"]) == (True, 1.0)
    assert str(env.render()).count("\n> ") == len(rewards)


@pytest.mark.parametrize(("difficulty", "turns"), [("small", 14), ("full", 50)])
def test_turns_run_out(difficulty: str, turns: int) -> None:
    env = ALFWorldEnv(difficulty=difficulty)
    env.reset(seed=0)
    ends = [env.step("look")[2:4] for _ in range(turns)]
    assert ends == [(False, False)] * (turns - 1) + [(False, True)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_any_text_is_answered(seed: int, data: st.DataObject) -> None:
    env = ALFWorldEnv(difficulty="small", dialect=data.draw(st.sampled_from(["0.4", "0.3"])))
    _, info = env.reset(seed=seed)
    for _ in range(15):
        options = info["admissible_actions"]
        action = data.draw(st.sampled_from(options) | st.text() | st.just(options[0] + " 1"))
        observation, reward, terminated, truncated, info = env.step(action)
        assert info["action_valid"] is (observation != "Nothing happens.")
        assert info["action_valid"] is (action.strip() in options)
        assert reward == float(info["won"]) == float(terminated)
        assert env.expert()[1] in info["admissible_actions"] or terminated
        if terminated or truncated:
            break


def test_the_goal_is_the_task_of_the_observation() -> None:
    env = ALFWorldEnv()
    for seed in range(20):
        observation, info = env.reset(seed=seed)
        assert observation.endswith(f"\n\nYour task is to: {info['goal']}")


def test_the_lexicon_names_everything_that_is_printed() -> None:
    for difficulty in ("small", "full"):
        env = ALFWorldEnv(difficulty=difficulty)
        for seed in range(20):
            _, info = env.reset(seed=seed)
            for action in info["admissible_actions"]:
                if action.startswith("go to "):
                    assert action.split()[2] in env.lexicon


def test_recipes_show_what_an_agent_needs() -> None:
    fields = {
        "instructions": "<instructions>",
        "goal": "<goal>",
        "observation": "<observation>",
        "admissible": "<admissible>",
        "history": "<history>",
        "step": 7,
        "shown": 2,
    }
    for name, recipe in ALFWorldEnv.prompt_templates.items():
        assert recipe.name == name
        for template in (recipe.first, recipe.later, recipe.window):
            assert "<observation>" in template.format(**fields)
        assert recipe.history_item.format(step=1, observation="o", action="a")
    published = ALFWorldEnv.prompt_templates["published"]
    assert "<admissible>" in published.window.format(**fields)
    assert (published.history, published.reward_scale, published.max_turns) == (2, 10.0, 50)
    assert ALFWorldEnv.prompt_templates["compact"].first == "{observation}"
    assert next(iter(ALFWorldEnv.prompt_templates)) == "default"


def test_instructions_speak_the_dialect() -> None:
    assert "move <object> to <receptacle>" in ALFWorldEnv().instructions
    assert "put <object> in/on <receptacle>" in ALFWorldEnv(dialect="0.3").instructions


def test_nothing_can_be_asked_before_the_first_reset() -> None:
    with pytest.raises(ConfigError, match="reset"):
        ALFWorldEnv().expert()


def test_the_old_name_of_source_goes_on_working() -> None:
    old, new = ALFWorldEnv(games="generated"), ALFWorldEnv(source="generated")
    assert old.reset(seed=3) == new.reset(seed=3)
    assert ALFWorldEnv(games="generated", source="generated").reset(seed=3) == old.reset(seed=3)
    with pytest.raises(ConfigError, match="games: the old name of source"):
        ALFWorldEnv(games="official", source="generated")
    with pytest.raises(UnknownNameError, match="unknown source 'homemade'"):
        ALFWorldEnv(games="homemade")


def test_the_protocol_names_the_tasks_and_the_code(test_data: Path) -> None:
    small, full = ALFWorldEnv(difficulty="small"), ALFWorldEnv()
    assert small.protocol == full.protocol == dict(full.protocol)
    assert full.protocol["code_version"] == aem_gym.__version__
    assert len(full.protocol["tasks_digest"]) == 32
    official = ALFWorldEnv(data_dir=str(test_data / "alfworld"))
    assert official.protocol["tasks_digest"] != full.protocol["tasks_digest"]
    people = ALFWorldEnv(data_dir=str(test_data / "alfworld"), goals="human")
    assert people.protocol["tasks_digest"] != official.protocol["tasks_digest"]


def test_the_default_job_learns_in_small_rooms() -> None:
    assert ALFWorldEnv.defaults == {"env_args": {"difficulty": "small"}}
    assert ALFWorldEnv.model_defaults["tiny"] == {"max_new_tokens": 12}


@pytest.mark.parametrize("name", ALFWorldEnv.tools)
def test_tools_are_found_by_name(name: str) -> None:
    assert callable(env_tool(ALFWorldEnv, name))


def test_playing_imports_no_tool() -> None:
    """Neither generated nor official games reach `authoring`, which may import all the rest."""
    package = Path(aem_gym.__file__).parent / "envs" / "alfworld"
    for path in [*package.glob("*.py"), *package.glob("dataset/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not [name for name in names if "authoring" in name], path
