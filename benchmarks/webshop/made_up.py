"""Made-up articles in the official format, as many as wanted, with the words of real ones."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_HUMAN = 12_000
"""About as many as people have written."""


def documents(texts: Sequence[str], count: int) -> Iterator[str]:
    """Texts with the words of other texts, and some of any."""
    rng = random.Random(0)
    vocabulary = sorted({word for text in texts for word in text.split()})
    for index in range(count):
        words = texts[index % len(texts)].split()
        own = rng.sample(words, min(len(words), 40))
        yield " ".join([*own, *rng.choices(vocabulary, k=15)])


def write_official(
    folder: Path, rows: Sequence[dict[str, Any]], human: dict[str, Any], count: int
) -> None:
    """The three official files with so many articles, about as long as real ones (4.4 kB).

    Args:
        folder: where they go.
        rows: of real articles, whose words and options are taken.
        human: people's instructions, which are given to the first articles.
        count: how many articles.
    """
    rng = random.Random(0)
    words = [word for row in rows for word in row["name"].split()]
    asked = [entry for entries in human.values() for entry in entries]
    with (
        (folder / "items_shuffle.json").open("w") as items,
        (folder / "items_ins_v2.json").open("w") as attributes,
    ):
        for index in range(count):
            row = rows[rng.randrange(len(rows))]
            asin = f"B{index * 7_368_787 % 1_000_000_007:09d}"
            said = rng.choices(words, k=3)
            entry = {
                "attributes": [" ".join(pair) for pair in zip(said, said[1:], strict=False)],
                "instruction": f"find me {' '.join(said)}" if index % 5 < 2 else None,
                "instruction_attributes": [" ".join(said[:2])] if index % 5 < 2 else None,
            }
            between = "[\n" if not index else ",\n"
            items.write(between + json.dumps(_row(rng, row, words, asin)))
            attributes.write(f"{',' if index else '{'}\n{json.dumps(asin)}: {json.dumps(entry)}")
        items.write("\n]")
        attributes.write("\n}")
    wishes = {
        f"B{index * 7_368_787 % 1_000_000_007:09d}": [asked[index % len(asked)]]
        for index in range(min(count, _HUMAN))
    }
    (folder / "items_human_ins.json").write_text(json.dumps(wishes))


def _row(
    rng: random.Random, row: dict[str, Any], words: Sequence[str], asin: str
) -> dict[str, Any]:
    """A row with the title of another, some words changed, and a number of its own."""
    title = row["name"].split()
    for place in range(0, len(title), 3):
        title[place] = rng.choice(words)
    number = f"{rng.choice('ABCDEFGHJK')}{rng.randrange(10**5)}"
    bullets = [" ".join(rng.choices(words, k=18)) for _ in range(5)]
    images = [f"https://images.example/{asin}/{image}.jpg" for image in range(6)]
    return row | {
        "asin": asin,
        "name": f"{' '.join(title)} {number}",
        "full_description": " ".join(rng.choices(words, k=150)),
        "small_description": bullets,
        "small_description_old": " ".join(bullets),
        "images": images,
    }
