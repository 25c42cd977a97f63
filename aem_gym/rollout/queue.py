"""Which episode is run next, and in which slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aem_gym.rollout.live import AHEAD


@dataclass(frozen=True, slots=True)
class RolloutRequest:
    """One episode to run: which task, which rollout of it, and its own randomness."""

    seed: int
    """Given to `env.reset`: names the task."""
    rollout: int
    """Which rollout of the task."""
    key: int
    """Seed of the agent's draws in this episode."""
    options: dict[str, Any] | None = None


class Queue:
    """Tickets that wait for a slot. A slot that is free again takes the next one.

    Args:
        tickets: in the order in which they are begun.
        slots: how many run at once; 0: all.
        processes: environments live in so many, slot by slot in turns.
    """

    def __init__(self, tickets: Sequence[RolloutRequest], slots: int, processes: int) -> None:
        self._tickets, self._processes = tickets, processes
        self.waiting = list(range(len(tickets)))
        """Places of the tickets that wait."""
        self._slots = range(min(slots or len(tickets), len(tickets)))
        self.free = list(self._slots)
        self._told: dict[int, int] = {}
        """Place of a ticket -> the slot that was told of it."""

    def take(self) -> list[tuple[int, int, RolloutRequest]]:
        """(slot, place, ticket) of what begins now; the slots are no longer free."""
        begun = []
        for slot in sorted(self.free)[: len(self.waiting)]:
            place = self._next(slot % self._processes)
            self.waiting.remove(place)
            self._told.pop(place, None)
            self.free.remove(slot)
            begun.append((slot, place, self._tickets[place]))
        return begun

    def tell(self) -> list[tuple[int, RolloutRequest]]:
        """(slot, ticket) of tickets that are next and of which nobody was told yet.

        Nobody knows which slot will be free first. The slot named here stands for its process,
        whose slots prefer what one of them was told of.
        """
        busy = set(self._told.values())
        told = []
        for slot in self._slots[: AHEAD * self._processes]:
            unknown = [place for place in self.waiting if place not in self._told]
            if slot not in busy and unknown:
                self._told[unknown[0]] = slot
                told.append((slot, self._tickets[unknown[0]]))
        return told

    def _next(self, process: int) -> int:
        """The first ticket that this process was told of, or nobody, or else any."""
        processes = {place: slot % self._processes for place, slot in self._told.items()}
        for wanted in (process, None):
            for place in self.waiting:
                if processes.get(place) == wanted:
                    return place
        return self.waiting[0]
