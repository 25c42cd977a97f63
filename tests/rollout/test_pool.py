"""The pool: failures end their own episode, whatever the number of worker processes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import gymnasium as gym
import pytest

import aem_gym
from aem_gym.errors import ConfigError, UnknownNameError
from aem_gym.rollout.envs import PREFETCHED, CheckedStep, EnvSpec
from aem_gym.rollout.pool import EnvPool
from aem_gym.types import INFO_DEFAULTS, PromptTemplate, StopReason
from tests.rollout import pool_envs

COUNTER = EnvSpec("pool-test/Counter-v0")
FAULTY = EnvSpec("pool-test/Faulty-v0")
PREFETCHING = EnvSpec("pool-test/Prefetching-v0")


@pytest.fixture(scope="module", params=[0, 2], ids=["here", "workers"])
def faulty(request: pytest.FixtureRequest) -> Iterator[EnvPool]:
    with EnvPool(FAULTY, workers=request.param, step_timeout=0.3, reset_timeout=0.3) as pool:
        yield pool


def play(pool: EnvPool, slots: list[int]) -> dict[int, list[CheckedStep]]:
    """Everything each slot answers until it ends; slots leave at different times."""
    seen = {s: [o] for s, o in zip(slots, pool.reset([(s, s, None) for s in slots]), strict=True)}
    live = list(slots)
    for turn in range(10):
        answers = pool.step([(s, f"a{turn}") for s in live])
        for slot, answer in zip(live, answers, strict=True):
            seen[slot].append(answer)
        live = [s for s, a in zip(live, answers, strict=True) if not a.terminated]
        live = live[1:] if turn == 0 else live
    return seen


def test_results_do_not_depend_on_workers_nor_on_the_company() -> None:
    with EnvPool(COUNTER) as here, EnvPool(COUNTER, workers=3) as there:
        together = play(here, [5, 3, 8, 1])
        assert play(there, [5, 3, 8, 1]) == together
        assert play(here, [3])[3][:2] == together[3][:2]  # reused environments, same bytes
        assert here.describe() == there.describe()
    assert together[3][-1].terminated and together[3][-1].info["won"]


@pytest.mark.parametrize("workers", [0, 2])
def test_environments_prepare_the_resets_that_come(workers: int) -> None:
    """A few per process, in their order; more as soon as a prepared one has come."""
    with EnvPool(PREFETCHING, workers=workers) as pool:
        assert pool.describe().prefetches
        every = pool.processes
        assert every == max(1, workers)
        coming = [(200 + n, {"task_id": "t"} if n % 2 else None) for n in range(40)]
        pool.reset([(slot, 100 + slot, None) for slot in range(every)])
        pool.prefetch(coming)
        pool.prefetch(coming)  # again changes nothing
        for process, answer in enumerate(pool.step([(p, "say") for p in range(every)])):
            mine = coming[process::every][:PREFETCHED]
            assert answer.observation == " ".join(f"{s}:{sorted(o or {})}" for s, o in mine)
        answers = pool.reset([(slot, *coming[slot]) for slot in range(2 * every)])
        assert [a.error for a in answers] == [None] * len(answers)
        for slot, answer in enumerate(pool.step([(s, "say") for s in range(2 * every)])):
            seed, options = coming[slot % every :: every][PREFETCHED + slot // every]
            assert answer.observation == f"{seed}:{sorted(options or {})}"
        # Another reset may come in place of one of these, also one that cannot be prepared.
        pool.prefetch([(13, None)])
        assert pool.reset([(0, 13, None), (1, 999, None)])[0].error is None
    with EnvPool(COUNTER) as pool:
        assert not pool.describe().prefetches
        pool.prefetch(coming)


def test_a_failure_that_an_environment_reports_ends_its_episode() -> None:
    with EnvPool(PREFETCHING) as pool:
        pool.reset([(0, 1, None), (1, 2, None)])
        failed, fine = pool.step([(0, "report"), (1, "say")])
        assert failed.error == "EnvironmentFailure: the engine is gone"
        assert failed.failure is StopReason.INFRASTRUCTURE
        assert failed.truncated and not failed.terminated and fine.error is None
        assert pool.reset([(0, 1, None)])[0].error is None


def test_description_and_expert() -> None:
    with EnvPool(COUNTER) as pool:
        about = pool.describe()
        pool.reset([(0, 1, {"task_id": "mine"})])
        assert pool.ask_expert(0) == ("turn 0", "one")
        pool.step([(0, "x")])
        pool.step([(0, "x")])
        assert pool.ask_expert(0) is None  # it raised: no expert answer, and the episode goes on
        assert pool.step([(0, "x")])[0].terminated
        assert pool.ask_expert(99) is None
    assert (about.instructions, about.lexicon, about.max_turns) == (
        "Say anything.",
        ("one", "two"),
        50,
    )
    assert about.has_expert and about.prompt_templates == {"default": PromptTemplate()}


def test_third_party_environment_gets_defaults(faulty: EnvPool) -> None:
    about = faulty.describe()
    assert about.instructions == "" and about.prompt_templates == {"default": PromptTemplate()}
    assert about.max_turns is None and not about.has_expert
    (first,) = faulty.reset([(0, 42, None)])
    assert first.observation == "seed42" and first.error is None
    assert first.info == dict(INFO_DEFAULTS)
    (won,) = faulty.step([(0, "win")])
    assert won.reward == 1.0 and won.terminated and won.info["won"] and won.info["score"] == 1.0
    assert faulty.ask_expert(0) is None


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("raise", "ValueError: broken on purpose"),
        ("exit", "SystemExit: 3"),
        ("hang", "longer than 0.3 s"),
        ("number", "expected a str observation, got int 5"),
        ("four", "expected (observation, reward, terminated, truncated, info)"),
        ("nan", "finite reward"),
        ("inf", "finite reward"),
        ("huge", "finite reward"),
        ("nan score", "info['score']: expected float, got float nan"),
        ("inf score", "info['score']: expected float, got float inf"),
        ("nan won", "info['won']: expected bool, got float nan"),
        ("info", "expected info to be a dict"),
        ("key", "info['admissible_actions']: expected list"),
        ("none", "got NoneType None"),
    ],
)
def test_a_failing_step_ends_its_episode_only(faulty: EnvPool, fault: str, message: str) -> None:
    faulty.reset([(s, s, None) for s in range(4)])
    answers = faulty.step([(3, "ok"), (2, fault), (0, "fine")])  # 0 and 2 share a worker
    assert [a.observation for a in answers] == ["ok", "", "fine"]
    bad = answers[1]
    assert bad.truncated and not bad.terminated and bad.info == dict(INFO_DEFAULTS)
    assert bad.error is not None and bad.error.startswith("EnvironmentFailure: ")
    assert message in bad.error
    again, other = faulty.step([(2, "ok"), (0, "alive")])
    assert "no live environment" in str(again.error) and other.observation == "alive"
    assert faulty.reset([(2, 9, None)])[0].observation == "seed9"  # a new environment
    assert faulty.step([(2, "ok")])[0].error is None


@pytest.mark.parametrize("fault", ["raise", "hang"])
def test_a_failing_reset_is_data(faulty: EnvPool, fault: str) -> None:
    bad, good = faulty.reset([(0, 1, {"fault": fault}), (1, 2, None)])
    assert bad.truncated and bad.error and good.observation == "seed2"
    assert faulty.reset([(0, 3, None)])[0].error is None


def test_unpicklable_info_does_not_break_a_worker(faulty: EnvPool) -> None:
    faulty.reset([(0, 1, None)])
    (answer,) = faulty.step([(0, "unpicklable")])
    assert answer.error is None and answer.reward == 0.5 and answer.info["kept"] == 1


def test_a_dead_worker_is_replaced() -> None:
    with EnvPool(FAULTY, workers=2) as pool:
        pool.reset([(s, s, None) for s in range(4)])
        answers = pool.step([(0, "pid"), (1, "pid"), (2, "die"), (3, "pid")])
        assert answers[1].observation == answers[3].observation != str(os.getpid())
        assert "exit code 7" in str(answers[2].error)
        gone, fine = pool.step([(0, "ok"), (1, "ok")])  # slot 0 lived in the dead worker
        assert gone.error and gone.truncated and fine.error is None
        assert [a.error for a in pool.reset([(0, 5, None), (2, 6, None)])] == [None, None]


def test_a_worker_whose_limit_does_not_act_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stopped process stands for a hang in C code: no signal handler runs in it."""
    monkeypatch.setattr("aem_gym.rollout.pool.GRACE_SECONDS", 0.2)
    with EnvPool(FAULTY, workers=1, step_timeout=0.3) as pool:
        pool.reset([(0, 0, None), (1, 1, None)])
        os.kill(int(pool.step([(0, "pid")])[0].observation), signal.SIGSTOP)
        answers = pool.step([(0, "ok"), (1, "ok")])
        assert all("hung for more than 0.3 s" in str(a.error) for a in answers)
        assert pool.reset([(0, 4, None)])[0].observation == "seed4"


def test_outer_timers_survive() -> None:
    """pytest-timeout and others use the same signal: it must still ring for them."""
    rung: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))
    outer = signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with EnvPool(FAULTY, step_timeout=5.0) as pool:
            pool.reset([(0, 0, None)])
            pool.step([(0, "ok")])
            assert 0.0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.3
        end = time.monotonic() + 3
        while not rung and time.monotonic() < end:
            time.sleep(0.01)
        assert rung
    finally:
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *outer)


def test_works_in_another_thread() -> None:
    seen: list[CheckedStep] = []

    def work() -> None:
        with EnvPool(FAULTY) as pool:
            seen.extend(pool.reset([(0, 7, None)]))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen[0].observation == "seed7"


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_made_is_a_configuration_error(workers: int) -> None:
    with pytest.raises(ConfigError, match="OSError: the data is not there"):
        EnvPool(EnvSpec("pool-test/Unmakeable-v0"), workers=workers)
    with pytest.raises(ConfigError, match="wrong_key"):
        EnvPool(EnvSpec(COUNTER.env_id, {"wrong_key": 1}), workers=workers)
    with pytest.raises(ConfigError, match="max_turns: expected at least 1"):
        EnvPool(EnvSpec(COUNTER.env_id, {"max_turns": 0}), workers=workers)
    with pytest.raises(UnknownNameError):
        EnvPool(EnvSpec("pool-test/Nothing-v0"), workers=workers)


def test_other_configuration_errors() -> None:
    with pytest.raises(ConfigError, match="expected a text observation_space"):
        EnvPool(EnvSpec("CartPole-v1"))
    with pytest.raises(ConfigError, match="workers"):
        EnvPool(COUNTER, workers=-1)
    with pytest.raises(ConfigError, match="worker processes"):
        EnvPool(EnvSpec(COUNTER.env_id, {"length": lambda: 3}), workers=1)
    with EnvPool(COUNTER) as pool, pytest.raises(ValueError, match="distinct"):
        pool.reset([(0, 1, None), (0, 2, None)])


def test_ids_registered_only_in_the_parent_reach_the_workers() -> None:
    env_id = "pool-test/OnlyHere-v0"
    gym.register(env_id, pool_envs.Counter, disable_env_checker=True)
    try:
        with EnvPool(EnvSpec(env_id, {"length": 1}), workers=1) as pool:
            assert pool.reset([(0, 1, None)])[0].error is None
            assert pool.step([(0, "x")])[0].terminated
    finally:
        del gym.registry[env_id]


SCRIPT = """
import signal, sys, time
sys.path[:0] = {folders!r}
import tests.rollout.pool_envs
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool

if __name__ == "__main__":
    pool = EnvPool(EnvSpec("pool-test/Faulty-v0"), workers=2)
    pool.reset([(0, 0, None), (1, 1, None)])
    print(*(a.observation for a in pool.step([(0, "pid"), (1, "pid")])), flush=True)
    if {busy}:
        pool.step([(0, "hang")])
    time.sleep(60)
"""


@pytest.mark.parametrize(
    ("kill", "busy"),
    [
        (signal.SIGINT, True),
        (signal.SIGTERM, False),
        (signal.SIGKILL, False),
        pytest.param(signal.SIGKILL, True, marks=pytest.mark.slow),
    ],
)
def test_no_worker_outlives_its_parent(tmp_path: Path, kill: signal.Signals, busy: bool) -> None:
    script = tmp_path / "parent.py"
    folders = [str(Path(__file__).parents[2]), str(Path(aem_gym.__file__).parents[1])]
    script.write_text(SCRIPT.format(folders=folders, busy=busy))
    parent = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    time.sleep(0.5)
    try:
        _end(parent, kill)
    finally:
        parent.kill()
        parent.wait()
        parent.stdout.close()
    end = time.monotonic() + 20
    while (alive := [p for p in pids if _running(p)]) and time.monotonic() < end:
        time.sleep(0.05)
    for pid in alive:
        os.kill(pid, signal.SIGKILL)
    assert not alive


def _end(parent: subprocess.Popen[str], kill: signal.Signals) -> None:
    """Signal until it ends: Python loses a Ctrl-C that meets it inside a destructor."""
    for patience in (20, 20, 60):
        parent.send_signal(kill)
        with contextlib.suppress(subprocess.TimeoutExpired):
            parent.wait(patience)
            return
    raise AssertionError(f"still running after {kill.name}")


def _running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"
