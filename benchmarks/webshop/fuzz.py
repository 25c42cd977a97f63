"""No text may break the shop: python -m benchmarks.webshop.fuzz [--commands N] [--seed S].

Plays generated shops (and official articles with --data) with admissible, mutated and made-up
actions. A step must answer; what is not valid must change nothing; a reward is between 0 and 1 and
comes with a purchase alone. The last line is one JSON object; exit 1 if anything failed.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

_SALAD = (
    "search[ click[ ] [ [] buy now back to next > < prev features description reviews attributes "
    "search click B0 small red 1 $ 10.0 the <r> <c> <q> <a> fashion a { } {0} %s / \\ ' \" "
    "<action> </action> [SEP] \n \t \x00 \u202e 🙂 ® İ ß \ud800 ² ١ ] click[buy now]"
)
WORDS = _SALAD.split(" ")


def command(rng: random.Random, admissible: Sequence[str], others: Sequence[str]) -> str:
    """An admissible action, a mutation of it, one of another page, a search, salad, or noise."""
    kind = rng.random()
    base = rng.choice(admissible)
    if kind < 0.35:
        return base
    if kind < 0.55:
        return mutated(rng, base)
    if kind < 0.7:
        return rng.choice(others)
    if kind < 0.85:
        return f"search[{' '.join(rng.choices(WORDS, k=rng.randrange(0, 6)))}]"
    if kind < 0.93:
        return " ".join(rng.choices(WORDS, k=rng.randrange(0, 8)))
    return "".join(chr(rng.randrange(0x110000)) for _ in range(rng.randrange(0, 40)))


def mutated(rng: random.Random, text: str) -> str:
    """One to three small changes."""
    for _ in range(rng.randint(1, 3)):
        at, change = rng.randrange(len(text) + 1), rng.randrange(5)
        if change == 0:
            text = text[:at] + text[at + 1 :]
        elif change == 1:
            text = text[:at] + rng.choice(WORDS) + text[at:]
        elif change == 2:
            text = rng.choice((text.upper(), text.title(), text[::-1], text * 2))
        elif change == 3:
            text = rng.choice((" ", "\n", "\t", "\u00a0")) + text + rng.choice((" ", "\v", "]"))
        else:
            text = text[:at] + text[at : at + 1] * rng.randrange(0, 50) + text[at + 1 :]
    return text


def environments(data: str | None) -> list[Any]:
    """Every kind of shop, mode and strictness; official articles where there are some."""
    import gymnasium as gym

    import aem_gym  # noqa: F401  (registers the ids)

    kinds: list[dict[str, Any]] = [
        {"difficulty": difficulty, "observation": mode, "strict_official": strict}
        for difficulty in ("full", "easy")
        for mode in ("text", "text_rich")
        for strict in (False, True)
    ]
    kinds[0] |= {"show_attributes": True, "goals": "synthetic"}
    if data:
        kinds.append({"data_dir": data})
    return [gym.make("aem_gym/WebShop-v0", max_turns=10**9, **kind).unwrapped for kind in kinds]


def play(env: Any, rng: random.Random, seed: int, turns: int, seen: list[str]) -> Counter[str]:
    """One episode; counts of what happened, failures under `failed: ...`."""
    counts: Counter[str] = Counter()
    page, info = env.reset(seed=seed)
    for _ in range(turns):
        before, actions = page, info["admissible_actions"]
        text = command(rng, actions, seen)
        try:
            page, reward, over, _, info = env.step(text)
        except Exception as error:  # the very thing that is looked for
            counts[f"failed: {type(error).__name__} on {text!r}"] += 1
            return counts
        counts["commands"] += 1
        counts["valid"] += info["action_valid"]
        counts["purchases"] += over
        wrong = (
            (text in actions and not info["action_valid"])
            or not page
            or not 0.0 <= reward <= 1.0
            or (reward > 0.0 and not over)
            or not (info["action_valid"] or over or page == before)
        )
        if wrong:
            counts[f"failed: {text!r} gave {reward}, over {over}, page {page[:80]!r}"] += 1
        seen[rng.randrange(len(seen))] = rng.choice(actions)
        if over:
            break
    return counts


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--commands", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", help="a folder of official files: its articles are sold, too")
    arguments = parser.parse_args(argv)
    from tqdm import tqdm

    rng = random.Random(arguments.seed)
    start, counts, seen = time.perf_counter(), Counter[str](), ["click[buy now]"] * 1000
    envs = environments(arguments.data)
    with tqdm(total=arguments.commands, unit="command", smoothing=0) as bar:
        while counts["commands"] < arguments.commands:
            left = arguments.commands - counts["commands"]
            env = envs[counts["episodes"] % len(envs)]
            played = play(env, rng, rng.randrange(2**31), min(200, left), seen)
            counts += played
            counts["episodes"] += 1
            bar.update(played["commands"])
            if not played["commands"]:
                break  # it fails at once: say so instead of trying for ever
    failures = {key: n for key, n in counts.items() if key.startswith("failed")}
    for text, number in list(failures.items())[:20]:
        print(f"{number} x {text}")
    names = ("commands", "valid", "purchases", "episodes")
    figures: dict[str, Any] = {name: counts[name] for name in names}
    figures |= {"failures": sum(failures.values()), "seconds": time.perf_counter() - start}
    print(json.dumps({"benchmark": "webshop_fuzz", **figures}))
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
