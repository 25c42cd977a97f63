"""TextEnv: two methods make a Gymnasium environment, and mistakes in them are named."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.envs.base import INFO_DEFAULTS, TextEnv
from aem_gym.errors import ConfigError
from aem_gym.types import StepResult, Task


class Dice(TextEnv):
    """Rolls a die per turn; `win` ends it, with half a point for `half`."""

    instructions = "Roll."
    max_turns = 4

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        task = Task(options.get("task_id", "dice"), "game", "win")
        return task, StepResult(
            f"roll {self.np_random.integers(6)}", extra={"rolls": 0, "goal": "no"}
        )

    def act(self, action: str) -> StepResult:
        over = action in ("win", "half")
        return StepResult(
            f"{action} {self.np_random.integers(6)}",
            reward=over,
            terminated=over,
            won=action == "win",
            score=0.5 if action == "half" else None,
            admissible_actions=("win", "half"),
            action_valid=over,
            extra={"rolls": 1},
        )


def test_info_has_every_key_and_those_of_the_environment() -> None:
    env = Dice()
    _, info = env.reset(seed=0, options={"task_id": "mine"})
    assert set(info) == {*INFO_DEFAULTS, "submitted", "rolls"}
    assert (info["task_id"], info["task_type"], info["goal"]) == ("mine", "game", "win")
    info = env.step("x")[4]
    assert info["rolls"] == 1 and info["action_valid"] is False
    assert info["admissible_actions"] == ["win", "half"]


@pytest.mark.parametrize(("action", "won", "score"), [("win", True, 1.0), ("half", False, 0.5)])
def test_a_task_that_is_over_terminates(action: str, won: bool, score: float) -> None:
    env = Dice()
    env.reset(seed=0)
    _, reward, terminated, truncated, info = env.step(action)
    assert (reward, terminated, truncated) == (1.0, True, False) and type(reward) is float
    assert (info["won"], info["score"]) == (won, score)


@pytest.mark.parametrize("limit", [1, 3, None])
def test_the_turn_limit_truncates(limit: int | None) -> None:
    env = Dice(max_turns=limit)
    env.reset(seed=0)
    ends = [env.step("x")[2:4] for _ in range(limit or 4)]
    assert ends[:-1] == [(False, False)] * (len(ends) - 1) and ends[-1] == (False, True)
    with pytest.raises(gym.error.ResetNeeded):
        env.step("x")
    env.reset(seed=0)
    for _ in range((limit or 4) - 1):
        env.step("x")
    assert env.step("win")[2:4] == (True, False)  # over at the last turn: not a truncation


def test_step_before_reset_is_refused() -> None:
    with pytest.raises(gym.error.ResetNeeded, match="call reset"):
        Dice().step("x")


@given(st.integers(0, 2**31), st.lists(st.text(st.characters(categories=None)), max_size=4))
@settings(max_examples=30)
def test_same_seed_and_actions_same_bytes(seed: int, actions: list[str]) -> None:
    one, two = Dice(), Dice()
    two.reset(seed=5)
    assert one.reset(seed=seed) == two.reset(seed=seed)
    for action in actions:
        answer = one.step(action)
        assert answer == two.step(action)
        if answer[2] or answer[3]:
            break


def test_render_shows_the_episode_so_far_and_only_if_asked() -> None:
    env = Dice(render_mode="ansi")
    first, _ = env.reset(seed=1)
    second = env.step("x")[0]
    assert env.render() == f"{first}\n> x\n{second}"
    assert env.reset(seed=1)[0] == env.render()
    silent = Dice()
    silent.reset(seed=1)
    assert silent.render() is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_turns": 0}, "max_turns: expected at least 1, got 0"),
        ({"render_mode": "human"}, "render_mode: expected None or 'ansi', got 'human'"),
    ],
)
def test_wrong_arguments_are_configuration_errors(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Dice(**arguments)


class Nothing(TextEnv):
    pass


class OnlyStart(Dice):
    act = TextEnv.act


class SaysStr(Dice):
    def act(self, action: str) -> Any:
        return "hot"


class StartsWithText(Dice):
    def start(self, options: Mapping[str, Any]) -> Any:
        return "Guess."


class StartsTheOtherWayRound(Dice):
    def start(self, options: Mapping[str, Any]) -> Any:
        return super().start(options)[::-1]


def line_of(thing: Any) -> str:
    return f"{__file__}, line {inspect.getsourcelines(thing)[1]}"


@pytest.mark.parametrize(
    ("env", "missing"),
    [(Nothing, "methods start and act"), (OnlyStart, "method act"), (TextEnv, "methods start")],
)
def test_a_class_without_its_methods_is_refused_when_it_is_made(
    env: type[TextEnv], missing: str
) -> None:
    with pytest.raises(TypeError) as caught:
        env()
    assert f"expected the {missing}" in str(caught.value)
    assert f"{env.__name__} (" in str(caught.value)
    if env is not TextEnv:
        assert line_of(env) in str(caught.value)
    if missing == "method act":
        assert "def act(self, action: str) -> StepResult" in str(caught.value)
        assert "def start" not in str(caught.value)


def test_act_must_return_a_step_result() -> None:
    env = SaysStr()
    env.reset(seed=0)
    with pytest.raises(TypeError) as caught:
        env.step("x")
    assert str(caught.value) == (
        f"SaysStr.act: expected a StepResult, got str 'hot' ({line_of(SaysStr.act)}): "
        "return StepResult(observation, ...)"
    )


@pytest.mark.parametrize("env", [StartsWithText, StartsTheOtherWayRound])
def test_start_must_return_a_task_and_a_step_result(env: type[Dice]) -> None:
    with pytest.raises(TypeError) as caught:
        env().reset(seed=0)
    text = str(caught.value)
    assert text.startswith(f"{env.__name__}.start: expected (Task, StepResult), got ")
    assert f"({line_of(env.start)}): return Task(task_id, goal=...), StepResult" in text


def test_a_class_whose_source_cannot_be_read_is_refused_all_the_same() -> None:
    made: dict[str, Any] = {"TextEnv": TextEnv, "__name__": "a_notebook"}
    exec("class Cell(TextEnv):\n    def start(self, options): return None", made)
    with pytest.raises(TypeError, match=r"Cell \(a_notebook\): expected the method act"):
        made["Cell"]()


def test_environments_can_be_pickled() -> None:
    env = Dice()
    env.reset(seed=3)
    again = pickle.loads(pickle.dumps(env))
    assert again.step("x") == env.step("x")
