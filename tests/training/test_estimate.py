"""The memory and time that `--dry-run` prints, against tensors and layers that really are there."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from aem_gym.agents.lora import attach_lora
from aem_gym.agents.shapes import chunks, model_shape
from aem_gym.config import Config
from aem_gym.errors import ConfigError, ModelError
from aem_gym.settings import load_config, settle
from aem_gym.shape import Chunks, ModelShape
from aem_gym.training import duration
from aem_gym.training.memory import GPU, MemoryLayout, estimate_memory
from aem_gym.training.workload import TurnLengths, Workload, workload_of_run
from tests.weights import count_parameters_on_meta

ROOT = Path(__file__).resolve().parents[2]
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))
FILES = sorted((ROOT / "tests" / "data" / "model_configs").glob("*.json"))


def tiny(**settings: Any) -> Config:
    return settle({"model": "tiny", **settings}).config


def part(config: Config, name: str, **given: Any) -> float:
    shape = model_shape(config)
    work = given.pop("work", None) or Workload.at_limits(config)
    found = estimate_memory(config, shape, work, gpu=given.pop("gpu", True), **given)
    return sum(each.bytes for each in found.parts if each.name == name)


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_presets_fit_their_cards(preset: Path) -> None:
    config = load_config(preset)
    if config.card is None:
        assert preset.stem == "cpu"
        return
    work = Workload.at_limits(config, 50)
    assert work.longest == config.max_length
    found = estimate_memory(config, model_shape(config), work, gpu=True, chunks=chunks())
    assert 0.2 * config.card < found.peak / 1e9 < 0.97 * config.card


def test_there_are_presets_of_32k_for_both_cards() -> None:
    configs = [load_config(preset) for preset in PRESETS]
    long = {config.card for config in configs if config.max_length >= 32768}
    assert {24.0, 80.0} <= long


def test_the_cache_of_all_episodes_at_once_is_seen() -> None:
    """64 contexts of 8k and of 32k with grouped heads: 72 and 288 GiB, and rounding on top."""
    preset = load_config(ROOT / "configs" / "swe_qwen3_deepswe.yaml")
    exact = dataclasses.replace(GPU, cache_room=1.0)
    for length, gib in ((8192, 72), (32768, 288)):
        config = settle({**preset.given(), "max_length": length, "max_concurrent_episodes": 64})
        assert part(config.config, "key-value cache", constants=exact) == gib * 2**30
    found = estimate_memory(
        config.config, model_shape(config.config), Workload.at_limits(config.config), gpu=True
    )
    assert found.peak > 80e9


def test_prompts_are_read_in_pieces() -> None:
    config = tiny(groups=128, group_size=1, max_length=2048, max_turns=1)
    assert chunks() == Chunks()  # what the core takes for granted is what the code does
    small = part(config, "reading prompts", chunks=Chunks(prefill=1024))
    assert small < part(config, "reading prompts", chunks=Chunks(prefill=8192))
    chosen = dataclasses.replace(config, sampler_options={"prefill_chunk": 1024})
    assert part(chosen, "reading prompts", chunks=Chunks(prefill=8192)) == small


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_shapes_are_those_of_the_models(file: Path) -> None:
    shape = model_shape(tiny(), file)
    some: list[str | list[str]] = [["q_proj", "v_proj"]] if "1.5B" in file.stem else []
    for targets in ("all-linear", *some):
        counts = count_parameters_on_meta(file, rank=8, targets=targets)
        assert (shape.parameters, shape.adapter(8, targets)) == (counts.total, counts.trainable)
    owner = "HuggingFaceTB" if file.stem.startswith("Smol") else "Qwen"
    assert model_shape(settle({"model": f"{owner}/{file.stem}"}).config) == shape


def test_a_token_passes_some_experts_only() -> None:
    sizes: dict[str, Any] = {"model_type": "qwen3_moe", "num_hidden_layers": 2, "num_experts": 8}
    sizes |= {"hidden_size": 64, "moe_intermediate_size": 32, "num_experts_per_tok": 2}
    shape = _shape_of(sizes)
    experts = 2 * 8 * 3 * 64 * 32
    assert shape.idle == experts * 3 // 4 and shape.mlp == 64


def _shape_of(sizes: dict[str, Any]) -> ModelShape:
    from transformers import AutoConfig, AutoModelForCausalLM

    from aem_gym.agents.shapes import _shape

    settings = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    with torch.device("meta"):
        return _shape(AutoModelForCausalLM.from_config(settings), settings)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"]])
def test_activations_are_the_tensors_that_autograd_keeps(dtype: str, targets: Any) -> None:
    """Exact for adapters on all layers; those on a few keep a little less than is said."""
    options = {"hidden": 64, "layers": 3, "heads": 4, "mlp": 256}
    config = tiny(model_options=options, dtype=dtype, lora_targets=targets)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=100,
            hidden_size=64,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
        )
    ).to(getattr(torch, dtype))
    peft_model = attach_lora(model, rank=16, alpha=32, targets=targets, seed=0)
    peft_model.train()
    kept: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in peft_model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    decoder = peft_model.get_base_model().get_decoder()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = decoder(input_ids=torch.zeros(4, 64, dtype=torch.long), use_cache=False)
    assert out.last_hidden_state.requires_grad
    layout = MemoryLayout(config, model_shape(config), Workload.at_limits(config), False)
    measured = sum(kept.values()) / (4 * 64 * 3)
    assert measured == pytest.approx(layout.saved, rel=0.05 if targets == "all-linear" else 0.3)


def test_settings_move_the_estimate_as_they_move_the_run() -> None:
    base = tiny(groups=4, micro_batch=8)
    kept = part(base, "activations", gpu=False)
    assert part(tiny(groups=4, micro_batch=4), "activations", gpu=False) == kept / 2
    on = tiny(groups=4, micro_batch=8, gradient_checkpointing="on")
    assert part(on, "activations", gpu=False) < kept / 5
    assert part(tiny(estimator="ppo"), "value head") > 0 == part(base, "value head")
    few = part(tiny(max_concurrent_episodes=8), "key-value cache", gpu=False)
    assert few == part(tiny(), "key-value cache", gpu=False) / 16
    assert part(tiny(sampler_options={"merge": False}), "merged copy for sampling", gpu=False) == 0
    assert part(base, "merged copy for sampling", gpu=False) > 0
    large = {"model": "Qwen/Qwen3-8B", "dtype": "bfloat16"}
    full = part(settle(large).config, "base weights")
    less = settle({**large, "model_options": {"quantization": "4bit"}}).config
    assert part(less, "base weights") < 0.4 * full


def test_time_grows_with_the_work() -> None:
    def step(**settings: Any) -> duration.TimeEstimate:
        config = tiny(**settings)
        shape, work = model_shape(config), Workload.at_limits(config)
        layout = MemoryLayout(config, shape, work, False)
        return duration.estimate_time(config, shape, work, duration.CPU, layout)

    plain = step()
    assert step(groups=32).update == pytest.approx(2 * plain.update, rel=0.1)
    assert step(epochs=2).update == pytest.approx(2 * plain.update)
    assert step(gradient_checkpointing="on").update > plain.update
    assert plain.scoring == 0 < step(kl_coef=0.01).scoring
    assert step(max_concurrent_episodes=4).decode > plain.decode
    assert plain.step == pytest.approx(plain.rollout + plain.scoring + plain.update)


def test_a_calibration_is_kept_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AEM_GYM_CACHE", str(tmp_path))
    assert duration.calibration()[0] == duration.CPU
    mine = dataclasses.replace(duration.CPU, source="mine", flops=1.0)
    file = duration.save_calibration(mine, GPU)
    assert duration.calibration() == (mine, GPU)
    file.write_text("{")
    assert duration.calibration()[0] == duration.CPU


# Workloads ---------------------------------------------------------------------------------------


def test_at_the_limits_every_context_is_full() -> None:
    work = Workload.at_limits(tiny(max_length=1000, max_new_tokens=50), 10)
    assert (work.turns, work.row, work.longest, work.rows) == (10, 1000, 1000, 128)
    assert Workload.at_limits(tiny(max_length=1000, max_new_tokens=50), 90).turns == 20
    compact = tiny(max_length=1000, max_new_tokens=50, context_limit="compact")
    work = Workload.at_limits(compact, 90)  # 4500 tokens: 1000 and 7 times the other half
    assert (work.turns, work.rows_per_episode, work.row) == (90, 8, pytest.approx(1000))
    assert Workload.at_limits(compact, 10).rows_per_episode == 1
    window = Workload.at_limits(tiny(context="window", max_length=1000, max_new_tokens=50), 10)
    assert (window.row, window.rows, window.sampled) == (1000, 1280, 128 * 10 * 50)
    twice = Workload.at_limits(tiny(drop_equal_groups=True, max_rounds=2))
    assert twice.episodes == 256


def test_a_workload_is_counted_from_turns() -> None:
    lengths = [[TurnLengths(10, 2), TurnLengths(5, 4)], [TurnLengths(10, 3)]]
    work = Workload.of_lengths(lengths, "transcript", 1)
    assert (work.episodes, work.turns, work.most_turns) == (2, 1.5, 2)
    assert (work.prompt, work.response, work.longest) == (25 / 3, 3, 21)
    assert work.longest_response == (3 + 4) / 2 and work.tokens == pytest.approx(34)
    window = Workload.of_lengths(lengths, "window", 1)
    assert (window.longest, window.rows) == (13, 3) and window.tokens == pytest.approx(34)
    compacted = [[*lengths[0], TurnLengths(12, 3, True), TurnLengths(4, 1)]]
    more = Workload.of_lengths(compacted, "transcript", 1)
    assert (more.longest, more.rows_per_episode, more.tokens) == (21, 2, 41)
    with pytest.raises(ConfigError, match="got none"):
        Workload.of_lengths([[]], "window", 1)


def test_a_workload_can_be_read_from_a_run(tmp_path: Path) -> None:
    turn = {"prompt_ids": [1] * 7, "response_ids": [1] * 3}
    lines = [{"turns": [turn, turn]}, {"turns": [{"tokens": 3}]}]
    (tmp_path / "episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    work = workload_of_run(tmp_path, tiny(groups=2, group_size=2))
    assert (work.episodes, work.turns, work.longest) == (4, 2, 20)
    with pytest.raises(ConfigError, match="expected a run's folder"):
        workload_of_run(tmp_path / "none", tiny())
    with pytest.raises(ConfigError, match="turnz"):
        work.changed({"turnz": 3})
    with pytest.raises(ConfigError, match="above 0"):
        work.changed({"turns": 0})


def test_what_is_missing_is_said() -> None:
    with pytest.raises(ModelError, match="--model-config FILE"):
        model_shape(settle({"model": "nobody/nothing"}).config)
    with pytest.raises(ModelError, match=r"expected a config\.json"):
        model_shape(tiny(), "nowhere.json")
