"""`accord plan`: what a training on many cards holds, moves and takes, before there is one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from accord import engine
from accord.cli.doctor import method_of
from accord.cli.shapes import config_called
from accord.engine.config import SamplingConfig, TrainingConfig, require_at_most, require_positive
from accord.errors import InputError
from accord.outputs import require_folder
from accord.results.base import FILE
from accord.results.plan import Figure, GpusPlan, PassPlan, PlanResult, RankMemory, StepPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accord.engine.cards import Machine
    from accord.engine.memory import Shape
    from accord.engine.pace import Batch
    from accord.engine.shares import Groups

PAIRS = ("dpo", "ipo", "reward", "preference", "fspo", "personal")
"""Methods whose rows have two completions."""
MOST_GPUS = 1_000_000
"""Cards that are planned for; no machine has as many."""
ROLLED_OUT = 12
"""Bytes that a token of a sample takes in the host memory of every rank: of four the token, of eight its
log-probability, which a completion and the branch made of it share (benchmarks/rollouts.py measures it)."""


def plan(
    model: str,
    method: str = "grpo",
    *,
    gpus: int | list[int] = 64,
    card: str = "h100",
    card_memory: str | None = None,
    flops: str | None = None,
    bandwidth: str | None = None,
    network: str | None = None,
    memory_bandwidth: str | None = None,
    folder_bandwidth: str | None = None,
    gpus_per_node: int = 8,
    sampler_share: float = 0.0,
    reward_model: str | None = None,
    batch_size: int = 512,
    group_size: int | None = None,
    prompt_tokens: int = 1024,
    completion_tokens: int = 1024,
    tokens_per_pass: int | None = None,
    weight_dtype: Literal["float32", "bfloat16"] = "float32",
    optimizer: Literal["adamw", "muon"] = "adamw",
    optimizer_states: Literal["float32", "8bit"] = "float32",
    lora_rank: int = 0,
    out: str | None = None,
) -> PlanResult:
    """Say what a training on many cards needs of memory, how much its ranks speak, and how long a step takes.

    All of it is arithmetic from the shape of the model and figures of the machine, for whole weights or adapters with
    products in bfloat16, as ranks have them. Figures of a named card are shares of its data sheet's; give those that
    were measured. No model is read.

    Args:
        model: a size such as 8B, of a standard shape that is said; or a folder, a config.json, or a name on the Hub.
        method: the method that trains it, as doctor has it.
        gpus: cards in all; several numbers give a row each.
        card: whose data sheet is taken: a100, h100 or h200.
        card_memory: bytes of a card, such as 80GB.
        flops: operations a second that a card does in products, such as 400T.
        bandwidth: bytes a second that reach a card from others of its node, such as 400GB.
        network: bytes a second that reach a card from other nodes by its share of their network, such as 50GB.
        memory_bandwidth: bytes a second that a card reads of its memory, such as 2TB.
        folder_bandwidth: bytes a second that weights take to servers that sample, by a folder; 1GB unless given.
        gpus_per_node: cards of a node.
        sampler_share: the share of the cards that sample and do not train, by a server; 0 for ranks that sample.
        reward_model: a reward model, named as the model is.
        batch_size: rows or prompts of a step.
        group_size: samples of a prompt; 8 unless given, of ppo 1.
        prompt_tokens: tokens of a prompt.
        completion_tokens: tokens of a completion.
        tokens_per_pass: tokens computed at once; as the method has it unless given.
        weight_dtype: how weights are held.
        optimizer: how they follow gradients.
        optimizer_states: how AdamW's two numbers a weight are held.
        lora_rank: the rank of adapters that are trained in place of the weights; 0 for none.
        out: a folder for evaluation.json; nothing is written unless given.

    Raises:
        InputError: there is no such model, method or card, or a figure is none.
    """
    if out:
        require_folder(out, leaves=[FILE])
    counts = gpus if isinstance(gpus, list) else [gpus]
    require_positive(batch_size=batch_size, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens)
    require_positive(gpus=min(counts, default=0), gpus_per_node=gpus_per_node)
    require_at_most(MOST_GPUS, gpus=max(counts))
    if not 0 <= sampler_share < 1:
        raise InputError(f"sampler_share is a share of the cards in [0, 1), not {sampler_share:g}.")
    if sampler_share and min(counts) < 2:
        raise InputError("sampler_share needs 2 gpus or more: one card samples and another trains.")
    machine, sources = machine_called(
        card, gpus_per_node, memory=card_memory, flops=flops, within=bandwidth, between=network,
        memory_bandwidth=memory_bandwidth, folder=folder_bandwidth,
    )  # fmt: skip
    held: dict[str, Any] = {"weight_dtype": weight_dtype, "optimizer": optimizer, "optimizer_states": optimizer_states}
    held["lora_rank"] = lora_rank
    chosen, batch = planned(method, batch_size, group_size, prompt_tokens, completion_tokens, tokens_per_pass, **held)
    for name, value in {"sampler_share": sampler_share, "reward_model": reward_model}.items():
        if value and not isinstance(chosen, SamplingConfig):
            raise InputError(f"{name} is for methods that sample, and {method} does not.")
    planner = Planner(model, chosen, batch, machine, reward_model)
    result = PlanResult(
        model=model,
        shape=planner.described,
        numbers=planner.shape.numbers,
        method=method,
        batch=_said(batch, isinstance(chosen, SamplingConfig)),
        card=card,
        card_memory=machine.memory,
        figures=_figures(machine, sources, planner),
        rows=[planner.row(count, samplers_of(count, sampler_share)) for count in counts],
        warnings=planner.warnings(max(counts), sampler_share),
    )
    if out:
        result.save(out)
    result.announce()
    return result


FIGURES = {
    "memory": ("card_memory", "a size such as 80GB"),
    "flops": ("flops", "operations a second such as 400T"),
    "within": ("bandwidth", "bytes a second such as 400GB"),
    "between": ("network", "bytes a second such as 50GB"),
    "memory_bandwidth": ("memory_bandwidth", "bytes a second such as 2TB"),
    "folder": ("folder_bandwidth", "bytes a second such as 1GB"),
}
"""What options of a machine are called, and what they are, by the machine's own names."""


def machine_called(card: str, per_node: int, **given: str | None) -> tuple[Machine, dict[str, str]]:
    """The machine of a card's data sheet, with figures of one's own; where each is from. Raises as `cards` does."""
    figures = {n: None if text is None else engine.cards.amount(text, *FIGURES[n]) for n, text in given.items()}
    return engine.cards.with_figures(engine.cards.card_called(card), **figures, per_node=per_node)


def planned(
    name: str, rows: int, group: int | None, prompt: int, completion: int, tokens_per_pass: int | None, **held: Any
) -> tuple[TrainingConfig, Batch]:
    """The method with a step's settings, and its step as trees of one size.

    Raises InputError where there is no such method, or it has no such setting.
    """
    more = {"batch_size": rows, "max_length": prompt + completion, **held}
    more |= {} if tokens_per_pass is None else {"tokens_per_pass": tokens_per_pass}
    if not isinstance(method_of(name, {}), SamplingConfig):
        if group is not None:
            raise InputError(f"{name} has no group_size.")
        return method_of(name, more), engine.pace.Batch(rows, prompt, completion, 2 if name in PAIRS else 1)
    branches = group if group is not None else 1 if name == "ppo" else 8
    method = method_of(name, {**more, "group_size": branches, "max_new_tokens": completion})
    return method, engine.pace.Batch(rows, prompt, completion, branches)


def samplers_of(gpus: int, share: float) -> int:
    """Cards that sample: that share of all, but one at least, and one at least is left to train."""
    return min(gpus - 1, max(1, round(share * gpus))) if share else 0


class Planner:
    """A model, a method and a step on a machine; `row` plans for a number of cards.

    Raises InputError where the model cannot be planned for.
    """

    def __init__(
        self,
        model: str,
        method: TrainingConfig,
        batch: Batch,
        machine: Machine,
        reward: str | None = None,
        dtype: Any = None,
    ) -> None:
        import torch

        self.method, self.batch, self.machine = method, batch, machine
        self.dtype = dtype or torch.bfloat16
        config, whose = config_called(model)
        self.groups = engine.shares.Groups.of(config, method, self.dtype)
        self.shape = engine.memory.Shape.of(config, method, self.dtype)
        whole = TrainingConfig()
        self.reward = engine.memory.Shape.of(config_called(reward)[0], whole, self.dtype) if reward else None
        self.described = ", ".join([*([whose] if whose else []), *_described(self.shape, self.groups)])

    @property
    def bytes_a_number(self) -> float:
        """Of what is trained its weights, gradients and the optimizer's states, on average."""
        standing = sum(engine.shares.standing(self.groups, self.method, 1)) - engine.shares.size(self.groups.frozen)
        trained = engine.shares.share(engine.shares.trained(self.groups.all))
        return round(standing / self.method.trained_networks / trained, 2)

    def row(self, gpus: int, samplers: int = 0) -> GpusPlan:
        """What there is to say of a number of cards, of which some only sample."""
        ranks, batch, machine = gpus - samplers, self.batch, self.machine
        passes = engine.pace.Passes.of(batch, self.method.tokens_per_pass, ranks)
        tokens = passes.trees * batch.tree
        held = engine.shares.held(
            self.shape, self.groups, self.method, self.dtype, ranks, tokens=tokens, is_served=samplers > 0,
            reward=4 * self.reward.numbers if self.reward else 0,
        )  # fmt: skip
        memory = RankMemory(**held)
        again = self.method.activation_checkpointing or memory.training > machine.memory
        moments = {"training": memory.training_again if again else memory.training}
        moments |= {"sampling": memory.sampling, "loading": memory.loading}
        linear = self.dtype.itemsize
        spent = engine.pace.step(
            self.shape, self.groups, self.method, batch, machine, ranks, again=again, sampling_cards=samplers,
            reward=self.reward, linear=linear,
        )  # fmt: skip
        passed = passes.trees * batch.trained(self.shape, machine, again)
        one = engine.pace.one_pass(self.groups, passed, machine, ranks, trains=True, linear=linear)
        inside = min(ranks, machine.per_node)
        spoken = engine.pace.within_nodes(self.groups, machine, ranks, passes.each, linear)
        samples = isinstance(self.method, SamplingConfig)
        return GpusPlan(
            gpus=gpus,
            ranks=ranks,
            samplers=samplers,
            together=engine.pace.sampled_elsewhere(self.shape, batch, machine, samplers)[1] if samplers else 0,
            again=again,
            lacks=[name for name, size in moments.items() if size > machine.memory],
            memory=memory,
            passes=PassPlan(
                tokens=tokens,
                each=passes.each,
                idle=passes.idle,
                received=one.received,
                compute=one.compute,
                wire=one.wire,
                hidden_at=engine.pace.hidden_at(self.groups, self.shape, batch, machine, ranks, again, linear),
                hsdp_held=sum(engine.shares.standing(self.groups, self.method, inside)),
                hsdp_wire=spoken,
            ),
            step=StepPlan(**spent, bound=engine.pace.bound_by(spent)),
            tokens=batch.trees * batch.tree,
            rollouts=ROLLED_OUT * batch.trees * batch.tree if samples else 0,
        )

    def warnings(self, most: int, sampler_share: float) -> list[str]:
        """What a reader of the plan should know of it."""
        said = []
        if most > 1 and not getattr(self.method, "on_ranks", False):
            said.append(
                "this method does not train on several ranks yet (docs/scale.md): the plan is of what it would take."
            )
        most_experts = max((w.rows for w in self.groups.all if w.is_expert), default=most)
        if most > most_experts:
            said.append(
                f"a layer has {most_experts:,} experts, which ranks share: of more ranks each of the first holds one, "
                "and what is gathered has room for one of each rank."
            )
        if isinstance(self.method, SamplingConfig) and not sampler_share and most > 1:
            said.append("ranks sample with the whole model gathered; --sampler-share plans for cards that sample.")
        if isinstance(self.method, SamplingConfig) and self.reward is None:
            said.append(
                "rewards are taken to cost nothing, as those of a function or a server do; --reward-model counts one."
            )
        return said


def _said(batch: Batch, samples: bool) -> str:
    rows = "prompts" if samples else "rows"
    each = f"{batch.branches} completion{'s' * (batch.branches > 1)} of {batch.completion:,} tokens"
    return f"{batch.trees:,} {rows} a step, each of {batch.prompt:,} tokens with {each}"


def _described(shape: Shape, groups: Groups) -> Iterator[str]:
    """A model in words: its weights, what of them a token is multiplied by, and adapters."""
    yield f"{shape.numbers / 1e9:.2f} billion weights"
    if shape.experts:
        idle = round(shape.experts * (1 - shape.chosen))
        yield f"of which a token is sent through {(shape.numbers - idle) / 1e9:.2f} billion"
    if groups.adapters:
        yield f"{engine.shares.share(groups.adapters) / 1e6:,.1f} million more in adapters"
    yield f"{shape.layers} layers of width {shape.width}"


def _figures(machine: Machine, sources: dict[str, str], planner: Planner) -> list[Figure]:
    named = {
        "memory": "bytes of a card",
        "flops": "operations a second, bfloat16",
        "memory_bandwidth": "bytes a second of its memory",
        "within": "bytes a second within a node",
        "between": "bytes a second between nodes, a card",
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
        Figure(name="cards of a node", value=machine.per_node, source="given, or 8"),
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
