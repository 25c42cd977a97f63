"""The rules part of game files: the planning domain and the grammar of the original.

They belong to the alfworld package and are taken from there, never shipped with this one. A game
file's grammar tells its dialect.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from aem_gym.envs.alfworld.text import DIALECTS
from aem_gym.errors import ConfigError

GOAL_PLACEHOLDER = "UNKNOWN GOAL"
"""What stands in a fresh grammar where the task goes."""
OLDER_LOGIC = "AEM_ALFWORLD_LOGIC_03"
"""Environment variable: the folder with the rules of alfworld 0.3.x."""

_TASK = re.compile(r'(?<="Your task is to: )(?:[^"\\\n]|\\.)*(?="\s*(?:[,}\]]|$))')
"""The task in a rule of the grammar, up to the end of the JSON string."""
_FINGERPRINTS = {
    "0.4": "3baad91dea283d190a0adaf5fe9734b17c045812a1dd602076933148d49cb754",
    "0.3": "786a9c381cde0dea0747ea6f57485057c0f66bce94d09add91d8e1cdd21a4fc3",
}
"""SHA-256 of the known grammars without white space and task: alfworld 0.4.0-0.4.2 and 0.3.x."""
_DOMAIN, _GRAMMAR = "alfred.pddl", "alfred.twl2"


@dataclass(frozen=True, slots=True)
class Logic:
    """A planning domain and a grammar (with `GOAL_PLACEHOLDER` for the task)."""

    domain: str
    grammar: str
    dialect: str


def split_grammar(grammar: str) -> tuple[str, str]:
    """(the grammar with `GOAL_PLACEHOLDER`, the task sentence without the final full stop).

    Raises:
        ConfigError: the grammar has no task sentence.
    """
    found = _TASK.search(grammar)
    if found is None:
        raise ConfigError(
            'grammar: expected a rule "Your task is to: ...", found none: this is not '
            "ALFWorld's grammar"
        )
    try:  # the rules of a grammar are JSON
        sentence = msgspec.json.decode(f'"{found[0]}"', type=str).removesuffix(".")
    except msgspec.MsgspecError as error:
        raise ConfigError(f"grammar: the task sentence is not a JSON string: {error}") from error
    fresh = f"{grammar[: found.start()]}{GOAL_PLACEHOLDER}.{grammar[found.end() :]}"
    return fresh, sentence


def join_grammar(fresh: str, sentence: str) -> str:
    """A grammar with a task sentence in the place of `GOAL_PLACEHOLDER`: undoes `split_grammar`."""
    return fresh.replace(GOAL_PLACEHOLDER, json.dumps(sentence)[1:-1])


def dialect_of(grammar: str) -> str:
    """`0.4` or `0.3`, by the command that puts things down.

    Raises:
        ConfigError: neither.
    """
    for name, dialect in DIALECTS.items():
        put = dialect.put.format("{o}", "{r}")
        if f'template :: "{put}"' in grammar:
            return name
    raise ConfigError(
        "grammar: expected the template 'move {o} to {r}' (alfworld 0.4.x) or 'put {o} in/on {r}' "
        "(up to 0.3.x), found neither. Play it with the original engine: backend='textworld'"
    )


def is_known(grammar: str) -> bool:
    """Whether a grammar, its task aside, is one of the two this engine was compared with.

    Raises:
        ConfigError: not a grammar of ALFWorld.
    """
    fresh = split_grammar(grammar)[0]
    found = hashlib.sha256("".join(fresh.split()).encode()).hexdigest()
    return found == _FINGERPRINTS[dialect_of(fresh)]


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
        f"the original's rules of dialect {dialect!r} are needed, and {where}. {_MEND[dialect]}"
    )


_MEND = {
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
