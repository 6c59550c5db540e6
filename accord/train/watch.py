"""An independent measure of a policy in training: a quantity that it is never trained on, tracked as training goes on.

A reward that is optimized stops being a good measure (Goodhart's law). Another one that gives no gradient stays one:
the gold reward of a small world, a reward model fitted to other data, a verifier, or a judge. For a judge the measure
is the mean P(win) against the starting policy's answers to the same prompts. It is taken on the step's own samples,
which the policy drew before the step's update, or, with held-out prompts, on fresh answers to them, before the first
step and after updates. Either way the starting policy is measured too, so the best policy is never worse than it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from accord import data, engine, feedback
from accord.console import without_secrets
from accord.engine.config import SamplingConfig, TrainingConfig
from accord.errors import InputError
from accord.files import write_text
from accord.records import EncodedPrompt, Prompt, Sample
from accord.train import inputs
from accord.train.options import PolicyOptions, RunOptions
from accord.train.run import Run

if TYPE_CHECKING:
    from accord.arrays import Tokens
    from accord.engine import Model, Policy, Sampling
    from accord.feedback.judge import Judge
    from accord.feedback.reward import Reward

SMOOTHED = 5
"""Maximum number of recent measurements in the mean by which the best policy is chosen."""
EVEN = 0.5
"""P(win) of the starting policy against itself."""
AT_START, HELD_OUT = 2, 3
"""Last components of the seeds of samples drawn for the measure: the starting policy's, and those for held-out prompts.
"""


def make_watch(
    run: Run,
    options: RunOptions,
    method: TrainingConfig,
    model: Model,
    *,
    trained: Iterable[Tokens],
    prompts: Sequence[EncodedPrompt] = (),
    is_rewarded: bool = False,
) -> Watch | None:
    """The `Watch` that the options ask for, if any, made before training starts.

    Args:
        trained: the prompts trained on; the held-out ones should not be among them.
        prompts: the prompts that the steps' own samples answer, if the method samples.
        is_rewarded: whether the server key in the options belongs to the reward, not to the measure.

    Raises InputError where the options cannot be used.
    """
    if not (isinstance(options, PolicyOptions) and options.watch is not None and isinstance(model, engine.Policy)):
        return None
    measure = feedback.named.as_measure(options.watch, model)
    (replace(options, reward_key=None) if is_rewarded else options).allow([measure])
    sampling = method.sampling() if isinstance(method, SamplingConfig) else engine.Sampling(seed=method.seed)
    held_out: list[EncodedPrompt] = []
    if options.watch_data is not None:
        sampling = replace(sampling, max_new_tokens=options.watch_tokens or sampling.max_new_tokens)
        asked = data.load_prompts(options.watch_data)
        run.record_digests(watch_data=inputs.digest_of_rows(asked))
        held_out = encode_prompts(run, model, asked, room=sampling.max_new_tokens, longest=method.max_length)
    feedback.reward.check_prompts(measure, held_out or prompts)
    if known := {p.tokens for p in held_out}.intersection(trained):
        run.print(f"{len(known)} prompts of watch_data are trained on too: on these the measure is not held out.")
    return Watch(model, run, measure, sampling, held_out, every=options.watch_every or (1 if prompts else 5))


def encode_prompts(run: Run, policy: Policy, rows: Sequence[Prompt], *, room: int, longest: int) -> list[EncodedPrompt]:
    """The prompts that leave `room` for an answer within `longest` tokens; the run prints which do not."""
    prompts, left_out = data.encoding.encode_prompts(
        policy.tokenizer, rows, room=room, context=policy.context, longest=longest
    )
    for line in left_out:
        run.print(line)
    return prompts


def check_independent(watch: Any, reward: Any) -> None:
    """Raise InputError where the measure is the reward that is trained on, or a part of it."""
    same = watch is reward
    if isinstance(watch, str) and isinstance(reward, str):
        same = not {*feedback.formula.names_in(watch)}.isdisjoint(feedback.formula.names_in(reward))
    if watch is not None and same:
        raise InputError(
            f"watch {without_secrets(str(watch))} is part of the reward trained on, so it is not an independent "
            "measure; each part of the reward is logged anyway: watch something else."
        )


class BestModel:
    """The best model of a run so far, at first the starting model: in memory, and on disk with each checkpoint.

    Ranks that share a model hold their shares of the best one. `best` has the step after which the model was best and
    its measured value; it is empty before the first measurement.
    """

    def __init__(self, model: Model, run: Run) -> None:
        self.model, self.run = model, run
        self.best: dict[str, float] = {}
        self.written: dict[str, float] = {}
        self.kept = self.copy()

    def copy(self) -> Model:
        """A copy of the current model."""
        return self.model.with_network(engine.shard.shard(engine.adapters.copy_sharing_base(self.model.network)))

    def keep(self) -> None:
        """Keep the current weights as the best."""
        engine.adapters.load_own_state(self.kept.network, engine.adapters.own_state(self.model.network))

    def save(self) -> None:
        """Write the best model into the run's folder, unless it is there already."""
        if self.best != self.written:
            self.kept.save(self.run.folder / "best", self.run.save_dtype)
            self._write()

    def confirm_saved(self) -> None:
        """On resuming: check that best/ is in the run's folder, and rewrite best.json.

        Raises InputError where it is missing or damaged.
        """
        if self.best:
            engine.Team.here().lead(self._require_saved)
            self._write()

    def _require_saved(self) -> None:
        try:
            engine.folders.locate(str(self.run.folder / "best"))
        except InputError as error:
            raise InputError(
                f"the best model so far is lost: {str(error).rstrip('.')}; restore it, or delete "
                f"{self.run.folder / 'checkpoints'} to start over."
            ) from None

    def _write(self) -> None:
        self.written = self.best
        engine.Team.here().lead(partial(write_text, self.run.folder / "best.json", json.dumps(self.best)))

    def settle(self, *, best: bool) -> None:
        """Save at the end of the run; with `best`, load the best weights into the model, if anything was measured."""
        self.save()
        if best and self.best:
            engine.load.read_weights(self.model, self.run.folder / "best")


class Watch(BestModel):
    """An independent measure of the policy, taken from before the first step on, and the best policy by it.

    Args:
        run: the run whose folder gets `best/` and `best.json`.
        held_out: prompts to answer for the measure; without them it is taken on the steps' own samples.
        every: steps between measurements.
    """

    def __init__(
        self,
        policy: Policy,
        run: Run,
        measure: Reward | Judge,
        sampling: Sampling,
        held_out: Sequence[EncodedPrompt] = (),
        *,
        every: int = 1,
    ) -> None:
        super().__init__(policy, run)
        self.policy, self.measure, self.sampling = policy, measure, sampling
        self.held_out, self.every = held_out, every
        self.lag = 0 if held_out else 1
        """How many steps the measured policy is behind the update."""
        self.recent: list[float] = []
        self.before = self.kept if held_out else self.copy()
        self.start: Policy | None = None
        if feedback.named.only_compares(measure):
            self.start = policy.frozen_copy()
            engine.shard.shard(self.start.network)

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over the rows of a resumed run; for a new one, write the measurement before training."""
        for row in rows:
            if "watched" in row:
                self._is_best(int(row["step"]) - self.lag, row["watched"])
        if self.held_out and not rows:
            self.run.log(0, self._measured(0, ()), 0)
        elif rows and rows[-1]["step"]:  # a checkpoint was saved, and the best model with it
            self.confirm_saved()
        if self.lag:
            engine.adapters.load_own_state(self.before.network, engine.adapters.own_state(self.model.network))

    def after(self, step: int, samples: Sequence[Sample]) -> dict[str, float]:
        """The measurement after `step` (counted from 1), given its samples; TrainingStopped where it is not finite."""
        row = {} if (step - 1) % self.every else self._measured(step, samples)
        if self.lag and step % self.every == 0:  # the next step's samples will be this policy's
            engine.adapters.load_own_state(self.before.network, engine.adapters.own_state(self.model.network))
        return row

    def settle(self, *, best: bool) -> None:
        super().settle(best=best)
        if self.best.get("step") == 0:
            kept = "best/ and model/ are that model" if best else "best/ is that model"
            value = f"{self.best['watched']:.4g}"
            self.run.print(f"By the watched measure no model was better than the starting one ({value}): {kept}.")

    def _measured(self, step: int, samples: Sequence[Sample]) -> dict[str, float]:
        """The measurement after a step as a row, empty without a valid verdict; the measured policy is kept if best."""
        if self.held_out:  # fresh answers, so that the noise is independent between steps
            samples = self.policy.sample(self.held_out, 1, self._seeded(step, HELD_OUT))
        value = self._value(step, samples)
        if value is None:
            return {}
        if self._is_best(step - self.lag, value):
            if self.lag:
                self.kept, self.before = self.before, self.kept
            else:
                self.keep()
        return {"watched": value}

    def _is_best(self, step: int, value: float) -> bool:
        """Whether the policy after `step` is the best: its measurement and the mean of the last ones must be higher.

        The mean alone would still include values from before a collapse.
        """
        if not self.best:
            self.best = {"step": 0, "watched": EVEN if self.start is not None else value}
        self.recent = [*self.recent, value][-SMOOTHED:]
        mean = sum(self.recent) / len(self.recent)
        if step == 0 or min(value, mean) <= self.best["watched"]:
            return False
        self.best = {"step": step, "watched": mean}
        return True

    def _seeded(self, *seed: int) -> Sampling:
        own = self.sampling.seed
        return replace(self.sampling, seed=((own,) if isinstance(own, int) else own) + seed)

    def _value(self, step: int, samples: Sequence[Sample]) -> float | None:
        """The samples' mean score, or their mean P(win) against the starting policy's over the valid verdicts."""
        team = engine.Team.here()
        if self.start is None:
            scored = partial(feedback.reward.finite_scores, self.measure, samples, f"step {step}, watched")  # type: ignore[arg-type]
            return team.lead(lambda: float(scored().double().mean()))
        prompts = [EncodedPrompt(s.prompt, s.prompt_tokens, s.row) for s in samples]
        theirs = self.start.sample(prompts, 1, self._seeded(step, AT_START))
        judge = feedback.judge.BothOrders(self.measure)  # type: ignore[arg-type]
        wins = team.lead(lambda: [v.first_wins for v in judge.samples(samples, theirs)])
        valid = [win for win in wins if win is not None]
        return sum(valid) / len(valid) if valid else None
