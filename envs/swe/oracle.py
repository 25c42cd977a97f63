"""The oracle: makes the change of the gold patch with the agent's own tools and rights.

Each action depends on the files as they are now, not on earlier actions: the oracle finds the first
place that differs from the solution, views it, and edits it. When nothing differs, it submits.
"""

from __future__ import annotations

import contextlib
import difflib
import re
import shlex
from dataclasses import dataclass, field

from aem_gym.envs.swe.sandbox.base import AGENT, WORKDIR, CommandResult
from aem_gym.envs.swe.tasks.base import SweTask
from aem_gym.envs.swe.tasks.git import DiffError, apply_diff, touched
from aem_gym.envs.swe.tools.files import AgentFiles, FileError
from aem_gym.errors import NoExpertError

_MARGIN = 3
"""Lines that are viewed above and below a place."""
_NO_EDIT = re.compile("^(old mode|new mode|GIT binary patch|Binary files )", re.MULTILINE)
"""Lines of a diff that the editor cannot follow."""
_SECONDS = 30.0
_SUBMIT = ("all is as it should be", "submit")


@dataclass
class PatchOracle:
    """Chooses the next action of an episode.

    With `bash_only` there is no editor, so a shell command applies the patch. With one it views a
    place before editing it, as people do.
    """

    task: SweTask
    files: AgentFiles
    bash_only: bool = False
    _targets: dict[str, str | None] | None = None
    """Path -> the content of the solution; None: the file is deleted."""
    _seen: set[str] = field(default_factory=set)

    def choose(self) -> tuple[str, str]:
        """(thought, action) for the current state. Raises NoExpertError without a gold patch."""
        if not self.task.gold.strip():
            raise NoExpertError(f"task {self.task.task_id} has no gold patch to go by")
        if self._targets is None and not self.bash_only:
            self._targets = self._aims()
        if not self._targets:
            return self._by_patch() if self._is_open() else _SUBMIT
        for path, target in self._targets.items():
            now = self._content(path)
            if now != target:
                return self._towards(path, now, target)
        return _SUBMIT

    def _by_patch(self) -> tuple[str, str]:
        """One shell command that applies the patch."""
        gold = self._gold()
        mark = "PATCH"
        while mark in gold:
            mark += "_"
        command = f"cd {WORKDIR} && git apply --whitespace=nowarn - <<'{mark}'\n{gold}{mark}"
        return "this change fixes it", command

    def _is_open(self) -> bool:
        """Whether the patch can be applied, and is not yet."""
        undo = self._check("--reverse")
        # Of a file with other rights than the patch gives it, git only warns.
        is_applied = undo.exit_code == 0 and not undo.output.strip()
        return not is_applied and self._check().exit_code == 0

    def _check(self, *options: str) -> CommandResult:
        argv = ["git", "-C", WORKDIR, "apply", "--check", "--whitespace=nowarn", *options, "-"]
        gold = self._gold().encode("utf-8", "surrogateescape")
        return self.files.sandbox.execute(argv, _SECONDS, user=AGENT, stdin=gold)

    def _gold(self) -> str:
        return self.task.gold if self.task.gold.endswith("\n") else self.task.gold + "\n"

    def _aims(self) -> dict[str, str | None]:
        """The contents to reach; none where the editor cannot: binary files, modes, a bad fit."""
        gold, paths, before = self._gold(), dict[str, None](), dict[str, bytes]()
        if _NO_EDIT.search(gold):
            return {}
        for line in gold.splitlines():
            if found := re.match(r"diff --git a/(\S+) b/(\S+)$", line):
                paths |= dict.fromkeys(found.groups())
            paths |= dict.fromkeys(touched(line))
        for path in paths:
            with contextlib.suppress(FileError):  # if the file matters, the diff does not apply
                before[path] = self.files.read(path)
        try:
            after = apply_diff(before, gold)
            changed = [path for path in paths if after.get(path) != before.get(path)]
            return {p: after[p].decode("utf-8") if p in after else None for p in changed}
        except (DiffError, UnicodeDecodeError):
            return {}

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
            return "this file must be deleted", f"rm -- {name}"
        if now is None:
            return "this file is missing", f"create {name}\n<text>\n{_body(target)}\n</text>"
        old, new = _lines_of(now), _lines_of(target)
        blocks = difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        _, first, last, start, end = next(block for block in blocks if block[0] != "equal")
        look = f"view {name} {max(1, first + 1 - _MARGIN)} {min(len(old), last + _MARGIN)}"
        if look not in self._seen and old:
            self._seen.add(look)
            return "look at this place", look
        if first == last and _whole(old[:first]) and _whole(new[start:end]):
            text = "".join(new[start:end]).removesuffix("\n")
            return "this is missing", f"insert {name} {first}\n<text>\n{text}\n</text>"
        return "this is wrong", _replacement(name, now, old, new, (first, last, start, end))


def _replacement(
    name: str, now: str, old: list[str], new: list[str], place: tuple[int, int, int, int]
) -> str:
    """A replacement of lines `first` to `last`, with as many around them as make it unique."""
    first, last, start, end = place
    while True:
        gone, come = "".join(old[first:last]), "".join(new[start:end])
        # The tags' own lines end each text: an end of line that both have is not written.
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


def _lines_of(content: str) -> list[str]:
    """The lines of a text with their ends; only a line feed ends a line, as for git."""
    return re.findall(r"[^\n]*\n|[^\n]+", content)


def _whole(lines: list[str]) -> bool:
    """Whether the last line ends in a line feed."""
    return not lines or lines[-1].endswith("\n")


def _body(text: str) -> str:
    return text.removesuffix("\n")
