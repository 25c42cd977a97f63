"""One run of a task's tests in a sandbox, and what came out of it.

With pytest a plug-in of ours (`witness.py`) speaks on a stream that leads out of the sandbox and
only grows, before and after the code under test; other runners are read by what they print.
"""

from __future__ import annotations

import json
import re
import secrets
import shlex
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import PurePosixPath

from aem_gym.envs.swe.sandbox.base import AGENT, WORKDIR, CommandResult, Sandbox
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.logs import Status, reader_name, reader_of

# They come after the repository's own settings: nothing ends a run before its last test.
# Tracebacks of the native kind cost little, and many tests have to fail.
_PYTEST = "-p no:cacheprovider --maxfail=0 --continue-on-collection-errors --color=no --tb=native"
_NOISE = 20_000
"""Bytes kept of what the tests print, for messages."""
_RUN = """
umask 022
mkdir -m 700 {place} || exit 97
exec 3>&1 4<&0 < /dev/null
cd {workdir} || exit 97
export PYTHONPATH={home}${{PYTHONPATH:+:$PYTHONPATH}}
( {command} ) > {place}/out 2>&1
code=$?
tail -c {noise} {place}/out
exit $code
"""


@dataclass(frozen=True, slots=True)
class Alone:
    """What a test that ran in a process of its own came to."""

    status: Status
    line: int
    """The last line of its file that its exception went through; 0 if there was none."""


@dataclass(frozen=True, slots=True)
class Orders:
    """Which tests run how. A function is a node id without its parameters."""

    alone: dict[str, int] = field(default_factory=dict)
    """Test -> how often it runs, each time in a process of its own."""
    batch: tuple[str, ...] = ()
    """Functions whose other tests run in one process apart."""
    left: tuple[str, ...] = ()
    """Functions whose other tests do not run."""
    checked: tuple[str, ...] = ()
    """Of the tests in `alone`, those after which the test runner is looked at in memory."""
    rest: bool = True
    """All other tests run, in the process of the test runner."""

    def paths(self) -> frozenset[str]:
        """The files that are needed if nothing else runs."""
        return frozenset(name.partition("::")[0] for name in (*self.alone, *self.batch))


@dataclass(frozen=True, slots=True)
class SessionResult:
    """What came out of one run."""

    statuses: Mapping[str, Status]
    """By node id, of tests that ran in the one process of all."""
    alone: Mapping[str, tuple[Alone, ...]] = field(default_factory=dict)
    """By node id, of tests that ran in processes of their own."""
    altered: frozenset[str] = frozenset()
    """What of the test runner was not the same afterwards."""
    exit_code: int | None = None
    ended: bool = False
    """The test runner said that it came to its end."""
    ran: CommandResult = field(default_factory=lambda: CommandResult("", None))


def is_pytest(task: SweTask) -> bool:
    """Whether a task's tests are run by pytest, so that the plug-in can watch them."""
    if reader_name(task.test_command, task.log) != "pytest":
        return False
    return "{report}" in task.test_command or "pytest" in task.test_command


def plugin_name() -> str:
    """A name that nobody knows before."""
    return f"report_{secrets.token_hex(6)}"


def plugin_source() -> bytes:
    return (files(__package__) / "witness.py").read_bytes()


def run_session(
    sandbox: Sandbox,
    task: SweTask,
    home: str,
    plugin: str,
    orders: Orders,
    *,
    timeout: float,
    more: Iterable[str] = (),
) -> SessionResult:
    """Run a task's tests as the agent, with patch and hidden tests in place.

    `home` is the folder of the plug-in. `more` are files to run besides those of the command.

    Raises:
        SandboxError: the sandbox failed, not the tests.
    """
    word, watched = secrets.token_hex(12), is_pytest(task)
    place = f"/tmp/{secrets.token_hex(8)}"
    words = [task.test_command if orders.rest else narrowed(task, orders.paths())]
    if watched:
        words.append(f"-p {plugin} {_PYTEST}")
    command = " ".join([*words, *map(shlex.quote, more)]).replace("{report}", "/dev/null")
    if watched:
        values = {"place": place, "workdir": WORKDIR, "home": home, "noise": _NOISE}
        command = _RUN.format(command=command, **values)
    else:
        command = f"cd {WORKDIR} && {command}"
    stdin = json.dumps({"word": word, **asdict(orders)}).encode() if watched else b""
    ran = sandbox.execute(["/bin/bash", "-c", command], timeout, user=AGENT, stdin=stdin)
    if watched:
        return read_stream(word, ran)
    statuses = {} if ran.elided else reader_of(task.test_command, task.log)(ran.output)
    return SessionResult(statuses, exit_code=ran.exit_code, ended=bool(statuses), ran=ran)


def narrowed(task: SweTask, wanted: Set[str]) -> str:
    """The test command without the test files that are not wanted."""
    every = (*task.fail_to_pass, *task.pass_to_pass)
    other = {test.partition("::")[0] for test in every} - wanted
    parts = re.split(r"(\s+)", task.test_command)
    kept = [part for part in parts if part.strip("'\"") not in other]
    left = {part.strip("'\"") for part in kept}
    # A command that names no files runs them all; the plug-in runs only what it is asked to.
    return "".join(kept) if wanted & left else task.test_command


def read_stream(word: str, ran: CommandResult) -> SessionResult:
    """What the plug-in said. What anybody else wrote there has not its word."""
    statuses: dict[str, Status] = {}
    told: dict[str, list[Alone]] = {}
    exits: dict[str, int] = {}
    altered: set[str] = set()
    code: int | None = None
    rest: list[str] = []
    for line in ran.output.split("\n"):
        if not line.startswith(word):
            rest.append(line)
            continue
        kind, *values = _values(line[len(word) :])
        if kind == "test":
            status = Status[str(values[1])]
            statuses[str(values[0])] = max(status, statuses.get(str(values[0]), status))
        elif kind == "alone":
            alone = Alone(Status[str(values[1])], int(str(values[2])))
            told.setdefault(str(values[0]), []).append(alone)
            altered |= set(map(str, _list(values[3])))
        elif kind == "batch" and values[0] != 0:
            altered.add("the end of a process")
        elif kind == "exit":
            exits[str(values[0])] = exits.get(str(values[0]), 0) + (values[1] == 0)
            told.setdefault(str(values[0]), [])
        elif kind == "altered":
            altered |= set(map(str, _list(values[0])))
        elif kind == "done":
            code = int(str(values[0]))
    # As many processes that came to their end as there are answers, or none of them counts.
    whole = {name: tuple(found) for name, found in told.items() if exits.get(name) == len(found)}
    output = CommandResult("\n".join(rest).strip("\n"), ran.exit_code, ran.timed_out, ran.elided)
    ended = code is not None and code == ran.exit_code
    return SessionResult(statuses, whole, frozenset(altered), ran.exit_code, ended, output)


def _values(text: str) -> list[object]:
    """The JSON values of a line."""
    decoder, found, place = json.JSONDecoder(), [], 0
    try:
        while text[place:].strip():
            place += len(text[place:]) - len(text[place:].lstrip())
            value, place = decoder.raw_decode(text, place)
            found.append(value)
    except ValueError:
        return [""]
    return found or [""]


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def file_of(test: str) -> str:
    """The file of a node id; empty for names of other runners."""
    path = test.partition("::")[0]
    return path if "::" in test and PurePosixPath(path).suffix == ".py" else ""
