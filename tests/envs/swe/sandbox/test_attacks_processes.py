"""Attacks on who runs what: programs that outlive a command, shells that are not what they seem."""

from __future__ import annotations

import pytest

from aem_gym.envs.swe.sandbox.base import AGENT
from tests.envs.swe.swe_bench import Episode

pytestmark = pytest.mark.docker

SURVIVORS = {
    "background": "sleep 1000 &",
    "nohup": "nohup sleep 1000 >/dev/null 2>&1 &",
    "disown": "sleep 1000 & disown -a",
    "setsid": "setsid sleep 1000 </dev/null >/dev/null 2>&1 &",
    "subshell": "(trap '' HUP TERM INT; sleep 1000 & exec 250>&-) &",
    "double fork": """python -c '
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in range(300):
            try: os.close(number)
            except OSError: pass
        time.sleep(1000)
    os._exit(0)
'""",
    "a name of several lines, as of root": """python -c '
import ctypes, os, time
if os.fork() == 0:
    ctypes.CDLL(None).prctl(15, b"x\\nUid:\\t0", 0, 0, 0)
    time.sleep(1000)
' &""",
    "not dumpable": """python -c '
import ctypes, os, time
if os.fork() == 0:
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)
    os.setsid()
    time.sleep(1000)
' &""",
    "stopped": "sleep 1000 & kill -STOP $!",
    "traced": """python -c '
import ctypes, os, time
libc = ctypes.CDLL(None)
child = os.fork()
if child == 0:
    libc.ptrace(0, 0, 0, 0)
    os.kill(os.getpid(), 19)
    time.sleep(1000)
if os.fork() == 0: time.sleep(1000)
' &""",
    "a chain that forks as it dies": """python -c '
import os, signal
while True:
    if os.fork(): os._exit(0)
' &""",
    "coproc": "coproc sleep 1000",
    "a job of its own group": "set -m; sleep 1000 & set +m",
    "at exit of the shell": "trap 'setsid sleep 1000 & disown' EXIT; exit 3",
    "in place of the shell": "exec setsid -f sleep 1000",
}
BENT_SHELLS = {
    "functions for builtins": "for w in kill eval printf exec trap read test [ echo; do "
    'eval "$w() { :; }"; done; printf hidden',
    "aliases": "shopt -s expand_aliases; alias printf=: eval=: exit=: '{=:' '}=:'",
    "disabled builtins": "enable -n printf eval kill echo",
    "DEBUG trap": "trap 'builtin echo noise; sleep 0.01' DEBUG; trap 'echo oops' ERR",
    "RETURN and EXIT traps": "set -T; trap 'exit 9' RETURN; f() { :; }; f",
    "errexit": "set -e; false",
    "nounset, noclobber": "set -u; set -C; echo $nothing",
    "xtrace, verbose": "set -xv",
    "noexec": "set -n",
    "closed output": "exec 1>&- 2>&- 250>&-",
    "output elsewhere": "exec 250>/tmp/elsewhere",
    "input taken": "exec </dev/null",
    "input eaten": "cat /proc/$$/fd/10 /proc/$$/fd/0",
    "exit": "exit 7",
    "exec": "exec true",
    "killed": "kill -9 $$",
    "stopped by a child": "(kill -STOP $$) & sleep 0.1",
    "unbalanced": "if true; then echo '",
    "an end of its own": "}; printf x; {",
    "here document without end": "cat <<X",
    "a posix shell": "set -o posix; unset PATH",
    "readonly names": "readonly PATH=/nonexistent IFS=x; TMOUT=1",
    "a prompt that runs": "PROMPT_COMMAND='exit 4' PS1='$(exit 4)' PS4='$(sleep 9)'; set -x",
    "no folder": "mkdir /tmp/gone; cd /tmp/gone; rmdir /tmp/gone",
    "limits": "ulimit -n 3; ulimit -v 10000; ulimit -f 0; ulimit -u 1",
    "limit of processor time": "ulimit -t 1; while :; do :; done",
    "umask": "umask 777",
}


@pytest.mark.parametrize("how", SURVIVORS)
def test_nothing_outlives_a_command(lasting: Episode, how: str) -> None:
    lasting.sandbox.run(SURVIVORS[how], 10)
    assert lasting.processes() == []
    lasting.answers()


@pytest.mark.parametrize("how", BENT_SHELLS)
def test_a_bent_shell_bends_itself_only(lasting: Episode, how: str) -> None:
    lasting.sandbox.run(BENT_SHELLS[how], 2)
    lasting.sandbox.run("echo whatever comes of it", 1)
    lasting.sandbox.kill_agent()
    assert lasting.run("echo $((6 * 7)); pwd") == "42\n/testbed\n"
    lasting.answers()


@pytest.mark.parametrize("target", ["1", "-1", "0", "-- -$$", "$(pgrep sleep)", "$PPID"])
@pytest.mark.parametrize("signal", ["KILL", "STOP"])
def test_signals_reach_nobody_else(lasting: Episode, signal: str, target: str) -> None:
    lasting.sandbox.run(f"kill -{signal} {target}; sleep 0.1", 1)
    lasting.answers()


def test_a_forged_mark_fools_only_its_forger(lasting: Episode) -> None:
    ran = lasting.sandbox.run("printf '\\036%032de0\\036' 0; echo real; false", 10)
    assert "real" in ran.output
    assert ran.exit_code == 1
    lasting.sandbox.run("cat <&10 >/tmp/stolen & sleep 0.2; echo here", 1)
    lasting.sandbox.kill_agent()
    lasting.answers()


# Takes the shell's place, input and output, and answers in its name: so it is the one process that
# may go on between commands.
_FAKE = r"""
import os, re, threading
def swap():
    while True:
        for name in ("calc.py", "tests"):
            try:
                os.rename(name, "kept"); os.symlink(f"/opt/aem/testbed/{name}", name)
                os.unlink(name); os.rename("kept", name)
            except OSError: pass
threading.Thread(target=swap, daemon=True).start()
while told := os.read(5, 65536):
    for kind, *words in re.findall(rb"%s%s(b|e%d)\S* (\w+) (\w+)", told):
        answer = b"b\x1efaked" if kind == b"b" else b"e0\x1e"
        os.write(250, b"\x1e" + b"".join(words) + answer)
"""


def test_a_program_that_plays_the_shell_ends_before_root_looks(episode: Episode) -> None:
    """It swaps folders for links into root's copy of the repository as it was, in good order."""
    episode.sandbox.write("/tmp/fake.py", _FAKE.encode())
    episode.sandbox.run("exec 5</proc/$$/fd/10; exec python /tmp/fake.py", 1)
    patch = episode.take()
    assert episode.processes() == []
    assert "add_secret" not in patch
    episode.answers()


def test_programs_beside_the_shell_end_at_their_deadline(lasting: Episode) -> None:
    argv = ["/bin/sh", "-c", "trap '' TERM HUP; while :; do sleep 1; done"]
    for user in (0, AGENT):
        ran = lasting.sandbox.execute(argv, 1, user=user)
        assert ran.timed_out and ran.exit_code is None
    assert "while" not in lasting.sandbox.execute(["/bin/cat", "/proc/1/task/1/children"], 9).output
    lasting.answers()


def test_the_dead_are_buried(lasting: Episode) -> None:
    lasting.run("for i in $(seq 300); do (sleep 0 &) ; done; sleep 0.5")
    states = lasting.sandbox.execute(
        ["/bin/sh", "-c", "cat /proc/[0-9]*/stat | cut -d' ' -f3 | grep -c Z"], 20
    )
    assert states.output == "0\n"
    lasting.answers()
