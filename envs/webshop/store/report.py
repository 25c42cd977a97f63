"""What there is of WebShop's official data, for `aem-gym data`."""

from __future__ import annotations

import os
from pathlib import Path

from aem_gym.datasets import DataPart, DataReport
from aem_gym.envs.webshop.official import FILES, MEND, ShopDataError
from aem_gym.envs.webshop.store import layout
from aem_gym.envs.webshop.store.manifest import Manifest, read_manifest

VARIABLE = "WEBSHOP_DATA"
_TITLE = "official shop"


def data_report(data_dir: str | None = None) -> DataReport:
    """What is there: an imported shop, several of them, or the official files.

    Args:
        data_dir: where to look; default: `$WEBSHOP_DATA`, else where imports go.
    """
    named = data_dir or os.environ.get(VARIABLE)
    place = Path(named).expanduser() if named else layout.default_place()
    folders = [place] if (place / layout.MANIFEST).exists() else _shops(place)
    if not folders:
        return _official(place)
    parts, damaged = [], []
    for folder in folders:
        try:
            manifest = read_manifest(folder)
        except ShopDataError as error:
            damaged.append(str(error))
        else:
            note = _note(manifest)
            parts.append(DataPart(folder.name, manifest.products, manifest.products, note))
    return DataReport(_TITLE, str(place), tuple(parts), tuple(damaged))


def _shops(place: Path) -> list[Path]:
    """The folders below that are imported shops, damaged ones too."""
    if not place.is_dir():
        return []
    found = (path.parent for path in place.glob(f"*/{layout.MANIFEST}"))
    return sorted(folder for folder in found if not layout.is_partial(folder))


def _official(place: Path) -> DataReport:
    """The files as they are downloaded."""
    parts = [DataPart(pattern, len(list(place.glob(pattern))), 1) for pattern in FILES]
    mend = f"{MEND}. Import them once: aem-gym data webshop import DIR"
    return DataReport(_TITLE, str(place), tuple(parts), mend=mend)


def _note(manifest: Manifest) -> str:
    size = sum(file.bytes for file in manifest.files.values())
    return (
        f"articles, {manifest.human_goals:,} goals of people, {manifest.synthetic_goals:,} "
        f"synthetic, {size / 1e6:,.0f} MB, seed {manifest.plan.seed}, nouns: {manifest.plan.nouns}"
    )
