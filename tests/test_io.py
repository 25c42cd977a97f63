"""Files are whole or absent, and a disk that refuses is explained."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.errors import OutputError
from aem_gym.io import JsonLines, atomic_folder, atomic_write, replace_file, tidy_folder


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


@given(st.binary(), st.binary(), st.booleans())
def test_the_last_content_is_there_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, old: bytes, new: bytes, durable: bool
) -> None:
    path = tmp_path_factory.mktemp("files") / "a"
    for content in (old, new):
        replace_file(path, content, durable=durable)
        assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


def test_a_disk_that_refuses_leaves_the_old_content_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):  # in the middle of writing
        replace_file(path, "no bytes")  # type: ignore[arg-type]
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "folder", b"new")
    with pytest.raises(NotADirectoryError):
        replace_file(path / "b", b"new")
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "nowhere" / "b", b"new")
    assert path.read_bytes() == b"old"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a", "folder"]


def test_whoever_reads_meanwhile_finds_one_whole_content(tmp_path: Path) -> None:
    path = tmp_path / "a"
    contents = [bytes([letter]) * 300_000 for letter in b"abcd"]
    replace_file(path, contents[0])
    with ThreadPoolExecutor(len(contents)) as pool:
        writers = [
            pool.submit(lambda content=content: [replace_file(path, content) for _ in range(20)])
            for content in contents
        ]
        while not all(writer.done() for writer in writers):
            assert path.read_bytes() in contents
        for writer in writers:
            writer.result()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_who_may_read_it_is_what_the_user_has_set(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        replace_file(tmp_path / "a", b"")
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
