"""Official files to a shop on disk, once: `aem-gym data webshop import`.

Everything is made in `<folder>.partial`, which gets its name when it is whole. What was done is
committed together with the place to go on from: an import that was stopped, or killed, goes on
where it was when the same command is given again, and ends with the same bytes.
"""

from __future__ import annotations

import logging
import shutil
import sqlite3
from pathlib import Path

import msgspec

from aem_gym.datasets import Imported
from aem_gym.envs.webshop.official import ShopDataError
from aem_gym.envs.webshop.store import disk, layout, steps
from aem_gym.envs.webshop.store.database import Draft
from aem_gym.envs.webshop.store.manifest import (
    Manifest,
    Plan,
    read_manifest,
    stored_files,
    write_manifest,
)
from aem_gym.envs.webshop.store.sources import Sources, find_sources, fingerprint
from aem_gym.envs.webshop.store.titles import NounFinder
from aem_gym.errors import ConfigError, OutputError

logger = logging.getLogger(__name__)


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

    Args:
        source: folder with the official files; of several sizes the largest is taken.
        folder: where the shop goes; default: in the cache, by the name of the articles' file.
        num_products: only the first so many rows.
        seed: of hidden prices and price limits.
        nouns: a file with the nouns of titles.
        spacy: name of a spaCy model that finds the nouns of titles.

    Raises:
        ShopDataError: a file is missing, or is not what it should be.
        ConfigError: a wrong option.
        OutputError: the folder cannot be written, or holds something else.
    """
    from aem_gym.io import exclusive

    if nouns is not None and spacy is not None:
        raise ConfigError("--nouns, --spacy: expected one of them, got both. Leave one out")
    finder = None if spacy is None else NounFinder(spacy)  # first: it may not be installed
    sources = find_sources(source, num_products)
    plan = _plan(sources, seed, nouns, spacy)
    folder = (folder or _default_folder(sources, seed)).expanduser().absolute()
    part = layout.partial(folder)
    with exclusive(folder.with_name(f".{folder.name}.lock")):
        if manifest := _existing(folder, plan):
            return _imported(folder, manifest, made=False)
        with disk.explained(folder, part):
            manifest = _make(part, sources, plan, nouns, finder)
            disk.settle(part, folder)
    return _imported(folder, manifest, made=True)


def _plan(sources: Sources, seed: int, nouns: Path | None, spacy: str | None) -> Plan:
    files = [sources.items, sources.attributes, sources.human, *([nouns] if nouns else [])]
    kind = f"spacy {spacy}" if spacy else f"file {nouns.name}" if nouns else layout.WORDS
    return Plan(tuple(map(fingerprint, files)), seed, sources.rows, kind)


def _default_folder(sources: Sources, seed: int) -> Path:
    """A folder in the cache; each choice of articles and each seed has its own."""
    name = sources.items.stem
    if sources.rows is not None:
        name += f"-first-{sources.rows}"
    return layout.default_place() / (f"{name}-seed-{seed}" if seed else name)


def _existing(folder: Path, plan: Plan) -> Manifest | None:
    """What stands in a folder, if it is what is wanted; None if it has to be made.

    Raises:
        OutputError: something else stands there.
    """
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
    logger.warning("%s: importing again: the files or options are others now", folder)
    return None


def _make(
    part: Path, sources: Sources, plan: Plan, nouns: Path | None, finder: NounFinder | None
) -> Manifest:
    """Make all of a shop in a folder, or what is not there of it yet."""
    draft = _draft(part, plan)
    try:
        steps.read_articles(draft, sources, plan.seed)
        steps.add_nouns(draft, nouns, finder)
        human, synthetic = steps.draw_goals(draft, part / layout.GOALS)
        steps.build_index(draft, part)
        products = len(draft.asins())
        skipped = steps.finish(draft, part)
    except ConfigError:  # the files are damaged: others, with which nothing can go on, have to come
        shutil.rmtree(part, ignore_errors=True)
        raise
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted: the same command goes on from here") from None
    finally:
        draft.close()
    (part / layout.MANIFEST).unlink(missing_ok=True)
    size = sum(path.stat().st_size for path in part.rglob("*") if path.is_file())
    with steps.bar("hashes", size, "B") as progress:
        files = dict(stored_files(part, progress.update))
    manifest = Manifest(plan, products, skipped, human, synthetic, files)
    write_manifest(part, manifest)
    return manifest


def _draft(part: Path, plan: Plan) -> Draft:
    """The database to go on with; a new one if files or options have changed since."""
    wanted = msgspec.json.encode(plan).decode()
    if part.exists():
        try:
            draft = Draft(part / layout.ARTICLES)
            if draft.state("plan") == wanted:
                logger.warning("%s: going on where it was stopped", part)
                return draft
            draft.close()
            why = "the files or options are others now"
        except sqlite3.DatabaseError as error:
            why = str(error)
        logger.warning("%s: starting anew: %s", part, why)
        shutil.rmtree(part)
    part.mkdir(parents=True)
    draft = Draft(part / layout.ARTICLES)
    draft.commit("plan", wanted)
    return draft


def _imported(folder: Path, manifest: Manifest, made: bool) -> Imported:
    notes = [
        f"{manifest.human_goals:,} goals of people, {manifest.synthetic_goals:,} synthetic ones"
    ]
    if manifest.skipped:
        notes.append(f"rows that are not on sale, and why: {folder / layout.SKIPPED}")
    return Imported(
        place=str(folder),
        items=manifest.products,
        skipped=manifest.skipped,
        made=made,
        note="; ".join(notes),
        use=f"aem-gym play webshop --env-arg data_dir={folder}",
    )
