"""check_text_env: does an environment keep the contract? For engineers who write their own.

One function for each rule; a rule returns what it saw and how to fix it, or None where the rule is
kept. The report lists every broken rule, so that one run shows all there is to do.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import check_env, data_equivalence

from aem_gym.errors import AemGymError, BrokenEnvironmentError, ConfigError, describe
from aem_gym.registry import find_env
from aem_gym.rollout.envs import CheckedStep, checked_reset, checked_step
from aem_gym.seeding import generator
from aem_gym.types import INFO_DEFAULTS

__all__ = ["ContractError", "Violation", "check_text_env"]

TextGym = gym.Env[str, str]
RuleResult = tuple[str, str] | None
"""The observation that breaks a rule, and how to fix it; None if the rule is kept."""

NONSENSE = (
    "",
    " ",
    "\x00\x1b[31m\r\n\t\x7f",
    "öffne die Tür 开门 🚪 \u202e",
    "lone surrogate \ud800",
    "{} %s %n ${x} <action></action>",
    "word " * 20_000,
)
"""Actions that a language model may give."""


@dataclass(frozen=True, slots=True)
class Violation:
    rule: str
    seen: str
    fix: str

    def __str__(self) -> str:
        return f"[{self.rule}] {self.seen}\n    Fix: {self.fix}"


class ContractError(AemGymError, AssertionError):
    """An environment breaks the contract; `violations` says where."""

    def __init__(self, name: str, violations: Sequence[Violation]) -> None:
        listed = "\n".join(f"  {violation}" for violation in violations)
        super().__init__(f"{name} breaks the contract:\n{listed}")
        self.violations = tuple(violations)


@dataclass(frozen=True, slots=True)
class CheckedEnv:
    """The environment being checked: how to make it, and how long and often to play it."""

    name: str
    make: Callable[..., TextGym]
    steps: int
    seeds: tuple[int, ...]


def check_text_env(
    env: str | TextGym | Callable[..., TextGym], *, steps: int = 30, seeds: Sequence[int] = (0, 1)
) -> None:
    """Check the whole contract of a text environment.

    Args:
        env: an id, an environment made by `gym.make`, or a class (or function) that makes one and
            takes `render_mode`.
        steps: how many actions to play in each episode, at most.
        seeds: which episodes to play.

    Raises:
        ContractError: lists every broken rule with what was seen and how to fix it.
        ConfigError: `env` is none of the above, or no such id exists.
    """
    subject = _subject(env, steps, tuple(seeds))
    made: list[TextGym] = []

    def make(**kwargs: Any) -> TextGym:
        made.append(subject.make(**kwargs))
        return made[-1]

    try:
        violations = _violations(replace(subject, make=make))
    finally:
        for each in made:
            with contextlib.suppress(Exception):
                each.close()
    if violations:
        raise ContractError(subject.name, violations)


def _violations(subject: CheckedEnv) -> list[Violation]:
    try:
        subject.make()
    except Exception as error:
        fix = "it must be made without arguments, offline, right after install"
        fix = "write what is missing" if isinstance(error, BrokenEnvironmentError) else fix
        return [Violation("make", f"making it raised {_raised(error)}", fix)]
    violations: list[Violation] = []
    raised: list[str] = []
    for name, rule in RULES.items():
        try:
            found = rule(subject)
        except BrokenEnvironmentError as error:  # nothing else can be checked before it is fixed
            return [*violations, Violation(name, str(error), "return what it says is expected")]
        except Exception as error:
            found = f"raised {_raised(error)}", "fix the line that raised"
        if found is None or any(text in found[0] for text in raised):
            continue  # an exception that several rules meet is listed once
        if found[0].startswith("raised "):
            raised.append(found[0].removeprefix("raised "))
        violations.append(Violation(name, *found))
    return violations


def _raised(error: BaseException) -> str:
    """The error, with file and line of the innermost frame in the environment's own code."""
    message = describe(error)
    if isinstance(error, BrokenEnvironmentError):
        return message  # it names them
    package, gymnasium = Path(__file__).parent, Path(gym.__file__).parent
    own = (__file__, str(package / "text_env.py"), f"{gymnasium}{os.sep}")
    stack = traceback.extract_tb(error.__traceback__)
    frames = [frame for frame in stack if not frame.filename.startswith(own)]
    frames = [frame for frame in frames if "site-packages" not in frame.filename] or frames
    return f"{message} ({frames[-1].filename}, line {frames[-1].lineno})" if frames else message


def _subject(env: Any, steps: int, seeds: tuple[int, ...]) -> CheckedEnv:
    if isinstance(env, gym.Env):
        if env.spec is None:
            raise ConfigError(
                f"expected an id, a class, or an environment made by gym.make; got {env!r}, which "
                "cannot be made a second time. Pass its class"
            )
        spec = env.spec
        return CheckedEnv(spec.id, lambda **kwargs: spec.make(**kwargs), steps, seeds)
    if isinstance(env, str):
        env_id = find_env(env)
        return CheckedEnv(env_id, lambda **kwargs: gym.make(env_id, **kwargs), steps, seeds)
    if callable(env):
        return CheckedEnv(getattr(env, "__name__", repr(env)), env, steps, seeds)
    raise ConfigError(f"expected an id, an environment or a class, got {type(env).__name__}")


# An episode with random actions ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Moment:
    """The result of `reset` (reward 0, no flags) or `step`, and the action that led here."""

    observation: Any
    reward: Any = 0.0
    terminated: Any = False
    truncated: Any = False
    info: Any = field(default_factory=dict)
    action: str | None = None

    def checked(self) -> CheckedStep:
        """As the collector reads it. Raises TypeError or ValueError where it refuses."""
        if self.action is None:
            return checked_reset((self.observation, self.info))
        parts = (self.observation, self.reward, self.terminated, self.truncated, self.info)
        return checked_step(parts)


def short(value: Any) -> str:
    """A value in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _choose(env: TextGym, moment: Moment, seed: int, turn: int) -> str:
    """An admissible action; where none is listed, a sample of the action space."""
    draws = generator("check_text_env", seed, turn)
    actions = moment.info.get("admissible_actions") if isinstance(moment.info, dict) else None
    if isinstance(actions, list | tuple) and actions:
        return str(actions[int(draws.integers(len(actions)))])
    env.action_space.seed(int(draws.integers(2**31)))
    return env.action_space.sample()


def play(
    env: TextGym, seed: int, steps: int, options: dict[str, Any] | None = None
) -> Iterator[Moment]:
    """An episode with random actions, up to its end or to `steps` actions."""
    observation, info = env.reset(seed=seed, options=options)
    moment = Moment(observation, info=info)
    yield moment
    for turn in range(steps):
        action = _choose(env, moment, seed, turn)
        moment = Moment(*env.step(action), action=action)
        yield moment
        if moment.terminated or moment.truncated:
            return


def same(one: Sequence[Moment], two: Sequence[Moment]) -> RuleResult:
    """None if both episodes are the same, else where they part."""
    for turn, (a, b) in enumerate(zip(one, two, strict=False)):
        for name in ("action", "observation", "reward", "terminated", "truncated", "info"):
            left, right = getattr(a, name), getattr(b, name)
            if not data_equivalence(left, right, exact=True):
                seen = f"after {turn} actions, {name} was {short(left)} and then {short(right)}"
                return seen, "draw only from self.np_random, and start afresh in reset"
    if len(one) != len(two):
        return f"one episode took {len(one) - 1} actions, then {len(two) - 1}", "see determinism"
    return None


# The rules --------------------------------------------------------------------------------------


def _spaces(subject: CheckedEnv) -> RuleResult:
    env = subject.make()
    for role in ("observation_space", "action_space"):
        space = getattr(env, role, None)
        if not isinstance(space, gym.Space) or not isinstance(space.sample(), str):
            return f"{role} is {space!r}", "use aem_gym.spaces.TextSpace (TextEnv does)"
        if role == "action_space" and "go to the shelf 1" not in space:
            return f"{role} {space!r} excludes plain sentences", "use aem_gym.spaces.TextSpace"
    return None


def _returns(subject: CheckedEnv) -> RuleResult:
    env = subject.make()
    for seed in subject.seeds:
        for moment in play(env, seed, subject.steps):
            try:  # what the collector refuses in training
                moment.checked()
            except (TypeError, ValueError) as error:
                return f"after {moment.action!r}: {error}", "return what is expected"
            for name in ("terminated", "truncated"):
                if not isinstance(getattr(moment, name), bool):
                    seen = f"{name} after {moment.action!r} is {short(getattr(moment, name))}"
                    return seen, "return bool"
            if moment.observation not in env.observation_space:
                seen = f"{short(moment.observation)} is not in {env.observation_space!r}"
                return seen, "shorten the observation or give the space a greater max_length"
    return None


def _info_keys(subject: CheckedEnv) -> RuleResult:
    fix = "return every key, in its type, from reset and from every step (TextEnv does)"
    env = subject.make()
    keys: set[str] | None = None
    for seed in subject.seeds:
        for moment in play(env, seed, subject.steps):
            place = "reset" if moment.action is None else f"step({short(moment.action)})"
            for key, default in INFO_DEFAULTS.items():
                if key not in moment.info:
                    return f"{place}: info has no {key!r}", fix
                value = moment.info[key]
                if type(value) is not type(default):
                    wanted = type(default).__name__
                    return f"{place}: info[{key!r}] is {short(value)}, not {wanted}", fix
            if not all(isinstance(a, str) for a in moment.info["admissible_actions"]):
                return f"{place}: admissible_actions holds other things than str", fix
            keys = keys if keys is not None else set(moment.info)
            if keys != set(moment.info):
                odd = sorted(keys ^ set(moment.info))
                return f"{place}: the keys {odd} are not always there", "keep the keys constant"
    return None


def _determinism(subject: CheckedEnv) -> RuleResult:
    env, other = subject.make(), subject.make()
    for seed in subject.seeds:
        first = list(play(env, seed, subject.steps))
        for again in (other, env):
            found = same(first, list(play(again, seed, subject.steps)))
            if found is not None:
                which = "another instance" if again is other else "the same instance, later"
                return f"{which}, seed {seed}: {found[0]}", found[1]
    return None


def _nonsense(subject: CheckedEnv) -> RuleResult:
    env = subject.make()
    env.reset(seed=subject.seeds[0])
    for action in NONSENSE:
        try:
            answer = env.step(action)
        except BrokenEnvironmentError:
            raise
        except Exception as error:
            seen = f"step({short(action)}) raised {_raised(error)}"
            return seen, "answer any text with an observation and action_valid=False"
        if not isinstance(answer[0], str):
            return f"step({short(action)}) returned {short(answer[0])}", "return a str"
        if answer[2] or answer[3]:
            env.reset(seed=subject.seeds[0])
    return None


def _action_valid(subject: CheckedEnv) -> RuleResult:
    env = subject.make()
    for seed in subject.seeds:
        listed: list[str] = []
        for moment in play(env, seed, subject.steps):
            if moment.action in listed and not moment.info["action_valid"]:
                seen = f"{moment.action!r} was in admissible_actions, then action_valid is False"
                return seen, "list only what the environment takes, or report it as valid"
            listed = moment.info["admissible_actions"]
        if env.reset(seed=seed)[1]["admissible_actions"]:
            info = env.step(NONSENSE[2])[4]
            if info["action_valid"]:
                seen = "control characters are reported as a valid action"
                return seen, "report action_valid=False for what is not admissible"
    return None


def _ends(subject: CheckedEnv) -> RuleResult:
    env = subject.make()
    limit = getattr(env.unwrapped, "max_turns", None)
    if not isinstance(limit, int):
        limit = env.spec.max_episode_steps if env.spec is not None else None
    if limit is None:
        return "there is no turn limit", "set max_turns, or max_episode_steps when registering"
    *_, last = play(env, subject.seeds[0], limit)
    if not (last.terminated or last.truncated):
        return f"no end after its limit of {limit} actions", "return truncated=True at the limit"
    return None


def _task_id(subject: CheckedEnv) -> RuleResult:
    fix = 'reset(options={"task_id": ...}) must give the task that reported this id'
    env = subject.make()
    for seed in subject.seeds:
        observation, info = env.reset(seed=seed)
        options = {"task_id": info.get("task_id")}
        if not options["task_id"]:
            return "info['task_id'] is empty", "name the task, so that it can be played again"
        again = env.reset(seed=seed, options=options)
        if again[0] != observation:
            seen = f"{options}, seed {seed}: {short(again[0])}, not {short(observation)}"
            return seen, fix
        other = env.reset(seed=seed + 1, options=options)[1]
        for key in ("task_id", "task_type", "goal"):
            before, now = info.get(key), other.get(key)
            if now != before:
                return f"{options}, other seed: {key} {short(now)}, not {short(before)}", fix
    return None


def _instructions(subject: CheckedEnv) -> RuleResult:
    text = getattr(subject.make().unwrapped, "instructions", None)
    if isinstance(text, str) and text.strip():
        return None
    return f"instructions is {text!r}", "tell an agent the goal's form and the action grammar"


def _expert(subject: CheckedEnv) -> RuleResult:
    env = subject.make()
    expert = getattr(env.unwrapped, "expert", None)
    if expert is None:
        return None
    for seed in subject.seeds:
        env.reset(seed=seed)
        for _ in range(subject.steps):
            answer = expert()
            if not (isinstance(answer, tuple) and [type(part) for part in answer] == [str, str]):
                return f"expert() returned {short(answer)}", "return (thought, action), two str"
            _, _, terminated, truncated, info = env.step(answer[1])
            if not info["action_valid"]:
                return f"the expert's action {short(answer[1])} is not valid", "correct the expert"
            if terminated or truncated:
                break
    return None


def _render(subject: CheckedEnv) -> RuleResult:
    fix = 'declare metadata["render_modes"] with "ansi" and return the text (TextEnv does)'
    if "ansi" not in subject.make().metadata.get("render_modes", ()):
        return "metadata['render_modes'] lacks 'ansi'", fix
    env = subject.make(render_mode="ansi")
    env.reset(seed=subject.seeds[0])
    text: Any = env.render()
    return None if isinstance(text, str) else (f"render() returned {short(text)}", fix)


def _picklable(subject: CheckedEnv) -> RuleResult:
    spec = subject.make().spec
    try:
        pickle.loads(pickle.dumps(spec))
    except Exception as error:
        seen = f"its spec cannot be pickled: {describe(error)}"
        return seen, "register module:Class and plain arguments, so that workers can make it"
    return None


def _gymnasium(subject: CheckedEnv) -> RuleResult:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            env = subject.make().unwrapped
            env.action_space.seed(0)
            check_env(env, skip_render_check=True)
        except BrokenEnvironmentError:
            raise
        except Exception as error:
            return f"check_env: {_raised(error)}", "see the documentation of gymnasium.Env"
    messages = [str(w.message) for w in heard if issubclass(w.category, UserWarning)]
    return (f"check_env warns: {messages[0]}", "see gymnasium.Env") if messages else None


RULES: dict[str, Callable[[CheckedEnv], RuleResult]] = {
    "text-spaces": _spaces,
    "returns": _returns,
    "info-keys": _info_keys,
    "determinism": _determinism,
    "nonsense": _nonsense,
    "action-valid": _action_valid,
    "ends": _ends,
    "task-id": _task_id,
    "instructions": _instructions,
    "expert": _expert,
    "render": _render,
    "picklable": _picklable,
    "gymnasium": _gymnasium,
}
"""The contract, by name."""
