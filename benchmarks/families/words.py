"""A small tokenizer for the families, with a chat template built as the family's own is."""

from __future__ import annotations

from typing import Any

from benchmarks.families.configs import Family

TEXTS = ["You are in a kitchen. You see a fridge 1, a shelf 2.", "go to fridge 1", "take mug 1"]
SAID = (("You see a fridge 1.\n", "go to fridge 1"), ("The fridge 1 is closed.", "open it"))
LAST = "You open the fridge 1."

_MARKS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
STYLES = {
    # An end token of its own for turns; the tokenizer's ends texts.
    "marks": (_MARKS + _ASK, "<|endoftext|>"),
    "headers": (
        "<s>{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n{{ m.content | trim }}<|eot|>"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}",
        "<|eot|>",
    ),
    "turns": (
        "<bos>{% for m in messages %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<turn_end>\n{% endfor %}"
        "{% if add_generation_prompt %}<turn>model\n{% endif %}",
        "<eos>",
    ),
    "brackets": (
        "<s>{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
        "{% else %}{{ m.content }}</s>{% endif %}{% endfor %}",
        "</s>",
    ),
    # Nothing ends a response but the next speaker.
    "roles": (
        "<sop>{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|endoftext|>",
    ),
    "ends": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        "<|endoftext|>",
    ),
}
_STYLE_OF = {
    "llama": "headers",
    "gemma": "turns",
    "gemma2": "turns",
    "gemma3_text": "turns",
    "mistral": "brackets",
    "mixtral": "brackets",
    "glm4": "roles",
    "phi3": "ends",
    "phimoe": "ends",
    "falcon_h1": "ends",
}
_TOKENS = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<s>", "</s>", "<bos>", "<eos>", "<sop>"),
    *("<|start|>", "<|stop|>", "<|eot|>", "<turn>", "<turn_end>", "<|end|>"),
    *("<|user|>", "<|assistant|>", "<|system|>"),
)


def make_tokenizer(family: Family) -> Any:
    """Bytes and a few merges, with the end token and the chat template of the family's style."""
    from aem_gym.agents.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(TEXTS * 4, ["fridge", "mug"])
    tokenizer.add_special_tokens({"additional_special_tokens": list(_TOKENS)})
    style = _STYLE_OF.get(family.model_type, "marks")
    tokenizer.chat_template, tokenizer.eos_token = STYLES[style]
    return tokenizer


def chat_difference(tokenizer: Any) -> int:
    """Tokens in which a growing transcript and `apply_chat_template` differ, over all its turns."""
    from aem_gym.agents.language import PromptBuilder
    from aem_gym.protocols import EpisodeStart
    from aem_gym.types import PromptTemplate

    builder = PromptBuilder(tokenizer, "transcript")
    start = EpisodeStart(0, 0, template=PromptTemplate(first="{observation}"))
    ours: list[int] = []
    messages: list[dict[str, str]] = []
    for turn, (observation, response) in enumerate((*SAID, (LAST, ""))):
        ours += builder.added(start, turn, observation)
        messages.append({"role": "user", "content": observation})
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        theirs = tokenizer.encode(text, add_special_tokens=False)
        if ours != theirs:
            return abs(len(ours) - len(theirs)) or sum(
                a != b for a, b in zip(ours, theirs, strict=True)
            )
        ours += builder.response(response)
        messages.append({"role": "assistant", "content": response})
    return 0
