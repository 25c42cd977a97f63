"""The rules of the environment contract, one function each.

A rule returns what it saw and how to mend it, or None where it is kept. `check_text_env` in
`aem_gym.testing` runs them all.
"""

from __future__ import annotations

import math
import pickle
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from gymnasium.utils.env_checker import check_env

from aem_gym.contract_play import Found, TextGym, play, same, short
from aem_gym.errors import describe
from aem_gym.types import INFO_DEFAULTS

NONSENSE = (
    "",
    " ",
    "\x00\x1b[31m\r\n\t\x7f",
    "öffne die Tür 开门 🚪 \u202e",
    "lone surrogate \ud800",
    "{} %s %n ${x} <action></action>",
    "word " * 20_000,
)
"""What a language model may answer sooner or later."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is being checked: how to make it, and how long and often to play it."""

    name: str
    make: Callable[..., TextGym]
    steps: int
    seeds: tuple[int, ...]


def _spaces(subject: Subject) -> Found:
    env = subject.make()
    for role in ("observation_space", "action_space"):
        space = getattr(env, role, None)
        if not isinstance(space, gym.Space) or not isinstance(space.sample(), str):
            return f"{role} is {space!r}", "use aem_gym.spaces.TextSpace (TextEnv does)"
        if role == "action_space" and "go to the shelf 1" not in space:
            return f"{role} {space!r} excludes plain sentences", "use aem_gym.spaces.TextSpace"
    return None


def _returns(subject: Subject) -> Found:
    env = subject.make()
    for seed in subject.seeds:
        for moment in play(env, seed, subject.steps):
            kinds = {
                "observation": (isinstance(moment.observation, str), "str"),
                "reward": (_is_finite(moment.reward), "a finite float"),
                "terminated": (isinstance(moment.terminated, bool), "bool"),
                "truncated": (isinstance(moment.truncated, bool), "bool"),
                "info": (isinstance(moment.info, dict), "dict"),
            }
            for name, (good, wanted) in kinds.items():
                if not good:
                    seen = f"{name} after {moment.action!r} is {short(getattr(moment, name))}"
                    return seen, f"return {wanted}"
            if moment.observation not in env.observation_space:
                seen = f"{short(moment.observation)} is not in {env.observation_space!r}"
                return seen, "shorten the observation or give the space a greater max_length"
    return None


def _is_finite(reward: Any) -> bool:
    return isinstance(reward, int | float) and math.isfinite(reward)


def _info_keys(subject: Subject) -> Found:
    mend = "return every key, in its type, from reset and from every step (TextEnv does)"
    env = subject.make()
    keys: set[str] | None = None
    for seed in subject.seeds:
        for moment in play(env, seed, subject.steps):
            place = "reset" if moment.action is None else f"step({short(moment.action)})"
            for key, default in INFO_DEFAULTS.items():
                if key not in moment.info:
                    return f"{place}: info has no {key!r}", mend
                value = moment.info[key]
                if type(value) is not type(default):
                    wanted = type(default).__name__
                    return f"{place}: info[{key!r}] is {short(value)}, not {wanted}", mend
            if not all(isinstance(a, str) for a in moment.info["admissible_actions"]):
                return f"{place}: admissible_actions holds other things than str", mend
            keys = keys if keys is not None else set(moment.info)
            if keys != set(moment.info):
                odd = sorted(keys ^ set(moment.info))
                return f"{place}: the keys {odd} are not always there", "keep the keys constant"
    return None


def _determinism(subject: Subject) -> Found:
    env, other = subject.make(), subject.make()
    for seed in subject.seeds:
        first = list(play(env, seed, subject.steps))
        for again in (other, env):
            found = same(first, list(play(again, seed, subject.steps)))
            if found is not None:
                which = "another instance" if again is other else "the same instance, later"
                return f"{which}, seed {seed}: {found[0]}", found[1]
    return None


def _nonsense(subject: Subject) -> Found:
    env = subject.make()
    env.reset(seed=subject.seeds[0])
    for action in NONSENSE:
        try:
            answer = env.step(action)
        except Exception as error:
            seen = f"step({short(action)}) raised {describe(error)}"
            return seen, "answer any text with an observation and action_valid=False"
        if not isinstance(answer[0], str):
            return f"step({short(action)}) returned {short(answer[0])}", "return a str"
        if answer[2] or answer[3]:
            env.reset(seed=subject.seeds[0])
    return None


def _action_valid(subject: Subject) -> Found:
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


def _ends(subject: Subject) -> Found:
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


def _task_id(subject: Subject) -> Found:
    mend = 'reset(options={"task_id": ...}) must give the task that reported this id'
    env = subject.make()
    for seed in subject.seeds:
        observation, info = env.reset(seed=seed)
        options = {"task_id": info.get("task_id")}
        if not options["task_id"]:
            return "info['task_id'] is empty", "name the task, so that it can be played again"
        again = env.reset(seed=seed, options=options)
        if again[0] != observation:
            seen = f"{options}, seed {seed}: {short(again[0])}, not {short(observation)}"
            return seen, mend
        other = env.reset(seed=seed + 1, options=options)[1]
        for key in ("task_id", "task_type", "goal"):
            before, now = info.get(key), other.get(key)
            if now != before:
                return f"{options}, other seed: {key} {short(now)}, not {short(before)}", mend
    return None


def _instructions(subject: Subject) -> Found:
    text = getattr(subject.make().unwrapped, "instructions", None)
    if isinstance(text, str) and text.strip():
        return None
    return f"instructions is {text!r}", "tell an agent the goal's form and the action grammar"


def _expert(subject: Subject) -> Found:
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
                return f"the expert's action {short(answer[1])} is not valid", "mend the expert"
            if terminated or truncated:
                break
    return None


def _render(subject: Subject) -> Found:
    mend = 'declare metadata["render_modes"] with "ansi" and return the text (TextEnv does)'
    if "ansi" not in subject.make().metadata.get("render_modes", ()):
        return "metadata['render_modes'] lacks 'ansi'", mend
    env = subject.make(render_mode="ansi")
    env.reset(seed=subject.seeds[0])
    text: Any = env.render()
    return None if isinstance(text, str) else (f"render() returned {short(text)}", mend)


def _picklable(subject: Subject) -> Found:
    spec = subject.make().spec
    try:
        pickle.loads(pickle.dumps(spec))
    except Exception as error:
        seen = f"its spec cannot be pickled: {describe(error)}"
        return seen, "register module:Class and plain arguments, so that workers can make it"
    return None


def _gymnasium(subject: Subject) -> Found:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            env = subject.make().unwrapped
            env.action_space.seed(0)
            check_env(env, skip_render_check=True)
        except Exception as error:
            return f"check_env: {describe(error)}", "see the documentation of gymnasium.Env"
    ours = [str(w.message) for w in heard if issubclass(w.category, UserWarning)]
    return (f"check_env warns: {ours[0]}", "see gymnasium.Env") if ours else None


RULES: dict[str, Callable[[Subject], Found]] = {
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
