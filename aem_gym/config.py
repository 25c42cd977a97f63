"""All settings of a run: their meaning, type, range and built-in default.

A `Config` holds what was given; everything else is `UNSET` until `aem_gym.settings.settle` merges
the layers: built-in < environment < model < environment x model < estimator < file < flags.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_type_hints

from aem_gym.errors import ConfigError
from aem_gym.options import RULES

Options: TypeAlias = dict[str, Any]
"""Settings handed on to one component: YAML values by name."""
LARGEST_SEED = 2**63 - 1


class _Unset(Enum):
    UNSET = "unset"

    def __repr__(self) -> str:
        return "unset"


UNSET: Any = _Unset.UNSET
"""The value of a setting that nobody has given."""


def setting(default: Any, **bounds: float) -> Any:
    """A field of Config.

    Args:
        default: the built-in value, for settings that no other layer sets.
        bounds: `at_least`, `above`, `at_most` or `below`, for numbers.
    """
    return field(default=UNSET, metadata={"default": default, "bounds": bounds})


@dataclass(frozen=True, repr=False)
class Config:
    """All settings of one training run: keys of the YAML file, flags of train.py."""

    # --- task -------------------------------------------------------------------------------
    env: str = setting(None)
    """Gymnasium id of the environment, `module:Class`, or `module:Id`, which imports the module
    first. An environment suggests settings of its own, which hold where none is given;
    `--dry-run --explain` shows where each value came from. Unset: generated household tasks."""
    env_args: Options = setting({})
    """Keyword arguments of the environment."""
    train_split: str = setting("train")
    """Split of the training tasks; passed as `split` if the environment takes one."""
    eval_split: str = setting("valid_unseen")
    """Split of the evaluation tasks; passed as `split` if the environment takes one."""
    prompt_template: str = setting("auto")
    """How the environment is shown to the agent: a prompt template of the environment by name, or
    auto: the one that suits the model and the context."""
    reward_scale: float | None = setting(None, above=0)
    """Factor on the environment's reward in training; unset: the prompt template's."""

    # --- agent ------------------------------------------------------------------------------
    model: str = setting(None)
    """A registered model (tiny, smollm2), a Hugging Face id, or a folder. Unset: tiny, a small
    policy that is made on the spot."""
    model_options: Options = setting({})
    """Options of the model: sizes of tiny, or arguments of `from_pretrained`."""
    sampler: str = setting("hf")
    """What samples responses, by name: hf (transformers, in this process), vllm (a server that is
    started and ended with the run, or those of sampler_url), or your own."""
    sampler_url: list[str] = setting([])
    """Servers that run already (http://HOST:PORT), for the sampler vllm. Each episode stays with
    one of them."""
    sampler_options: Options = setting({})
    """Options of the sampler."""
    learner: str = setting("hf")
    """What holds the weights and trains them, by name: hf (transformers and PEFT), or your own."""
    context: Literal["transcript", "window"] = setting("transcript")
    """transcript: one growing token sequence per episode; window: one prompt per turn."""
    response_format: str = setting("auto")
    """How a response is written, by name: tags, published, short, plain, react, think_line, bash,
    tool_call, xml_function, or your own; auto: the prompt template's."""
    invalid_feedback: str | None = setting(None)
    """Shown in place of the observation after an invalid action, with the fields {observation} and
    {admissible}; empty: the observation alone; unset: the prompt template's."""
    chat_template_kwargs: Options = setting({})
    """Variables of the model's chat template, such as enable_thinking, reasoning_effort or
    date_string. Unset: enable_thinking is true where the response format writes <think> tags."""
    history: int | None = setting(None, at_least=0)
    """Past turns shown in the window context; unset: the prompt template's."""
    max_turns: int | None = setting(None, at_least=1)
    """Turn limit of an episode; unset: the smaller one of the prompt template and the environment.
    It is passed to environments that take such an argument; others may only be cut shorter."""
    max_length: int = setting(2048, at_least=1)
    """Most tokens of a transcript, or of one window prompt with its response."""
    context_limit: Literal["stop", "compact"] = setting("stop")
    """What happens to an episode whose transcript is full: it ends (stop), or goes on with its
    first turn and the latest ones, in a training row of its own (compact)."""
    max_new_tokens: int = setting(256, at_least=1)
    """Most tokens of one response; a last one gets what is left of max_length."""
    temperature: float = setting(1.0, above=0)
    """Sampling temperature in training; log-probabilities and entropies are taken at it."""
    lora_rank: int = setting(16, at_least=1)
    """Rank of the LoRA adapter."""
    lora_alpha: float = setting(32.0, above=0)
    """Scale of the LoRA adapter: its update is multiplied by lora_alpha / lora_rank."""
    lora_dropout: float = setting(0.0, at_least=0, below=1)
    """Dropout inside the adapter. Above 0, sampler and learner differ by it."""
    lora_targets: str | list[str] = setting("all-linear")
    """Names of the layers that get an adapter, or all-linear."""
    adapter: str | None = setting(None)
    """An adapter that RL starts from: a folder in PEFT format, or a run. Its base model, rank,
    alpha and layers have to be those of the run; the KL term compares with it."""

    # --- warm start -------------------------------------------------------------------------
    warmstart: Literal["auto", "none", "expert", "random"] = setting("auto")
    """Cloning before RL: from the expert, from the best random rollouts, or none. auto: a model
    made from scratch clones the expert if there is one, else random rollouts; others nothing."""
    warmstart_episodes: int = setting(4000, at_least=1)
    """Demonstrations to clone."""
    warmstart_steps: int = setting(600, at_least=0)
    """Optimizer steps of cloning."""
    warmstart_batch: int = setting(32, at_least=1)
    """Demonstrations per cloning step."""
    warmstart_noise: float = setting(0.08, at_least=0, at_most=1)
    """Share of random actions mixed into the demonstrations (fed, never imitated)."""
    warmstart_keep: Literal["won", "all"] = setting("won")
    """The expert's demonstrations to imitate: those that won, or all, as with people's."""
    warmstart_env_args: Options = setting({})
    """Arguments of the environment for the demonstrations only, over `env_args`."""
    warmstart_options: Options = setting({})
    """Further options of the warm start, such as its learning rates."""

    # --- credit -----------------------------------------------------------------------------
    estimator: str = setting("grpo")
    """Base advantage estimator, by name, or your own. It may suggest a loss, clipping and dynamic
    sampling."""
    estimator_options: Options = setting({})
    """Options of the estimator."""
    modulator: str = setting("aem")
    """What reshapes the advantages, by name: none, aem, empg, entropy_shaping, or your own."""
    modulator_options: Options = setting({})
    """Options of the modulator, for AEM: lam, threshold, scope, direction, ..."""
    loss: str = setting("auto")
    """Policy loss by name, or your own; auto: the estimator's."""
    loss_options: Options = setting({})
    """Options of the loss beyond the clipping below."""
    clip_low: float | None = setting(None, above=0, below=1)
    """Clip of the ratio below 1; unset: the estimator's."""
    clip_high: float | None = setting(None, above=0)
    """Clip of the ratio above 1; unset: the estimator's."""
    dual_clip: float | None = setting(None, above=1)
    """Bound (> 1) on the loss of negative advantages; unset: the estimator's."""
    kl_coef: float | None = setting(0.0, at_least=0)
    """Weight of the KL (k3) to the policy as RL started; null: the estimator's."""
    invalid_penalty: float = setting(0.1, at_least=0)
    """Subtracted from the advantage of each invalid response."""
    penalize: Literal["format", "inadmissible"] = setting("format")
    """Which responses are invalid: unparsable ones, or also actions that were not admitted."""
    overlong_buffer: int = setting(0, at_least=0)
    """Tokens before max_new_tokens over which the reward of a response falls, linearly, by
    overlong_penalty (DAPO's soft overlong punishment); 0: off."""
    overlong_penalty: float = setting(1.0, at_least=0)
    """What a response of max_new_tokens loses, in the environment's units of reward."""
    mask_truncated: bool = setting(False)
    """Leave episodes that hit a limit out of the loss. They stay in all group statistics, so that
    the others are compared with them."""
    drop_equal_groups: bool = setting(False)
    """Resample groups whose returns are all equal (dynamic sampling, as dapo suggests), or of which
    no episode would enter the loss."""
    max_rounds: int = setting(3, at_least=1)
    """Most tasks that a step plays while groups are dropped, in multiples of those it begins with.
    """
    oversample: float = setting(1.0, at_least=1)
    """Play so many times the groups of a step at once, and keep the first that are not dropped
    (2: DeepSWE's rejection sampling, with drop_equal_groups)."""
    max_staleness: int = setting(0, at_least=0)
    """Sample so many steps ahead while the learner works (needs the sampler vllm, or another that
    keeps versions). Log-probabilities and entropies come from the version that sampled."""

    # --- optimization -----------------------------------------------------------------------
    steps: int = setting(120, at_least=0)
    """RL steps. 0: warm start and evaluation only."""
    groups: int = setting(16, at_least=1)
    """Tasks per step."""
    group_size: int = setting(8, at_least=1)
    """Rollouts per task."""
    epochs: int = setting(1, at_least=1)
    """Passes over the batch of a step."""
    mini_batch: int | str = setting("1/2", at_least=1)
    """Training rows per optimizer update, or a share of the batch: 1/2 makes two updates a pass."""
    micro_batch: int = setting(8, at_least=1)
    """Maximum number of sequences in the learner's memory at once; changes results by rounding
    only."""
    micro_batch_tokens: int = setting(0, at_least=0)
    """Most tokens in the learner's memory at once, padding included, in place of micro_batch: many
    short sequences or few long ones; a longer one is there by itself. 0: micro_batch counts."""
    lr: float = setting(1e-5, above=0)
    """Peak learning rate (AdamW)."""
    value_lr: float | None = setting(None, above=0)
    """Peak learning rate of the value head (ppo); unset: lr."""
    value_clip: float = setting(0.2, at_least=0)
    """Most that a value may move from the one at sampling before its loss is clipped, in scaled
    return (ppo); 0: no clipping."""
    lr_warmup: int = setting(5, at_least=0)
    """RL steps over which the learning rate rises to its peak."""
    lr_schedule: Literal["constant", "linear", "cosine"] = setting("linear")
    """What the learning rate does after the warm-up; linear and cosine end at 0."""
    weight_decay: float = setting(0.0, at_least=0)
    """Weight decay (AdamW)."""
    grad_clip: float = setting(1.0, at_least=0)
    """Largest gradient norm; 0: no clipping."""
    importance_cap: float | None = setting(None, at_least=0)
    """Most that a token's loss is weighted by pi_learner / pi_sampler; 0: no weights. Unset: 2
    where the sampler is not exact (bfloat16, a server), else no weights."""
    gradient_checkpointing: Literal["auto", "on", "off"] = setting("auto")
    """Recompute activations to save memory; auto: on a GPU only."""
    shard_base: bool = setting(False)
    """Spread the layers of the frozen base model over the processes of torchrun (FSDP2), for models
    that one GPU cannot hold. Needs a sampler with weights of its own, such as vllm."""

    # --- evaluation -------------------------------------------------------------------------
    eval_every: int = setting(15, at_least=0)
    """RL steps between evaluations (there is one before and one after); 0: no evaluation."""
    eval_episodes: int = setting(256, at_least=1)
    """Held-out tasks of an evaluation: the same ones each time."""
    eval_seed: int = setting(20_000, at_least=0, at_most=LARGEST_SEED)
    """Seed of the evaluation tasks; independent of seed, so that runs compare."""
    eval_temperature: float = setting(1.0, at_least=0)
    """Sampling temperature of the evaluation; 0: greedy."""
    keep_best: str | None = setting(None)
    """A split of the environment. The checkpoint with the best result on it is kept beside the
    newest; it is played at each evaluation. Unset: only the newest are kept. With the split of
    eval_split, the best result is no longer one on tasks that nothing was chosen by."""
    patience: int = setting(0, at_least=0)
    """Evaluations in a row without a new best result (keep_best) that end the run; 0: no end."""

    # --- run --------------------------------------------------------------------------------
    seed: int = setting(0, at_least=0, at_most=LARGEST_SEED)
    """Seed of all randomness of the run."""
    out: str | None = setting(None)
    """Folder of the run; unset: runs/ENV-MODEL-ESTIMATOR-MODULATOR-seedSEED."""
    resume: bool = setting(False)
    """Continue from the newest checkpoint in the run's folder."""
    replan: bool = setting(False)
    """Let a resumed run have another number of steps although its learning rate depends on it:
    from here on the schedule is that of a run of so many steps."""
    breaker: Options = setting({})
    """What to do about steps that teach nothing, by cause: ignore, warn, wait or stop, with the
    number of steps in a row: {nan: stop@3, infrastructure: wait@5, kl: stop@3:0.2}."""
    max_bad_steps: int = setting(3, at_least=1)
    """Steps in a row with NaN or inf, or nothing to learn from, that end the run: the number of
    steps of a reaction in breaker that has none of its own."""
    breaker_wait: float = setting(10.0, at_least=0)
    """Seconds before a step that was lost to infrastructure is taken again; twice as long each
    time, at most 10 minutes."""
    device: str = setting("auto")
    """auto, cpu, cuda, cuda:N or mps."""
    card: float | None = setting(None, above=0)
    """Memory in GB of the GPU that the settings are meant for: `--dry-run` estimates for it
    (docs/memory.md). It changes nothing in a run. Unset: the memory of the device."""
    dtype: Literal["auto", "float32", "bfloat16"] = setting("auto")
    """Of the base weights; auto: bfloat16 on a GPU that has it, else float32."""
    threads: int = setting(0, at_least=0)
    """Threads torch uses; 0: torch's own choice. Part of what makes runs byte-identical."""
    deterministic: bool = setting(True)
    """Ask torch for deterministic kernels."""
    workers: int = setting(0, at_least=0)
    """Processes that step environments; 0: in this process (a debugger works)."""
    step_timeout: float = setting(60.0, above=0)
    """Seconds an environment may take for one step; one that hangs in C code needs workers."""
    reset_timeout: float = setting(120.0, above=0)
    """Seconds an environment may take for one reset, its construction included."""
    max_concurrent_episodes: int = setting(0, at_least=0)
    """Most episodes that run at once in a step or an evaluation; 0: all."""
    save_every: int = setting(10, at_least=1)
    """RL steps between checkpoints; there is one at the end in any case."""
    keep_checkpoints: int = setting(2, at_least=1)
    """Newest checkpoints to keep."""
    token_samples: int | str = setting(2, at_least=0)
    """Training episodes per step that are saved with token-level arrays, or all."""
    compress_episodes: Literal["auto", "on", "off"] = setting("auto")
    """Write training episodes as one gzip file a step (episodes/) in place of episodes.jsonl; auto:
    where they may take more than 1 GB (docs/memory.md)."""
    keep_episodes: int = setting(0, at_least=0)
    """Newest steps whose training episodes are kept whole; of older ones texts and tokens are
    removed, and the figures stay. Above 0, each step has a file of its own. 0: all are kept."""
    loggers: list[str] = setting(["tensorboard"])
    """Where metrics go beside metrics.jsonl: tensorboard, or your own by name."""

    def __repr__(self) -> str:
        given = (f"{name}={value!r}" for name, value in self.given().items())
        return f"Config({', '.join(given)})"

    def given(self) -> dict[str, Any]:
        """The settings that have a value, by name."""
        return {name: value for name, value in vars(self).items() if value is not UNSET}

    @property
    def run_folder(self) -> Path:
        """The folder of the run: `out`, or a name made of what the run is."""
        if self.out is not None:
            return Path(self.out).expanduser()
        env = self.env.split("/")[-1].split(":")[-1].rsplit("-v", 1)[0].lower()
        model = Path(self.model).name
        parts = (env, model, self.estimator, self.modulator, f"seed{self.seed}")
        return Path("runs") / "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)


# What is known about the fields -------------------------------------------------------------------


@cache
def field_docs() -> Mapping[str, str]:
    """Field name -> its documentation: the string literal under it in the source of Config."""
    tree = ast.parse(inspect.getsource(Config)).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs: dict[str, str] = {}
    for node, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            text = after.value if isinstance(after, ast.Expr) else None
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                docs[node.target.id] = " ".join(text.value.split())
    return docs


@cache
def field_types() -> Mapping[str, Any]:
    return get_type_hints(Config)


@cache
def built_in() -> Mapping[str, Any]:
    """Field name -> its built-in default. Do not change the values."""
    return {f.name: f.metadata["default"] for f in dataclasses.fields(Config)}


def type_text(hint: Any) -> str:
    """A type in words: `int or null`, `transcript or window`, `key: value pairs`."""
    words = {int: "int", float: "number", str: "text", bool: "true or false", type(None): "null"}
    if isinstance(hint, str):
        return hint
    if hint in words:
        return words[hint]
    if getattr(hint, "__origin__", None) is dict:
        return "key: value pairs"
    if getattr(hint, "__origin__", None) is list:
        return f"a list of {type_text(hint.__args__[0])}"
    return " or ".join(map(type_text, hint.__args__))


def is_options(name: str) -> bool:
    """Whether a setting holds key: value pairs."""
    return getattr(field_types()[name], "__origin__", None) is dict


def check_ranges(values: Mapping[str, Any]) -> None:
    """Raise ConfigError where a number is out of the range of its field, or not finite."""
    for f in dataclasses.fields(Config):
        value = values.get(f.name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for kind, bound in f.metadata["bounds"].items():
            words, holds = RULES[kind]
            if not (math.isfinite(value) and holds(value, bound)):
                raise ConfigError(f"{f.name}: expected a number {words} {bound}, got {value!r}")
