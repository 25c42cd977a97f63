"""A training step of verl on its real types, for test_verl.py; runs where verl is installed.

Real: verl's trainer with ours mixed in, its dataloader, agent-loop workers, post-processing,
TransferQueue, replay buffer, padding and estimator. Stood in for, as verl's own need GPUs: the
server (the tiny policy, in the agent loop's process) and the actor (a forward pass of the model).
Prints one line of JSON: what the queue held at the end, and what our own collector and credit give.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

MODULE = "aem_gym.integrations.verl"
os.environ |= {"VERL_USE_EXTERNAL_MODULES": MODULE, "RAY_AUTH_MODE": "disabled"}
TASKS, ROLLOUTS = 3, 4


class TinyServer:
    """The method `generate` of verl's LLMServerClient, on the policy of a folder."""

    def __init__(self, folder: str, fails: int | None) -> None:
        self.folder, self.policy, self.calls, self.fails = folder, None, 0, fails

    async def generate(
        self,
        request_id: str,
        *,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        **_: Any,
    ) -> Any:
        import asyncio

        from verl.workers.rollout.replica import TokenOutput

        from aem_gym.protocols import GenerationRequest

        if sampling_params["seed"] == self.fails:
            raise RuntimeError("this server is broken")
        if self.policy is None:
            self.policy = agent_of(self.folder, {}).policy
        self.calls += 1
        slot, key = self.calls, sampling_params["seed"]
        await asyncio.sleep(0.001 * (key % 7))  # answers come in another order than requests
        limits = (sampling_params["temperature"], sampling_params["max_tokens"])
        made = self.policy.generate([GenerationRequest(slot, tuple(prompt_ids), key, *limits)])[0]
        self.policy.release(slot)
        versions = dict.fromkeys(("global_steps", "min_global_steps", "max_global_steps"), 0)
        return TokenOutput(
            token_ids=list(made.ids),
            log_probs=list(made.logprobs),
            stop_reason="completed",
            extra_fields=versions,
        )


class Actor:
    """Verl's actor worker group, as far as a step asks it: scores by plain forward passes."""

    def __init__(self, folder: str) -> None:
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(folder)
        self._dispatch_info = {"actor": [0]}
        self.updates = 0

    def compute_log_prob(self, batch: Any) -> Any:
        import torch
        import transfer_queue as tq
        from tensordict import TensorDict

        place = {"keys": batch.keys, "partition_id": batch.partition_id}
        data = tq.kv_batch_get(**place, select_fields=["input_ids"])
        scores: dict[str, list[Any]] = {"log_probs": [], "entropy": []}
        with torch.no_grad():
            for ids in data["input_ids"].unbind():
                logits = self.model(input_ids=ids[None]).logits[0].float()
                logp = torch.log_softmax(logits / batch.extra_info["temperature"], -1)
                following = torch.cat([ids[1:], ids[:1]])  # position t scores token t + 1
                scores["log_probs"].append(logp.gather(-1, following[:, None])[:, 0])
                scores["entropy"].append(-(logp.exp() * logp).sum(-1))
        nested = {
            name: torch.nested.as_nested_tensor(each, layout=torch.jagged)
            for name, each in scores.items()
        }
        tq.kv_batch_put(**place, fields=TensorDict(nested, batch_size=len(batch)))
        return batch

    def update_actor(self, batch: Any) -> dict[str, Any]:
        self.updates += 1
        return {"metrics": {"mfu": 0.0}}


def config_of(folder: str, settings: Mapping[str, Any]) -> Any:
    """The recipe of examples/verl with the tiny policy."""
    from pathlib import Path

    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf, open_dict

    examples = Path(__file__).resolve().parents[2] / "examples" / "verl"
    changes = [
        f"actor_rollout_ref.model.path={folder}",
        "actor_rollout_ref.model.use_remove_padding=false",
        "actor_rollout_ref.rollout.full_determinism=true",  # a seed for each response
        f"actor_rollout_ref.rollout.n={ROLLOUTS}",
        "actor_rollout_ref.rollout.agent.num_workers=2",
        # Twelve episodes are no multiple of 20 rows, so verl pads its batch.
        "actor_rollout_ref.actor.ppo_mini_batch_size=5",
        "actor_rollout_ref.actor.use_kl_loss=false",
        f"data.train_files=train:{TASKS}",
        "data.val_files=eval:2",
        f"data.train_batch_size={TASKS}",
        "data.max_prompt_length=1024",
        "data.max_response_length=1024",
        "transfer_queue.enable=true",
        "transfer_queue.backend.SimpleStorage.num_data_storage_units=2",
        "trainer.n_gpus_per_node=1",
        "trainer.nnodes=1",
    ]
    with initialize_config_dir(str(examples), version_base=None):
        config = compose("alfworld", overrides=changes)
    with open_dict(config):
        config.aem_gym = {**settings, "model": "${actor_rollout_ref.model.path}"}
    OmegaConf.resolve(config)
    return config


def agent_of(folder: str, settings: Mapping[str, Any]) -> Any:
    """Our own agent on the model in the folder."""
    from aem_gym.agents.build import open_agent
    from aem_gym.rollout.pool import open_pool
    from aem_gym.settings import settle
    from aem_gym.training.setup import choose_template

    given = {"env": "aem_gym/ALFWorld-v0", **settings, "max_length": 2048, "device": "cpu"}
    config = settle({**given, "model": folder}).config
    with open_pool(config, config.train_split) as pool:
        template = choose_template(config, pool.describe())
    return open_agent(config, template, folder, adapter=False)


def key_of(config: Any, task: int, rollout: int) -> int:
    """The key that the agent loop gives an episode of the first step."""
    from aem_gym.seeding import derive

    return derive(config.seed, "verl", 1, task, rollout)


def verls_step(folder: str, settings: Mapping[str, Any], fails: bool) -> dict[str, Any]:
    """One step of verl's trainer, and a validation.

    `fails`: the server fails at turn 2 of rollout 1 of the first task.
    """
    import transfer_queue as tq
    from verl.trainer.ppo.v1 import AgentLoopManagerTQ, get_trainer_cls

    from aem_gym.seeding import derive

    config = config_of(folder, settings)
    tq.init(config.transfer_queue)
    trainer = get_trainer_cls(config.trainer.v1.trainer_mode)(config=config)
    trainer._init_tokenizer()
    trainer._init_dataloader()
    first = key_of(trainer.aem_gym, trainer.train_dataset[0]["index"], 1)
    server = TinyServer(folder, derive(first, 2) if fails else None)
    trainer.actor_rollout_wg = Actor(folder)
    trainer.reward_loop_manager = SimpleNamespace(reward_loop_worker_handles=())
    trainer.checkpoint_manager = SimpleNamespace(sleep_replicas=lambda: None)
    trainer.curr_step_profile, trainer.global_steps = False, 1
    trainer.agent_loop_manager = AgentLoopManagerTQ.create(
        config=config, llm_client=server, reward_loop_worker_handles=None
    )
    metrics: dict[str, Any] = {}
    batch = trainer.step(metrics, {})
    names = ["uid", "prompts", "responses", "response_mask", "advantages", "rm_scores", "index"]
    data = tq.kv_batch_get(
        keys=batch.keys,
        partition_id=batch.partition_id,
        select_fields=[*names, "extra_fields", "rollout_log_probs", "old_log_probs", "entropy"],
    )
    rows = []
    for number, (key, tag) in enumerate(zip(batch.keys, batch.tags, strict=True)):
        row = {"key": key, "padding": bool(tag.get("is_padding", False))}
        for name in (*names[1:-1], "rollout_log_probs", "old_log_probs", "entropy"):
            row[name] = data[name][number].tolist()
        row["index"] = int(list(data["index"])[number])
        row["notes"] = list(data["extra_fields"])[number]["aem_gym"]
        rows.append(row)
    figures = {name: float(value) for name, value in metrics.items() if name.startswith("aem/")}
    figures["difference"] = float(metrics["training/rollout_probs_diff_max"])
    validation = {name: float(value) for name, value in trainer._validate().items()}
    updates = trainer.actor_rollout_wg.updates
    tq.close()
    return {"rows": rows, "metrics": figures, "validation": validation, "updates": updates}


def scored_by_verl(episode: Any, rows: list[dict[str, Any]]) -> Any:
    """The episode with the log-probabilities and entropies in verl's queue, not the sampler's."""
    from dataclasses import replace

    turns = list(episode.turns)
    for row in rows:
        mine = row["index"] == episode.seed and int(row["key"].split("_")[1]) == episode.rollout
        if mine and not row["padding"]:
            for turn, (start, end) in zip(
                row["notes"]["turns"], row["notes"]["spans"], strict=True
            ):
                logprobs, entropies = row["old_log_probs"][start:end], row["entropy"][start:end]
                scores = {"logprobs": tuple(logprobs), "entropies": tuple(entropies)}
                turns[turn] = replace(turns[turn], **scores)
    return replace(episode, turns=tuple(turns))


def our_step(
    folder: str, settings: Mapping[str, Any], rows: list[dict[str, Any]], fails: bool
) -> dict[str, Any]:
    """The same episodes by our own collector, and our own credit for them."""
    from dataclasses import replace

    from aem_gym.integrations.verl_episodes import task_rows
    from aem_gym.rollout.collector import Collector, CollectorSettings, RolloutRequest, grouped
    from aem_gym.rollout.pool import open_pool
    from aem_gym.settings import settle
    from aem_gym.training.credit import CreditRule, Rewards, make_batch

    config = settle({**settings, "model": folder}).config
    agent = agent_of(folder, settings)
    seeds = [row["index"] for row in task_rows(f"train:{TASKS}", config)]
    requests = [
        RolloutRequest(seed, r, key_of(config, seed, r)) for seed in seeds for r in range(ROLLOUTS)
    ]
    with open_pool(config, config.train_split) as pool:
        collector = Collector(pool, agent, CollectorSettings(agent.template, config.context))
        episodes = collector.run(requests)
    if fails:
        episodes[1] = replace(episodes[1], error="failed")
    groups = grouped(episodes, ROLLOUTS)
    rewards, rule = Rewards.of(config, agent.template), CreditRule.of(config)
    made = make_batch(groups, rewards)
    scored = make_batch(
        [replace(g, episodes=tuple(scored_by_verl(e, rows) for e in g.episodes)) for g in groups],
        rewards,
    )
    assert made is not None and scored is not None
    credit, ours = rule.assign(scored.batch, 1), rule.assign(made.batch, 1).modulated
    responses = []
    for number in range(len(made.batch.returns)):
        episode = made.episodes[int(made.batch.trajectory_ids[number])]
        turn = episode.turns[int(made.batch.turns[number])]
        responses.append(
            {
                "task": episode.seed,
                "rollout": episode.rollout,
                "turn": int(made.batch.turns[number]),
                "prompt": turn.prompt_ids,
                "ids": turn.response_ids,
                "logprobs": turn.logprobs,
                "return": float(made.batch.returns[number]),
                "base": float(credit.base[number]),
                "alpha": float(credit.modulated.alpha[number]),
                "advantage": float(credit.modulated.advantages[number, 0]),
                "by_the_sampler": float(ours.advantages[number, 0]),
            }
        )
    return {"responses": responses}


def main() -> None:
    import ray

    folder, settings, fails = sys.argv[1], json.loads(sys.argv[2]), "fails" in sys.argv[3:]
    passed = {name: os.environ[name] for name in ("PYTHONPATH", "VERL_USE_EXTERNAL_MODULES")}
    # TransferQueue needs more workers than two cores would allow, and waits for ever without.
    here = {"address": "local", "include_dashboard": False}  # never a cluster that runs already
    ray.init(num_cpus=8, runtime_env={"env_vars": passed}, **here)
    try:
        verl = verls_step(folder, settings, fails)
        answer = {"verl": verl, "ours": our_step(folder, settings, verl["rows"], fails)}
    finally:
        ray.shutdown()
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
