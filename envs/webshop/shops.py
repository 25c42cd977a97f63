"""Shops: articles, goals and nouns together, made once and shared by all environments of a process.

A shop is either generated, or read from a folder: official files, or what
`aem-gym data webshop import` made of them.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from aem_gym.envs.webshop import dataset, layout
from aem_gym.envs.webshop.catalogue import Catalogue, MemoryCatalogue, Product, parse_product
from aem_gym.envs.webshop.dataset import GET_DATA, VARIABLE, FileFingerprint, ShopDataError
from aem_gym.envs.webshop.goals import ShopGoal, human_goals, official_order, synthetic_goals
from aem_gym.envs.webshop.reward import Nouns
from aem_gym.errors import ConfigError
from aem_gym.io import digest_files

GOAL_TYPES = ("human", "synthetic")
SIZES = {"full": 1000, "easy": 480}
"""Articles of a generated shop by default."""
_SMALL = 2000
_LARGE = 500_000_000
"""Bytes of articles; the official 1,000 have 4.5 million."""
_WORD = re.compile(r"[^\W_]+")
_HERE = Path(__file__).parent
_RULES = ("catalogue.py", "dataset.py", "goals.py")
"""Files that decide what articles and goals are made of rows."""


@dataclass(frozen=True)
class Shop:
    """The parts of a shop that sessions need."""

    catalogue: Catalogue
    goals: Sequence[ShopGoal]
    """In the official order."""
    nouns: Nouns
    source: str
    """Where the articles come from, for protocols."""
    digest: str
    """Hex; changes when any article or goal could change."""

    def lexicon(self) -> tuple[str, ...]:
        """Ids, options, attributes and words of titles; empty where the shop is large."""
        if not isinstance(self.catalogue, MemoryCatalogue) or len(self.catalogue) > _SMALL:
            return ()
        names: set[str] = set()
        for product in self.catalogue.products:
            names.add(product.asin)
            names.update(value for _, values in product.options for value in values)
            names.update(_WORD.findall(product.title.lower()))
            names.update(word for name in product.attributes for word in _WORD.findall(name))
        return tuple(sorted(names))


def choose_shop(
    source: str, data_dir: str | None, level: str, products: int | None, *, seed: int, goals: str
) -> Shop:
    """The shop that the arguments of an environment name. See `open_shop` and `generated_shop`."""
    if products is not None and products < 1:
        raise ConfigError(f"num_products: expected at least 1, got {products}")
    if source == "official":
        return open_shop(data_dir, products, seed, goals)
    return generated_shop(level, products or SIZES[level], seed, goals)


@lru_cache(maxsize=8)
def generated_shop(level: str, products: int, seed: int, goals: str) -> Shop:
    """A shop with generated articles of a `level`, `full` or `easy`.

    `seed` is that of articles, hidden prices and price limits.
    """
    from aem_gym.envs.webshop.generated.listings import make_listings

    listings = make_listings(seed, products, level)
    stock = [
        parse_product(
            row, listings.attributes.get(row["asin"]), listings.human.get(row["asin"], ())
        )
        for row in listings.items
    ]
    generator = [path for path in (_HERE / "generated").iterdir() if path.is_file()]
    digest = _digest(generator, level, products, seed, goals)
    return _memory_shop(stock, seed, goals, f"generated ({level}, seed {seed})", digest)


def _memory_shop(stock: Sequence[Product], seed: int, goals: str, source: str, digest: str) -> Shop:
    rng = random.Random(seed)
    prices = dataset.draw_prices(stock, rng)
    make = human_goals if goals == "human" else synthetic_goals
    wanted = official_order(make(stock, prices, rng))
    return Shop(MemoryCatalogue(stock, prices), wanted, Nouns(), source, digest)


def _digest(files: Iterable[Path], *arguments: object) -> str:
    """Digest of what a shop is made of: files, the rules of this package, arguments."""
    made_of = digest_files([*files, *(_HERE / name for name in _RULES)]), arguments
    return blake2b(repr(made_of).encode(), digest_size=16).hexdigest()


def open_shop(data_dir: str | None, num_products: int | None, seed: int, goals: str) -> Shop:
    """A shop with official articles, from official files or an imported shop.

    `data_dir` defaults to `$WEBSHOP_DATA`; `num_products` means the first so many rows; `seed` is
    that of hidden prices and price limits.

    Raises:
        ShopDataError: there is no such folder; files are missing or damaged; an imported shop has
            another size or seed.
    """
    named = data_dir or os.environ.get(VARIABLE)
    if not named:
        raise ShopDataError(
            f"data_dir: expected a folder, got none, and {VARIABLE} is not set either. {GET_DATA}"
        )
    folder = Path(named).expanduser().absolute()
    if (folder / layout.MANIFEST).exists() or layout.is_partial(folder):
        return _imported_shop(folder, num_products, seed, goals)
    return _dataset_shop(folder, num_products, seed, goals)


@lru_cache(maxsize=4)
def _dataset_shop(folder: Path, num_products: int | None, seed: int, goals: str) -> Shop:
    """Official files, read into memory."""
    files = dataset.find_files(folder, num_products)
    size = files.items.stat().st_size
    if size > _LARGE:
        raise ShopDataError(
            f"{files.items}: {size / 1e9:.1f} GB are too much for memory. Import it once: "
            f"aem-gym data webshop import {folder}"
        )
    read = (files.items, files.attributes, files.human)
    stock = dataset.load_products(*read, num_products=files.rows)
    digest = _dataset_digest(map(dataset.fingerprint, read), files.rows, seed, goals)
    return _memory_shop(stock.products, seed, goals, str(folder), digest)


@lru_cache(maxsize=4)
def _imported_shop(folder: Path, num_products: int | None, seed: int, goals: str) -> Shop:
    """A shop on disk, whose pages processes share."""
    from aem_gym.envs.webshop.stored import open_stored

    stored = open_stored(folder, goals)
    manifest, plan = stored.manifest, stored.manifest.plan
    for name, asked, known in (
        # Of the rows that were read, some may not be on sale.
        ("num_products", num_products, (manifest.products, plan.rows)),
        ("catalogue_seed", seed, (plan.seed,)),
    ):
        if asked is not None and asked not in known:
            raise ShopDataError(
                f"{name}: expected {known[0]}, which {folder} was imported with, got {asked}. Give "
                f"{name}={known[0]}, or import again into another folder: aem-gym data webshop "
                "import --help"
            )
    digest = _dataset_digest(plan.sources[:3], plan.rows, plan.seed, goals)
    return Shop(stored.catalogue, stored.goals, stored.nouns, str(folder), digest)


def _dataset_digest(
    files: Iterable[FileFingerprint], rows: int | None, seed: int, goals: str
) -> str:
    """The same for official files and for a shop that was imported from them."""
    return _digest((), [(file.bytes, file.ends) for file in files], rows, seed, goals)
