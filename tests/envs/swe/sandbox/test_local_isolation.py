"""Paths without isolation: named as in a container, kept in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.swe.sandbox.local_images import Bubblewrap, Isolation

FOLDER = Path("/sandboxes/one")
MOVED = {
    "cd /testbed": "cd /sandboxes/one/testbed",
    "cat /testbed/a.py /tmp/b": "cat /sandboxes/one/testbed/a.py /sandboxes/one/tmp/b",
    "x --out=/tmp/r.xml": "x --out=/sandboxes/one/tmp/r.xml",
    "PATH=/testbed/bin:/tmp:$PATH": "PATH=/sandboxes/one/testbed/bin:/sandboxes/one/tmp:$PATH",
    "echo '/testbed' \"/tmp\"": "echo '/sandboxes/one/testbed' \"/sandboxes/one/tmp\"",
    "ls /home/agent; ls /run/aem": "ls /sandboxes/one/home/agent; ls /sandboxes/one/run/aem",
    "echo >/tmp/x": "echo >/sandboxes/one/tmp/x",
    "ls /var/tmp": "ls /sandboxes/one/var/tmp",
}
LEFT = ("ls /tmpfoo", "ls /testbed2", "ls a/tmp", "ls ./tmp", "ls $HOME/tmp", "ls ~/tmp")
LEFT += ("ls /usr/tmp", "ls /tmp-x", "ls /tmp.txt", "ls */tmp", "cat /etc/passwd", "ls /home/me")


@pytest.mark.parametrize("command", MOVED)
def test_places_of_a_sandbox_lie_in_its_folder(command: str) -> None:
    assert Isolation(FOLDER).to_sandbox(command) == MOVED[command]


@pytest.mark.parametrize("command", LEFT)
def test_other_paths_are_left_alone(command: str) -> None:
    assert Isolation(FOLDER).to_sandbox(command) == command


@given(st.text(st.sampled_from("/testbdmp. =:'\n"), max_size=60))
def test_what_is_printed_reads_as_it_was_typed(text: str) -> None:
    isolation = Isolation(FOLDER)
    assert isolation.to_host(isolation.to_sandbox(text)) == text


@given(st.text())
def test_in_bubblewrap_paths_stay(text: str) -> None:
    isolation = Bubblewrap(FOLDER, Path("/venv"))
    assert isolation.to_sandbox(text) == text == isolation.to_host(text)
