"""Every part that joins from another package: by entry point, and as `module:attribute`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aem_gym

ROOT = Path(aem_gym.__file__).parents[1]
NAMES = {
    "sampler": "PlainPolicy",
    "estimator": "value_baseline",
    "modulator": "surest",
    "loss": "cispo",
    "response_format": "Arrow",
    "loggers": "CsvLogger",
}
ENTRY_POINTS = {
    "sampler": "plain",
    "estimator": "value_baseline",
    "modulator": "surest",
    "loss": "cispo",
    "response_format": "arrow",
    "loggers": "csv",
}
SMALL = {
    **{"steps": 2, "groups": 2, "group_size": 2, "max_rounds": 2, "max_turns": 3},
    **{"warmstart_episodes": 20, "warmstart_steps": 10, "max_new_tokens": 8},
    **{"eval_every": 2, "eval_episodes": 2, "threads": 1, "device": "cpu", "token_samples": "all"},
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example package, without a network."""
    folder, copy = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("own_parts")
    for path in (ROOT / "examples" / "own_parts").iterdir():
        if path.is_file():
            (copy / path.name).write_bytes(path.read_bytes())
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--target"]
    command = [sys.executable, "-m", "pip", "install", *options, str(folder), str(copy)]
    subprocess.run(command, check=True, timeout=120)
    return folder


def python(path: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter that finds the project and `path`, and nothing of this folder."""
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        env={**os.environ, "PYTHONPATH": f"{path}{os.pathsep}{ROOT}"},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.mark.parametrize("how", ["entry point", "module:attribute"])
def test_a_run_is_made_of_them(how: str, site: Path, tmp_path: Path) -> None:
    installed = how == "entry point"
    names = ENTRY_POINTS if installed else {k: f"own_parts:{v}" for k, v in NAMES.items()}
    path = site if installed else ROOT / "examples" / "own_parts"
    settings: dict[str, Any] = {**SMALL, **names, "out": "run"}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
    flags.append("--set=estimator_options.weight=0.5")
    flags.append("--set=modulator_options.part=0.25")
    done = python(path, "-m", "aem_gym", "train", *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["steps"] == 2
    run = tmp_path / "run"
    steps = [line.split(",") for line in (run / "success.csv").read_text().splitlines()]
    assert [step for step, _ in steps] == ["0", "1", "2", "2"]
    assert (run / "adapter" / "value_head.safetensors").is_file()
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    learned = [step for step in metrics if "loss" in step]
    assert all("surest_limit" in step and step["alpha_max"] == 2.0 for step in learned)
    episodes = [json.loads(line) for line in (run / "episodes.jsonl").read_text().splitlines()]
    turns = [turn for episode in episodes for turn in episode["turns"]]
    assert turns and all(len(turn["logprobs"]) == len(turn["response_ids"]) for turn in turns)
    valid = [turn for turn in turns if turn["format_valid"]]
    assert all(" -> " in turn["response"] for turn in valid)


def test_an_engine_joins(site: Path, tmp_path: Path) -> None:
    code = """
import json
from aem_gym.envs.swe.sandbox.engines import ENGINES, open_engine
named, direct = open_engine("counting"), open_engine("own_parts:CountingEngine")
print(json.dumps(["counting" in ENGINES.names(), named.name, direct.name, direct.isolates]))
"""
    done = python(site, "-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [True, "counting", "counting", False]
