"""The tokenizer of `tiny`: exact round trips, nouns as single tokens, same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from aem_gym.agents.tokenizer import ACT, END, find_lexicon, train_tokenizer
from aem_gym.errors import ConfigError

ROOM = (
    "You are in the middle of a room. Looking quickly around you, you see a cabinet 2, "
    "a cabinet 1, a garbage can 1, and a fridge 1."
)
PARTS = [
    ROOM,
    "You arrive at cabinet 1. On the cabinet 1, you see a pan 1, and a panel 12.",
    "The fridge 1 is closed.",
    "go to cabinet 1",
    "go to cabinet 2",
    "go to fridge 1",
    "go to garbage can 1",
    "take pan 1 from cabinet 1",
    "open fridge 1",
    "I need a pan. I go and look.",
] * 3
LEXICON = ["cabinet", "can", "fridge", "garbage can", "pan"]
SCRIPT = """
import sys
from tests.agents.test_tokenizer import LEXICON, PARTS
from aem_gym.agents.tokenizer import find_lexicon, train_tokenizer
train_tokenizer(PARTS, LEXICON).save_pretrained(sys.argv[1])
print(find_lexicon([(part, PARTS) for part in PARTS]))
"""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(PARTS, LEXICON)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return [tokenizer.decode([i]) for i in tokenizer.encode(text)]


@given(
    text=st.text()
    | st.lists(st.sampled_from(["cabinet", " 1", " ", "  ", "\n", " ,", " 't", "é", "go to "])).map(
        "".join
    )
)
def test_any_text_comes_back_exactly(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("noun", ["cabinet 1", "cabinet 2", "fridge 1", "garbage can 1", "pan 1"])
def test_a_noun_is_the_same_single_token_wherever_it_stands(
    tokenizer: PreTrainedTokenizerFast, noun: str
) -> None:
    (token,) = tokenizer.encode(noun)
    for text in (f"go to {noun}", f"you see a {noun}, and", f"({noun}", f"{noun} {noun}."):
        assert token in tokenizer.encode(text)


def test_the_longest_name_wins_and_only_whole_words_are_nouns(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert tokenizer.encode("can 1")[0] not in tokenizer.encode("a garbage can 1")
    split = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str
    text = "a pan, panel 1, pan 1x, deadpan 2, garbage can 12."
    assert [text[a:b] for _, (a, b) in split(text)] == [
        "a ",
        "pan",
        ", panel 1, ",
        "pan",
        " 1x, deadpan 2, ",
        "garbage can 12",
        ".",
    ]


def test_no_token_spans_thought_and_action(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, "I need a pan. I go and look. ; go to cabinet 1")[-3:] == [
        " ; ",
        "go to ",
        "cabinet 1",
    ]
    action = pieces(tokenizer, "go to fridge 1")
    tagged = pieces(tokenizer, "<think>I go</think>\n<action>go to fridge 1</action>")
    start = next(i for i in range(len(tagged)) if tagged[i : i + len(action)] == action)
    assert "".join(tagged[:start]).endswith("</think>\n<action>")


def test_an_ordinary_bpe_needs_more_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    words = {token for part in PARTS for token in part.split()}
    assert len(tokenizer.encode(ROOM)) < len(ROOM.split()) < len(words) + len(ROOM.split())


def test_the_transcript_costs_two_template_tokens_a_turn(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": "go"},
        {"role": "user", "content": "what"},
    ]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == f"S{END}look{ACT}go{END}what{ACT}"
    before = tokenizer.apply_chat_template(messages[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(before)
    assert tokenizer.convert_ids_to_tokens(tokenizer.encode(f"a{ACT}b{END}"))[1::2] == [ACT, END]
    assert tokenizer.eos_token == END


def test_same_parts_give_same_bytes_in_any_process(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    hash_seed = "0" if env.get("PYTHONHASHSEED") == "1" else "1"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "other")],
        env={**env, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        check=True,
    )
    train_tokenizer(PARTS, LEXICON).save_pretrained(tmp_path / "own")
    files = sorted(p.name for p in (tmp_path / "own").iterdir())
    assert "tokenizer.json" in files
    for name in files:
        assert (tmp_path / "other" / name).read_bytes() == (tmp_path / "own" / name).read_bytes()
    assert done.stdout == f"{find_lexicon([(part, PARTS) for part in PARTS])}\n"


def test_a_saved_tokenizer_gives_the_same_ids(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for part in PARTS:
        assert loaded.encode(part) == tokenizer.encode(part)
    assert loaded.chat_template == tokenizer.chat_template


def test_without_a_lexicon_any_text_still_comes_back() -> None:
    tokenizer = train_tokenizer(["hello world"] * 3, [], separators=())
    assert len(tokenizer.encode("hello world")) == 1
    assert tokenizer.decode(tokenizer.encode(" é\n")) == " é\n"


def test_vocabulary_is_bounded_and_too_small_a_bound_is_told() -> None:
    assert len(train_tokenizer(PARTS, LEXICON, vocab_size=270)) == 270
    with pytest.raises(ConfigError, match="at least 259, got 100"):
        train_tokenizer(PARTS, LEXICON, vocab_size=100)


def test_nouns_are_found_in_demonstrations_without_the_verbs() -> None:
    actions = [
        "go to cabinet 1",
        "go to cabinet 2",
        "go to fridge 1",
        "go to garbage can 1",
        "take pan 1 from cabinet 1",
        "take mug 2 from cabinet 1",
        "take unseen 2 from cabinet 1",
        "open fridge 1",
        "open cabinet 1",
        "look",
        "inventory",
    ]
    seen = "You open the cabinet 1. You see a pan 1, and a mug 2. Take a look."
    states = [(ROOM, actions), (seen, actions)]
    assert find_lexicon(states) == ["cabinet", "fridge", "garbage can", "mug", "pan"]
    assert find_lexicon(states, limit=2) == ["cabinet", "fridge"]
    assert find_lexicon([]) == []


def test_a_noun_is_not_found_again_with_what_follows_it() -> None:
    shown = "You pick up the pan 1 from the shelf 1. The mug 1 to the left. A mug 1 from China."
    actions = ["take pan 1 from shelf 1", "take mug 1 from shelf 1", "move mug 1 to shelf 1"]
    actions += ["cool pan 1 shelf 1", "take pan 1 shelf 1", "take mug 1 from mug 1"]
    assert find_lexicon([(shown, actions)]) == ["mug", "pan", "shelf"]


def test_nouns_inside_brackets_are_found() -> None:
    shown = "[Back to Search] [B09ABC] red shoes [B07XYZ] blue shoes, sizes small and large"
    actions = ["click[B09ABC]", "click[B07XYZ]", "click[small]", "click[large]", "search[]"]
    assert find_lexicon([(shown, actions)]) == ["B07XYZ", "B09ABC", "large", "small"]
