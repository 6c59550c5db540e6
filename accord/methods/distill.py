"""On-policy distillation: the student samples, the teacher scores the samples' log-probabilities.

    minimize KL(pi, teacher) = E over y ~ pi of sum over t of d_t,  d_t = log pi(y_t | .) - log teacher(y_t | .)
    loss of token t = - A_t log pi(y_t | .),  A_t = - (d_t + gamma d_(t+1) + gamma^2 d_(t+2) + ...)

Agarwal et al. 2023 (arXiv:2306.13649) with the reverse divergence, as a per-token reward in Gu et al. 2023
(arXiv:2306.08543). gamma = 1 is the exact gradient of the divergence between whole completions; with gamma = 0 a token
counts only its own divergence, as in the first paper, with far less variance.

Departures: the divergence is measured at the sampled tokens, not over the whole vocabulary. To learn from a larger
model's own samples instead, sample from it (`accord sample`) and fine-tune on them (`accord sft`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from accord import engine, objectives
from accord.errors import InputError
from accord.methods.method import as_policy
from accord.methods.online import OnlineMethod
from accord.methods.rollouts import Rollout
from accord.records import EncodedPrompt
from accord.train.held_out import Tally
from accord.train.learner import Learner, StepResult
from accord.train.loop import OnStep, Result
from accord.train.options import DistillOptions, PolicyOptions

if TYPE_CHECKING:
    from torch import Tensor

    from accord.data.load import Source
    from accord.engine import Experience, Measures, Optimizer, Policy, Trees


HELD_OUT = 4
"""Last component of the seeds of samples on held-out prompts."""


@dataclass(kw_only=True)
class Distill(OnlineMethod):
    """On-policy distillation: train a student to match its teacher on the student's own samples."""

    command: ClassVar[str] = "distill"
    on_ranks: ClassVar[bool] = True
    options: ClassVar[type[PolicyOptions]] = DistillOptions

    learning_rate: float = 1e-5
    gamma: float = 0.0
    """Discount of the divergence at later tokens: 1 is the exact gradient, 0 has the least variance."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.gamma <= 1:
            raise InputError(f"gamma lies in [0, 1], not {self.gamma}.")

    def learner(self, policy: Policy, feedback: Any) -> DistillLearner:
        return DistillLearner(self, policy, feedback)

    def fit(
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        teacher: Policy | str | Path,
        out: str | Path,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Result:
        """Train on the rows' prompts with a teacher, as `Method.fit` does.

        Args:
            data: a file or a name on the Hugging Face Hub, whose prompts are used; in Python also a `datasets.Dataset`
                or a list of rows.
            teacher: a folder, a name on the Hugging Face Hub, or smollm2, of a model with the student's vocabulary; in
                Python also a loaded model.
        """

        def same_vocabulary(policy: Policy) -> Policy:
            loaded = as_policy(teacher, self, trained=False)
            if not loaded.same_vocabulary(policy):
                raise InputError(
                    f"the teacher {loaded.name} and the student {policy.name} have different vocabularies, so the "
                    "teacher cannot score the student's tokens; sample from it and fine-tune on that instead."
                )
            return loaded

        return self.train(model, data, out, on_step, options, same_vocabulary, teacher=teacher)


class DistillLearner(Learner):
    """A student and its teacher."""

    method: Distill
    held_out_loss: ClassVar[str] = "teacher_kl"

    def __init__(self, method: Distill, policy: Policy, teacher: Policy) -> None:
        self.method, self.policy = method, policy
        self.teacher = engine.offload.shared_copy(teacher)
        self.networks = {"policy": policy.network}

    def step(self, step: int, items: Sequence[EncodedPrompt], optimizer: Optimizer) -> StepResult:
        rollout, packs = self.rollout(items, step)
        samples = rollout.samples
        divergence = sum(float(t.kl.sum()) for t in packs) / len(samples)
        row = optimizer.update(step, engine.LossTerm(self.loss, packs, "branch"))
        return rollout.result({"reward": -divergence, "teacher_kl": divergence} | row)

    def rollout(self, prompts: Sequence[EncodedPrompt], *seed: int) -> tuple[Rollout, list[Experience]]:
        """The student's samples on these prompts, as a rollout and as packs scored by the teacher."""
        method = self.method
        samples = self.policy.sample(prompts, method.group_size, method.sampling(*seed))
        rollout = Rollout.of(prompts, samples, [0.0] * len(samples))
        packs = engine.pack(rollout.trees, method.tokens_per_pass, self.policy.device)
        return rollout, engine.trees.on_every_rank(packs, self.score)

    def measure(self, items: Sequence[EncodedPrompt], clusters: Sequence[int], when: str) -> Tally:
        """The divergence from the teacher on samples of held-out prompts, drawn with the same seed every time."""
        tally = Tally(max(clusters) + 1)
        for start in range(0, len(items), self.method.batch_size):
            _, packs = self.rollout(items[start : start + self.method.batch_size], start, HELD_OUT)
            for trees in packs:
                values = objectives.segments.segment_sum(trees.kl, trees.owner, trees.branches)
                cluster = trees.group.new_tensor([clusters[tree.row] for tree in trees.trees])
                tally.add(self.held_out_loss, values, cluster[trees.group])
        return tally

    def score(self, trees: Trees) -> Experience:
        """The pack with every token's divergence from the teacher and its advantage."""
        teacher = self.teacher.log_probs(trees, self.method.temperature)
        divergence = objectives.kl.k1(trees.logprobs, teacher)
        zero = divergence.new_zeros(len(divergence))
        advantage, _ = objectives.advantages.gae(-divergence, zero, trees.owner, gamma=self.method.gamma, lam=1.0)
        return replace(engine.Experience.of_samples(trees), kl=divergence, advantage=advantage)

    def loss(self, batch: Experience) -> tuple[Tensor, Measures]:
        """- sum over t of A_t log pi(y_t) of every completion, (C,)."""
        logp = self.policy.log_probs(batch, self.method.temperature)
        surrogate = objectives.policy.reinforce(logp, batch.advantage)
        values = objectives.segments.segment_sum(surrogate, batch.owner, batch.branches)
        return values, {"entropy": -batch.logprobs, "sampler_drift": (logp.detach() - batch.logprobs).abs()}
