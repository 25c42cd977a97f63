"""Adapters for servers: those of killed runs are removed, those of living ones never."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from aem_gym.agents.adapter_folder import Ownership, remove_abandoned
from tests.tiny import Tiny
from tests.training.runs import ROOT

_OWNER = """
import sys, time
from pathlib import Path
from aem_gym.agents.adapter_folder import Ownership
folder = Path(sys.argv[1])
mine = Ownership(folder, "aem-other")
for version in (1, 2):
    (folder / f"aem-other-v{version}").mkdir()
print("ready", flush=True)
time.sleep(600)
"""


def owner(folder: Path) -> subprocess.Popen[bytes]:
    """Another run, with two adapters in the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", _OWNER, str(folder)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline()
    return process


def test_adapters_of_a_killed_run_go_with_the_next_one(tmp_path: Path) -> None:
    mine = Ownership(tmp_path, "aem-mine")
    (tmp_path / "aem-mine-v1").mkdir()
    (tmp_path / "aem-else").mkdir()
    other = owner(tmp_path)
    assert remove_abandoned(tmp_path) == []
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()  # type: ignore[union-attr]
    gone = sorted(path.name for path in remove_abandoned(tmp_path))
    assert gone == ["aem-other-v1", "aem-other-v2"]
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == ["aem-else", "aem-mine-v1", "aem-mine.owner"]
    mine.release()
    assert not (tmp_path / "aem-mine.owner").exists()


def test_those_of_another_host_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = owner(tmp_path)
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()  # type: ignore[union-attr]
    with monkeypatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "another")
        assert remove_abandoned(tmp_path) == []
    (tmp_path / "aem-new.owner").touch()  # of one that has not written its host yet
    assert len(remove_abandoned(tmp_path)) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["aem-new.owner"]


def test_a_policy_removes_them_and_leaves_nothing_itself(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Versions beyond those in use go with each publication; no server is needed for that."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    left = tmp_path / "aem-gym-vllm-left"
    left.mkdir()
    other = owner(left)
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()  # type: ignore[union-attr]
    agent = tiny.agent(sampler="vllm", sampler_options={"python": sys.executable})
    assert list(left.iterdir()) == []
    (folder,) = (path for path in tmp_path.iterdir() if path != left)
    for _ in range(4):
        agent.policy.publish(agent.learner)
    versions = sorted(int(path.name.rpartition("-v")[2]) for path in folder.glob("*-v*"))
    assert len(versions) == 2 and versions[0] + 1 == versions[1]
    agent.policy.close()
    assert not folder.exists()
