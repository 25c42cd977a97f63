"""Demonstrations for a warm start: from the environment's expert, or the best of random play."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from aem_gym.errors import EnvironmentFailure, NoExpertError
from aem_gym.rollout.envs import CheckedStep
from aem_gym.rollout.pool import EnvPool
from aem_gym.seeding import derive, generator
from aem_gym.types import Demo, DemoStep

logger = logging.getLogger(__name__)

_BLOCK = 64
"""Episodes played together: with worker processes they run side by side."""
_FIRST = 8
"""Episodes played before all the others: enough to see an environment that always fails."""
_TRIES = 40
"""Random episodes played per demonstration wanted, before making do with fewer."""
_HOPELESS = 4096
"""Random episodes played without any success, before giving up."""


class Demonstrator:
    """Plays episodes and keeps the winning ones, or all that came to an end.

    Args:
        pool: environments of the training split.
        seed: of the tasks and all randomness; the same seed gives the same demonstrations.
        noise: share of random admissible actions, which are fed but not to be imitated.
        max_turns: turn limit on top of the environment's own.
        keep_all: keep also what the expert did not win; of random play only what was won.
    """

    def __init__(
        self,
        pool: EnvPool,
        *,
        seed: int,
        noise: float = 0.0,
        max_turns: int | None = None,
        keep_all: bool = False,
    ) -> None:
        self.pool, self.seed, self.noise = pool, seed, noise
        self.keep_all = keep_all
        self.max_turns = max_turns or pool.describe().max_turns or 100

    def expert(self, count: int, progress: Callable[[int], None] = lambda n: None) -> list[Demo]:
        """`count` demonstrations of the expert (fewer if less than half are kept).

        Raises:
            NoExpertError: it has none, or won nothing.
        """
        if not self.pool.describe().has_expert:
            raise NoExpertError(
                "the environment has no expert to clone: use --warmstart random (clones the best "
                "random rollouts) or a pretrained --model"
            )
        advice = (
            f"its expert cannot win within {self.max_turns} turns and with {self.noise:.0%} random "
            "actions: raise --max-turns, lower --warmstart-noise, or start from a pretrained "
            "--model with --warmstart none"
        )
        kept = self._collect(
            count, 2 * count, self._expert_action, progress, advice, won_only=not self.keep_all
        )
        return kept[:count]

    def random(self, count: int, progress: Callable[[int], None] = lambda n: None) -> list[Demo]:
        """The winning ones of many random rollouts, shorter ones first, at most `count`.

        Raises:
            NoExpertError: none of them had any success.
        """
        advice = (
            "give the environment an expert() method, or start from a pretrained --model with "
            "--warmstart none"
        )
        won = self._collect(
            count, _TRIES * count, self._random_action, progress, advice, won_only=True
        )
        return sorted(won, key=lambda demo: len(demo.steps))[:count]

    def _collect(
        self,
        count: int,
        tries: int,
        choose: Callable[[int, CheckedStep, np.random.Generator], DemoStep | None],
        progress: Callable[[int], None],
        advice: str,
        *,
        won_only: bool,
    ) -> list[Demo]:
        """All episodes to keep until there are `count`; `advice` is given if there is none."""
        kept: list[Demo] = []
        played = 0
        while played < tries:
            size = min(_BLOCK if played else _FIRST, tries - played)
            numbers = range(played, played + size)
            new = [d for d in self._play(numbers, choose, won_only) if d is not None]
            progress(min(len(new), count - len(kept)))
            kept += new
            played += size
            if len(kept) >= count or (not kept and played >= _HOPELESS):
                break
        if not kept:
            raise NoExpertError(
                f"none of {played} episodes succeeded, so there is nothing to clone: {advice}"
            )
        if len(kept) < count:
            logger.warning("only %d of %d episodes succeeded: fewer to clone", len(kept), played)
        return kept

    def _play(
        self,
        numbers: Sequence[int],
        choose: Callable[[int, CheckedStep, np.random.Generator], DemoStep | None],
        won_only: bool,
    ) -> list[Demo | None]:
        """One episode per number, side by side; None for those that are not to be kept.

        Raises:
            EnvironmentFailure: every one of them ended in a failure of the environment.
        """
        seeds = [derive(self.seed, "demonstration", n) >> 31 for n in numbers]
        draws = [generator(self.seed, "noise", n) for n in numbers]
        now = self.pool.reset([(slot, seed, None) for slot, seed in enumerate(seeds)])
        goals = [observed.info["goal"] for observed in now]
        steps: list[list[DemoStep]] = [[] for _ in numbers]
        keep = [False] * len(numbers)
        live = [slot for slot, observed in enumerate(now) if observed.error is None]
        while live:
            chosen = [(slot, choose(slot, now[slot], draws[slot])) for slot in live]
            acting = [(slot, step) for slot, step in chosen if step is not None]
            answers = self.pool.step([(slot, step.action) for slot, step in acting])
            live = []
            for (slot, step), answer in zip(acting, answers, strict=True):
                steps[slot].append(step)
                now[slot] = answer
                over = answer.terminated or answer.truncated or len(steps[slot]) >= self.max_turns
                won = bool(answer.info["won"]) or not won_only
                keep[slot] = over and won and answer.error is None
                if not over:
                    live.append(slot)
        errors = [observed.error for observed in now if observed.error is not None]
        if errors and len(errors) == len(now):
            raise EnvironmentFailure(
                f"each of {len(now)} episodes failed, the last one with: {errors[-1]}. Correct the "
                "environment (aem_gym.check_text_env says what is wrong), or raise "
                "--step-timeout if it is only slow"
            )
        return [
            Demo(goal, tuple(done)) if kept else None
            for goal, done, kept in zip(goals, steps, keep, strict=True)
        ]

    def _expert_action(
        self, slot: int, now: CheckedStep, draws: np.random.Generator
    ) -> DemoStep | None:
        answer = self.pool.ask_expert(slot)
        if answer is None:
            return None
        admissible = now.info["admissible_actions"]
        thought, action = answer
        imitate = not (self.noise and draws.random() < self.noise and admissible)
        if not imitate:
            action = admissible[int(draws.integers(len(admissible)))]
        return DemoStep(now.observation, thought, action, imitate, tuple(admissible))

    def _random_action(
        self, slot: int, now: CheckedStep, draws: np.random.Generator
    ) -> DemoStep | None:
        choices = now.info["admissible_actions"] or now.observation.split() or [""]
        action = choices[int(draws.integers(len(choices)))]
        return DemoStep(now.observation, "", action, True, tuple(now.info["admissible_actions"]))
