"""An independent measure of a policy in training: what the policy is never trained on, looked at as it goes.

A reward that is optimized stops being a measure (Goodhart). Another one, that no gradient comes from, stays one: the
gold reward of a small world, a reward model of other data, a verifier, or a judge, for which the measure is the mean
P(win) over what the starting policy says to the same prompts. It is taken of the step's own samples, which the policy
gave before the step's update; or, where there are prompts held out for it, of fresh answers to them after the update.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from accord.engine.load import reload
from accord.engine.models import Policy
from accord.engine.precision import compute_dtype, frozen_copy
from accord.feedback.combine import BothOrders
from accord.feedback.judge import Judge, Reward, check_prompts
from accord.feedback.named import only_compares
from accord.files import write_text
from accord.methods.rollouts import SamplingConfig, respond, scored
from accord.records import EncodedPrompt, Sample
from accord.train.run import Run

SMOOTHED = 5
"""Measurements in the mean by which the best policy is chosen."""
AT_START, HELD_OUT = 2, 3
"""What the seeds of samples taken for the measure alone end with: the starting policy's, and held-out prompts'."""


def check_held_out(
    measure: Reward | Judge, held_out: Sequence[EncodedPrompt], trained: Iterable[tuple[int, ...]], run: Run
) -> None:
    """Tell how many prompts held out for a measure are trained on too.

    Raises:
        InputError: a prompt's row lacks what the measure reads.
    """
    check_prompts(measure, held_out)
    if known := {p.tokens for p in held_out}.intersection(trained):
        run.say(f"{len(known)} prompts of watch_data are trained on too: there the measure is not held out.")


class NoWatch:
    """No measure: nothing is measured, or kept."""

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over the rows of a run that goes on."""

    def after(self, step: int, samples: Sequence[Sample] = ()) -> dict[str, float]:
        """What is measured after a step, counted from 1."""
        return {}

    def save(self) -> None:
        """Write the best policy so far into the run's folder."""

    def settle(self) -> None:
        """Make the policy what it was at its best."""


class Watch(NoWatch):
    """A measure of a policy at work, and the best policy by it so far.

    Args:
        method: how the policy samples.
        policy: the policy, as it is before its training.
        run: whose folder gets `best/` and `best.json`.
        measure: what measures it.
        held_out: prompts to be answered for the measure; without them it is taken of the steps' own samples.
        every: steps between measurements.
    """

    def __init__(
        self,
        method: SamplingConfig,
        policy: Policy,
        run: Run,
        measure: Reward | Judge,
        held_out: Sequence[EncodedPrompt] = (),
        *,
        every: int = 1,
    ) -> None:
        self.method, self.policy, self.run, self.measure, self.every = method, policy, run, measure, every
        self.held_out = held_out
        self.recent: list[float] = []
        self.best: dict[str, float] = {}
        self.written: dict[str, float] = {}
        self.kept = replace(policy, network=copy.deepcopy(policy.network))
        compares, precision = only_compares(measure), compute_dtype(method.dtype, policy.device)
        self.start: nn.Module | None = frozen_copy(policy.network, precision) if compares else None

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over the rows of a run that goes on; the best policy so far is the one in its folder."""
        for row in rows:
            if "watched" in row:
                self._is_best(int(row["step"]), row["watched"])
        self.written = self.best

    def after(self, step: int, samples: Sequence[Sample] = ()) -> dict[str, float]:
        """What is measured after a step, counted from 1, whose samples these are; the policy is kept if it is best.

        Raises:
            TrainingStopped: the measure of a sample is not finite.
        """
        if (step - 1) % self.every:
            return {}
        if self.held_out:
            samples = self._answers(step)
        value = self._compared(step, samples) if self.start is not None else self._scored(step, samples)
        if value is None:
            return {}
        if self._is_best(step, value):
            self.kept.network.load_state_dict(self.policy.network.state_dict())
        return {"watched": value}

    def save(self) -> None:
        """Write the best policy so far into the run's folder, unless it is there."""
        if self.best != self.written:
            self.kept.save(self.run.folder / "best")
            write_text(self.run.folder / "best.json", json.dumps(self.best))
            self.written = self.best

    def settle(self) -> None:
        """Make the policy what it was at its best; one that was not measured yet stays as it is."""
        self.save()
        if self.best:
            best = reload(self.policy, self.run.folder / "best")
            self.policy.network.load_state_dict(best.network.state_dict())

    def _is_best(self, step: int, value: float) -> bool:
        """Whether the mean of the last measurements is the highest so far; until there are enough, the latest is."""
        self.recent.append(value)
        few = len(self.recent) <= SMOOTHED
        self.recent = self.recent[-SMOOTHED:]
        mean = sum(self.recent) / len(self.recent)
        if not few and mean <= self.best["watched"]:
            return False
        self.best = {"step": step, "watched": mean}
        return True

    def _answers(self, step: int) -> list[Sample]:
        """Fresh answers to the prompts held out, one each; fresh, so that the noise of two steps is independent."""
        return respond(self.method, self.policy, self.held_out, step, HELD_OUT, n=1)

    def _scored(self, step: int, samples: Sequence[Sample]) -> float:
        return float(scored(self.measure, samples, f"step {step}, watched").double().mean())  # type: ignore[arg-type]

    def _compared(self, step: int, samples: Sequence[Sample]) -> float | None:
        """The mean P(win) of the samples, each against one of the starting policy's, by the valid verdicts."""
        prompts = [EncodedPrompt(s.prompt, s.prompt_tokens, s.row) for s in samples]
        theirs = respond(self.method, self.policy, prompts, step, AT_START, n=1, network=self.start)
        wins = [v.first_wins for v in BothOrders(self.measure).samples(samples, theirs)]  # type: ignore[arg-type]
        valid = [win for win in wins if win is not None]
        return sum(valid) / len(valid) if valid else None
