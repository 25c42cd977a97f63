"""Sampler and learner around one tiny model: they must see the same tokens and numbers."""

from __future__ import annotations

import asyncio
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aem_gym.agents.build import open_agent
from aem_gym.errors import ConfigError
from aem_gym.protocols import (
    AsyncPolicy,
    EpisodeStart,
    Generation,
    GenerationRequest,
    Learner,
    Response,
    TrainableAgent,
    TurnInput,
)
from aem_gym.training.credit import training_rows
from aem_gym.types import (
    IMITATE,
    Demo,
    DemoStep,
    Episode,
    PromptTemplate,
    StopReason,
    Turn,
)
from tests.tiny import Tiny, flat
from tests.weights import base_weights_hash


def compare(agent, episodes: list[Episode], temperature: float) -> tuple[float, float]:
    """Largest differences of log-probabilities and entropies between rollout and learner."""
    rows = training_rows(enumerate(episodes))
    with torch.no_grad():
        scores = agent.learner.score(rows, temperature=temperature)
    turns = [episodes[s.episode].turns[s.turn] for row in rows for s in row.spans]
    logp = torch.tensor([x for t in turns for x in t.logprobs])
    entropy = torch.tensor([x for t in turns for x in t.entropies])
    return (
        float((scores.logprobs[scores.mask] - logp).abs().max()),
        float((scores.entropies[scores.mask] - entropy).abs().max()),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("context", ["transcript", "window"])
@pytest.mark.parametrize("merge", [True, False])
def test_sampler_and_learner_agree(
    tiny: Tiny, context: str, temperature: float, merge: bool
) -> None:
    # Sampling in a merged copy, or in the training model itself, as large models do.
    agent = tiny.agent(
        context=context,
        model=str(tiny.folder),
        sampler_options={"merge": merge},
    )
    assert (agent.policy.merged is not None) == merge
    episodes = flat(tiny.groups(agent, temperature=temperature))
    logp, entropy = compare(agent, episodes, temperature)
    assert logp <= 1e-5 and entropy <= 1e-5
    wrong, _ = compare(agent, episodes, temperature + 0.2)
    assert wrong > 1e-2  # the comparison would notice


def test_the_adapter_is_what_samples(tiny: Tiny) -> None:
    episodes = flat(tiny.groups(tiny.agent()))
    bare, _ = compare(tiny.agent(adapted=False), episodes, 1.0)
    assert bare > 1e-2


def test_a_transcript_grows_by_what_is_new(tiny: Tiny) -> None:
    """Prompts and responses joined are the tokens conditioned on, and the whole chat's tokens."""
    agent = tiny.agent()
    asked: list[tuple[int, tuple[int, ...]]] = []
    generate = agent.policy.generate

    def listening(requests):
        asked.extend((r.slot, r.prompt_ids) for r in requests)
        return generate(requests)

    agent.policy.generate = listening
    episodes = flat(tiny.groups(agent))
    cut = whole = 0
    for slot, episode in enumerate(episodes):
        prompts = [ids for other, ids in asked if other == slot]
        ids: tuple[int, ...] = ()
        for turn, prompt in zip(episode.turns, prompts, strict=True):
            ids += turn.prompt_ids
            assert ids == prompt
            ids += turn.response_ids
        for turn, following in zip(episode.turns, episode.turns[1:], strict=False):
            end = agent.builder.end_id
            assert (turn.response_ids[-1] == end) == (not turn.cut)
            assert (following.prompt_ids[0] == end) == turn.cut
            assert following.prompt_ids.count(end) == turn.cut
            cut, whole = cut + turn.cut, whole + (not turn.cut)
    assert cut and whole, "the policy must do both for this test to mean something"


class Replay:
    """A policy that says what a demonstration says; every slot has its own script."""

    def __init__(self, scripts: dict[int, list[tuple[int, ...]]]) -> None:
        self.scripts = scripts

    def generate(self, requests: list[GenerationRequest]) -> list[Generation]:
        ids = [self.scripts[request.slot].pop(0) for request in requests]
        return [Generation(i, (0.0,) * len(i), (0.0,) * len(i), cut=False) for i in ids]

    exact = True

    def publish(self, learner: Learner) -> int:
        return 1

    def release(self, slot: int) -> None:
        pass

    def close(self) -> None:
        pass


def replayed(agent, demos: list[Demo], template: PromptTemplate) -> list[Episode]:
    """The demonstrations as rollouts: the agent reads their observations and says their lines."""
    scripts: dict[int, list[tuple[int, ...]]] = {}
    episodes = []
    for slot, demo in enumerate(demos):
        said = [agent.format.render(step.thought, step.action) for step in demo.steps]
        scripts[slot] = [agent.builder.response(text) for text in said]
        agent.policy = Replay(scripts)
        agent.begin(EpisodeStart(slot, slot, "", demo.goal, template))
        turns: list[Turn] = []
        for number, step in enumerate(demo.steps):
            info = {"admissible_actions": step.admissible_actions}
            (r,) = agent.act([TurnInput(slot, number, step.observation, info, turns)])
            assert (r.thought, r.action, r.format_valid) == (step.thought, step.action, True)
            turn = Turn(step.observation, r.text, r.thought, r.action)
            ids = {"prompt_ids": r.prompt_ids, "response_ids": r.response_ids}
            turns.append(replace(turn, **ids))
        kind = agent.builder.kind
        episodes.append(Episode("", "", demo.goal, 0, 0, tuple(turns), context=kind))
    return episodes


def test_a_transcript_is_the_whole_chat_tokenised_once(tiny: Tiny) -> None:
    agent = tiny.agent(max_length=10_000, max_new_tokens=64)
    for episode in replayed(agent, tiny.demos[:10], tiny.template):
        chat = []
        for turn in episode.turns:
            chat.append({"role": "user", "content": turn.observation})
            chat.append({"role": "assistant", "content": turn.response})
        text = agent.learner.tokenizer.apply_chat_template(chat, tokenize=False)
        ids = agent.learner.tokenizer.encode(text, add_special_tokens=False)
        last = len(ids) - ids[::-1].index(agent.builder.end_id)
        assert training_rows([(0, episode)])[0].ids == tuple(ids[:last])


@pytest.mark.parametrize("context", ["transcript", "window"])
def test_demonstrations_are_tokenised_as_rollouts_are(tiny: Tiny, context: str) -> None:
    """What cloning reads of an episode are the very tokens its rollout held."""
    agent = tiny.agent(context=context, max_length=10_000, max_new_tokens=64)
    imitated = [
        Demo(demo.goal, tuple(replace(step, imitate=True) for step in demo.steps))
        for demo in tiny.demos[:10]
    ]
    for demo, episode in zip(imitated, replayed(agent, imitated, tiny.template), strict=True):
        rows = agent.tokenize(demo, EpisodeStart(0, 0, "", demo.goal, tiny.template))
        theirs = training_rows([(0, episode)])
        assert [row.ids for row in rows] == [row.ids for row in theirs]
        for row, other in zip(rows, theirs, strict=True):
            spans = {i for span in other.spans for i in range(span.start, span.end)}
            assert {i for i, label in enumerate(row.labels) if label == IMITATE} == spans


def test_noise_is_read_but_not_imitated(tiny: Tiny) -> None:
    agent = tiny.agent()
    steps = (DemoStep("a", "why", "go", False), DemoStep("b", "so", "take"))
    start = EpisodeStart(0, 0, "", "", tiny.template)
    (row,) = agent.tokenize(Demo("", steps), start)
    parts = {
        label: [i for i, x in zip(row.ids, row.labels, strict=True) if x == label]
        for label in range(3)
    }
    assert agent.builder.decode(tuple(parts[2])) == agent.format.render("why", "go")
    assert agent.builder.decode(tuple(parts[1])) == agent.format.render("so", "take")
    assert agent.tokenize(Demo("", steps[:1]), start) == []  # nothing to imitate
    short = tiny.agent(max_length=len(row.ids) - 1)
    assert short.tokenize(Demo("", steps), start) == []  # does not fit


def test_a_full_context_stops_without_an_error(tiny: Tiny) -> None:
    agent = tiny.agent(max_length=60)
    episodes = flat(tiny.groups(agent, max_turns=30))
    assert all(e.error is None for e in episodes)
    full = [e for e in episodes if e.truncated and len(e.turns) < 30]
    assert full and {e.stop_reason for e in full} == {StopReason.CONTEXT_FULL}
    for episode in full:
        used = sum(len(t.prompt_ids) + len(t.response_ids) for t in episode.turns)
        assert used <= 60


def test_a_last_response_gets_what_is_left(tiny: Tiny) -> None:
    agent = tiny.agent(max_new_tokens=20)
    turn = TurnInput(3, 0, "You see a cabinet 1.", {"admissible_actions": []}, ())
    agent.begin(EpisodeStart(3, 5, "", "", tiny.template))
    whole = agent.prepare(turn)
    assert isinstance(whole, GenerationRequest) and whole.max_new_tokens == 20
    (free,) = agent.policy.generate([whole])
    for left in (1, 2, len(free.ids) - 1, len(free.ids)):
        agent.max_length = len(whole.prompt_ids) + left
        request = agent.prepare(turn)
        assert isinstance(request, GenerationRequest) and request.max_new_tokens == left
        # Beside one that may be longer, and by itself.
        for company in ([request], [request, replace(whole, slot=4)]):
            agent.policy.release(3)
            made = agent.policy.generate(company)[0]
            assert made.ids == free.ids[:left]
            assert made.cut == (made.ids[-1] != agent.builder.end_id)
    agent.max_length = len(whole.prompt_ids)
    full = agent.prepare(turn)
    assert isinstance(full, Response) and full.stop_reason == StopReason.CONTEXT_FULL


def test_a_context_is_filled_to_the_end(tiny: Tiny) -> None:
    reserved = 10  # max_new_tokens of these policies
    episodes = flat(tiny.groups(tiny.agent(max_length=60), max_turns=30))
    used = [sum(len(t.prompt_ids) + len(t.response_ids) for t in e.turns) for e in episodes]
    assert max(used) > 60 - reserved and max(used) <= 60


OTHER_END = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|act|>{{ m.content }}<|pad|>\n"
    "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|act|>{% endif %}"
)


def test_the_end_of_the_template_reaches_the_sampler_and_the_transcript(
    tiny: Tiny, tmp_path: Path
) -> None:
    """Where the template closes a turn with another token than the tokenizer's end token."""
    folder = shutil.copytree(tiny.folder, tmp_path / "model")
    for file in folder.glob("chat_template*"):
        file.unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings["chat_template"] = OTHER_END
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    agent = open_agent(tiny.changed(max_length=4000), tiny.template, str(folder))
    pad, eos = agent.builder.end_id, agent.learner.tokenizer.eos_token_id
    assert agent.learner.tokenizer.decode([pad]) == "<|pad|>" and pad != eos
    assert set(agent.policy.end_ids.tolist()) == {pad, eos} == set(agent.builder.stop_ids)
    start = EpisodeStart(0, 0, "", "", tiny.template)
    (row,) = agent.tokenize(Demo("", (DemoStep("a", "why", "go"),)), start)
    assert row.ids[-1] == pad and row.labels[-1] == IMITATE
    said = agent.builder.encode("why ; go")
    for ids, closed in (((*said, pad), 0), ((*said, eos), 1), (said, 1)):
        agent.begin(start)
        agent.policy = Replay({0: [ids]})
        (response,) = agent.act([TurnInput(0, 0, "a", {"admissible_actions": []}, ())])
        assert (response.thought, response.action) == ("why", "go")
        request = agent.prepare(TurnInput(0, 1, "b", {"admissible_actions": []}, ()))
        assert isinstance(request, GenerationRequest)
        added = request.prompt_ids[len(response.prompt_ids) + len(ids) :]
        assert added == (pad,) * closed + agent.builder.encode("\nb<|act|>")


def test_rollouts_do_not_depend_on_company(tiny: Tiny) -> None:
    together = flat(tiny.groups(tiny.agent(), 3, 2))
    alone = flat(tiny.groups(tiny.agent(), 1, 2))
    said = [[t.response for t in e.turns] for e in together[:2]]
    assert [[t.response for t in e.turns] for e in alone] == said


def test_merging_equals_base_plus_update_and_does_not_drift(tiny: Tiny) -> None:
    agent = tiny.agent()
    agent.policy.publish(agent.learner)
    first = {k: v.clone() for k, v in agent.policy.merged.state_dict().items()}
    changed = 0
    for name, module in agent.learner.model.named_modules():
        if hasattr(module, "lora_A"):
            a, b = module.lora_A["default"].weight, module.lora_B["default"].weight
            expected = module.base_layer.weight + module.scaling["default"] * (b @ a)
            assert torch.equal(first[f"{name}.weight"], expected)
            changed += 1
    assert changed == 3 * 7
    for _ in range(100):
        agent.policy.publish(agent.learner)
    after = agent.policy.merged.state_dict()
    assert all(torch.equal(first[k], after[k]) for k in first)


def test_values_are_read_at_the_last_token_of_the_prompt(tiny: Tiny) -> None:
    agent = tiny.agent(value_head=True)
    with torch.no_grad():
        agent.learner.value_head.weight.fill_(1.0)
    episodes = flat(tiny.groups(agent, 1, 2))
    rows = training_rows(enumerate(episodes))
    with torch.no_grad():
        values = agent.learner.score(rows, temperature=1.0).values
        expected = []
        for row in rows:
            hidden = agent.learner.decoder(input_ids=torch.tensor([row.ids])).last_hidden_state[0]
            expected += [hidden[span.start - 1].sum() for span in row.spans]
    assert torch.allclose(values, torch.stack(expected), atol=1e-4)


def test_the_reference_is_frozen_as_it_was(tiny: Tiny) -> None:
    agent = tiny.agent()
    rows = training_rows(enumerate(flat(tiny.groups(agent, 1, 2))))
    agent.learner.freeze_reference()
    base = base_weights_hash(agent.learner.model)
    before = agent.learner.score(rows, temperature=1.0).logprobs.detach()
    assert torch.equal(agent.learner.score(rows, temperature=1.0, reference=True).logprobs, before)
    optimizer = torch.optim.SGD(agent.learner.parameters().values(), lr=0.5)
    (-agent.learner.score(rows, temperature=1.0).logprobs.sum()).backward()
    optimizer.step()
    agent.policy.publish(agent.learner)
    moved = agent.learner.score(rows, temperature=1.0).logprobs.detach()
    assert not torch.allclose(moved, before, atol=1e-2)
    assert torch.equal(agent.learner.score(rows, temperature=1.0, reference=True).logprobs, before)
    # Looking at the reference leaves the policy in training where it was.
    again = agent.learner.score(rows, temperature=1.0).logprobs
    assert torch.equal(again.detach(), moved) and again.requires_grad
    assert not any("reference" in name for name in agent.learner.parameters())
    assert base_weights_hash(agent.learner.model) == base


def test_odd_observations_are_read(tiny: Tiny) -> None:
    """Anything an environment may say can be tokenised, answered, and told apart again."""
    agent = tiny.agent(max_length=8000)
    texts = ["", "\x00\x1b[2J\u202e", "\U0001f6aa \u4f60\u597d", "<|im_end|>", "{goal} {0} %s"]
    inputs = []
    for slot, text in enumerate(texts):
        agent.begin(EpisodeStart(slot, slot, "", text, tiny.template))
        info = {"admissible_actions": []}
        inputs.append(TurnInput(slot, 0, text, info, ()))
    responses = agent.act(inputs)
    assert all(r.response_ids and r.error is None for r in responses)
    agent.begin(EpisodeStart(9, 9, "", "", tiny.template))
    (full,) = agent.act([replace(inputs[0], slot=9, observation="word " * 100_000)])
    assert (full.stop, full.stop_reason, full.error) == (True, StopReason.CONTEXT_FULL, None)


class Concurrent:
    """The same sampler behind a coroutine per request; later requests are answered first."""

    exact = True

    def __init__(self, inner) -> None:
        self.inner, self.waiting = inner, 0
        self.publish, self.release, self.close = inner.publish, inner.release, inner.close

    async def sample(self, request: GenerationRequest) -> Generation:
        self.waiting += 1
        await asyncio.sleep(0.002 * (10 - self.waiting))
        self.waiting -= 1
        return self.inner.generate([request])[0]


def test_an_asynchronous_policy_gives_the_same_episodes(tiny: Tiny) -> None:
    agent = tiny.agent()
    together = flat(tiny.groups(agent))
    agent.policy = Concurrent(agent.policy)
    assert isinstance(agent.policy, AsyncPolicy)
    apart = flat(tiny.groups(agent))
    assert [[t.response_ids for t in e.turns] for e in apart] == [
        [t.response_ids for t in e.turns] for e in together
    ]


def test_preparing_a_turn_changes_nothing(tiny: Tiny) -> None:
    agent = tiny.agent()
    assert isinstance(agent, TrainableAgent)
    agent.begin(EpisodeStart(3, 5, "", "", tiny.template, 0.4))
    turn = TurnInput(3, 0, "You see a cabinet 1.", {"admissible_actions": []}, ())
    request = agent.prepare(turn)
    assert isinstance(request, GenerationRequest) and request.temperature == 0.4
    assert agent.prepare(turn) == request
    response = agent.finish(request, agent.policy.generate([request])[0])
    assert isinstance(response, Response) and response.prompt_ids == request.prompt_ids
    after = agent.prepare(TurnInput(3, 1, "Nothing.", {"admissible_actions": []}, ()))
    grown = request.prompt_ids + response.response_ids
    assert after.prompt_ids[: len(grown)] == grown and after.key != request.key


def test_the_old_spelling_of_merge_still_works(tiny: Tiny) -> None:
    for merge in (True, False):
        options = {"merge_for_sampling": merge}
        agent = tiny.agent(model=str(tiny.folder), model_options=options)
        assert (agent.policy.merged is not None) == merge
    assert tiny.agent(adapted=False).policy.merged is not None  # small: by default


def no_policy(learner, settings) -> int:
    return 7


def test_components_that_do_not_fit_their_role_are_refused(tiny: Tiny) -> None:
    config = tiny.changed(sampler=f"{__name__}:no_policy")
    with pytest.raises(ConfigError, match="no_policy'.*BatchPolicy or AsyncPolicy .*got 7"):
        open_agent(config, tiny.template, str(tiny.folder))


def each(**changes: Callable[[Generation], Any]) -> Callable[[list[Generation]], Any]:
    """Generations with fields computed anew."""
    return lambda made: [replace(g, **{k: f(g) for k, f in changes.items()}) for g in made]


SPOILED: dict[str, Callable[[list[Generation]], Any]] = {
    "one too few": lambda made: made[:-1],
    "nothing": lambda made: None,
    "something else": lambda made: ["text"] * len(made),
    "a log-probability too few": each(logprobs=lambda g: g.logprobs[:-1]),
    "no entropies, though exact": each(entropies=lambda g: ()),
    "entropies that are not finite": each(entropies=lambda g: (math.nan,) * len(g.ids)),
    "an id behind the vocabulary": each(ids=lambda g: (999_999, *g.ids[1:])),
    "an id before it": each(ids=lambda g: (-1, *g.ids[1:])),
    "longer than allowed": each(
        ids=lambda g: g.ids * 200,
        logprobs=lambda g: g.logprobs * 200,
        entropies=lambda g: (0.0,) * (200 * len(g.ids)),
    ),
    "no ids": each(ids=lambda g: (), logprobs=lambda g: (), entropies=lambda g: ()),
}


@pytest.mark.parametrize("how", SPOILED)
def test_what_a_sampler_gives_is_checked(tiny: Tiny, how: str) -> None:
    agent = tiny.agent()
    generate = agent.policy.generate
    agent.policy.generate = lambda requests: SPOILED[how](generate(requests))
    for episode in flat(tiny.groups(agent, groups=2, size=1)):
        assert episode.stop_reason is StopReason.AGENT_ERROR
        assert re.search(r"sampler \w+.*: expected", str(episode.error))


def test_a_sampler_may_give_lists_and_numpys_numbers(tiny: Tiny) -> None:
    agent = tiny.agent()
    expected = flat(tiny.groups(agent))
    generate = agent.policy.generate
    as_arrays = each(ids=lambda g: list(np.array(g.ids)), logprobs=lambda g: np.array(g.logprobs))
    agent.policy.generate = lambda requests: as_arrays(generate(requests))
    assert flat(tiny.groups(agent)) == expected
