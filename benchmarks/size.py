"""What do training episodes take on a disk? `python -m benchmarks.size [--run RUN]`.

Makes episodes of 32k tokens and measures their records, plain, compressed and pruned, per token and
for 250 steps of 512. The texts are real, the episodes put together from them:

    recorded  turns of recorded episodes of RUN (default: an ALFWorld run that is made here), in
              their order, one episode after the other until the context is full
    code      what a coding agent reads and writes: pieces of this Python's own library, 200 to 2,500
              characters to read and a comment with a piece of code to write

Token ids are those of SmolLM2's tokenizer; log-probabilities and entropies are drawn again from the
recorded ones, whose digits do not repeat either. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from aem_gym.episodes import BULKY, pruned, read_episodes
from aem_gym.training.records import TurnCredit, episode_record
from aem_gym.types import Episode, StopReason, Turn

TOKENS, STEPS, EPISODES = 32_768, 250, 512
READ, WRITTEN = 4, 3
"""Of seven parts of a code episode's text, those that are read and those that are sampled."""


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


def episode(texts: Iterator[Text], encode: Any, pool: Sequence[float], draw: random.Random) -> Any:
    """An episode that fills the context."""
    turns, used = [], 0
    while used < TOKENS:
        text = next(texts)
        read, written = encode(text.observation), encode(text.response)
        used += len(read) + len(written)
        scores = [tuple(draw.choice(pool) * draw.random() for _ in written) for _ in "pe"]
        turns.append(
            Turn(
                text.observation, text.response, text.thought, text.action,
                prompt_ids=tuple(read), response_ids=tuple(written),
                logprobs=tuple(-float(msgspec_float(x)) for x in scores[0]),
                entropies=tuple(float(msgspec_float(x)) for x in scores[1]),
            )  # fmt: skip
        )
    name = f"task-{draw.randrange(10**6)}"
    return Episode(
        name, "kind", f"the goal of {name}", draw.randrange(2**32), 0, tuple(turns),
        stop_reason=StopReason.CONTEXT_FULL,
    )  # fmt: skip


def msgspec_float(value: float) -> float:
    """As float32 has it: what torch gives, with all the digits of a float64."""
    import struct

    found: float = struct.unpack("f", struct.pack("f", value))[0]
    return found


def sizes(episodes: Sequence[Episode], *, tokens: bool, draw: random.Random) -> dict[str, float]:
    """Bytes of an episode in each form."""
    lines = []
    for each in episodes:
        of_turns = {
            i: TurnCredit(draw.random(), draw.random(), draw.random())
            for i in range(len(each.turns))
        }
        lines.append(msgspec.json.encode(
            episode_record(1, 0, each, of_turns, dropped=False, tokens=tokens)
        ))  # fmt: skip
    short = [msgspec.json.encode(pruned(msgspec.json.decode(line))) for line in lines]
    data, few = b"\n".join(lines), b"\n".join(short)
    clock = time.perf_counter()
    small = gzip.compress(data, 6, mtime=0)
    seconds = time.perf_counter() - clock
    number = len(lines)
    return {
        "plain": len(data) / number,
        "gzip": len(small) / number,
        "pruned": len(few) / number,
        "pruned_gzip": len(gzip.compress(few, 6, mtime=0)) / number,
        "seconds": seconds / number,
    }


def run_size(whole: float, sampled: float, short: float, keep: int, samples: int) -> float:
    """GB of 250 steps x 512 episodes, of which `samples` a step have their tokens."""
    step = EPISODES * whole + samples * (sampled - whole)
    kept = min(keep or STEPS, STEPS)
    return (kept * step + (STEPS - kept) * EPISODES * short) / 1e9


def corpus(name: str, texts: Iterator[Text], pool: Sequence[float], count: int) -> dict[str, Any]:
    """Print the table of one corpus; its figures."""
    from transformers import AutoTokenizer

    from aem_gym.agents.smollm2 import smollm2_folder

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    draw = random.Random(0)

    def encode(text: str) -> Any:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    made = [episode(texts, encode, pool, draw) for _ in range(count)]
    turns = sum(len(each.turns) for each in made) / count
    figures = {
        "turns": turns,
        "sampled": sum(len(t.response_ids) for e in made for t in e.turns) / count,
        "read": sum(len(t.prompt_ids) for e in made for t in e.turns) / count,
        "text": sizes(made, tokens=False, draw=draw),
        "tokens": sizes(made, tokens=True, draw=draw),
    }
    text, all_ = figures["text"], figures["tokens"]
    print(f"{name}: {turns:.0f} turns, {figures['read']:.0f} tokens read, "
          f"{figures['sampled']:.0f} sampled")  # fmt: skip
    for kind, found in (("text", text), ("with tokens", all_)):
        shown = ", ".join(f"{key} {value / 1e3:.1f} KB" for key, value in found.items() if key != "seconds")
        print(f"  {kind:12} {shown}; {found['seconds'] * EPISODES:.1f} s a step to compress")
    for samples in (2, EPISODES):
        for keep in (0, 20):
            plain = run_size(text["plain"], all_["plain"], text["pruned"], keep, samples)
            small = run_size(text["gzip"], all_["gzip"], text["pruned_gzip"], keep, samples)
            print(f"  token_samples {samples:3}, keep_episodes {keep:2}: {plain:7.1f} GB plain, {small:6.2f} GB gzip")
            figures[f"gb_samples{samples}_keep{keep}"] = {"plain": round(plain, 2), "gzip": round(small, 2)}
    return figures


def default_run(folder: Path) -> Path:
    """A run of two steps of the default job, all tokens kept."""
    from aem_gym.training.loop import train

    small = {"steps": 2, "eval_every": 0, "token_samples": "all", "loggers": []}
    train(out=str(folder / "run"), **small)
    return folder / "run"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=Path, help="a run whose episodes are taken")
    parser.add_argument("--episodes", type=int, default=16, help="to make of each kind")
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        run = arguments.run or default_run(Path(folder))
        pool = [
            value
            for record in read_episodes(run)
            for turn in record["turns"]
            for value in turn.get("entropies", ())
        ]
        found = {
            name: corpus(name, texts, pool, arguments.episodes)
            for name, texts in (("recorded", recorded(run)), ("code", code(random.Random(1))))
        }
    print(json.dumps({"benchmark": "size", **found}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
