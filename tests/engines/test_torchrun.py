"""Four processes, and processes that are killed: all end within a minute, and the run goes on."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny import Tiny
from tests.training.processes import (
    alive,
    descendants,
    finish,
    stop,
    torchrun,
    wait_for,
    worker,
)
from tests.training.runs import flags, lines, result_files, run
from tests.training.test_distributed import (
    STRADDLING,
    check_equal,
    check_step,
    record,
    replayed,
)

pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]
MINUTE = 60.0
LONG: dict[str, Any] = {
    "group_size": 4,
    "eval_every": 0,
    "workers": 1,
    "breaker": {"invalid": "warn"},
}
"""Environments in processes of their own, so that there is more to leave behind."""


def test_four_processes_make_the_step_of_one(tmp_path: Path) -> None:
    run(tmp_path / "one", **STRADDLING, token_samples="all")
    finish(torchrun(4, "train.py", *flags(tmp_path / "four", **STRADDLING, token_samples="all")))
    check_step(tmp_path / "four", tmp_path / "one")


def test_four_processes_update_like_one(tiny: Tiny, tmp_path: Path) -> None:
    record(tiny, tmp_path)
    check_equal(replayed(tmp_path, 4, "compact"), replayed(tmp_path, 1, "compact"))
    check_equal(replayed(tmp_path, 4, "sharded"), replayed(tmp_path, 1, "plain"))


def test_dynamic_sampling_keeps_the_same_groups(tmp_path: Path) -> None:
    settings = {**STRADDLING, "group_size": 3, "estimator": "dapo", "max_rounds": 4}
    game = {"env": "tests.training.guess_env:guess-test/Guess-v0", "warmstart_steps": 80}
    run(tmp_path / "one", **settings, **game)
    finish(torchrun(2, "train.py", *flags(tmp_path / "two", **settings, **game)))
    kept = [
        [(e["seed"], e["rollout"], e["dropped"], e["won"]) for e in lines(each / "episodes.jsonl")]
        for each in (tmp_path / "one", tmp_path / "two")
    ]
    assert kept[0] == kept[1] and {dropped for _, _, dropped, _ in kept[0]} == {True, False}


def test_an_evaluation_is_that_of_one_process(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"steps": 0, "eval_episodes": 7}
    run(tmp_path / "one", **settings)
    finish(torchrun(2, "train.py", *flags(tmp_path / "two", **settings)))
    found = [lines(tmp_path / name / "evaluations.jsonl")[0] for name in ("one", "two")]
    assert [f.pop("seconds") > 0 for f in found] == [True, True] and found[0] == found[1]


# Ends ---------------------------------------------------------------------------------------------


def _kill(number: int) -> Callable[[subprocess.Popen[str]], None]:
    return lambda process: os.kill(worker(process, number), signal.SIGKILL)


def _interrupt_one(process: subprocess.Popen[str]) -> None:
    os.kill(worker(process, 1), signal.SIGINT)


ENDS: dict[str, Callable[[subprocess.Popen[str]], None]] = {
    "rank 1 killed": _kill(1),
    "rank 0 killed": _kill(0),
    "rank 1 stopped": lambda process: os.kill(worker(process, 1), signal.SIGSTOP),
    "torchrun killed": lambda process: process.kill(),
    "torchrun terminated": lambda process: process.terminate(),
    "rank 1 interrupted": _interrupt_one,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two processes that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(torchrun(2, "train.py", *flags(folder, **LONG, steps=12)))
    return folder


@pytest.mark.parametrize("end", ENDS)
def test_one_that_ends_ends_all_and_the_run_goes_on(end: str, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = flags(folder, **LONG, steps=12)
    process = torchrun(2, "train.py", *arguments)
    try:
        metrics = folder / "metrics.jsonl"
        wait_for(lambda: metrics.exists() and len(lines(metrics)) >= 3, 200)
        all_of_it = {process.pid, *descendants(process.pid)}
        assert len(all_of_it) >= 5  # torchrun, two ranks, a worker of each
        ENDS[end](process)
        # torchrun waits half a minute more for one that does not even take its signal.
        limit = MINUTE + 30 * (end == "rank 1 stopped")
        took = wait_for(lambda: not any(map(alive, all_of_it)), limit)
        print(f"{end}: all ended after {took:.1f} s")
        assert process.wait(5) != 0
    finally:
        stop(process)
    saved = len(list((folder / "checkpoints").glob("step-*")))
    assert saved, "nothing to go on with"
    finish(torchrun(2, "train.py", *arguments, "--resume"))
    assert [line["step"] for line in lines(folder / "metrics.jsonl")] == list(range(1, 13))
    assert result_files(folder) == result_files(whole)
