"""Settings that all training methods share; imports no torch, so that a command line can show those of every method."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar, Literal

from accord import engine
from accord.errors import InputError

if TYPE_CHECKING:
    from accord.engine.models import AnyModel
    from accord.engine.sampling import Sampling


@dataclass(kw_only=True)
class OptimizerConfig:
    """The settings of the optimizer and of its step size."""

    learning_rate: float = 1e-5
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """The optimizer: adamw, or muon for the matrices inside the layers (AdamW for the rest), whose steps take longer
    but achieve more when a model starts untrained or nearly so."""
    schedule: Literal["constant", "linear", "cosine"] = "linear"
    """The learning rate after the warmup: constant, or falling to zero linearly or along a cosine."""
    warmup: float = 0.03
    """Share of the steps over which the learning rate rises from zero."""
    weight_decay: float = 0.0
    """Decoupled weight decay, applied to matrices only."""
    beta1: float = 0.9
    """AdamW's first decay rate; 0 (no momentum) lets training settle where preferences are cyclic."""
    max_grad_norm: float = 1.0
    """Gradients with a larger Euclidean norm are scaled down to this norm."""

    def __post_init__(self) -> None:
        require_positive(learning_rate=self.learning_rate)
        if not self.max_grad_norm > 0:  # infinity clips nothing
            raise InputError(f"max_grad_norm must be positive, not {self.max_grad_norm}.")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"warmup is a share of the steps in [0, 1], not {self.warmup}.")
        if not 0 <= self.beta1 < 1:
            raise InputError(f"beta1 lies in [0, 1), not {self.beta1}.")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"weight_decay must be 0 or more, and finite, not {self.weight_decay}.")

    def rate(self, step: int, total: int) -> float:
        """The learning rate of a step counted from 0."""
        warm = math.ceil(self.warmup * total)
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / max(1, total - warm)
        falls = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 * (1 + math.cos(math.pi * done))}
        return self.learning_rate * falls[self.schedule]


@dataclass(kw_only=True)
class AdapterConfig(OptimizerConfig):
    """Whether adapters (LoRA) are trained in place of all weights, and which."""

    lora_rank: int = 0
    """Train adapters of this rank and leave the model's own weights unchanged; 0 trains all weights."""
    lora_alpha: float | None = None
    """Adapters are scaled by alpha / rank (default: twice the rank)."""
    lora_targets: str | None = None
    """Names of the linear layers that get adapters, separated by commas (default: all in the trunk)."""
    lora_rslora: bool = False
    """Scale by alpha / sqrt(rank) instead (rsLoRA), so that a high rank learns as fast as a low one."""
    lora_dora: bool = False
    """Learn the magnitude of the weights' rows separately from their direction (DoRA)."""
    lora_init: Literal["kaiming", "gaussian"] = "kaiming"
    """How the matrix A is drawn: uniform, scaled by its input width, or gaussian with standard deviation 1 / rank. B
    starts at 0."""
    quantize: Literal["nf4", "int8"] | None = None
    """Hold the model's own weights, under the adapters, in 4 bits (nf4, by bitsandbytes) or 8 (int8)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.lora_rank < 0:
            raise InputError(f"lora_rank must not be negative, but is {self.lora_rank}.")
        require_at_most(10_000, lora_rank=self.lora_rank)
        own = (field for field in fields(AdapterConfig) if field.name.startswith(("lora_", "quantize")))
        changed = [field.name for field in own if getattr(self, field.name) != field.default]
        if changed and not self.lora_rank:
            raise InputError(f"{changed[0]} is for adapters: give lora_rank.")
        if self.lora_alpha is not None:
            require_positive(lora_alpha=self.lora_alpha)
        if self.quantize:
            engine.quantize.check(self.quantize)
        if self.optimizer == "muon" and self.lora_rank:
            raise InputError("optimizer muon is for whole weights: adapters (lora_rank) are trained by adamw.")


@dataclass(kw_only=True)
class MemoryConfig(AdapterConfig):
    """Options that reduce memory, at the cost of time or rounding."""

    memory: str | None = None
    """Memory available (to each rank), such as 24GB. Options of this group that you leave out are then chosen so that
    the run fits."""
    activation_checkpointing: bool = False
    """Keep only the input of each layer and recompute the rest for the gradient: the same numbers, a third more
    time."""
    weight_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which weights are held. In bfloat16, trained weights are rounded stochastically at each update."""
    optimizer_states: Literal["float32", "8bit"] = "float32"
    """Precision of AdamW's two moments; 8bit needs bitsandbytes."""
    offload_optimizer: bool = False
    """Keep AdamW's moments in host memory, and move each to the GPU when it is needed."""
    offload_reference: bool = False
    """Keep the reference model in host memory, and move each layer to the GPU when it is needed."""
    return_freed_memory: bool = False
    """On a CPU, return freed memory to the system at once: less is held, at a fifth more time."""
    tokens_per_pass: int = 2048
    """Tokens computed at once; fewer take less memory and change nothing else."""
    shard_ranks: int | None = None
    """How many ranks hold one copy of the model together (HSDP), such as those of a node where the network between
    nodes is slow (default: all)."""
    reshard_after_forward: bool = True
    """Release a layer's gathered weights after its forward pass and gather them again for its backward pass. Without
    this, they are gathered once, and each rank holds the whole model meanwhile."""

    trained_networks: ClassVar[int] = 1
    """How many networks of the model's size are trained."""

    @property
    def frozen_copies(self) -> int:
        """How many frozen copies of the model are held: a reference, or earlier versions of the policy."""
        return 0

    @property
    def kept_versions(self) -> int:
        """How many earlier versions of the trained weights are kept until their samples have arrived."""
        return 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(tokens_per_pass=self.tokens_per_pass)
        if self.memory is not None:
            engine.gpus.size(self.memory)
        if self.shard_ranks is not None and self.shard_ranks < 2:
            raise InputError(f"shard_ranks is a number of ranks that share a model, from 2 on, not {self.shard_ranks}.")
        own = ("weight_dtype", "optimizer_states", "offload_optimizer")
        changed = [name for name in own if getattr(self, name) not in ("float32", False)]
        if self.optimizer == "muon" and changed:
            raise InputError(f"optimizer muon holds float32 states beside float32 weights; {changed[0]} is for adamw.")


@dataclass(kw_only=True)
class TemplateOptions:
    """The chat template with which a model reads and writes."""

    chat_template: str | None = None
    """A chat template for a model that has none, or to replace its own: a Jinja file, or chatml. A trained model keeps
    it."""
    system: Literal["refuse", "fold"] = "refuse"
    """What to do with a system message where the chat template has no place for one; fold puts it before the first
    question."""
    chat_template_kwargs: dict[str, str | bool | int | float] | None = None
    """Further variables for the chat template, such as enable_thinking=false, or the date that it writes, as
    strftime_now=2026-11-30; a row's own chat_template_kwargs take precedence."""

    @property
    def changes_template(self) -> bool:
        """Whether another template than the model's own is used."""
        return self.chat_template is not None or self.system == "fold" or bool(self.chat_template_kwargs)

    def templated(self, model: AnyModel) -> AnyModel:
        """A copy of the model with this chat template.

        Raises InputError where the file cannot be read or is not a chat template, or the template does not read a
        variable.
        """
        made = copy.copy(model)
        variables = self.chat_template_kwargs or {}
        made.tokenizer = engine.templates.with_template(model.tokenizer, self.chat_template, self.system, variables)
        return made


@dataclass(kw_only=True)
class TrainingConfig(TemplateOptions, MemoryConfig):
    """Settings of every method."""

    batch_size: int = 8
    """Rows (or prompts) per optimizer step."""
    epochs: float = 1.0
    """Passes over the data, unless max_steps says otherwise."""
    max_steps: int | None = None
    """Optimizer steps, in place of epochs."""
    max_length: int = 512
    """Tokens of prompt and completion together. Longer completions are cut, rows with longer prompts left out."""
    seed: int = 0
    """Seed of the order of the data, of new weights and of all sampling."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of matrix products; auto is bfloat16 where the processor supports it. The weights' own is
    weight_dtype."""
    router_aux_loss_coefficient: float | None = None
    """Weight of the loss that balances the experts of a mixture; 0 for none (default: the model's
    router_aux_loss_coef)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.router_aux_loss_coefficient is not None and not 0 <= self.router_aux_loss_coefficient < math.inf:
            raise InputError(f"router_aux_loss_coefficient must be 0 or more, not {self.router_aux_loss_coefficient}.")
        sizes = ("batch_size", "epochs", "max_length")
        require_positive(**{name: getattr(self, name) for name in sizes})
        if self.max_steps is not None and self.max_steps < 1:
            raise InputError(f"max_steps must be at least 1, not {self.max_steps}.")
        require_seed(self.seed)


@dataclass(kw_only=True)
class SamplerConfig:
    """What draws a model's samples: this process, or servers that are given its weights (docs/served-sampling.md)."""

    sampler: str | list[str] | None = None
    """A vLLM server to draw the samples, such as http://127.0.0.1:8000, or several that share the work."""
    sampler_folder: str | None = None
    """Where weights are put for the servers, which must see it under the same path (default: inside the folder out)."""
    sampler_parallel: int = 64
    """Samples that a server draws at once."""
    sampler_wait: float = 300.0
    """Seconds to wait for a sample, and for a server that has gone away to come back. After that the run stops, and can
    be resumed."""
    sampler_key: str | None = None
    """The environment variable that holds the servers' key."""
    sampler_insecure: bool = False
    """Allow sending that key over plain http to another machine."""

    def __post_init__(self) -> None:
        require_positive(sampler_parallel=self.sampler_parallel, sampler_wait=self.sampler_wait)
        for field in fields(SamplerConfig):
            if self.sampler is None and getattr(self, field.name) != field.default:
                raise InputError(f"{field.name} is for servers that draw samples: give sampler.")

    @property
    def samplers(self) -> list[str]:
        """The servers' URLs."""
        return [self.sampler] if isinstance(self.sampler, str) else list(self.sampler or ())


@dataclass(kw_only=True)
class SamplingConfig(SamplerConfig, TrainingConfig):
    """Settings of every method that learns from its own samples."""

    command: ClassVar[str] = ""
    least_group: ClassVar[int] = 1
    """The fewest samples per prompt that the method can learn from."""

    group_size: int = 1
    """Samples per prompt."""
    max_new_tokens: int = 64
    """Longest sample, in tokens; longer ones are cut."""
    temperature: float = 1.0
    """Divides the logits, both when sampling and when scoring."""
    min_new_tokens: int = 0
    """Tokens before which a sample cannot end."""
    stop: str | list[str] | None = None
    """A text that ends a sample, such as "</answer>", or several."""

    def __post_init__(self) -> None:
        TrainingConfig.__post_init__(self)
        SamplerConfig.__post_init__(self)
        if self.group_size < self.least_group:
            why = "" if self.least_group == 1 else f", as {self.command} compares the samples of one prompt"
            raise InputError(f"group_size must be at least {self.least_group}{why}, not {self.group_size}.")
        if self.max_new_tokens < 1:
            raise InputError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")
        require_positive(temperature=self.temperature)
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise InputError(f"min_new_tokens must be from 0 to {self.max_new_tokens}, not {self.min_new_tokens}.")

    def sampling(self, *seed: int) -> Sampling:
        """The sampling settings; `seed` is combined with the method's own."""
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        seeds = (self.seed, *seed)
        return engine.sampling.Sampling(
            self.max_new_tokens, self.temperature, seed=seeds, min_new_tokens=self.min_new_tokens, stop=stop
        )


def require_positive(**values: float) -> None:
    """Raise InputError where a value is not positive and finite."""
    for name, value in values.items():
        if not 0 < value < math.inf:
            raise InputError(f"{name} must be {'finite' if value > 0 else 'positive'}, not {value}.")


def require_at_most(most: int, **values: int) -> None:
    """Raise InputError where a value is too large to be meant, and would only be waited for."""
    for name, value in values.items():
        if value > most:
            raise InputError(f"{name} must be at most {most:,}, not {value:,}.")


def require_seed(seed: int) -> None:
    """Raise InputError where torch does not accept the seed."""
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be from 0 to 2^63 - 1, not {seed}.")
