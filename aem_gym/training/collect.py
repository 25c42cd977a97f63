"""Which tasks a step plays, and which groups of rollouts it keeps.

The tasks of a run are numbered from 0, and each number is a ticket: it fixes the task and every
draw in its rollouts. A step plays the next ones, and for each group that dynamic sampling drops one
more, at once. It keeps the first groups in the order of the tickets. Nothing depends on which
episode ends first, so all samplers keep the same groups.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import ceil

from aem_gym.concurrency import run_async
from aem_gym.config import Config
from aem_gym.rollout.collector import Collector, RolloutRequest, grouped, requests_for
from aem_gym.seeding import derive
from aem_gym.training.credit import Rewards, equal_returns
from aem_gym.types import Episode, Group


@dataclass(frozen=True, slots=True)
class Collected:
    """The rollouts of a step."""

    groups: list[Group]
    """In the order of their tickets."""
    dropped: list[Group]
    """Those of equal returns, and those that were one too many."""
    cursor: int
    """The first ticket of the next step."""
    seconds: float
    surplus: int = 0
    """How many of `dropped` were one too many."""


class TicketOffice:
    """Plays the tasks of a run in order.

    Args:
        config: how many groups of how many rollouts, and which are dropped.
        collector: plays them.
        rewards: by which returns are compared.
    """

    def __init__(self, config: Config, collector: Collector, rewards: Rewards) -> None:
        self.config, self.collector, self.rewards = config, collector, rewards
        self.at_once = ceil(config.groups * config.oversample)
        """Groups that a step begins with."""

    def pause(self) -> None:
        """Nothing is under way between steps."""

    def close(self) -> None:
        """Nothing to end."""

    def weights(self) -> AbstractContextManager[None]:
        """The learner's present weights are those that sampled."""
        return nullcontext()

    def figures(self) -> dict[str, float]:
        """Nothing about policies that sampled: there is but one."""
        return {}

    def in_flight(self) -> None:
        """Nothing is under way between steps."""

    def collect(self, cursor: int, left: int = 0) -> Collected:
        """The rollouts of the step whose first ticket is `cursor`; `left` steps are to follow."""
        collected = run_async(self.collecting(cursor))
        if left:  # the environments prepare while the learner works
            self.collector.prefetch(self.requests(collected.cursor, self.at_once))
        return collected

    async def collecting(self, cursor: int) -> Collected:
        """The same as a coroutine, without the steps to follow."""
        clock, config = time.perf_counter(), self.config
        selects = config.drop_equal_groups or self.at_once > config.groups
        more = _Selection(self, cursor) if selects else None
        play, first = self.collector.collect, self.requests(cursor, self.at_once)
        episodes = await play(first, temperature=config.temperature, follow=more)
        groups, dropped, surplus = grouped(episodes, config.group_size), list[Group](), 0
        cursor += len(groups)
        if more is not None:
            groups, dropped, surplus = more.of(groups)
        return Collected(groups, dropped, cursor, time.perf_counter() - clock, surplus)

    def requests(self, cursor: int, tickets: int) -> list[RolloutRequest]:
        """The rollouts of so many tickets."""
        config = self.config
        seeds = [derive(config.seed, "task", cursor + i) >> 31 for i in range(tickets)]
        return requests_for(seeds, config.group_size, config.seed, "rollout", cursor + tickets)

    def drops(self, group: Group) -> bool:
        """Whether dynamic sampling leaves a group out."""
        mask = self.config.mask_truncated
        return self.config.drop_equal_groups and equal_returns(
            group, self.rewards, mask_truncated=mask
        )


@dataclass(slots=True)
class _Selection:
    """Asks for one more task for each group that is dropped.

    The tickets that are played are always the fewest from `cursor` on of which enough are kept:
    the same ones whichever group ends first.
    """

    office: TicketOffice
    cursor: int
    played: int = field(init=False)
    dropped: int = 0
    ended: dict[int, dict[int, Episode]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.played = self.office.at_once

    def __call__(self, place: int, episode: Episode) -> Sequence[RolloutRequest]:
        """What follows the episode of the request at `place`."""
        config = self.office.config
        of_group = self.ended.setdefault(place // config.group_size, {})
        of_group[place] = episode
        if len(of_group) < config.group_size:
            return ()
        episodes = tuple(of_group[place] for place in sorted(of_group))
        self.dropped += self.office.drops(Group(episode.seed, episodes))
        enough = self.played - self.dropped >= config.groups
        if enough or self.played >= self.office.at_once * config.max_rounds:
            return ()
        self.played += 1
        return self.office.requests(self.cursor + self.played - 1, 1)

    def of(self, groups: Sequence[Group]) -> tuple[list[Group], list[Group], int]:
        """The groups to keep, those to leave out, and how many of these were one too many."""
        kept, equal = list[Group](), list[Group]()
        for group in groups:
            (equal if self.office.drops(group) else kept).append(group)
        most = self.office.config.groups
        return kept[:most], equal + kept[most:], len(kept[most:])
