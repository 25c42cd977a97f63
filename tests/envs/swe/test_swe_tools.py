"""The tools: what is read into actions, what texts become, and what happens in a real sandbox."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.swe.sandbox.base import Sandbox
from aem_gym.envs.swe.tools.files import AgentFiles, FileError
from aem_gym.envs.swe.tools.grammar import (
    USAGE,
    Bash,
    Create,
    Insert,
    Malformed,
    Search,
    StrReplace,
    Submit,
    ViewFile,
    instructions,
    parse,
)
from aem_gym.envs.swe.tools.toolbox import Toolbox, shortened, steady
from tests.envs.swe.swe_bench import Bench

# Reading ----------------------------------------------------------------------------------------

READ = {
    "ls -la": Bash("ls -la"),
    "cat <<'A' > x\n</text>\nA": Bash("cat <<'A' > x\n</text>\nA"),
    "```bash\nls\ncd ..\n```": Bash("ls\ncd .."),
    "viewer.py": Bash("viewer.py"),
    "submit_job now": Bash("submit_job now"),
    "submit": Submit(),
    "  submit \n": Submit(),
    "view a.py": ViewFile("a.py"),
    "view 'a b.py' 3 9": ViewFile("a b.py", 3, 9),
    'search "def f(" src': Search("def f(", "src"),
    "create a.py\n<text>\nx = 1\n\n</text>": Create("a.py", "x = 1\n"),
    "create a.py\n<text></text>": Create("a.py", ""),
    "insert a.py 0\n<text>\n    x\n</text>": Insert("a.py", 0, "    x"),
    "str_replace a.py\n<old>\n  a\n</old>\n<new>\n  b\n  c\n</new>": StrReplace(
        "a.py", "  a", "  b\n  c"
    ),
    "str_replace a.py\n<old>a</old><new></new>": StrReplace("a.py", "a", ""),
    "str_replace a\n<old>\n</new>\n</old>\n<new>\n</old>\n</new>": StrReplace(
        "a", "</new>", "</old>"
    ),
}


@pytest.mark.parametrize("action", READ)
def test_actions_are_read(action: str) -> None:
    assert parse(action) == READ[action]


@pytest.mark.parametrize(
    ("action", "answer"),
    {
        "": "no action",
        " \n ": "no action",
        "echo \0": "NUL",
        "view": "1 to 3",
        "view a 1": "got one",
        "view a one two": "'one'",
        "view a.py\nview b.py": "one action at a time",
        "submit now": "got 1",
        "search don't": "no closing quotation",
        "search a b c": "quote",
        'search ""': "empty",
        "create a.py": "<text>",
        "create a.py\n<text>\nx": "</text>",
        "create a.py\n<text>x</text>\nls": "nothing after it",
        "insert a.py -1\n<text>x</text>": "'-1'",
        "insert a.py 1": "<text>",
        "str_replace a.py\n<old>\n</old>\n<new>x</new>": "nothing between",
        "str_replace a.py\n<old>x</old>": "<new>",
    }.items(),
)
def test_what_cannot_be_read_is_answered_with_its_syntax(action: str, answer: str) -> None:
    call = parse(action)
    assert isinstance(call, Malformed) and answer in call.why
    word = action.split()[0] if action.split() else ""
    assert word not in USAGE or USAGE[word] in call.why


@given(st.text())
def test_any_text_is_read(action: str) -> None:
    for bash_only in (False, True):
        call = parse(action, bash_only=bash_only)
        assert not bash_only or isinstance(call, Bash | Submit | Malformed)


plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


@given(old=plain.filter(bool), new=plain)
def test_long_arguments_come_as_they_are(old: str, new: str) -> None:
    if any(tag in text for tag in ("<old>", "</old>", "<new>", "</new>") for text in (old, new)):
        return
    action = f"str_replace a.py\n<old>\n{old}\n</old>\n<new>\n{new}\n</new>"
    assert parse(action) == StrReplace("a.py", old, new)
    assert parse(f"create a.py\n<text>\n{old}\n</text>") == Create("a.py", old)


def test_instructions_show_every_tool() -> None:
    assert all(usage in instructions(bash_only=False) for usage in USAGE.values())
    alone = instructions(bash_only=True)
    assert "submit" in alone and "str_replace" not in alone


# Texts ------------------------------------------------------------------------------------------


@given(st.text(max_size=300), st.integers(1, 100))
def test_shortened_texts_keep_head_and_tail_and_tell_the_rest(text: str, limit: int) -> None:
    short = shortened(text, limit)
    if len(text) <= limit:
        assert short == text
    else:
        assert short.startswith(text[: limit - limit // 2])
        assert short.endswith(text[len(text) - limit // 2 :])
        assert f"{len(text) - limit:,} characters left out" in short


def test_times_of_test_runners_are_not_shown() -> None:
    one = "a.py .F [100%]\n===== 1 failed, 2 passed in 0.12s =====\n"
    two = "a.py .F [100%]\n==== 1 failed, 2 passed in 62.12s (0:01:02) ====\n"
    assert steady(one) == steady(two) != one
    assert steady("1 passed, 2 warnings in 0.01s") == "1 passed, 2 warnings"
    assert steady("Ran 3 tests in 0.002s\n\nOK") == "Ran 3 tests\n\nOK"
    assert steady("/bin/bash: line 23: x: command not found") == "bash: x: command not found"
    assert steady("slept in 0.12s, then in 3.00s") == "slept in 0.12s, then in 3.00s"


# In a sandbox -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox(bench: Bench) -> Iterator[Sandbox]:
    opened = bench.open()
    yield opened
    opened.close()


@pytest.fixture
def tools(sandbox: Sandbox) -> Iterator[Toolbox]:
    """A toolbox in a repository as it was at first."""
    yield Toolbox(sandbox, limit=2000, timeout=5)
    sandbox.run("exit", 5)
    script = "rm -rf /testbed/* /testbed/.[!.]* && cp -a /opt/aem/testbed/. /testbed/"
    sandbox.execute(["/bin/sh", "-c", script], 20)


def text_of(tools: Toolbox, path: str) -> bytes:
    return tools.sandbox.read(f"/testbed/{path}")


@pytest.mark.docker
class TestTools:
    def test_shell_keeps_folder_and_variables_and_tells_how_it_ended(self, tools: Toolbox) -> None:
        assert tools.use("cd tests; x=7").text == "(no output)\n[exit code 0]"
        answer = tools.use("pwd; echo $x; false")
        assert answer.text == "/testbed/tests\n7\n[exit code 1]" and answer.valid
        assert tools.use("id -u").text == "1000\n[exit code 0]"
        assert "[stopped: it ended its shell" in tools.use("exit 3").text
        assert tools.use("pwd; echo [$x]").text == "/testbed\n[]\n[exit code 0]"

    def test_a_command_that_takes_too_long_is_stopped(self, tools: Toolbox) -> None:
        quick = Toolbox(tools.sandbox, timeout=0.5)
        assert "it took more than 0.5 s" in quick.use("sleep 60").text
        assert quick.use("echo ok").text == "ok\n[exit code 0]"

    def test_long_output_is_cut_in_the_middle(self, tools: Toolbox) -> None:
        text = tools.use("seq 1 100000").text
        assert text.startswith("1\n2\n") and "\n99999\n100000\n[exit code 0]" in text
        assert "characters left out ...]" in text and len(text) < 2200

    def test_view(self, tools: Toolbox) -> None:
        assert "     4\tdef add(a, b):" in tools.use("view calc.py").text
        part = tools.use("view calc.py 4 5").text
        assert part == ("     4\tdef add(a, b):\n     5\t    return a + b\n[lines 4 to 5 of 9]")
        assert tools.use("view /testbed/calc.py 4 99").text.endswith("[lines 4 to 9 of 9]")
        folder = tools.use("view .").text
        assert folder.endswith("\ncalc.py\ndata/\ndata/note.txt\ntests/\ntests/test_calc.py")

    def test_long_files_are_shown_by_whole_lines(self, tools: Toolbox) -> None:
        tools.use("seq 1 5000 > long; head -c 3000 /dev/zero | tr '\\0' x > wide")
        text = tools.use("view long").text
        assert len(text) <= 2000 and text.endswith("of 5000]")
        shown = text.splitlines()[-2].split("\t")[1]
        assert f"[lines 1 to {shown} of 5000]" in text
        assert "characters left out" in tools.use("view wide").text

    @pytest.mark.parametrize(
        ("action", "answer"),
        {
            "view none.py": "none.py does not exist.",
            "view calc.py 20 30": "calc.py has 9 lines: lines 20 to 30 do not exist.",
            "view /etc/shadow": "may not be read by you",
            "view /opt/aem/testbed/calc.py": "does not exist",
            "view /dev/zero": "is no regular file",
            "str_replace calc.py\n<old>nothing</old>\n<new>x</new>": "does not contain the text",
            "str_replace calc.py\n<old>return</old>\n<new>x</new>": "2 times (lines 5, 9)",
            "str_replace calc.py\n<old>\ndef add(a,  b):\n   return a + b\n</old>\n<new>x</new>": (
                "does not contain"
            ),
            "str_replace calc.py\n<old>\ndef  add(a, b):\n  return a + b\n</old>\n<new>x</new>": (
                "Lines 4 to 5 differ from it only in whitespace"
            ),
            "str_replace tests\n<old>a</old>\n<new>x</new>": "is a folder",
            "create calc.py\n<text>x</text>": "is there already",
            "create /etc/x\n<text>x</text>": "cannot be written",
            "create /proc/x/y\n<text>x</text>": "cannot be",
            "insert calc.py 77\n<text>x</text>": "has 9 lines",
            "search x none": "does not exist",
        }.items(),
    )
    def test_an_action_that_fails_says_why(self, tools: Toolbox, action: str, answer: str) -> None:
        found = tools.use(action)
        assert answer in found.text and not found.valid

    def test_edits(self, tools: Toolbox) -> None:
        answer = tools.use("str_replace calc.py\n<old>a + b</old>\n<new>b + a</new>")
        assert answer.valid and "     5\t    return b + a" in answer.text
        tools.use("insert calc.py 0\n<text>\n# top\n</text>")
        tools.use("insert calc.py 10\n<text>\n# end\n\n</text>")
        content = text_of(tools, "calc.py").decode()
        assert content.startswith('# top\n"""Sums."""') and content.endswith("2 * a\n# end\n\n")
        assert tools.use("create new/deep/x.py\n<text>\nif x:\n    '$y' \\n\n</text>").valid
        assert text_of(tools, "new/deep/x.py") == b"if x:\n    '$y' \\n\n"

    def test_bytes_that_are_not_edited_stay(self, tools: Toolbox) -> None:
        content = b"\xff\xfe latin \xe9\r\none\r\ntwo\r\nno end"
        tools.sandbox.write("/testbed/odd", content)
        tools.sandbox.run("chmod 755 odd; ln -s odd link", 5)
        assert tools.use("str_replace link\n<old>\none\ntwo\n</old>\n<new>\n1\n2\n3\n</new>").valid
        assert text_of(tools, "odd") == content.replace(b"one\r\ntwo", b"1\r\n2\r\n3")
        assert tools.use("insert odd 5\n<text>\nlast\n</text>").valid
        assert text_of(tools, "odd").endswith(b"no end\r\nlast")
        assert tools.use("stat -c %a%F odd link").text.startswith("755regular file\n777symbolic")

    def test_search(self, tools: Toolbox) -> None:
        tools.use("mkdir .hidden; cp calc.py .hidden; printf 'a + b\\0' > bin")
        assert tools.use('search "a + b"').text == "calc.py:5:    return a + b"
        assert tools.use("search test_ tests").text.startswith("tests/test_calc.py:4:def test_")
        assert tools.use("search .*").text == "No matches."
        assert tools.use("search double calc.py").text == "calc.py:8:def double(a):"
        tools.use("seq 1000 1999 > n")
        assert tools.use("search 1 n").text.endswith("more lines match]")

    def test_tools_work_in_a_bent_shell(self, tools: Toolbox) -> None:
        bent = (
            "set -x; set -v; set -f; PATH=/nowhere; cd /; umask 777; IFS=x; "
            "base64() { echo no; }; printf() { echo no; }; alias sh=false; unset HOME"
        )
        tools.use(bent)
        assert "     5\t    return a + b" in tools.use("view calc.py").text
        assert tools.use("str_replace calc.py\n<old>a + b</old>\n<new>b + a</new>").valid
        assert b"b + a" in text_of(tools, "calc.py")
        assert "calc.py:5:" in tools.use('search "b + a"').text

    def test_roots_files_are_out_of_reach(self, tools: Toolbox) -> None:
        tools.use("ln -s /opt/aem/testbed/calc.py a; ln -s /run/aem b; ln -s /etc/shadow c")
        for name in ("a", "b/git/HEAD", "c"):
            assert not tools.use(f"view {name}").valid
            assert not tools.use(f"str_replace {name}\n<old>a</old>\n<new>b</new>").valid
        tools.use("ln -s /usr/local/x d")
        assert not tools.use("create d\n<text>x</text>").valid

    def test_large_files_are_refused(self, tools: Toolbox) -> None:
        tools.use("head -c 2000000 /dev/zero > zero")
        assert "2000000 bytes, too many" in tools.use("view zero").text
        with pytest.raises(FileError, match="more than"):
            AgentFiles(tools.sandbox, limit=10).write("x", b"y" * 11)

    def test_a_full_disk_leaves_a_file_as_it_was(self, tools: Toolbox) -> None:
        tools.use("cat calc.py > big; head -c 400000 /dev/urandom | base64 > rest")
        tools.use("cat /dev/zero > filler 2> /dev/null")
        answer = tools.use("str_replace calc.py\n<old>a + b</old>\n<new>" + "x" * 90_000 + "</new>")
        if not answer.valid:
            assert "cannot be written" in answer.text
            assert b"return a + b" in text_of(tools, "calc.py")
        tools.use("rm filler")
        assert tools.use("ls -A").text.count(".aem-part") == 0
