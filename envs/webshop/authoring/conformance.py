"""Replays recordings of the official engine and counts what agrees.

    aem-gym webshop conformance --products F --attributes F --human-goals F --goals F
        [--nouns F] [--traces F] [--rewards F ...] [--search F]

Prints matches and totals for text, text_rich, available actions, rewards, done, reward parts and
the order of search results; the first differences; as the last line one JSON object. Exit status 1
on any difference.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aem_gym.envs.webshop.catalogue import MemoryCatalogue
from aem_gym.envs.webshop.dataset import ShopDataError, load_products, read_json
from aem_gym.envs.webshop.engine import Session
from aem_gym.envs.webshop.goals import parse_goal
from aem_gym.envs.webshop.reward import Nouns, purchase_reward
from aem_gym.envs.webshop.shops import Shop
from aem_gym.errors import AemGymError

SHOWN = 5
_CLOSE = 1e-9


@dataclass(slots=True)
class Tally:
    """Counts of agreements, and the first differences."""

    right: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)

    def compare(self, what: str, where: str, ours: Any, theirs: Any) -> None:
        self.total[what] += 1
        agree = ours == theirs
        if isinstance(ours, float) and isinstance(theirs, int | float):
            agree = abs(ours - theirs) <= _CLOSE
        self.right[what] += agree
        if not agree and len(self.first) < SHOWN:
            self.first.append(f"{where}, {what}:\n  official {theirs!r}\n  ours     {ours!r}")


def open_shop(
    products: Path, attributes: Path, human: Path, goals: Path, nouns: Path | None
) -> Shop:
    """The shop of some recordings; goals and prices are recorded, since the original draws them."""
    stock = load_products(products, attributes, human)
    drawn = read_json(goals, dict)
    try:
        catalogue = MemoryCatalogue(stock.products, drawn["prices"])
        wanted = [parse_goal(goal) for goal in drawn["goals"]]
    except KeyError as error:
        raise ShopDataError(f"{goals}: the key {error} is missing") from error
    known = Nouns(read_json(nouns, dict) if nouns else None)
    return Shop(catalogue, wanted, known, str(products), digest="")


def replay(shop: Shop, episode: Mapping[str, Any], tally: Tally) -> None:
    """Compare one recorded episode."""
    number = episode["goal_idx"]
    session = Session(
        shop.catalogue,
        shop.goals[number],
        shop.nouns,
        name=str(number),
        show_attributes=episode.get("show_attrs", False),
        strict=True,
    )
    name = f"episode {episode['name']!r}"
    _page(session, episode["reset"], f"{name}, reset", tally)
    steps = list(episode["steps"])
    after = episode.get("after_done_step")
    for index, step in enumerate([*steps, after] if after else steps):
        where = f"{name}, step {index}, {step['action']!r}"
        if "error" in step:
            tally.compare("crashes", where, _crashes(session, step["action"]), True)
            continue
        result = session.step(step["action"])
        tally.compare("reward", where, result.reward, step["reward"])
        tally.compare("done", where, result.done, step["done"])
        _page(session, step, where, tally)
    if episode.get("reward_info"):
        parts = session.purchase.info() if session.purchase else None
        _parts(parts, episode["reward_info"], name, tally)


def _crashes(session: Session, action: str) -> bool:
    try:
        session.step(action)
    except TypeError:
        return True
    return False


def _page(session: Session, recorded: Mapping[str, Any], where: str, tally: Tally) -> None:
    ours = {
        "text": session.text(),
        "text_rich": session.text_rich(),
        "url": session.url,
        "available_actions": session.available_actions(),
    }
    for what, value in ours.items():
        if what in recorded:
            tally.compare(what, where, value, recorded[what])
    if "obs_returned" in recorded:
        tally.compare("text", where, ours["text"], recorded["obs_returned"])


def _parts(
    ours: Mapping[str, Any] | None, theirs: Mapping[str, Any], where: str, tally: Tally
) -> None:
    for key, value in theirs.items():
        tally.compare("reward parts", f"{where}, {key}", (ours or {}).get(key), value)


def replay_reward(shop: Shop, entry: Mapping[str, Any], where: str, tally: Tally) -> None:
    """Compare one recorded purchase."""
    reward = purchase_reward(
        shop.catalogue.product(entry["purchased_asin"]),
        parse_goal(entry["goal"]),
        entry["price"],
        list(entry["options"].values()),
        shop.nouns,
    )
    tally.compare("purchase reward", where, reward.total, entry["reward"])
    _parts(reward.info(), entry["info"], where, tally)


def run(given: argparse.Namespace) -> Tally:
    """Make all comparisons that the arguments ask for."""
    files = (given.products, given.attributes, given.human_goals, given.goals, given.nouns)
    shop = open_shop(*files)
    tally = Tally()
    for episode in read_json(given.traces, list) if given.traces else ():
        replay(shop, episode, tally)
    for path in given.rewards:
        for index, entry in enumerate(read_json(path, list)):
            replay_reward(shop, entry, f"{path.name}, {index}", tally)
    for entry in read_json(given.search, list) if given.search else ():
        ours = shop.catalogue.search(entry["query"].split(" "))
        theirs = [asin for asin, _ in entry["hits"]]
        tally.compare("search order", f"query {entry['query']!r}", ours, theirs)
    return tally


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    """Run the command; returns its exit status: 0 all agrees, 1 it does not, 2 bad input."""
    try:
        tally = run(_parser(prog).parse_args(argv))
    except AemGymError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for text in tally.first:
        print(text)
    for what, total in tally.total.items():
        print(f"{what:18} {tally.right[what]:7} / {total}")
    differences = sum(tally.total.values()) - sum(tally.right.values())
    figures = {what: [tally.right[what], total] for what, total in tally.total.items()}
    print(json.dumps({"differences": differences, "matches": figures}))
    return 1 if differences or not tally.total else 0


def _parser(prog: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--products", type=Path, required=True, help="items_shuffle*.json")
    parser.add_argument("--attributes", type=Path, required=True, help="items_ins_v2*.json")
    parser.add_argument("--human-goals", type=Path, required=True, help="items_human_ins.json")
    parser.add_argument("--goals", type=Path, required=True, help="recorded goals and prices")
    parser.add_argument("--nouns", type=Path, help="recorded nouns of titles")
    parser.add_argument("--traces", type=Path, help="recorded episodes")
    parser.add_argument("--rewards", type=Path, action="extend", nargs="+", default=[])
    parser.add_argument("--search", type=Path, help="recorded search results")
    return parser
