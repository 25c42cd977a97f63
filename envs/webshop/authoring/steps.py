"""The steps of an import. Each can be taken again after it was stopped anywhere."""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
from tqdm.auto import tqdm

from aem_gym.envs.webshop import layout
from aem_gym.envs.webshop.authoring.builders import (
    GoalDraws,
    IndexBuilder,
    NounFinder,
    write_strings,
)
from aem_gym.envs.webshop.authoring.draft import ImportDraft
from aem_gym.envs.webshop.catalogue import Product, document
from aem_gym.envs.webshop.dataset import (
    ArticleReader,
    DatasetFiles,
    ShopDataError,
    SkippedRow,
    draw_prices,
    none_for_sale,
    read_json,
    rows,
)
from aem_gym.envs.webshop.search.index import ranks
from aem_gym.envs.webshop.stored import HUMAN, SYNTHETIC
from aem_gym.envs.webshop.stream import MappingFile

_BATCH = 10_000
"""Rows that are committed together."""
_BLOCK = 20_000
"""Articles that are indexed together."""
_BLOCKS = "blocks"
_START = {"row": 0, "byte": 0, "articles": 0, "rng": None, "done": False}


def bar(what: str, total: int, unit: str, initial: int = 0) -> tqdm[Any]:
    """A progress bar, on a terminal."""
    scale: dict[str, Any] = {"total": total, "initial": initial, "unit": unit, "unit_scale": True}
    return tqdm(desc=what, disable=None, leave=False, **scale)


def read_articles(draft: ImportDraft, files: DatasetFiles, seed: int) -> None:
    """Read the rows of the articles' file that were not read yet, and draw prices.

    Raises:
        ShopDataError: a file is not what it should be, or nothing is on sale.
    """
    state = dict(draft.state("rows") or _START)
    if state["done"]:
        return
    rng = _generator(state["rng"]) if state["rng"] else random.Random(seed)
    attributes = MappingFile(files.attributes, rows(files.attributes, dict))
    articles = ArticleReader(attributes, read_json(files.human, dict), draft.asins())
    left = None if files.rows is None else files.rows - state["row"]
    found = islice(rows(files.items, list, state["byte"], state["row"]), left)
    with bar("articles", files.items.stat().st_size, "B", state["byte"]) as progress:
        for element in found:
            article = articles.read(state["row"], element.value)
            if isinstance(article, SkippedRow):
                draft.skip(article)
            else:
                product, packed = article
                price = draw_prices([product], rng)[product.asin]
                draft.add(state["articles"], product, packed, price)
                state["articles"] += 1
            progress.update(element.end - state["byte"])
            state |= {"row": state["row"] + 1, "byte": element.end}
            if state["row"] % _BATCH == 0:
                draft.commit("rows", state | {"rng": rng.getstate()})
    attributes.close()
    if not state["articles"]:
        raise none_for_sale(files.items)
    draft.commit("rows", state | {"rng": rng.getstate(), "done": True})


def add_nouns(draft: ImportDraft, nouns: Path | None, finder: NounFinder | None) -> None:
    """Store the nouns of titles, from a file or as spaCy finds them. Raises ShopDataError."""
    done = draft.state("nouns") or 0
    if nouns is not None and not done:
        with bar("nouns", nouns.stat().st_size, "B") as progress:
            for element in rows(nouns, dict):
                if not isinstance(element.value, list):
                    raise ShopDataError(
                        f"{nouns}: expected lists of nouns by title, got {element.value!r} for "
                        f"{element.key!r}"
                    )
                draft.add_nouns(element.key, map(str, element.value))
                progress.update(element.end - progress.n)
        draft.commit("nouns", 1)
    if finder is not None:
        total = draft.state("rows")["articles"]
        with bar("nouns", total, " articles", done) as progress:
            for some in _batches(draft.products(done), _BATCH):
                titles = [product.title for product in some]
                for title, found in zip(titles, finder(titles), strict=True):
                    draft.add_nouns(title, found)
                    progress.update()
                done += len(some)
                draft.commit("nouns", done)


def draw_goals(draft: ImportDraft, folder: Path) -> tuple[int, int]:
    """Draw the price limits of all goals; returns how many human and synthetic goals there are."""
    state = draft.state("rows")
    kinds = [GoalDraws(kind, _generator(state["rng"])) for kind in (HUMAN, SYNTHETIC)]
    with bar("goals", state["articles"], " articles") as progress:
        for position, (product, price) in enumerate(draft.priced()):
            for draws in kinds:
                draws.add(position, product, price)
            progress.update()
    _empty(folder)
    human, synthetic = (draws.save(folder) for draws in kinds)
    return human, synthetic


def build_index(draft: ImportDraft, work: Path) -> None:
    """Index all articles, in blocks that are kept if it is stopped."""
    if draft.state("index"):
        return
    builder, total = IndexBuilder(work / _BLOCKS), draft.state("rows")["articles"]
    with bar("index", total, " articles", builder.done) as progress:
        for some in _batches(draft.products(builder.done), _BLOCK):
            builder.add([document(product) for product in some])
            progress.update(len(some))
    folder = _empty(work / layout.INDEX)
    with bar("merging", builder.postings, " postings") as progress:
        builder.finish(folder, ranks(draft.asins()), progress.update)
    draft.commit("index", True)


def finish(draft: ImportDraft, work: Path) -> int:
    """Write the other files, remove the blocks; returns how many rows were skipped."""
    shutil.rmtree(work / _BLOCKS, ignore_errors=True)
    write_strings(work, layout.ASINS, draft.asins())
    skipped = list(draft.skipped())
    lines = [msgspec.json.encode(row) + b"\n" for row in skipped]
    (work / layout.SKIPPED).write_bytes(b"".join(lines))
    draft.finish()
    return len(skipped)


def _batches(products: Iterator[Product], size: int) -> Iterator[list[Product]]:
    while some := list(islice(products, size)):
        yield some


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _generator(state: Any) -> random.Random:
    """A generator as it was when its state was kept as JSON."""
    version, numbers, gauss = state
    rng = random.Random()
    rng.setstate((version, tuple(numbers), gauss))
    return rng
