"""A generated shop as official files, which the original engine reads, too."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from aem_gym.datasets import Exported
from aem_gym.envs.webshop.generated.listings import Listings, make_listings

ITEMS, ATTRIBUTES, HUMAN = "items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"


def write_official(listings: Listings, folder: Path) -> None:
    """Write the three files into a folder, which is made if it is missing; each is whole or absent.

    Raises:
        OutputError: the disk does not take them.
    """
    import msgspec

    from aem_gym.io import atomic_write, explained

    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    contents = {ITEMS: listings.items, ATTRIBUTES: listings.attributes, HUMAN: listings.human}
    for name, content in contents.items():
        atomic_write(folder / name, msgspec.json.format(msgspec.json.encode(content), indent=1))


def export_shop(folder: Path, seed: int, products: int, level: str) -> Exported:
    """Write a generated shop, and say what is in it.

    Raises:
        OutputError: the disk does not take it.
    """
    listings = make_listings(seed, products, level)
    write_official(listings, folder)
    return Exported(
        place=str(folder),
        written=len(listings.items),
        kept=0,
        by_type=dict(sorted(Counter(str(row["category"]) for row in listings.items).items())),
        use=f"aem-gym play webshop --env-arg data_dir={folder}",
    )
