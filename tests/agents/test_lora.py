"""Adapters: reproducible, portable, and the base weights never change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from aem_gym.agents.lora import (
    CONFIG,
    WEIGHTS,
    attach_lora,
    freeze_reference,
    load_adapter,
    public_name,
    save_adapter,
)
from aem_gym.agents.tiny import make_tiny
from aem_gym.agents.tokenizer import train_tokenizer
from aem_gym.errors import CheckpointError, ConfigError
from aem_gym.models import not_plain_lora
from tests.weights import base_weights_hash

IDS = torch.tensor([[5, 9, 200, 31, 7]])
SCRIPT = """
import sys
from pathlib import Path
from transformers import AutoModelForCausalLM
from aem_gym.agents.lora import attach_lora, save_adapter
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
save_adapter(attach_lora(model, rank=4, alpha=8, seed=5), Path(sys.argv[2]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("run") / "model"
    tokenizer = train_tokenizer(["take mug 1"] * 2, ["mug"])
    return make_tiny(target, tokenizer, seed=0, hidden=16, layers=2)


@pytest.fixture
def base(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder)


def adapted(base: PreTrainedModel, seed: int = 1, rank: int = 4) -> PeftModel:
    return attach_lora(base, rank=rank, alpha=2 * rank, seed=seed)


def train_a_little(model: PeftModel) -> None:
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        model(input_ids=IDS, labels=IDS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model.eval()(input_ids=IDS).logits


def test_training_the_adapter_leaves_the_base_as_it_was(base: PreTrainedModel) -> None:
    before, plain = base_weights_hash(base), logits(base)
    model = adapted(base)
    assert torch.equal(logits(model), plain)  # B starts at zero
    train_a_little(model)
    assert not torch.allclose(logits(model), plain, atol=1e-4)
    assert base_weights_hash(model) == before
    with model.disable_adapter():
        assert torch.equal(logits(model), plain)


def test_the_hash_sees_a_change_of_a_single_weight(base: PreTrainedModel) -> None:
    model = adapted(base)
    before = base_weights_hash(model)
    with torch.no_grad():
        model.get_base_model().model.layers[1].mlp.up_proj.base_layer.weight[0, 0] += 1e-6
    assert base_weights_hash(model) != before


def test_only_the_adapter_trains_and_on_every_linear_layer(base: PreTrainedModel) -> None:
    model = adapted(base)
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert all(".lora_" in name for name in names)
    assert len(names) == 2 * 7 * 2  # A and B, seven layers a block, two blocks


def test_a_seed_fixes_the_adapter_and_leaves_torchs_generator_alone(folder: Path) -> None:
    states = []
    for other, seed in ((1, 3), (2, 3), (1, 4)):
        torch.manual_seed(other)
        before = torch.random.get_rng_state()
        model = adapted(AutoModelForCausalLM.from_pretrained(folder), seed=seed)
        assert torch.equal(torch.random.get_rng_state(), before)
        states.append({n: p for n, p in model.named_parameters() if "lora_A" in n})
    assert all(torch.equal(states[0][n], states[1][n]) for n in states[0])
    assert not any(torch.equal(states[0][n], states[2][n]) for n in states[0])


def test_the_reference_stays_while_the_adapter_trains(base: PreTrainedModel) -> None:
    model = adapted(base)
    train_a_little(model)
    frozen = logits(model)
    freeze_reference(model)
    assert torch.equal(logits(model), frozen)
    assert model.active_adapter == "default"
    assert not any(p.requires_grad for n, p in model.named_parameters() if ".reference." in n)
    assert any(p.requires_grad for n, p in model.named_parameters() if ".default." in n)
    train_a_little(model)
    now = logits(model)
    assert not torch.allclose(now, frozen, atol=1e-4)
    model.base_model.set_adapter("reference")
    assert torch.equal(logits(model), frozen)
    model.base_model.set_adapter("default")
    freeze_reference(model)
    model.base_model.set_adapter("reference")
    assert torch.equal(logits(model), now)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's own
def test_plain_peft_loads_what_is_saved(
    base: PreTrainedModel, folder: Path, tmp_path: Path
) -> None:
    model = adapted(base)
    train_a_little(model)
    freeze_reference(model)
    save_adapter(model, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == [CONFIG, WEIGHTS]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), str(tmp_path))
    assert torch.equal(logits(plain), logits(model))
    merged = plain.merge_and_unload()
    assert torch.allclose(logits(merged), logits(model), atol=1e-5)


def test_load_adapter_gives_back_what_save_adapter_wrote(folder: Path, tmp_path: Path) -> None:
    model = adapted(AutoModelForCausalLM.from_pretrained(folder))
    train_a_little(model)
    save_adapter(model, tmp_path)
    other = adapted(AutoModelForCausalLM.from_pretrained(folder), seed=9)
    load_adapter(other, tmp_path)
    assert torch.equal(logits(other), logits(model))
    assert any(p.requires_grad for p in other.parameters())
    save_adapter(other, tmp_path / "again")
    for name in (CONFIG, WEIGHTS):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / name).read_bytes()


def test_equal_adapters_are_equal_files_in_any_process_and_place(
    folder: Path, tmp_path: Path
) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    hash_seed = "0" if env.get("PYTHONHASHSEED") == "1" else "1"
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), str(tmp_path / "other" / "adapter")],
        env={**env, "PYTHONHASHSEED": hash_seed},
        check=True,
        capture_output=True,
    )
    own = attach_lora(AutoModelForCausalLM.from_pretrained(folder), rank=4, alpha=8, seed=5)
    save_adapter(own, tmp_path / "own")
    for name in (CONFIG, WEIGHTS):
        data = (tmp_path / "own" / name).read_bytes()
        assert (tmp_path / "other" / "adapter" / name).read_bytes() == data
    text = (tmp_path / "own" / CONFIG).read_text()
    assert str(folder.parent) not in text and str(tmp_path) not in text
    assert json.loads(text)["base_model_name_or_path"] == "model"


def test_the_base_is_named_without_anything_of_this_machine(
    base: PreTrainedModel, tmp_path: Path
) -> None:
    assert public_name("Qwen/Qwen2.5-0.5B-Instruct") == "Qwen/Qwen2.5-0.5B-Instruct"
    assert public_name(str(tmp_path / "own")) == "own"
    save_adapter(adapted(base), tmp_path, base="../model")
    assert json.loads((tmp_path / CONFIG).read_text())["base_model_name_or_path"] == "../model"


def test_an_adapter_that_does_not_fit_is_refused(folder: Path, tmp_path: Path) -> None:
    model = adapted(AutoModelForCausalLM.from_pretrained(folder))
    with pytest.raises(CheckpointError, match=f"expected {WEIGHTS}, found nothing"):
        load_adapter(model, tmp_path)
    save_adapter(model, tmp_path)
    wider = adapted(AutoModelForCausalLM.from_pretrained(folder), rank=8)
    before = logits(wider)
    with pytest.raises(CheckpointError, match=r"expected shape \(8, 128\), got \(4, 128\)"):
        load_adapter(wider, tmp_path)
    state = load_file(tmp_path / WEIGHTS)
    state.pop(sorted(state)[0])
    save_file(state, tmp_path / WEIGHTS)
    with pytest.raises(CheckpointError, match="got None"):
        load_adapter(model, tmp_path)
    data = (tmp_path / WEIGHTS).read_bytes()
    (tmp_path / WEIGHTS).write_bytes(data[: len(data) // 2])
    with pytest.raises(CheckpointError, match="is damaged"):
        load_adapter(model, tmp_path)
    assert torch.equal(logits(wider), before)


def test_impossible_settings_are_refused(base: PreTrainedModel) -> None:
    with pytest.raises(ConfigError, match="lora_rank: expected at least 1, got 0"):
        adapted(base, rank=0)
    with pytest.raises(ConfigError, match="names no layer.*down_proj, gate_proj"):
        attach_lora(base, rank=4, alpha=8, targets=["query"], seed=0)


@pytest.mark.parametrize(
    ("targets", "unknown"),
    [(["q_proj", "v_porj"], "'v_porj'"), ("v_porj", "'v_porj'"), ([], "'nothing'")],
)
def test_a_target_that_no_layer_has_is_named_beside_others(
    base: PreTrainedModel, targets: str | list[str], unknown: str
) -> None:
    with pytest.raises(ConfigError, match=f"lora_targets: {unknown} names no layer"):
        attach_lora(base, rank=4, alpha=8, targets=targets, seed=0)


@pytest.mark.parametrize("targets", ["q_proj", "self_attn.q_proj", ["q_proj"]])
def test_one_name_may_stand_alone(base: PreTrainedModel, targets: str | list[str]) -> None:
    names = [
        n for n, _ in attach_lora(base, rank=4, alpha=8, targets=targets, seed=0).named_modules()
    ]
    assert {n.split(".lora_A")[0].rpartition(".")[2] for n in names if "lora_A" in n} == {"q_proj"}


def test_what_takes_no_adapter_is_refused_in_words(base: PreTrainedModel) -> None:
    with pytest.raises(
        ConfigError, match="'mlp'.*Target module LlamaMLP is not supported.*down_proj"
    ):
        attach_lora(base, rank=4, alpha=8, targets=["mlp"], seed=0)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's own
@pytest.mark.parametrize("start", ["pissa", "olora", "pissa_niter_4"])
def test_an_adapter_that_changed_its_base_is_refused(folder: Path, tmp_path: Path, start) -> None:
    """Its tensors fit, and the base they belong to is not the one in the folder."""
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    plain = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=start)
    get_peft_model(theirs, plain).save_pretrained(tmp_path)
    ours = adapted(AutoModelForCausalLM.from_pretrained(folder))
    with pytest.raises(CheckpointError, match=f"init_lora_weights '{start}'.*path_initial_model"):
        load_adapter(ours, tmp_path)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")  # peft's own
@pytest.mark.parametrize("start", [True, False, "gaussian", "orthogonal"])
def test_an_adapter_of_another_start_is_loaded(folder: Path, tmp_path: Path, start) -> None:
    theirs = AutoModelForCausalLM.from_pretrained(folder)
    plain = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", init_lora_weights=start)
    theirs = get_peft_model(theirs, plain).eval()
    theirs.save_pretrained(tmp_path)
    ours = adapted(AutoModelForCausalLM.from_pretrained(folder)).eval()
    load_adapter(ours, tmp_path)
    with torch.no_grad():
        assert torch.equal(theirs(input_ids=IDS).logits, ours(input_ids=IDS).logits)


@pytest.mark.parametrize(
    "settings",
    [{"use_dora": True}, {"use_qalora": True}, {"alora_invocation_tokens": [3]}]
    + [{"init_lora_weights": name} for name in ("loftq", "corda", "lora_ga", "mica", "unheard_of")],
)
def test_a_variant_of_lora_is_not_plain(settings: dict[str, object]) -> None:
    assert next(iter(settings)) in not_plain_lora(settings)
    assert not_plain_lora(dict.fromkeys(settings)) == "" == not_plain_lora({})
