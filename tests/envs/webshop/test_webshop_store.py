"""Imported shops: on disk the same as in memory, and refused when they are not whole."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import random
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.envs.webshop.authoring import builders, steps
from aem_gym.envs.webshop.authoring.data import data_report, import_data, write_dataset
from aem_gym.envs.webshop.catalogue import MemoryCatalogue
from aem_gym.envs.webshop.dataset import (
    ShopDataError,
    SkippedRow,
    Stock,
    draw_prices,
    find_files,
    load_products,
    read_json,
)
from aem_gym.envs.webshop.generated.listings import make_listings
from aem_gym.envs.webshop.goals import human_goals, official_order, synthetic_goals
from aem_gym.envs.webshop.reward import Nouns
from aem_gym.envs.webshop.stored import StoredCatalogue, open_stored

MAKERS = {"human": human_goals, "synthetic": synthetic_goals}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("official")
    write_dataset(make_listings(seed=5, products=120), folder)
    return folder


@pytest.fixture(scope="module")
def imported(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An imported shop; do not write into it."""
    folder = tmp_path_factory.mktemp("shops") / "shop"
    import_data(source, folder)
    return folder


def load(source: Path, num_products: int | None = None) -> Stock:
    found = [
        next(source.glob(f"{name}*")) for name in ("items_shuffle", "items_ins", "items_human")
    ]
    return load_products(*found, num_products=num_products)


def assert_the_same(
    folder: Path, stock: Stock, seed: int, queries: Iterable[str], most: int = 10_000
) -> None:
    """The shop in a folder is that of some articles, made in memory with a seed."""
    for kind, make in MAKERS.items():
        rng = random.Random(seed)
        prices = draw_prices(stock.products, rng)
        wanted = official_order(make(stock.products, prices, rng))
        shop = open_stored(folder, kind, check=True)
        assert len(shop.goals) == len(wanted)
        assert shop.goals[:most] == wanted[:most]
    stored, memory = shop.catalogue, MemoryCatalogue(stock.products, prices)
    assert len(stored) == len(memory) and list(stored.every()) == list(memory.every())
    for position, product in enumerate(memory.products):
        assert dataclasses.asdict(stored.product(product.asin)) == dataclasses.asdict(product)
        assert stored.product_at(position) is stored.product(product.asin)
        assert stored.price(product.asin) == memory.price(product.asin)
    for query in queries:
        assert stored.search(query.split(" ")) == memory.search(query.split(" "))
    for category in {product.category for product in memory.products} | {"none such"}:
        assert list(stored.in_category(category)) == memory.in_category(category)
    for name in {product.query for product in memory.products} | {"none such"}:
        assert list(stored.in_query(name)) == memory.in_query(name)
        assert stored.in_query(name)[1:3] == memory.in_query(name)[1:3]


def test_recorded_articles_are_the_same_on_disk(test_data: Path, tmp_path: Path) -> None:
    peer = test_data / "webshop" / "peer"
    done = import_data(peer, tmp_path / "shop", seed=3, nouns=peer / "title_nouns.json")
    assert (done.items, done.skipped, done.made) == (997, 3, True)
    queries = [entry["query"] for entry in json.loads((peer / "lucene_top50.json").read_text())]
    stock = load(peer)
    assert_the_same(tmp_path / "shop", stock, 3, queries)
    lines = (tmp_path / "shop" / "skipped.jsonl").read_text().splitlines()
    assert tuple(SkippedRow(**json.loads(line)) for line in lines) == stock.skipped
    nouns, known = open_stored(tmp_path / "shop").nouns, read_json(peer / "title_nouns.json", dict)
    assert nouns.mode == "spacy" and all(list(nouns(title)) == known[title] for title in known)
    assert nouns("Some red shoes") == Nouns()("Some red shoes")


@pytest.mark.parametrize("rows", [None, 50])
def test_generated_articles_are_the_same_on_disk(
    source: Path, tmp_path: Path, rows: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_BATCH", 7)
    monkeypatch.setattr(steps, "_BLOCK", 11)
    done = import_data(source, tmp_path / "shop", num_products=rows, seed=1)
    stock = load(source, rows)
    assert done.items == len(stock.products) == (rows or 120)
    assert_the_same(tmp_path / "shop", stock, 1, [product.title for product in stock.products])
    assert open_stored(tmp_path / "shop").nouns.mode == "words"


_TEXT = st.text(st.sampled_from("aB \u00e9\u2019\U0001f600\ud800\x00."), max_size=6)
_ASINS = st.sampled_from(["A", "B", "C", "D", "E\x00", "nan", "TOOLONGANID", None, "\ud800"])
_SAID = {"asin": _ASINS, "name": _TEXT, "full_description": _TEXT, "small_description": _TEXT}
_REST = {
    "small_description": st.lists(_TEXT, max_size=3),
    "pricing": st.sampled_from([None, "", "$5.99", "$5.00$99.50", "free", "$" + "9" * 400]),
    "customization_options": st.none()
    | st.dictionaries(_TEXT, st.lists(st.builds(lambda v: {"value": v}, _TEXT), max_size=3)),
    "category": _TEXT,
    "query": _TEXT,
    "average_rating": st.just(float("nan")),
}
_ROW = (
    st.builds(dict.__or__, st.fixed_dictionaries(_SAID), st.fixed_dictionaries({}, optional=_REST))
    | st.fixed_dictionaries({}, optional=_SAID)
    | st.integers()
)
_WISHES = st.lists(_TEXT, max_size=2)
_ENTRY = st.fixed_dictionaries(
    {}, optional={"attributes": _WISHES, "instruction": _TEXT, "instruction_attributes": _WISHES}
)
_HUMAN = st.fixed_dictionaries(
    {"instruction": _TEXT},
    optional={"instruction_attributes": _WISHES, "instruction_options": _WISHES},
)
_IDS = st.sampled_from(["A", "B", "C", "D", "E\x00"])


@settings(max_examples=60)
@given(
    st.lists(_ROW, min_size=1, max_size=12),
    st.dictionaries(_IDS, _ENTRY),
    st.dictionaries(_IDS, st.lists(_HUMAN, max_size=2)),
)
def test_any_rows_are_the_same_on_disk(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], entries: Any, human: Any
) -> None:
    folder = tmp_path_factory.mktemp("rows")
    for name, content in (("shuffle", rows), ("ins_v2", entries), ("human_ins", human)):
        (folder / f"items_{name}.json").write_text(json.dumps(content))
    try:
        stock = load(folder)
    except ShopDataError as error:
        with pytest.raises(ShopDataError) as raised:
            import_data(folder, folder / "shop")
        assert str(raised.value) == str(error) and not (folder / "shop.partial").exists()
        return
    assert import_data(folder, folder / "shop").skipped == len(stock.skipped)
    assert_the_same(folder / "shop", stock, 0, ["a b", "\u00e9 a."])


def test_what_is_not_there(imported: Path) -> None:
    shop = open_stored(imported)
    for ask in (shop.catalogue.product, shop.catalogue.price):
        with pytest.raises(KeyError):
            ask("none such")
    assert shop.goals[-1] == shop.goals[len(shop.goals) - 1]
    for index in (len(shop.goals), -len(shop.goals) - 1):
        with pytest.raises(IndexError):
            shop.goals[index]


def test_more_goals_than_can_be_numbered(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builders, "MOST_GOALS", 80)
    import_data(source, tmp_path / "shop")
    with pytest.raises(ShopDataError, match="--num-products"):
        open_stored(tmp_path / "shop", "synthetic")


def test_it_works_after_a_fork_in_threads_and_pickled(imported: Path) -> None:
    catalogue = open_stored(imported).catalogue
    asins = list(catalogue.every())
    wanted = [catalogue.product(asin).title for asin in asins]
    child = os.fork()
    if not child:
        same = [catalogue.product(asin).title for asin in asins] == wanted
        own = catalogue.price(asins[0]) >= 0 and len(catalogue.database._connections) == 2
        os._exit(0 if same and own else 1)
    assert os.waitpid(child, 0)[1] == 0
    copy: StoredCatalogue = pickle.loads(pickle.dumps(catalogue))
    found: dict[int, list[str]] = {}

    def work(number: int) -> None:
        found[number] = [copy.product(asin).title for asin in asins]

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys(range(4), wanted)


def test_a_shop_that_is_not_whole_is_refused(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    with pytest.raises(ShopDataError, match="aem-gym data webshop import DIR --out"):
        open_stored(folder)
    import_data(source, folder)
    for path in [path for path in folder.rglob("*") if path.is_file()]:
        before = path.read_bytes()
        harm = [before[: len(before) // 2], b"", before + b"x"]
        if path.name == "manifest.json":
            harm = [
                before[: len(before) // 2],
                b"{}",
                before.replace(b'"format": 1', b'"format": 2'),
            ]
        for content in harm:
            if content != before:
                path.write_bytes(content)
                with pytest.raises(ShopDataError, match="import DIR --out"):
                    open_stored(folder)
        path.unlink()
        with pytest.raises(ShopDataError, match="import DIR --out"):
            open_stored(folder)
        path.write_bytes(before)
    flipped = folder / "index" / "gains.npy"
    content = bytearray(flipped.read_bytes())
    content[-1] ^= 1
    flipped.write_bytes(content)
    with pytest.raises(ShopDataError, match="other bytes"):
        open_stored(folder, check=True)


def test_what_there_is_is_reported(
    source: Path, imported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path))
    report = data_report()
    assert not report.complete and "aem-gym data webshop import DIR" in report.advice
    assert import_data(source).place == str(tmp_path / "webshop" / "items_shuffle")
    assert import_data(source, num_products=9, seed=2).items == 9
    report = data_report()
    assert report.complete and [part.found for part in report.parts] == [120, 9]
    (tmp_path / "webshop" / "items_shuffle").rename(tmp_path / "webshop" / "killed.partial")
    assert [part.found for part in data_report().parts] == [9]
    (tmp_path / "webshop" / "killed.partial").rename(tmp_path / "webshop" / "items_shuffle")
    assert data_report(str(imported)).parts[0].found == 120
    assert data_report(str(source)).complete
    (tmp_path / "webshop" / "items_shuffle" / "asins.npy").unlink()
    report = data_report()
    assert not report.complete and "asins.npy" in report.damaged[0]


def test_of_several_sizes_the_largest_is_taken(tmp_path: Path) -> None:
    sizes = {"items_shuffle": 9, "items_shuffle_1000": 5, "items_ins_v2": 9, "items_ins_v2_1000": 5}
    for name, size in (sizes | {"items_human_ins": 1}).items():
        (tmp_path / f"{name}.json").write_bytes(b"x" * size)
    chosen = {number: find_files(tmp_path, number) for number in (None, 1000, 10)}
    assert {n: (f.items.stem, f.attributes.stem, f.rows) for n, f in chosen.items()} == {
        None: ("items_shuffle", "items_ins_v2", None),
        1000: ("items_shuffle_1000", "items_ins_v2_1000", None),
        10: ("items_shuffle", "items_ins_v2", 10),
    }
    with pytest.raises(ShopDataError, match="at least 1"):
        find_files(tmp_path, 0)
