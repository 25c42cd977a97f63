"""A plugin of pytest that records which functions the tests of each file call.

It is copied beside the tests and loaded there (`-p calls`); it imports nothing but pytest. The
variable `CALLS` is the file that it writes: JSON, path and qualified name -> test files. Calls
during the import of files have the empty name.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest


class Calls:
    """Records each function once for each test file."""

    def __init__(self, root: Path, out: Path) -> None:
        self._root, self._out = root, out
        self._codes: set[CodeType] = set()
        self._by_file: dict[str, set[CodeType]] = {"": self._codes}

    def __call__(self, frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            self._codes.add(frame.f_code)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[Any]:
        self._codes = self._by_file.setdefault(item.nodeid.partition("::")[0], set())
        sys.setprofile(self)  # a test may have switched it off
        threading.setprofile(self)
        result = yield
        self._codes = self._by_file[""]
        return result

    def pytest_sessionfinish(self) -> None:
        sys.setprofile(None)
        threading.setprofile(None)
        found: dict[str, set[str]] = {}
        for file, codes in self._by_file.items():
            for code in codes:
                path = Path(code.co_filename)
                if path.is_relative_to(self._root):
                    name = f"{path.relative_to(self._root).as_posix()}::{code.co_qualname}"
                    found.setdefault(name, set()).add(file)
        self._out.write_text(json.dumps({name: sorted(files) for name, files in found.items()}))


def pytest_configure(config: pytest.Config) -> None:
    calls = Calls(config.rootpath, Path(os.environ["CALLS"]))
    config.pluginmanager.register(calls)
    sys.setprofile(calls)
    threading.setprofile(calls)
