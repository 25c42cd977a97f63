"""The presets fit the models they name: sizes and LoRA targets, on the meta device."""

from __future__ import annotations

from pathlib import Path

import pytest

from aem_gym.settings import load_config
from aem_gym.training.setup import check_run
from tests.weights import count_parameters_on_meta

ROOT = Path(__file__).resolve().parents[1]
PRESETS = sorted((ROOT / "configs").glob("*.yaml"))
MODELS = ROOT / "tests" / "data" / "model_configs"
BILLIONS = {
    "Qwen/Qwen2.5-1.5B-Instruct": 1.544,
    "Qwen/Qwen2.5-7B-Instruct": 7.616,
    "Qwen/Qwen3-8B": 8.191,
    "Qwen/Qwen3-1.7B": 1.721,
}
PROJECTIONS = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")


@pytest.mark.parametrize(
    "preset",
    [
        pytest.param(path, marks=[pytest.mark.docker] if path.stem.startswith("swe") else [])
        for path in PRESETS
    ],
    ids=lambda path: path.stem,
)
def test_presets_are_possible(preset: Path) -> None:
    config = load_config(preset)
    check_run(config, starts=False)
    assert config.modulator == "aem"


@pytest.mark.parametrize(
    "preset", [p for p in PRESETS if p.stem != "cpu"], ids=lambda path: path.stem
)
def test_adapters_fit_the_models(preset: Path) -> None:
    config = load_config(preset)
    file = MODELS / f"{config.model.split('/')[1]}.json"
    counts = count_parameters_on_meta(file, rank=config.lora_rank, targets=config.lora_targets)
    assert round(counts.total / 1e9, 3) == BILLIONS[config.model]
    assert counts.targets == PROJECTIONS
    # Rank r adds r * (inputs + outputs) to each layer; small beside the model.
    assert 0 < counts.trainable < 0.06 * counts.total
    assert counts.trainable % config.lora_rank == 0
