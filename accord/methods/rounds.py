"""The base of methods that learn in rounds: sample, select, fine-tune on the selection, repeat.

    y ~ pi_r(.|x);  K_r = the samples that the method selects;  pi_(r+1) = argmax over pi of sum over K_r of log pi(y|x)

Each round writes its selection to `round-N.jsonl` in the run's folder, which `accord sft` can read too. A round is
maximum likelihood, one tree per prompt, with a new optimizer and schedule.

If the selection accepts or rejects each sample by a fixed rule, and keeps all accepted samples with repetitions, the
exact round is an improvement: with J the probability that a sample is accepted and q the distribution of accepted
samples under pi_r, Jensen's inequality gives log(J(pi) / J(pi_r)) >= E_q[log pi(y|x) - log pi_r(y|x)], which the round
maximizes.
"""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, TypeVar

from accord import data, engine, feedback
from accord.arrays import Ints
from accord.engine.config import require_positive
from accord.errors import InputError, TrainingStopped
from accord.files import sha256_of, write_rows
from accord.methods.method import maximum_likelihood
from accord.methods.online import OnlineMethod
from accord.methods.rollouts import lengths
from accord.records import EncodedPrompt, Sample, text_to_json
from accord.train.learner import SHOWN, Learner, StepResult
from accord.train.loop import OnStep, Result
from accord.train.options import PolicyOptions
from accord.train.run import Run

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Self

    from accord.data.load import Source
    from accord.engine import Optimizer, Policy, Tree
    from accord.feedback.reward import Reward
    from accord.train.held_out import HeldOut
    from accord.train.watch import Watch

T = TypeVar("T")

Selection: TypeAlias = tuple[list[Sample], dict[str, float]]
"""The samples that a round learns from, and numbers to log."""


@dataclass(kw_only=True)
class RoundsMethod(OnlineMethod, ABC):
    """A method that trains a policy on a selection of its own samples, round after round."""

    options: ClassVar[type[PolicyOptions]] = PolicyOptions
    nothing: ClassVar[str]
    """Why a round may have nothing to learn from."""

    learning_rate: float = 1e-5
    batch_size: int = 8
    """Prompts per optimizer step."""

    rounds: int = 3
    """Rounds of sampling and learning."""
    from_base: bool = True
    """Start every round from the given model instead of from the last round's."""
    growth: float = 1.0
    """Factor by which the steps grow from round to round."""
    group_size: int = 8
    """Samples per prompt and round."""
    max_new_tokens: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise InputError(f"rounds must be at least 1, not {self.rounds}.")
        require_positive(growth=self.growth)

    @abstractmethod
    def select(self, at: Round, prompts: Sequence[EncodedPrompt], samples: Sequence[Sample]) -> Selection:
        """The samples to learn from, of a round's samples (`group_size` of every prompt, prompt after prompt)."""

    def learner(self, policy: Policy, feedback: Any) -> RoundsLearner:
        return RoundsLearner(self, policy, feedback)

    def order(self, rows: int) -> data.Order:
        """The order in which this many prompts are learned from."""
        return data.Order(rows, self.batch_size, self.seed)

    def steps(self, rows: int, number: int) -> int:
        """The optimizer steps of a round, counted from 1, with this many prompts."""
        first = self.max_steps or self.order(rows).steps(self.epochs)
        return math.ceil(round(first * self.growth ** (number - 1), 6))

    def fit(
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        verifier: Reward | Callable[..., Sequence[float]] | str | Path,
        out: str | Path,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Result:
        """Train on the rows' prompts, as `Method.fit` does, with one more checkpoint after each round's sampling.

        Args:
            data: a file or a name on the Hugging Face Hub, whose prompts are used; in Python also a `datasets.Dataset`
                or a list of rows.
            verifier: what reads and checks answers: exact, number, math, regex:PATTERN or reasoning-gym, each with
                @COLUMN where the right answer is in another column than `answer`; or any reward, where 1 or more is
                right.
        """
        scorer_for = partial(feedback.named.as_reward, verifier)
        return self.train(model, data, out, on_step, options, scorer_for, verifier=verifier)


@dataclass(frozen=True)
class Round:
    """A round in progress, counted from 1: the policy after the previous rounds, and the verifier of its answers."""

    method: RoundsMethod
    number: int
    policy: Policy
    verifier: Reward

    def sample(self, prompts: Sequence[EncodedPrompt]) -> list[Sample]:
        """`group_size` samples of every prompt, prompt after prompt."""
        return self.policy.sample(prompts, self.method.group_size, self.method.sampling(self.number))

    def once(self, ask: Callable[[], T]) -> T:
        """The verifier's answer by `ask`, obtained on rank 0 only, as verifiers may not be deterministic."""
        return engine.Team.here().lead(ask)

    def score(self, samples: Sequence[Sample]) -> Tensor:
        """The verifier's score of every sample, (C,)."""
        return self.once(lambda: feedback.reward.finite_scores(self.verifier, samples, f"round {self.number}").cpu())


class RoundsLearner(Learner):
    """Runs one round after another: `number` is the current round, which began after `first` steps."""

    method: RoundsMethod

    def __init__(self, method: RoundsMethod, policy: Policy, verifier: Reward) -> None:
        self.method, self.policy, self.verifier = method, policy, verifier
        self.networks = {"model": policy.network}
        self.objective = maximum_likelihood(policy, method.temperature)
        self.number = self.first = 0
        self.digest = ""
        self.numbers: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []
        self.trees: list[Tree] = []

    def learn_from(self, items: Sequence[Any], watch: Watch | HeldOut | None) -> Self:
        more = self.method.from_base and self.method.rounds > 1
        self.base = engine.offload.kept_weights(self.policy.network, self.policy.dtype) if more else None
        return super().learn_from(items, watch)

    @property
    def total(self) -> int:
        rows, left = len(self.trees or self.items), range(self.number or 1, self.method.rounds + 1)
        return self.first + sum(self.method.steps(rows, number) for number in left)

    def before(self, step: int, run: Run, optimizer: Optimizer) -> bool:
        """Begin the next round when one is over; returns whether it did, so that its sampling is not repeated on
        resume."""
        begins = step == (self.first + self.method.steps(len(self.trees), self.number) if self.number else 0)
        if begins:
            at = Round(self.method, self.number + 1, self.policy, self.verifier)
            samples = at.sample(self.items)
            selected, numbers = self.method.select(at, self.items, samples)
            if not selected:
                raise TrainingStopped(
                    f"round {at.number}: {self.method.nothing}, so there is nothing to learn from; raise --group-size "
                    "or --max-new-tokens, begin with a model that succeeds at times, or with easier prompts."
                )
            file = run.folder / f"round-{at.number}.jsonl"
            engine.Team.here().lead(lambda: write_rows(file, map(as_row, selected)))
            numbers = {"round": at.number, **numbers, **lengths(samples)}
            shown = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
            run.print(f"{len(selected)} samples to learn from: {shown}")
            if self.base is not None:
                engine.adapters.load_own_state(self.policy.network, self.base)
            self._learn_from_file(run, at.number, step, numbers)
            optimizer.restart(self.method.steps(len(self.trees), at.number))
            run.expect(self.total)
        if step == self.first:
            run.sample(step + 1, [{name: row[name] for name in ("prompt", "completion")} for row in self.rows[:SHOWN]])
        return begins

    def batch(self, step: int) -> list[Tree]:
        return [self.trees[i] for i in self.order.batch(step - self.first)]

    def step(self, step: int, items: Sequence[Tree], optimizer: Optimizer) -> StepResult:
        packs = engine.pack(items, self.method.tokens_per_pass, self.policy.device)
        try:
            row = optimizer.update(step - self.first, engine.LossTerm(self.objective, packs, "token"))
        except TrainingStopped as error:
            raise TrainingStopped(f"round {self.number}, {error}") from error
        row |= {"epoch": self.order.epoch(step - self.first + 1), **self.numbers}
        return StepResult(row, sum(tree.size for tree in items))

    def state(self) -> dict[str, Any]:
        return {"round": self.number, "first": self.first, "numbers": self.numbers, "sha256": self.digest}

    def restore(self, state: Mapping[str, Any], run: Run, optimizer: Optimizer) -> None:
        if state["round"]:
            file = run.folder / f"round-{state['round']}.jsonl"
            if engine.Team.here().lead(lambda: sha256_of(file)) != state["sha256"]:
                raise InputError(f"{file} is not as it was written: restore it.")
            self._learn_from_file(run, state["round"], state["first"], state["numbers"])
            optimizer.total = self.method.steps(len(self.trees), self.number)

    def _learn_from_file(self, run: Run, number: int, first: int, numbers: dict[str, float]) -> None:
        """Learn from the rows of a round's file from now on."""
        file = run.folder / f"round-{number}.jsonl"
        self.number, self.first, self.numbers = number, first, numbers
        self.digest, text = engine.Team.here().lead(lambda: (sha256_of(file), file.read_text(encoding="utf-8")))
        self.rows = [json.loads(line) for line in text.split("\n")[:-1]]
        self.trees = as_trees(self.rows)
        self.order = self.method.order(len(self.trees))


def as_row(sample: Sample) -> dict[str, Any]:
    """A sample as a demonstration with its tokens and the data row it comes from."""
    return {
        "prompt": text_to_json(sample.prompt.prompt),
        "completion": sample.text,
        "row": sample.row,
        "prompt_tokens": list(sample.prompt_tokens),
        "tokens": list(sample.completion.tokens),
    }


def as_trees(rows: Sequence[dict[str, Any]]) -> list[Tree]:
    """A tree for every prompt of these rows, in order, with a branch per row."""
    return [
        engine.Tree(Ints(group[0]["prompt_tokens"]), tuple(engine.Branch(Ints(r["tokens"])) for r in group), row=number)
        for number, group in ((n, list(rows)) for n, rows in groupby(rows, key=lambda row: row["row"]))
    ]
