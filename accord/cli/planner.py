"""The plan of a model, a method and a step on a machine: what a number of GPUs store, send and take."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from accord import engine
from accord.cli.shapes import config_called
from accord.engine.config import SamplingConfig, TrainingConfig
from accord.results.plan import GpusPlan, PassPlan, RankMemory, StepPlan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from accord.engine.gpus import Machine
    from accord.engine.memory import Shape
    from accord.engine.passes import Batch
    from accord.engine.shares import Groups

ROLLED_OUT = 12
"""Bytes per sampled token in the host memory of every rank: four for the token, eight for its log-probability, shared
by a completion and the branch made of it (measured by benchmarks/rollouts.py)."""

BEST_ALONE = "training counts all samples, of which this method keeps the best."
UNCOUNTED = {
    "personal": "the earlier choices of a user that the reader reads are not counted.",
    "fspo": "a user's earlier choices in the prompt are not counted: add their tokens to prompt_tokens.",
    "kto": "the passes over mismatched completions, for z0, are not counted.",
    "raft": BEST_ALONE,
    "nash-md": "the opponent's samples are not counted; where it is a mixture, ranks draw them with both models.",
    "ipo-md": "samples come from a mixture with the reference, whose share in memory and time is not counted.",
    "distill": "the teacher is not counted: neither its weights nor its pass over every sample.",
    "star": f"samples are counted in every step, but are drawn once a round; {BEST_ALONE}",
    "self-consistency": f"samples are counted in every step, but are drawn once a round; {BEST_ALONE}",
}
"""What plans of some methods leave out, or count too much of."""


class Planner:
    """A model, a method and a step on a machine; `row` plans for a number of GPUs.

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
        self.context = None if whose else engine.forward.context_of(config.get_text_config())
        self.groups = engine.shares.Groups.of(config, method, self.dtype)
        self.shape = engine.memory.Shape.of(config, method, self.dtype)
        whole = TrainingConfig()
        self.reward = engine.memory.Shape.of(config_called(reward)[0], whole, self.dtype) if reward else None
        self.described = ", ".join([*([whose] if whose else []), *_described(self.shape, self.groups)])

    @property
    def bytes_a_number(self) -> float:
        """Average bytes per trained parameter for weights, gradients and optimizer states."""
        frozen = engine.shares.size(self.groups.frozen) + self.groups.whole
        standing = sum(engine.shares.resident(self.groups, self.method, 1)) - frozen
        trained = engine.shares.share(engine.shares.trained(self.groups.all))
        return round(standing / self.method.trained_networks / trained, 2)

    def row(self, gpus: int, samplers: int = 0) -> GpusPlan:
        """The plan for a number of GPUs, `samplers` of which only sample."""
        ranks, batch, machine = gpus - samplers, self.batch, self.machine
        passes = engine.passes.Passes.of(batch, self.method.tokens_per_pass, ranks)
        tokens = passes.trees * batch.tree
        held = engine.shares.rank_memory(
            self.shape, self.groups, self.method, self.dtype, ranks, tokens=tokens, is_served=samplers > 0,
            reward=4 * self.reward.numbers if self.reward else 0,
        )  # fmt: skip
        memory = RankMemory(**held)
        again = self.method.activation_checkpointing or memory.training > machine.memory
        moments = {"training": memory.training_again if again else memory.training}
        moments |= {"sampling": memory.sampling, "loading": memory.loading}
        linear = self.dtype.itemsize
        spent = engine.step_time.step(
            self.shape, self.groups, self.method, batch, machine, ranks, again=again, sampling_gpus=samplers,
            reward=self.reward, linear=linear,
        )  # fmt: skip
        passed = passes.trees * batch.trained(self.shape, machine, again)
        one = engine.passes.one_pass(self.groups, passed, machine, ranks, trains=True, linear=linear)
        inside = min(ranks, machine.per_node)
        spoken = engine.passes.within_nodes(self.groups, machine, ranks, passes.each, linear)
        samples = isinstance(self.method, SamplingConfig)
        return GpusPlan(
            gpus=gpus,
            ranks=ranks,
            samplers=samplers,
            together=engine.sampling_time.sampled_elsewhere(self.shape, batch, machine, samplers)[1] if samplers else 0,
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
                hidden_at=engine.passes.hidden_at(self.groups, self.shape, batch, machine, ranks, again, linear),
                hsdp_held=sum(engine.shares.resident(self.groups, self.method, inside)),
                hsdp_wire=spoken,
            ),
            step=StepPlan(**spent, bound=engine.step_time.bound_by(spent)),
            tokens=batch.trees * batch.tree,
            rollouts=ROLLED_OUT * batch.trees * batch.tree if samples else 0,
        )

    def warnings(self, ranks: Sequence[int], sampler_share: float) -> list[str]:
        """Caveats for readers of the plan."""
        lines, most = [], max(ranks)
        if most > 1 and not getattr(self.method, "on_ranks", False):
            lines.append(
                "this method does not train on several ranks yet (docs/scale.md): the plan says what it would take."
            )
        longest = self.batch.prompt + self.batch.completion
        if self.context is not None and longest > self.context:
            lines.append(f"the model reads {self.context:,} tokens at most, and a row here has {longest:,}.")
        if uncounted := UNCOUNTED.get(getattr(self.method, "command", "")):
            lines.append(uncounted)
        experts = [weight for weight in self.groups.all if weight.is_expert]
        for n in ranks:
            if any(n > weight.rows and not weight.is_cut_within(n) for weight in experts):
                lines.append(
                    f"a layer has {experts[0].rows:,} experts, whose rows {n:,} ranks cannot share evenly: each of the "
                    "first holds an expert, and what is gathered has room for one of each rank; take a divisor of "
                    f"{math.gcd(*(weight.inner for weight in experts)):,}."
                )
        if isinstance(self.method, SamplingConfig) and not sampler_share and most > 1:
            lines.append("ranks sample with the whole model gathered; --sampler-share plans for GPUs that sample.")
        if isinstance(self.method, SamplingConfig) and self.reward is None:
            lines.append(
                "rewards are taken to cost nothing, as those of a function or a server do; --reward-model counts one."
            )
        return lines


def _described(shape: Shape, groups: Groups) -> Iterator[str]:
    """The model in words: its parameters, those active per token, and adapters."""
    yield f"{shape.numbers / 1e9:.2f} billion weights"
    if shape.experts:
        idle = round(shape.experts * (1 - shape.chosen))
        yield f"of which {(shape.numbers - idle) / 1e9:.2f} billion are active per token"
    if groups.adapters:
        yield f"{engine.shares.share(groups.adapters) / 1e6:,.1f} million more in adapters"
    if groups.whole:
        yield f"beneath them {groups.whole / 1e9:.2f} GB in few bits, whole on every rank"
    yield f"{shape.layers} layers of width {shape.width}"
