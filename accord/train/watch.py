"""An independent measure of a policy in training: what the policy is never trained on, looked at as it goes.

A reward that is optimized stops being a measure (Goodhart). Another one, that no gradient comes from, stays one: the
gold reward of a small world, a reward model of other data, a verifier, or a judge, for which the measure is the mean
P(win) over what the starting policy says to the same prompts. It is taken of the step's own samples, which the policy
gave before the step's update; or, where there are prompts held out for it, of fresh answers to them before the first
step and after the update. Either way it is known of the starting policy, and the best policy is never worse than that.
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
"""Measurements, at most, in the mean by which the best policy is chosen."""
EVEN = 0.5
"""P(win) of the starting policy over itself."""
AT_START, HELD_OUT = 2, 3
"""What the seeds of samples taken for the measure alone end with: the starting policy's, and held-out prompts'."""


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
    """What watches a run, as its options say, made before the model is trained; InputError where they cannot be used.

    Args:
        trained: the prompts trained on, of which those held out should be none.
        prompts: those that the steps' own samples answer, where there are such.
        is_rewarded: whether the key of a server is for a reward, and not for the measure.
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
        run.made_of(watch_data=inputs.digest_of_rows(asked))
        held_out = encode_prompts(run, model, asked, room=sampling.max_new_tokens, longest=method.max_length)
    feedback.reward.check_prompts(measure, held_out or prompts)
    if known := {p.tokens for p in held_out}.intersection(trained):
        run.print(f"{len(known)} prompts of watch_data are trained on too: there the measure is not held out.")
    return Watch(model, run, measure, sampling, held_out, every=options.watch_every or (1 if prompts else 5))


def encode_prompts(run: Run, policy: Policy, rows: Sequence[Prompt], *, room: int, longest: int) -> list[EncodedPrompt]:
    """The prompts that leave `room` for an answer within `longest` tokens; the run says which do not."""
    prompts, left_out = data.encoding.encode_prompts(
        policy.tokenizer, rows, room=room, context=policy.context, longest=longest
    )
    for line in left_out:
        run.print(line)
    return prompts


def check_independent(watch: Any, reward: Any) -> None:
    """Raise InputError where a measure is, or is part of, the reward that is trained on."""
    same = watch is reward
    if isinstance(watch, str) and isinstance(reward, str):
        same = not {*feedback.formula.names_in(watch)}.isdisjoint(feedback.formula.names_in(reward))
    if watch is not None and same:
        raise InputError(
            f"watch {without_secrets(str(watch))} is part of the reward trained on, so it is no independent "
            "measure; each part of the reward is logged anyway: watch something else."
        )


class BestModel:
    """The best model of a run so far, at first the one it starts from: in memory, and with each checkpoint on disk.

    Ranks that share a model hold their shares of the best. `best` says after which step it is the model and what it was
    rated, and is empty while nothing was.
    """

    def __init__(self, model: Model, run: Run) -> None:
        self.model, self.run = model, run
        self.best: dict[str, float] = {}
        self.written: dict[str, float] = {}
        self.kept = self.copy()

    def copy(self) -> Model:
        """The model as it is now, beside it."""
        return self.model.with_network(engine.shard.shard(engine.adapters.copy_sharing_base(self.model.network)))

    def keep(self) -> None:
        """Keep the model as it is now."""
        engine.adapters.load_own_state(self.kept.network, engine.adapters.own_state(self.model.network))

    def save(self) -> None:
        """Write the best model so far into the run's folder, unless it is there."""
        if self.best != self.written:
            self.kept.save(self.run.folder / "best", self.run.save_dtype)
            self._write()

    def found_saved(self) -> None:
        """The best model is in the run's folder, with which a checkpoint is; best.json is written anew.

        Raises InputError where it is gone, or damaged.
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
        """The last `save`; where the run ends with the `best` model, make the model that, if any was rated."""
        self.save()
        if best and self.best:
            engine.load.read_weights(self.model, self.run.folder / "best")


class Watch(BestModel):
    """A measure of a policy at work, as it is before its training, and the best policy by it so far.

    Args:
        run: whose folder gets `best/` and `best.json`.
        held_out: prompts to be answered for the measure; without them it is taken of the steps' own samples.
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
        """The steps by which the policy that is measured is behind the update."""
        self.recent: list[float] = []
        self.before = self.kept if held_out else self.copy()
        self.start: Policy | None = None
        if feedback.named.only_compares(measure):
            self.start = policy.frozen_copy()
            engine.shard.shard(self.start.network)

    def restore(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over the rows of a run that goes on; of one that begins, write what was measured before it."""
        for row in rows:
            if "watched" in row:
                self._is_best(int(row["step"]) - self.lag, row["watched"])
        if self.held_out and not rows:
            self.run.log(0, self._measured(0, ()), 0)
        elif rows and rows[-1]["step"]:  # there is a checkpoint, and with it the best model is in the run's folder
            self.found_saved()
        if self.lag:
            engine.adapters.load_own_state(self.before.network, engine.adapters.own_state(self.model.network))

    def after(self, step: int, samples: Sequence[Sample]) -> dict[str, float]:
        """What is measured after a step, counted from 1, with these samples; TrainingStopped where it is not finite."""
        row = {} if (step - 1) % self.every else self._measured(step, samples)
        if self.lag and step % self.every == 0:  # the next step's samples will be this policy's
            engine.adapters.load_own_state(self.before.network, engine.adapters.own_state(self.model.network))
        return row

    def settle(self, *, best: bool) -> None:
        super().settle(best=best)
        if self.best.get("step") == 0:
            at = f"was better than at the start ({self.best['watched']:.4g})"
            kept = "best/ and model/ are the model as it was then" if best else "best/ is the model as it was then"
            self.run.print(f"By the watched measure nothing {at}: {kept}.")

    def _measured(self, step: int, samples: Sequence[Sample]) -> dict[str, float]:
        """The measure after a step as a row, empty where no verdict is valid; the policy it is of is kept if best."""
        if self.held_out:  # fresh answers, so that the noise of two steps is independent
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
        """Whether the policy after so many steps is the best: this measurement and the mean of the last ones say so.

        The mean alone would count what the policy was worth before it fell.
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
        """The mean score of the samples, or P(win) of each against one of the starting policy's, by valid verdicts."""
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
