"""The one configuration of a run: what each setting means, and its default.

`Config()` is the default job: generated household tasks, the tiny policy, GRPO + AEM on a CPU.
`aem_gym.training.config_io` reads and writes it, `aem_gym.training.config_check` judges it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

Options: TypeAlias = dict[str, Any]
"""Settings handed on by name to one component: YAML values."""

DEFAULT_ENV = "aem_gym/ALFWorld-v0"


class _ForDefaultEnv(dict[str, Any]):
    """Marks `env_args` that nobody has set: they hold for the default environment only."""


def _default_env_args() -> Options:
    return _ForDefaultEnv(difficulty="small")


class _IntByModel(int):
    """An integer nobody has set: its value is for `tiny`, `other` is for all other models.

    `elsewhere` is for `tiny` in another than the default environment.
    """

    other: int
    elsewhere: int


class _FloatByModel(float):
    """A number nobody has set: its value is for `tiny`, `other` is for all other models."""

    other: float


def _by_model_int(tiny: int, other: int, elsewhere: int | None = None) -> int:
    value = _IntByModel(tiny)
    value.other, value.elsewhere = other, tiny if elsewhere is None else elsewhere
    return value


def _by_model_float(tiny: float, other: float) -> float:
    value = _FloatByModel(tiny)
    value.other = other
    return value


@dataclass(frozen=True)
class Config:
    """All settings of one training run. Each is a key of the YAML file and a flag of train.py."""

    # --- task -------------------------------------------------------------------------------
    env: str = DEFAULT_ENV
    """Gymnasium id of the environment; `module:Id` imports the module first. An environment may
    suggest settings of its own (`run_defaults`, `tiny_defaults`), which hold where none is set
    here; `--dry-run` shows them."""
    env_args: Options = field(default_factory=_default_env_args)
    """Keyword arguments of the environment. Unset: {difficulty: small} for the default
    environment, none for any other."""
    train_split: str = "train"
    """Split of the training tasks; passed as `split` if the environment takes one."""
    eval_split: str = "valid_unseen"
    """Split of the evaluation tasks; passed as `split` if the environment takes one."""
    recipe: str = "auto"
    """How the environment is shown to the agent: auto (the environment's own), or a recipe
    of the environment by name."""
    reward_scale: float | None = None
    """Factor on the environment's reward in training; unset: the recipe's."""

    # --- agent ------------------------------------------------------------------------------
    model: str = "tiny"
    """tiny (made on the spot), smollm2 (packaged weights), a Hugging Face id, or a folder."""
    model_options: Options = field(default_factory=dict)
    """Options of the model: sizes of tiny, or arguments of `from_pretrained`."""
    context: Literal["transcript", "window"] = "transcript"
    """transcript: one growing token sequence per episode; window: one prompt per turn."""
    response_format: str = "auto"
    """How a response is written: auto (the recipe's), tags, published, short or
    plain."""
    history: int | None = None
    """Past turns shown in the window context; unset: the recipe's."""
    max_turns: int | None = None
    """Turn limit of an episode; unset: the recipe's, or else the environment's."""
    max_length: int = 2048
    """Most tokens of a transcript, or of one window prompt with its response."""
    max_new_tokens: int = _by_model_int(12, 256, elsewhere=48)
    """Most tokens of one response. Unset: 12 for tiny in the default environment (its longest
    demonstrations have 11), 48 in others, 256 for other models."""
    temperature: float = 1.0
    """Sampling temperature in training; log-probabilities and entropies are taken at it."""
    lora_rank: int = 16
    """Rank of the LoRA adapter."""
    lora_alpha: float = 32.0
    """Scale of the LoRA adapter: its update is multiplied by lora_alpha / lora_rank."""
    lora_dropout: float = 0.0
    """Dropout inside the adapter. Above 0, sampler and learner differ by it."""
    lora_targets: str | list[str] = "all-linear"
    """Names of the layers that get an adapter, or all-linear."""

    # --- warm start -------------------------------------------------------------------------
    warmstart: Literal["auto", "none", "expert", "random"] = "auto"
    """Cloning before RL: from the expert, from the best random rollouts, or none.
    auto: tiny clones the expert if there is one, else random rollouts; other models none."""
    warmstart_episodes: int = 4000
    """Demonstrations to clone."""
    warmstart_steps: int = 600
    """Optimizer steps of cloning."""
    warmstart_batch: int = 32
    """Demonstrations per cloning step."""
    warmstart_noise: float = 0.08
    """Share of random actions mixed into the demonstrations (fed, never imitated)."""
    warmstart_keep: Literal["won", "all"] = "won"
    """The expert's demonstrations to imitate: those that won, or all, as with people's."""
    warmstart_env_args: Options = field(default_factory=dict)
    """Arguments of the environment for the demonstrations alone, over `env_args`: how its expert
    behaves, say."""
    warmstart_options: Options = field(default_factory=dict)
    """Further options of the warm start, such as its learning rates."""

    # --- credit -----------------------------------------------------------------------------
    estimator: str = "grpo"
    """Base advantage estimator, by name."""
    estimator_options: Options = field(default_factory=dict)
    """Options of the estimator."""
    modulator: str = "aem"
    """What reshapes the advantages: none, aem, empg, entropy_shaping, or your own."""
    modulator_options: Options = field(default_factory=dict)
    """Options of the modulator, for AEM: lam, threshold, scope, direction, ..."""
    loss: str = "auto"
    """Policy loss by name; auto: the one that belongs to the estimator."""
    loss_options: Options = field(default_factory=dict)
    """Options of the loss beyond the clipping below."""
    clip_low: float | None = None
    """Clip of the ratio below 1; unset: the estimator's."""
    clip_high: float | None = None
    """Clip of the ratio above 1; unset: the estimator's."""
    dual_clip: float | None = None
    """Bound (> 1) on the loss of negative advantages; unset: the estimator's."""
    kl_coef: float | None = 0.0
    """Weight of the KL (k3) to the policy as RL started; null: the estimator's."""
    invalid_penalty: float = _by_model_float(1.0, 0.1)
    """Subtracted from the advantage of each invalid response. Unset: 1 for tiny, 0.1 (as
    published) for other models."""
    invalid_means: Literal["format", "inadmissible"] = "format"
    """Which responses are invalid: unparsable ones, or also actions that were not admitted."""
    mask_truncated: bool = False
    """Leave episodes that hit a limit out of the loss."""
    drop_equal_groups: bool | None = None
    """Resample groups whose returns are all equal; unset: the estimator's (only dapo does)."""
    max_rounds: int = 3
    """Most rounds of collecting per step while groups are dropped."""

    # --- optimisation -----------------------------------------------------------------------
    steps: int = 120
    """RL steps. 0: warm start and evaluation only."""
    groups: int = 16
    """Tasks per step."""
    group_size: int = 8
    """Rollouts per task."""
    epochs: int = 1
    """Passes over the batch of a step."""
    updates_per_batch: int = 2
    """Optimizer updates per pass, if mini_batch is unset."""
    mini_batch: int | None = None
    """Sequences per optimizer update; unset: the batch divided by updates_per_batch."""
    micro_batch: int = 8
    """Most sequences in memory at once in the learner; does not change the result."""
    lr: float = _by_model_float(2e-3, 1e-5)
    """Peak learning rate (AdamW). Unset: 2e-3 for tiny, 1e-5 for other models."""
    lr_warmup: int = 5
    """RL steps over which the learning rate rises to its peak."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "linear"
    """What the learning rate does after the warm-up; linear and cosine end at 0."""
    weight_decay: float = 0.0
    """Weight decay (AdamW)."""
    grad_clip: float = 1.0
    """Largest gradient norm; 0: no clipping."""
    gradient_checkpointing: Literal["auto", "on", "off"] = "auto"
    """Recompute activations to save memory; auto: on a GPU only."""

    # --- evaluation -------------------------------------------------------------------------
    eval_every: int = 15
    """RL steps between evaluations (there is one before and one after); 0: no evaluation."""
    eval_episodes: int = 256
    """Held-out tasks of an evaluation: the same ones each time."""
    eval_seed: int = 20_000
    """Names the evaluation tasks; independent of seed, so that runs compare."""
    eval_temperature: float = 1.0
    """Sampling temperature of the evaluation; 0: greedy."""

    # --- run --------------------------------------------------------------------------------
    seed: int = 0
    """Names all randomness of the run."""
    out: str | None = None
    """Folder of the run; unset: runs/ENV-MODEL-ESTIMATOR-MODULATOR-seedSEED."""
    resume: bool = False
    """Go on from the newest checkpoint in the run's folder."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:N or mps."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the base weights; auto: bfloat16 on a GPU that has it, else float32."""
    threads: int = _by_model_int(1, 0)
    """Threads torch uses; 0: torch's own choice. Unset: 1 for tiny (too small to share: 2 were
    slower), 0 for other models. Part of what makes runs byte-identical."""
    deterministic: bool = True
    """Ask torch for deterministic kernels."""
    workers: int = 0
    """Processes that step environments; 0: in this process (a debugger works)."""
    step_timeout: float = 60.0
    """Seconds an environment may take for one step; one that hangs in C code needs workers."""
    reset_timeout: float = 120.0
    """Seconds an environment may take for one reset, its making included."""
    max_live: int = 0
    """Most episodes that run at once, of a step or an evaluation; 0: all of them."""
    save_every: int = 10
    """RL steps between checkpoints; there is one at the end in any case."""
    keep_checkpoints: int = 2
    """Newest checkpoints to keep."""
    token_samples: int = 2
    """Training episodes per step saved with token-level arrays."""
    save_tokens: bool = False
    """Save token-level arrays of every training episode."""
    tensorboard: bool = True
    """Write TensorBoard files beside metrics.jsonl."""

    def __post_init__(self) -> None:
        """Settle what nobody has set and what depends on the environment or the model."""
        if isinstance(self.env_args, _ForDefaultEnv):
            chosen = dict(self.env_args) if self.env == DEFAULT_ENV else {}
            object.__setattr__(self, "env_args", chosen)
        for name, value in vars(self).copy().items():
            if isinstance(value, _IntByModel):
                tiny = value if self.env == DEFAULT_ENV else value.elsewhere
                settled = int(tiny if self.model == "tiny" else value.other)
                object.__setattr__(self, name, settled)
            elif isinstance(value, _FloatByModel):
                object.__setattr__(
                    self, name, float(value if self.model == "tiny" else value.other)
                )

    @property
    def run_folder(self) -> Path:
        """The folder of the run: `out`, or a name made of what the run is."""
        if self.out is not None:
            return Path(self.out).expanduser()
        env = self.env.split("/")[-1].split(":")[-1].rsplit("-v", 1)[0].lower()
        model = Path(self.model).name
        parts = (env, model, self.estimator, self.modulator, f"seed{self.seed}")
        return Path("runs") / "-".join(re.sub(r"[^\w.]+", "_", part) for part in parts)
