"""Log-probability and entropy of a large vocabulary, forward and backward, when the driver asks.

    python kernel.py [CHUNK]

In the tree that is first on the path; CHUNK: rows of logits at a time (default: the learner's).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import signals

TOKENS, WIDTH, VOCABULARY = 2048, 896, 151_936
"""As in Qwen2.5-0.5B."""
PLACES = ("aem_gym.logprobs", "aem_gym.credit.entropy")


def kernel() -> Any:
    for place in PLACES:
        try:
            return importlib.import_module(place).linear_logprob_and_entropy
        except (ImportError, AttributeError):
            continue
    raise SystemExit(f"the function is in none of {PLACES}: add its place to {__file__}")


def main() -> None:
    told = signals.Told()
    import torch

    torch.set_num_threads(1)
    function = kernel()
    learner = importlib.import_module("aem_gym.agents.learner") if len(sys.argv) == 1 else None
    chunk = int(sys.argv[1]) if learner is None else learner.CHUNK
    draws = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=draws)
    weight = torch.randn(VOCABULARY, WIDTH, generator=draws).mul_(WIDTH**-0.5)
    targets = torch.randint(VOCABULARY, (TOKENS,), generator=draws)
    told.imported()  # the inputs are there in any case

    def work() -> dict[str, Any]:
        given = hidden.detach().requires_grad_()
        logp, entropy = function(given, weight, None, targets, 1.0, chunk)
        (-logp.mean()).backward()
        return {"check": float(entropy.mean()), "chunk": chunk}

    told.loop(work)


if __name__ == "__main__":
    main()
