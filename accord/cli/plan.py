"""`accord plan`: memory, communication and time of a training on many GPUs, computed in advance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from accord import engine
from accord.cli.doctor import method_of
from accord.cli.planner import Planner
from accord.engine.config import SamplingConfig, TrainingConfig, require_at_most, require_positive
from accord.errors import InputError
from accord.evaluate.options import checked_by, takes
from accord.outputs import require_folder
from accord.results.base import FILE
from accord.results.plan import Figure, PlanResult

if TYPE_CHECKING:
    from accord.engine.gpus import Machine
    from accord.engine.passes import Batch

PAIRS = ("dpo", "ipo", "reward", "preference", "fspo", "personal")
"""Methods whose rows have two completions."""
MOST_GPUS = 1_000_000
"""The most GPUs to plan for."""
MOST_TOKENS = 1_000_000_000
"""The most tokens of a prompt or a completion, and the most rows of a step."""

FIGURES = {
    "memory": ("gpu_memory", "a size such as 80GB"),
    "flops": ("flops", "operations a second such as 400T"),
    "within": ("bandwidth", "bytes a second such as 400GB"),
    "between": ("network", "bytes a second such as 50GB"),
    "memory_bandwidth": ("memory_bandwidth", "bytes a second such as 2TB"),
    "folder": ("folder_bandwidth", "bytes a second such as 1GB"),
}
"""A machine's figures: the option that sets each, and the form of its value in messages."""


HELD = ("weight_dtype", "optimizer", "optimizer_states", "lora_rank", "quantize")
"""Settings of a method that decide how weights and optimizer states are stored."""


@dataclass(kw_only=True)
class MachineOptions:
    """The machine to plan for: a GPU's data sheet, and figures that replace parts of it."""

    gpu_type: str = "h100"
    """The GPU whose data sheet is used: a100, h100 or h200."""
    gpu_memory: str | None = None
    """Memory of a GPU, such as 80GB."""
    flops: str | None = None
    """Operations per second that a GPU reaches in matrix products, such as 400T."""
    bandwidth: str | None = None
    """Bytes per second a GPU receives from others in its node, such as 400GB."""
    network: str | None = None
    """Bytes per second a GPU receives from other nodes, its share of the network, such as 50GB."""
    memory_bandwidth: str | None = None
    """Bytes per second a GPU reads from its memory, such as 2TB."""
    folder_bandwidth: str | None = None
    """Bytes per second at which weights reach sampling servers through a folder (default: 1GB)."""
    gpus_per_node: int = 8
    """GPUs per node."""

    def machine(self) -> tuple[Machine, dict[str, str]]:
        """The machine, and the source of each of its figures. Raises as `engine.gpus` does."""
        values = {name: getattr(self, option) for name, (option, _) in FIGURES.items()}
        figures = {n: None if text is None else engine.gpus.amount(text, *FIGURES[n]) for n, text in values.items()}
        return engine.gpus.with_figures(engine.gpus.gpu_named(self.gpu_type), **figures, per_node=self.gpus_per_node)


@dataclass(kw_only=True)
class PlanOptions(MachineOptions):
    """The machine, and a training step on it."""

    batch_size: int = 512
    """Rows or prompts per step."""
    group_size: int | None = None
    """Samples per prompt (default: 8, for ppo 1)."""
    prompt_tokens: int = 1024
    """Tokens per prompt."""
    completion_tokens: int = 1024
    """Tokens per completion."""
    tokens_per_pass: int | None = None
    """Tokens computed at once (default: the method's)."""
    weight_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision in which weights are held."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """The optimizer."""
    optimizer_states: Literal["float32", "8bit"] = "float32"
    """Precision of AdamW's two moments."""
    lora_rank: int = 0
    """Rank of the adapters trained instead of the weights; 0 for none."""
    quantize: Literal["nf4", "int8"] | None = None
    """Store the weights under the adapters in few bits, whole on every rank."""

    def __post_init__(self) -> None:
        require_positive(batch_size=self.batch_size, prompt_tokens=self.prompt_tokens)
        require_positive(completion_tokens=self.completion_tokens, gpus_per_node=self.gpus_per_node)
        tokens = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.completion_tokens}
        require_at_most(MOST_TOKENS, batch_size=self.batch_size, **tokens)

    def step_of(self, name: str) -> tuple[TrainingConfig, Batch]:
        """The method of this name with the step's settings, and its batch, of trees of one size.

        Raises InputError where there is no such method, or it has no such setting.
        """
        prompt, completion = self.prompt_tokens, self.completion_tokens
        more: dict[str, Any] = {name: getattr(self, name) for name in HELD}
        more |= {"batch_size": self.batch_size, "max_length": prompt + completion}
        more |= {} if self.tokens_per_pass is None else {"tokens_per_pass": self.tokens_per_pass}
        if not isinstance(method_of(name, {}), SamplingConfig):
            if self.group_size is not None:
                raise InputError(f"{name} has no group_size.")
            branches = 2 if name in PAIRS else 1
            return method_of(name, more), engine.passes.Batch(self.batch_size, prompt, completion, branches)
        branches = self.group_size if self.group_size is not None else 1 if name == "ppo" else 8
        method = method_of(name, {**more, "group_size": branches, "max_new_tokens": completion})
        return method, engine.passes.Batch(self.batch_size, prompt, completion, branches)


def _check(gpus: int | Sequence[int], sampler_share: float) -> None:
    """Raise InputError where there are too few or too many GPUs, or the share is not in [0, 1)."""
    counts = [gpus] if isinstance(gpus, int) else gpus
    require_positive(gpus=min(counts, default=0))
    require_at_most(MOST_GPUS, gpus=max(counts))
    if not 0 <= sampler_share < 1:
        raise InputError(f"sampler_share must be a share of the GPUs in [0, 1), not {sampler_share:g}.")
    if sampler_share and min(counts) < 2:
        raise InputError("sampler_share needs 2 GPUs or more: one samples and another trains.")


@takes(PlanOptions)
@checked_by(_check)
def plan(
    model: str,
    method: str = "grpo",
    *,
    gpus: int | list[int] = 64,
    sampler_share: float = 0.0,
    reward_model: str | None = None,
    out: str | None = None,
    **options: Any,
) -> PlanResult:
    """Say how much memory a training on many GPUs takes, how much its ranks communicate, and how long a step takes.

    All of it is computed from the model's shape and the machine's figures, for full weights or adapters, with matrix
    products in bfloat16. Figures of a named GPU are shares of its data sheet's; give measured ones where you have them.
    No weights are read.

    Args:
        model: a size such as 8B, for a typical shape of that size; or a folder, a config.json, or a name on the Hub.
        method: the training method, as in `accord doctor`.
        gpus: number of GPUs in all; several numbers give a row each.
        sampler_share: share of the GPUs that run a sampling server instead of training; 0 if the training ranks sample.
        reward_model: a reward model, given in the same way as the model.
        out: a folder for evaluation.json (default: nothing is written).
        options: the fields of `PlanOptions`.

    Raises:
        InputError: there is no such model, method or GPU, or a figure cannot be read.
    """
    if out:
        require_folder(out, leaves=[FILE])
    settings, counts = PlanOptions(**options), gpus if isinstance(gpus, list) else [gpus]
    _check(gpus, sampler_share)
    machine, sources = settings.machine()
    chosen, batch = settings.step_of(method)
    for name, value in {"sampler_share": sampler_share, "reward_model": reward_model}.items():
        if value and not isinstance(chosen, SamplingConfig):
            raise InputError(f"{name} is for methods that sample, and {method} does not.")
    if sampler_share and method == "ipo-md":
        raise InputError("ipo-md samples from a mixture of two models, which servers cannot: leave sampler_share out.")
    planner = Planner(model, chosen, batch, machine, reward_model)
    result = PlanResult(
        model=model,
        shape=planner.described,
        numbers=planner.shape.numbers,
        method=method,
        batch=_batch_text(batch, isinstance(chosen, SamplingConfig)),
        gpu_type=settings.gpu_type,
        gpu_memory=machine.memory,
        figures=_figures(machine, sources, planner),
        rows=[planner.row(count, samplers_of(count, sampler_share)) for count in counts],
        warnings=planner.warnings([count - samplers_of(count, sampler_share) for count in counts], sampler_share),
    )
    if out:
        result.save(out)
    result.announce()
    return result


def samplers_of(gpus: int, share: float) -> int:
    """The number of GPUs that sample: `share` of all, but at least one, leaving at least one to train."""
    return min(gpus - 1, max(1, round(share * gpus))) if share else 0


def _batch_text(batch: Batch, samples: bool) -> str:
    rows = "prompts" if samples else "rows"
    each = f"{batch.branches} completion{'s' * (batch.branches > 1)} of {batch.completion:,} tokens"
    return f"{batch.trees:,} {rows} a step, each of {batch.prompt:,} tokens with {each}"


def _figures(machine: Machine, sources: dict[str, str], planner: Planner) -> list[Figure]:
    named = {
        "memory": "bytes of a GPU",
        "flops": "operations a second, bfloat16",
        "memory_bandwidth": "bytes a second of its memory",
        "within": "bytes a second within a node",
        "between": "bytes a second between nodes, per GPU",
    }
    listed = [Figure(name=what, value=getattr(machine, name), source=sources[name]) for name, what in named.items()]
    if planner.shape.experts and planner.shape.expert_held == 4:
        of_float32 = "as much less as the data sheet says"
        listed.insert(
            2, Figure(name="operations a second, float32", value=machine.flops * machine.float32, source=of_float32)
        )
    counted = "counted, by FSDP2's shares; gathered: two layers and what is beside them"
    return [
        *listed,
        Figure(name="GPUs of a node", value=machine.per_node, source="given, or 8"),
        Figure(name="seconds of a hop between nodes", value=machine.hops[1], source="NCCL's own estimate"),
        Figure(
            name="seconds a layer and sampled token at least",
            value=machine.launch,
            source="assumed, where ranks sample",
        ),
        Figure(name="bytes a second to servers, by a folder", value=machine.folder, source=sources["folder"]),
        Figure(
            name="bytes of weights, gradients, optimizer a trained number", value=planner.bytes_a_number, source=counted
        ),
    ]
