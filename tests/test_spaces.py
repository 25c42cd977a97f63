from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import pytest
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv
from gymnasium.vector.utils import (
    create_shared_memory,
    read_from_shared_memory,
    write_to_shared_memory,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.envs.base import TextEnv
from aem_gym.spaces import TextSpace
from aem_gym.types import StepResult, Task

ANY_TEXT = st.text(st.characters(categories=None), max_size=40)  # lone surrogates included


class Echo(TextEnv):
    """Says how it was seeded, then repeats the actions."""

    instructions = "Say something."

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        drawn = self.np_random.integers(10**9)
        return Task("echo"), StepResult(f"täglich {drawn} \ud800")

    def act(self, action: str) -> StepResult:
        return StepResult(f"{action}!", 1.0, terminated=action == "end")


@given(ANY_TEXT, st.integers(1, 50))
def test_contains_any_text_up_to_its_length(text: str, longest: int) -> None:
    assert (text in TextSpace(longest)) == (len(text) <= longest)


@pytest.mark.parametrize("other", [None, 5, b"bytes", ["a"], ("a",)])
def test_contains_nothing_but_text(other: object) -> None:
    assert other not in TextSpace()


@given(st.integers(0, 2**32 - 1), st.integers(1, 64))
@settings(max_examples=50)
def test_samples_are_seeded_and_lie_inside(seed: int, longest: int) -> None:
    one, two = TextSpace(longest, seed=seed), TextSpace(longest)
    two.seed(seed)
    samples = [one.sample() for _ in range(5)]
    assert samples == [two.sample() for _ in range(5)]
    assert all(sample in one for sample in samples)


def test_samples_hold_spaces_and_more_than_ascii() -> None:
    text = "".join(TextSpace(seed=0).sample() for _ in range(100))
    assert " " in text and not text.isascii()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_a_copy_is_equal_and_draws_the_same(copied: Callable[[TextSpace], TextSpace]) -> None:
    space = TextSpace(77, seed=3)
    space.sample()
    twin = copied(space)
    assert twin == space and twin.sample() == space.sample()
    assert repr(twin) == "TextSpace(77)" and eval(repr(twin)) == space
    assert space != TextSpace(78) and space != gym.spaces.Text(77)


@given(st.lists(ANY_TEXT))
def test_json_loses_nothing(texts: list[str]) -> None:
    space = TextSpace()
    assert space.from_jsonable(json.loads(json.dumps(space.to_jsonable(texts)))) == texts


def test_a_length_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0"):
        TextSpace(0)


@given(st.lists(ANY_TEXT, min_size=1, max_size=4), st.randoms())
@settings(max_examples=50)
def test_shared_memory_loses_nothing(texts: list[str], random: Any) -> None:
    """Whatever the texts are, in whatever order they are written, and over longer ones."""
    space = TextSpace(40)
    memory = create_shared_memory(space, n=len(texts))
    view = read_from_shared_memory(space, memory, n=len(texts))
    for index in range(len(texts)):
        write_to_shared_memory(space, index, "\U0001f600" * 40, memory)
    order = list(range(len(texts)))
    random.shuffle(order)
    for index in order:
        write_to_shared_memory(space, index, texts[index], memory)
    assert list(view) == texts and view[-1] == texts[-1] and view[:1] == (texts[0],)
    snapshot = copy.deepcopy(view)
    assert snapshot == pickle.loads(pickle.dumps(view)) == tuple(texts) == view
    write_to_shared_memory(space, 0, "later", memory)
    assert view[0] == "later" and snapshot == tuple(texts)  # the view is live, the copy is not


def test_shared_memory_refuses_what_does_not_fit() -> None:
    space = TextSpace(4)
    with pytest.raises(ValueError, match="at most 4 characters, got 5"):
        write_to_shared_memory(space, 0, "12345", create_shared_memory(space))


def rollout(vector: gym.vector.VectorEnv) -> list[Any]:
    """Everything three environments say in three steps."""
    try:
        first, info = vector.reset(seed=[1, 2, 3])
        assert first in vector.observation_space
        seen = [first, tuple(info["task_id"])]
        for actions in (("a", "é", "\ud800"), ("b", "end", ""), vector.action_space.sample()):
            observations, rewards, terminated, truncated, _ = vector.step(actions)
            assert observations in vector.observation_space
            seen += [tuple(observations), rewards.tolist(), terminated.tolist()]
        return seen
    finally:
        vector.close()


def make_vector(kind: str) -> gym.vector.VectorEnv:
    factories = [Echo] * 3
    if kind == "sync":
        vector: gym.vector.VectorEnv = SyncVectorEnv(factories)
    else:
        shared = kind == "shared"
        vector = AsyncVectorEnv(factories, shared_memory=shared, context="forkserver")
    vector.action_space.seed(5)
    return vector


@pytest.mark.parametrize("kind", ["shared", "pipes"])
def test_vector_environments_agree(kind: str) -> None:
    expected = rollout(make_vector("sync"))
    assert expected[2] == ("a!", "é!", "\ud800!") and expected[5][1] == "end!"
    assert expected[0][0].startswith("täglich") and len(set(expected[0])) == 3
    assert rollout(make_vector(kind)) == expected


def test_spaces_inside_other_spaces_can_be_shared() -> None:
    space = gym.spaces.Dict(text=TextSpace(9), pair=gym.spaces.Tuple([TextSpace(3)]))
    memory = create_shared_memory(space, n=2)
    view = read_from_shared_memory(space, memory, n=2)
    write_to_shared_memory(space, 1, {"text": "hello", "pair": ("hi",)}, memory)
    assert copy.deepcopy(view) == {"text": ("", "hello"), "pair": (("", "hi"),)}
