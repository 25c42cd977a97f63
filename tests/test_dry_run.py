"""`train --dry-run`: settings as YAML, memory and time as comments, the last line as JSON."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from aem_gym import cli
from aem_gym.commands.train import train
from aem_gym.errors import ConfigError
from aem_gym.settings import settle
from aem_gym.training.setup import check_run
from aem_gym.yaml_io import load_yaml

ROOT = Path(__file__).resolve().parents[1]
QWEN = "tests/data/model_configs/Qwen3-8B.json"


def dry(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    status = cli.run(train, ["--dry-run", *args], "train.py")
    out, err = capsys.readouterr()
    return status, out, err


def test_the_output_stays_yaml_and_ends_with_json(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = dry(capsys, "--seed", "3")
    assert status == 0, err
    assert settle(load_yaml(out, "stdout")).config == settle({"seed": 3}).config
    last = out.splitlines()[-1]
    figures = json.loads(last.removeprefix("# "))
    assert set(figures) == {"memory_gb", "device_gb", "step_seconds", "run_seconds", "disk_gb"}
    assert all(value > 0 for value in figures.values())
    for name in ("base weights", "key-value cache", "activations", "decode", "at most at once"):
        assert f"#   {name}" in out


def test_a_card_and_a_workload_are_taken(capsys: pytest.CaptureFixture[str]) -> None:
    preset = str(ROOT / "configs" / "alfworld_qwen2.5_7b.yaml")
    _, out, _ = dry(capsys, "--config", preset)
    assert "of 80 GB (a card of 80 GB)" in out and "arithmetic, not measured" in out
    assert "TOO LARGE" not in out
    _, small, _ = dry(capsys, "--config", preset, "--card", "24")
    assert "TOO LARGE: lower max_concurrent_episodes" in small
    _, none, _ = dry(capsys, "--config", preset, "--card", "8")
    assert "TOO LARGE: take a smaller model" in none and "4bit" in none
    status, _, err = dry(capsys, "--model-config", "nope.json")
    assert status == 2 and "nope.json" in err and "no such file" in err
    args = ("--workload", "turns=5", "--workload", "longest=900")
    _, less, _ = dry(capsys, "--config", preset, *args)
    assert "as given" in less and "x 5.0 turns" in less
    status, _, err = dry(capsys, "--workload", "tuns=5")
    assert status == 2 and "tuns" in err and "turns" in err


def test_what_happens_at_the_limit_of_the_context_is_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    preset = ["--config", str(ROOT / "configs" / "swe_qwen3_deepswe.yaml"), "--explain"]
    lines = [
        next(
            line for line in dry(capsys, *args)[1].splitlines() if line.startswith("context_limit")
        )
        for args in ((), preset, [*preset, "--context-limit", "compact"])
    ]
    assert lines[0] == "context_limit: stop"
    assert lines[1].startswith("context_limit: stop") and "deepswe.yaml" in lines[1]
    assert lines[2].startswith("context_limit: compact") and lines[2].endswith("# flag")
    status, _, err = dry(capsys, "--context-limit", "compact", "--context", "window")
    assert status == 2 and "--context transcript" in err


def test_a_model_that_is_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = dry(capsys, "--model", "nobody/nothing")
    assert status == 0 and "not estimated" in out and "--model-config FILE" in out
    status, out, _ = dry(capsys, "--model", "nobody/nothing", "--model-config", str(ROOT / QWEN))
    assert status == 0 and "8,190.7 M parameters" in out


def test_targets_are_layers_of_the_model(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = dry(capsys, "--lora-targets", "[q_proj, query]")
    assert status == 2 and out == "" and "query" in err and "q_proj" in err


def test_without_an_engine_the_settings_are_printed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    preset = str(ROOT / "configs" / "swe_qwen3_24gb.yaml")
    status, out, err = dry(capsys, "--config", preset)
    assert status == 2 and "SWE needs a sandbox engine" in err
    assert "model: Qwen/Qwen3-1.7B" in out and "of 24 GB" in out and "TOO LARGE" not in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sampler-url", "http://localhost:1"], "sampler_url.*--sampler vllm"),
        (["--max-staleness", "1"], "max_staleness 1.*--sampler vllm"),
        (["--sampler", "vllm", "--sampler-url", "http://10.0.0.1:1"], "sampler_options.adapters"),
        (["--sampler", "vllm", "--set", "sampler_options.pyhton=x"], "Did you mean 'python'"),
    ],
)
def test_a_sampler_is_checked_before_a_model_loads(
    capsys: pytest.CaptureFixture[str], flags: list[str], message: str
) -> None:
    status, _, err = dry(capsys, *flags)
    assert status == 2 and re.search(message, err), err


def test_what_this_machine_lacks_for_a_sampler(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """A dry run for another machine says so and goes on; a run that starts here does not."""
    given = {"sampler": "vllm", "sampler_options": {"python": "/nope"}}
    status, out, _ = dry(capsys, *(f"--set={k}={json.dumps(v)}" for k, v in given.items()))
    assert status == 0 and "sampler: vllm" in out and "no interpreter at /nope" in caplog.text
    with pytest.raises(ConfigError, match="no interpreter at /nope"):
        check_run(settle(given).config)
