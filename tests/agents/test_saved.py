"""What a learner saves: plain peft loads it, and so does another learner."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from aem_gym.agents.build import open_agent
from aem_gym.agents.learner import VALUE_HEAD
from aem_gym.errors import CheckpointError
from aem_gym.models import PretrainedModel
from tests.tiny import Tiny, flat

# peft itself asks transformers by a name that it deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def test_saved_adapters_load_in_plain_peft(tiny: Tiny, tmp_path: Path) -> None:
    agent = tiny.agent()
    agent.learner.save(tmp_path / "adapter")
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny.folder), tmp_path / "adapter"
    ).eval()
    ids = torch.tensor([agent.builder.encode("You see a cabinet 1. ; go to cabinet 1")])
    agent.learner.model.eval()
    with torch.no_grad():
        ours, theirs = agent.learner.model(ids).logits, plain(input_ids=ids).logits
        bare = AutoModelForCausalLM.from_pretrained(tiny.folder)(ids).logits
    assert torch.equal(ours, theirs)
    assert not torch.allclose(ours, bare, atol=1e-2)


class Located(PretrainedModel):
    """A model with a name of its own, which is fetched into a folder."""

    folder = ""

    def __init__(self) -> None:
        super().__init__("located")

    def locate(self) -> str:
        return self.folder


@pytest.mark.parametrize("how", ["folder", "made", "made for a run", "registered"])
def test_an_adapter_finds_its_base_model(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """From any working folder: for peft the adapter's own folder is enough."""
    elsewhere = tmp_path / "base"
    shutil.copytree(tiny.folder, elsewhere)
    monkeypatch.setattr(Located, "folder", str(tiny.folder))
    names = {"folder": str(tiny.folder), "registered": f"{__name__}:Located"}
    model = names.get(how, "tiny")
    base = model if how == "registered" else str(tiny.folder)
    name = str(elsewhere) if how == "made for a run" else None
    agent = open_agent(tiny.changed(model=model), tiny.template, base, base_name=name)
    agent.learner.save(tmp_path / "adapter")
    monkeypatch.chdir(tmp_path)
    plain = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter").eval()
    ids = torch.tensor([agent.builder.encode("You see a cabinet 1. ; go to cabinet 1")])
    agent.learner.model.eval()
    with torch.no_grad():
        assert torch.equal(agent.learner.model(ids).logits, plain(input_ids=ids).logits)
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == (name or str(tiny.folder.resolve()))


@pytest.mark.parametrize(
    "changes", [{"alpha_pattern": {"q_proj": 64}}, {"lora_alpha": 7}, {"use_rslora": True}]
)
def test_an_adapter_of_another_scale_is_refused(tiny: Tiny, tmp_path: Path, changes) -> None:
    """The shapes fit, and every update would count differently."""
    agent = tiny.agent()
    agent.learner.save(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(CheckpointError, match=f"{next(iter(changes))}: expected"):
        agent.learner.load(tmp_path)


def test_a_value_head_that_does_not_fit_is_named(
    tiny: Tiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = tiny.agent(value_head=True)
    agent.learner.save(tmp_path)
    whole = (tmp_path / VALUE_HEAD).read_bytes()
    save_file({"weight": torch.zeros(1, 3), "bias": torch.zeros(1)}, tmp_path / VALUE_HEAD)
    with pytest.raises(CheckpointError, match="value_head.safetensors"):
        agent.learner.load(tmp_path)
    (tmp_path / VALUE_HEAD).write_bytes(whole[:20])
    with pytest.raises(CheckpointError, match="value_head.safetensors"):
        agent.learner.load(tmp_path)
    (tmp_path / VALUE_HEAD).unlink()
    agent.learner.load(tmp_path)
    assert "no value head" in caplog.text


def test_loading_brings_back_adapter_and_value_head(tiny: Tiny, tmp_path: Path) -> None:
    agent = tiny.agent(value_head=True)
    with torch.no_grad():
        agent.learner.value_head.weight.normal_(generator=torch.Generator().manual_seed(1))
        agent.learner.value_head.bias.fill_(0.5)
    agent.learner.save(tmp_path)
    assert set(load_file(tmp_path / VALUE_HEAD)) == {"weight", "bias"}
    other = tiny.agent(adapted=False, value_head=True)
    before = [t.response for e in flat(tiny.groups(other)) for t in e.turns]
    other.learner.load(tmp_path)
    other.policy.publish(other.learner)
    for name, weight in agent.learner.parameters().items():
        assert torch.equal(weight, other.learner.parameters()[name]), name
    # The sampler took over the weights as well.
    ours, theirs = (flat(tiny.groups(a)) for a in (agent, other))
    assert ours == theirs
    assert [t.response for e in theirs for t in e.turns] != before
