"""The file editor: view, create, str_replace, insert."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from aem_gym.envs.swe.tools.files import AgentFiles, FileError, IsFolder
from aem_gym.envs.swe.tools.grammar import Create, Insert, StrReplace, View
from aem_gym.envs.swe.tools.texts import fitting, numbered, shown

_AROUND = 3
"""Lines shown above and below a change."""


@dataclass(frozen=True, slots=True)
class Editor:
    """Edits the files of a sandbox as the agent.

    Every method returns what the agent is told, and raises FileError (what cannot be done) or
    SandboxError.

    Args:
        files: of the sandbox.
        limit: most characters of an answer.
    """

    files: AgentFiles
    limit: int

    def view(self, call: View) -> str:
        """A file with line numbers, as much as fits, or what lies in a folder."""
        try:
            lines = shown(self.files.read(call.path))
        except IsFolder:
            return self._folder(call.path)
        first, last = call.first or 1, call.last or len(lines)
        if not lines:
            return f"{call.path} is empty."
        if first > min(last, len(lines)):
            raise FileError(f"has {len(lines)} lines: there are none from {first} to {last}")
        chosen = lines[first - 1 : last]
        fit = fitting(chosen, self.limit - 200)
        text = numbered(chosen[:fit], first)
        if (first, first + fit - 1) == (1, len(lines)):
            return text
        return f"{text}\n[lines {first} to {first + fit - 1} of {len(lines)}]"

    def create(self, call: Create) -> str:
        """Write a new file."""
        text = call.text
        if text and not text.endswith("\n"):
            text += "\n"
        self.files.write(call.path, text.encode("utf-8", "replace"), new=True)
        return f"{call.path} is written: {text.count(chr(10))} lines."

    def str_replace(self, call: StrReplace) -> str:
        """Replace a text that occurs once."""

        def change(content: bytes) -> tuple[bytes, int, int]:
            old, new = _as_in(content, call.old), _as_in(content, call.new)
            places = _places(content, old)
            if not places:
                near = _near(content, old)
                raise FileError(f"does not hold the text between <old> and </old>{near}")
            if len(places) > 1:
                lines = [str(content.count(b"\n", 0, place) + 1) for place in places[:10]]
                more = ", ..." if len(places) > 10 else ""
                raise FileError(
                    f"holds the text between <old> and </old> {len(places)} times (in lines "
                    f"{', '.join(lines)}{more}): give more of what stands around it"
                )
            at = places[0]
            first = content.count(b"\n", 0, at) + 1
            return content[:at] + new + content[at + len(old) :], first, new.count(b"\n") + 1

        return self._change(call.path, change)

    def insert(self, call: Insert) -> str:
        """Put lines after a line."""

        def change(content: bytes) -> tuple[bytes, int, int]:
            lines = _lines(content)
            if call.line > len(lines):
                raise FileError(f"has {len(lines)} lines: nothing can come after {call.line}")
            new, end = _as_in(content, call.text), _as_in(content, "\n")
            before = b"".join(lines[: call.line])
            if before and not before.endswith(b"\n"):  # nor will the last line have an end now
                before += end
            else:
                new += end
            return before + new + b"".join(lines[call.line :]), call.line + 1, new.count(b"\n")

        return self._change(call.path, change)

    def _change(self, path: str, change: Callable[[bytes], tuple[bytes, int, int]]) -> str:
        try:
            content = self.files.read(path)
        except IsFolder as error:
            raise FileError(str(error)) from error
        changed, first, count = change(content)
        self.files.write(path, changed)
        lines = shown(changed)
        start = max(1, first - _AROUND)
        region = lines[start - 1 : first - 1 + max(count, 1) + _AROUND]
        fit = fitting(region, self.limit - 200)
        return f"{path} is changed. Now:\n{numbered(region[:fit], start)}"

    def _folder(self, path: str) -> str:
        names = self.files.tree(path)
        fit = fitting(names, self.limit - 200) if names else 0
        rest = f"\n[{len(names) - fit} more]" if fit < len(names) else ""
        return f"{path} is a folder. In it, down to two levels:\n" + "\n".join(names[:fit]) + rest


def _lines(content: bytes) -> list[bytes]:
    """The lines of a file with their ends."""
    lines = [line + b"\n" for line in content.split(b"\n")]
    last = lines.pop()[:-1]
    return [*lines, last] if last else lines


def _as_in(content: bytes, text: str) -> bytes:
    """A text with the line ends of a file, which an agent does not see."""
    data = text.encode("utf-8", "replace")
    if b"\r\n" in content and b"\r" not in data:
        return data.replace(b"\n", b"\r\n")
    return data


def _places(content: bytes, old: bytes) -> list[int]:
    """Where a text stands; places may overlap."""
    places, at = [], content.find(old)
    while at >= 0:
        places.append(at)
        at = content.find(old, at + 1)
    return places


def _near(content: bytes, old: bytes) -> str:
    """Where a text stands but for its blanks, in words; empty: nowhere."""
    wanted = [b" ".join(line.split()) for line in old.strip().split(b"\n")]
    lines = [b" ".join(line.split()) for line in content.split(b"\n")]
    for at in range(len(lines) - len(wanted) + 1):
        if lines[at] == wanted[0] and lines[at : at + len(wanted)] == wanted and any(wanted):
            return f". Lines {at + 1} to {at + len(wanted)} differ from it in blanks only"
    return ""
