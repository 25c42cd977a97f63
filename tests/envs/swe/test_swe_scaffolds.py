"""Transcripts in the grammars of public scaffolds: the same commands, whatever they are written in.

The responses were written for these tests, by the grammar of each scaffold's own parser: that of
mini-swe-agent's text models, of Qwen3's and Qwen3-Coder's chat templates, of R2E-Gym, OpenHands and
SWE-agent (function calls), and of ReAct.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.agents.formats import response_format
from aem_gym.agents.tool_formats import ToolFormat
from aem_gym.envs.swe.env import PROMPT_TEMPLATES, SWEEnv
from aem_gym.envs.swe.sandbox.base import SandboxEngine
from aem_gym.envs.swe.tools.calls import COMMANDS, parse
from aem_gym.envs.swe.tools.grammar import (
    Bash,
    Call,
    Create,
    Insert,
    Malformed,
    Reply,
    Search,
    StrReplace,
    Submit,
    UndoEdit,
    ViewFile,
)
from aem_gym.envs.swe.tools.toolbox import Toolbox
from aem_gym.protocols import ResponseFormat
from tests.envs.swe.swe_bench import BROKEN, Episode
from tests.envs.swe.swe_own import write_tasks

VIEW = ViewFile("/testbed/calc.py", 1, 5)
REST = ViewFile("/testbed/calc.py", 3, None)
NEW = Create("/testbed/run.py", "from calc import add\n\nprint(add(2, 2))\n")
EDIT = StrReplace("/testbed/calc.py", "    return a - b", "    return a + b")
ADD = Insert("/testbed/calc.py", 0, "# sums")
RUN = Bash("cd /testbed && python run.py 2>&1 | tail -3")
TWO = Bash("cat > x.py <<'EOF'\nif 1 < 2:\n    print('</text>')\nEOF\npython x.py")


def form(template: str, name: str = "") -> ResponseFormat:
    """The response format of a prompt template, or another with the template's tools."""
    shown = PROMPT_TEMPLATES[template]
    made = response_format(name or shown.response_format)
    return made.of(shown.tools) if isinstance(made, ToolFormat) else made


def read(form: ResponseFormat, response: str) -> Call:
    _, action, valid = form.parse(response)
    call = parse(action)
    assert valid == (not isinstance(call, Malformed) and not action.startswith("(no action) The"))
    return call


def qwen3(name: str, **arguments: Any) -> str:
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"I will do that now.\n<tool_call>\n{body}\n</tool_call>"


def coder(name: str, **arguments: Any) -> str:
    lines = [
        f"<parameter={key}>\n{value if isinstance(value, str) else json.dumps(value)}\n</parameter>"
        for key, value in arguments.items()
    ]
    inner = "\n".join([f"<function={name}>", *lines, "</function>"])
    return f"I will do that now.\n\n<tool_call>\n{inner}\n</tool_call>"


def openhands(name: str, **arguments: Any) -> str:
    """One-line values stay on the line of their tags; sampling stopped before the last tag."""
    lines = []
    for key, value in arguments.items():
        text = str(value)
        text = f"\n{text}\n" if "\n" in text else text
        lines.append(f"<parameter={key}>{text}</parameter>")
    return "\n".join(["Let me do that:", f"<function={name}>", *lines, "</function>"])


def r2e(name: str, **arguments: Any) -> str:
    lines = [f"  <parameter={key}>{value}</parameter>" for key, value in arguments.items()]
    return "\n".join(["First I look.", f"<function={name}>", *lines, ""])  # as it was cut there


def editor(write: Any, name: str) -> dict[str, Call]:
    """The editor's five commands as a scaffold writes them."""
    file = "/testbed/calc.py"
    return {
        write(name, command="view", path=file, view_range=[1, 5]): VIEW,
        write(name, command="view", path=file, view_range=[3, -1]): REST,
        write(name, command="view", path="/testbed"): ViewFile("/testbed"),
        write(name, command="create", path="/testbed/run.py", file_text=NEW.text): NEW,
        write(
            name, command="str_replace", path=file, old_str="    return a - b",
            new_str="    return a + b",
        ): EDIT,
        write(name, command="str_replace", path=file, old_str="x"): StrReplace(file, "x", ""),
        write(name, command="insert", path=file, insert_line=0, new_str="# sums"): ADD,
        write(name, command="undo_edit", path=file): UndoEdit(file),
    }  # fmt: skip


SAID: Mapping[str, tuple[ResponseFormat, Mapping[str, Call]]] = {
    "mini-swe-agent": (
        form("mini"),
        {
            f"THOUGHT: Reproduce it first.\n\n```bash\n{RUN.command}\n```": RUN,
            f"THOUGHT: A script.\n\n```mswea_bash_command\n{TWO.command}\n```\n": TWO,
            "Done.\n\n```bash\necho COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT\n```": Submit(),
            "```bash\necho COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT && git add -A && git diff "
            "--cached\n```": Submit(),
            "```python\nno_action()\n```\nbut\n```bash\nls\n```": Bash("ls"),
        },
    ),
    "qwen3": (
        form("tools"),
        {
            qwen3("bash", command=RUN.command): RUN,
            qwen3("bash", command=TWO.command): TWO,
            qwen3("bash", command="echo '</tool_call>'"): Bash("echo '</tool_call>'"),
            qwen3("submit"): Submit(),
            '<tool_call>{"name": "submit"}</tool_call>': Submit(),
            '<tool_call>{"name": "bash", "arguments": "{\\"command\\": \\"ls\\"}"}': Bash("ls"),
            **editor(qwen3, "str_replace_editor"),
        },
    ),
    "qwen3-coder": (
        form("tools", "xml_function"),
        {
            coder("bash", command=RUN.command): RUN,
            coder("bash", command=TWO.command): TWO,
            coder("submit"): Submit(),
            **editor(coder, "str_replace_editor"),
        },
    ),
    "openhands": (
        form("openhands"),
        {
            openhands("execute_bash", command=RUN.command): RUN,
            openhands("execute_bash", command=TWO.command, is_input="false"): TWO,
            openhands("think", thought="hm"): Reply("The thought was noted."),
            openhands("finish", message="All done.", task_completed="true"): Submit(),
            openhands("finish"): Submit(),
            **editor(openhands, "str_replace_editor"),
        },
    ),
    "r2e-gym": (
        form("r2e"),
        {
            r2e("execute_bash", cmd=RUN.command): RUN,
            r2e("search", search_term="def add", path="/testbed"): Search("def add", "/testbed"),
            r2e("search", search_term="def add"): Search("def add"),
            r2e("finish", command="submit", result=""): Submit(),
            r2e("file_editor", command="view", path="./calc.py", concise="True"): ViewFile(
                "./calc.py"
            ),
            **editor(r2e, "file_editor"),
        },
    ),
    "react": (
        form("bash", "react"),
        {
            f"Thought: look at it\nAction: {RUN.command}": RUN,
            f"Thought 1: run it\nAction 1: {TWO.command}\nObservation 1: 4\nThought 2: x": TWO,
            "Thought:\nI am done.\n\nAction:\nsubmit": Submit(),
        },
    ),
}
EACH = [(name, text) for name, (_, said) in SAID.items() for text in said]


@pytest.mark.parametrize(("scaffold", "response"), EACH)
def test_a_scaffolds_transcript_is_read_as_the_same_commands(scaffold: str, response: str) -> None:
    reader, said = SAID[scaffold]
    assert read(reader, response) == said[response]
    assert reader.parse(response)[2]


JSON = "a JSON object with name and arguments"
WRONG = [
    ("mini", "", "I would run ls.", "got 0 such blocks"),
    ("mini", "", "```bash\nls\n```\nor\n```bash\ncd ..\n```", "got 2 such blocks"),
    ("mini", "", "```bash\n\n```", "an empty block"),
    ("mini", "", "```bash\nls", "ends with ```; got 0 such blocks"),
    ("tools", "", "Let me think about it.", "exactly one call: <tool_call>"),
    ("tools", "", qwen3("submit") + qwen3("submit"), "got 2 calls"),
    ("tools", "", "<tool_call>\n{'name': 'bash'}\n</tool_call>", JSON),
    ("tools", "", '<tool_call>{"name": "bash", "arguments": {"command": "ls"}}}</tool_call>', JSON),
    ("tools", "", '<tool_call>{"name": "bash", "arguments": [1]}</tool_call>', "no object: [1]"),
    ("tools", "", '<tool_call>{"arguments": {}}</tool_call>', JSON),
    ("tools", "", '<tool_call>["bash"]</tool_call>', JSON),
    ("tools", "", qwen3("python", code="1"), "a call of bash, str_replace_editor, submit; got one"),
    ("tools", "", qwen3("bash", cmd="ls"), "bash with command; got an argument cmd"),
    ("tools", "", qwen3("bash"), "the argument command; got none"),
    ("tools", "", qwen3("bash", command=" "), "a text in command; got an empty one"),
    ("tools", "", qwen3("bash", command=["ls"]), 'type string; got ["ls"]'),
    ("tools", "", qwen3("str_replace_editor", command="open", path="x"), "among view, create"),
    ("tools", "", qwen3("str_replace_editor", command="view", path="", view_range="1"), "array"),
    ("r2e", "", "<function=execute_bash>\n<parameter=cmd>ls\n</function>", "each argument as"),
    ("r2e", "", "<function=execute_bash>ls</function>", "each argument as"),
    ("r2e", "", "<function=shell>\n</function>", "a call of file_editor, execute_bash"),
    ("r2e", "", r2e("file_editor", command="insert", path="x", insert_line="top"), "integer"),
    ("r2e", "", r2e("finish"), "finish with the argument command"),
    ("r2e", "", r2e("execute_bash", cmd="a") + r2e("execute_bash", cmd="b"), "got 2 calls"),
    ("openhands", "", "What do you want me to do?", "exactly one call: <function="),
    ("bash", "react", "Thought: hm", "a line `Action: ...`"),
    ("bash", "react", "ls", "a line `Action: ...`"),
]  # fmt: skip


@pytest.mark.parametrize(("template", "name", "response", "why"), WRONG)
def test_a_malformed_response_does_nothing_and_is_told_what_is_wrong(
    template: str, name: str, response: str, why: str
) -> None:
    _, action, valid = form(template, name).parse(response)
    call = parse(action)
    assert not valid and isinstance(call, Reply)
    assert why in call.text and call.text.startswith("The response was not understood")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"command": "view", "path": "x", "view_range": [3]}, "[FIRST, LAST], got [3]"),
        ({"command": "view", "path": "x", "view_range": [5, 2]}, "got [5, 2]"),
        ({"command": "view", "path": "x", "view_range": [0, 2]}, "lines from 1 on"),
        ({"command": "create", "path": "x"}, "argument file_text"),
        ({"command": "str_replace", "path": "x"}, "argument old_str"),
        ({"command": "str_replace", "path": "x", "old_str": ""}, "old_str is empty"),
        ({"command": "insert", "path": "x", "new_str": "y"}, "insert_line: expected a line"),
        ({"command": "insert", "path": "x", "insert_line": 1}, "argument new_str"),
        ({"command": "create", "path": "x", "file_text": "\0"}, "expected a text"),
        ({"path": "x"}, "argument command"),
    ],
)
def test_what_the_editors_commands_lack_is_named(given: Mapping[str, Any], why: str) -> None:
    call = parse(f"str_replace_editor {json.dumps(given)}")
    assert isinstance(call, Malformed) and why in call.why


def test_with_the_shell_alone_there_is_no_editor() -> None:
    call = parse('str_replace_editor {"command": "view", "path": "x"}', bash_only=True)
    assert isinstance(call, Malformed) and "no such tool here" in call.why
    assert parse('execute_bash {"cmd": "ls"}', bash_only=True) == Bash("ls")
    assert parse('finish {"command": "submit"}', bash_only=True) == Submit()


TOOLS = st.sampled_from(["str_replace_editor", "file_editor", "bash", "search", "think", "finish"])
VALUES = st.none() | st.integers() | st.text(max_size=9) | st.lists(st.integers(), max_size=3)
KEYS = st.sampled_from(
    ["command", "path", "view_range", "old_str", "new_str", "file_text", "insert_line", "cmd"]
)
ARGUMENTS = st.dictionaries(KEYS, VALUES | st.sampled_from(COMMANDS))


@given(name=TOOLS, given=ARGUMENTS)
def test_any_arguments_are_read(name: str, given: Mapping[str, Any]) -> None:
    parse(f"{name} {json.dumps(given)}")


@pytest.mark.parametrize("name", ["tool_call", "xml_function"])
@given(name_of=TOOLS, given=ARGUMENTS)
def test_a_call_that_was_read_is_written_as_itself(
    name: str, name_of: str, given: Mapping[str, Any]
) -> None:
    reader = form("tools", name)
    assert isinstance(reader, ToolFormat)
    thought, action, valid = reader.parse(f"why\n{reader.write(name_of, given)}")
    if valid:
        assert reader.parse(reader.render(thought, action)) == (thought, action, True)


@pytest.mark.docker
def test_the_editor_changes_a_file_and_takes_it_back(episode: Episode) -> None:
    tools = Toolbox(episode.sandbox)
    reader = form("r2e")

    def use(**arguments: Any) -> str:
        return tools.use(reader.parse(r2e("file_editor", **arguments))[1]).text

    path = "/testbed/calc.py"
    assert "return a - b" in use(command="view", path=path)
    edit = {"command": "str_replace", "path": path, "old_str": "a - b", "new_str": "a + b"}
    assert "return a + b" in use(**edit)
    assert "was changed" in use(command="insert", path=path, insert_line=0, new_str="# top")
    assert "does not contain" in use(**edit)
    assert episode.run(f"head -1 {path}").strip() == "# top"
    assert "was taken back" in use(command="undo_edit", path="calc.py")
    assert "return a - b" in use(command="undo_edit", path=path)
    assert episode.sandbox.read(path) == BROKEN
    assert "no change by these tools" in use(command="undo_edit", path=path)
    new = {"command": "create", "path": "/testbed/new.py", "file_text": "x = 1"}
    assert "was written" in use(**new) and "there already" in use(**new)


FIXES: Mapping[str, list[str]] = {
    "mini": [
        "THOUGHT: look\n\n```bash\ngrep -n 'a - b' calc.py\n```",
        "THOUGHT: mend\n\n```bash\nsed -i 's/a - b/a + b/' calc.py\n```",
        "```bash\necho COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT\n```",
    ],
    "tools": [
        qwen3("bash", command="grep -n 'a - b' calc.py"),
        qwen3("str_replace_editor", command="str_replace", path="/testbed/calc.py",
              old_str="return a - b", new_str="return a + b"),
        qwen3("submit"),
    ],
    "r2e": [
        r2e("search", search_term="a - b", path="/testbed"),
        r2e("file_editor", command="str_replace", path="/testbed/calc.py",
            old_str="return a - b", new_str="return a + b"),
        r2e("finish", command="submit"),
    ],
    "openhands": [
        openhands("think", thought="it is in calc.py"),
        openhands("str_replace_editor", command="str_replace", path="/testbed/calc.py",
                  old_str="return a - b", new_str="return a + b"),
        openhands("finish", message="done"),
    ],
}  # fmt: skip


@pytest.mark.docker
@pytest.mark.parametrize("template", FIXES)
def test_a_transcript_of_each_scaffold_resolves_a_task(
    engine: SandboxEngine, tmp_path: Path, template: str
) -> None:
    """What cannot be read takes a step, changes nothing, and is answered with the reason."""
    env = SWEEnv(tasks=str(write_tasks(tmp_path)), split="test", max_turns=8)
    reader = form(template)
    try:
        env.reset(seed=0, options={"task_id": "add"})
        answer, _, over, *_ = env.step(reader.parse("I do not know.")[1])
        assert answer.startswith("The response was not understood") and "[7 steps left]" in answer
        for response in FIXES[template]:
            assert not over
            answer, reward, over, _, info = env.step(reader.parse(response)[1])
        assert over and reward == 1.0 and info["resolved"], answer
    finally:
        env.close()
