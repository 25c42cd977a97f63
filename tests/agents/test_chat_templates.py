"""Chat templates taken apart: the pieces put together are what the template itself writes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aem_gym.agents.language import ChatPieces, chat_pieces
from aem_gym.agents.tokenizer import train_tokenizer
from aem_gym.errors import ModelError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n"
    "{% endif %}" + CHATML
)
LLAMA = (
    "<|begin|>{% for m in messages %}<|start|>{{ m.role }}<|end|>\n\n{{ m.content | trim }}<|eot|>"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|end|>\n\n{% endif %}"
)
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}<s>"
    "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}"
    "{{ m.content }}</s>{% endif %}{% endfor %}"
)
FORGETFUL = (
    "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and not loop.last %}"
    "{% set c = c.split('</think>')[-1] %}{% endif %}"
    "<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}"
    "<|im_start|>assistant\n{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
# Name: template, end token, whether it has a system role.
STYLES = {
    "chatml": (CHATML, "<|im_end|>", True),
    "qwen": (QWEN, "<|im_end|>", True),
    "llama": (LLAMA, "<|eot|>", True),
    "no_system": (NO_SYSTEM, "</s>", False),
}
# What a message may hold without the template itself changing it.
words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1).map(str.strip).filter(bool)
turns = st.lists(st.tuples(words, words), min_size=1, max_size=4)


def tokenizer_with(template: str | None, end: str):
    tokenizer = train_tokenizer(["take mug 1"] * 2, ["mug"])
    tokenizer.chat_template = template
    tokenizer.eos_token = end
    return tokenizer


TOKENIZERS = {name: tokenizer_with(t, end) for name, (t, end, _) in STYLES.items()}


def put_together(pieces: ChatPieces, system: str, said: list[tuple[str, str]]) -> str:
    text = pieces.opening(system, said[0][0])
    for (_, response), following in zip(said, [*said[1:], None], strict=True):
        text += response + pieces.end
        if following is not None:
            text += pieces.following(following[0])
    return text


def rendered(name: str, system: str, said: list[tuple[str, str]]) -> str:
    chat = [{"role": "system", "content": system}] if system else []
    for user, response in said:
        chat += [{"role": "user", "content": user}, {"role": "assistant", "content": response}]
    return TOKENIZERS[name].apply_chat_template(chat, tokenize=False)


@pytest.mark.parametrize("name", STYLES)
@given(system=st.one_of(st.just(""), words), said=turns)
@settings(max_examples=30, deadline=None)
def test_the_pieces_are_the_template(name: str, system: str, said: list[tuple[str, str]]) -> None:
    _, end, has_system = STYLES[name]
    pieces = chat_pieces(TOKENIZERS[name])
    assert pieces.end == end
    ours = put_together(pieces, system, said)
    if system and not has_system:  # told to the user instead, before the first message
        said = [(f"{system}\n\n{said[0][0]}", said[0][1]), *said[1:]]
        system = ""
    theirs = rendered(name, system, said)
    # After the last response a template may write a line break: no part of the conversation yet.
    assert theirs.rstrip("\n") == ours.rstrip("\n")


@pytest.mark.parametrize("name", STYLES)
def test_a_prompt_is_what_the_template_asks_with(name: str) -> None:
    chat = [{"role": "user", "content": "one"}]
    expected = TOKENIZERS[name].apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    )
    assert chat_pieces(TOKENIZERS[name]).opening("", "one") == expected


def test_a_template_that_forgets_thoughts_does_not_change_the_past() -> None:
    """Where the template would rewrite old responses, the growing text keeps them."""
    pieces = chat_pieces(tokenizer_with(FORGETFUL, "<|im_end|>"))
    said = [("one", "<think>why</think>go"), ("two", "stop")]
    text = put_together(pieces, "", said)
    assert "<think>why</think>go<|im_end|>\n<|im_start|>user\ntwo" in text
    # Thinking is written by the policy itself in its response format, so the template's is off.
    assert pieces.opening("", "one").endswith("assistant\n<think>\n\n</think>\n\n")
    assert pieces.following("two").endswith("assistant\n<think>\n\n</think>\n\n")


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ raise_exception('not for dialogues') }}",
        "{% for m in messages %}{% if loop.first %}{{ m.content }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content ",
    ],
    ids=["none", "raises", "drops", "doubles", "syntax"],
)
def test_templates_that_cannot_be_used_say_so(template: str | None) -> None:
    with pytest.raises(ModelError, match="chat template cannot be used"):
        chat_pieces(tokenizer_with(template, "<|im_end|>"))
