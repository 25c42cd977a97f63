"""Response formats with function calls: `tool_call` (JSON) and `xml_function`.

The grammars are those of public models and scaffolds: `tool_call` of the chat templates of Qwen3
and Hermes; `xml_function` of Qwen3-Coder's chat template, of R2E-Gym (`agenthub/action`) and of
OpenHands (`fn_call_converter`). A call becomes the action that `types.Tool` describes.
"""

from __future__ import annotations

import copy
import json
import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Self

from aem_gym.agents.formats import unread
from aem_gym.protocols import ResponseFormat
from aem_gym.types import Tool

ACT = Tool(
    "act",
    "Takes one action in the environment.",
    {"action": {"type": "string", "description": "The action."}},
    required=("action",),
    action="action",
)
"""The tool of a prompt template without any."""
_KINDS: Mapping[str, type | tuple[type, ...]] = {
    **{"string": str, "integer": int, "number": (int, float), "boolean": bool},
    **{"array": list, "object": dict},
}
"""Type of a JSON schema -> of its value."""


class CallError(ValueError):
    """A call that cannot be read: (what was expected, what came)."""


class ToolFormat:
    """A thought, and one call of a tool."""

    name = ""
    mark = ""
    """Text of the format in a chat template that teaches it."""
    other_mark = ""
    """Text of another one."""

    def __init__(self, tools: Sequence[Tool] = ()) -> None:
        self.tools = {tool.name: tool for tool in (*tools,) or (ACT,)}

    def of(self, tools: Sequence[Tool]) -> Self:
        """The same format for the tools of a prompt template."""
        other = copy.copy(self)
        ToolFormat.__init__(other, tools)
        return other

    def render(self, thought: str, action: str) -> str:
        before = f"{thought}\n" if thought else ""
        return before + self.write(*self._call_of(action))

    def parse(self, text: str) -> tuple[str, str, bool]:
        thought, calls = self.read(text)
        try:
            if len(calls) != 1:
                raise CallError(f"exactly one call: {self.example()}", f"{len(calls)} calls")
            name, given = self.call(calls[0])
            return thought, self._action(name, given), True
        except CallError as error:
            return thought, unread(*error.args), False

    def schemas(self) -> list[dict[str, Any]]:
        """The tools, as chat templates and the API of OpenAI take them."""
        return [_schema(tool) for tool in self.tools.values()]

    def describe(self) -> str:
        """What a model is told about it, where its chat template does not tell."""
        listed = "\n".join(json.dumps(schema, ensure_ascii=False) for schema in self.schemas())
        return (
            f"These tools can be called:\n\n<tools>\n{listed}\n</tools>\n\nEach response ends with "
            f"exactly one call of a tool, after your thoughts about it, in this form:\n\n"
            f"{self.example()}"
        )

    def taught_by(self, tokenizer: Any, variables: Mapping[str, Any]) -> bool:
        """Whether the model's own chat template describes the tools, in this format."""
        template = str(tokenizer.get_chat_template(variables.get("chat_template")))
        if not re.search(r"\btools\b", template):
            return False
        said = tokenizer.apply_chat_template(
            [{"role": "user", "content": "."}],
            **{**variables, "tools": self.schemas(), "tokenize": False},
        )
        return self.mark in said and self.other_mark not in said

    @abstractmethod
    def example(self) -> str:
        """A call as it is written, with a name and arguments that stand for others."""

    @abstractmethod
    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        """The text of a call."""

    @abstractmethod
    def read(self, text: str) -> tuple[str, list[str]]:
        """The thought of a response, and the text of each call in it."""

    @abstractmethod
    def call(self, text: str) -> tuple[str, dict[str, Any]]:
        """Name and arguments of a call. Raises CallError."""

    def tool(self, name: str) -> Tool:
        """The tool of a name. Raises CallError."""
        if name not in self.tools:
            raise CallError(
                f"a call of {', '.join(self.tools)}", f"one of {name[:80] or 'nothing'}"
            )
        return self.tools[name]

    def _action(self, name: str, given: Mapping[str, Any]) -> str:
        """The action of a call. Raises CallError."""
        tool = self.tool(name)
        for parameter, value in given.items():
            if parameter not in tool.parameters:
                known = ", ".join(tool.parameters) or "no arguments"
                raise CallError(f"{name} with {known}", f"an argument {parameter[:80]}")
            _check(name, parameter, tool.parameters[parameter], value)
        for parameter in tool.required:
            if parameter not in given:
                raise CallError(f"{name} with the argument {parameter}", "none of that name")
        if tool.action:
            action = str(given.get(tool.action, "")).strip()
            if not action:
                raise CallError(f"{name} with a text in {tool.action}", "an empty one")
            return action
        return f"{name} {json.dumps(given, ensure_ascii=False)}" if given else name

    def _call_of(self, action: str) -> tuple[str, dict[str, Any]]:
        """The call that an action is: the reverse of `_action`."""
        name, _, rest = action.partition(" ")
        if name in self.tools and not self.tools[name].action:
            try:
                given = json.loads(rest or "{}")
            except ValueError:
                given = None
            if isinstance(given, dict):
                return name, given
        tool = next((tool for tool in self.tools.values() if tool.action), ACT)
        return tool.name, {tool.action: action}


class ToolCall(ToolFormat):
    """`<tool_call>` with a JSON object of `name` and `arguments`, as Qwen3 and Hermes write it."""

    name = "tool_call"
    mark, other_mark = '<tool_call>\n{"name"', "<function="
    _json = json.JSONDecoder(strict=False)

    def example(self) -> str:
        return '<tool_call>\n{"name": "NAME", "arguments": {"PARAMETER": "VALUE"}}\n</tool_call>'

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        content = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
        return f"<tool_call>\n{content}\n</tool_call>"

    def read(self, text: str) -> tuple[str, list[str]]:
        thought, opened, rest = text.partition("<tool_call>")
        calls: list[str] = []
        while opened:
            body = rest.lstrip()
            try:  # an argument may hold the text of a tag
                _, end = self._json.raw_decode(body)
            except (ValueError, RecursionError):
                end = 0
            before, _, after = body[end:].partition("</tool_call>")
            calls.append(body[:end] + before)
            _, opened, rest = after.partition("<tool_call>")
        return thought.strip(), calls

    def call(self, text: str) -> tuple[str, dict[str, Any]]:
        wanted = "a JSON object with name and arguments between <tool_call> and </tool_call>"
        try:
            content = json.loads(text, strict=False)
        except (ValueError, RecursionError) as error:
            raise CallError(wanted, f"text that is no JSON ({error})") from error
        if not isinstance(content, dict) or not isinstance(content.get("name"), str):
            raise CallError(wanted, f"{json.dumps(content)[:80]}")
        given = content.get("arguments", {})
        if isinstance(given, str):  # JSON in JSON, as the API of OpenAI has it
            try:
                given = json.loads(given or "{}", strict=False)
            except (ValueError, RecursionError) as error:
                raise CallError(wanted, f"arguments that are no JSON ({error})") from error
        if not isinstance(given, dict):
            raise CallError(wanted, f"arguments that are no object: {json.dumps(given)[:80]}")
        return content["name"], given


class XmlFunction(ToolFormat):
    """`<function=NAME>` with `<parameter=KEY>VALUE</parameter>` (Qwen3-Coder, R2E-Gym, OpenHands).

    `<tool_call>` around it is left out. A value that begins on the next line ends before the
    line of its closing tag. The last `</function>` may be missing: scaffolds stop sampling there.
    """

    name = "xml_function"
    mark, other_mark = "<function=", '"arguments"'
    _block = re.compile(r"(<function\s*=.*?)(?:</function\s*>?|(?=<function\s*=)|\Z)", re.DOTALL)
    _head = re.compile(r"<function\s*=\s*([^>\n]*)>")
    _parameter = re.compile(r"<parameter\s*=\s*([^>\n]*)>(.*?)</parameter>", re.DOTALL)

    def example(self) -> str:
        return "<function=NAME>\n<parameter=PARAMETER>\nVALUE\n</parameter>\n</function>"

    def write(self, name: str, arguments: Mapping[str, Any]) -> str:
        lines = [f"<function={name}>"]
        for parameter, value in arguments.items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            lines.append(f"<parameter={parameter}>\n{text}\n</parameter>")
        return "\n".join([*lines, "</function>"])

    def read(self, text: str) -> tuple[str, list[str]]:
        thought = re.split(r"(?:<tool_call>\s*)?<function\s*=", text, maxsplit=1)[0]
        return thought.strip(), self._block.findall(text)

    def call(self, text: str) -> tuple[str, dict[str, Any]]:
        head = self._head.match(text)
        if not head:
            raise CallError("<function=NAME>", text[:80])
        name, rest = head[1].strip(), text[head.end() :]
        left = self._parameter.sub("", rest).strip()
        if left:
            wanted = "each argument as <parameter=KEY>VALUE</parameter>, and nothing else"
            raise CallError(wanted, left[:80])
        tool, given = self.tool(name), dict[str, Any]()
        for key, value in self._parameter.findall(rest):
            key = key.strip()
            if value.startswith("\n"):  # the tags have lines of their own
                value = value[1:].removesuffix("\n")
            given[key] = _typed(tool.parameters.get(key, {}), value)
        return name, given


def told(form: ResponseFormat, tokenizer: Any, variables: Mapping[str, Any]) -> tuple[str, Any]:
    """(text to add to the system message, tools for the chat template or None) of a format."""
    if isinstance(form, ToolFormat) and form.taught_by(tokenizer, variables):
        return "", form.schemas()
    describe = getattr(form, "describe", None)
    return (str(describe()) if describe else ""), None


def _schema(tool: Tool) -> dict[str, Any]:
    properties = {name: dict(schema) for name, schema in tool.parameters.items()}
    parameters = {"type": "object", "properties": properties, "required": list(tool.required)}
    about = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": about}


def _typed(schema: Mapping[str, Any], text: str) -> Any:
    """The value that a text stands for, by its schema; the text itself where it is none."""
    kind = schema.get("type", "string")
    if kind == "string":
        return text.strip() if "enum" in schema or schema.get("format") == "path" else text
    word = text.strip()
    if kind == "boolean" and word.lower() in ("true", "false"):
        return word.lower() == "true"
    try:
        return json.loads(word)
    except (ValueError, RecursionError):
        return text


def _check(tool: str, parameter: str, schema: Mapping[str, Any], value: Any) -> None:
    """Raise CallError where an argument is not of its schema."""
    kind = str(schema.get("type", "string"))
    wanted = _KINDS.get(kind, object)
    fits = isinstance(value, wanted) and (kind == "boolean" or not isinstance(value, bool))
    if not fits:
        raise CallError(f"{tool} with {parameter} of type {kind}", json.dumps(value)[:80])
    if "enum" in schema and value not in schema["enum"]:
        allowed = ", ".join(map(str, schema["enum"]))
        raise CallError(f"{tool} with {parameter} among {allowed}", json.dumps(value)[:80])
