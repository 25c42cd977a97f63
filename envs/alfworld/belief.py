"""What an agent knows from what it has read. Text in, knowledge out; both dialects."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from aem_gym.envs.alfworld.tasks import TEMPLATES

_SEEN = re.compile(r"On the (\w+ \d+), you see ([^.]*)\.")
_INSIDE = re.compile(r"The (\w+ \d+) is open\. In it, you see ([^.]*)\.")
_CLOSED = re.compile(r"The (\w+ \d+) is closed\.")
_CLOSE = re.compile(r"You close the (\w+ \d+)\.")
_TAKE = re.compile(r"You pick up the (\w+ \d+) from the (\w+ \d+)\.")
_PUT = re.compile(r"You (?:move the (\w+ \d+) to|put the (\w+ \d+) in/on) the (\w+ \d+)\.")
_TREAT = re.compile(r"You (clean|heat|cool) the (\w+ \d+) using")
_CARRY = re.compile(r"You are carrying: a (\w+ \d+)\.")
_ROOM = re.compile(r"Looking quickly around you, you see ([^.]*)\.")
_TASK = re.compile(r"Your task is to: ([^\n]*?)\.?\s*$")
_ITEM = re.compile(r"\ban? (\w+ \d+)")

_SENTENCES = [
    (task_type, re.compile(template.format(obj=r"(\w+)", target=r"(\w+)")))
    for task_type, templates in TEMPLATES.items()
    for template in templates
]


def kind(name: str) -> str:
    """The class part of a printed name: `potato` of `potato 2`."""
    return name.partition(" ")[0]


def read_task(sentence: str) -> tuple[str, str, str] | None:
    """(task type, object class, target class) of a templated sentence; None for other words."""
    for task_type, pattern in _SENTENCES:
        match = pattern.fullmatch(sentence)
        if match:
            return task_type, match[1], match[2]
    return None


@dataclass(slots=True)
class Belief:
    """What has been read so far in one episode."""

    task: tuple[str, str, str] | None = None
    """(task type, object class, target class)."""
    receptacles: list[str] = field(default_factory=list)
    contents: dict[str, list[str]] = field(default_factory=dict)
    """Receptacle -> what was last seen in it. Absent: never looked inside."""
    closed: set[str] = field(default_factory=set)
    holding: str | None = None
    treated: dict[str, set[str]] = field(default_factory=dict)
    """Object -> what has been done to it (`clean`, `heat`, `cool`)."""

    def read(self, text: str) -> None:
        """Learn from one observation."""
        room = _ROOM.search(text)
        if room and not self.receptacles:
            self.receptacles = _ITEM.findall(room[1])
        task = _TASK.search(text)
        if task:
            self.task = read_task(task[1])
        self._read_places(text)
        self._read_hands(text)

    def _read_places(self, text: str) -> None:
        for pattern in (_SEEN, _INSIDE):
            seen = pattern.search(text)
            if seen:
                self.contents[seen[1]] = _ITEM.findall(seen[2])
                self.closed.discard(seen[1])
        shut = _CLOSED.search(text) or _CLOSE.match(text)
        if shut:
            self.closed.add(shut[1])

    def _read_hands(self, text: str) -> None:
        if match := _TAKE.match(text):
            self.holding = match[1]
            inside = self.contents.get(match[2], [])
            if match[1] in inside:
                inside.remove(match[1])
        elif match := _PUT.match(text):
            self.contents.setdefault(match[3], []).append(match[1] or match[2])
            self.holding = None
        elif match := _TREAT.match(text):
            done = self.treated.setdefault(match[2], set())
            done -= {"heat", "cool"} if match[1] != "clean" else set()
            done.add(match[1])
        elif match := _CARRY.match(text):
            self.holding = match[1]
