"""The native engine against the real one: python -m benchmarks.alfworld speed [--games N].

Same game files, same commands, admissible commands asked for at every step, one run. The real
engine is driven as alfworld drives it (textworld with alfworld's demangler); ours as a user does,
through the whole Gymnasium environment. Needs `pip install "aem-gym[alfworld]"`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.alfworld.timing import timed

TASK_SEED = 20_260
BARS = {"steps_ratio": 1000.0, "resets_ratio": 1000.0, "load_ratio": 100.0, "load_ms": 5.0}


def make_files(folder: Path, count: int) -> list[Path]:
    """Game files of generated `full` games, the task types in turn."""
    from aem_gym.envs.alfworld.authoring.export import export_games
    from aem_gym.envs.alfworld.classes import TASK_TYPES

    split = [count // len(TASK_TYPES) + (i < count % len(TASK_TYPES)) for i in range(6)]
    for task_type, number in zip(TASK_TYPES, split, strict=True):
        if number:
            export_games(folder, games=number, seed=TASK_SEED, env_args={"task_types": task_type})
    return sorted(folder.rglob("game.tw-pddl"))


def play_native(path: Path, steps: int) -> tuple[list[str], list[str], dict[str, list[float]]]:
    """(commands, answers, seconds of each load, reset and step) of one game."""
    import numpy as np

    from aem_gym.envs.alfworld.dataset.gamefile import read_game
    from aem_gym.envs.alfworld.env import ALFWorldEnv

    load = [timed(lambda: read_game(path))[1] for _ in range(20)]
    env = ALFWorldEnv(max_turns=10**9)
    options = {"game": str(path)}
    env.reset(seed=0, options=options)
    reset = [timed(lambda: env.reset(options=options))[1] for _ in range(20)]
    observation, info = env.reset(seed=0, options=options)
    rng, commands, answers, step = np.random.default_rng(0), [], [observation], []
    while len(commands) < steps and not info["won"]:
        possible = info["admissible_actions"]
        command = possible[int(rng.integers(len(possible)))]
        (observation, _, _, _, info), seconds = timed(lambda command=command: env.step(command))
        commands.append(command)
        answers.append(observation)
        step.append(seconds)
    return commands, answers, {"load": load, "reset": reset, "step": step}


def play_real(path: Path, commands: Sequence[str]) -> tuple[list[str], dict[str, list[float]]]:
    """(answers, seconds of each load, reset and step) of the same game and commands."""
    import textworld
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler

    infos = textworld.EnvInfos(won=True, admissible_commands=True)
    env, start = timed(lambda: textworld.start(str(path), infos, wrappers=[AlfredDemangler()]))
    state, reset = timed(env.reset)
    answers, step = [state.feedback], []
    for command in commands:
        (state, _, _), seconds = timed(lambda command=command: env.step(command))
        assert state["admissible_commands"]
        answers.append(state.feedback)
        step.append(seconds)
    env.close()
    return answers, {"load": [start], "reset": [reset], "step": step}


def report(native: dict[str, list[float]], real: dict[str, list[float]]) -> dict[str, Any]:
    """Prints the table; the figures of the last line."""
    figures: dict[str, Any] = {"benchmark": "alfworld_speed"}
    print(f"{'':6} {'real':>12} {'native':>12} {'ratio':>9}")
    for key, name in (("step", "steps"), ("reset", "resets"), ("load", "load")):
        theirs, ours = statistics.mean(real[key]), statistics.mean(native[key])
        print(f"{key:6} {theirs * 1e3:9.2f} ms {ours * 1e3:9.4f} ms {theirs / ours:8.0f}x")
        figures |= {f"{name}_ratio": theirs / ours, f"{key}_ms": ours * 1e3}
        figures[f"real_{key}_ms"] = theirs * 1e3
    return figures


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--games", type=int, default=12)
    parser.add_argument("--steps", type=int, default=40, help="per game")
    parser.add_argument("--data", type=Path, help="a json_2.1.1 folder: its first games as well")
    arguments = parser.parse_args(argv)
    from tqdm import tqdm

    native: dict[str, list[float]] = {"load": [], "reset": [], "step": []}
    real: dict[str, list[float]] = {"load": [], "reset": [], "step": []}
    differences = 0
    with tempfile.TemporaryDirectory() as folder:
        files = make_files(Path(folder), arguments.games)
        if arguments.data:
            files += sorted(arguments.data.rglob("game.tw-pddl"))[: arguments.games]
        for path in tqdm(files, unit="game"):
            commands, answers, times = play_native(path, arguments.steps)
            their_answers, their_times = play_real(path, commands)
            differences += answers != their_answers
            for key in native:
                native[key] += times[key]
                real[key] += their_times[key]
    figures = report(native, real) | {"games": len(files), "games_that_differ": differences}
    met = all(figures[key] >= bar for key, bar in BARS.items() if key.endswith("ratio"))
    met = met and figures["load_ms"] <= BARS["load_ms"] and not differences
    print(json.dumps(figures | {"bars": BARS, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
