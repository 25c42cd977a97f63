"""What a run writes down: figures, episodes, and what its loggers receive."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aem_gym.config import Config
from aem_gym.episodes import EPISODES
from aem_gym.errors import ConfigError
from aem_gym.protocols import Logger
from aem_gym.runs import EVALUATIONS, METRICS
from aem_gym.settings import settle
from aem_gym.training.credit import CreditRule, Rewards, make_batch
from aem_gym.training.records import (
    Recorder,
    episode_record,
    episode_records,
    open_loggers,
    step_metrics,
)
from aem_gym.types import Episode, Group, StopReason, Turn
from tests.training.runs import GUESS, lines, run

HERE = "tests.training.test_records"


def turn(**changes: Any) -> Turn:
    given = {"observation": "o", "response": "r", "thought": "", "action": "a", **changes}
    return Turn(**given)


def spoken(*logprobs: float, **changes: Any) -> Turn:
    ids = tuple(range(len(logprobs)))
    entropies = tuple(0.5 * i for i in range(len(logprobs)))
    return turn(
        prompt_ids=(7,), response_ids=ids, logprobs=logprobs, entropies=entropies, **changes
    )


def episode(*turns: Turn, **changes: Any) -> Episode:
    return Episode("t", "kind", "goal", 5, changes.pop("rollout", 0), turns, **changes)


GROUPS = (
    Group(5, (
        episode(spoken(-1.0, -2.0), spoken(-0.5, reward=1.0), won=True, terminated=True,
                stop_reason=StopReason.WON),
        episode(spoken(-0.1, -0.2, -0.3), terminated=True, stop_reason=StopReason.LOST, rollout=1),
    )),
    Group(6, (
        episode(turn(), error="EnvironmentFailure: x", stop_reason=StopReason.ENV_ERROR),
        episode(spoken(-3.0, format_valid=False), truncated=True, rollout=1),
    )),
)  # fmt: skip


def test_every_reason_is_counted() -> None:
    everything = [e for group in GROUPS for e in group.episodes]
    figures = step_metrics(everything, Rewards(), None, None, 0.1)
    stops = {name: value for name, value in figures.items() if name.startswith("stop/")}
    assert set(stops) == {f"stop/{reason.value}" for reason in StopReason}
    assert {name: value for name, value in stops.items() if value} == {
        "stop/won": 1.0,
        "stop/lost": 1.0,
        "stop/env_error": 1.0,
        "stop/turn_limit": 1.0,
    }
    assert sum(stops.values()) == figures["episodes"] == 4
    assert (figures["episode_errors"], figures["episodes_masked"]) == (1, 4)
    assert figures["success_rate_all"] == 1 / 3 and figures["penalised_rate"] == 1 / 4
    assert all(math.isfinite(value) for value in figures.values())


def test_a_step_without_episodes_has_figures_too() -> None:
    figures = step_metrics([], Rewards(), None, None, 0.1)
    assert figures["episodes"] == 0 and all(math.isfinite(value) for value in figures.values())


def test_credit_lands_on_the_turns_that_were_trained_on() -> None:
    step = make_batch(GROUPS, Rewards(scale=10.0))
    assert step is not None
    credit = CreditRule.of(settle().config).assign(step.batch, 0)
    dropped = [Group(9, (episode(spoken(-1.0)),))]
    records = list(episode_records(3, GROUPS, dropped, step, credit, 2))
    assert [(r["step"], r["group"], r["rollout"]) for r in records] == [
        (3, 0, 0), (3, 0, 1), (3, 1, 0), (3, 1, 1), (3, 2, 0),
    ]  # fmt: skip
    assert [r["dropped"] for r in records] == [False] * 4 + [True]
    assert [r["stop_reason"] for r in records[:3]] == ["won", "lost", "env_error"]
    seen = []
    for record in records:
        for row in record["turns"]:
            assert ("alpha" in row) == (row["tokens"] > 0 and not record["dropped"])
            if "alpha" in row:
                seen.append((row["alpha"], row["base_advantage"], row["advantage"]))
    alphas, bases = credit.modulated.alpha.tolist(), credit.base.tolist()
    assert [s[0] for s in seen] == pytest.approx(alphas)
    assert [s[1] for s in seen] == pytest.approx(bases)
    assert [s[2] for s in seen] == pytest.approx(
        [a * b for a, b in zip(alphas, bases, strict=True)]
    )
    with_tokens = ["logprobs" in record["turns"][0] for record in records]
    assert with_tokens == [True, True, False, False, False]
    every = list(episode_records(3, GROUPS, dropped, step, credit, "all"))
    assert all("logprobs" in record["turns"][0] for record in every)
    assert not any(
        "logprobs" in r["turns"][0] for r in episode_records(3, GROUPS, [], step, credit, 0)
    )


def test_any_text_can_be_written_down() -> None:
    odd = episode(turn(response="\x00\u202e\U0001f6aa", error="x"), error="failed")
    line = msgspec.json.encode(episode_record(1, 0, odd, {}, dropped=False, tokens=True))
    record = json.loads(line)
    assert record["turns"][0]["response"] == "\x00\u202e\U0001f6aa"
    assert record["turns"][0]["error"] == "x" and b"\n" not in line


# Loggers -----------------------------------------------------------------------------------------


class Notes:
    """An own logger, which keeps what it receives."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int, Any]] = []
        self.closed = 0

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        self.heard.append(("metrics", step, dict(values)))

    def evaluation(self, step: int, values: Mapping[str, Any]) -> None:
        self.heard.append(("evaluation", step, dict(values)))

    def episodes(self, step: int, records: Sequence[Mapping[str, Any]]) -> None:
        self.heard.append(("episodes", step, list(records)))

    def close(self) -> None:
        self.closed += 1


made: list[tuple[Path, Config, int, Notes]] = []


def notes(run: Path, config: Config, step: int) -> Notes:
    made.append((run, config, step, Notes()))
    return made[-1][-1]


def nothing(run: Path, config: Config, step: int) -> None:
    """A logger whose package is missing."""


def test_loggers_receive_what_is_written(tmp_path: Path) -> None:
    mine = Notes()
    assert isinstance(mine, Logger)
    with Recorder(tmp_path, {}, [mine]) as recorder:
        recorder.evaluation(0, {"success": 0.5})
        recorder.episodes(1, [{"step": 1}])
        recorder.metrics(1, {"loss": 2.0})
    assert mine.heard == [
        ("evaluation", 0, {"success": 0.5}),
        ("episodes", 1, [{"step": 1}]),
        ("metrics", 1, {"loss": 2.0}),
    ]
    assert mine.closed == 1
    assert lines(tmp_path / METRICS) == [{"step": 1, "loss": 2.0}]
    assert lines(tmp_path / EVALUATIONS) == [{"step": 0, "success": 0.5}]
    assert lines(tmp_path / EPISODES) == [{"step": 1}]


class Failing(Notes):
    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        raise ConnectionError("the service is away")


def unreachable(run: Path, config: Config, step: int) -> None:
    raise ConnectionError("no such host")


def test_a_logger_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failing, whole = Failing(), Notes()
    with Recorder(tmp_path, {}, [failing, whole]) as recorder:
        recorder.metrics(1, {"loss": 1.0})
        recorder.metrics(2, {"loss": 2.0})
    assert [step for _, step, _ in whole.heard] == [1, 2]
    assert caplog.text.count("logger Failing failed in metrics") == 1
    assert len(lines(tmp_path / METRICS)) == 2


def test_a_logger_that_cannot_be_opened_stops_the_run_early(tmp_path: Path) -> None:
    config = settle({"loggers": [f"{HERE}:unreachable"]}).config
    with pytest.raises(ConfigError, match="unreachable' cannot be opened: .*no such host"):
        open_loggers(config, tmp_path, 0)


def test_files_are_cut_back_to_a_checkpoint(tmp_path: Path) -> None:
    with Recorder(tmp_path, {}) as recorder:
        recorder.metrics(1, {"loss": 1.0})
        offsets = recorder.sync()
        recorder.metrics(2, {"loss": 2.0})
    with Recorder(tmp_path, offsets) as recorder:
        recorder.metrics(2, {"loss": 3.0})
    assert [m["loss"] for m in lines(tmp_path / METRICS)] == [1.0, 3.0]


def test_loggers_are_found_by_name(tmp_path: Path) -> None:
    made.clear()
    names = [f"{HERE}:notes", f"{HERE}:nothing"]
    config = settle({"loggers": names}).config
    (found,) = open_loggers(config, tmp_path, 4)
    assert made == [(tmp_path, config, 4, found)]
    with pytest.raises(ConfigError, match="unknown logger 'wandbb'"):
        open_loggers(settle({"loggers": ["wandbb"]}).config, tmp_path, 0)


def test_a_run_logs_to_objects_names_and_tensorboard(tmp_path: Path) -> None:
    """In the order of the run; task types and text samples are among it."""
    made.clear()
    mine = Notes()
    out = tmp_path / "run"
    run(out, GUESS, steps=2, eval_every=1, loggers=["tensorboard", f"{HERE}:notes"], objects=[mine])
    ((folder, config, step, named),) = made
    assert (folder, config.groups, step) == (out, GUESS["groups"], 0)
    assert named.heard == mine.heard
    assert named.closed == mine.closed == 1
    kinds = [(kind, step) for kind, step, _ in mine.heard]
    each = [("episodes", 1), ("metrics", 1), ("evaluation", 1)]
    assert kinds == [("evaluation", 0), *each, *((kind, 2) for kind, _ in each)]
    values = {(kind, step): value for kind, step, value in mine.heard}
    assert json.loads(msgspec.json.encode(values["episodes", 1])) == [
        e for e in lines(out / EPISODES) if e["step"] == 1
    ]
    assert {"step": 2, **values["metrics", 2]} == lines(out / METRICS)[-1]
    assert (
        sum(v for k, v in values["metrics", 1].items() if k.startswith("stop/"))
        == (values["metrics", 1]["episodes"])
    )
    assert all(e["stop_reason"] in set(StopReason) for e in values["episodes", 2])
    assert set(values["evaluation", 2]["by_type"]) <= {"same", "mixed"}
    files = list((out / "tensorboard").iterdir())
    assert files and all(file.stat().st_size for file in files)
    tags = read_tags(out / "tensorboard")
    assert {"train/loss", "stop/won", "eval/success", "seconds/step"} <= tags["scalars"]
    assert {"eval_by_type/same", "eval_by_type/mixed"} & tags["scalars"]
    assert {"episode/text_summary", "settings/text_summary"} <= tags["tensors"]


def read_tags(folder: Path) -> dict[str, set[str]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {kind: set(found) for kind, found in events.Tags().items() if isinstance(found, list)}


def test_loggers_of_train_are_objects_or_names(tmp_path: Path) -> None:
    """Objects come beside the settings' loggers; names and an empty list replace those."""
    from aem_gym.settings import load_config
    from aem_gym.training.loop import train

    short = {**GUESS, "steps": 0, "eval_every": 0, "loggers": [f"{HERE}:nothing"]}
    mine = Notes()
    for name, loggers, wanted in (
        ("none", None, [f"{HERE}:nothing"]),
        ("objects", [mine], [f"{HERE}:nothing"]),
        ("names", ["tensorboard", mine], ["tensorboard"]),
        ("empty", [], []),
    ):
        train(Config(**short, out=str(tmp_path / name)), loggers=loggers)  # type: ignore[arg-type]
        assert load_config(tmp_path / name).loggers == wanted
    assert mine.closed == 2
