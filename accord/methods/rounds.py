"""The driver of every method that learns in rounds: it samples, selects, fine-tunes on what was selected, and again.

    y ~ pi_r(.|x);  K_r = the samples that the method selects;  pi_(r+1) = argmax over pi of sum over K_r of log pi(y|x)

Of every round the folder keeps `round-N.jsonl`, the rows it learnt from, which `accord sft` can read too. A round is
fine-tuning as `accord.methods.offline` does it, a tree a prompt, each round with a new optimizer and schedule.

What is selected by a rule that accepts or refuses each sample, all of it and as often as it was said, makes the exact
round an improvement. With J the chance that a sample is accepted and q the accepted samples' distribution under pi_r,
Jensen's inequality gives log(J(pi) / J(pi_r)) >= E_q[log pi(y|x) - log pi_r(y|x)], which the round makes largest.
"""

from __future__ import annotations

import copy
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from accord.data import Order
from accord.data.load import Source
from accord.engine import checkpoint
from accord.engine.fit import LossTerm, Optimizer
from accord.engine.models import Policy
from accord.engine.precision import compute_dtype
from accord.engine.trees import Branch, Tree, pack
from accord.errors import InputError, TrainingStopped
from accord.feedback.judge import Reward, check_prompts
from accord.feedback.named import as_reward
from accord.files import write_rows
from accord.methods.offline import Result, maximum_likelihood, require_positive, restore
from accord.methods.online import on_prompts
from accord.methods.rollouts import SHOWN, SamplingConfig, lengths, respond, scored
from accord.records import EncodedPrompt, Sample, text_to_json
from accord.train.loop import Passes
from accord.train.run import Run


@dataclass(kw_only=True)
class Rounds(SamplingConfig, ABC):
    """A method that teaches a policy what it selects from the policy's own samples, round after round."""

    nothing: ClassVar[str]
    """Why a round may have nothing to learn from."""

    rounds: int = 3
    """Times that the policy samples and learns."""
    from_base: bool = True
    """Begin every round with the model given; otherwise with what the last round made of it."""
    growth: float = 1.0
    """Each round takes so many times the steps of the one before."""
    group_size: int = 8
    """Samples of each prompt in each round."""
    max_new_tokens: int = 256
    """A sample is cut after so many tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_positive(rounds=self.rounds)
        if not self.growth > 0:
            raise InputError(f"growth must be positive, not {self.growth}.")

    @abstractmethod
    def select(self, at: Round, prompts: Sequence[EncodedPrompt], samples: Sequence[Sample]) -> Selection:
        """What to learn from, of a round's samples (`group_size` of every prompt, prompt after prompt)."""

    def check(self, verifier: Reward, prompts: Sequence[EncodedPrompt]) -> None:
        """Raise InputError, before anything is sampled, where the verifier cannot do its work on the prompts."""
        check_prompts(verifier, prompts)

    def order(self, rows: int) -> Order:
        """In which order so many prompts are learnt from."""
        return Order(rows, self.batch_size, self.seed)

    def steps(self, rows: int, number: int) -> int:
        """The optimizer steps of a round, counted from 1, that learns from so many prompts."""
        first = self.max_steps or self.order(rows).steps(self.epochs)
        return math.ceil(round(first * self.growth ** (number - 1), 6))

    def steps_from(self, number: int, rows: int) -> int:
        """The steps of this round and all later ones, should each learn from so many prompts."""
        return sum(self.steps(rows, later) for later in range(number, self.rounds + 1))

    def fit(
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        verifier: Reward | Callable[..., Sequence[float]] | str | Path,
        out: str | Path,
        split: str = "train",
        resume: bool = False,
        save_every: int = 100,
    ) -> Result:
        """Train on the rows' prompts and leave a finished run in the folder `out`.

        Args:
            model: a folder, a name on the Hugging Face Hub, or smollm2; in Python also a loaded model.
            data: a file or a name on the Hugging Face Hub, whose prompts are used; in Python also a `datasets.Dataset`
                or a list of rows.
            verifier: what reads and checks answers: exact, number, math, regex:PATTERN or reasoning-gym, each with
                @COLUMN where the answer stands in another column than `answer`; or any reward, 1 or more being right.
            out: the run's folder, which must be new, or that of the run to go on with.
            split: which rows, such as train, train[:100] or train[-100:].
            resume: go on from the last checkpoint in `out`; the result equals the uninterrupted run's bit for bit.
            save_every: steps between checkpoints; there is one more after each round's sampling.

        Raises:
            InputError: the data, the model, the verifier or the folder cannot be used.
            TrainingStopped: a loss was not finite, or a round found nothing to learn from.
        """
        require_positive(save_every=save_every)

        def work(policy: Policy, prompts: Sequence[EncodedPrompt], run: Run) -> None:
            checks = as_reward(verifier, policy, dtype=compute_dtype(self.dtype, policy.device))
            self.check(checks, prompts)
            train(self, policy, prompts, checks, run, save_every)

        return on_prompts(self, model, data, out, work, split=split, resume=resume, given={"verifier": verifier})


@dataclass(frozen=True)
class Selection:
    """What a round learns from, and the numbers to log of it."""

    samples: list[Sample]
    numbers: dict[str, float]

    @property
    def told(self) -> str:
        """It in a line."""
        numbers = "  ".join(f"{name} {value:.3g}" for name, value in self.numbers.items())
        return f"{len(self.samples)} samples to learn from: {numbers}"


@dataclass(frozen=True)
class Round:
    """A round at work, counted from 1: the policy as the rounds before left it, and what checks its answers."""

    method: Rounds
    number: int
    policy: Policy
    verifier: Reward

    def ask(self, prompts: Sequence[EncodedPrompt]) -> list[Sample]:
        """The method's number of samples of every prompt, prompt after prompt."""
        return respond(self.method, self.policy, prompts, self.number)

    def score(self, samples: Sequence[Sample]) -> Tensor:
        """The verifier's score of every sample, (C,)."""
        return scored(self.verifier, samples, f"round {self.number}")

    def select(self, prompts: Sequence[EncodedPrompt]) -> Selection:
        """What the policy's samples of the prompts teach.

        Raises:
            TrainingStopped: nothing.
        """
        samples = self.ask(prompts)
        selected = self.method.select(self, prompts, samples)
        if not selected.samples:
            raise TrainingStopped(
                f"round {self.number}: {self.method.nothing}, so there is nothing to learn from; raise --group-size or "
                "--max-new-tokens, begin with a model that succeeds at times, or with easier prompts."
            )
        return Selection(selected.samples, {"round": self.number, **selected.numbers, **lengths(samples)})


def train(
    method: Rounds, policy: Policy, prompts: Sequence[EncodedPrompt], verifier: Reward, run: Run, save_every: int
) -> None:
    """The main loop: one round after the other, from the last checkpoint or the beginning.

    A round's first checkpoint lies before its first step, and says that its file is there: sampling is not repeated.
    """
    networks = {"model": policy.network}
    base = copy.deepcopy(policy.network.state_dict()) if method.from_base and method.rounds > 1 else None
    objective = maximum_likelihood(policy, method.temperature)
    optimizer = Optimizer(networks, method, 0)
    step, state = restore(run, optimizer)
    run.begin(step, method.steps_from(1, len(prompts)))
    for number in range(state["numbers"]["round"] if state else 1, method.rounds + 1):
        file = run.folder / f"round-{number}.jsonl"
        if not state:
            selection = Round(method, number, policy, verifier).select(prompts)
            write_rows(file, map(as_row, selection.samples))
            run.say(selection.told)
            if base is not None:
                policy.network.load_state_dict(base)
            optimizer, state = Optimizer(networks, method, 0), {"before": step, "numbers": selection.numbers}
            checkpoint.save(run.folder / "checkpoints", step, optimizer, state)
        rows = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
        trees = as_trees(rows)
        passes = Passes(
            trees,
            method.order(len(trees)),
            lambda batch: LossTerm(objective, pack(batch, method.tokens_per_pass, policy.device), "token"),
            **state,
        )
        optimizer.total = method.steps(len(trees), number)
        run.expect(passes.before + method.steps_from(number, len(trees)))
        if step == passes.before:
            run.sample(step + 1, [{name: row[name] for name in ("prompt", "completion")} for row in rows[:SHOWN]])
        try:
            passes.make(optimizer, run, save_every, step - passes.before)
        except TrainingStopped as error:
            raise TrainingStopped(f"round {number}, {error}") from error
        step, state = passes.before + optimizer.total, {}


def as_row(sample: Sample) -> dict[str, Any]:
    """What is learnt from a sample, as a demonstration with its tokens and the row of the data it comes from."""
    return {
        "prompt": text_to_json(sample.prompt.prompt),
        "completion": sample.text,
        "row": sample.row,
        "prompt_tokens": sample.prompt_tokens,
        "tokens": sample.completion.tokens,
    }


def as_trees(rows: Sequence[dict[str, Any]]) -> list[Tree]:
    """A tree for every prompt of such rows, in order, with a branch for each of its rows."""
    return [
        Tree(tuple(group[0]["prompt_tokens"]), tuple(Branch(tuple(r["tokens"])) for r in group), row=number)
        for number, group in ((n, list(rows)) for n, rows in groupby(rows, key=lambda row: row["row"]))
    ]
