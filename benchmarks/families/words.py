"""A small tokenizer for the families."""

from __future__ import annotations

from typing import Any

TEXTS = ["You are in a kitchen. You see a fridge 1, a shelf 2.", "go to fridge 1", "take mug 1"]


def make_tokenizer() -> Any:
    """Bytes and a few merges, with an end token and a plain chat template."""
    from aem_gym.agents.tokenizer import train_tokenizer

    return train_tokenizer(TEXTS * 4, ["fridge", "mug"])
