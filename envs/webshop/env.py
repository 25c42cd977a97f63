"""WebShopEnv: shopping by search and clicks, as a Gymnasium environment."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from typing import Any, ClassVar

from aem_gym import __version__
from aem_gym.envs.webshop.engine import ActionResult, Session
from aem_gym.envs.webshop.goals import SPLIT_MODES, SPLITS, bounds, goal_order
from aem_gym.envs.webshop.oracle import ShopOracle
from aem_gym.envs.webshop.prompts import INSTRUCTIONS, PROMPT_TEMPLATES
from aem_gym.envs.webshop.shops import GOAL_TYPES, SIZES, choose_shop
from aem_gym.errors import ConfigError, check_name
from aem_gym.text_env import TextEnv
from aem_gym.types import StepResult, Task

_OPTIONS = ("goal_idx", "task_id")
_TASK_ID = re.compile(r"(human|synthetic)-(\d+)")
_NO_CLICK = "search"
"""The official engine takes no click of this name."""
_UNQUERIED = re.compile(r"[\[\]<>\s]+")
_NO_PARTS: Mapping[str, float | bool] = {
    **dict.fromkeys(("r_type", "r_att", "w_att", "title_score"), 0.0),
    **dict.fromkeys(("query_match", "category_match", "r_price"), False),
    **dict.fromkeys(("r_option", "w_option", "w_price"), 0.0),
}
"""The parts of a reward before anything is bought."""


class WebShopEnv(TextEnv):
    """Find and buy what a customer asks for, by searching and clicking.

    The reward of a purchase is its score, from 0 to 1; buying ends the episode.

    Args:
        split: `train`, `eval` or `test`: the official bounds on the official order of goals, in
            proportion where there are less than 3,000.
        source: of the articles: `generated` or `official`; default: official if `data_dir` is
            given.
        data_dir: the folder with the official files, or with what `aem-gym data webshop import`
            made of them; default `$WEBSHOP_DATA`.
        difficulty: of generated articles: `full` (they read like a shop's) or `easy` (few words).
        num_products: how many articles (generated; default 1,000, or 480 easy ones), or only the
            first so many rows (official; default all).
        goals: `human` (people's instructions, or generated ones worded alike) or `synthetic`
            (made from attributes and every combination of options).
        split_mode: `official`, or `verl-agent` to shuffle the goals by `order_seed` as published
            runs did (test goals then leak into training).
        order_seed: the worker's seed in `verl-agent` mode.
        catalogue_seed: of generated articles, and of what the original draws differently in every
            process: hidden prices of price ranges, and price limits.
        observation: `text` or `text_rich`, the official modes.
        show_attributes: whether articles have a page of their attributes.
        strict_official: keep also to the original's mistakes (envs/webshop/README.md lists them).
        max_turns: turn limit; default 15, as published.
        expert_care: how often `expert` does what is right; otherwise it opens any article, keeps
            one that does not fit, forgets an option (0 to 1).
        render_mode: None or `ansi`.

    Raises:
        ConfigError: a value is out of range, or data is missing; UnknownNameError lists the names
            that exist.
    """

    instructions = INSTRUCTIONS
    prompt_templates = PROMPT_TEMPLATES
    max_turns = 15
    defaults: ClassVar[Mapping[str, Any]] = {"eval_split": "test"}
    model_defaults: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "tiny": {
            "env_args": {"difficulty": "easy"},
            "warmstart_env_args": {"expert_care": 0.4},
            "warmstart_keep": "all",
            "steps": 90,
        }
    }
    tools: ClassVar[Mapping[str, str]] = {
        "data_report": "aem_gym.envs.webshop.authoring.data:data_report",
        "import_data": "aem_gym.envs.webshop.authoring.data:import_data",
        "export_games": "aem_gym.envs.webshop.authoring.data:export_games",
        "page_app": "aem_gym.envs.webshop.authoring.web.app:page_app",
    }

    def __init__(
        self,
        *,
        split: str = "train",
        source: str | None = None,
        data_dir: str | None = None,
        difficulty: str = "full",
        num_products: int | None = None,
        goals: str = "human",
        split_mode: str = "official",
        order_seed: int = 0,
        catalogue_seed: int = 0,
        observation: str = "text",
        show_attributes: bool = False,
        strict_official: bool = False,
        max_turns: int | None = None,
        expert_care: float = 1.0,
        render_mode: str | None = None,
    ) -> None:
        super().__init__(max_turns=max_turns, render_mode=render_mode)
        source = source or ("official" if data_dir else "generated")
        check_name("split", split, SPLITS)
        check_name("source", source, ("generated", "official"))
        check_name("difficulty", difficulty, SIZES)
        check_name("goals", goals, GOAL_TYPES)
        check_name("split_mode", split_mode, SPLIT_MODES)
        check_name("observation", observation, ("text", "text_rich"))
        if not 0 <= expert_care <= 1:
            raise ConfigError(f"expert_care: expected 0 to 1, got {expert_care}")
        self.split, self.split_mode, self.goal_type = split, split_mode, goals
        stock = (source, data_dir, difficulty, num_products)
        self.shop = choose_shop(*stock, seed=catalogue_seed, goals=goals)
        self._goals = self._split_goals()
        self._order = goal_order(len(self.shop.goals), split_mode, order_seed)
        self._rich, self._care = observation == "text_rich", expert_care
        self._show_attributes, self._strict = show_attributes, strict_official
        self._session: Session | None = None
        self._oracle: ShopOracle | None = None
        self._facts: dict[str, Any] = {}

    def _split_goals(self) -> range:
        found = bounds(self.split, len(self.shop.goals))
        if not found:
            raise ConfigError(
                f"split {self.split!r}: expected goals, got none: {len(self.shop.goals)} "
                f"{self.goal_type} goals of {len(self.shop.catalogue):,} articles are too few. "
                "Raise num_products"
            )
        return found

    @property
    def protocol(self) -> Mapping[str, Any]:
        return {**self._settings, "tasks_digest": self.shop.digest, "code_version": __version__}

    @property
    def _settings(self) -> Mapping[str, Any]:
        """The part of the protocol that every `info` repeats."""
        return {
            "source": self.shop.source,
            "num_products": len(self.shop.catalogue),
            "goal_type": self.goal_type,
            "num_goals": len(self.shop.goals),
            "split": self.split,
            "split_goals": f"{self._goals.start}-{self._goals.stop - 1}",
            "split_mode": self.split_mode,
            "nouns": self.shop.nouns.mode,
        }

    @property
    def session(self) -> Session:
        """The visit in progress. Raises ConfigError before the first reset."""
        if self._session is None:
            raise ConfigError("there is no episode yet: call reset() first")
        return self._session

    @property
    def lexicon(self) -> tuple[str, ...]:
        """Ids, options, attributes and words of titles, for a tokenizer made for this shop."""
        return self.shop.lexicon()

    def start(self, options: Mapping[str, Any]) -> tuple[Task, StepResult]:
        """Draw a goal of the split, or take the one that `options` ask for.

        `options["goal_idx"]` is the number of a goal in the official order, `options["task_id"]`
        the id of an earlier episode; both give that goal whatever the split.
        """
        for name in options:
            check_name("reset option", name, _OPTIONS)
        number = self._asked(options)
        if number is None:
            number = self._order[self._goals[int(self.np_random.integers(len(self._goals)))]]
        goal = self.shop.goals[number]
        nouns = self.shop.nouns
        self._session = Session(
            self.shop.catalogue,
            goal,
            nouns,
            show_attributes=self._show_attributes,
            strict=self._strict,
            rng=random.Random(int(self.np_random.integers(2**31))),
        )
        # Drawn only where it is needed, so that episodes do not depend on who demonstrates.
        draws = random.Random(int(self.np_random.integers(2**31))) if self._care < 1 else None
        self._oracle = ShopOracle(self._session, nouns, care=self._care, draws=draws)
        self._facts = {**self._settings, "goal_idx": number}
        task = Task(f"{self.goal_type}-{number}", goal.category or "default", goal.text)
        return task, self._outcome(self._session, ActionResult())

    def act(self, action: str) -> StepResult:
        session = self.session
        try:
            result = session.step(action)
        except TypeError as error:  # strict: the original's server fails on some searches
            return StepResult(f"the shop has failed: {error}", terminated=True, action_valid=False)
        return self._outcome(session, result)

    def expert(self) -> tuple[str, str]:
        if self._oracle is None:
            raise ConfigError("there is no episode yet: call reset() first")
        return self._oracle.choose()

    def _outcome(self, session: Session, result: ActionResult) -> StepResult:
        bought = session.purchase.info() if session.purchase else {}
        return StepResult(
            session.text_rich() if self._rich else session.text(),
            reward=result.reward,
            terminated=result.done,
            won=result.done and result.reward == 1.0,
            submitted=result.done,
            score=result.reward,
            admissible_actions=self._admissible(session),
            action_valid=result.valid,
            extra={**self._facts, **_NO_PARTS, **bought},
        )

    def _admissible(self, session: Session) -> list[str]:
        """The possible clicks; on a page with a search alone, a search for the goal's own words.

        Any other search is possible too, on every page.
        """
        if session.page.has_search_bar:
            words = _UNQUERIED.sub(" ", session.goal.text).strip()
            return [f"search[{words or 'item'}]"]
        return [f"click[{name}]" for name in session.page.clickables if name != _NO_CLICK]

    def _asked(self, options: Mapping[str, Any]) -> int | None:
        """The number of the goal that reset options ask for."""
        number: Any = options.get("goal_idx")
        if "task_id" in options:
            found = _TASK_ID.fullmatch(str(options["task_id"]))
            if not found or found[1] != self.goal_type:
                raise ConfigError(
                    f"task_id: expected {self.goal_type}-NUMBER, got {options['task_id']!r}"
                )
            number = int(found[2])
        if number is None:
            return None
        total = len(self.shop.goals)
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < total:
            raise ConfigError(
                f"goal_idx: expected a whole number from 0 to {total - 1}, got {number!r}"
            )
        return number
