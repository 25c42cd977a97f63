"""The compact pass against the library's: hidden states, gradients, samples; and who keeps it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from aem_gym.agents import compact as compact_module
from aem_gym.agents import sampler
from aem_gym.agents.compact import CompactDecoder, compact_decoder
from aem_gym.agents.families import logit_map
from aem_gym.agents.lora import attach_lora
from aem_gym.protocols import Generation, GenerationRequest, SamplingSettings
from tests.tiny import Tiny

SIZES = {
    "vocab_size": 50,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
FIT: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama with biases, one head each": {"attention_bias": True, "num_key_value_heads": 4},
    "llama of another head size": {"head_dim": 16, "mlp_bias": True},
    "qwen2": {"tie_word_embeddings": True},
    "mistral": {"sliding_window": None},
}
DIFFER: dict[str, dict[str, Any]] = {
    "qwen3": {},
    "gemma2": {},
    "granite": {"residual_multiplier": 0.5},
    "olmo2": {},
    "phi3": {},
    "gpt_neox": {"num_key_value_heads": 4},
    "mixtral": {},
    "mistral": {"sliding_window": 16},
}
"""Other norms, windows, scales, layers by other names: not a Llama's pass."""


def make(name: str, settings: dict[str, Any], adapted: bool = True) -> Any:
    kind = name.split()[0]
    config = AutoConfig.for_model(kind, **{**SIZES, **settings})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model: Any = AutoModelForCausalLM.from_config(config).eval()
        if adapted:
            model = attach_lora(model, rank=4, alpha=8, seed=1).get_base_model()
            for weight_name, weight in model.named_parameters():
                if "lora_B" in weight_name:
                    torch.nn.init.normal_(weight, std=0.1)
    return model


def places(ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Some columns of each row, unequally many."""
    chosen = torch.rand(ids.shape, generator=torch.Generator().manual_seed(2)) < 0.4
    rows, columns = chosen.nonzero().T
    return rows, columns


@pytest.mark.parametrize("name", FIT)
def test_hidden_states_and_gradients_are_the_librarys(name: str) -> None:
    model = make(name, FIT[name])
    compact = compact_decoder(model)
    assert compact is not None
    ids = torch.randint(1, 50, (3, 40), generator=torch.Generator().manual_seed(1))
    rows, columns = places(ids)
    weight = torch.randn(len(rows), 32, generator=torch.Generator().manual_seed(3))

    def gradient(hidden: torch.Tensor) -> torch.Tensor:
        model.zero_grad()
        (hidden * weight).sum().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    plain = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[rows, columns]
    ours = compact.hidden_at(ids, rows, columns)
    assert (ours - plain).abs().max() <= 1e-5 * plain.abs().max()
    wanted, found = gradient(plain), gradient(ours)
    assert wanted.numel() == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (found - wanted).norm() <= 1e-5 * wanted.norm()


def test_all_weights_train_without_an_adapter() -> None:
    model = make("llama", {}, adapted=False)
    compact = compact_decoder(model)
    assert compact is not None
    ids = torch.arange(2, 22).view(2, 10)
    rows, columns = places(ids)
    grads = []
    for hidden in (
        model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[rows, columns],
        compact.hidden_at(ids, rows, columns),
    ):
        model.zero_grad()
        (hidden * torch.arange(hidden.numel()).view(hidden.shape).sin()).sum().backward()
        grads.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys() and len(grads[0]) > 20
    for name, wanted in grads[0].items():
        assert (grads[1][name] - wanted).norm() <= 1e-5 * wanted.norm(), name


@pytest.mark.parametrize("name", DIFFER)
def test_other_models_keep_the_librarys_pass(name: str) -> None:
    assert compact_decoder(make(name, DIFFER[name])) is None


def test_what_costs_more_than_it_saves_keeps_the_librarys_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make("llama", {})
    assert compact_decoder(model.bfloat16()) is None
    model = make("llama", {})
    model.get_decoder().gradient_checkpointing = True
    assert compact_decoder(model) is None
    dropped = make("llama", {}, adapted=False)
    attach_lora(dropped, rank=4, alpha=8, dropout=0.1, seed=1)
    assert compact_decoder(dropped) is None
    monkeypatch.setattr(compact_module, "COMPACT_BELOW", 1000)
    assert compact_decoder(make("llama", {})) is None


class Weights:
    """All that the sampler asks of a learner."""

    def __init__(self, model: Any) -> None:
        self.model, self.end_ids, self.pad_id = model, (1,), 0
        self.logit_map = logit_map(model.config)


def sampled(model: Any) -> Iterator[Generation]:
    """Three turns of ragged conversations, of which some end."""
    policy = sampler.HFPolicy(Weights(model), SamplingSettings(8, 400))  # type: ignore[arg-type]
    rows = [tuple(range(2, 4 + 5 * i)) for i in range(5)]
    for turn in range(3):
        requests = [GenerationRequest(i, ids, 31 * i + turn) for i, ids in enumerate(rows)]
        made = policy.generate(requests)
        yield from made
        rows = [ids + each.ids + (7, 8) for ids, each in zip(rows, made, strict=True)]


@pytest.mark.parametrize("name", FIT)
def test_samples_are_those_of_the_librarys_pass(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(name, FIT[name])
    ours = list(sampled(model))
    monkeypatch.setattr(sampler, "compact_decoder", lambda model: None)
    for found, wanted in zip(ours, sampled(model), strict=True):
        assert found.ids == wanted.ids
        assert found.logprobs == pytest.approx(wanted.logprobs, abs=1e-4)
        assert found.entropies == pytest.approx(wanted.entropies, abs=1e-4)


def test_the_default_policy_is_run_compactly(tiny: Tiny) -> None:
    """And follows its adapter: learner and sampler see the weights of now."""
    agent: Any = tiny.agent()
    assert isinstance(agent.learner.compact, CompactDecoder)
    assert isinstance(agent.policy.reader.compact, CompactDecoder)
    ids, chosen = torch.arange(2, 14)[None], torch.ones(1, 12, dtype=torch.bool)
    chosen[:, 0] = False
    for _ in range(2):
        with torch.no_grad():
            logp = agent.learner.logprobs_at(ids, chosen)
            plain = agent.learner.model(input_ids=ids).logits.log_softmax(-1)
            wanted = plain[0, :-1].gather(-1, ids[0, 1:, None])[:, 0]
            for weight in agent.learner.parameters().values():
                weight += 0.02
        assert (logp - wanted).abs().max() <= 1e-4
