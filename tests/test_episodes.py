"""Episodes on disk: both forms read alike, cut back exactly, whole at every moment, pruned."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.episodes import BULKY, EPISODES, FOLDER, EpisodeFolder, read_episodes, step_files
from aem_gym.errors import ConfigError, OutputError
from aem_gym.io import JsonLines

ROOT = Path(__file__).resolve().parents[1]
Records = list[dict[str, Any]]


def episodes(step: int, count: int = 3, turns: int = 2) -> Records:
    """Records as a run writes them, of texts and numbers that do not repeat."""
    draw = random.Random(step)

    def turn() -> dict[str, Any]:
        texts = {name: f"{name} é {draw.random()}\n" for name in BULKY[:4]}
        arrays = {name: [draw.random() for _ in range(5)] for name in BULKY[4:]}
        return {**texts, "alpha": draw.random(), "reward": 0.0, "tokens": 5, **arrays}

    return [
        {"step": step, "rollout": i, "goal": f"goal {i}", "turns": [turn() for _ in range(turns)]}
        for i in range(count)
    ]


def encoded(records: Sequence[Mapping[str, Any]]) -> list[bytes]:
    return [msgspec.json.encode(record) for record in records]


def written(run: Path, steps: Sequence[int], *, compress: bool, keep: int = 0) -> EpisodeFolder:
    folder = EpisodeFolder(run, compress=compress, keep=keep)
    for step in steps:
        folder.write(*encoded(episodes(step)))
    return folder


def contents(run: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((run / FOLDER).iterdir())}


@pytest.mark.parametrize("compress", [True, False])
def test_both_forms_are_read_alike(tmp_path: Path, compress: bool) -> None:
    (tmp_path / "plain").mkdir()
    plain = JsonLines(tmp_path / "plain" / EPISODES)
    for step in (1, 2, 3):
        plain.write(*encoded(episodes(step)))
    plain.close()
    written(tmp_path / "apart", (1, 2, 3), compress=compress)
    for step in (None, 2):
        found = list(read_episodes(tmp_path / "apart", step))
        assert found == list(read_episodes(tmp_path / "plain", step))
        assert {record["step"] for record in found} == ({1, 2, 3} if step is None else {2})


def test_a_step_taken_again_comes_after_its_first_attempt(tmp_path: Path) -> None:
    written(tmp_path, (1, 2, 2, 3), compress=True)
    names = [file.path.name for file in step_files(tmp_path)]
    assert names[1:3] == ["step-000002.jsonl.gz", "step-000002-2.jsonl.gz"]
    assert [r["step"] for r in read_episodes(tmp_path)] == [s for s in (1, 2, 2, 3) for _ in "abc"]


@given(
    steps=st.integers(1, 5),
    kept=st.integers(0, 5),
    lost=st.floats(0, 1),
    compress=st.booleans(),
    keep=st.integers(0, 3),
)
def test_killed_at_any_byte_and_resumed_it_holds_the_same_bytes(
    tmp_path_factory: pytest.TempPathFactory,
    steps: int,
    kept: int,
    lost: float,
    compress: bool,
    keep: int,
) -> None:
    """The checkpoint is of `kept` steps; the write after the last one got `lost` of its bytes."""
    kept, root = min(kept, steps), tmp_path_factory.mktemp("runs")
    numbers = list(range(1, steps + 2))
    written(root / "once", numbers, compress=compress, keep=keep)
    written(root / "killed", numbers[:-1], compress=compress, keep=keep)
    file = step_files(root / "once")[-1].path
    data = file.read_bytes()
    part = root / "killed" / FOLDER / f".{file.name}.0123456789abcdef.tmp"
    part.write_bytes(data[: int(lost * len(data))])
    assert [r["step"] for r in read_episodes(root / "killed")] == [
        step for step in numbers[:-1] for _ in range(3)
    ]
    resumed = EpisodeFolder(root / "killed", kept, compress=compress, keep=keep)
    assert resumed.sync() == kept
    assert {r["step"] for r in (read_episodes(root / "killed") if kept else ())} == set(
        numbers[:kept]
    )
    for step in numbers[kept:]:
        resumed.write(*encoded(episodes(step)))
    assert contents(root / "killed") == contents(root / "once")


@given(cut=st.floats(0, 1), step=st.integers(1, 3), compress=st.booleans())
def test_a_file_cut_at_any_byte_never_gives_wrong_episodes(
    tmp_path_factory: pytest.TempPathFactory, cut: float, step: int, compress: bool
) -> None:
    """A disk that lost bytes is noticed: never a record that is not one, never in silence.

    Only of a plain file that was cut between two lines nothing can tell.
    """
    run = tmp_path_factory.mktemp("run")
    written(run, (1, 2, 3), compress=compress)
    file = step_files(run)[step - 1].path
    data, found, whole = file.read_bytes(), [], list(read_episodes(run))
    left = data[: min(int(cut * len(data)), len(data) - 1)]
    file.write_bytes(left)
    if not compress and left.endswith((b"\n", b"}")):
        return
    with pytest.raises(ConfigError, match=file.name):
        for record in read_episodes(run):
            found.append(record)
    assert found == whole[: len(found)]


@given(cut=st.integers(0, 2000))
def test_the_plain_file_cut_at_any_byte_gives_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    """It may be being written just now; a resumed run cuts it back to the checkpoint."""
    run = tmp_path_factory.mktemp("run")
    file = JsonLines(run / EPISODES)
    file.write(*encoded(episodes(1)))
    offset = file.sync()
    file.write(*encoded(episodes(2)))
    file.close()
    data = (run / EPISODES).read_bytes()
    (run / EPISODES).write_bytes(data[: offset + cut])
    found, whole = list(read_episodes(run)), [*episodes(1), *episodes(2)]
    assert found == whole[: len(found)] and len(found) >= 3
    resumed = JsonLines(run / EPISODES, offset)
    resumed.write(*encoded(episodes(2)))
    resumed.close()
    assert (run / EPISODES).read_bytes() == data


def test_missing_files_of_steps_are_noticed(tmp_path: Path) -> None:
    written(tmp_path, (1, 2, 3), compress=True)
    step_files(tmp_path)[1].path.unlink()
    with pytest.raises(OutputError, match="has 2 files of steps, but .* had 3"):
        EpisodeFolder(tmp_path, 3, compress=True)
    assert len(step_files(tmp_path)) == 2


def test_a_run_begun_in_one_file_goes_on_in_the_folder(tmp_path: Path) -> None:
    plain = JsonLines(tmp_path / EPISODES)
    plain.write(*encoded(episodes(1)))
    plain.close()
    written(tmp_path, (2, 3), compress=True)
    assert list(read_episodes(tmp_path)) == [*episodes(1), *episodes(2), *episodes(3)]
    assert list(read_episodes(tmp_path, 1)) == episodes(1)


# Pruning -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [True, False])
def test_old_steps_keep_their_figures_alone(tmp_path: Path, compress: bool) -> None:
    written(tmp_path / "all", range(1, 6), compress=compress)
    written(tmp_path / "few", range(1, 6), compress=compress, keep=2)
    for before, after in zip(
        read_episodes(tmp_path / "all"), read_episodes(tmp_path / "few"), strict=True
    ):
        if before["step"] >= 4:
            assert after == before
            continue
        assert after.pop("pruned") is True
        turns = [
            {name: value for name, value in turn.items() if name not in BULKY}
            for turn in before["turns"]
        ]
        assert after == {**before, "turns": turns}
        assert list(turns[0]) == ["alpha", "reward", "tokens"]


def test_a_later_process_prunes_what_an_earlier_one_left_whole(tmp_path: Path) -> None:
    """Pruned files are not read and written again; whole ones are found."""
    folder = written(tmp_path, range(1, 5), compress=True)
    resumed = EpisodeFolder(tmp_path, folder.sync(), compress=True, keep=1)
    resumed.write(*encoded(episodes(5)))
    assert [bool(r.get("pruned")) for r in read_episodes(tmp_path)] == [True] * 12 + [False] * 3
    times = {file.path: file.path.stat().st_mtime_ns for file in step_files(tmp_path)[:4]}
    again = EpisodeFolder(tmp_path, resumed.sync(), compress=True, keep=1)
    again.write(*encoded(episodes(6)))
    assert {path: path.stat().st_mtime_ns for path in times} == times


def test_a_damaged_old_step_does_not_end_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = written(tmp_path, (1,), compress=True, keep=1)
    path = step_files(tmp_path)[0].path
    path.write_bytes(path.read_bytes()[:-20])
    folder.write(*encoded(episodes(2)))
    assert "step-000001.jsonl.gz was not pruned" in caplog.text
    assert list(read_episodes(tmp_path, 2)) == episodes(2)


# Faults ------------------------------------------------------------------------------------------

_WRITER = """
import sys
from pathlib import Path
from aem_gym.episodes import EpisodeFolder
from tests.test_episodes import encoded, episodes
run, keep = Path(sys.argv[1]), int(sys.argv[2])
folder = EpisodeFolder(run, compress=True, keep=keep)
print("ready", flush=True)
for step in range(1, 10_000):
    folder.write(*encoded(episodes(step, count=20, turns=10)))
"""


def test_killed_in_the_middle_of_a_write_every_file_is_whole(tmp_path: Path) -> None:
    """With pruning under way: each step is whole or pruned, none is missing, and it goes on."""
    draw = random.Random(0)
    for number in range(6):
        run = tmp_path / str(number)
        with subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(run), "2"], cwd=ROOT, stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None and process.stdout.readline()
            while not list(run.glob(f"{FOLDER}/step-000003*")):
                time.sleep(0.001)
            time.sleep(draw.random() * 0.05)
            process.send_signal(signal.SIGKILL)
        found = list(read_episodes(run))
        steps = sorted({record["step"] for record in found})
        assert steps == list(range(1, len(steps) + 1)) and len(found) == 20 * len(steps)
        folder = EpisodeFolder(run, len(steps) - 1, compress=True, keep=2)
        folder.write(*encoded(episodes(len(steps), count=20, turns=10)))
        again = tmp_path / "again"
        whole = EpisodeFolder(again, compress=True, keep=2)
        for step in steps:
            whole.write(*encoded(episodes(step, count=20, turns=10)))
        assert contents(run) == contents(again)
        shutil.rmtree(again)


_LIMITED = """
import resource, signal, sys
from pathlib import Path
from aem_gym.episodes import EpisodeFolder, read_episodes
from aem_gym.errors import OutputError
from tests.test_episodes import encoded, episodes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = Path(sys.argv[1])
folder = EpisodeFolder(run, compress=True)
folder.write(*encoded(episodes(1)))
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    folder.write(*encoded(episodes(2, count=50)))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are POSIX's")
def test_a_disk_that_refuses_leaves_the_earlier_steps(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True
    )
    assert "step-000002.jsonl.gz" in done.stdout and "--resume" in done.stdout, done.stderr
    assert list(contents(tmp_path)) == ["step-000001.jsonl.gz"]
    assert list(read_episodes(tmp_path)) == json.loads(json.dumps(episodes(1)))
