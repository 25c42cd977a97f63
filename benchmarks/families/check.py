"""The trial of one family: sampler, learner and a plain full forward pass on the same tokens."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aem_gym.agents.learner import HFLearner
from aem_gym.agents.lora import coverage
from aem_gym.agents.sampler import HFPolicy
from aem_gym.errors import ConfigError, ModelError
from aem_gym.protocols import Generation, GenerationRequest, LearnerSettings, SamplingSettings
from aem_gym.settings import settle
from aem_gym.types import Span, TrainingRow
from benchmarks.families.configs import Family
from benchmarks.families.words import chat_difference, make_tokenizer

DENSE, MOE, HALF = 1e-4, 5e-4, 1.5
"""Largest difference (nats) of dense and routed models in float32; the largest ratio in bfloat16
of the sampler's mean distance to float32 to that of the plain forward pass."""
CONVERSATIONS, TURNS, RESPONSE = 3, 4, 5
SHORT, LONG = (2, 5), (6, 17)
"""Tokens of a turn's prompt: conversations stay below every window, or grow well beyond it."""


@dataclass
class Verdict:
    """What the trial of a family gave."""

    family: Family
    status: str = "right"
    why: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def bound(self, name: str, value: float, most: float) -> None:
        """Note a figure, and that it is wrong above `most`."""
        self.figures[name] = value
        if not value <= most:
            self.status = "wrong"
            self.why += f"{name}: {value:.2g} (at most {most:.2g}). "


@dataclass(frozen=True)
class Turn:
    """One sampled response, with the prompt it continues."""

    row: int
    prompt: tuple[int, ...]
    made: Generation


def examine(family: Family, seed: int = 0) -> Verdict:
    """Make the model, put it through all trials, and say what was seen."""
    verdict = Verdict(family)
    with tempfile.TemporaryDirectory() as name:
        base = Path(name) / "base"
        _make(family, base, seed)
        verdict.bound("chat", chat_difference(make_tokenizer(family)), 0)
        try:
            for dtype in ("float32", "bfloat16"):
                _sampling(verdict, base, dtype, seed)
            _files(verdict, base, Path(name), seed)
        except (ModelError, ConfigError) as error:
            verdict.status, verdict.why = "refused", str(error)
        except Exception as error:  # another library's, whatever it is
            verdict.status, verdict.why = "wrong", f"{type(error).__name__}: {error}"
    return verdict


def _make(family: Family, folder: Path, seed: int) -> None:
    from transformers import AutoModelForCausalLM

    tokenizer = make_tokenizer(family)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    config = family.config(len(tokenizer) + 6, **ends, pad_token_id=tokenizer.pad_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def open_learner(base: Path, dtype: str, seed: int) -> HFLearner:
    """The learner of a run, its adapter moved away from zero."""
    given = {"model": str(base), "dtype": dtype, "device": "cpu", "lora_rank": 4, "lora_alpha": 8}
    settings = settle({**given, "max_length": 1024}).config  # OPT and others have no more positions
    learner = HFLearner(LearnerSettings(settings, str(base)))
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in learner.parameters().items():
            if ".lora_B." in name:
                values = torch.randn(parameter.shape, generator=draws) * 0.05
                parameter.copy_(values)
    return learner


# Sampling ----------------------------------------------------------------------------------------


def _sampling(verdict: Verdict, base: Path, dtype: str, seed: int) -> None:
    learner = open_learner(base, dtype, seed)
    if dtype == "float32":
        share, frozen = coverage(learner.model)
        verdict.figures["adapted"] = share
        verdict.notes += [f"frozen: {', '.join(frozen)}"] if frozen else []
    precise = copy.deepcopy(learner.model).float() if dtype == "bfloat16" else None
    for merge in (None,) if dtype == "bfloat16" else (None, False):
        options = {} if merge is None else {"merge": merge}
        for context in ("transcript", "window"):
            for name, lengths in (("short", SHORT), ("long", LONG)):
                policy = HFPolicy(learner, SamplingSettings(RESPONSE, 1000, options))
                policy.publish(learner)
                turns = _converse(policy, context, lengths, seed)
                which = f"{dtype} {context} {name}" + ("" if merge is None else " unmerged")
                _compare(verdict, which, learner, turns, precise)
                verdict.figures.setdefault("library", float(type(policy.reader).__name__[0] == "L"))


def _converse(policy: HFPolicy, context: str, lengths: tuple[int, int], seed: int) -> list[Turn]:
    """Conversations of several turns: growing (`transcript`) or each time anew (`window`)."""
    draws = torch.Generator().manual_seed(seed + 1)
    vocabulary = policy.head.weight.shape[0]
    past: list[tuple[int, ...]] = [()] * CONVERSATIONS
    turns: list[Turn] = []
    for number in range(TURNS):
        requests = []
        for slot in range(CONVERSATIONS):
            size = int(torch.randint(*lengths, (1,), generator=draws))
            size *= 1 if context == "transcript" else number + 1
            new = torch.randint(4, vocabulary, (size,), generator=draws).tolist()
            prompt = (*past[slot], *new) if context == "transcript" else tuple(new)
            requests.append(GenerationRequest(slot, prompt, 100 * number + slot))
        for request, made in zip(requests, policy.generate(requests), strict=True):
            past[request.slot] = request.prompt_ids + made.ids
            turns.append(Turn(request.slot, request.prompt_ids, made))
    return turns


def _compare(
    verdict: Verdict, which: str, learner: HFLearner, turns: list[Turn], precise: Any
) -> None:
    """Sampler, learner and plain pass on every sampled token: log-probabilities and entropies."""
    sampled = torch.tensor([_padded(t.made.logprobs, t.made.entropies) for t in turns])
    trained = torch.tensor(_scored(learner, turns))
    plain = torch.tensor([_plain(learner.model, turn) for turn in turns])
    if precise is None:
        most = MOE if verdict.family.moe else DENSE
        differences = {
            "sampler-learner": sampled - trained,
            "sampler-plain": sampled - plain,
            "learner-plain": trained - plain,
        }
        for name, difference in differences.items():
            verdict.bound(f"{which} {name}", float(difference.abs().max()), most)
        return
    right = torch.tensor([_plain(precise, turn) for turn in turns])
    own = float((plain - right).abs().mean())
    for name, found in (("sampler", sampled), ("learner", trained)):
        distance = float((found - right).abs().mean())
        verdict.bound(f"{which} {name}/plain", distance / own, HALF)


def _padded(logprobs: Sequence[float], entropies: Sequence[float]) -> list[float]:
    return [*logprobs, *entropies] + [0.0] * (2 * RESPONSE - 2 * len(logprobs))


def _scored(learner: HFLearner, turns: list[Turn]) -> list[list[float]]:
    """As in an update: all rows in one batch, with gradients."""
    rows = []
    for turn in turns:
        ids = turn.prompt + turn.made.ids
        span = Span(start=len(turn.prompt), end=len(ids), episode=0, turn=0)
        rows.append(TrainingRow(ids, (span,)))
    scores = learner.score(rows, temperature=1.0)
    found = []
    for row, turn in enumerate(turns):
        size = len(turn.made.ids)
        found.append(
            _padded(scores.logprobs[row, :size].tolist(), scores.entropies[row, :size].tolist())
        )
    return found


@torch.no_grad()
def _plain(model: Any, turn: Turn) -> list[float]:
    """A full forward pass of the model itself over one row, without cache or padding."""
    model.eval()
    ids = torch.tensor([turn.prompt + turn.made.ids])
    logits: Tensor = model(input_ids=ids, use_cache=False).logits[0, len(turn.prompt) - 1 : -1]
    logp = logits.float().log_softmax(-1)
    chosen = logp.gather(-1, torch.tensor(turn.made.ids)[:, None])[:, 0]
    return _padded(chosen.tolist(), torch.special.entr(logp.exp()).sum(-1).tolist())


# Files -------------------------------------------------------------------------------------------


def _files(verdict: Verdict, base: Path, folder: Path, seed: int) -> None:
    """The adapter saved, read back by a fresh learner and by plain peft, and merged."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    most = MOE if verdict.family.moe else DENSE
    trained = open_learner(base, "float32", seed)
    trained.save(folder / "adapter")
    ids = torch.arange(4, 44)[None] % trained.head.weight.shape[0]
    right = _logits(trained.model, ids)
    fresh = open_learner(base, "float32", seed + 1)
    fresh.load(folder / "adapter")
    verdict.bound("loaded", float((_logits(fresh.model, ids) - right).abs().max()), most)
    plain: Any = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    adapted: Any = PeftModel.from_pretrained(plain, str(folder / "adapter"))
    verdict.bound("plain peft", float((_logits(adapted, ids) - right).abs().max()), most)
    merged = adapted.merge_and_unload()  # rounds the weights once more
    verdict.bound("merged", float((_logits(merged, ids) - right).abs().max()), 2 * most)


@torch.no_grad()
def _logits(model: Any, ids: Tensor) -> Tensor:
    found: Tensor = model.eval()(input_ids=ids, use_cache=False).logits.float().log_softmax(-1)
    return found
