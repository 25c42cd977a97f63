"""The oracle: makes the change that mends a task, with the agent's own tools and rights.

It goes by what the files hold now, not by what it did before: it finds the first place that is not
as it has to be, looks at it, and edits it; when all is as it has to be, it submits.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field

from aem_gym.envs.swe.sandbox.base import WORKDIR
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tools.diffs import DiffError, FileDiff, applied, lines_of, read_diff
from aem_gym.envs.swe.tools.files import AgentFiles, FileError
from aem_gym.errors import NoExpertError

_MARGIN = 3
"""Lines that are looked at above and below a place."""
_SUBMIT = ("all is as it should be", "submit")


@dataclass
class Oracle:
    """Chooses the next action of an episode.

    Args:
        task: with its gold patch.
        files: of the sandbox, as the agent has them.
        bash_only: there is no editor: the patch is applied by a shell command.
        looks: whether it views a place before it edits it, as people do.
    """

    task: SweTask
    files: AgentFiles
    bash_only: bool = False
    looks: bool = True
    _targets: dict[str, str | None] | None = None
    """Path -> the content it has to have; None: it has to go."""
    _seen: set[str] = field(default_factory=set)
    _applied: bool = False

    def choose(self) -> tuple[str, str]:
        """(thought, action) for the present state.

        Raises:
            NoExpertError: the task has no gold patch.
            SandboxError: the sandbox is gone.
        """
        if not self.task.gold.strip():
            raise NoExpertError(f"task {self.task.task_id} has no gold patch to go by")
        if self._targets is None and not self.bash_only:
            self._targets = self._aims()
        if not self._targets:
            return _SUBMIT if self._applied else self._by_patch()
        for path, target in self._targets.items():
            now = self._content(path)
            if now != target:
                return self._towards(path, now, target)
        return _SUBMIT

    def _by_patch(self) -> tuple[str, str]:
        """One shell command that applies the patch as it is."""
        self._applied = True
        gold = self.task.gold if self.task.gold.endswith("\n") else self.task.gold + "\n"
        mark = "PATCH"
        while mark in gold:
            mark += "_"
        command = f"cd {WORKDIR} && git apply --whitespace=nowarn - <<'{mark}'\n{gold}{mark}"
        return "this change mends it", command

    def _aims(self) -> dict[str, str | None]:
        """The contents to reach; none if they cannot be told (binary files, rights, a bad fit)."""
        aims: dict[str, str | None] = {}
        try:
            for file in read_diff(self.task.gold):
                aims |= self._aim(file)
        except (DiffError, FileError):
            return {}
        return aims

    def _aim(self, file: FileDiff) -> Mapping[str, str | None]:
        if not file.text or file.mode:
            raise DiffError("no text")
        before = (self._content(file.before) or "") if file.before else ""
        aims: dict[str, str | None] = {}
        if file.before and file.before != file.after:
            aims[file.before] = None
        if file.after:
            aims[file.after] = applied(before, file.hunks)
        return aims

    def _content(self, path: str) -> str | None:
        try:
            return self.files.read(path).decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError("is no UTF-8") from error
        except FileError as error:
            if str(error) == "does not exist":
                return None
            raise

    def _towards(self, path: str, now: str | None, target: str | None) -> tuple[str, str]:
        name = shlex.quote(path)
        if target is None:
            return "this file has to go", f"rm -- {name}"
        if now is None:
            return "this file is missing", f"create {name}\n<text>\n{_body(target)}\n</text>"
        old, new = lines_of(now), lines_of(target)
        blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        _, first, last, start, end = next(block for block in blocks if block[0] != "equal")
        look = f"view {name} {max(1, first + 1 - _MARGIN)} {min(len(old), last + _MARGIN)}"
        if self.looks and look not in self._seen and old:
            self._seen.add(look)
            return "look at the place", look
        if first == last and _whole(old[:first]) and _whole(new[start:end]):
            text = "".join(new[start:end]).removesuffix("\n")
            return "this is missing", f"insert {name} {first}\n<text>\n{text}\n</text>"
        return "this is wrong", _replacement(name, now, old, new, (first, last, start, end))


def _replacement(
    name: str, now: str, old: list[str], new: list[str], place: tuple[int, int, int, int]
) -> str:
    """A replacement of lines `first` to `last`, with as much around them as makes them unique."""
    first, last, start, end = place
    while True:
        gone, come = "".join(old[first:last]), "".join(new[start:end])
        # Tags take one end of line off: where both have one, it is not written.
        if gone.endswith("\n") and (come.endswith("\n")):
            gone, come = gone[:-1], come[:-1]
        if gone and _times(now, gone) == 1:
            return f"str_replace {name}\n<old>\n{gone}\n</old>\n<new>\n{come}\n</new>"
        if first == 0 and last == len(old):
            raise NoExpertError(f"no text tells the place in {name} from others")
        if first > 0:
            first, start = first - 1, start - 1
        if last < len(old):
            last, end = last + 1, end + 1


def _times(text: str, part: str) -> int:
    return len(re.findall(rf"(?={re.escape(part)})", text))


def _whole(lines: list[str]) -> bool:
    """Whether the last of the lines has its end."""
    return not lines or lines[-1].endswith("\n")


def _body(text: str) -> str:
    return text.removesuffix("\n")
