"""Demonstrations and cloning: what is imitated, what is only read, and when there is nothing."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

from aem_gym.errors import EnvironmentFailure, NoExpertError, NotLearningError
from aem_gym.protocols import EpisodeStart
from aem_gym.rollout.envs import EnvSpec
from aem_gym.rollout.pool import EnvPool
from aem_gym.training import demonstrations
from aem_gym.training.cloning import CloningSettings, _batches, clone
from aem_gym.training.demonstrations import Demonstrator
from aem_gym.types import IGNORE, IMITATE, PROMPT, Demo, LabelledRow
from tests.tiny import ENV, Tiny
from tests.training.guess_env import DOORS


def spec(name: str) -> EnvSpec:
    return EnvSpec(f"guess-test/{name}-v0")


def collect(env: EnvSpec, count: int, *, random: bool = False, workers: int = 0, **options):
    with EnvPool(env, workers=workers) as pool:
        play = Demonstrator(pool, **{"seed": 3, **options})
        return (play.random if random else play.expert)(count)


def test_noise_is_fed_and_marked() -> None:
    demos = collect(ENV, 40, noise=0.3)
    steps = [step for demo in demos for step in demo.steps]
    noisy = [step for step in steps if not step.imitate]
    assert 0.2 < len(noisy) / len(steps) < 0.4
    for step in noisy:
        assert step.action in step.admissible_actions
    assert all(step.imitate for demo in collect(ENV, 10) for step in demo.steps)


def test_demonstrations_are_won_when_played_again() -> None:
    """Every demonstration wins its task, noise included, and shows what was to be seen."""
    import gymnasium as gym

    from aem_gym.seeding import derive

    env = ENV
    demos = iter(collect(env, 8, noise=0.1))
    wanted, won = next(demos), 0
    game = gym.make(env.env_id, **env.kwargs)
    for number in range(16):  # tasks that the expert did not win (for the noise) are not there
        observation, _ = game.reset(seed=derive(3, "demonstration", number) >> 31)
        if observation != wanted.steps[0].observation:
            continue
        for step in wanted.steps:
            assert observation == step.observation
            observation, _, terminated, _, info = game.step(step.action)
        assert terminated and info["won"]
        won += 1
        wanted = next(demos, wanted)
        if won == 8:
            break
    assert won == 8


def test_lost_demonstrations_are_kept_where_that_is_asked_for() -> None:
    """A careless customer loses most of its visits; all of them show how people shop."""
    careless = EnvSpec("aem_gym/WebShop-v0", {"difficulty": "easy", "expert_care": 0.3})
    kept = collect(careless, 40, keep_all=True)
    won = collect(careless, 40)
    assert len(kept) == 40 > len(won) > 0
    assert won[0] in kept


@pytest.mark.parametrize("random", [False, True])
def test_the_seed_decides_alone(random: bool) -> None:
    env = spec("Guess")
    first = collect(env, 12, random=random, noise=0.2)
    assert collect(env, 12, random=random, noise=0.2, workers=2) == first
    if not random:
        assert collect(env, 6, noise=0.2) == first[:6]
    assert collect(env, 12, random=random, noise=0.2, seed=4) != first


def test_random_play_keeps_what_won() -> None:
    demos = collect(spec("NoExpert"), 10, random=True)
    assert len(demos) == 10
    lengths = [len(demo.steps) for demo in demos]
    assert lengths == sorted(lengths)
    for demo in demos:
        assert all(step.imitate and step.action in DOORS for step in demo.steps)


def test_without_an_expert_the_fix_is_named() -> None:
    with pytest.raises(NoExpertError, match="--warmstart random.*--model"):
        collect(spec("NoExpert"), 5)


def test_when_nobody_wins_the_fix_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NoExpertError, match=r"none of 200 episodes.*expert\(\).*--model"):
        collect(spec("Hopeless"), 5, random=True)
    monkeypatch.setattr(demonstrations, "_HOPELESS", 256)  # however many were wanted
    with pytest.raises(NoExpertError, match="none of 264 episodes"):
        collect(spec("Hopeless"), 8000, random=True)


@pytest.mark.parametrize("random", [False, True])
def test_an_environment_that_always_fails_is_found_out_at_once(random: bool) -> None:
    with pytest.raises(EnvironmentFailure, match="each of 8 episodes failed.*no step today"):
        collect(spec("Broken"), 8000, random=random)


def test_an_expert_without_the_turns_it_needs_is_explained() -> None:
    with pytest.raises(NoExpertError, match="within 1 turns.*--max-turns"):
        collect(spec("Guess"), 5, max_turns=1)


def test_an_expert_that_loses_often_is_reported(caplog: pytest.LogCaptureFixture) -> None:
    """Noise that locks most doors: fewer demonstrations than wanted, and it says so."""
    with caplog.at_level(logging.WARNING):
        demos = collect(spec("Guess"), 40, noise=0.9)
    assert 0 < len(demos) < 40
    assert "episodes succeeded" in caplog.text


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_what_is_learned(share: float) -> None:
    """Responses to imitate always, noise never, prompts by their share; never a first token."""
    draws = np.random.default_rng(0)
    rows = []
    for number, length in enumerate(draws.integers(2, 40, size=30).tolist(), 1):
        labels = bytes(draws.integers(0, 3, size=length).tolist())
        rows.append(LabelledRow((number,) * length, labels))
    settings = CloningSettings(batch=7, observation_share=share)
    batches = _batches(rows, settings)
    learned = {PROMPT: [0, 0], IMITATE: [0, 0], IGNORE: [0, 0]}
    known = {row.ids[0]: row.labels for row in rows}
    for _ in range(40):
        numbers, (ids, positions) = next(batches)
        assert [rows[n].ids[0] for n in numbers] == ids[:, 0].tolist()
        assert ids.shape == positions.shape and not positions[:, 0].any()
        for row, chosen in zip(ids.tolist(), positions.tolist(), strict=True):
            labels = known[row[0]]
            assert not any(chosen[len(labels) :])
            for label, hit in list(zip(labels, chosen, strict=False))[1:]:
                learned[label][0] += hit
                learned[label][1] += 1
    assert learned[IMITATE][0] == learned[IMITATE][1] > 0
    assert learned[IGNORE][0] == 0 < learned[IGNORE][1]
    assert learned[PROMPT][0] / learned[PROMPT][1] == pytest.approx(share, abs=0.05)


def test_every_row_is_used_in_an_epoch() -> None:
    rows = [LabelledRow((i, i), bytes([PROMPT, IMITATE])) for i in range(32)]
    batches = _batches(rows, CloningSettings(batch=8, observation_share=0))
    for _ in range(3):
        epoch = [i for _ in range(4) for i in next(batches)[0]]
        assert sorted(epoch) == list(range(32))
    few = _batches(rows[:3], CloningSettings(batch=8))
    assert next(few)[1][0].shape == (3, 2)


@pytest.mark.parametrize(("rows", "batch"), [(40, 32), (63, 32), (100, 64), (33, 32), (64, 32)])
def test_every_row_is_cloned(rows: int, batch: int) -> None:
    """Also the longest, where the number of rows is no multiple of the batch; alike often."""
    made = [
        LabelledRow((1,) * (50 + 30 * i), bytes([IMITATE]) * (50 + 30 * i)) for i in range(rows)
    ]
    batches = _batches(made, CloningSettings(batch=batch))
    count = 40 * rows // batch
    times = np.bincount([n for _ in range(count) for n in next(batches)[0]], minlength=rows)
    assert times.min() >= 0.4 * times.mean()


def test_cloning_learns_and_repeats(tiny: Tiny) -> None:
    """The loss falls; the same seed gives the same weights; only the adapter has changed."""
    results = []
    for _ in range(2):
        agent = tiny.agent(adapted=False)
        start = EpisodeStart(0, 0, "", "", tiny.template)
        rows = [row for demo in tiny.demos for row in agent.tokenize(demo, start)]
        losses: list[float] = []
        settings = CloningSettings(steps=25, batch=8, muon_lr=0.0, adamw_lr=1e-2, warmup=2)
        final = clone(agent.learner, rows, settings, losses.append)
        assert len(losses) == 25 and final == pytest.approx(np.mean(losses[-20:]))
        assert np.mean(losses[-5:]) < np.mean(losses[:3])
        results.append([p.detach().clone() for p in agent.learner.parameters().values()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


class Faulty:
    """A learner whose log-probabilities are NaN for some calls (from 0), or whose weights are."""

    def __init__(self, learner: Any, calls: range, weights: bool = False) -> None:
        self.learner, self.calls, self.weights, self.count = learner, calls, weights, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.learner, name)

    def logprobs_at(self, ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        bad = self.count in self.calls
        self.count += 1
        found: torch.Tensor = self.learner.logprobs_at(ids, positions)
        if bad and self.weights:
            # Past autograd, as a fault of the hardware would.
            next(iter(self.learner.parameters().values())).data.fill_(float("inf"))
        return found * float("nan") if bad and not self.weights else found


def faulty_cloning(tiny: Tiny, calls: range, steps: int = 8, weights: bool = False) -> Any:
    agent = tiny.agent(adapted=False)
    start = EpisodeStart(0, 0, "", "", tiny.template)
    rows = [row for demo in tiny.demos for row in agent.tokenize(demo, start)]
    learner: Any = Faulty(agent.learner, calls, weights)
    settings = CloningSettings(steps=steps, batch=8, muon_lr=0.0, warmup=2)
    return agent, lambda: clone(learner, rows, settings)


def test_a_bad_batch_is_left_out_and_named(tiny: Tiny, caplog: pytest.LogCaptureFixture) -> None:
    agent, play = faulty_cloning(tiny, range(2, 4))
    assert np.isfinite(play())
    assert all(bool(torch.isfinite(p).all()) for p in agent.learner.parameters().values())
    assert "cloning step 3: the loss (nan) of the batch of rows " in caplog.text
    assert "bad_cloning:nan, 2 of 3 in a row" in caplog.text


@pytest.mark.parametrize(
    ("calls", "weights", "message"),
    [
        (range(3, 99), False, r"cloning step 6: the loss .* of the batch of rows \d+, .*Nothing"),
        (range(3, 4), True, "cloning step [67]: the loss"),
        (range(7, 8), True, "cloning: 1 weights hold NaN or inf"),
    ],
)
def test_cloning_ends_where_it_only_does_damage(
    tiny: Tiny, calls: range, weights: bool, message: str
) -> None:
    _, play = faulty_cloning(tiny, calls, weights=weights)
    with pytest.raises(NotLearningError, match=message):
        play()


def test_nothing_to_clone_changes_nothing(tiny: Tiny) -> None:
    agent = tiny.agent()
    before = {k: v.detach().clone() for k, v in agent.learner.parameters().items()}
    row = agent.tokenize(tiny.demos[0], EpisodeStart(0, 0, "", "", tiny.template))
    assert np.isnan(clone(agent.learner, row, CloningSettings(steps=0)))
    assert all(torch.equal(before[k], v) for k, v in agent.learner.parameters().items())


def test_an_empty_demonstration_has_no_rows(tiny: Tiny) -> None:
    assert tiny.agent().tokenize(Demo("", ()), EpisodeStart(0, 0, "", "", tiny.template)) == []
