"""The rules of the original: planning domain and grammar, as game files hold them.

They belong to the alfworld package and are read from there, never shipped with this one.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from aem_gym.envs.alfworld.dataset.gamefile import GOAL_PLACEHOLDER, dialect_of
from aem_gym.errors import ConfigError

OLDER_LOGIC = "AEM_ALFWORLD_LOGIC_03"
"""Environment variable: the folder with the rules of alfworld 0.3.x."""
_DOMAIN, _GRAMMAR = "alfred.pddl", "alfred.twl2"


@dataclass(frozen=True, slots=True)
class Logic:
    """A planning domain and a grammar (with `GOAL_PLACEHOLDER` for the task)."""

    domain: str
    grammar: str
    dialect: str


def join_grammar(fresh: str, sentence: str) -> str:
    """A grammar with a task sentence in the place of `GOAL_PLACEHOLDER`: undoes `split_grammar`."""
    return fresh.replace(GOAL_PLACEHOLDER, json.dumps(sentence)[1:-1])


def find_logic(dialect: str, folder: Path | None = None) -> Logic:
    """The domain and grammar of a dialect.

    Looked for in `folder`; without one, where `AEM_ALFWORLD_LOGIC_03` says (older dialect), in
    `$ALFWORLD_DATA/logic`, and in the installed alfworld package.

    Raises:
        ConfigError: found nowhere; says how to get it.
    """
    for place in [folder] if folder else list(_places(dialect)):
        grammar_file, domain_file = place / _GRAMMAR, place / _DOMAIN
        if grammar_file.is_file() and domain_file.is_file():
            logic = _read(domain_file, grammar_file)
            if logic.dialect == dialect:
                return logic
            if folder:
                raise ConfigError(
                    f"{grammar_file}: expected the grammar of dialect {dialect!r}, "
                    f"got {logic.dialect!r}"
                )
    where = f"{folder} holds no {_DOMAIN} and {_GRAMMAR}" if folder else "they were found nowhere"
    raise ConfigError(
        f"the original's rules of dialect {dialect!r} are needed, and {where}. {_FIX[dialect]}"
    )


_FIX = {
    "0.4": 'Install them with: pip install "aem-gym[alfworld]"',
    "0.3": (
        "Get them with: pip download --no-deps alfworld==0.3.5, unzip the wheel, and set "
        f"{OLDER_LOGIC} to its folder alfworld/data"
    ),
}


def _places(dialect: str) -> Iterator[Path]:
    if dialect == "0.3" and os.environ.get(OLDER_LOGIC):
        yield Path(os.environ[OLDER_LOGIC]).expanduser()
    if os.environ.get("ALFWORLD_DATA"):
        yield Path(os.environ["ALFWORLD_DATA"]).expanduser() / "logic"
    # Found, not imported: importing alfworld makes folders and sets ALFWORLD_DATA.
    spec = importlib.util.find_spec("alfworld")
    for place in (spec.submodule_search_locations or []) if spec else []:
        yield Path(place) / "data"


def _read(domain: Path, grammar: Path) -> Logic:
    try:
        text = grammar.read_text(encoding="utf-8")
        return Logic(domain.read_text(encoding="utf-8"), text, dialect_of(text))
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        raise ConfigError(f"{grammar.parent}: the rules cannot be read: {error}") from error
