"""The size of a run: compressed and pruned episodes in whole runs, and the estimate of the disk."""

from __future__ import annotations

import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aem_gym.commands.replay import lines as shown
from aem_gym.commands.replay import read_step
from aem_gym.episodes import EPISODES, FOLDER, read_episodes, step_files
from aem_gym.settings import load_config, settle
from aem_gym.training.disk import compresses, episode_bytes, estimate_disk, free_bytes
from aem_gym.training.records import open_recorder
from aem_gym.training.workload import workload_of_run
from tests.training.runs import ROOT, flags, run, train_process

LEAN: dict[str, Any] = {"compress_episodes": "on", "keep_episodes": 2, "token_samples": "all"}


def result(out: Path) -> dict[str, bytes]:
    files = [*(file.path for file in step_files(out)), *sorted((out / "adapter").iterdir())]
    return {file.name: file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run as it always was, with all tokens."""
    out = tmp_path_factory.mktemp("size") / "plain"
    run(out, token_samples="all")
    return out


@pytest.fixture(scope="module")
def lean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, compressed and pruned."""
    out = tmp_path_factory.mktemp("size") / "lean"
    run(out, **LEAN)
    return out


def test_a_small_run_is_one_plain_file(plain: Path) -> None:
    assert (plain / EPISODES).exists() and not (plain / FOLDER).exists()


def test_a_lean_run_holds_the_same_episodes(plain: Path, lean: Path) -> None:
    """Those of the last steps whole, of the others the figures; and it trained the same weights."""
    assert not (lean / EPISODES).exists()
    names = [file.path.name for file in step_files(lean)]
    assert names == [f"step-{step:06d}.jsonl.gz" for step in (1, 2, 3, 4)]
    for before, after in zip(read_episodes(plain), read_episodes(lean), strict=True):
        assert after == before or (after["step"] <= 2 and after["pruned"])
    weights = "adapter_model.safetensors"
    assert (plain / "adapter" / weights).read_bytes() == (lean / "adapter" / weights).read_bytes()
    sizes = [file.path.stat().st_size for file in step_files(lean)]
    assert max(sizes[:2]) < min(sizes[2:]) / 4


@pytest.mark.parametrize("wait_for", ["step-000001", "step-000003"])
def test_killed_and_resumed_it_gives_the_same_bytes(
    lean: Path, tmp_path: Path, wait_for: str
) -> None:
    out = tmp_path / "killed"
    process = train_process(flags(out, **LEAN), cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not (out / "checkpoints" / wait_for).exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    run(out, **LEAN, resume=True)
    assert result(out) == result(lean)


def test_an_older_checkpoint_cuts_the_folder_back(lean: Path, tmp_path: Path) -> None:
    """Where the newest is damaged: files of later steps go, and come again as they were."""
    out = tmp_path / "run"
    shutil.copytree(lean, out)
    newest = max((out / "checkpoints").glob("step-*"))
    (newest / "optimizer.pt").write_bytes(b"")
    (out / "summary.json").unlink()
    run(out, **LEAN, resume=True)
    assert result(out) == result(lean)


def test_a_run_may_change_its_form_when_it_goes_on(plain: Path, tmp_path: Path) -> None:
    """A plain run that runs out of space goes on compressed; nothing is lost, order is kept."""
    out = tmp_path / "run"
    run(out, token_samples="all", steps=2)
    run(out, token_samples="all", resume=True, compress_episodes="on")
    assert (out / EPISODES).exists() and len(step_files(out)) == 2
    assert list(read_episodes(out)) == list(read_episodes(plain))
    run(out, token_samples="all", resume=True, compress_episodes="off", steps=5)
    assert [file.path.suffix for file in step_files(out)] == [".gz", ".gz", ".jsonl"]
    assert {record["step"] for record in read_episodes(out)} == {1, 2, 3, 4, 5}


def test_replay_reads_both_forms_and_says_what_is_gone(plain: Path, lean: Path) -> None:
    for step in (None, 4, 3):
        assert read_step(lean, step) == read_step(plain, step)
    text = "\n".join(shown(0, read_step(lean, 1)[0]))
    assert "keep_episodes" in text and "alpha" in text and "goal" not in text[:20]
    with pytest.raises(Exception, match="has steps 1 to 4"):
        read_step(lean, 9)


def test_lengths_are_read_from_both_forms(plain: Path, lean: Path) -> None:
    config = load_config(plain)
    last = [record for record in read_episodes(plain) if record["step"] > 2]
    turns = sum(len(record["turns"]) for record in last) / len(last)
    assert workload_of_run(lean, config).turns == pytest.approx(turns)


# The estimate ------------------------------------------------------------------------------------


def test_the_estimated_size_is_near_the_measured_one(plain: Path, tmp_path: Path) -> None:
    """Constants are of large models' tokens; the tiny model's hold more text each."""
    work = workload_of_run(plain, load_config(plain))
    run(tmp_path / "gz", token_samples="all", compress_episodes="on")
    found = sum(file.path.stat().st_size for file in step_files(tmp_path / "gz"))
    for out, compress, size in (
        (plain, False, (plain / EPISODES).stat().st_size),
        (tmp_path / "gz", True, found),
    ):
        ratio = episode_bytes(load_config(out), work, compress=compress) / size
        assert 0.5 < ratio < 2, (compress, ratio)


def test_auto_compresses_large_runs_alone() -> None:
    assert not compresses(settle({}).config)
    assert compresses(load_config(ROOT / "configs" / "swe_qwen3_deepswe.yaml"))
    assert compresses(settle({"compress_episodes": "on"}).config)
    assert not compresses(settle({"steps": 10**6, "compress_episodes": "off"}).config)


def test_each_setting_makes_the_run_smaller() -> None:
    from aem_gym.agents.shapes import model_shape
    from aem_gym.training.workload import Workload

    config = settle(load_config(ROOT / "configs" / "swe_qwen3_deepswe.yaml").given()).config
    shape, work = model_shape(config), Workload.at_limits(config)

    def size(**changes: Any) -> float:
        return sum(p.bytes for p in estimate_disk(replace(config, **changes), shape, work))

    assert size() < size(compress_episodes="off") < size(compress_episodes="off", steps=300)
    assert size(keep_episodes=5) < size(keep_episodes=50) < size()
    assert size() < size(token_samples="all") and size() < size(keep_checkpoints=5)


def test_too_small_a_disk_is_said_before_the_first_step(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = settle({"steps": 10**9}).config
    open_recorder(config, tmp_path, {}, []).close()
    assert "may take" in caplog.text and "--keep-episodes" in caplog.text
    assert free_bytes(tmp_path / "not" / "there") > 0
