"""The search index of 100,000 made-up articles: building, size, time of a query."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from aem_gym.envs.webshop.catalogue import document
from aem_gym.envs.webshop.search.index import SearchIndex
from aem_gym.envs.webshop.shops import Shop
from benchmarks.webshop.made_up import documents

ARTICLES = 100_000
_QUERIES = 200
_PASSES = 3


def queries(shop: Shop) -> list[str]:
    """What is asked: texts of goals, and titles."""
    goals = [shop.goals[number] for number in range(min(_QUERIES, len(shop.goals)))]
    return [goal.text for goal in goals] + [goal.title for goal in goals]


def query_times(search: Callable[[Sequence[str]], Any], texts: Iterable[str]) -> dict[str, float]:
    """Milliseconds of a query: median and 95th percentile."""
    times = []
    for text in texts:
        start = time.perf_counter()
        search(text.split(" "))
        times.append((time.perf_counter() - start) * 1e3)
    twentieths = statistics.quantiles(times, n=20)
    return {"query_p50_ms": statistics.median(times), "query_p95_ms": twentieths[18]}


def measure(shop: Shop) -> dict[str, float]:
    """Build an index in memory and ask it: the quietest of three passes."""
    texts = [document(shop.catalogue.product(asin)) for asin in shop.catalogue.every()]
    asins = [f"B{number:09d}" for number in range(ARTICLES)]
    start = time.perf_counter()
    index = SearchIndex.build(documents(texts, ARTICLES), asins)
    built = time.perf_counter() - start
    passes = [query_times(index.search, queries(shop)) for _ in range(_PASSES)]
    return {
        "articles": ARTICLES,
        "build_s": built,
        "index_mb": index.nbytes / 1e6,
        **min(passes, key=lambda times: times["query_p95_ms"]),
    }
