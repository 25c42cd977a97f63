"""Writes the parts of these pages that follow from the code: `python docs/generate.py`.

A generated part is between `<!-- NAME: generated -->` and `<!-- NAME: end -->`; a test checks
that every part is up to date.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from aem_gym.config import Config, built_in, field_docs, field_types, type_text
from aem_gym.yaml_io import dump_yaml

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
_SECTION = re.compile(r"^    # --- (.+?) -+$")
_FIELD = re.compile(r"^    (\w+): ")


def config_table() -> str:
    """Every setting with its type, default and meaning, in the sections of Config."""
    lines: list[str] = []
    defaults, docs, types = built_in(), field_docs(), field_types()
    for line in inspect.getsource(Config).splitlines():
        if section := _SECTION.match(line):
            lines += ["", f"### {section[1].capitalize()}", ""]
            lines += ["| setting | type | default | meaning |", "|---|---|---|---|"]
        elif (field := _FIELD.match(line)) and field[1] in docs:
            name = field[1]
            kind = type_text(types[name]).removesuffix(" or null")
            value = dump_yaml(defaults[name]).split("\n")[0]
            default = "unset" if value == "null" else f"`{value}`"
            lines.append(f"| `{name}` | {kind} | {default} | {_cell(docs[name])} |")
    return "\n".join(lines).strip()


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PARTS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "config-table": ("configuration.md", config_table),
}
"""Part -> its page, and the function that makes it."""


def updated(name: str) -> tuple[Path, str]:
    """The page of a part, and its text with that part made anew.

    Raises:
        ValueError: the page has no such part.
    """
    page, make = PARTS[name]
    path = DOCS / page
    text = path.read_text(encoding="utf-8")
    begin, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{path}: expected the lines {begin} and {end}")
    return path, f"{before}{begin}\n\n{make()}\n\n{end}{after}"


if __name__ == "__main__":
    for part in PARTS:
        target, new = updated(part)
        target.write_text(new, encoding="utf-8")
