"""The check of byte-identity notices a difference, and a run that did not come to its end."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.identity import compare, digests, main


def finished(folder: Path, episodes: str = "{}\n", weights: bytes = b"weights") -> Path:
    (folder / "adapter").mkdir(parents=True)
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(weights)
    (folder / "episodes.jsonl").write_text(episodes)
    return folder


def test_equal_runs_are_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare([finished(tmp_path / name) for name in ("a", "b", "c")])
    assert "DIFFERENT" not in capsys.readouterr().out
    assert digests(tmp_path / "a").keys() == {"episodes.jsonl", "adapter/adapter_model.safetensors"}


@pytest.mark.parametrize("what", ["episodes", "weights", "file"])
def test_any_difference_is_found_and_named(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same, other = finished(tmp_path / "a"), tmp_path / "b"
    if what == "episodes":
        finished(other, episodes="{ }\n")
    elif what == "weights":
        finished(other, weights=b"Weights")
    else:
        (finished(other) / "adapter" / "more.safetensors").write_bytes(b"")
    assert not compare([same, same, other])
    marked = [line for line in capsys.readouterr().out.splitlines() if "DIFFERENT" in line]
    name = {"episodes": "episodes.jsonl", "weights": "adapter_model", "file": "more.safetensors"}
    assert len(marked) == 1 and name[what] in marked[0]


def test_a_run_that_fails_is_no_answer(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="train.py ended with status 2"):
        main(["--out", str(tmp_path / "out"), "--env", "no_such_package:Foo-v0"])
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path)])
    assert "is there already" in capfd.readouterr().err
