"""The sampler: exact against a plain forward pass, whatever is cached, batched or cut off."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen2Config, Qwen2ForCausalLM

from aem_gym.agents.sampler import HFPolicy
from aem_gym.errors import ConfigError, NotFiniteError, UnknownNameError
from aem_gym.logprobs import LogitMap
from aem_gym.protocols import (
    BatchPolicy,
    Generation,
    GenerationRequest,
    SamplingSettings,
)

VOCABULARY, END = 40, 1


@pytest.fixture(scope="module")
def model():
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Qwen2ForCausalLM(config).eval()


@dataclass
class Weights:
    """All that the sampler asks of a learner."""

    model: Any
    end_ids: tuple[int, ...] = (END,)
    pad_id: int = 0
    logit_map: LogitMap = LogitMap()


def make(model, tokens=6, **options) -> HFPolicy:
    return HFPolicy(Weights(model), SamplingSettings(tokens, 1000, options))


def widths_read(model, seen: list[int]):
    """Notes how many columns each forward pass reads; a hook to remove."""
    return model.get_input_embeddings().register_forward_pre_hook(
        lambda module, args: seen.append(args[0].shape[1])
    )


@torch.no_grad()
def check(model, prompt: tuple[int, ...], generation: Generation, temperature: float) -> None:
    """Log-probabilities and entropies against one plain forward pass over the whole text."""
    ids = torch.tensor([[*prompt, *generation.ids]])
    logits = model(ids).logits[0, len(prompt) - 1 : -1] / temperature
    logp = torch.log_softmax(logits, -1)
    taken = logp.gather(-1, torch.tensor(generation.ids)[:, None])[:, 0]
    assert torch.allclose(torch.tensor(generation.logprobs), taken, atol=1e-5)
    entropy = -(logp.exp() * logp).sum(-1)
    assert torch.allclose(torch.tensor(generation.entropies), entropy, atol=1e-5)


tokens = st.integers(2, VOCABULARY - 1)
texts = st.lists(tokens, min_size=1, max_size=12).map(tuple)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_growing_conversations_equal_plain_forwards(model, data):
    """Rows join, leave and grow raggedly; some go back on their past, as a window does."""
    generator = make(model)
    live: dict[int, tuple[int, ...]] = {
        slot: data.draw(texts) for slot in range(data.draw(st.integers(1, 4)))
    }
    for turn in range(4):
        requests = [GenerationRequest(s, prompt, 100 * turn + s) for s, prompt in live.items()]
        for request, generation in zip(requests, generator.generate(requests), strict=True):
            check(model, request.prompt_ids, generation, 1.0)
            assert generation.cut == (END not in generation.ids)
            live[request.slot] = request.prompt_ids + generation.ids + data.draw(texts)
        if len(live) > 1 and data.draw(st.booleans()):
            live.pop(next(iter(live)))
        if data.draw(st.booleans()):
            live[10 + turn] = data.draw(texts)
        if data.draw(st.booleans()):
            slot = next(iter(live))
            live[slot] = live[slot][: len(live[slot]) // 2] + data.draw(texts)


def test_a_draw_depends_on_its_key_alone(model):
    """The same prompt and key give the same response alone, in a batch, and at another place."""
    prompts = [(5, 6, 7), (8, 9), (10, 11, 12, 13, 14), (3,)]
    requests = [GenerationRequest(i, p, 77 + i) for i, p in enumerate(prompts)]
    together = make(model).generate(requests)
    for place, request in enumerate(requests):
        assert make(model).generate([request])[0].ids == together[place].ids
    backwards = make(model).generate(requests[::-1])[::-1]
    assert [g.ids for g in backwards] == [g.ids for g in together]


def test_sampling_follows_the_distribution(model):
    """First tokens of many keys occur as often as the softmax says, at a temperature."""
    generator = make(model, tokens=1)
    count = 4000
    drawn = generator.generate([GenerationRequest(i, (4, 5), i, 0.7) for i in range(count)])
    seen = torch.bincount(torch.tensor([g.ids[0] for g in drawn]), minlength=VOCABULARY) / count
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([[4, 5]])).logits[0, -1] / 0.7, -1)
    spread = (expected * (1 - expected) / count).sqrt()
    assert ((seen - expected).abs() <= 5 * spread + 1e-4).all()
    check(model, (4, 5), drawn[0], 0.7)


def test_temperature_zero_is_greedy(model):
    generation = make(model).generate([GenerationRequest(0, (4, 5), 1, 0.0)])[0]
    ids = [4, 5]
    for token in generation.ids:
        with torch.no_grad():
            assert int(model(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_the_cache_saves_reading(model):
    """At the second turn only the new part of a prompt goes through the model."""
    generator = make(model)
    widths: list[int] = []
    hook = widths_read(model, widths)
    try:
        prompt = tuple(range(2, 32))
        first = generator.generate([GenerationRequest(0, prompt, 1)])[0]
        widths.clear()
        generator.generate([GenerationRequest(0, (*prompt, *first.ids, 5, 6), 2)])
    finally:
        hook.remove()
    assert widths[0] == 3  # the last sampled token, and the two new ones


def test_requests_of_one_call_may_differ_in_temperature(model):
    """Each row is drawn and reported at its own temperature, the greedy ones at 1."""
    temperatures = (0.0, 0.7, 1.0, 0.0, 1.5)
    requests = [GenerationRequest(i, (4, 5 + i, 6), 50 + i, t) for i, t in enumerate(temperatures)]
    for request, mixed in zip(requests, make(model).generate(requests), strict=True):
        (alone,) = make(model).generate([request])
        assert mixed.ids == alone.ids
        assert mixed.logprobs == pytest.approx(alone.logprobs, abs=1e-5)
        check(model, request.prompt_ids, mixed, request.temperature or 1.0)


@pytest.mark.parametrize("ended", [(0,), (0, 1)])
def test_an_episode_that_ended_leaves_nothing_behind(model, ended: tuple[int, ...]):
    """A new episode in its slot reads its whole prompt, whatever the old one shared with it."""
    generator = make(model)
    prompt = tuple(range(2, 32))
    requests = [GenerationRequest(slot, (*prompt, slot + 3), slot) for slot in (0, 1)]
    (first, second) = generator.generate(requests)
    for slot in ended:
        generator.release(slot)
    generator.release(99)  # never seen: nothing to drop
    widths: list[int] = []
    hook = widths_read(model, widths)
    try:
        longer = [
            GenerationRequest(0, (*prompt, 3), 7),
            GenerationRequest(1, (*prompt, 4, *second.ids, 5), 8),
        ]
        again = generator.generate(longer)
    finally:
        hook.remove()
    fresh = make(model).generate(longer)
    assert widths[0] == len(longer[ended[-1]].prompt_ids)
    for request, ours, expected in zip(longer, again, fresh, strict=True):
        assert ours.ids == expected.ids
        check(model, request.prompt_ids, ours, 1.0)
    if len(ended) == 2:
        assert again == fresh  # bit by bit: a resumed run has no cache either


def test_publishing_forgets_the_cache_and_counts_versions(model):
    generator = make(model)
    assert isinstance(generator, BatchPolicy) and generator.exact
    prompt = tuple(range(2, 32))
    generator.generate([GenerationRequest(0, prompt, 1)])
    assert [generator.publish(Weights(model)) for _ in range(3)] == [1, 2, 3]
    widths: list[int] = []
    hook = widths_read(model, widths)
    try:
        generator.generate([GenerationRequest(0, (*prompt, 5), 1)])
    finally:
        hook.remove()
    assert widths[0] == len(prompt) + 1


def test_wrong_options_and_learners_are_refused(model):
    with pytest.raises(UnknownNameError, match="Did you mean 'merge'"):
        make(model, merged=True)
    with pytest.raises(ConfigError, match="sampler_options.merge: expected true or false"):
        make(model, merge="yes")
    with pytest.raises(ConfigError, match="sampler_options.merge: expected true or false, got 0"):
        make(model, merge=0)
    with pytest.raises(ConfigError, match="prefill_chunk: expected a number of tokens, got True"):
        make(model, prefill_chunk=True)
    with pytest.raises(ConfigError, match="expected a learner with model, end_ids, pad_id"):
        HFPolicy(object(), SamplingSettings(6, 100))


@pytest.mark.parametrize("temperature", [1.0, 0.0])
def test_weights_that_are_nan_are_an_error_and_no_tokens(model, temperature):
    """A draw from NaN would be the last token of the vocabulary, for ever."""
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")
    with pytest.raises(NotFiniteError, match="sampler hf: .*NaN.*weights"):
        make(broken).generate([GenerationRequest(0, (2, 3, 4), 1, temperature)])
