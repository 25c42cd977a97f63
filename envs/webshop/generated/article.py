"""What the rules of a level make, before it is written in the official form."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wish:
    """What somebody asks for."""

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...] = ()
    """Values as they are shown."""


@dataclass(frozen=True, slots=True)
class Article:
    """A listing and the wishes that it meets."""

    category: str
    path: str
    query: str
    title: str
    description: str
    bullets: tuple[str, ...]
    pricing: str
    options: dict[str, tuple[str, ...]]
    attributes: tuple[str, ...]
    synthetic: Wish | None
    human: tuple[Wish, ...]


def shown(value: str) -> str:
    """An option's value as the shop shows it."""
    return value.replace("/", " | ")
