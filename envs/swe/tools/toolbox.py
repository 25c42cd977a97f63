"""One action in, one answer out: the tools of an agent in one sandbox."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from aem_gym.envs.swe.sandbox.base import WORKDIR, CommandResult, Sandbox
from aem_gym.envs.swe.tools.editor import Editor
from aem_gym.envs.swe.tools.files import AgentFiles, FileError
from aem_gym.envs.swe.tools.grammar import (
    Bash,
    Call,
    Create,
    Insert,
    Malformed,
    Search,
    StrReplace,
    Submit,
    View,
    parse,
)
from aem_gym.envs.swe.tools.texts import cut, fitting, shortened, steady

_MATCH = 200
"""Characters of a line that is found."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What an action came to."""

    text: str
    valid: bool = True
    """It could be read, and was done. A shell command always is."""
    submits: bool = False


@dataclass(frozen=True, slots=True)
class Toolbox:
    """What an agent can do in a sandbox. Nothing here acts with more rights than the agent's.

    Args:
        sandbox: of the episode.
        bash_only: the shell and `submit`, nothing else.
        timeout: seconds that a command may take.
        limit: most characters of an answer.
    """

    sandbox: Sandbox
    bash_only: bool = False
    timeout: float = 90.0
    limit: int = 10_000

    def use(self, action: str) -> Answer:
        """Do what an action asks for. Raises SandboxError if the sandbox is gone."""
        call = parse(action, bash_only=self.bash_only)
        if isinstance(call, Submit):
            return Answer("", submits=True)
        if isinstance(call, Malformed):
            return Answer(shortened(call.why, self.limit), valid=False)
        if isinstance(call, Bash):
            return Answer(self._bash(call.command))
        try:
            return Answer(shortened(self._tool(call), self.limit))
        except FileError as error:
            name = getattr(call, "path", "") or WORKDIR
            return Answer(shortened(f"{cut(name, 200)} {error}.", self.limit), valid=False)

    def _tool(self, call: Call) -> str:
        files = AgentFiles(self.sandbox)
        editor = Editor(files, self.limit)
        match call:
            case View():
                return editor.view(call)
            case Create():
                return editor.create(call)
            case StrReplace():
                return editor.str_replace(call)
            case Insert():
                return editor.insert(call)
            case Search():
                return self._search(files, call)
        raise AssertionError(call)

    def _bash(self, command: str) -> str:
        ran = self.sandbox.run(command, self.timeout)
        text = shortened(steady(ran.output).rstrip("\n"), self.limit, left_out=ran.elided)
        return f"{text}\n{self._end(ran)}" if text else f"(no output)\n{self._end(ran)}"

    def _end(self, ran: CommandResult) -> str:
        """How a command ended."""
        if ran.exit_code is not None:
            return f"[exit code {ran.exit_code}]"
        why = "it ended its shell, or printed too much"
        if ran.timed_out:
            why = f"it took more than {self.timeout:g} s"
        return f"[stopped: {why}; the next command has a new shell in {WORKDIR}]"

    def _search(self, files: AgentFiles, call: Search) -> str:
        found = files.search(call.text, call.path)
        if not found:
            return "Nothing is found."
        lines = [
            f"{_joined(call.path, name)}:{number}:{cut(line, _MATCH)}"
            for name, number, line in found
        ]
        fit = fitting(lines, self.limit - 200)
        rest = f"\n[{len(lines) - fit} more lines hold it]" if fit < len(lines) else ""
        return "\n".join(lines[:fit]) + rest


def _joined(path: str, name: str) -> str:
    """The path of a file that was found in or at `path`."""
    if posixpath.basename(posixpath.normpath(path)) == name:
        return path
    return posixpath.normpath(posixpath.join(path, name))
