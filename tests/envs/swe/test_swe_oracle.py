"""The oracle makes any gold change with the agent's own tools."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from aem_gym.envs.swe.oracle import PatchOracle
from aem_gym.envs.swe.sandbox.base import Sandbox
from aem_gym.envs.swe.tools.files import AgentFiles
from aem_gym.envs.swe.tools.toolbox import Toolbox
from aem_gym.errors import NoExpertError
from tests.envs.swe.swe_bench import Bench

pytestmark = pytest.mark.docker

Tree = Mapping[str, bytes | None]
LONG = b"".join(b"line %d\nsame\nsame\n" % n for n in range(30))
CASES: dict[str, tuple[Tree, Tree]] = {
    "one line": ({"a.py": b"x = 1\ny = 2\n"}, {"a.py": b"x = 1\ny = 3\n"}),
    "lines that occur often": (
        {"a": LONG},
        {"a": LONG.replace(b"line 7\nsame\n", b"line 7\nother\n")},
    ),
    "several places and files": (
        {"a": LONG, "d/b": b"1\n2\n3\n"},
        {"a": LONG.replace(b"line 3\n", b"").replace(b"line 20\n", b"a\nb\n"), "d/b": b"1\n3\n"},
    ),
    "a new file": ({"a": b"1\n"}, {"a": b"1\n", "new dir/b.py": b"\n\nif x:\n\ty = '\\n'\n"}),
    "a file without an end": ({"a": b"1\n"}, {"a": b"1\n", "b": b"no end"}),
    "a file goes": ({"a": b"1\n", "b": b"2\n"}, {"a": b"1\n", "b": None}),
    "a file moves": ({"a": LONG}, {"a": None, "b": LONG.replace(b"line 9\n", b"line nine\n")}),
    "an end comes": ({"a": b"1\n2"}, {"a": b"1\n2\n"}),
    "an end goes": ({"a": b"1\n2\n"}, {"a": b"1\n2"}),
    "lines are added": ({"a": LONG}, {"a": b"top\n" + LONG + b"\nend\n"}),
    "blank lines": ({"a": b"a\n\n\n\nb\n"}, {"a": b"a\n\n\n\n\n\nb\n"}),
    "lines of windows": ({"a": b"1\r\n2\r\n3\r\n"}, {"a": b"1\r\ntwo\r\n3\r\n4\r\n"}),
    "all goes": ({"a": b"1\n2\n"}, {"a": b""}),
    "an empty file is filled": ({"a": b""}, {"a": b"1\n"}),
    "tags in the text": (
        {"a": b"<old>\n</old>\nx\n<text>\n</text>\n"},
        {"a": b"<old>\n</old>\n<new>\n</new>\n<text>\n</text>\n</text>\n"},
    ),
    "latin-1": ({"a": b"\xe9 1\n"}, {"a": b"\xe9 2\n"}),
    "binary": ({"a": b"\0\1\2"}, {"a": b"\0\1\3"}),
    "rights": ({"a": b"1\n"}, {"a": b"1\n2\n", "+x": b"a"}),
}


def write(folder: Path, tree: Tree) -> None:
    for name, content in tree.items():
        path = folder / name
        if name == "+x":
            (folder / content.decode()).chmod(0o755)
        elif content is None:
            path.unlink()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


def gold_of(folder: Path, before: Tree, after: Tree) -> str:
    def git(*words: str) -> str:
        env = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
        done = subprocess.run(
            ["git", "-c", "core.autocrlf=false", *words],
            cwd=folder,
            env=env,
            check=True,
            capture_output=True,
        )
        return done.stdout.decode("utf-8", "surrogateescape")

    git("init", "-q")
    write(folder, before)
    git("add", "-A")
    tree = git("write-tree").strip()
    write(folder, after)
    git("add", "-A")
    return git("diff", "--cached", "--binary", "-M", tree)


@pytest.fixture
def sandbox(bench: Bench) -> Iterator[Sandbox]:
    opened = bench.open()
    opened.run("rm -rf * && git init -q .", 10)
    yield opened
    opened.close()


@pytest.mark.parametrize("bash_only", [False, True], ids=["tools", "bash"])
@pytest.mark.parametrize("case", CASES)
def test_any_change_is_made(
    case: str, bash_only: bool, bench: Bench, sandbox: Sandbox, tmp_path: Path
) -> None:
    before, after = CASES[case]
    gold = gold_of(tmp_path, before, after)
    if case == "latin-1":
        gold = gold.encode("utf-8", "replace").decode()  # as a row of JSON would have it
    for name, content in before.items():
        sandbox.write(f"/testbed/{name}", content or b"")
    tools = Toolbox(sandbox, bash_only)
    oracle = PatchOracle(replace(bench.task, gold=gold), AgentFiles(sandbox), bash_only)
    for _ in range(20):
        thought, action = oracle.choose()
        answer = tools.use(action)
        assert thought and answer.valid, answer.text
        if answer.submits:
            break
    else:
        pytest.fail("it did not come to an end")
    if case == "latin-1":
        return  # such a gold patch cannot be applied; it has come to an end
    for name, content in after.items():
        if name == "+x":
            assert sandbox.run("test -x a", 5).exit_code == 0
        elif content is None:
            assert sandbox.run(f"test ! -e '{name}'", 5).exit_code == 0
        else:
            assert sandbox.read(f"/testbed/{name}") == content


def test_it_goes_by_what_is_there_now(bench: Bench, sandbox: Sandbox, tmp_path: Path) -> None:
    before, after = CASES["several places and files"]
    gold = gold_of(tmp_path, before, after)
    for name, content in before.items():
        sandbox.write(f"/testbed/{name}", content or b"")
    tools = Toolbox(sandbox)
    oracle = PatchOracle(replace(bench.task, gold=gold), AgentFiles(sandbox))
    oracle.choose()
    others = ("rm a", "create a\n<text>\nother\n</text>", "sed -i s/1/9/ d/b", "rm -r d")
    for other in others:
        tools.use(other)
        tools.use(oracle.choose()[1])
    while not (answer := tools.use(oracle.choose()[1])).submits:
        assert answer.valid
    assert {name: sandbox.read(f"/testbed/{name}") for name in after} == after


@pytest.mark.parametrize("case", ["several places and files", "rights", "binary"])
def test_a_patch_is_proposed_until_it_is_applied(
    case: str, bench: Bench, sandbox: Sandbox, tmp_path: Path
) -> None:
    """A warm start with noise asks the expert, and may then play another action."""
    before, after = CASES[case]
    gold = gold_of(tmp_path, before, after)
    for name, content in before.items():
        sandbox.write(f"/testbed/{name}", content or b"")
    oracle = PatchOracle(replace(bench.task, gold=gold), AgentFiles(sandbox), bash_only=True)
    proposed = oracle.choose()
    assert "git apply" in proposed[1] and oracle.choose() == proposed
    assert sandbox.run(proposed[1], 10).exit_code == 0
    assert oracle.choose()[1] == "submit"


def test_only_rights_are_changed_once(bench: Bench, sandbox: Sandbox) -> None:
    gold = "diff --git a/a b/a\nold mode 100644\nnew mode 100755\n"
    sandbox.run("echo 1 > a", 10)
    oracle = PatchOracle(replace(bench.task, gold=gold), AgentFiles(sandbox))
    assert sandbox.run(oracle.choose()[1], 10).exit_code == 0
    assert oracle.choose()[1] == "submit"
    assert sandbox.run("test -x a", 10).exit_code == 0


def test_without_a_gold_patch_there_is_no_answer(bench: Bench, sandbox: Sandbox) -> None:
    oracle = PatchOracle(replace(bench.task, gold=""), AgentFiles(sandbox))
    with pytest.raises(NoExpertError, match="no gold patch"):
        oracle.choose()
