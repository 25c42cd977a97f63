"""Reports on, imports and exports shops (`aem-gym data webshop`, `aem-gym export webshop`).

An import turns the official files into a shop on disk, once. Everything is made in
`<folder>.partial`, which gets its name when it is whole. Each step is committed together with the
place to go on from: an import that was stopped, or killed, goes on where it was when the same
command is given again, and ends with the same bytes.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from aem_gym.datasets import DataPart, DataReport, Exported, Imported
from aem_gym.envs.webshop import layout
from aem_gym.envs.webshop.authoring import steps
from aem_gym.envs.webshop.authoring.builders import NounFinder
from aem_gym.envs.webshop.authoring.draft import ImportDraft
from aem_gym.envs.webshop.dataset import (
    FILES,
    GET_DATA,
    VARIABLE,
    DatasetFiles,
    ShopDataError,
    find_files,
    fingerprint,
)
from aem_gym.envs.webshop.generated.listings import LEVELS, Listings, make_listings
from aem_gym.envs.webshop.goals import SPLITS
from aem_gym.envs.webshop.layout import ImportPlan, ShopManifest, StoredFile, read_manifest
from aem_gym.errors import ConfigError, OutputError, check_name
from aem_gym.io import atomic_write, exclusive, explained, settle_folder

logger = logging.getLogger(__name__)

ITEMS, ATTRIBUTES, HUMAN = "items_shuffle.json", "items_ins_v2.json", "items_human_ins.json"
_TITLE = "official shop"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, sqlite3.SQLITE_FULL)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST)

# Report -----------------------------------------------------------------------------------------


def data_report(data_dir: str | None = None) -> DataReport:
    """Report on an imported shop, a folder of several, or the official files."""
    named = data_dir or os.environ.get(VARIABLE)
    place = Path(named).expanduser() if named else layout.default_place()
    folders = [place] if (place / layout.MANIFEST).exists() else _shops(place)
    if not folders:
        parts = [DataPart(pattern, len(list(place.glob(pattern))), 1) for pattern in FILES]
        advice = f"{GET_DATA}. Import them once: aem-gym data webshop import DIR"
        return DataReport(_TITLE, str(place), tuple(parts), advice=advice)
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
    """The folders in `place` that are imported shops, damaged ones too."""
    if not place.is_dir():
        return []
    found = (path.parent for path in place.glob(f"*/{layout.MANIFEST}"))
    return sorted(folder for folder in found if not layout.is_partial(folder))


def _note(manifest: ShopManifest) -> str:
    size = sum(file.bytes for file in manifest.files.values())
    return (
        f"articles, {manifest.human_goals:,} goals of people, {manifest.synthetic_goals:,} "
        f"synthetic, {size / 1e6:,.0f} MB, seed {manifest.plan.seed}, nouns: {manifest.plan.nouns}"
    )


# Export -----------------------------------------------------------------------------------------


def export_games(
    folder: Path,
    *,
    games: int,
    split: str = "train",
    seed: int = 0,
    logic: Path | None = None,
    env_args: Mapping[str, Any] | None = None,
) -> Exported:
    """Write a generated shop of `games` articles as official files.

    `env_args` may hold `difficulty`. The files hold the goals of all splits, so `split` makes no
    difference; the original's format needs no `logic`.

    Raises:
        UnknownNameError: another key in `env_args`, or an unknown split or difficulty.
        OutputError: the folder cannot be written.
    """
    args = dict(env_args or {})
    for name in args:
        check_name("argument of a generated shop", name, ("difficulty",))
    difficulty = str(args.get("difficulty", "full"))
    check_name("split", split, SPLITS)
    check_name("difficulty", difficulty, LEVELS)
    listings = make_listings(seed, games, difficulty)
    write_dataset(listings, folder)
    return Exported(
        place=str(folder),
        written=len(listings.items),
        kept=0,
        by_type=dict(sorted(Counter(str(row["category"]) for row in listings.items).items())),
        use=f"aem-gym play webshop --env-arg data_dir={folder}",
    )


def write_dataset(listings: Listings, folder: Path) -> None:
    """Write the three official files into a folder, which is made if it is missing."""
    with explained(folder):
        folder.mkdir(parents=True, exist_ok=True)
    contents = {ITEMS: listings.items, ATTRIBUTES: listings.attributes, HUMAN: listings.human}
    for name, content in contents.items():
        atomic_write(folder / name, _json(content))


def _json(content: Any) -> bytes:
    return msgspec.json.format(msgspec.json.encode(content), indent=1)


# Import -----------------------------------------------------------------------------------------


def import_data(
    source: Path,
    folder: Path | None = None,
    *,
    num_products: int | None = None,
    seed: int = 0,
    nouns: Path | None = None,
    spacy: str | None = None,
) -> Imported:
    """Import the official files of a folder, if that is not done.

    Of several sizes the largest is taken, and of its rows the first `num_products`. The shop goes
    to `folder` (default: in the cache, by the name of the articles' file). `seed` is that of
    hidden prices and price limits. The nouns of titles come from the file `nouns`, or from the
    spaCy model `spacy`.

    Raises:
        ShopDataError: a file is missing, or is not what it should be.
        ConfigError: a wrong option.
        OutputError: the folder cannot be written, or holds something else.
    """
    if nouns is not None and spacy is not None:
        raise ConfigError("--nouns, --spacy: expected one of them, got both. Leave one out")
    finder = None if spacy is None else NounFinder(spacy)  # first: it may not be installed
    files = find_files(source, num_products)
    plan = _plan(files, seed, nouns, spacy)
    folder = (folder or _default_folder(files, seed)).expanduser().absolute()
    part = layout.partial(folder)
    with exclusive(folder.with_name(f".{folder.name}.lock")):
        if manifest := _existing(folder, plan):
            return _imported(folder, manifest, made=False)
        with _removed_on_errors(folder, part):
            manifest = _make(part, files, plan, nouns, finder)
            settle_folder(part, folder)
    return _imported(folder, manifest, made=True)


def _plan(files: DatasetFiles, seed: int, nouns: Path | None, spacy: str | None) -> ImportPlan:
    paths = [files.items, files.attributes, files.human, *([nouns] if nouns else [])]
    kind = f"spacy {spacy}" if spacy else f"file {nouns.name}" if nouns else layout.WORDS
    return ImportPlan(tuple(map(fingerprint, paths)), seed, files.rows, kind)


def _default_folder(files: DatasetFiles, seed: int) -> Path:
    """A folder in the cache; each choice of articles and each seed has its own."""
    name = files.items.stem
    if files.rows is not None:
        name += f"-first-{files.rows}"
    return layout.default_place() / (f"{name}-seed-{seed}" if seed else name)


def _existing(folder: Path, plan: ImportPlan) -> ShopManifest | None:
    """The manifest of the shop in `folder`, if it has this plan; None if it has to be made."""
    if not folder.exists():
        return None
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / layout.MANIFEST).exists()):
        raise OutputError(f"{folder} holds something else. Choose another folder with --out")
    try:
        manifest = read_manifest(folder)
    except ShopDataError as error:
        logger.warning("importing again: %s", error)
        return None
    if manifest.plan == plan:
        return manifest
    logger.warning("%s: importing again: the files or options have changed", folder)
    return None


def _make(
    part: Path, files: DatasetFiles, plan: ImportPlan, nouns: Path | None, finder: NounFinder | None
) -> ShopManifest:
    """Make a shop in a folder, or the rest of it."""
    draft = _draft(part, plan)
    try:
        steps.read_articles(draft, files, plan.seed)
        steps.add_nouns(draft, nouns, finder)
        human, synthetic = steps.draw_goals(draft, part / layout.GOALS)
        steps.build_index(draft, part)
        products = len(draft.asins())
        skipped = steps.finish(draft, part)
    except ConfigError:  # the files are damaged: there is nothing to go on with
        shutil.rmtree(part, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted: the same command goes on from here") from None
    finally:
        draft.close()
    (part / layout.MANIFEST).unlink(missing_ok=True)
    paths = sorted(path for path in part.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in paths]
    with steps.bar("hashes", sum(sizes), "B") as progress:
        stored = {
            path.relative_to(part).as_posix(): StoredFile(
                size, layout.digest_file(path, progress.update)
            )
            for path, size in zip(paths, sizes, strict=True)
        }
    manifest = ShopManifest(plan, products, skipped, human, synthetic, stored)
    write_manifest(part, manifest)
    return manifest


def write_manifest(folder: Path, manifest: ShopManifest) -> None:
    """Write the manifest so that it is whole or absent."""
    atomic_write(folder / layout.MANIFEST, _json(manifest))


def _draft(part: Path, plan: ImportPlan) -> ImportDraft:
    """The database to go on with; a new one if files or options have changed since."""
    wanted = msgspec.json.encode(plan).decode()
    if part.exists():
        try:
            draft = ImportDraft(part / layout.ARTICLES)
            if draft.state("plan") == wanted:
                logger.warning("%s: going on where it was stopped", part)
                return draft
            draft.close()
            why = "the files or options have changed"
        except sqlite3.DatabaseError as error:
            why = str(error)
        logger.warning("%s: starting again: %s", part, why)
        shutil.rmtree(part)
    part.mkdir(parents=True)
    draft = ImportDraft(part / layout.ARTICLES)
    draft.commit("plan", wanted)
    return draft


def _imported(folder: Path, manifest: ShopManifest, made: bool) -> Imported:
    note = f"{manifest.human_goals:,} goals of people, {manifest.synthetic_goals:,} synthetic ones"
    if manifest.skipped:
        note += f"; rows that are not on sale, and why: {folder / layout.SKIPPED}"
    seed = manifest.plan.seed
    use = f"aem-gym play webshop --env-arg data_dir={folder}"
    use += f" --env-arg catalogue_seed={seed}" if seed else ""
    return Imported(str(folder), manifest.products, manifest.skipped, made, note, use)


@contextmanager
def _removed_on_errors(folder: Path, part: Path) -> Iterator[None]:
    """Turn errors of the disk into an OutputError about `folder`, and remove `part`.

    After such an error `part` may not be whole, and a full disk needs the space.
    """
    try:
        yield
    except (OSError, sqlite3.OperationalError) as error:
        shutil.rmtree(part, ignore_errors=True)
        cause = error.__cause__ if isinstance(error, OutputError) else None
        raise OutputError(f"cannot write {folder}: {_advice(cause or error)}") from error


def _advice(error: BaseException) -> str:
    number = getattr(error, "errno", None) or getattr(error, "sqlite_errorcode", None)
    if number in _FULL:
        return (
            "the disk is full. An import takes about as much space as the files it reads, at the "
            "end and once more on the way. Free some, or choose another folder with --out"
        )
    if number in _FORBIDDEN:
        return "you may not write there. Choose another folder with --out"
    return f"{getattr(error, 'strerror', None) or error}. Choose another folder with --out"
