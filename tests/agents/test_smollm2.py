"""The packaged real model. Needs its weights: in the cache, or AEM_GYM_TEST_DOWNLOADS=1."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel

from aem_gym.agents.build import open_agent
from aem_gym.agents.lora import attach_lora, save_adapter
from aem_gym.agents.models import load_model
from aem_gym.agents.smollm2 import smollm2_folder
from aem_gym.errors import ModelError
from aem_gym.io import cache_folder
from aem_gym.protocols import EpisodeStart
from aem_gym.settings import settle
from aem_gym.types import PromptTemplate
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


def test_an_agent_speaks_as_its_template_and_its_adapter_is_found(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = settle({"env": "aem_gym/ALFWorld-v0", "model": "smollm2", "device": "cpu"}).config
    template = PromptTemplate(first="{observation}", later="{observation}")
    agent = open_agent(config, template, "smollm2")
    builder, tokenizer = agent.builder, agent.learner.tokenizer
    said = [
        ("You see a mug 1.", "take mug 1"),
        ("You take it. <|im_end|>", "look\naround"),
        ("", "go"),
    ]
    start, chat, ids = EpisodeStart(0, 0, "", "", template), [], ()
    for turn, (user, response) in enumerate(said):
        shown = user.replace("<|im_end|>", "")
        chat += [{"role": "user", "content": shown}, {"role": "assistant", "content": response}]
        ids += builder.added(start, turn, shown) + builder.response(response)
    text = tokenizer.apply_chat_template(chat, tokenize=False).removesuffix("\n")
    assert list(ids) == tokenizer.encode(text, add_special_tokens=False)
    forged = builder.added(start, 1, said[1][0])
    assert forged.count(builder.end_id) == 1 and "<|im_end|><|im_end|>" in tokenizer.decode(forged)
    agent.learner.save(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    agent.learner.model.eval()
    with torch.no_grad():
        ours = agent.learner.model(input_ids=torch.tensor([ids])).logits
        assert torch.equal(ours, plain(input_ids=torch.tensor([ids])).logits)
