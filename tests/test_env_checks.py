"""Every rule of `check_text_env` catches the environment that breaks it, and only that one."""

from __future__ import annotations

import inspect
import random
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import pytest

from aem_gym.env_checks import RULES, ContractError, check_text_env
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.text_env import TextEnv
from aem_gym.types import StepResult, Task


class Good(TextEnv):
    """Keeps every rule: count to a drawn number by saying `up`, then `stop`."""

    instructions = "Say up or stop."
    max_turns = 8

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        drawn = int(self.np_random.integers(2, 5))
        self.target = int(options.get("task_id") or drawn)
        self.count = 0
        return Task(str(self.target), goal=f"reach {self.target}"), self.show()

    def show(self, valid: bool = True) -> StepResult:
        text = f"At {self.count}."
        return StepResult(text, admissible_actions=["up", "stop"], action_valid=valid)

    def act(self, action: str) -> StepResult:
        if action == "stop":
            won = self.count == self.target
            return StepResult("Done.", float(won), True, won)
        self.count += action == "up"
        return self.show(valid=action == "up")

    def expert(self) -> tuple[str, str]:
        return "counting", "up" if self.count < self.target else "stop"


class NoExpert(Good):
    expert = None  # type: ignore[assignment]


class Patched(Good):
    """A good environment whose `step` and `reset` answers a subclass changes."""

    def change(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return observation, info

    def reset(self, **kwargs: Any) -> Any:
        return self.change(*super().reset(**kwargs))

    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        observation, info = self.change(observation, info)
        return observation, reward, terminated, truncated, info


class NumericActions(Good):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = gym.spaces.Discrete(2)  # type: ignore[assignment]


class ActionsWithoutSpaces(Good):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.action_space = gym.spaces.Text(100)  # type: ignore[assignment]


class BytesObservation(Patched):
    def change(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return observation.encode(), info


class LongObservation(Patched):
    def change(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return observation * 20_000, info


class NanReward(Good):
    def step(self, action: str) -> Any:
        observation, _, *rest = super().step(action)
        return observation, float("nan"), *rest


class IntegerFlag(Good):
    def step(self, action: str) -> Any:
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, int(terminated), truncated, info


class KeyMissing(Patched):
    def change(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return observation, {k: v for k, v in info.items() if k != "task_type"}


class KeyOfWrongType(Patched):
    def change(self, observation: Any, info: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return observation, {**info, "score": str(info["score"])}


class KeyNow(Good):
    """A key that only some steps have."""

    def show(self, valid: bool = True) -> StepResult:
        outcome = super().show(valid)
        outcome.extra.update({"high": True} if self.count > 0 else {})
        return outcome


class GlobalRandomness(Good):
    def show(self, valid: bool = True) -> StepResult:
        return StepResult(
            f"{random.random()}", admissible_actions=["up", "stop"], action_valid=valid
        )


class Remembers(Good):
    """The second episode of an instance differs from the first."""

    episodes = 0

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        task, outcome = super().start(options)
        self.episodes += 1
        return task, StepResult(f"Episode {self.episodes}.", admissible_actions=["up", "stop"])


class RaisesOnNonsense(Good):
    def act(self, action: str) -> StepResult:
        if not action.isprintable():
            raise ValueError("what?")
        return super().act(action)


class RaisesOnEmpty(Good):
    def act(self, action: str) -> StepResult:
        return super().act(action if action[0] else "")


class ListsInvalid(Good):
    def act(self, action: str) -> StepResult:
        outcome = super().act(action)
        return outcome if outcome.terminated else self.show(valid=False)


class AllValid(Good):
    def show(self, valid: bool = True) -> StepResult:
        return super().show(valid=True)


class NeverEnds(Good):
    def act(self, action: str) -> StepResult:
        return self.show(valid=action in ("up", "stop"))

    def step(self, action: str) -> Any:
        answer = super().step(action)
        self._over = False
        return *answer[:3], False, answer[4]


class NoLimit(Good):
    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_turns = None  # type: ignore[assignment]

    def step(self, action: str) -> Any:
        self.max_turns = 99
        answer = super().step(action)
        self.max_turns = None  # type: ignore[assignment]
        return answer


class IgnoresTaskId(Good):
    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        return super().start({})


class Nameless(Good):
    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        return Task(""), super().start({})[1]


class OtherRoom(Good):
    """The task's id does not bring back the first observation."""

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        task, outcome = super().start(options)
        text = "Back again." if options.get("task_id") else "Hello."
        return task, StepResult(text, admissible_actions=outcome.admissible_actions)


class Silent(Good):
    instructions = "  "


class ExpertSaysOneThing(Good):
    def expert(self) -> Any:
        return "up"


class ExpertIsWrong(Good):
    def expert(self) -> tuple[str, str]:
        return "flying is best", "fly"


class ExpertRaises(Good):
    def expert(self) -> tuple[str, str]:
        raise RuntimeError("no idea")


class NoText(Good):
    def render(self) -> Any:
        return None


class OtherModes(Good):
    metadata = {"render_modes": ["human"]}


class UnseededReset(Good):
    """Gymnasium's own checker finds what has no rule here: a seed that is not passed on."""

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=0, options=options)


BREAKS = {
    NumericActions: "text-spaces",
    ActionsWithoutSpaces: "text-spaces",
    BytesObservation: "returns",
    LongObservation: "returns",
    NanReward: "returns",
    IntegerFlag: "returns",
    KeyMissing: "info-keys",
    KeyOfWrongType: "info-keys",
    KeyNow: "info-keys",
    GlobalRandomness: "determinism",
    Remembers: "determinism",
    RaisesOnNonsense: "nonsense",
    RaisesOnEmpty: "nonsense",
    ListsInvalid: "action-valid",
    AllValid: "action-valid",
    NeverEnds: "ends",
    NoLimit: "ends",
    IgnoresTaskId: "task-id",
    Nameless: "task-id",
    OtherRoom: "task-id",
    Silent: "instructions",
    ExpertSaysOneThing: "expert",
    ExpertIsWrong: "expert",
    ExpertRaises: "expert",
    NoText: "render",
    OtherModes: "render",
    UnseededReset: "gymnasium",
}
ALONE = {KeyMissing, KeyNow, AllValid, NeverEnds, Silent, ExpertSaysOneThing}
ALONE |= {ExpertIsWrong, ExpertRaises, NoText, OtherRoom, ActionsWithoutSpaces}


@pytest.mark.parametrize("env", BREAKS, ids=lambda env: env.__name__)
def test_each_broken_rule_is_named(env: type[Good]) -> None:
    with pytest.raises(ContractError) as caught:
        check_text_env(env, seeds=range(4))
    rules = [violation.rule for violation in caught.value.violations]
    assert BREAKS[env] in rules
    assert env.__name__ in str(caught.value) and f"[{BREAKS[env]}]" in str(caught.value)
    assert all(violation.seen and violation.fix for violation in caught.value.violations)
    if env in ALONE:
        assert rules == [BREAKS[env]]


def test_an_environment_that_does_not_pickle_is_named() -> None:
    gym.register("contract-test/Lambda-v0", lambda **kwargs: Good(**kwargs))
    try:
        with pytest.raises(ContractError) as caught:
            check_text_env("contract-test/Lambda-v0")
    finally:
        del gym.registry["contract-test/Lambda-v0"]
    assert [violation.rule for violation in caught.value.violations] == ["picklable"]


def test_every_rule_has_an_environment_that_breaks_it() -> None:
    assert {*BREAKS.values(), "picklable"} == set(RULES)


def test_all_violations_are_listed_at_once() -> None:
    class Worse(Silent, ExpertIsWrong, KeyMissing):
        pass

    with pytest.raises(AssertionError) as caught:
        check_text_env(Worse)
    assert isinstance(caught.value, ContractError)
    found = {violation.rule for violation in caught.value.violations}
    assert found == {"info-keys", "instructions", "expert"}


def test_an_environment_that_cannot_be_made() -> None:
    def broken(**kwargs: Any) -> TextEnv:
        raise FileNotFoundError("no data here")

    with pytest.raises(ContractError, match=r"\[make\].*no data here"):
        check_text_env(broken)


@pytest.mark.parametrize("env", [Good, NoExpert])
def test_good_environments_pass_as_class_id_and_instance(env: type[Good]) -> None:
    env_id = f"contract-test/{env.__name__}-v0"
    gym.register(env_id, f"{__name__}:{env.__name__}")
    try:
        check_text_env(env, seeds=range(6))
        check_text_env(env_id)
        check_text_env(gym.make(env_id))
    finally:
        del gym.registry[env_id]


def test_what_cannot_be_checked_is_a_configuration_error() -> None:
    with pytest.raises(ConfigError, match="Pass its class"):
        check_text_env(Good())
    with pytest.raises(ConfigError, match="got int"):
        check_text_env(5)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError):
        check_text_env("contract-test/Nothing-v0")


class Unwritten(TextEnv):
    pass


class AnswersText(Good):
    def act(self, action: str) -> Any:
        return "warmer"


class AnswersNonsenseWithText(Good):
    def act(self, action: str) -> Any:
        return super().act(action) if action.isprintable() else "what?"


class StartsWithText(Good):
    def start(self, options: Mapping[str, Any]) -> Any:
        return "Count."


class StumblesEverywhere(Good):
    def act(self, action: str) -> StepResult:
        return StepResult(self.colour)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("env", "culprit"),
    [
        (Unwritten, Unwritten),
        (AnswersText, AnswersText.act),
        (AnswersNonsenseWithText, AnswersNonsenseWithText.act),
        (StartsWithText, StartsWithText.start),
    ],
    ids=lambda part: part.__qualname__,
)
@pytest.mark.parametrize("wrapped", [False, True], ids=["class", "id"])
def test_a_mistake_in_the_code_is_one_entry_with_file_and_line(
    env: type[TextEnv], culprit: Any, wrapped: bool
) -> None:
    """Not a list of the rules that cannot be checked because of it."""
    env_id = f"contract-test/{env.__name__}-v0"
    gym.register(env_id, f"{__name__}:{env.__name__}", disable_env_checker=True)
    try:
        with pytest.raises(ContractError) as caught:
            check_text_env(env_id if wrapped else env)
    finally:
        del gym.registry[env_id]
    (violation,) = caught.value.violations
    assert f"{__file__}, line {inspect.getsourcelines(culprit)[1]}" in str(violation)


def test_an_exception_that_every_rule_meets_is_one_entry_with_file_and_line() -> None:
    with pytest.raises(ContractError) as caught:
        check_text_env(StumblesEverywhere)
    line = inspect.getsourcelines(StumblesEverywhere.act)[1] + 1
    raised = [v for v in caught.value.violations if "colour" in v.seen]
    assert len(raised) == len(caught.value.violations) == 1
    assert f"{__file__}, line {line}" in raised[0].seen


def test_the_public_module_offers_the_check() -> None:
    from aem_gym import testing

    assert testing.check_text_env is check_text_env and testing.ContractError is ContractError
