"""The driver of `benchmarks.train`: racers take turns, and what they say is kept."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.train import toy
from benchmarks.train.race import Racer, Timings, race, ratio

SCRIPT = """
import sys
sys.path.insert(0, {folder!r})
import signals
told = signals.Told()
told.imported()
held = []
def work():
    print("chatter")
    open({log!r}, "a").write({name!r})
    held.append(bytearray({size}))
    return {{}}
told.loop(work)
"""


def racer(tmp_path: Path, name: str, size: int = 0, code: str = SCRIPT) -> Racer:
    folder = str(Path(toy.__file__).parent)
    values = {"folder": folder, "log": str(tmp_path / "log"), "name": name, "size": size}
    return Racer(name, (sys.executable, "-c", code.format(**values)))


def test_racers_take_turns_and_the_first_one_changes(tmp_path: Path) -> None:
    racers = [racer(tmp_path, "a"), racer(tmp_path, "b", size=30_000_000)]
    timings = race(racers, 3, tmp_path / "race", warm=1)
    assert (tmp_path / "log").read_text() == "baabbaab"
    assert all(len(each.seconds) == len(each.cpu) == 3 for each in timings.values())
    assert timings["b"].memory > 100e6 > timings["a"].memory
    assert "chatter" in (tmp_path / "race" / "a.log").read_text()


def test_a_racer_that_fails_is_shown_with_what_it_printed(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="a ended:(.|\n)*no such luck"):
        race([racer(tmp_path, "a", code="raise ValueError('no such luck')")], 1, tmp_path / "race")


def test_ratios_are_medians_of_pairs() -> None:
    slow, fast = Timings([4.0, 9.0, 100.0], [1.0, 1.0, 1.0]), Timings([2.0, 3.0, 4.0], [2.0] * 3)
    assert ratio(slow, fast) == 3.0 and ratio(slow, fast, cpu=True) == 0.5


def test_an_episode_of_the_toy_work_has_as_many_tokens_as_it_says() -> None:
    shown = [len(toy.observation(5, turn).split()) for turn in range(toy.TURNS)]
    assert sum(shown) + toy.TURNS - 1 + toy.TURNS * toy.NEW_TOKENS == toy.ROW
    assert toy.observation(5, 1) != toy.observation(6, 1)
    assert toy.reward("w2 w3 w4 oops") == 0.2
