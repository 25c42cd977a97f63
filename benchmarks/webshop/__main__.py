"""How fast and how large the shop is: python -m benchmarks.webshop --help.

1. Steps per second in one process, replaying recorded episodes with their own actions, text and
   available actions rendered at every step, nothing of a search kept from one episode to the next.
2. An index of 100,000 made-up articles: time of a query, size.
3. The full size, 1,180,000 made-up articles of 4.4 kB: importing them (needs 15 GB in the folder
   for temporary files, and some ten minutes), asking them, memory of eight processes at once.

--quick does the first alone. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.webshop import index, replays, store

BARS = {"steps_per_second": 25_000.0, "query_p50_ms": 2.0, "index_mb": 100.0, "construct_s": 0.5}
FULL = 1_180_000


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    files = (arguments.products, arguments.attributes, arguments.human_goals, arguments.goals)
    start = time.perf_counter()
    shop = replays.open_recorded(*files)
    figures: dict[str, Any] = {"benchmark": "webshop", "construct_s": time.perf_counter() - start}
    figures |= replays.replay(shop, json.loads(arguments.traces.read_text()), 5.0)
    if arguments.quick:
        return figures
    figures |= index.measure(shop)
    rows = [
        row
        for row in json.loads(arguments.products.read_text())
        if row["asin"] in set(shop.catalogue.every())
    ]
    human = json.loads(arguments.human_goals.read_text())
    return figures | store.measure(rows, human, arguments.articles, index.queries(shop))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("products", "attributes", "human-goals", "traces"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--goals", type=Path, help="recorded goals and prices; else drawn, seed 0")
    parser.add_argument("--quick", action="store_true", help="steps per second alone")
    parser.add_argument("--articles", type=int, default=FULL, help="of the full size: %(default)s")
    figures = measure(parser.parse_args(argv))
    for key, value in figures.items():
        print(f"{key:24} {value if isinstance(value, str) else f'{value:14,.3f}'}")
    met = figures["steps_per_second"] >= BARS["steps_per_second"] and all(
        figures[key] <= bar for key, bar in list(BARS.items())[1:] if key in figures
    )
    print(json.dumps(figures | {"bars": BARS, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
