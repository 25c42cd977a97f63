"""Paths without walls: named as in a container, kept in a folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.swe.sandbox.base import Limits
from aem_gym.envs.swe.sandbox.local_walls import Bubblewrap, NoWalls

DEN = Path("/dens/one")
MOVED = {
    "cd /testbed": "cd /dens/one/testbed",
    "cat /testbed/a.py /tmp/b": "cat /dens/one/testbed/a.py /dens/one/tmp/b",
    "x --out=/tmp/r.xml": "x --out=/dens/one/tmp/r.xml",
    "PATH=/testbed/bin:/tmp:$PATH": "PATH=/dens/one/testbed/bin:/dens/one/tmp:$PATH",
    "echo '/testbed' \"/tmp\"": "echo '/dens/one/testbed' \"/dens/one/tmp\"",
    "ls /home/agent; ls /run/aem": "ls /dens/one/home/agent; ls /dens/one/run/aem",
    "echo >/tmp/x": "echo >/dens/one/tmp/x",
    "ls /var/tmp": "ls /dens/one/var/tmp",
}
LEFT = ("ls /tmpfoo", "ls /testbed2", "ls a/tmp", "ls ./tmp", "ls $HOME/tmp", "ls ~/tmp")
LEFT += ("ls /usr/tmp", "ls /tmp-x", "ls /tmp.txt", "ls */tmp", "cat /etc/passwd", "ls /home/me")


@pytest.mark.parametrize("command", MOVED)
def test_places_of_a_sandbox_lie_in_its_den(command: str) -> None:
    assert NoWalls().inward(DEN, command) == MOVED[command]


@pytest.mark.parametrize("command", LEFT)
def test_other_paths_are_left_alone(command: str) -> None:
    assert NoWalls().inward(DEN, command) == command


@given(st.text(st.sampled_from("/testbdmp. =:'\n"), max_size=60))
def test_what_is_printed_reads_as_it_was_typed(text: str) -> None:
    walls = NoWalls()
    assert walls.outward(DEN, walls.inward(DEN, text)) == text


@given(st.text())
def test_behind_walls_paths_stay(text: str) -> None:
    walls = Bubblewrap(Limits(), "sandbox", (), Path("/venv"))
    assert walls.inward(DEN, text) == text == walls.outward(DEN, text)
