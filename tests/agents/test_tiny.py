"""`tiny`: plain transformers loads it, a seed fixes its bytes, torch's generator is left alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from aem_gym.agents.tiny import Tiny, make_tiny
from aem_gym.agents.tokenizer import train_tokenizer
from aem_gym.config import Config
from aem_gym.errors import ConfigError, UnknownNameError

PARTS = ["You see a mug 1, and a mug 2.", "take mug 1", "take mug 2", "You take the mug 1."] * 2


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(PARTS, ["mug"])


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_plain_transformers_loads_it_with_its_own_tokenizer(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    make_tiny(tmp_path, tokenizer, seed=0)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for part in (*PARTS, "don't  go , there", "\u0041\u030a"):
        assert loaded.encode(part) == tokenizer.encode(part)
    assert 100_000 < model.num_parameters() < 250_000
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.dtype == torch.float32


def test_its_weights_are_as_large_as_documented(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    make_tiny(tmp_path, tokenizer, seed=0, hidden=32, heads=1)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    spread = model.model.layers[0].mlp.up_proj.weight.std().item()
    assert spread == pytest.approx(0.7 / 32**0.5, rel=0.05)


def test_a_seed_fixes_every_byte_and_leaves_torchs_generator_alone(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    make_tiny(tmp_path / "a", tokenizer, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    make_tiny(tmp_path / "b", tokenizer, seed=3)
    make_tiny(tmp_path / "c", tokenizer, seed=4)
    a, b, c = (digest(tmp_path / name) for name in "abc")
    assert a == b
    assert [name for name in a if a[name] != c[name]] == ["model.safetensors"]


def test_nothing_of_this_machine_is_written(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    make_tiny(tmp_path, tokenizer, seed=0)
    for file in tmp_path.iterdir():
        assert str(tmp_path).encode() not in file.read_bytes()


def test_heads_that_do_not_divide_the_width_are_refused(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="multiple of 2 \\* heads \\(6\\), got 64"):
        make_tiny(tmp_path, tokenizer, seed=0, heads=3)


def test_its_options_are_its_sizes() -> None:
    Tiny.check(Config(model_options={"hidden": 96, "vocab_size": 4096}))
    with pytest.raises(UnknownNameError, match="of make_tiny.*Did you mean 'hidden'"):
        Tiny.check(Config(model_options={"hiden": 96}))
    for wrong in (0, True, 1.5, "64"):
        with pytest.raises(ConfigError, match="model_options.hidden: expected int above 0, got"):
            Tiny.check(Config(model_options={"hidden": wrong}))
