"""Are generated rooms like the real ones? python -m benchmarks.alfworld scenes [--games N].

Compares `full` layouts with the 120 that the alfworld package ships, per kind of room; and games in
both, with objects placed by our rules: admissible commands per state and the oracle's steps. With
--data, counts of official games stand beside them. The last line is one JSON object.
Needs `pip install "aem-gym[alfworld]"`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from aem_gym.envs.alfworld.classes import CAN_CONTAIN, OBJECT_CLASSES, TASK_TYPES, TOGGLEABLE
from aem_gym.envs.alfworld.draws import Draws
from aem_gym.envs.alfworld.engine import Engine
from aem_gym.envs.alfworld.game import Game
from aem_gym.envs.alfworld.generator import Combination, GameSpec, feasible, fill_layout
from aem_gym.envs.alfworld.oracle import HouseholdOracle
from aem_gym.envs.alfworld.rooms import ROOMS, Layout, layout
from benchmarks.alfworld.layouts import object_classes, real_layout

Row = dict[str, list[float]]
_PORTABLE = frozenset(OBJECT_CLASSES) - TOGGLEABLE
_STEPS = 50


def of_layout(plan: Layout) -> dict[str, float]:
    """What can be counted in a layout."""
    places = [receptacle.location for receptacle in plan.receptacles]
    return {
        "receptacles": len(places),
        "locations": len(set(places)),
        "receptacle classes": len(plan.classes()),
        "with doors": sum(
            receptacle.cls in ("Cabinet", "Drawer", "Fridge", "Microwave", "Safe")
            for receptacle in plan.receptacles
        ),
    }


def games(plan: Layout, count: int) -> Iterator[Game]:
    """Games in a layout, task types in turn."""
    rng = random.Random(f"scenes {plan.number}")
    allowed = [(t, pairs) for t in TASK_TYPES if (pairs := feasible(t, plan))]
    for index in range(count if allowed else 0):
        task_type, pairs = allowed[index % len(allowed)]
        obj, target = rng.choice(pairs)
        combination = Combination(task_type, obj, target, plan.number)
        yield fill_layout(GameSpec(combination, "full", rng.randrange(2**31)), plan, "0.4")


def of_game(game: Game) -> dict[str, float]:
    """What can be counted in a game, and in an episode of the oracle."""
    engine = Engine(game)
    oracle = HouseholdOracle(
        "likely", Draws("scenes", game.task_id), engine.contained, goal=game.goal
    )
    oracle.read(engine.reset())
    commands, steps = [len(engine.admissible())], 0
    while not engine.won and steps < _STEPS:
        answer, _ = engine.step(oracle.choose(engine.admissible())[1])
        oracle.read(answer)
        commands.append(len(engine.admissible()))
        steps += 1
    lying = {index for contents in game.contents for index in contents}
    figures = {
        "objects": len(lying),
        "object classes": len({game.objects[index].cls for index in lying} & _PORTABLE),
        "admissible commands": statistics.mean(commands),
        "won, %": 100.0 * engine.won,
    }
    # A lost game has no number of steps: the limit in its place would pass for a long win.
    return figures | ({"oracle steps": steps} if engine.won else {})


def measured(plans: Sequence[Layout], count: int) -> Row:
    """All figures over some layouts, `count` games in each."""
    row: Row = {}
    for plan in plans:
        for key, value in of_layout(plan).items():
            row.setdefault(key, []).append(value)
        for game in games(plan, count):
            for key, value in of_game(game).items():
                row.setdefault(key, []).append(value)
    return row


def official(data: Path) -> Row:
    """All figures over the official games of a folder."""
    from aem_gym.envs.alfworld.dataset.gamefile import read_game

    row: Row = {}
    for path in sorted(data.rglob("game.tw-pddl")):
        game = read_game(path).game
        places = [receptacle.location for receptacle in game.receptacles]
        own = {"receptacles": float(len(places)), "locations": float(len(set(places)))}
        for key, value in {**own, **of_game(game)}.items():
            row.setdefault(key, []).append(value)
    return row


def text(values: Sequence[float] | None) -> str:
    """`mean ± sd [min, max]`."""
    if not values:
        return ""
    return (
        f"{statistics.mean(values):5.1f} ± {statistics.pstdev(values):4.1f} "
        f"[{min(values):.0f}, {max(values):.0f}]"
    )


def show(title: str, ours: Row, real: Row, figures: dict[str, float]) -> None:
    """One table; the ratios of means go into `figures`."""
    print(f"\n{title:22} {'generated':>24} {'real layouts':>24}")
    for key in ours:
        print(f"{key:22} {text(ours[key]):>24} {text(real.get(key)):>24}")
        if real.get(key):
            ratio = statistics.mean(ours[key]) / statistics.mean(real[key])
            figures[f"{title}: {key}"] = round(ratio, 3)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=int, default=20, help="per floorplan")
    parser.add_argument("--data", type=Path, help="a folder with official games")
    arguments = parser.parse_args(argv)
    ratios: dict[str, float] = {}
    for room, numbers in ROOMS.items():
        ours = measured([layout(number, "full") for number in numbers], arguments.games)
        real = measured(
            [real_layout(number, furnished=True) for number in numbers], arguments.games
        )
        kinds = [len(set(object_classes(n)) & _PORTABLE - set(CAN_CONTAIN)) for n in numbers]
        real["object classes"] = [float(kind) for kind in kinds]  # as shipped, not as placed by us
        show(room, ours, real, ratios)
    if arguments.data:
        row = official(arguments.data)
        print(f"\n{'official games':22} {'':>24} {'as they are':>24}")
        for key, values in row.items():
            print(f"{key:22} {'':>24} {text(values):>24}")
    print(json.dumps({"benchmark": "alfworld_scenes", "generated_to_real": ratios}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
