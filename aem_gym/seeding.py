"""Randomness by name, not by order of use.

Every draw is keyed by what it is for (run seed, task, rollout, turn), so it is the same whatever
the batching, the number of workers, or where a run was interrupted and resumed.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def derive(*path: int | str) -> int:
    """A 63-bit seed for the stream named by `path`, e.g. `derive(run_seed, "lora")`."""
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in path)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def generator(*path: int | str) -> np.random.Generator:
    """A NumPy generator for the stream named by `path`."""
    return np.random.default_rng(derive(*path))


def uniforms(keys: NDArray[np.uint64], counter: int) -> NDArray[np.float64]:
    """The `counter`-th uniform number (from 0) in [0, 1) of each 64-bit stream in `keys`, (N,)."""
    # SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), read at a position.
    with np.errstate(over="ignore"):
        z = keys.astype(np.uint64) + np.uint64(counter + 1) * _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53
