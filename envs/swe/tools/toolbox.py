"""The agent's tools in one sandbox: one action in, one answer out."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from aem_gym.envs.swe.sandbox.base import WORKDIR, CommandResult, Sandbox
from aem_gym.envs.swe.tools.calls import parse
from aem_gym.envs.swe.tools.files import AgentFiles, FileError, IsFolder, absolute
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

_AROUND = 3
"""Lines shown above and below a change."""
_MATCH = 200
"""Characters of a line that is found."""
_LONGEST_LINE = 2000
# What differs between runs of the same command: the times of test runners, and the line numbers of
# the shell's messages.
_RULED = re.compile(r"^=+ (.*?) in \d+\.\d+s(?: \([^)]*\))? =+$", re.MULTILINE)
_LINE = re.compile(r"^/bin/bash: (?:eval: )?line \d+: ", re.MULTILINE)
_TIMED = re.compile(
    r"^((?:Ran \d+ tests?|(?:\d+ \w+(?:, )?)+|no tests ran)) in \d+\.\d+s(?: \([^)]*\))?$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class ToolResult:
    text: str
    valid: bool = True
    """The action was well-formed and was done; true of any shell command."""
    submits: bool = False


@dataclass(frozen=True, slots=True)
class Toolbox:
    """The tools of an agent in a sandbox. They never have more rights than the agent.

    With `bash_only` they are the shell and `submit` alone. `timeout` is in seconds, for a command;
    `limit` is the most characters of an answer.
    """

    sandbox: Sandbox
    bash_only: bool = False
    timeout: float = 90.0
    limit: int = 10_000
    history: dict[str, list[bytes]] = field(default_factory=dict)
    """What each file held before each change of it by these tools, by absolute path."""

    def use(self, action: str) -> ToolResult:
        """Do an action. Raises SandboxError if the sandbox is gone."""
        call = parse(action, bash_only=self.bash_only)
        if isinstance(call, Submit):
            return ToolResult("", submits=True)
        if isinstance(call, Malformed):
            return ToolResult(shortened(call.why, self.limit), valid=False)
        if isinstance(call, Reply):
            return ToolResult(shortened(call.text, self.limit))
        if isinstance(call, Bash):
            return ToolResult(self._bash(call.command))
        try:
            return ToolResult(shortened(self._tool(call), self.limit))
        except FileError as error:
            name = getattr(call, "path", "") or WORKDIR
            return ToolResult(shortened(f"{cut(name, 200)} {error}.", self.limit), valid=False)

    def _tool(self, call: Call) -> str:
        files = AgentFiles(self.sandbox)
        editor = Editor(files, self.limit, self.history)
        match call:
            case ViewFile():
                return editor.view(call)
            case Create():
                return editor.create(call)
            case StrReplace():
                return editor.str_replace(call)
            case Insert():
                return editor.insert(call)
            case UndoEdit():
                return editor.undo_edit(call)
            case Search():
                return self._search(files, call)
        raise AssertionError(call)

    def _bash(self, command: str) -> str:
        ran = self.sandbox.run(command, self.timeout)
        text = shortened(steady(ran.output).rstrip("\n"), self.limit, left_out=ran.elided)
        return f"{text}\n{self._end(ran)}" if text else f"(no output)\n{self._end(ran)}"

    def _end(self, ran: CommandResult) -> str:
        """The last line of a command's answer: how it ended."""
        if ran.exit_code is not None:
            return f"[exit code {ran.exit_code}]"
        why = "it ended its shell, or printed too much"
        if ran.timed_out:
            why = f"it took more than {self.timeout:g} s"
        return f"[stopped: {why}; the next command gets a new shell in {WORKDIR}]"

    def _search(self, files: AgentFiles, call: Search) -> str:
        found = files.search(call.text, call.path)
        if not found:
            return "No matches."
        lines = [
            f"{_joined(call.path, name)}:{number}:{cut(line, _MATCH)}"
            for name, number, line in found
        ]
        fit = fitting(lines, self.limit - 200)
        rest = f"\n[{len(lines) - fit} more lines match]" if fit < len(lines) else ""
        return "\n".join(lines[:fit]) + rest


@dataclass(frozen=True, slots=True)
class Editor:
    """Edits the files of a sandbox as the agent.

    Every method returns the agent's observation, of at most `limit` characters. It raises FileError
    if it cannot be done, and SandboxError if the sandbox is gone.
    """

    files: AgentFiles
    limit: int
    history: dict[str, list[bytes]] = field(default_factory=dict)
    """As in `Toolbox`."""

    def view(self, call: ViewFile) -> str:
        """A file with line numbers, as much as fits, or the names in a folder."""
        try:
            lines = shown(self.files.read(call.path))
        except IsFolder:
            return self._folder(call.path)
        first, last = call.first or 1, call.last or len(lines)
        if not lines:
            return f"{call.path} is empty."
        if first > min(last, len(lines)):
            raise FileError(f"has {len(lines)} lines: lines {first} to {last} do not exist")
        chosen = lines[first - 1 : last]
        fit = fitting(chosen, self.limit - 200)
        text = numbered(chosen[:fit], first)
        if (first, first + fit - 1) == (1, len(lines)):
            return text
        return f"{text}\n[lines {first} to {first + fit - 1} of {len(lines)}]"

    def create(self, call: Create) -> str:
        text = call.text
        if text and not text.endswith("\n"):
            text += "\n"
        self.files.write(call.path, text.encode("utf-8", "replace"), new=True)
        return f"{call.path} was written: {text.count(chr(10))} lines."

    def str_replace(self, call: StrReplace) -> str:
        """Replace a text that occurs once."""

        def change(content: bytes) -> tuple[bytes, int, int]:
            old, new = _as_in(content, call.old), _as_in(content, call.new)
            places = _places(content, old)
            if not places:
                near = _near(content, old)
                raise FileError(f"does not contain the text between <old> and </old>{near}")
            if len(places) > 1:
                lines = [str(content.count(b"\n", 0, place) + 1) for place in places[:10]]
                more = ", ..." if len(places) > 10 else ""
                raise FileError(
                    f"contains the text between <old> and </old> {len(places)} times (lines "
                    f"{', '.join(lines)}{more}): include more of the surrounding text"
                )
            at = places[0]
            first = content.count(b"\n", 0, at) + 1
            return content[:at] + new + content[at + len(old) :], first, new.count(b"\n") + 1

        return self._change(call.path, change)

    def insert(self, call: Insert) -> str:
        def change(content: bytes) -> tuple[bytes, int, int]:
            lines = _lines(content)
            if call.line > len(lines):
                raise FileError(
                    f"has {len(lines)} lines: nothing can be inserted after line {call.line}"
                )
            new, end = _as_in(content, call.text), _as_in(content, "\n")
            before = b"".join(lines[: call.line])
            if before and not before.endswith(b"\n"):  # nor will the last line have an end now
                before += end
            else:
                new += end
            return before + new + b"".join(lines[call.line :]), call.line + 1, new.count(b"\n")

        return self._change(call.path, change)

    def undo_edit(self, call: UndoEdit) -> str:
        before = self.history.get(absolute(call.path))
        if not before:
            raise FileError("has no change by these tools to take back")
        self.files.write(call.path, before[-1])
        before.pop()
        lines = shown(self.files.read(call.path))
        fit = fitting(lines, self.limit - 200) if lines else 0
        return f"The last change of {call.path} was taken back. It now reads:\n" + numbered(
            lines[:fit], 1
        )

    def _change(self, path: str, change: Callable[[bytes], tuple[bytes, int, int]]) -> str:
        try:
            content = self.files.read(path)
        except IsFolder as error:
            raise FileError(str(error)) from error
        changed, first, count = change(content)
        self.files.write(path, changed)
        self.history.setdefault(absolute(path), []).append(content)
        lines = shown(changed)
        start = max(1, first - _AROUND)
        region = lines[start - 1 : first - 1 + max(count, 1) + _AROUND]
        fit = fitting(region, self.limit - 200)
        return f"{path} was changed. It now reads:\n{numbered(region[:fit], start)}"

    def _folder(self, path: str) -> str:
        names = self.files.tree(path)
        fit = fitting(names, self.limit - 200) if names else 0
        rest = f"\n[{len(names) - fit} more]" if fit < len(names) else ""
        return (
            f"{path} is a folder. Its contents, two levels deep:\n" + "\n".join(names[:fit]) + rest
        )


def _joined(path: str, name: str) -> str:
    """The path of a file that a search found in or at `path`."""
    if posixpath.basename(posixpath.normpath(path)) == name:
        return path
    return posixpath.normpath(posixpath.join(path, name))


def _lines(content: bytes) -> list[bytes]:
    """The lines of a file with their ends."""
    lines = [line + b"\n" for line in content.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _as_in(content: bytes, text: str) -> bytes:
    """A text with the line ends of a file, which the agent does not see."""
    data = text.encode("utf-8", "replace")
    if b"\r\n" in content and b"\r" not in data:
        return data.replace(b"\n", b"\r\n")
    return data


def _places(content: bytes, old: bytes) -> list[int]:
    """The offsets of a text, overlapping ones included."""
    places, at = [], content.find(old)
    while at >= 0:
        places.append(at)
        at = content.find(old, at + 1)
    return places


def _near(content: bytes, old: bytes) -> str:
    """A hint where lines differ from a text in blanks only; empty if nowhere."""
    wanted = [b" ".join(line.split()) for line in old.strip().split(b"\n")]
    lines = [b" ".join(line.split()) for line in content.split(b"\n")]
    for at in range(len(lines) - len(wanted) + 1):
        if lines[at] == wanted[0] and lines[at : at + len(wanted)] == wanted and any(wanted):
            return f". Lines {at + 1} to {at + len(wanted)} differ from it only in whitespace"
    return ""


def shortened(text: str, limit: int, *, left_out: int = 0) -> str:
    """The text, or its head and tail (`limit` characters) and a note of how much is left out.

    `left_out` are the bytes that were left out earlier.
    """
    if len(text) <= limit:
        return text
    head, tail = limit - limit // 2, limit // 2
    gone = len(text) - limit + left_out
    return f"{text[:head]}\n[... {gone:,} characters left out ...]\n{text[len(text) - tail :]}"


def steady(text: str) -> str:
    """Output without the times of pytest and unittest and the line numbers of the shell."""
    return _LINE.sub("bash: ", _TIMED.sub(r"\1", _RULED.sub(r"=== \1 ===", text)))


def numbered(lines: list[str], first: int) -> str:
    """Lines with their numbers, as `cat -n` prints them."""
    return "\n".join(f"{number:6}\t{cut(line)}" for number, line in enumerate(lines, first))


def cut(line: str, longest: int = _LONGEST_LINE) -> str:
    line = line.removesuffix("\r")
    return line if len(line) <= longest else f"{line[:longest]} [... {len(line) - longest:,} more]"


def fitting(lines: list[str], limit: int) -> int:
    """The number of first lines with at most `limit` characters in total; at least one."""
    total = 0
    for number, line in enumerate(lines):
        total += min(len(line), _LONGEST_LINE + 20) + 8
        if total > limit:
            return max(1, number)
    return len(lines)


def shown(content: bytes) -> list[str]:
    """The lines of a file, decoded."""
    lines = content.decode("utf-8", "replace").replace("\0", "\ufffd").split("\n")
    return lines[:-1] if lines[-1] == "" else lines
