"""A shop of the full size on disk: importing it, asking it, and what its processes hold."""

from __future__ import annotations

import multiprocessing as mp
import resource
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

from aem_gym.envs.webshop import layout
from aem_gym.envs.webshop.authoring.data import import_data
from aem_gym.envs.webshop.stored import open_stored
from benchmarks.webshop.index import query_times
from benchmarks.webshop.made_up import write_official

WORKERS = 8


def measure(
    rows: Sequence[dict[str, Any]], human: dict[str, Any], count: int, texts: Sequence[str]
) -> dict[str, float]:
    """Import so many made-up articles, then ask them in one process and in eight at once."""
    with tempfile.TemporaryDirectory(prefix="webshop-") as name:
        source, folder = Path(name, "official"), Path(name, "shop")
        source.mkdir()
        start = time.perf_counter()
        write_official(source, rows, human, count)
        figures = {"full_articles": count, "full_write_s": time.perf_counter() - start}
        figures["full_source_mb"] = _megabytes(source)
        context = mp.get_context("spawn")  # a process of its own: its peak is that of the import
        with context.Pool(1) as pool:
            figures |= pool.apply(_import, (source, folder))
        figures["full_store_mb"] = _megabytes(folder)
        figures["full_index_mb"] = _megabytes(folder / layout.INDEX)
        with context.Pool(1) as pool:
            figures |= pool.apply(_ask, (folder, texts))
        return figures | _together(folder, texts)


def _import(source: Path, folder: Path) -> dict[str, float]:
    start = time.perf_counter()
    done = import_data(source, folder)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {"full_sold": done.items, "full_import_s": seconds, "full_import_peak_mb": peak}


def _ask(folder: Path, texts: Sequence[str]) -> dict[str, float]:
    start = time.perf_counter()
    shop = open_stored(folder)
    opened = time.perf_counter() - start
    before = query_times(shop.catalogue.search, texts)  # the first time: pages come from the disk
    again = query_times(shop.catalogue.search, texts)
    return {
        "full_open_s": opened,
        "full_goals": len(shop.goals),
        **{f"full_first_{name}": value for name, value in before.items()},
        **{f"full_{name}": value for name, value in again.items()},
    }


def _together(folder: Path, texts: Sequence[str]) -> dict[str, float]:
    """Memory of processes that work in the same shop at the same time."""
    context = mp.get_context("spawn")
    results: mp.Queue[dict[str, float]] = context.Queue()
    barrier = context.Barrier(WORKERS)
    workers = [
        context.Process(target=_work, args=(folder, texts[number::WORKERS], barrier, results))
        for number in range(WORKERS)
    ]
    for worker in workers:
        worker.start()
    memory = [results.get() for _ in workers]
    for worker in workers:
        worker.join()
    figures = {f"workers_{key}_mb": sum(each[key] for each in memory) for key in ("pss", "rss")}
    one = max(memory, key=lambda each: each["own"])
    return figures | {f"worker_{key}_mb": value for key, value in one.items()}


def _work(
    folder: Path, texts: Sequence[str], barrier: Barrier, results: mp.Queue[dict[str, float]]
) -> None:
    """Search, and look at all that is found."""
    barrier.wait()
    bare = _memory()
    barrier.wait()
    shop = open_stored(folder)
    for text in texts:
        for asin in shop.catalogue.search(text.split(" ")):
            shop.catalogue.product(asin)
    barrier.wait()
    memory = _memory() | {"bare_own": bare["own"]}
    barrier.wait()
    results.put(memory)


def _memory() -> dict[str, float]:
    """Megabytes: this process's share, all it maps, what no other maps, what is in no file."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    found = {line.split(":")[0]: int(line.split()[1]) / 1e3 for line in lines}
    alone = found["Private_Clean"] + found["Private_Dirty"]
    return {"pss": found["Pss"], "rss": found["Rss"], "uss": alone, "own": found["Anonymous"]}


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6
