"""Checkpoints survive what disks and signals do to them."""

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
from aem_gym.training.checkpoint import CheckpointStore

ROOT = Path(__file__).resolve().parents[2]


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
def test_when_all_are_damaged_the_mend_is_named(
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
from aem_gym.training.checkpoint import CheckpointStore

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
