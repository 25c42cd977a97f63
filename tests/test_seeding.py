from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import aem_gym
from aem_gym.seeding import derive, generator, uniforms

PART = st.one_of(st.integers(), st.text(st.characters(exclude_characters="\x1f"), max_size=5))
PATH = st.lists(PART, max_size=4)
KEY = st.integers(0, 2**64 - 1)


@given(PATH, PATH)
def test_different_names_give_different_seeds(one: list[int | str], two: list[int | str]) -> None:
    assert (derive(*one) == derive(*two)) == (one == two)
    assert 0 <= derive(*one) < 2**63


def test_a_number_is_not_its_text_and_order_counts() -> None:
    assert (
        len({derive(1), derive("1"), derive(1, 2), derive(2, 1), derive(12), derive("1", "2")}) == 6
    )


def test_seeds_are_the_same_in_another_process() -> None:
    """Python's own `hash` is not."""
    code = "from aem_gym.seeding import *; print(derive(7, 'x'), generator(3).random())"
    root = str(Path(aem_gym.__file__).parents[1])
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": root, "PYTHONHASHSEED": "99"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.split() == [str(derive(7, "x")), str(generator(3).random())]


@given(st.lists(KEY, min_size=1, max_size=8), st.integers(0, 10_000))
def test_uniforms_belong_to_their_row(keys: list[int], counter: int) -> None:
    """A draw does not depend on which other rows there are."""
    together = uniforms(np.array(keys, dtype=np.uint64), counter)
    alone = [uniforms(np.array([key], dtype=np.uint64), counter)[0] for key in keys]
    assert together.tolist() == alone
    assert ((together >= 0) & (together < 1)).all()


def splitmix64(state: int, draws: int) -> list[int]:
    """The published generator, advanced step by step (Steele, Lea and Flood, 2014)."""
    mask, out = 2**64 - 1, []
    for _ in range(draws):
        state = (state + 0x9E3779B97F4A7C15) & mask
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        out.append(z ^ (z >> 31))
    return out


@given(KEY)
def test_uniforms_are_splitmix64_read_at_a_position(key: int) -> None:
    read = [uniforms(np.array([key], dtype=np.uint64), i)[0] for i in range(5)]
    assert read == [(z >> 11) * 2.0**-53 for z in splitmix64(key, 5)]


def test_splitmix64_reference_values() -> None:
    assert splitmix64(0, 2) == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


def test_uniforms_look_uniform_and_neighbours_are_unrelated() -> None:
    keys = np.arange(20_000, dtype=np.uint64)
    one, two = uniforms(keys, 0), uniforms(keys, 1)
    counts = np.histogram(one, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 43.8  # chi-squared, 19 degrees, p = 0.001
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.03  # 4 sigma
    assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.03
