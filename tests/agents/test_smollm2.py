"""The packaged real model. Needs its weights: in the cache, or AEM_GYM_TEST_DOWNLOADS=1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from aem_gym.agents.lora import attach_lora, save_adapter
from aem_gym.agents.models import load_model
from aem_gym.agents.smollm2 import smollm2_folder
from aem_gym.errors import ModelError
from aem_gym.io import cache_folder
from tests.weights import base_weights_hash

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder() -> Path:
    at_hand = (cache_folder() / "smollm2-135m-instruct" / "config.json").is_file()
    if not at_hand and os.environ.get("AEM_GYM_TEST_DOWNLOADS") != "1":
        pytest.skip("needs 93 MB from the package index: set AEM_GYM_TEST_DOWNLOADS=1")
    try:
        return smollm2_folder()
    except ModelError as error:
        if "cannot be fetched" in str(error):
            pytest.skip(str(error))
        raise


def test_it_answers_as_an_instruction_model_does(folder: Path) -> None:
    loaded = load_model("smollm2", device="cpu")
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = loaded.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    output = loaded.model.generate(**prompt, max_new_tokens=12, do_sample=False)
    answer = loaded.tokenizer.decode(output[0, prompt["input_ids"].shape[1] :])
    assert "Paris" in answer and answer.endswith(loaded.tokenizer.eos_token)
    assert loaded.model.num_parameters() == 134_515_008
    assert loaded.notes == ()


def test_adapter_is_trained_saved_merged_and_loaded_again(folder: Path, tmp_path: Path) -> None:
    loaded = load_model(folder, device="cpu")
    ids = loaded.tokenizer("go to cabinet 1<|im_end|>", return_tensors="pt")["input_ids"]
    before = base_weights_hash(loaded.model)
    model = attach_lora(loaded.model, rank=8, alpha=16, seed=0)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-3)
    losses = []
    for _ in range(3):
        loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert base_weights_hash(model) == before
    save_adapter(model, tmp_path / "adapter")
    fresh = load_model("smollm2", device="cpu")
    plain = PeftModel.from_pretrained(fresh.model, str(tmp_path / "adapter"))
    merged = plain.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    fresh.tokenizer.save_pretrained(tmp_path / "merged")
    again = load_model(tmp_path / "merged", device="cpu")
    with torch.no_grad():
        expected = model.eval()(input_ids=ids).logits
        assert torch.allclose(again.model(input_ids=ids).logits, expected, atol=1e-3)
    assert again.tokenizer.encode("Hi 12 <|im_end|>") == fresh.tokenizer.encode("Hi 12 <|im_end|>")
