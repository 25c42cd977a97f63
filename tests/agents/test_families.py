"""Model families: what is sampled is what is trained, and what a plain forward pass gives."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import linear
from transformers import AutoConfig, AutoModelForCausalLM

from aem_gym.agents.families import MaskRule, mask_rule, position_rows, turn_dropout_off
from aem_gym.agents.learner import HFLearner
from aem_gym.agents.lora import attach_lora, coverage
from aem_gym.agents.sampler import HFPolicy
from aem_gym.config import Config
from aem_gym.errors import ConfigError, ModelError
from aem_gym.models import find_model
from aem_gym.protocols import GenerationRequest, LearnerSettings, SamplingSettings
from aem_gym.settings import settle
from aem_gym.types import Span, TrainingRow
from benchmarks.families.check import DENSE, LONG, MOE, _converse, _make, _plain, _scored
from benchmarks.families.configs import FAMILIES, WINDOW

BY_NAME = {family.name: family for family in FAMILIES}


def made(name: str, folder: Path, **settings: Any) -> Path:
    family = BY_NAME[name]
    _make(replace(family, settings={**family.settings, **settings}), folder, 0)
    return folder


def config(base: Path, **more: Any) -> Config:
    given = {"model": str(base), "device": "cpu", "lora_rank": 2, "lora_alpha": 4.0}
    return settle({**given, "max_length": 1024, **more}).config


def learner(base: Path, **more: Any) -> HFLearner:
    return HFLearner(LearnerSettings(config(base, **more), str(base)))


def shaken(made: HFLearner) -> HFLearner:
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in made.parameters().items():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=draws) * 0.05)
    return made


@pytest.mark.parametrize(
    ("name", "cache"),
    [
        ("Mistral", "RaggedReader"),
        ("Mixtral", "RaggedReader"),
        ("Qwen2, windows", "RaggedReader"),
        ("Gemma-2", "RaggedReader"),
        ("gpt-oss", "RaggedReader"),
        ("Cohere", "RaggedReader"),
        ("BLOOM", "LibraryReader"),
        ("LFM2", "LibraryReader"),
        ("GPT-Neo", "LibraryReader"),  # windows of its own, which a few tokens do not show
        ("Llama-4", "RaggedReader"),
    ],
)
def test_sampler_learner_and_plain_pass_agree_beyond_every_window(name, cache, tmp_path) -> None:
    weights = shaken(learner(made(name, tmp_path)))
    policy = HFPolicy(weights, SamplingSettings(4, 1000))
    policy.publish(weights)
    assert type(policy.reader).__name__ == cache
    turns = _converse(policy, "transcript", LONG, 0)
    assert max(len(turn.prompt) for turn in turns) > 2 * WINDOW
    scored = torch.tensor(_scored(weights, turns))
    plain = torch.tensor([_plain(weights.model, turn) for turn in turns])
    most = MOE if BY_NAME[name].moe else DENSE
    for turn, trained, right in zip(turns, scored, plain, strict=True):
        sampled = torch.tensor([*turn.made.logprobs])
        assert (sampled - trained[: len(sampled)]).abs().max() <= most
        assert (sampled - right[: len(sampled)]).abs().max() <= most


def test_a_chunk_of_the_prompt_at_a_time_gives_the_same(tmp_path) -> None:
    weights = shaken(learner(made("Mistral", tmp_path)))
    whole = HFPolicy(weights, SamplingSettings(4, 1000))
    pieces = HFPolicy(weights, SamplingSettings(4, 1000, {"prefill_chunk": 12}))
    for policy in (whole, pieces):
        policy.publish(weights)
    for one, other in zip(
        _converse(whole, "transcript", LONG, 1),
        _converse(pieces, "transcript", LONG, 1),
        strict=True,
    ):
        assert one.made.ids == other.made.ids
        torch.testing.assert_close(one.made.logprobs, other.made.logprobs, atol=1e-5, rtol=0)


def test_a_wrong_rule_is_noticed_before_anything_is_sampled(tmp_path, monkeypatch) -> None:
    """Scaled logits under a name that is not known: refused, not sampled wrongly."""
    base = made("Cohere", tmp_path)
    monkeypatch.setattr("aem_gym.agents.families._FACTORS", ())
    with pytest.raises(ModelError, match="plain forward pass"):
        HFPolicy(learner(base), SamplingSettings(4, 100))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("GPT-2", {"resid_pdrop": 0.3, "embd_pdrop": 0.3, "attn_pdrop": 0.3}),
        ("OPT", {"dropout": 0.3, "attention_dropout": 0.3, "layerdrop": 0.5}),
        ("Phi-3.5-MoE", {"attention_dropout": 0.3, "router_jitter_noise": 0.01}),
        ("Falcon, alibi", {"hidden_dropout": 0.3, "attention_dropout": 0.3}),
    ],
)
@pytest.mark.parametrize("checkpointing", ["off", "on"])
def test_updates_start_at_a_ratio_of_one(name, more, checkpointing, tmp_path) -> None:
    weights = learner(made(name, tmp_path, **more), gradient_checkpointing=checkpointing)
    row = TrainingRow(tuple(range(4, 30)), (Span(start=3, end=26, episode=0, turn=0),))
    with torch.no_grad():
        old = weights.score([row], temperature=1.0).logprobs
    new = weights.score([row], temperature=1.0).logprobs
    new.sum().backward()
    assert (new - old).abs().max() < 1e-5
    assert any(p.grad is not None and p.grad.any() for p in weights.parameters().values())


def test_dropout_of_the_adapter_alone_is_at_work(tmp_path) -> None:
    weights = shaken(learner(made("Llama", tmp_path), lora_dropout=0.5))
    row = TrainingRow(tuple(range(4, 30)), (Span(start=3, end=26, episode=0, turn=0),))
    one, other = (weights.score([row], temperature=1.0).logprobs for _ in range(2))
    assert (one - other).abs().max() > 1e-3
    with torch.no_grad():
        assert torch.equal(*(weights.score([row], temperature=1.0).logprobs for _ in range(2)))


def test_dropout_of_parts_of_a_configuration_is_found() -> None:
    whole = AutoConfig.for_model("gemma3")
    whole.text_config.attention_dropout = 0.1
    turn_dropout_off(whole)
    assert whole.text_config.attention_dropout == 0.0


@pytest.mark.parametrize("targets", [["q_proj", "lm_head"], ["q_proj", "embed_tokens"]])
@pytest.mark.parametrize("tied", [True, False])
def test_an_adapter_that_would_not_train_is_refused(targets, tied, tmp_path) -> None:
    base = made("Llama", tmp_path, tie_word_embeddings=tied)
    with pytest.raises(ConfigError, match=f"lora_targets: .*{targets[1]} would not train"):
        learner(base, lora_targets=targets)


def test_an_adapter_that_the_code_goes_past_is_refused() -> None:
    """A state-space mixer, or a fused kernel, reads `layer.weight` and never calls the layer."""
    model = AutoModelForCausalLM.from_config(BY_NAME["Llama"].config(300))
    for layer in model.model.layers:
        mlp = layer.mlp
        mlp.forward = lambda x, mlp=mlp: linear(mlp.act_fn(mlp.up_proj(x)), mlp.down_proj.weight)
    with pytest.raises(ConfigError, match="an adapter on down_proj would not train"):
        attach_lora(model, rank=2, alpha=2, targets=["q_proj", "down_proj"], seed=0)


@pytest.mark.parametrize("merge", [None, True])
def test_fused_experts_are_adapted_and_sampled_unmerged(merge, tmp_path) -> None:
    weights = shaken(learner(made("Qwen3-MoE", tmp_path)))
    options = {} if merge is None else {"merge": merge}
    policy = HFPolicy(weights, SamplingSettings(4, 1000, options))
    assert policy.merged is None
    share, frozen = coverage(weights.model)
    assert share > 0.75 and frozen[0].startswith("embed_tokens")


def test_small_updates_in_half_precision_reach_the_sampler(tmp_path) -> None:
    """A merged copy in half precision would keep 6% of this update."""
    base = made("Llama", tmp_path)
    request = GenerationRequest(0, tuple(range(4, 40)), 3)
    found = {}
    for options in ({}, {"merge": True}):
        weights = learner(base, dtype="bfloat16")
        policy = HFPolicy(weights, SamplingSettings(1, 1000, options))
        with torch.no_grad():
            for name, parameter in weights.parameters().items():
                if ".lora_B." in name:
                    parameter += 1e-5
        policy.publish(weights)
        assert (policy.merged is None) == (not options)
        found[len(options)] = policy
    merged, model = found[1].merged, weights.model
    layer = "model.layers.0.self_attn.q_proj"
    delta = model.get_submodule(layer).get_delta_weight("default").float()
    moved = (
        merged.get_submodule(layer).weight - model.get_submodule(layer).base_layer.weight.float()
    )
    torch.testing.assert_close(moved, delta, atol=3e-8, rtol=1e-2)
    one, other = (policy.generate([request])[0].entropies[0] for policy in found.values())
    assert abs(one - other) < 0.1


@pytest.mark.parametrize("kind", ["flash_attention_2", "flex_attention", "kernels-community/x"])
def test_attention_code_without_masks_is_refused_before_anything_loads(kind) -> None:
    given = {"model": "owner/name", "model_options": {"attn_implementation": kind}}
    chosen = settle(given).config
    with pytest.raises(ConfigError, match=r"model_options\.attn_implementation: expected sdpa"):
        find_model(chosen.model).check(chosen)
    find_model("owner/name").check(replace(chosen, sampler="vllm"))


def test_windows_are_counted_in_positions() -> None:
    with torch.device("meta"):
        rule = mask_rule(AutoModelForCausalLM.from_config(BY_NAME["Gemma-3"].config(300)))
    assert rule is not None and rule.by_kind
    seen = torch.ones(1, 1, 1, 3, dtype=torch.bool)
    keys, query = torch.tensor([[0, 5, 20]]), torch.tensor([[20]])
    masks = rule.masks(seen, query, keys)
    assert masks["sliding_attention"].flatten().tolist() == [False, True, True]
    assert masks["full_attention"].all()
    blocks = MaskRule({"": 4}, chunked=frozenset({""}))
    near = blocks.masks(seen, torch.tensor([[7]]), torch.tensor([[3, 4, 7]]))[""]
    assert near.flatten().tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("name", "targets"),
    [("Qwen3-MoE", ["gate_proj", "up_proj", "down_proj"]), ("Mixtral", ["w1", "w2", "w3"])],
)
def test_fused_experts_are_targets_by_the_names_of_single_ones(name, targets, tmp_path) -> None:
    names = learner(made(name, tmp_path), lora_targets=targets).parameters()
    assert names and all("experts" in each for each in names)
    with pytest.raises(ConfigError, match="'experts.gate_up_proj' names no layer"):
        learner(tmp_path, lora_targets=["q_proj", "experts.gate_up_proj"])


def test_dropout_on_fused_experts_is_refused_in_words(tmp_path) -> None:
    with pytest.raises(ConfigError, match="lora_dropout 0.1: .*ParamWrapper"):
        learner(made("Qwen3-MoE", tmp_path), lora_dropout=0.1)


def test_layers_of_another_make_are_offered_by_name(tmp_path) -> None:
    with pytest.raises(ConfigError, match="some of: c_attn, c_fc, c_proj$"):
        learner(made("GPT-2", tmp_path), lora_targets=["query"])


def test_attach_lora_says_nothing_of_its_own_library(tmp_path, recwarn) -> None:
    model = AutoModelForCausalLM.from_config(BY_NAME["GPT-2"].config(300))
    attach_lora(model, rank=2, alpha=2, seed=0)
    assert [str(w.message) for w in recwarn if "peft" in str(w.filename)] == []


LONG_ROPE = {
    "rope_type": "longrope",
    **{"short_factor": [1.0] * 8, "long_factor": [4.0] * 8, "factor": 4.0},
}


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Phi-3", {"rope_scaling": LONG_ROPE, "original_max_position_embeddings": 32}),
        (
            "Llama",
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}
            | {"max_position_embeddings": 32},
        ),
    ],
)
def test_positions_that_depend_on_the_length_are_refused_beyond_it(name, more, tmp_path) -> None:
    """Keys in a cache, and rows beside a longer one, would be turned by other angles."""
    base = made(name, tmp_path, **more)
    with pytest.raises(ConfigError, match=r"max_length .*33.* Give --max-length 32"):
        learner(base, max_length=33, max_new_tokens=4)
    learner(base, max_length=32, max_new_tokens=4)


def test_compiled_passes_give_the_plain_values(tmp_path) -> None:
    """By the backend that needs no compiler; `true` (inductor) would take minutes."""
    base, found = made("Llama", tmp_path, num_hidden_layers=1), []
    rows = [
        [TrainingRow(tuple(range(2, 2 + width)), (Span(3, width - 2, 0, 0),)) for width in widths]
        for widths in ((9, 14), (30,), (12, 13, 14))
    ]
    for options in ({}, {"compile": "eager"}):
        weights = shaken(learner(base, model_options=options, kl_coef=0.1))
        weights.freeze_reference()
        for each in rows:
            scores = weights.score(each, temperature=0.7)
            (scores.logprobs + scores.entropies.detach()).sum().backward()
            found.append(scores.logprobs.detach())
            found.append(weights.score(each, temperature=0.7, reference=True).logprobs)
        found.append(torch.cat([p.grad.flatten() for p in weights.parameters().values()]))
    half = len(found) // 2
    for plain, compiled in zip(found[:half], found[half:], strict=True):
        assert torch.allclose(plain, compiled, rtol=1e-4, atol=1e-4)


def test_a_backend_that_torch_does_not_know_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="model_options.compile.*inductorr"):
        learner(made("Qwen3", tmp_path), model_options={"compile": "inductorr"})
    with pytest.raises(ConfigError, match="model_options.compile: expected true, false"):
        find_model(str(tmp_path)).check(config(tmp_path, model_options={"compile": 3}))


def test_contexts_beyond_the_positions_of_a_model_are_named(tmp_path, caplog) -> None:
    learner(made("Llama", tmp_path), max_length=2048)
    assert "2048 is more than the 1024 positions" in caplog.text


@pytest.mark.parametrize("name", ["GPT-2", "OPT", "GPT-J"])
def test_a_table_of_positions_is_not_read_past_its_end(name: str, tmp_path: Path) -> None:
    base = made(name, tmp_path)
    with pytest.raises(ConfigError, match="max_length 1025.*table of 1024.*--max-length 1024"):
        learner(base, max_length=1025)
    learner(base, max_length=1024)


def test_positions_that_are_computed_may_be_any_number(tmp_path: Path) -> None:
    assert position_rows(learner(made("Llama", tmp_path), max_length=4096).model) is None
