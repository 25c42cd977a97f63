"""The words: what is printed and what may be typed, in both dialects of the original."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

NOTHING_HAPPENS = "Nothing happens."
HELP = (
    "Available commands:\n"
    "  look:                             look around your current location\n"
    "  inventory:                        check your current inventory\n"
    "  go to (receptacle):               move to a receptacle\n"
    "  open (receptacle):                open a receptacle\n"
    "  close (receptacle):               close a receptacle\n"
    "  take (object) from (receptacle):  take an object from a receptacle\n"
    "  move (object) to (receptacle):  place an object in or on a receptacle\n"
    "  examine (something):              examine a receptacle or an object\n"
    "  use (object):                     use an object\n"
    "  heat (object) with (receptacle):  heat an object using a receptacle\n"
    "  clean (object) with (receptacle): clean an object using a receptacle\n"
    "  cool (object) with (receptacle):  cool an object using a receptacle\n"
    "  slice (object) with (object):     slice an object using a sharp object\n"
)


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


TEMPLATES: Mapping[str, tuple[str, str]] = {
    "pick_and_place_simple": ("put a {obj} in {target}", "put some {obj} on {target}"),
    "look_at_obj_in_light": (
        "look at {obj} under the {target}",
        "examine the {obj} with the {target}",
    ),
    "pick_clean_then_place_in_recep": (
        "put a clean {obj} in {target}",
        "clean some {obj} and put it in {target}",
    ),
    "pick_heat_then_place_in_recep": (
        "put a hot {obj} in {target}",
        "heat some {obj} and put it in {target}",
    ),
    "pick_cool_then_place_in_recep": (
        "put a cool {obj} in {target}",
        "cool some {obj} and put it in {target}",
    ),
    "pick_two_obj_and_place": (
        "put two {obj} in {target}",
        "find two {obj} and put them in {target}",
    ),
}
"""Task type -> its two sentence templates (the original's `goal_library`)."""


def listing(names: Sequence[str]) -> str:
    """`a cup 3, a lettuce 1, and a mug 3`; `nothing` for none. The article is always "a"."""
    return enumeration([f"a {name}" for name in names])


def enumeration(parts: Sequence[str]) -> str:
    """`x, y, and z`; also `x, and y`, as the original has it."""
    if not parts:
        return "nothing"
    if len(parts) == 1:
        return parts[0]
    return f"{', '.join(parts[:-1])}, and {parts[-1]}"


def introduction(surroundings: str, sentence: str) -> str:
    """The first observation."""
    intro = "-= Welcome to TextWorld, ALFRED! =-"
    return f"{intro}\n\n{surroundings}\n\nYour task is to: {printed_sentence(sentence)}"


_PLAIN = re.compile(r'[^;|"<>\[\]#{}]*(?:"[^;|"<>\[\]#{}]*"[^;|"<>\[\]#{}]*)*')


def printed_sentence(sentence: str) -> str:
    """A task in words as the original prints it, with its full stop.

    The sentence passes through the original's grammar, where some characters have a meaning: pairs
    of quotation marks vanish, and from the first `; | < > [ ] # { }` or lone quotation mark on all
    is lost, the full stop too (the original would run `{code}`; here it is cut off). Templates have
    none of these; sentences of people may.
    """
    plain = _PLAIN.match(f"{sentence}.")
    return plain[0].replace('"', "") if plain else ""
