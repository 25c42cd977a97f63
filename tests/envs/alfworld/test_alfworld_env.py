"""The environment keeps Gymnasium's contract, its options, and its word on determinism."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.envs.alfworld.classes import TASK_TYPES
from aem_gym.envs.alfworld.env import ALFWorldEnv
from aem_gym.errors import ConfigError, UnknownNameError

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
