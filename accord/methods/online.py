"""The driver of every method that learns from its own samples: prompts in, completions out, scored, learnt from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict

import torch
from torch import nn

from accord.data import Order, load_prompts
from accord.data.load import Source
from accord.engine import checkpoint
from accord.engine.fit import Optimizer
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.engine.precision import compute_dtype
from accord.errors import InputError
from accord.feedback.combine import BothOrders
from accord.feedback.judge import Judge, Reward, check_prompts
from accord.feedback.named import as_judge, as_measure, as_reward
from accord.methods.offline import Result, describe, require_positive, restore, run_in_folder
from accord.methods.rollouts import Rollout, SamplingConfig, encoded, shown, summary
from accord.records import EncodedPrompt
from accord.train.run import Run, read_metrics
from accord.train.watch import NoWatch, Watch, check_held_out

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Course(TypedDict, total=False):
    """The arguments of `Online.run` that every `fit` takes besides its own, and hands on to it."""

    split: str
    resume: bool
    save_every: int
    sample_every: int
    watch: Any
    watch_data: Source | None
    watch_every: int
    stop_when: str | None


class Learner(ABC):
    """A method at work: the networks it trains, and how it learns from what its policy says to a batch of prompts."""

    networks: Mapping[str, nn.Module]

    @abstractmethod
    def step(
        self, step: int, prompts: Sequence[EncodedPrompt], optimizer: Optimizer
    ) -> tuple[Rollout, dict[str, float]]:
        """Sample, score, update the networks: what was said, and the numbers to log."""

    def state(self) -> dict[str, Any]:
        """What must survive a restart besides weights and optimizer."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:  # noqa: B027
        """Take over what `state` returned; nothing, in a run that begins."""


@dataclass(kw_only=True)
class Online(SamplingConfig, ABC):
    """A method that samples, has the samples scored by a reward, and learns from that."""

    source: ClassVar[str] = "reward"

    learning_rate: float = 1e-6
    """Peak step size of AdamW."""
    batch_size: int = 32
    """Prompts in one step."""

    @abstractmethod
    def learner(self, policy: Policy, feedback: Any) -> Learner:
        """The method at work on a policy, with what says how good its samples are."""

    def fit(
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        reward: Reward | Callable[..., Sequence[float]] | str | Path,
        out: str | Path,
        **course: Unpack[Course],
    ) -> Result:
        """Train on the rows' prompts and leave a finished run in the folder `out`.

        Args:
            reward: what scores the samples: a reward model's folder, module:function, a verifier (exact, number, math,
                regex:PATTERN, reasoning-gym), a URL, a small world (cafe), or a weighted sum such as
                "runs/rm/model + 0.5 * rewards:brief"; in Python also a function or any `Reward`.
            course: the arguments of `run`.

        Raises:
            InputError: the data, the models, the reward or the folder cannot be used.
            TrainingStopped: a loss or a reward was not finite.
        """
        return self.run(model, data, reward, out, **course)

    def run(
        self,
        model: Policy | str | Path,
        data: Source,
        source: Any,
        out: str | Path,
        *,
        split: str = "train",
        resume: bool = False,
        save_every: int = 50,
        sample_every: int = 10,
        watch: Any = None,
        watch_data: Source | None = None,
        watch_every: int = 1,
        stop_when: str | None = None,
    ) -> Result:
        """A run from its beginning or its last checkpoint; `source` is what the feedback is made of.

        Args:
            model: a folder, a name on the Hugging Face Hub, or smollm2; in Python also a loaded model.
            data: a file or a name on the Hugging Face Hub, whose prompts are used; in Python also a `datasets.Dataset`
                or a list of rows.
            out: the run's folder, which must be new, or that of the run to go on with.
            split: which rows, such as train, train[:100] or train[-100:].
            resume: go on from the last checkpoint in `out`; the result equals the uninterrupted run's bit for bit.
            save_every: steps between checkpoints.
            sample_every: steps between samples written to `samples.jsonl`.
            watch: an independent measure, never trained on, whose best model is kept in best/: anything that can be a
                reward, or a judge, who compares the samples with those of the starting model.
            watch_data: prompts held out to be answered for that measure, in place of the steps' own samples.
            watch_every: steps between measurements.
            stop_when: alarms (docs/alarms.md) that end the run, with commas between them; the model is then the best by
                the watched measure, or else the last.
        """
        require_positive(save_every=save_every, sample_every=sample_every, watch_every=watch_every)
        if watch is None and watch_data is not None:
            raise InputError("watch_data is answered for a measure; say which by watch.")
        watched = {} if watch is None else {"watch": watch, "watch_data": watch_data, "watch_every": watch_every}

        def work(policy: Policy, prompts: Sequence[EncodedPrompt], run: Run) -> None:
            dtype = compute_dtype(self.dtype, policy.device)
            feedback = self.feedback(source, policy, dtype)
            check_prompts(feedback, prompts)
            looking = NoWatch()
            if watch is not None:
                measure = as_measure(watch, policy, dtype=dtype)
                held_out = [] if watch_data is None else encoded(self, policy, load_prompts(watch_data), run)
                if held_out:
                    check_held_out(measure, held_out, (p.tokens for p in prompts), run)
                else:
                    check_prompts(measure, prompts)
                looking = Watch(self, policy, run, measure, held_out, every=watch_every)
            train(self, self.learner(policy, feedback), prompts, run, looking, save_every, sample_every)

        given = {self.source: source, **watched, "stop_when": stop_when}
        return on_prompts(self, model, data, out, work, split=split, resume=resume, given=given)

    def feedback(self, source: Any, policy: Policy, dtype: torch.dtype) -> Any:
        """What says how good samples are, from what `fit` was given for it."""
        return as_reward(source, policy, dtype=dtype)


@dataclass(kw_only=True)
class JudgeMethod(Online, ABC):
    """A method that samples, has the samples compared by a judge, and learns from that."""

    source: ClassVar[str] = "judge"

    def fit(  # type: ignore[override]
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        judge: Judge | Callable[..., Sequence[float | None]] | str | Path,
        out: str | Path,
        **course: Unpack[Course],
    ) -> Result:
        """Train on the rows' prompts and leave a finished run in the folder `out`; see `Online.fit`.

        Args:
            judge: what compares the samples, in both orders where it might favor one: the folder of a preference model
                or of a reward model, ai:MODEL or the YAML file of an AI judge, module:function, or anything that can be
                a reward; in Python also a function or any `Judge`.
        """
        return self.run(model, data, judge, out, **course)

    def feedback(self, source: Any, policy: Policy, dtype: torch.dtype) -> Any:
        return BothOrders(as_judge(source, policy, dtype=dtype))


@dataclass(kw_only=True)
class DistillMethod(Online, ABC):
    """A method that samples, and learns from what a teacher of the same vocabulary makes of the samples."""

    source: ClassVar[str] = "teacher"

    def fit(  # type: ignore[override]
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        teacher: Policy | str | Path,
        out: str | Path,
        **course: Unpack[Course],
    ) -> Result:
        """Train on the rows' prompts and leave a finished run in the folder `out`; see `Online.fit`.

        Args:
            teacher: a folder, a name on the Hugging Face Hub, or smollm2, of a model with the student's vocabulary; in
                Python also a loaded model.
        """
        return self.run(model, data, teacher, out, **course)

    def feedback(self, source: Any, policy: Policy, dtype: torch.dtype) -> Policy:
        teacher = source if isinstance(source, Policy) else load_model(str(source))
        if not teacher.same_vocabulary(policy):
            raise InputError(
                f"the teacher {teacher.name} and the student {policy.name} have different vocabularies, so the teacher "
                "cannot score the student's tokens; sample from it and fine-tune on that instead."
            )
        return teacher


def on_prompts(
    method: SamplingConfig,
    model: Policy | str | Path,
    data: Source,
    out: str | Path,
    work: Callable[[Policy, Sequence[EncodedPrompt], Run], None],
    *,
    split: str,
    resume: bool,
    given: Mapping[str, Any],
) -> Result:
    """A run of a method that samples: its work on the rows' prompts, unless that is finished, then model and report.

    `given` is what `fit` was given besides, for the run's folder.
    """
    rows = load_prompts(data, split=split)
    policy = model if isinstance(model, Policy) else load_model(str(model))
    settings = describe(method, model=policy.name, data=data, split=split, **given)

    def train_on(run: Run) -> None:
        work(policy, encoded(method, policy, rows, run), run)

    return run_in_folder(out, settings, resume, policy, train_on)


def train(
    method: Online,
    learner: Learner,
    prompts: Sequence[EncodedPrompt],
    run: Run,
    watch: NoWatch,
    save_every: int,
    sample_every: int,
) -> None:
    """The main loop: sample, score, learn, from the last checkpoint or the beginning to the end or a chosen alarm."""
    order = Order(len(prompts), method.batch_size, method.seed)
    total = method.max_steps or order.steps(method.epochs)
    optimizer = Optimizer(learner.networks, method, total)
    folder = run.folder / "checkpoints"
    first, state = restore(run, optimizer)
    learner.restore(state)
    run.begin(first, total)
    watch.restore(read_metrics(run.folder))
    for step in range(first, total):
        rollout, row = learner.step(step, [prompts[i] for i in order.batch(step)], optimizer)
        row = summary(rollout) | row | watch.after(step + 1, rollout.samples)
        run.log(step + 1, row, sum(t.size for t in rollout.trees))
        if step % sample_every == 0 or step + 1 == total or run.stopping:
            run.sample(step + 1, shown(rollout))
        if run.stopping:
            watch.settle()
            return
        if (step + 1) % save_every == 0 and step + 1 < total:
            watch.save()
            checkpoint.save(folder, step + 1, optimizer, learner.state())
    watch.save()
