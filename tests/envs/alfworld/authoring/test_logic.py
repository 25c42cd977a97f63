"""The rules of the original: where they are found, which dialect, which words."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aem_gym.envs.alfworld.authoring.logic import OLDER_LOGIC, find_logic, join_grammar
from aem_gym.envs.alfworld.dataset.gamefile import (
    GOAL_PLACEHOLDER,
    dialect_of,
    is_known,
    split_grammar,
)
from aem_gym.errors import ConfigError
from tests.envs.alfworld.official_data import GRAMMAR, TEMPLATES, rules

NEEDS_ORIGINAL = 'needs pip install "aem-gym[alfworld]"'


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """No folder named by the environment."""
    monkeypatch.delenv(OLDER_LOGIC, raising=False)
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    return monkeypatch


def installed() -> str:
    """The installed original's grammar; skips the test where there is none."""
    pytest.importorskip("textworld", reason=NEEDS_ORIGINAL)
    return find_logic("0.4").grammar


@pytest.mark.parametrize("dialect", TEMPLATES)
def test_the_dialect_is_told_by_how_things_are_put_down(dialect: str) -> None:
    assert dialect_of(GRAMMAR % TEMPLATES[dialect]) == dialect


@pytest.mark.parametrize("grammar", ["", "move {o} to {r}", GRAMMAR % "drop {o} on {r}"])
def test_another_dialect_is_refused(grammar: str) -> None:
    with pytest.raises(ConfigError, match=r"^grammar: .*found neither"):
        dialect_of(grammar)


@given(st.text())
def test_any_sentence_passes_through_the_grammar_and_back(sentence: str) -> None:
    fresh = GRAMMAR % TEMPLATES["0.4"]
    told = join_grammar(fresh, sentence)
    assert split_grammar(told) == (fresh, sentence)
    assert join_grammar(*split_grammar(told)) == told


@pytest.mark.parametrize("ending", ["\n", "\r\n", "}", ' }, {"rhs": "x"}', ""])
def test_what_follows_the_sentence_does_not_matter(ending: str) -> None:
    grammar = f'"rhs": "Your task is to: put a mug in desk."{ending}'
    fresh = f'"rhs": "Your task is to: {GOAL_PLACEHOLDER}."{ending}'
    assert split_grammar(grammar) == (fresh, "put a mug in desk")


@pytest.mark.parametrize(
    "rule", ["", '"Your task is to: open', '"Your task is to: \\x."', '"Your task is to: a "b" c."']
)
def test_a_grammar_without_a_task_is_refused(rule: str) -> None:
    with pytest.raises(ConfigError, match="^grammar: "):
        split_grammar(rule)


def test_the_installed_grammar_is_known_in_any_layout_and_with_any_task() -> None:
    grammar = installed()
    assert is_known(grammar) and dialect_of(grammar) == "0.4"
    assert is_known(grammar.replace("\n", "\r\n\t"))
    assert is_known(join_grammar(grammar, 'say "hi"'))
    assert not is_known(grammar.replace("You arrive", "You come"))
    assert not is_known(grammar.replace(TEMPLATES["0.4"], TEMPLATES["0.3"]))


def test_the_original_is_found_but_not_imported(bare: pytest.MonkeyPatch) -> None:
    installed()
    code = (
        "import os, sys; from aem_gym.envs.alfworld.authoring.logic import find_logic; "
        "find_logic('0.4'); assert 'alfworld' not in sys.modules; "
        "assert 'ALFWORLD_DATA' not in os.environ"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))


def test_a_given_folder_is_the_only_place(tmp_path: Path) -> None:
    newer = rules(tmp_path / "new")
    assert find_logic("0.4", newer).dialect == "0.4"
    with pytest.raises(ConfigError, match=r"expected the grammar of dialect '0.3'"):
        find_logic("0.3", newer)
    with pytest.raises(ConfigError, match="holds no alfred.pddl"):
        find_logic("0.4", tmp_path)
    (newer / "alfred.twl2").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match=f"{newer}: the rules cannot be read"):
        find_logic("0.4", newer)


def test_places_are_tried_until_the_dialect_fits(tmp_path: Path, bare: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=rf"alfworld==0\.3\.5, .* {OLDER_LOGIC}"):
        find_logic("0.3")
    newer, older = rules(tmp_path / "new" / "logic"), rules(tmp_path / "old" / "logic", "0.3")
    bare.setenv("ALFWORLD_DATA", str(older.parent))
    bare.setenv(OLDER_LOGIC, str(newer))  # not what it says it is: passed over
    assert find_logic("0.3").dialect == "0.3"
    bare.setenv("ALFWORLD_DATA", str(newer.parent))
    bare.setenv(OLDER_LOGIC, str(older))
    assert find_logic("0.3").dialect == "0.3"
    assert find_logic("0.4").grammar == GRAMMAR % TEMPLATES["0.4"]
