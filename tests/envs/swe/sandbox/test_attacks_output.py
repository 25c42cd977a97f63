"""Attacks by what is printed: endless, huge, or no text at all."""

from __future__ import annotations

import time

import pytest

from aem_gym.envs.swe.sandbox.base import AGENT, Limits
from aem_gym.envs.swe.workspace import prepare
from tests.envs.swe.conftest import Open
from tests.envs.swe.swe_bench import Bench, Episode

pytestmark = pytest.mark.docker

FLOODS = {
    "lines": "yes",
    "no lines": "cat /dev/zero",
    "noise": "cat /dev/urandom",
    "errors": "yes >&2",
    "by builtins": "while :; do echo x; done",
    "by many": "for i in 1 2 3 4; do yes & done; wait",
    "by a survivor": "setsid yes & exit",
    "past the shell": "yes >&250",
    "of echoed input": "set -v; while :; do eval ': x'; done 2>&1",
    "by errors of the shell": "while :; do /nonexistent; done",
}


@pytest.mark.parametrize("flood", FLOODS)
def test_endless_output_is_cut_and_ended(lasting: Episode, flood: str) -> None:
    began = time.monotonic()
    ran = lasting.sandbox.run(FLOODS[flood], 3)
    assert len(ran.output) < 2_000_000
    assert time.monotonic() - began < 40
    lasting.answers()


def test_a_line_of_100_mb_is_cut_in_the_middle(lasting: Episode) -> None:
    lasting.sandbox.kill_agent()
    ran = lasting.sandbox.run("echo begin; head -c 100M /dev/zero | tr '\\0' x; echo; echo end", 60)
    assert ran.output.startswith("begin\nxxx")
    assert ran.elided > 9_000_000
    assert len(ran.output) < 1_100_000
    assert "killed" in ran.output[-100:]
    lasting.answers()


def test_much_output_keeps_its_beginning_and_its_end(lasting: Episode) -> None:
    ran = lasting.sandbox.run("echo begin; head -c 8M /dev/zero | tr '\\0' x; echo; echo end", 60)
    assert ran.output.startswith("begin\nxxx")
    assert ran.output.endswith("xxx\nend\n")
    assert f"{ran.elided} bytes left out" in ran.output
    assert ran.exit_code == 0
    lasting.answers()


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (r"printf 'a\0b'", "a\ufffdb"),
        (r"printf '\377\376x'", "\ufffd\ufffdx"),
        (r"printf '\303'; sleep 0.2; printf '\251'", "é"),
        (r"printf '\033[31mred\033[0m \033]0;title\007x\033[2J'", "red x"),
        (r"printf 'a\r\nb\n'", "a\nb\n"),
        (r"printf '\036'", "\x1e"),
        (r"printf '\355\240\200'", "\ufffd\ufffd\ufffd"),
        ("printf '%s' 'ünïcode 🐛'", "ünïcode 🐛"),
        ("printf ''", ""),
        ("echo one >&2; echo two; echo three >&2", "one\ntwo\nthree\n"),
    ],
)
def test_what_is_no_text_becomes_text(lasting: Episode, command: str, text: str) -> None:
    assert lasting.run(command) == text
    lasting.answers()


@pytest.mark.parametrize(
    "command",
    ["echo '\0'; echo x", "echo '\udce9'; echo x", "echo \x1e; echo x", "echo '\r\n'; echo x"],
)
def test_commands_that_are_no_text_run_all_the_same(lasting: Episode, command: str) -> None:
    assert lasting.run(command).endswith("x\n")
    lasting.answers()


def test_a_command_of_many_kilobytes(lasting: Episode) -> None:
    ran = lasting.sandbox.run(f"x='{'y' * 300_000}'; echo ${{#x}}; unset x", 60)
    assert ran.output == "300000\n"
    lasting.answers()


def test_output_that_nobody_waits_for_is_not_the_next_commands(lasting: Episode) -> None:
    for _ in range(5):
        lasting.run("(sleep 0.01; echo late) & exit")
        assert lasting.run("echo mine") == "mine\n"


def test_how_much_is_kept_can_be_said(bench: Bench, opened: Open) -> None:
    sandbox = opened(Limits(output_bytes=1000))
    prepare(sandbox, bench.task)
    ran = sandbox.run("seq 2000", 20)
    assert len(ran.output) < 1100
    assert ran.exit_code == 0
    assert sandbox.run("seq 20000", 20).exit_code is None


def test_files_of_every_kind_are_read_or_refused(lasting: Episode) -> None:
    lasting.run(
        "mkdir -p /tmp/r && cd /tmp/r && mkfifo fifo && mkdir folder && ln -s /etc/shadow secret"
        " && ln -s /opt/aem/testbed/calc.py pristine && ln -s loop loop && ln -s /dev/zero zero"
        " && printf 'a\\0\\377' > bytes && head -c 3M /dev/zero > large; cd"
    )
    read = lasting.sandbox.read
    assert read("/tmp/r/bytes") == b"a\0\xff"
    assert len(read("/tmp/r/large", 1000)) == 1000
    assert len(read("/tmp/r/large")) == 3 << 20
    for name in ("fifo", "folder", "secret", "pristine", "loop", "zero", "nothing"):
        with pytest.raises(OSError):
            read(f"/tmp/r/{name}")
    lasting.answers()


def test_files_are_written_where_the_agent_may_write(lasting: Episode) -> None:
    write, read = lasting.sandbox.write, lasting.sandbox.read
    name = "/tmp/w/new line\n'quote\" $x *.txt"
    write(name, b"\0\xff\r\n")
    assert read(name) == b"\0\xff\r\n"
    assert lasting.run("stat -c %u /tmp/w") == f"{AGENT}\n"
    lasting.run("ln -s /etc/passwd /tmp/w/link; ln -s /run/ready /tmp/w/ready; mkdir /tmp/w/folder")
    for path in ("/tmp/w/link", "/tmp/w/ready", "/tmp/w/folder", "/opt/aem/x", "/run/x", "/x"):
        with pytest.raises(OSError):
            write(path, b"owned")
    content = bytes(range(256)) * 20_000
    write("/tmp/w/large", content)
    assert read("/tmp/w/large") == content
    lasting.run("rm -r /tmp/w")
    lasting.answers()
