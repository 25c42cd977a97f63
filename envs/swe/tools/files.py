"""Files of a sandbox, read and written with the agent's own rights.

Through its shell, which is fast; if the agent has made that unusable, through a new process.
Content travels as base64, so that every byte is preserved.
"""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
import shlex
from dataclasses import dataclass

from aem_gym.envs.swe.sandbox.base import AGENT, WORKDIR, Sandbox

# The control characters are written as numbers: a shell that prints its input (`set -x`) does not
# print them.
_SAY = r"""
say() { printf '\002%s\003' "$1"; exit 0; }
"""
_READ = rf"""{_SAY}
[ -e "$1" ] || say "does not exist"
[ ! -d "$1" ] || say folder
[ -f "$1" ] || say "is no regular file"
[ -r "$1" ] || say "may not be read by you"
size=$(stat -L -c %s -- "$1")
[ "$size" -le "$2" ] || say "has $size bytes, too many: use the shell (head, sed -n, grep)"
printf '\002='; base64 -w 0 < "$1"; printf '\003'
"""
# The new content is written beside the old file, which it then replaces in one step.
_WRITE = rf"""{_SAY}
[ ! -d "$1" ] || say "is a folder"
[ ! -e "$1" ] || [ "$2" != new ] || say "is there already: change it with str_replace or insert, \
or remove it first"
[ ! -e "$1" ] || [ -f "$1" ] || say "is no regular file"
file=$(readlink -m -- "$1") && mkdir -p -- "$(dirname -- "$file")" 2> /dev/null \
    || say "cannot be written: its folder cannot be made"
part=$(dirname -- "$file")/.aem-part-$$
trap 'rm -f -- "$part"' EXIT
base64 -d > "$part" 2> /dev/null || say "cannot be written (no space, or no right to)"
[ ! -e "$file" ] || [ -w "$file" ] || say "may not be changed by you"
[ ! -e "$file" ] || chmod --reference="$file" -- "$part" || say "may not be changed by you"
mv -f -- "$part" "$file" 2> /dev/null || say "may not be changed by you"
say done
"""
_LIST = r"""
printf '\002='
find -- "$1" -mindepth 1 -maxdepth "$2" -name '.*' -prune -o -printf '%y%P\0' 2> /dev/null \
    | LC_ALL=C sort -z -k 1.2 | head -c "$3" | base64 -w 0
printf '\003'
"""
_SEARCH = rf"""{_SAY}
[ -e "$2" ] || say "does not exist"
what=.
[ -d "$2" ] || what=./$(basename -- "$2")
cd -- "$2" 2> /dev/null || cd -- "$(dirname -- "$2")" 2> /dev/null || say "may not be read by you"
printf '\002='
find "$what" ! -path "$what" -name '.*' -prune -o -type f -print0 2> /dev/null \
    | LC_ALL=C sort -z \
    | LC_ALL=C xargs -0 -r grep -nIFH --color=never -e "$1" -- /dev/null 2> /dev/null \
    | head -c "$3" | base64 -w 0
printf '\003'
"""
_ANSWER = re.compile("\x02([^\x02\x03]*)\x03")
_SECONDS = 30.0
_DEPTH = "2"
"""Of folders in a list."""
_AS_ARGUMENT = 60_000
"""Most characters of text that is passed in a program's arguments."""


class FileError(Exception):
    """The operation cannot be done; the message continues a sentence that starts with the name."""


class IsFolder(FileError):
    """The path of a file leads to a folder."""


@dataclass(frozen=True, slots=True)
class AgentFiles:
    """The files of a sandbox, with the rights of the agent. `limit`: most bytes of a file read."""

    sandbox: Sandbox
    limit: int = 600_000

    def read(self, path: str) -> bytes:
        """The content of a file. Raises FileError, IsFolder, SandboxError."""
        said = self._ask(_READ, absolute(path), str(self.limit))
        if said == "folder":
            raise IsFolder("is a folder")
        return _content(said)

    def write(self, path: str, content: bytes, *, new: bool = False) -> None:
        """Write a file; `new`: only where there is none yet. Raises FileError, SandboxError."""
        if len(content) > self.limit:
            raise FileError(f"would have {len(content)} bytes, more than {self.limit}")
        data = base64.b64encode(content)
        said = self._ask(_WRITE, absolute(path), "new" if new else "any", stdin=data)
        if said != "done":
            raise FileError(said)

    def tree(self, path: str) -> list[str]:
        """The paths in a folder, sorted, without hidden ones; folders end with a slash."""
        said = self._ask(_LIST, absolute(path), _DEPTH, str(self.limit))
        names = _content(said).decode("utf-8", "replace").split("\0")[:-1]
        return [name[1:] + "/" * (name[0] == "d") for name in names]

    def search(self, text: str, path: str) -> list[tuple[str, int, str]]:
        """(file, line number, line) of the lines that hold a text, sorted; no hidden files."""
        said = self._ask(_SEARCH, text[:_AS_ARGUMENT], absolute(path), str(self.limit))
        lines = _content(said).decode("utf-8", "replace").split("\n")[:-1]
        found = [re.match(r"(?:\./)+(.*?):(\d+):(.*)", line) for line in lines]
        return [(match[1], int(match[2]), match[3]) for match in found if match]

    def _ask(self, script: str, *arguments: str, stdin: bytes = b"") -> str:
        """The answer of a script of this module, run as the agent."""
        words = shlex.join(["/bin/sh", "-c", script, "sh", *arguments])
        text = f"{words} <<'AEM'\n{stdin.decode('ascii')}\nAEM" if stdin else words
        said = _ANSWER.findall(self.sandbox.run(text, _SECONDS).output)
        if not said:
            argv = ["/bin/sh", "-c", script, "sh", *arguments]
            ran = self.sandbox.execute(argv, _SECONDS, user=AGENT, stdin=stdin)
            said = _ANSWER.findall(ran.output)
        if not said:
            raise FileError("cannot be reached: what does `ls -ld` say of it?")
        return str(said[-1])


def absolute(path: str) -> str:
    """An agent's path; a relative one starts in the repository."""
    return posixpath.normpath(posixpath.join(WORKDIR, path))


def _content(said: str) -> bytes:
    if not said.startswith("="):
        raise FileError(said)
    try:
        return base64.b64decode(said[1:], validate=True)
    except binascii.Error as error:
        raise FileError("could not be read whole") from error
