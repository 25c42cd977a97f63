"""The toy work that trainers are timed on: what is said, what is rewarded, how large models are.

Uses nothing but the standard library, so that another trainer's environment can load it by path.
A token is a word, `w12`; an observation has the same number of them each turn, and a response ten.
"""

from __future__ import annotations

from typing import Any

GROUPS, GROUP_SIZE, TURNS = 8, 8, 8
NEW_TOKENS = 10
FIRST, LATER = 20, 17
"""Tokens of the first observation and of later ones; an end token closes each response."""
ROW = FIRST + (TURNS - 1) * (LATER + 1) + TURNS * NEW_TOKENS
"""Tokens of an episode: 226."""
SIZES: dict[str, dict[str, int]] = {
    "small": {"vocab": 640, "hidden": 64, "layers": 3, "heads": 2, "mlp": 128},
    "large": {"vocab": 1280, "hidden": 128, "layers": 4, "heads": 4, "mlp": 256},
}
"""0.16M and 0.82M parameters."""
WORDS = min(size["vocab"] for size in SIZES.values()) - 2
"""Words that observations use; the last two tokens of a vocabulary are <pad> and <eos>."""
LR, LORA_RANK, LORA_ALPHA = 1e-3, 16, 32


def observation(task: int, turn: int) -> str:
    """The text that is shown: fixed by the task and the turn, and made at once."""
    first = task + 7919 * turn
    return " ".join(f"w{(first + 104_729 * i) % WORDS}" for i in range(LATER if turn else FIRST))


def reward(response: str) -> float:
    """The share of words with an even number."""
    words = [word for word in response.split() if word.startswith("w")]
    return sum(int(word[1:]) % 2 == 0 for word in words) / NEW_TOKENS


def make_model(size: str, folder: str) -> None:
    """Write a random Llama-type model and its tokenizer of whole words."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    shape = SIZES[size]
    names = [*(f"w{i}" for i in range(shape["vocab"] - 2)), "<pad>", "<eos>"]
    vocabulary = {name: number for number, name in enumerate(names)}
    words: Any = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<eos>", model_max_length=4096
    )
    # Nothing stands around messages but the end token of a response.
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    )
    config = LlamaConfig(
        vocab_size=shape["vocab"],
        hidden_size=shape["hidden"],
        intermediate_size=shape["mlp"],
        num_hidden_layers=shape["layers"],
        num_attention_heads=shape["heads"],
        num_key_value_heads=shape["heads"],
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        attention_bias=True,
        initializer_range=0.7 * shape["hidden"] ** -0.5,
        bos_token_id=None,
        eos_token_id=vocabulary["<eos>"],
        pad_token_id=vocabulary["<pad>"],
        dtype="float32",
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
