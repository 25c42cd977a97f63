"""The environment: options, splits, rewards, determinism, and what its protocol names."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import aem_gym
from aem_gym.envs.webshop.env import WebShopEnv
from aem_gym.envs.webshop.goals import SPLITS, bounds, goal_order
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.registry import env_tool

PARTS = ("r_type", "r_att", "r_option", "r_price", "query_match", "category_match", "title_score")


def play(env: WebShopEnv, **options: Any) -> tuple[str, float, dict[str, Any]]:
    """The oracle's episode: first page, return, last info."""
    first, info = env.reset(**options)
    over, total = False, 0.0
    while not over:
        _, reward, terminated, truncated, info = env.step(env.expert()[1])
        total += reward
        over = terminated or truncated
    return first, total, info


@pytest.mark.parametrize("goals", ["human", "synthetic"])
@pytest.mark.parametrize("difficulty", ["full", "easy"])
def test_the_oracle_earns_everything(difficulty: str, goals: str) -> None:
    env = WebShopEnv(difficulty=difficulty, goals=goals)
    scores = [play(env, seed=seed)[2]["score"] for seed in range(60)]
    assert sum(score == 1.0 for score in scores) >= 59


def test_a_careless_expert_buys_worse_and_leaves_the_episodes_as_they_are() -> None:
    means = {}
    for care in (1.0, 0.6, 0.0):
        env = WebShopEnv(difficulty="easy", expert_care=care)
        scores = [play(env, seed=seed)[2]["score"] for seed in range(60)]
        means[care] = sum(scores) / len(scores)
        assert play(env, seed=5)[0] == play(WebShopEnv(difficulty="easy"), seed=5)[0]
    assert means[1.0] > means[0.6] + 0.1 > means[0.0] + 0.2 > 0.3


def test_buying_ends_the_episode_and_tells_the_parts_of_the_reward() -> None:
    env = WebShopEnv(difficulty="easy")
    _, before = env.reset(seed=1)
    assert not any(before[name] for name in PARTS) and before["score"] == 0.0
    first, total, info = play(env, seed=1)
    assert first.startswith("WebShop [SEP] Instruction: [SEP] ") and info["goal"] in first
    assert info["won"] and info["score"] == total == 1.0
    assert set(before) == set(info) and all(info[name] for name in PARTS)
    assert info["w_att"] + info["w_option"] + info["w_price"] == pytest.approx(1.0)


def test_who_buys_the_first_thing_seen_earns_less() -> None:
    env = WebShopEnv()
    scores = []
    for seed in range(100):
        _, info = env.reset(seed=seed)
        for pick in ("search[", "click[b0", "click[buy now]"):
            action = next((a for a in info["admissible_actions"] if a.startswith(pick)), "")
            *_, info = env.step(action)
        scores.append(info["score"])
    assert 0.1 < sum(scores) / len(scores) < 0.8


def test_without_a_purchase_nothing_is_earned() -> None:
    env = WebShopEnv(difficulty="easy", max_turns=4)
    env.reset(seed=0)
    for turn in range(4):
        _, reward, terminated, truncated, info = env.step("search[shirt]")
        assert (reward, terminated, truncated) == (0.0, False, turn == 3)
    assert info["score"] == 0.0 and not info["won"]


def test_a_goal_can_be_asked_for() -> None:
    env = WebShopEnv(difficulty="easy", split="train")
    first, _, info = play(env, options={"goal_idx": 3})
    assert info["goal_idx"] == 3 and 3 in bounds("test", info["num_goals"])
    again, by_id = env.reset(options={"task_id": info["task_id"]})
    assert again == first and by_id["goal"] == info["goal"]
    for wrong in ({"goal_idx": 10**6}, {"goal_idx": "x"}, {"task_id": "synthetic-1"}):
        with pytest.raises(ConfigError, match="expected"):
            env.reset(options=wrong)
    with pytest.raises(UnknownNameError, match="goal_idx"):
        env.reset(options={"goal": 3})


@given(st.integers(0, 20_000))
def test_splits_share_out_all_goals(goals: int) -> None:
    parts = [bounds(split, goals) for split in SPLITS]
    assert sorted(number for part in parts for number in part) == list(range(goals))
    if goals >= 3000:
        assert bounds("test", goals) == range(500) and bounds("eval", goals) == range(500, 1500)


@given(st.integers(0, 500), st.integers(0, 9))
def test_the_verl_agent_order_is_one_of_the_same_goals(goals: int, seed: int) -> None:
    order = goal_order(goals, "verl-agent", seed)
    assert sorted(order) == list(goal_order(goals, "official", seed)) == list(range(goals))


def test_the_verl_agent_order_at_the_official_seed_is_the_official_one() -> None:
    assert list(goal_order(700, "verl-agent", 233)) == list(range(700))


def test_splits_do_not_meet_in_the_official_mode_and_leak_in_the_other() -> None:
    def goals(split: str, **options: Any) -> set[int]:
        env = WebShopEnv(difficulty="easy", split=split, **options)
        return {env.reset(seed=seed)[1]["goal_idx"] for seed in range(300)}

    assert not goals("test") & goals("train")
    other: dict[str, Any] = {"split_mode": "verl-agent"}
    assert goals("test", order_seed=1, **other) & goals("train", order_seed=2, **other)


def test_info_names_what_a_score_depends_on() -> None:
    env = gym.make("aem_gym/WebShop-v0", difficulty="easy", split="test", num_products=120)
    _, info = env.reset(seed=0)
    assert info["num_products"] == 120 and info["split"] == "test"
    assert info["goal_type"] == "human" and info["split_mode"] == "official"
    assert info["nouns"] == "words" and info["source"] == "generated (easy, seed 0)"
    assert info["split_goals"].startswith("0-")


def test_the_digest_changes_with_the_tasks() -> None:
    def digest(**options: Any) -> str:
        protocol = WebShopEnv(difficulty="easy", **options).protocol
        assert protocol["code_version"] == aem_gym.__version__
        return str(protocol["tasks_digest"])

    assert digest() == digest(split="test", observation="text_rich")
    others = [{}, {"catalogue_seed": 1}, {"num_products": 200}, {"goals": "synthetic"}]
    assert len({digest(**other) for other in others}) == len(others)


@pytest.mark.parametrize("name", ["data_report", "import_data", "export_games", "page_app"])
def test_the_commands_find_their_functions(name: str) -> None:
    tool = env_tool(WebShopEnv, name)
    assert tool is not None and tool.__name__ == name
    assert ".authoring." in tool.__module__


def test_an_environment_runs_without_its_authoring() -> None:
    code = (
        "import sys; from aem_gym.envs.webshop.env import WebShopEnv as Env; e = Env(); "
        "e.reset(seed=0); e.step(e.expert()[1]); import aem_gym.envs.webshop.stored; "
        "print([name for name in sys.modules if 'authoring' in name])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_text_rich_marks_what_was_clicked() -> None:
    env = WebShopEnv(observation="text_rich")
    observation, info = env.reset(seed=0)
    assert "[button] Search [button_]" in observation
    observation, *_ = env.step(env.expert()[1])
    assert "\n[button] B0" in observation


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"split": "valid_unseen"}, "train"),
        ({"difficulty": "hard"}, "easy"),
        ({"goals": "mine"}, "synthetic"),
        ({"split_mode": "x"}, "verl-agent"),
        ({"observation": "html"}, "text_rich"),
        ({"source": "x"}, "generated"),
        ({"num_products": 0}, "at least 1"),
        ({"expert_care": 1.5}, "0 to 1"),
        ({"num_products": 1, "split": "test"}, "num_products"),
        ({"max_turns": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        WebShopEnv(**wrong)


@settings(max_examples=60)
@given(st.data())
def test_any_text_is_answered(data: st.DataObject) -> None:
    env = WebShopEnv(difficulty="easy", strict_official=data.draw(st.booleans()))
    _, info = env.reset(seed=data.draw(st.integers(0, 5)))
    over = False
    while not over:
        some = st.sampled_from([*info["admissible_actions"], "search[<a> x]", "search[<r>]"])
        action = data.draw(st.text() | some | st.text().map("search[{}]".format))
        observation, reward, terminated, truncated, info = env.step(action)
        assert observation and 0.0 <= reward <= 1.0
        over = terminated or truncated
