"""Writes the parts of these pages that follow from the code: `python docs/generate.py`.

A generated part stands between `<!-- NAME: generated -->` and `<!-- NAME: end -->`; a test checks
that every part is up to date.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from aem_gym.training.config import Config
from aem_gym.training.config_io import field_docs, field_types, to_dict, type_text
from aem_gym.training.config_yaml import dump_yaml

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
_SECTION = re.compile(r"^    # --- (.+?) -+$")
_FIELD = re.compile(r"^    (\w+): ")


def config_table() -> str:
    """Every setting with its type, default and meaning, in the sections of Config."""
    lines: list[str] = []
    defaults, docs, types = to_dict(Config()), field_docs(), field_types()
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


def module_map() -> str:
    """Every module with the first line of its documentation, folder by folder."""
    lines: list[str] = []
    for folder in _folders():
        files = sorted(p for p in folder.glob("*.py") if p.name != "__init__.py")
        name = folder.relative_to(ROOT).as_posix()
        lines += ["", f"**`{name}/`** {_first_line(folder / '__init__.py')}", ""]
        if files:
            lines += ["| module | |", "|---|---|"]
            lines += [f"| `{path.name}` | {_cell(_first_line(path))} |" for path in files]
    return "\n".join(lines).strip()


def _folders() -> Iterator[Path]:
    """The package's folders, the core first, each once (symlinks are not followed)."""
    for top in ("aem_gym", "envs", "agents"):
        for folder, below, names in os.walk(ROOT / top):
            below.sort()
            if "__init__.py" in names:
                yield Path(folder)


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.split("\n\n")[0].replace("\n", " ")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


PARTS: Mapping[str, tuple[str, Callable[[], str]]] = {
    "config-table": ("configuration.md", config_table),
    "module-map": ("architecture.md", module_map),
}
"""Part -> the page it stands in, and what makes it."""


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
