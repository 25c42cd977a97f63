"""A file is replaced whole or not at all, by one process or by several."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.io import replace_file


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
