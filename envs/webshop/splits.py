"""Which goals are for training, and which are held out."""

from __future__ import annotations

import random
from collections.abc import Sequence

from aem_gym.envs.webshop.goalmaking import SHUFFLE_SEED

SPLITS = ("train", "eval", "test")
SPLIT_MODES = ("official", "verl-agent")
_TEST, _EVAL = 500, 1500
"""Official goals 0-499 are for testing, 500-1499 for evaluation, the others for training."""
_ENOUGH = 3000
"""With fewer goals than this the bounds shrink in proportion, so that half are left to train on."""


def bounds(split: str, goals: int) -> range:
    """The numbers of a split's goals, among so many in the official order.

    Returns:
        An empty range if there are too few goals to share out.
    """
    share = min(1.0, goals / _ENOUGH)
    first, second = int(_TEST * share), int(_EVAL * share)
    if split == "test":
        return range(first)
    return range(first, second) if split == "eval" else range(second, goals)


def goal_order(goals: int, split_mode: str, order_seed: int) -> Sequence[int]:
    """Which goal of the official order each number of a split stands for.

    In `official` mode that is the number itself. In `verl-agent` mode every worker shuffles the
    goals by its own seed in place of the official 233, as GiGPO's code does: the bounds then no
    longer keep test goals out of training, because one worker's test goals are another's training
    goals.
    """
    if split_mode == "official":
        return range(goals)
    official = _shuffled(goals, SHUFFLE_SEED)
    place = {number: position for position, number in enumerate(official)}
    return [place[number] for number in _shuffled(goals, order_seed)]


def _shuffled(count: int, seed: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
