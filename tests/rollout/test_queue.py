from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aem_gym.rollout.envs import AHEAD
from aem_gym.rollout.queue import Queue, RolloutRequest


@given(
    count=st.integers(0, 40),
    slots=st.integers(0, 12),
    processes=st.integers(1, 4),
    draws=st.randoms(use_true_random=False),
)
def test_every_ticket_begins_once_and_where_it_was_told(
    count: int, slots: int, processes: int, draws: st.DataObject
) -> None:
    queue = Queue([RolloutRequest(n, 0, n) for n in range(count)], slots, processes)
    begun: list[int] = []
    busy: set[int] = set()
    told: dict[int, int] = {}
    wasted = 0
    while queue.waiting or busy:
        for slot, place, ticket in queue.take():
            assert slot not in busy and ticket.seed == place
            busy.add(slot)
            begun.append(place)
            wasted += place in told and told.pop(place) % processes != slot % processes
        now = queue.tell()
        assert len({slot for slot, _ in now}) == len(now)
        told |= {ticket.seed: slot for slot, ticket in now}
        assert len(told) <= AHEAD * processes
        assert len(busy) <= (slots or count)
        slot = draws.choice(sorted(busy)) if busy else None
        if slot is not None:
            busy.remove(slot)
            queue.free.append(slot)
    assert sorted(begun) == list(range(count))
    assert wasted == 0 or processes > 1
    if not slots:
        assert begun == list(range(count))
