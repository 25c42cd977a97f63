"""A real vLLM server against the policy in this process, and everything that must be caught.

`make test-engines` makes the environment that AEM_VLLM_PYTHON names, and runs this.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import urllib3

from aem_gym.agents.vllm_client import VLLMClient
from aem_gym.agents.vllm_server import VLLMServer
from aem_gym.concurrency import run_async
from aem_gym.errors import ConfigError, InfrastructureError, SamplerMismatchError
from aem_gym.protocols import GenerationRequest
from aem_gym.rollout.collector import Collector, CollectorSettings, requests_for
from aem_gym.rollout.pool import EnvPool
from aem_gym.training.credit import Rewards, make_batch
from aem_gym.training.update import Updater
from aem_gym.types import Episode
from tests.tiny import ENV, Tiny
from tests.training.processes import finish, torchrun
from tests.training.runs import GUESS, flags, lines, run, train_process

PYTHON = os.environ.get("AEM_VLLM_PYTHON", "")
pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not PYTHON, reason="needs vLLM: make test-engines"),
]
ENVIRON = {"VLLM_CPU_KVCACHE_SPACE": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
Play = Callable[[Any], list[Episode]]


@pytest.fixture(scope="module")
def play(tiny: Tiny) -> Iterator[Play]:
    """Plays the same 16 episodes with any agent."""
    settings = CollectorSettings(tiny.template, "transcript", 6)
    with EnvPool(ENV) as pool:
        yield lambda agent: Collector(pool, agent, settings).run(requests_for(range(4), 4, "t"))


def options(log: Path, **more: Any) -> dict[str, Any]:
    return {"python": PYTHON, "env": ENVIRON, "log": str(log / "server.log"), **more}


@pytest.fixture(scope="module", params=[True, False], ids=["merged", "adapters"])
def served(
    request: pytest.FixtureRequest, tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    """An agent on a server of its own, as a run has it: with merged weights, and with adapters."""
    folder = tmp_path_factory.mktemp("vllm")
    given = options(folder, merge=request.param)
    agent = tiny.agent(sampler="vllm", sampler_options=given)
    yield agent
    agent.policy.close()


def test_with_the_plug_in_the_tokens_are_those_of_this_process(
    tiny: Tiny, play: Play, tmp_path: Path
) -> None:
    here = play(tiny.agent())
    agent: Any = tiny.agent(sampler="vllm", sampler_options=options(tmp_path, keyed=True))
    try:
        there = play(agent)
    finally:
        agent.policy.close()
    assert [e.error for e in there] == [None] * 16
    for one, other in zip(here, there, strict=True):
        assert [t.response_ids for t in one.turns] == [t.response_ids for t in other.turns]
        for first, second in zip(one.turns, other.turns, strict=True):
            assert np.allclose(first.logprobs, second.logprobs, rtol=0, atol=1e-5)
            assert first.cut == second.cut


def test_dapo_keeps_the_same_groups(tmp_path: Path) -> None:
    """With the plug-in, a whole first step: the same tasks, tokens, fates and figures."""
    changes = {**GUESS, "estimator": "dapo", "max_rounds": 5, "eval_every": 0, "steps": 1}
    run(tmp_path / "here", **changes)
    there = options(tmp_path, keyed=True)
    run(tmp_path / "there", sampler="vllm", sampler_options=there, **changes)
    ours, theirs = (lines(tmp_path / name / "episodes.jsonl") for name in ("here", "there"))
    assert len({e["dropped"] for e in ours}) == 2
    for key in ("task_id", "reward", "dropped", "group"):
        assert [e[key] for e in ours] == [e[key] for e in theirs]
    texts = ([t["response"] for e in each for t in e["turns"]] for each in (ours, theirs))
    assert next(texts) == next(texts)
    figures = [lines(tmp_path / name / "metrics.jsonl")[0] for name in ("here", "there")]
    for key in ("loss", "grad_norm", "alpha_mean", "alpha_min", "alpha_max"):
        assert figures[0][key] == pytest.approx(figures[1][key], rel=1e-4, abs=1e-5), key


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_its_log_probabilities_are_the_learners(
    tiny: Tiny, served: Any, temperature: float
) -> None:
    """Also at another temperature, and again under the next version of the adapter."""
    for _ in range(2):
        groups = tiny.groups(served, temperature=temperature)
        batch = make_batch(groups, Rewards.of(tiny.config, tiny.template))
        assert batch is not None
        config = tiny.changed(temperature=temperature)
        scores, figures = Updater(served.learner, config, exact=False).compare(batch)
        assert figures["mismatch/max"] < 1e-5
        assert float(scores.entropies.max()) > 0.1
        moved(served)


def moved(agent: Any, factor: float = -1.0) -> None:
    """Change the adapter, and publish it."""
    for name, weight in agent.learner.parameters().items():
        if "lora_B" in name:
            weight.data.mul_(factor)
    agent.policy.publish(agent.learner)


def test_a_draw_depends_on_its_key_and_ends_where_it_has_to(served: Any) -> None:
    policy = served.policy
    ids = tuple(range(5, 25))
    requests = [GenerationRequest(slot, ids, key, 1.0, 7) for slot, key in enumerate((3, 3, 4, 5))]
    made = [run_async(policy.sample(request)) for request in requests]
    assert made[0] == made[1] and len({m.ids for m in made}) > 1
    ends = set(policy.end_ids)
    for each in made:
        assert len(each.ids) <= 7 and not ends & set(each.ids[:-1])
        assert each.cut == (each.ids[-1] not in ends) and not each.entropies


def test_earlier_versions_are_sampled_while_newer_ones_come(tiny: Tiny, served: Any) -> None:
    """Each response is wholly of one version, also where two are wanted at the same time."""
    first = served.policy.publish(served.learner)
    at = {first: scores(served)}
    moved(served, -2.0)
    at[served.policy.version] = scores(served)

    async def both() -> list[tuple[int, Any]]:
        async def one(version: int, slot: int) -> tuple[int, Any]:
            served.policy.pin(version)
            return version, await served.policy.sample(GenerationRequest(slot, IDS, slot, 1.0, 9))

        return await asyncio.gather(*(one(v, n) for n in range(8) for v in at))

    apart = 0.0
    for version, made in run_async(both()):
        apart = max(apart, abs(made.logprobs[0] - at[version][made.ids[0]]))
    served.policy.pin(None)
    assert apart < 1e-5
    assert float((at[first] - at[served.policy.version]).abs().max()) > 1e-2
    moved(served, -0.5)


IDS = tuple(range(5, 45))


def scores(agent: Any) -> torch.Tensor:
    """Log-probabilities of all tokens after IDS, by the learner as it is now."""
    with torch.no_grad():
        logits = agent.learner.peft_model(input_ids=torch.tensor([IDS])).logits[0, -1]
    return torch.log_softmax(logits.float(), -1)


def test_many_long_prompts_at_once(served: Any) -> None:
    """More than a server reads at a time: prompts in parts would end it, as they have a seed."""
    policy = served.policy
    assert policy.settings.max_length >= 900
    prompts = [tuple(5 + (n + i) % 90 for i in range(880)) for n in range(24)]

    async def all_of_them() -> list[Any]:
        wanted = (GenerationRequest(n, ids, n + 1, 1.0, 3) for n, ids in enumerate(prompts))
        return await asyncio.gather(*map(policy.sample, wanted))

    assert all(made.ids for made in run_async(all_of_them()))


# What must be caught -----------------------------------------------------------------------------


def test_a_version_that_is_used_again_is_caught(tiny: Tiny, served: Any) -> None:
    """The server goes on with the old weights: the comparison of a step stops the run."""
    served.policy.publish(served.learner)
    groups = tiny.groups(served)
    served.policy.publish = lambda learner: 0  # what a lost or repeated name comes to
    try:
        moved(served, -4.0)
        groups = tiny.groups(served)
    finally:
        del served.policy.publish
    batch = make_batch(groups, Rewards.of(tiny.config, tiny.template))
    assert batch is not None
    with pytest.raises(SamplerMismatchError, match="disagree"):
        Updater(served.learner, tiny.config, exact=False).compare(batch)
    moved(served, -0.25)


def test_prefixes_that_are_not_kept_apart_are_seen(tiny: Tiny, tmp_path: Path) -> None:
    """Merged weights have no name: only the salt tells whose prefix it is. Without, what
    `test_its_log_probabilities_are_the_learners` measures is off by far more than it allows."""
    agent: Any = tiny.agent(sampler="vllm", sampler_options=options(tmp_path, merge=True))
    ask = VLLMClient.complete

    def unsalted(client: Any, body: dict[str, Any], adapter: Path | None = None) -> Any:
        return ask(client, {k: v for k, v in body.items() if k != "cache_salt"}, adapter)

    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(VLLMClient, "complete", unsalted)
            tiny.groups(agent)
            moved(agent, -4.0)
            groups = tiny.groups(agent)
    finally:
        agent.policy.close()
    batch = make_batch(groups, Rewards.of(tiny.config, tiny.template))
    assert batch is not None
    _, figures = Updater(agent.learner, tiny.config, exact=False).compare(batch)
    assert figures["mismatch/max"] > 1e-2


@pytest.fixture(scope="module")
def elsewhere(
    tiny: Tiny, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., VLLMServer]]:
    """Starts servers as an operator would, with any arguments."""
    started: list[VLLMServer] = []

    def start(**arguments: Any) -> VLLMServer:
        known = {"model": str(tiny.folder), "served_model_name": "anything", "dtype": "float32"}
        known |= {"enforce_eager": True, "block_size": 32, "max_model_len": 1024}
        known |= {"enable_lora": True, "max_lora_rank": 16, "max_loras": 2}
        log = tmp_path_factory.mktemp("server") / "log"
        server = VLLMServer(PYTHON, known | arguments, ENVIRON, log)
        started.append(server)
        for _ in range(600):
            server.check()
            try:
                if urllib3.request("GET", f"{server.url}/health").status == 200:
                    break
            except urllib3.exceptions.HTTPError:
                time.sleep(0.5)
        return server

    yield start
    for server in started:
        server.close()


def on(tiny: Tiny, server: VLLMServer, folder: Path, **more: Any) -> Any:
    given = {"urls": server.url, "adapters": str(folder), **more}
    return tiny.agent(sampler="vllm", sampler_options=given)


def test_servers_elsewhere(
    tiny: Tiny,
    elsewhere: Callable[..., VLLMServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong key, raw log-probabilities, the model's own generation config; then a right one."""
    raw = elsewhere()  # raw log-probabilities are vLLM's default, and the model's config too
    monkeypatch.setenv("VLLM_API_KEY", "wrong")
    with pytest.raises(ConfigError, match="refuses our API key.*VLLM_API_KEY"):
        on(tiny, raw, tmp_path)
    monkeypatch.setenv("VLLM_API_KEY", raw.key)
    with pytest.raises(ConfigError, match="--logprobs-mode processed_logprobs"):
        on(tiny, raw, tmp_path)
    raw.close()
    monkeypatch.setenv("VLLM_API_KEY", raw.key)
    with pytest.raises(ConfigError, match="does not answer"):
        on(tiny, raw, tmp_path)


def test_the_models_own_generation_config_changes_nothing(
    tiny: Tiny,
    elsewhere: Callable[..., VLLMServer],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server elsewhere obeys it unless each request says otherwise, as ours do."""
    model = tmp_path / "model"
    shutil.copytree(tiny.folder, model)
    narrow = {"top_k": 2, "top_p": 0.5, "repetition_penalty": 1.5, "temperature": 0.3}
    (model / "generation_config.json").write_text(json.dumps(narrow))
    server = elsewhere(model=str(model), logprobs_mode="processed_logprobs")
    monkeypatch.setenv("VLLM_API_KEY", server.key)
    agent = on(tiny, server, tmp_path / "adapters")
    batch = make_batch(tiny.groups(agent), Rewards.of(tiny.config, tiny.template))
    assert batch is not None
    _, figures = Updater(agent.learner, tiny.config, exact=False).compare(batch)
    assert figures["mismatch/max"] < 1e-5
    agent.policy.close()
    assert not list((tmp_path / "adapters").iterdir())


def test_processes_that_share_a_server_publish_once(
    elsewhere: Callable[..., VLLMServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"adapters": str(tmp_path / "adapters")}
    changes: dict[str, Any] = {**GUESS, "steps": 2, "eval_every": 0, "sampler": "vllm"}
    run(tmp_path / "one", **{**changes, "sampler": "hf", "steps": 0})  # makes the model
    model = tmp_path / "one" / "model"
    server = elsewhere(model=str(model), logprobs_mode="processed_logprobs")
    monkeypatch.setenv("VLLM_API_KEY", server.key)
    given["urls"] = server.url
    finish(torchrun(2, "train.py", *flags(tmp_path / "run", **changes, sampler_options=given)))
    figures = lines(tmp_path / "run" / "metrics.jsonl")
    assert [m["step"] for m in figures] == [1, 2]
    assert max(m["mismatch/max"] for m in figures) < 1e-4
    log = server.log.read_text()
    loaded = re.findall(r"Loaded new LoRA adapter: name '([^']+)'", log)
    assert len(loaded) == len(set(loaded)) == 3 and len({n.rpartition("-")[0] for n in loaded}) == 1
    assert not list((tmp_path / "adapters").iterdir())


def test_a_server_that_dies_is_infrastructure_and_leaves_nothing(
    tiny: Tiny, play: Play, tmp_path: Path
) -> None:
    agent: Any = tiny.agent(sampler="vllm", sampler_options=options(tmp_path))
    assert play(agent)[0].error is None
    group = [int(pid) for pid in children(agent.policy._own._keeper.pid)]
    os.kill(group[0], signal.SIGKILL)
    episodes = play(agent)
    assert {e.stop_reason.value for e in episodes} == {"infrastructure"}
    assert all("vLLM server" in str(e.error) or "answer" in str(e.error) for e in episodes)
    agent.policy.close()
    assert not [pid for pid in group if Path(f"/proc/{pid}").exists()]
    with pytest.raises(InfrastructureError):
        agent.policy._own.check()


def children(pid: int) -> list[str]:
    """Processes below one, nearest first."""
    found: list[str] = []
    for each in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in each.read_text().split():
            found += [child, *children(int(child))]
    return found


def test_a_run_whose_server_dies_can_be_resumed(tmp_path: Path) -> None:
    """It says so and ends, saved and with nothing left running; the same command goes on."""
    changes = {"sampler": "vllm", "sampler_options": options(tmp_path), "eval_every": 0}
    changes |= {"max_staleness": 1, "steps": 6, "breaker_wait": 0.1}
    out = tmp_path / "run"
    process = train_process(flags(out, **changes))
    for _ in range(6000):
        if (out / "checkpoints" / "step-000002").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    below = [int(pid) for pid in children(process.pid)]
    served = [
        pid for pid in below if b"api_server" in command(pid) and b"vllm_server" not in command(pid)
    ]
    os.kill(served[0], signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 2 and "--resume" in err, err
    assert "vLLM server has ended" in lines(out / "episodes.jsonl")[-1]["error"]
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
    process = train_process([*flags(out, **changes), "--resume"])
    stdout, err = process.communicate(timeout=600)
    assert process.returncode == 0 and '"steps": 6' in stdout, err
    metrics = lines(out / "metrics.jsonl")
    assert [m["step"] for m in metrics] == [1, 2, 3, 4, 5, 6]
    assert max(m.get("mismatch/max", 0.0) for m in metrics) < 1e-4


def command(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def test_nothing_runs_on_when_the_trainer_is_killed(tiny: Tiny, tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\n"
        "from aem_gym.agents.vllm_server import VLLMServer\n"
        "VLLMServer(sys.argv[1], {'model': sys.argv[2]}, {}, Path(sys.argv[3]))\n"
        "print('started', flush=True)\ntime.sleep(600)"
    )
    command = [sys.executable, "-c", code, PYTHON, str(tiny.folder), str(tmp_path / "log")]
    trainer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert trainer.stdout is not None and trainer.stdout.readline() == "started\n"
    time.sleep(3)
    below = children(trainer.pid)
    assert len(below) >= 2
    trainer.kill()
    trainer.wait()
    trainer.stdout.close()
    for _ in range(600):
        if not any(Path(f"/proc/{pid}").exists() for pid in below):
            break
        time.sleep(0.1)
    assert not [pid for pid in below if Path(f"/proc/{pid}").exists()]
