"""Prompts: a model reads what the prompt template says."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from aem_gym.agents.language import PromptBuilder, rewritten
from aem_gym.agents.models import load_model
from aem_gym.envs.webshop.prompts import PROMPT_TEMPLATES
from aem_gym.protocols import EpisodeStart
from aem_gym.types import PromptTemplate, Turn
from tests.tiny import Tiny

FIRST = "WebShop [SEP] Instruction: [SEP] red shoe [SEP] Search"
LATER = "Instruction: [SEP] red shoe [SEP] Back to Search [SEP] B01 [SEP] Shoe, red"
ACTIONS = ("click[back to search]", "click[b01]")


def prompt(tiny: Tiny, template: PromptTemplate, *view: Any, kind: str = "window") -> str:
    tokenizer = load_model(str(tiny.folder), device="cpu").tokenizer
    builder = PromptBuilder(tokenizer, kind)
    start = EpisodeStart(0, 0, "how", "red shoe", template)
    return str(tokenizer.decode(builder.added(start, *view)))


def history(turns: int, observation: str = LATER) -> tuple[Turn, ...]:
    return tuple(Turn(observation, "", "", f"search[{n}]") for n in range(turns))


def test_the_published_webshop_prompt(tiny: Tiny) -> None:
    template = PROMPT_TEMPLATES["published"]
    first = prompt(tiny, template, 0, FIRST, ("search[red shoe]",))
    assert "Your task is: red shoe" in first and "observe now: 'Search'." in first
    assert "[\n'search[<your query>]',\n]" in first and "already taken" not in first
    later = prompt(tiny, template, 3, LATER, ACTIONS, history(3))
    assert "'click[back to search]',\n'click[b01]'," in later
    assert "observe now: 'Back to Search' [SEP] 'B01' [SEP] 'Shoe, red'." in later
    assert "already taken 3 step(s). The last 2" in later and "now at step 4" in later
    shown = "''Back to Search' [SEP] 'B01' [SEP] 'Shoe, red''"
    assert f"[Observation 2: {shown}, Action 2: 'search[1]']\n[Observation 3: {shown}," in later


def test_a_window_that_is_too_long_leaves_the_history_out(tiny: Tiny) -> None:
    template = replace(PROMPT_TEMPLATES["published"], longest_window=2000)
    short = prompt(tiny, template, 2, LATER, ACTIONS, history(2))
    long = prompt(tiny, template, 2, LATER, ACTIONS, history(2, "x" * 2000))
    assert "already taken" in short
    assert "already taken" not in long and "'click[b01]'," in long and "x" * 50 not in long


def test_rewriting_is_applied_in_order() -> None:
    assert rewritten("aab", (("a", "b"), ("b+", "c"))) == "c"
    assert rewritten("same", ()) == "same"


def test_a_transcript_shows_what_the_template_leaves(tiny: Tiny) -> None:
    text = prompt(tiny, PROMPT_TEMPLATES["compact"], 1, LATER, kind="transcript")
    assert "Back to Search" in text and "Instruction" not in text and "red shoe" not in text
