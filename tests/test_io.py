"""Files are whole or absent, and a disk that refuses is explained."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.errors import OutputError
from aem_gym.io import (
    JsonLines,
    atomic_folder,
    atomic_write,
    claim_output,
    tidy_folder,
)

ROOT = Path(__file__).resolve().parents[2]


def names(folder: Path) -> list[str]:
    return sorted(item.name for item in folder.iterdir())


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", "old")
    atomic_write(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert names(tmp_path) == ["a"]


def test_a_full_disk_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("old")
    monkeypatch.setattr("aem_gym.io.token_hex", lambda size: "x")  # the name is known here
    (tmp_path / ".a.x.tmp").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="disk is full.*--resume"):
        atomic_write(tmp_path / "a", "new" * 10_000)
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


def test_a_file_where_a_folder_belongs_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(OutputError, match="not a folder.*--out"):
        atomic_write(tmp_path / "a" / "b", "x")
    with pytest.raises(OutputError, match="not a folder.*--out"):
        claim_output(tmp_path / "a", resume=False)
    with pytest.raises(OutputError, match="not a folder.*--out"):
        claim_output(tmp_path / "a" / "b", resume=False)


def test_a_folder_without_permission_is_explained(tmp_path: Path) -> None:
    """As another user where the tests run as root, whom no permission stops."""
    (tmp_path / "locked").mkdir(mode=0o555)
    code = (
        "import os, sys\n"
        "from aem_gym.errors import OutputError\n"
        "from aem_gym.io import claim_output\n"
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


def test_atomic_folder_appears_only_after_success(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "f"
    with atomic_folder(target) as folder:
        (folder / "x").write_text("1")
        assert not target.exists()
    assert (target / "x").read_text() == "1"
    with pytest.raises(ZeroDivisionError), atomic_folder(target) as folder:
        (folder / "x").write_text(str(1 / 0))
    assert (target / "x").read_text() == "1"
    with atomic_folder(target) as folder:
        (folder / "y").write_text("2")
    assert names(target) == ["y"] and names(target.parent) == ["f"]


@pytest.mark.parametrize("stood", ["target", "old", "both"])
def test_tidying_loses_no_whole_folder(tmp_path: Path, stood: str) -> None:
    target, old, part = tmp_path / "f", tmp_path / ".f.old", tmp_path / ".f.tmp"
    for folder in {"target": [target], "old": [old], "both": [target, old]}[stood]:
        folder.mkdir()
        (folder / "x").write_text(folder.name)
    part.mkdir()
    tidy_folder(target)
    assert names(tmp_path) == ["f"]
    assert (target / "x").read_text() == (".f.old" if stood == "old" else "f")


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
        "import sys, time; from aem_gym.io import claim_output;"
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


@given(st.lists(st.binary(max_size=20)), st.data())
def test_json_lines_are_cut_back_to_an_offset(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("lines") / "a.jsonl"
    keep = data.draw(st.integers(0, len(lines)))
    file, offsets = JsonLines(path), [0]
    for line in lines:
        file.write(line)
        offsets.append(file.sync())
    file.close()
    again = JsonLines(path, offsets[keep])
    for line in lines[keep:]:
        again.write(line)
    again.close()
    assert path.read_bytes() == b"".join(line + b"\n" for line in lines)


def test_json_lines_that_were_lost_are_noticed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n")
    with pytest.raises(OutputError, match="has 2 bytes.*10"):
        JsonLines(tmp_path / "a", 10)
    assert (tmp_path / "a").read_bytes() == b"1\n"


def test_json_lines_on_a_full_disk_are_explained() -> None:
    file = JsonLines.__new__(JsonLines)
    file.path = Path("/dev/full")
    file._stream = open("/dev/full", "ab")  # noqa: SIM115
    with pytest.raises(OutputError, match="disk is full"):
        file.write(b"x")
