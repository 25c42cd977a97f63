"""Runs that do not learn say so, apply nothing that is not finite, and end non-zero."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from aem_gym import cli
from aem_gym.credit import Modulated, ResponseBatch
from aem_gym.credit.losses import LossOutput, ppo_clip
from aem_gym.credit.modulators import identity
from aem_gym.errors import ConfigError, NotLearningError
from aem_gym.runs import CheckpointStore
from aem_gym.seeding import derive
from aem_gym.settings import settle
from aem_gym.training.breaker import SOURCES, Breaker, Rule, rules_of
from aem_gym.training.update import Updater
from tests.training.guess_env import Outage
from tests.training.runs import GUESS, lines, run

HERE = "tests.training.test_breaker"
SHORT: dict[str, Any] = {**GUESS, "eval_every": 0, "breaker_wait": 0.0}
ENDLESS = "tests.training.guess_env:guess-test/Endless-v0"


def config(**given: Any) -> Any:
    return settle({"estimator": "grpo", **given}).config


# The setting -------------------------------------------------------------------------------------


def test_each_source_has_a_reaction_that_can_be_changed() -> None:
    rules = {rule.name: rule for rule in rules_of(config(max_bad_steps=4))}
    assert (rules["nan"].action, rules["nan"].after, rules["nan"].every) == ("stop", 4, 1)
    assert (rules["infrastructure"].action, rules["infrastructure"].after) == ("wait", 5)
    assert rules["equal_rewards"].every == 5 and rules["equal_rewards"].sign == -1
    assert "turn_limit" not in rules and "kl" not in rules
    given = {"nan": "ignore", "kl": "stop@7:0.25", "turn_limit": "warn : 0.9", "alpha": "stop"}
    rules = {rule.name: rule for rule in rules_of(config(breaker=given, kl_coef=0.1))}
    assert "nan" not in rules
    assert (rules["kl"].action, rules["kl"].after, rules["kl"].bound) == ("stop", 7, 0.25)
    assert (rules["turn_limit"].action, rules["turn_limit"].bound) == ("warn", 0.9)
    assert (rules["alpha"].action, rules["alpha"].after) == ("stop", 3)


@pytest.mark.parametrize(
    ("breaker", "message"),
    [
        ({"nann": "stop"}, "source of breaker 'nann'.*Did you mean 'nan'"),
        ({"nan": "halt"}, "breaker.nan: expected ignore, warn, wait, stop.*'halt'"),
        ({"nan": "stop@0"}, "breaker.nan.*stop@0"),
        ({"nan": "stop@3:a"}, "breaker.nan"),
        ({"nan": "stop@3:1e"}, "number after the colon"),
        ({"nan": 3}, "breaker.nan.*got 3"),
        ({"context_full": "stop@1:5"}, "breaker.context_full: expected a share above 0.*:5"),
        ({"infrastructure": "wait:0"}, "share above 0, at most 1, got .wait:0"),
        ({"kl": "stop:0.1"}, "breaker.kl.*kl_coef above 0"),
    ],
)
def test_a_wrong_setting_is_named(breaker: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rules_of(config(breaker=breaker))


def test_what_cannot_be_wrong_is_not_watched() -> None:
    assert "alpha" not in {rule.name for rule in rules_of(config(modulator="none"))}
    compares = rules_of(config(estimator="reinforce_pp"))
    assert "equal_rewards" not in {rule.name for rule in compares}


def figures_of(**changes: float) -> dict[str, float]:
    """The figures of a step in order, with changes."""
    figures = {
        "learned": 1.0,
        "episodes": 8.0,
        "episodes_masked": 0.0,
        "groups_with_spread": 2.0,
        "alpha_spread": 0.3,
        "response_entropy_mean": 0.5,
        "old_kl": 0.01,
    }
    return figures | {name.replace("__", "/"): value for name, value in changes.items()}


def judged(breaker: Breaker, figures: Mapping[str, float], step: int = 1) -> list[Rule]:
    """What the loop does after each step, without waiting."""
    found = []
    for rule in breaker.rules:
        value = figures.get(rule.source.figure)
        share = figures.get(rule.source.share_of, 1.0)
        if value is not None and rule.sign * value >= rule.bound * share:
            found.append(rule)
    breaker.streaks = {r.name: breaker.streaks.get(r.name, 0) + 1 for r in found}
    due = [r for r in found if breaker.streaks[r.name] % r.every == 0]
    if due:
        breaker.react(due, figures, step, "estimator 'x'")
    return due


TROUBLE: dict[str, dict[str, float]] = {
    "nan": {"bad": 1.0},
    "skipped": {"updates_skipped": 2.0},
    "nothing": {"episodes_masked": 8.0},
    "invalid": {"invalid_format_rate": 0.995, "cut_rate": 0.5},
    "infrastructure": {"stop__infrastructure": 4.0},
    "env_error": {"stop__env_error": 8.0},
    "agent_error": {"stop__agent_error": 8.0},
    "context_full": {"stop__context_full": 5.0},
    "turn_limit": {"stop__turn_limit": 8.0},
    "equal_rewards": {"groups_with_spread": 0.0},
    "alpha": {"alpha_spread": 0.0},
    "entropy": {"response_entropy_mean": 1e-4},
    "old_kl": {"old_kl": 1.5},
    "kl": {"kl_reference": 1.5},
}


def test_each_source_is_tried_below() -> None:
    assert set(TROUBLE) == set(SOURCES)


@pytest.mark.parametrize("name", TROUBLE)
def test_each_source_stops_where_it_is_asked_to(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    """After N steps in a row, not before, and not if one between is in order."""
    changes = TROUBLE[name]
    breaker = Breaker(config(breaker={name: "stop@2"}, kl_coef=0.1))
    assert not judged(breaker, figures_of())
    for step in (1, 3):
        judged(breaker, figures_of(**changes), step)
        judged(breaker, figures_of(), step + 1)
    assert not breaker.stop
    judged(breaker, figures_of(**changes), 5)
    assert f"step 5: {name}: " in caplog.text and "(1 of 2 steps in a row)" in caplog.text
    judged(breaker, figures_of(**changes), 6)
    assert breaker.stop.startswith("step 6: ") and "(2 steps in a row)" in breaker.stop


def test_a_step_lost_to_infrastructure_is_taken_again_with_longer_waits() -> None:
    breaker = Breaker(config(breaker={"infrastructure": "wait@3"}, breaker_wait=200.0))
    away = figures_of(stop__infrastructure=8.0, episodes_masked=8.0, learned=0.0)
    waits = []
    for _ in range(3):
        judged(breaker, away)
        waits.append(breaker.wait)
        assert set(breaker.streaks) == {"infrastructure"}, "the others follow from it"
    assert waits == [200.0, 400.0, 600.0] and not breaker.stop
    judged(breaker, away)
    assert breaker.wait is None and "8 of 8 episodes" in breaker.stop
    other = Breaker(config())
    judged(other, figures_of(stop__infrastructure=5.0))  # the rest was learned from
    assert other.wait is None and not other.stop


# Runs with faults --------------------------------------------------------------------------------


def at_steps(
    batch: ResponseBatch,
    advantages: torch.Tensor,
    *,
    steps: Sequence[int],
    value: str = "nan",
    generator: int = 0,
) -> Modulated:
    """No modulation, but broken in some steps (from 1)."""
    broken = generator in {derive(0, "shuffle", step - 1) for step in steps}
    found = identity(batch, advantages)
    advantages = torch.full_like(found.advantages, float(value)) if broken else found.advantages
    return Modulated(advantages, found.alpha)


def nan_loss(
    logprobs: torch.Tensor, old: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor
) -> LossOutput:
    """Right on the made-up responses that components are tried on, not in a run."""
    output = ppo_clip(logprobs, old, advantages, mask)
    return output if mask.shape == (2, 2) else LossOutput(output.per_token * float("nan"))


def faulty(steps: Sequence[int], **options: Any) -> dict[str, Any]:
    return {
        "modulator": f"{HERE}:at_steps",
        "modulator_options": {"steps": list(steps), **options},
    }


def adapters(folder: Path) -> dict[int, dict[str, torch.Tensor]]:
    """Step -> weights, of the checkpoints of a run."""
    store = CheckpointStore(folder)
    files = {
        s: store.load(s).folder / "adapter" / "adapter_model.safetensors" for s in store.steps()
    }
    return {step: load_file(file) for step, file in files.items()}


@pytest.mark.parametrize("kind", ["nan", "inf"])
def test_a_bad_step_is_left_out_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    changes = faulty([2, 3, 5], value=kind) | {"keep_checkpoints": 9}
    run(tmp_path / "run", SHORT, steps=5, groups=6, **changes)
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [m.get(f"bad/credit_{kind}", 0) for m in metrics] == [0, 1, 1, 0, 1]
    assert [m["learned"] for m in metrics] == [1, 0, 0, 1, 0]
    assert all(math.isfinite(value) for m in metrics for value in m.values())
    assert "updates" not in metrics[1]
    assert f"step 2: no update: modulator '{HERE}:at_steps'" in caplog.text
    assert f"(bad_credit:{kind})" in caplog.text
    saved = adapters(tmp_path / "run")
    assert sorted(saved) == [1, 4, 5]  # at the end also what was left of a bad step
    assert all(bool(torch.isfinite(w).all()) for state in saved.values() for w in state.values())
    assert all(torch.equal(w, saved[5][name]) for name, w in saved[4].items())
    episodes = lines(tmp_path / "run" / "episodes.jsonl")
    assert all(("alpha" in e["turns"][0]) == (e["step"] in (1, 4)) for e in episodes)


def test_bad_steps_in_a_row_end_the_run(tmp_path: Path) -> None:
    """The checkpoint of the last good step is the newest, and the run can go on from it."""
    out = tmp_path / "run"
    changes = faulty([3, 4, 5, 6]) | {"steps": 8, "groups": 6}
    for given in ({}, {"resume": True}):
        with pytest.raises(NotLearningError) as told:
            run(out, SHORT, **changes, **given)
        for words in ("step 5", f"modulator '{HERE}:at_steps'", "bad_credit:nan", "3 steps in a"):
            assert words in str(told.value)
        assert f"Step 2 is saved. Continue with: python train.py --resume --out {out}" in str(
            told.value
        )
        assert [m["step"] for m in lines(out / "metrics.jsonl")] == [1, 2, 3, 4, 5]
        assert CheckpointStore(out).steps() == [1, 2]
        assert not (out / "summary.json").exists() and not (out / "adapter").exists()
    with pytest.raises(NotLearningError, match="step 3"):
        run(out, SHORT, **changes, resume=True, max_bad_steps=1)


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(NotLearningError, match="step 2.*bad/loss_nan.*nan_loss"):
        run(tmp_path / "run", SHORT, loss=f"{HERE}:nan_loss", max_bad_steps=2)
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [(m["updates"], m["updates_skipped"], m["bad/loss_nan"]) for m in metrics] == [
        (0, 2, 2)
    ] * 2
    assert not any(value is None for m in metrics for value in m.values())
    assert not (tmp_path / "run" / "checkpoints").exists()


UNPARSED: dict[str, Any] = {**SHORT, "max_new_tokens": 2, "groups": 3}


def test_a_run_whose_responses_cannot_be_parsed_is_ended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The penalty alone has a gradient; it teaches no task. So few steps may be unlucky."""
    wanted = r"100% of the responses could not be parsed.*\d+% were cut off.*\(2\): raise"
    with pytest.raises(NotLearningError, match=wanted):
        run(tmp_path / "run", UNPARSED, steps=4)
    assert not (tmp_path / "run" / "summary.json").exists()
    run(tmp_path / "few", UNPARSED, steps=2)
    assert "nothing was learned in 2 steps: in the last one no response could be" in caplog.text


def test_what_was_learned_before_a_stop_is_saved(tmp_path: Path) -> None:
    """And the message says how other settings can go on with it."""
    given = {"steps": 9, "save_every": 99, "breaker": {"turn_limit": "stop@2:0.01"}, "groups": 6}
    with pytest.raises(NotLearningError, match=r"Step 2 is saved.*new run.*--adapter .*run"):
        run(tmp_path / "run", SHORT, env=ENDLESS, warmstart_keep="all", **given)
    assert CheckpointStore(tmp_path / "run").steps() == [2]


def test_groups_that_were_dropped_are_named(caplog: pytest.LogCaptureFixture) -> None:
    judged(Breaker(config()), figures_of(episodes_masked=8.0, groups_dropped=2.0))
    assert "could be used" in caplog.text and "; 2 groups had equal returns" in caplog.text


def test_nan_in_every_one_of_a_few_steps_ends_the_run_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(NotLearningError, match="nothing was learned in 2 steps.*bad/loss_nan"):
        run(tmp_path / "run", SHORT, loss=f"{HERE}:nan_loss", steps=2)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_weights_that_are_damaged_are_never_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update, done = Updater.update, []

    def damaging(self: Updater, *args: Any) -> dict[str, float]:
        figures = update(self, *args)
        done.append(1)
        if len(done) == 2:
            with torch.no_grad():
                self.parameters[0][0, 0] = float("nan")
        return figures

    monkeypatch.setattr(Updater, "update", damaging)
    out = tmp_path / "run"
    with pytest.raises(NotLearningError, match="after step 2 .*not saved.*Step 1 is saved"):
        run(out, SHORT, steps=4, groups=6)
    assert list(adapters(out)) == [1] and not (out / "adapter").exists()


class Arms:
    """A logger that takes down the environments' server after the first evaluation."""

    def __init__(self, down: int) -> None:
        self.down = down

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        Outage.down = self.down

    def metrics(self, step: int, values: Mapping[str, float]) -> None: ...

    def episodes(self, step: int, records: Sequence[Mapping[str, Any]]) -> None: ...

    def close(self) -> None:
        Outage.down = 0


BRIEF: dict[str, Any] = {"warmstart_steps": 5, "warmstart_episodes": 8}
"""Where it does not matter how well the policy plays."""
OUTAGE = {"env": "tests.training.guess_env:guess-test/Outage-v0", "eval_every": 9, **BRIEF}


def test_steps_lost_to_infrastructure_do_not_count(tmp_path: Path) -> None:
    """Two attempts fail; the tasks are drawn on, and nothing is numbered twice."""
    run(tmp_path / "run", SHORT, objects=[Arms(2 * 12)], **OUTAGE, steps=2)
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2]
    assert [m["stop/infrastructure"] for m in metrics] == [0, 0]
    episodes = lines(tmp_path / "run" / "episodes.jsonl")
    of_first = [e for e in episodes if e["step"] == 1]
    assert len(of_first) == 3 * 12
    assert [e["stop_reason"] == "infrastructure" for e in of_first] == [True] * 24 + [False] * 12
    assert len({e["seed"] for e in episodes}) == 4 * 3
    assert sorted({e["group"] for e in of_first}) == list(range(9))


def test_an_outage_without_end_ends_the_run(tmp_path: Path) -> None:
    given = {"breaker": {"infrastructure": "wait@2"}, **OUTAGE}
    with pytest.raises(NotLearningError, match="12 of 12 episodes.*what the environment runs on"):
        run(tmp_path / "run", SHORT, objects=[Arms(10**9)], steps=2, **given)
    (figures,) = lines(tmp_path / "run" / "metrics.jsonl")
    assert figures["stop/infrastructure"] == 12
    assert len(lines(tmp_path / "run" / "episodes.jsonl")) == 3 * 12


def test_a_full_context_is_said_with_the_remedy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the console, too, whose status is not 0."""
    given = {**SHORT, "env_args": {"padding": 3000}, "warmstart_env_args": {"padding": 0}}
    given |= BRIEF
    flags = [f"--set={key}={value!r}" for key, value in given.items() if key != "env"]
    out = tmp_path / "run"
    status = cli.run(cli.train, [*flags, "--env", GUESS["env"], "--out", str(out)], "train.py")
    assert status == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "nothing to learn from: none of 12 episodes could be used (12 context_full)" in shown.err
    wanted = "12 of 12 episodes ended because the context was full (max_length 2048): raise "
    assert wanted + "--max-length" in caplog.text + shown.err
    assert len(lines(out / "metrics.jsonl")) == 3
    assert not (out / "summary.json").exists()


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_in_which_nothing_was_learned_says_so(
    tmp_path: Path, steps: int, caplog: pytest.LogCaptureFixture
) -> None:
    """All returns are equal. One step may be unlucky, several are not."""
    given = {"env": "tests.training.guess_env:guess-test/Endless-v0", "warmstart_keep": "all"}
    given |= {**BRIEF, "invalid_penalty": 0.0, "steps": steps, "breaker": {"invalid": "ignore"}}
    if steps == 1:
        run(tmp_path / "run", SHORT, **given)
        assert "nothing was learned in 1 steps" in caplog.text
    else:
        with pytest.raises(NotLearningError, match="nothing was learned in 4 steps.*parsed"):
            run(tmp_path / "run", SHORT, **given)
    for figures in lines(tmp_path / "run" / "metrics.jsonl"):
        assert figures["learned"] == figures["groups_with_spread"] == figures["grad_norm"] == 0
