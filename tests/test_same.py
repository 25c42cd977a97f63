"""The comparison of two trees: equal recordings are equal, and any change is found and named."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.same import __main__ as command
from benchmarks.same.compare import Allowed, compare
from benchmarks.same.record import LEFT_OUT, PARTS

ROOT = Path(__file__).resolve().parents[1]
ROWS = {
    "summary": {"steps": 3, "success": None},
    "episodes[0]": {"text": "You see a fridge 1.", "logprobs": [-0.1, -0.0], "won": True},
}


def recording(file: Path, rows: Mapping[str, Any] = ROWS) -> Path:
    lines = [json.dumps({"at": at, "value": value}) for at, value in rows.items()]
    file.write_text("\n".join(lines) + "\n")
    return file


def test_equal_recordings_are_equal(tmp_path: Path) -> None:
    found = compare(recording(tmp_path / "a"), recording(tmp_path / "b"))
    assert (found.compared, found.different, found.first) == (7, 0, "")


@pytest.mark.parametrize(
    ("at", "key", "value", "place"),
    [
        ("episodes[0]", "text", "You see a fridge 1", "episodes[0].text"),
        ("episodes[0]", "logprobs", [-0.1, 0.0], "episodes[0].logprobs[1]"),
        ("episodes[0]", "logprobs", [-0.10000000000000002, -0.0], "episodes[0].logprobs[0]"),
        ("episodes[0]", "logprobs", [-0.1], "episodes[0].logprobs.length"),
        ("episodes[0]", "won", 1, "episodes[0].won"),
        ("summary", "success", 0.0, "summary.success"),
        ("summary", "more", 1, "summary.more"),
    ],
)
def test_any_change_is_found_and_named(
    at: str, key: str, value: Any, place: str, tmp_path: Path
) -> None:
    changed = {**ROWS, at: {**ROWS[at], key: value}}
    base, present = recording(tmp_path / "a"), recording(tmp_path / "b", changed)
    for pair in ((base, present), (present, base)):
        found = compare(*pair)
        assert found.different >= 1 and found.first.startswith(f"{place}: ")


@pytest.mark.parametrize("lost", ROWS)
def test_a_lost_record_is_a_difference(lost: str, tmp_path: Path) -> None:
    rest = {at: value for at, value in ROWS.items() if at != lost}
    base, present = recording(tmp_path / "a"), recording(tmp_path / "b", rest)
    assert compare(base, present).different and compare(present, base).different


def test_listed_keys_may_be_new_or_renamed_and_no_others(tmp_path: Path) -> None:
    allowed = Allowed(frozenset({"stop_reason", "stop/"}), {"recipe": "template"})
    base = recording(tmp_path / "a", {"x": {"recipe": {"name": "a"}}})
    new = {"template": {"name": "a"}, "stop_reason": {"why": "won"}, "stop/won": 0.5}
    assert not compare(base, recording(tmp_path / "b", {"x": new}), allowed).different
    for changed in (new | {"template": {"name": "b"}}, new | {"other": 1}, {"stop/won": 1}):
        assert compare(base, recording(tmp_path / "c", {"x": changed}), allowed).different
    lost = recording(tmp_path / "d", {"x": {"template": {"name": "a"}}})
    kept = recording(tmp_path / "e", {"x": {"recipe": {"name": "a"}, "stop_reason": "won"}})
    assert compare(kept, lost, allowed).different  # a new key must not vanish again


def script(tree: Path, body: str) -> Path:
    """A recorder that does `body` instead of recording; `output` is its file."""
    file = tree / "record.py"
    file.write_text(f"import sys\ntree, output = sys.argv[2], open(sys.argv[3], 'w')\n{body}\n")
    return file


@pytest.mark.parametrize(
    ("body", "status", "printed"),
    [
        ('output.write(\'{"at": "x", "value": 1}\\n\')', 0, "x: 1 values, equal"),
        ('output.write(\'{"at": "x", "value": "%s"}\\n\' % tree)', 1, "1 different, first x"),
        ("sys.exit('it broke')", 2, "it broke"),
        ("", 2, "nothing was recorded"),
        (f"print('no engine'); sys.exit({LEFT_OUT})", 0, "left out: no engine"),
    ],
)
def test_the_command_says_what_came_of_a_part(
    body: str,
    status: int,
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "RECORD", script(tmp_path, body))
    monkeypatch.setattr(command, "BASES", {"x": "HEAD"})
    monkeypatch.setattr(command, "ROOT", repository(tmp_path / "repository"))
    assert command.main(["x"]) == status
    *_, last = lines = capsys.readouterr().out.strip().splitlines()
    assert printed in "\n".join(lines[:-1])
    assert json.loads(last)["x"]["different"] == (status == 1)


def repository(folder: Path) -> Path:
    """A git repository with one commit."""
    identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    for arguments in (["init", "--quiet"], ["commit", "--quiet", "--allow-empty", "-m", "one"]):
        subprocess.run(["git", *identity, *arguments], cwd=_made(folder), check=True)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return folder


def test_every_part_has_a_base() -> None:
    assert list(command.BASES) == list(PARTS)


def test_a_changed_answer_of_the_package_is_found(tmp_path: Path) -> None:
    """The real recorder on this tree, and on a copy in which one word differs."""
    files = [tmp_path / f"{name}.jsonl" for name in ("one", "two", "other")]
    tree = changed_copy(tmp_path / "tree")
    trees = zip(files, (ROOT, ROOT, tree), strict=True)
    started = [command.start("alfworld_episodes", at, file, quick=True) for file, at in trees]
    for process, file in zip(started, files, strict=True):
        assert process.wait() == 0, file.with_suffix(".log").read_text()
    assert not compare(files[0], files[1]).different
    found = compare(files[0], files[2])
    assert found.different and "Nothing happened." in found.first


def changed_copy(tree: Path) -> Path:
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "aem_gym", tree / "aem_gym", ignore=skip)  # through the links
    changed = 0
    for file in (tree / "aem_gym" / "envs" / "alfworld").rglob("*.py"):
        text = file.read_text()
        changed += "Nothing happens." in text
        file.write_text(text.replace("Nothing happens.", "Nothing happened."))
    assert changed
    return tree
