"""Chat templates that no dialogue can be written in are refused; the message says what to give."""

from __future__ import annotations

import pytest

from aem_gym.agents.chat import chat_pieces
from aem_gym.errors import ModelError
from tests.agents.test_chat_templates import CHATML, tokenizer_with


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ raise_exception('not for dialogues') }}",
        "{% for m in messages %}{% if loop.first %}{{ m.content }}{% endif %}{% endfor %}",
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ m.content ",
        "{% for m in messages[-2:] %}<|{{ m.role }}|>{{ m.content }}{% endfor %}",
        "{{ messages | length }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}",
        "{% for m in messages %}{{ loop.index }}: {{ m.content }}\n{% endfor %}",
        "{% for m in messages | reverse %}<|{{ m.role }}|>{{ m.content }}{% endfor %}",
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}[answer]{% endif %}",
    ],
    ids=[
        *("none", "raises", "drops", "doubles", "syntax", "forgets", "counts", "numbers"),
        *("reverses", "asks otherwise"),
    ],
)
def test_templates_that_cannot_be_used_say_so(template: str | None) -> None:
    tokenizer = tokenizer_with(template, "<|im_end|>")
    with pytest.raises(ModelError, match="chat template cannot be used.*kwargs.chat_template"):
        chat_pieces(tokenizer)
    assert chat_pieces(tokenizer, {"chat_template": CHATML}).end == "<|im_end|>"
