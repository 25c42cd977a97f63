"""What do training episodes take on a disk? `python -m benchmarks.size [--run RUN]`.

Makes episodes of 32k tokens and measures their records, plain, compressed and pruned, per token and
for 250 steps of 512. The texts are real, the episodes put together from them:

    recorded  turns of recorded episodes of RUN (default: an ALFWorld run that is made here), in
              their order, one episode after the other until the context is full
    code      what a coding agent reads and writes: pieces of this Python's own library, 200 to
              2,500 characters to read, 200 to 1,800 to write

Token ids are those of SmolLM2's tokenizer; log-probabilities and entropies are drawn again from the
recorded ones, whose digits do not repeat either. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import random
import struct
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from aem_gym.episodes import BULKY, LEVEL, pruned, read_episodes
from aem_gym.training.records import TurnCredit, episode_record
from aem_gym.types import Episode, StopReason, Turn

TOKENS, STEPS, EPISODES = 32_768, 250, 512
Encode = Callable[[str], list[int]]
KEPT = (0, 20)
"""Of `keep_episodes`."""


@dataclass(frozen=True)
class Text:
    """What one turn reads and samples."""

    observation: str
    response: str
    thought: str
    action: str


def recorded(run: Path) -> Iterator[Text]:
    """Turns of recorded episodes, without end."""
    records = [record for record in read_episodes(run) if record["turns"]]
    while True:
        for record in records:
            for turn in record["turns"]:
                yield Text(*(turn[name] for name in BULKY[:4]))


def code(draw: random.Random) -> Iterator[Text]:
    """Turns of a coding agent, without end."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))

    def piece(length: int) -> str:
        text = draw.choice(files).read_text(encoding="utf-8", errors="replace")
        start = draw.randrange(max(1, len(text) - length))
        return text[start : start + length]

    while True:
        thought, action = piece(draw.randrange(100, 900)), piece(draw.randrange(100, 900))
        response = f"<think>{thought}</think>\n<action>{action}</action>"
        yield Text(piece(draw.randrange(200, 2500)), response, thought, action)


def episode(
    texts: Iterator[Text], encode: Encode, pool: Sequence[float], draw: random.Random
) -> Episode:
    """An episode that fills the context."""
    turns: list[Turn] = []
    used = 0
    while used < TOKENS:
        text = next(texts)
        read, written = encode(text.observation), encode(text.response)
        used += len(read) + len(written)
        surprises, entropies = (
            tuple(single(draw.choice(pool) * draw.random()) for _ in written) for _ in range(2)
        )
        words = (text.observation, text.response, text.thought, text.action)
        turn = Turn(*words, prompt_ids=tuple(read), response_ids=tuple(written))
        turns.append(replace(turn, logprobs=tuple(-s for s in surprises), entropies=entropies))
    name, seed = f"task-{draw.randrange(10**6)}", draw.randrange(2**32)
    ended = StopReason.CONTEXT_FULL
    return Episode(name, "kind", f"goal of {name}", seed, 0, tuple(turns), stop_reason=ended)


def single(value: float) -> float:
    """A number of float32, as torch gives them: it has all the digits of a float64 in JSON."""
    found: float = struct.unpack("f", struct.pack("f", value))[0]
    return found


def sizes(episodes: Sequence[Episode], *, tokens: bool, draw: random.Random) -> dict[str, float]:
    """Bytes of an episode in each form, and the seconds that compressing it took."""
    lines = []
    for each in episodes:
        drawn = [[draw.random() for _ in range(3)] for _ in each.turns]
        credits = {i: TurnCredit(*values) for i, values in enumerate(drawn)}
        record = episode_record(1, 0, each, credits, dropped=False, tokens=tokens)
        lines.append(msgspec.json.encode(record))
    whole = b"\n".join(lines)
    short = b"\n".join(msgspec.json.encode(pruned(msgspec.json.decode(each))) for each in lines)
    clock = time.perf_counter()
    small = gzip.compress(whole, LEVEL, mtime=0)
    seconds = time.perf_counter() - clock
    found = {"plain": len(whole), "gzip": len(small), "pruned": len(short)}
    found["pruned_gzip"] = len(gzip.compress(short, LEVEL, mtime=0))
    return {name: size / len(lines) for name, size in found.items()} | {
        "seconds": seconds / len(lines)
    }


def run_size(whole: float, sampled: float, short: float, keep: int, samples: int) -> float:
    """GB of 250 steps x 512 episodes, of which `samples` a step have their tokens."""
    step = EPISODES * whole + samples * (sampled - whole)
    kept = min(keep or STEPS, STEPS)
    return (kept * step + (STEPS - kept) * EPISODES * short) / 1e9


def corpus(
    name: str, texts: Iterator[Text], encode: Encode, pool: Sequence[float], count: int
) -> dict[str, Any]:
    """Print the table of one corpus; its figures."""
    draw = random.Random(0)
    made = [episode(texts, encode, pool, draw) for _ in range(count)]
    turns = [turn for each in made for turn in each.turns]
    text, whole = (sizes(made, tokens=tokens, draw=draw) for tokens in (False, True))
    figures: dict[str, Any] = {
        "turns": len(turns) / count,
        "read": sum(len(turn.prompt_ids) for turn in turns) / count,
        "sampled": sum(len(turn.response_ids) for turn in turns) / count,
        "text": text,
        "with_tokens": whole,
    }
    shown = ", ".join(f"{figures[key]:.0f} {key}" for key in ("turns", "read", "sampled"))
    print(f"{name}: {shown} an episode")
    for kind, found in (("text", text), ("with tokens", whole)):
        parts = [f"{key} {found[key] / 1e3:.1f}" for key in found if key != "seconds"]
        seconds = found["seconds"] * EPISODES
        print(f"  {kind}, KB an episode: {', '.join(parts)}; gzip takes {seconds:.1f} s a step")
    for samples, keep in itertools.product((2, EPISODES), KEPT):
        plain = run_size(text["plain"], whole["plain"], text["pruned"], keep, samples)
        small = run_size(text["gzip"], whole["gzip"], text["pruned_gzip"], keep, samples)
        print(f"  token_samples {samples:3}, keep_episodes {keep:2}, GB of a run: "
              f"{plain:6.1f} plain, {small:5.2f} gzip")  # fmt: skip
        figures[f"gb_{samples}_{keep}"] = {"plain": round(plain, 2), "gzip": round(small, 2)}
    return figures


def encoder() -> Encode:
    """Text -> token ids of SmolLM2."""
    from transformers import AutoTokenizer

    from aem_gym.agents.smollm2 import smollm2_folder

    tokenizer: Any = AutoTokenizer.from_pretrained(smollm2_folder())
    return lambda text: tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def default_run(folder: Path) -> Path:
    """A run of two steps of the default job, all tokens kept."""
    from aem_gym.training.loop import train

    out = str(folder / "run")
    train(out=out, steps=2, eval_every=0, token_samples="all", loggers=[])
    return folder / "run"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run whose episodes are taken")
    parser.add_argument("--episodes", type=int, default=16, help="to make of each kind")
    arguments = parser.parse_args(argv)
    encode = encoder()
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or default_run(Path(folder))
        pool = [
            value
            for record in read_episodes(run)
            for turn in record["turns"]
            for value in turn.get("entropies", ())
        ]
        found = {
            name: corpus(name, texts, encode, pool, arguments.episodes)
            for name, texts in (("recorded", recorded(run)), ("code", code(random.Random(1))))
        }
    print(json.dumps({"benchmark": "size", **found}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
