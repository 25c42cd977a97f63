"""Same actions, same bytes: what a fresh sandbox shows does not depend on when it runs."""

from __future__ import annotations

import pytest

from aem_gym.envs.swe.workspace import prepare, take_patch
from tests.envs.swe.swe_bench import FIX, Bench

pytestmark = pytest.mark.docker

COMMANDS = (
    "pwd; id; hostname; umask; echo $HOME $USER $SHELL $PATH",
    "env | sort",
    "ls; ls -a; ls -R",
    r"ls -la . .git tests data | grep -v ' \.\.$'",
    "find . -path ./.git -prune -o -print",
    "find .git | sort | head -50",
    "cat calc.py; wc -l calc.py; head -2 tests/test_calc.py; grep -rn return .",
    "stat -c '%n %s %Y %a %U' calc.py tests",
    "git status; git log; git show --stat; git branch -a",
    "git diff; git rev-parse HEAD; git ls-files -s",
    "python -c 'import sys; print(sys.version, sys.path, sys.flags)'",
    'python -c \'print({"a", "b", "c"}, hash("x"))\'',
    "python -c 'from calc import add; print(add(1, 2)); add(1)'",
    "python -m pytest -q tests 2>&1 | sed 's/in [0-9.]*s/in T/'",
    "python -m pytest tests/none.py 2>&1 | sed 's/in [0-9.]*s/in T/'",
    f"{FIX}; git diff",
    "python -c 'from calc import add; print(add(1, 2))'",
    "echo x > new; git status --short; git add new; git stash list",
    "mkdir -p a/b; touch a/b/c; ls -R a; rm -r a",
    "cat nothing; ls nothing; nothing; (exit 3); echo $?",
    "for i in 1 2 3; do echo $i & done; wait",
    "x=1; export y=2; f() { echo f $1; }; f $x$y",
    "f again; echo $x $y; cd tests",
    "pwd; cd ..; echo 'if' | bash; if true; then",
    "seq 100000 | tail -1; seq 1000 | md5sum; yes | head -5",
    "df -h --output=target,size | sort; mount | grep -c tmpfs",
    "nproc; ulimit -n; ulimit -c; cat /etc/hostname /etc/hosts /etc/resolv.conf",
    "pip list 2>/dev/null | head; pip install nothing 2>&1 | tail -1",
    "printf '\\377\\0x\\033[1m'; tput cols; echo $COLUMNS $LINES",
    "locale; date +%Z; TZ=UTC date -d @0",
    "ps -o uid,args --no-headers | sort",
    "sleep 100 & exit 4",
    "pwd; echo $x; jobs",
)
SHUFFLED = ("for i in 1 2 3; do echo $i & done; wait",)
"""Several programs print at once: in which order is nobody's to say."""


def test_two_sandboxes_show_the_same(bench: Bench) -> None:
    seen = [_play(bench), _play(bench)]
    for command, first, second in zip(COMMANDS, *seen, strict=False):
        if command in SHUFFLED:
            first, second = "".join(sorted(first)), "".join(sorted(second))
        assert first == second, command
    assert seen[0][-1] == seen[1][-1]
    assert "+    return a + b" in seen[0][-1]


def _play(bench: Bench) -> list[str]:
    sandbox = bench.open()
    try:
        workspace = prepare(sandbox, bench.task)
        shown = []
        for command in COMMANDS:
            ran = sandbox.run(command, 120)
            shown.append(f"{ran.output}\n[{ran.exit_code} {ran.timed_out} {ran.elided}]")
        return [*shown, take_patch(sandbox, workspace)]
    finally:
        sandbox.close()
