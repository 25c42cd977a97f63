"""The words: what is printed and what may be typed, in both dialects of the original."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

NOTHING_HAPPENS = "Nothing happens."
TEXTS: Mapping[str, Any] = yaml.safe_load(Path(__file__).with_name("texts.yaml").read_text())
HELP: str = TEXTS["help"]
TEMPLATES: Mapping[str, tuple[str, str]] = {
    task_type: (one, other) for task_type, (one, other) in TEXTS["task_sentences"].items()
}
"""Task type -> its two sentence templates."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """Where the two generations of game files differ."""

    put: str
    """The command that puts an object down."""
    put_answer: str
    arrive_at_location: bool
    """Whether going somewhere names the location (`loc 15`) instead of the receptacle."""
    has_help: bool


DIALECTS: Mapping[str, Dialect] = {
    "0.4": Dialect("move {0} to {1}", "You move the {0} to the {1}.", False, True),
    "0.3": Dialect("put {0} in/on {1}", "You put the {0} in/on the {1}.", True, False),
}
"""`0.4`: alfworld 0.4.x. `0.3`: up to 0.3.x, with which published scores were made."""


def listing(names: Sequence[str]) -> str:
    """`a cup 3, a lettuce 1, and a mug 3`; `nothing` for none. The article is always "a"."""
    return enumeration([f"a {name}" for name in names])


def enumeration(parts: Sequence[str]) -> str:
    """`x, y, and z`; also `x, and y`, as the original has it."""
    if len(parts) < 2:
        return parts[0] if parts else "nothing"
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def introduction(surroundings: str, sentence: str) -> str:
    intro = "-= Welcome to TextWorld, ALFRED! =-"
    return f"{intro}\n\n{surroundings}\n\nYour task is to: {printed_sentence(sentence)}"


_PLAIN = re.compile(r'[^;|"<>\[\]#{}]*(?:"[^;|"<>\[\]#{}]*"[^;|"<>\[\]#{}]*)*')
"""What is left of a sentence by the original's grammar, where some characters have a meaning.

Pairs of quotation marks vanish, and from the first `; | < > [ ] # { }` or lone quotation mark on
all is lost, the full stop too (the original would run `{code}`; here it is cut off). Templates have
none of these; sentences of people may.
"""


def printed_sentence(sentence: str) -> str:
    """A task in words as the original prints it, with its full stop."""
    plain = _PLAIN.match(f"{sentence}.")
    return plain[0].replace('"', "") if plain else ""
