"""A run's folder: claimed by one process, and checkpoints that survive disks and signals."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from aem_gym.errors import CheckpointError, OutputError
from aem_gym.runs import (
    CheckpointStore,
    claim_output,
    run_adapter,
    run_config,
    run_template,
)
from aem_gym.settings import CONFIG_NAME, settle, to_yaml
from aem_gym.types import PromptTemplate

ROOT = Path(__file__).resolve().parents[1]


def writer(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "adapter").mkdir()
        (folder / "adapter" / "weights.bin").write_bytes(text.encode() * 1000)
        (folder / "state.bin").write_bytes(text.encode())

    return write


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    store = CheckpointStore(tmp_path, keep=2)
    for step in (10, 20):
        store.save(step, writer(f"s{step}"), {"cursor": step * 16})
    return store


def test_what_is_saved_is_found(store: CheckpointStore) -> None:
    found = store.latest()
    assert found is not None and (found.step, found.meta) == (20, {"cursor": 320})
    assert (found.folder / "state.bin").read_text() == "s20"
    assert found.versions["python"].startswith("3.")
    assert found == store.load(20)


def test_nothing_saved_is_none(tmp_path: Path) -> None:
    assert CheckpointStore(tmp_path).latest() is None
    assert CheckpointStore(tmp_path).recover() is None


def test_only_the_newest_are_kept(store: CheckpointStore) -> None:
    store.save(30, writer("s30"))
    assert store.steps() == [20, 30]
    store.save(30, writer("again"))
    assert store.steps() == [20, 30]
    assert (store.path(30) / "state.bin").read_text() == "again"


def truncate(folder: Path) -> None:
    os.truncate(folder / "adapter" / "weights.bin", 100)


def flip(folder: Path) -> None:
    data = bytearray((folder / "state.bin").read_bytes())
    data[1] ^= 1
    (folder / "state.bin").write_bytes(bytes(data))


def remove(folder: Path) -> None:
    (folder / "state.bin").unlink()


def no_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("{")


def no_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def other_json(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1]")


def other_meta(folder: Path) -> None:
    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    document["content"]["meta"]["cursor"] += 1
    path.write_text(json.dumps(document))


FAULTS = [truncate, flip, remove, no_json, no_manifest, other_json, other_meta]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    store: CheckpointStore, fault: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    fault(store.path(20))
    found = store.recover()
    assert found is not None and found.step == 10
    assert str(store.path(20)) in caplog.text and "Using the checkpoint before" in caplog.text
    assert (store.folder / "step-000020.damaged").is_dir()
    store.save(15, writer("s15"))
    assert store.steps() == [10, 15]
    latest = store.latest()
    assert latest is not None and latest.step == 15


@pytest.mark.parametrize("fault", FAULTS)
def test_when_all_are_damaged_the_fix_is_named(
    store: CheckpointStore, fault: Callable[[Path], None]
) -> None:
    for step in (10, 20):
        fault(store.path(step))
    with pytest.raises(CheckpointError, match="all checkpoints.*10, 20.*--out"):
        store.recover()
    assert store.steps() == [10, 20]


def test_a_full_disk_keeps_the_earlier_ones(store: CheckpointStore) -> None:
    def fill(folder: Path) -> None:
        (folder / "state.bin").write_text("s30")
        with open("/dev/full", "wb") as full:  # a disk with no space left
            full.write(b"x" * 100_000)

    with pytest.raises(OutputError, match="disk is full"):
        store.save(30, fill)
    assert sorted(item.name for item in store.folder.iterdir()) == ["step-000010", "step-000020"]
    latest = store.latest()
    assert latest is not None and latest.step == 20


def test_looking_changes_nothing(store: CheckpointStore) -> None:
    (store.folder / ".step-000030.tmp").mkdir()
    flip(store.path(20))
    before = sorted(store.folder.rglob("*"))
    store.latest()
    assert sorted(store.folder.rglob("*")) == before
    store.recover()
    assert not list(store.folder.glob(".step*"))


SAVER = """
import sys
from aem_gym.runs import CheckpointStore

store = CheckpointStore(sys.argv[1], keep=2)
store.recover()
step = max(store.steps(), default=0)
def write(folder):
    for part in range(8):
        (folder / f"{part}.bin").write_bytes(str(step).encode() * 20_000)
        if part == 4:
            print(step, flush=True)
while True:
    step += 1
    store.save(step, write, {"step": step})
"""


def test_a_kill_in_the_middle_of_a_save_loses_no_whole_checkpoint(tmp_path: Path) -> None:
    rng = random.Random(0)
    for _ in range(6):
        with subprocess.Popen(
            [sys.executable, "-c", SAVER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            for _ in range(3):
                begun = int(child.stdout.readline())  # this save is half done now
            time.sleep(rng.random() * 0.01)
            child.send_signal(signal.SIGKILL)
            child.wait()
        found = CheckpointStore(tmp_path).recover()
        assert found is not None and found.step >= begun - 1
        assert found.meta == {"step": found.step}
        for part in range(8):
            content = (found.folder / f"{part}.bin").read_bytes()
            assert content == str(found.step).encode() * 20_000
        assert not list((tmp_path / "checkpoints").glob(".*"))


# The claim on the folder -------------------------------------------------------------------------


def test_a_used_folder_is_refused_without_resume(tmp_path: Path) -> None:
    run = tmp_path / "run"
    claim_output(run, resume=False).release()
    claim_output(run, resume=False).release()  # only claimed, never used
    (run / "config.yaml").write_text("")
    with pytest.raises(OutputError, match="--resume.*--out"):
        claim_output(run, resume=False)
    (run / "checkpoints" / "step-000001").mkdir(parents=True)
    claim = claim_output(run, resume=True)
    assert claim.resuming
    claim.release()


def test_resume_without_a_checkpoint_starts_anew_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    claim = claim_output(tmp_path / "missing", resume=True)
    assert not claim.resuming
    assert "starting from the beginning" in caplog.text
    claim.release()


def test_resume_refuses_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "letters.txt").write_text("dear")
    with pytest.raises(OutputError, match="not a run"):
        claim_output(tmp_path, resume=True)


def test_two_processes_cannot_share_a_folder(tmp_path: Path) -> None:
    code = (
        "import sys, time; from aem_gym.runs import claim_output;"
        "claim = claim_output(sys.argv[1], True); print('held', flush=True); time.sleep(60)"
    )
    run = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", code, str(run)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        try:
            with pytest.raises(OutputError, match="another process"):
                claim_output(run, resume=True)
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.wait()
    deadline = time.monotonic() + 10
    while True:  # the system lets go of the lock when the process is gone
        try:
            claim_output(run, resume=True).release()
            break
        except OutputError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_file_where_the_folder_belongs_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    for folder in (tmp_path / "a", str(tmp_path / "a"), tmp_path / "a" / "b"):
        with pytest.raises(OutputError, match="not a folder.*--out"):
            claim_output(folder, resume=False)


def test_a_folder_without_permission_is_explained(tmp_path: Path) -> None:
    """As another user where the tests run as root, whom no permission stops."""
    (tmp_path / "locked").mkdir(mode=0o555)
    code = (
        "import os, sys\n"
        "from aem_gym.errors import OutputError\n"
        "from aem_gym.runs import claim_output\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "try: claim_output('locked/run', False)\n"
        "except OutputError as error: print(error)\n"
    )
    for folder in (tmp_path, *tmp_path.parents[:2]):
        if os.access(folder, os.W_OK) and folder.owner() == Path(tmp_path).owner():
            folder.chmod(0o755)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "may not write there" in done.stdout and "--out" in done.stdout


def test_a_fresh_claim_can_be_withdrawn(tmp_path: Path) -> None:
    claim = claim_output(str(tmp_path / "run"), resume=False)
    (claim.folder / "model").mkdir()
    (claim.folder / "model" / "x").write_text("1")
    claim.withdraw()
    claim.release()
    assert not claim.folder.exists()
    claim.folder.mkdir()
    (claim.folder / "config.yaml").write_text("")
    used = claim_output(claim.folder, resume=True)
    used.withdraw()  # what others made stays
    used.release()
    assert (claim.folder / "config.yaml").exists()


# What a run is -----------------------------------------------------------------------------------


def test_a_run_is_read_back(tmp_path: Path) -> None:
    import msgspec

    config = settle({"steps": 3}).config
    (tmp_path / "config.yaml").write_text(to_yaml(config))
    assert run_config(tmp_path) == config
    template = PromptTemplate(name="mine", rewrite=(("a", "b"),), max_turns=4)
    (tmp_path / "prompt_template.json").write_bytes(msgspec.json.encode(template))
    assert run_template(tmp_path) == template
    CheckpointStore(str(tmp_path)).save(1, writer("s1"))
    newest = CheckpointStore(tmp_path).path(1) / "adapter"
    assert run_adapter(tmp_path) == newest
    (tmp_path / "adapter").mkdir()
    assert run_adapter(tmp_path) == tmp_path / "adapter"


def test_a_run_of_version_0_1_is_read_back(tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text('{"name": "mine", "max_turns": 4, "learn_from": "won"}')
    found = run_template(tmp_path)
    assert (found.name, found.max_turns, found.reward_source) == ("mine", 4, "won")


def test_what_a_folder_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a run: it has no config.yaml.*train.py"):
        run_config(tmp_path / "missing")
    with pytest.raises(CheckpointError, match="warm start.*--resume"):
        run_template(tmp_path)
    (tmp_path / "prompt_template.json").write_text("{")
    with pytest.raises(CheckpointError, match="warm start.*--resume"):
        run_template(tmp_path)
    with pytest.raises(CheckpointError, match="no adapter and no checkpoint yet.*--resume"):
        run_adapter(tmp_path)


def test_a_part_of_a_run_names_the_run(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "adapter").mkdir(parents=True)
    (run / CONFIG_NAME).write_text("env: aem_gym/ALFWorld-v0\n")
    with pytest.raises(CheckpointError, match=f"a part of the run {run}: give that"):
        run_config(run / "adapter")
