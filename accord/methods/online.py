"""The base of methods that learn from their own samples: prompts in, completions sampled, scored and learned from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from accord import data, engine, feedback, prompting
from accord.engine.config import SamplingConfig
from accord.errors import InputError, LeftOut
from accord.methods.method import Method, as_policy
from accord.records import EncodedPrompt, Prompt
from accord.train.held_out import RunData
from accord.train.learner import Learner
from accord.train.loop import OnStep, Result, train
from accord.train.options import PolicyOptions, SamplingOptions
from accord.train.run import Run
from accord.train.watch import check_independent, make_watch

if TYPE_CHECKING:
    from accord.data.load import Source
    from accord.engine import Optimizer, Policy
    from accord.feedback.judge import Judge
    from accord.feedback.reward import Reward
    from accord.feedback.users import Dialogue


@dataclass(kw_only=True)
class OnlineMethod(Method, SamplingConfig, ABC):
    """A method that samples, has the samples scored, and learns from the scores; subclasses' `fit` names the scorer."""

    options: ClassVar[type[PolicyOptions]] = SamplingOptions

    learning_rate: float = 1e-6
    batch_size: int = 32
    """Prompts per step."""

    @property
    def samples_ahead(self) -> bool:
        """Whether a step's samples are drawn while earlier steps are trained on."""
        return False

    @abstractmethod
    def learner(self, policy: Policy, feedback: Any) -> Learner:
        """The learner of this method for a policy, with what scores its samples."""

    def check(self, scorer: Any, prompts: Sequence[EncodedPrompt]) -> None:
        """Raise InputError, before sampling, where the scorer cannot score samples of these prompts."""
        feedback.reward.check_prompts(scorer, prompts)

    def train(
        self,
        model: Policy | str | Path,
        rows: Source,
        out: str | Path,
        on_step: OnStep | None,
        options: Mapping[str, Any],
        scorer_for: Callable[[Policy], Any],
        **source: Any,
    ) -> Result:
        """The body of `fit`: `scorer_for` makes the scorer of a policy's samples from `source`, the arguments given to
        `fit`."""
        if self.memory:
            policy = as_policy(model, self)
            smaller = engine.plan.fitting(self, policy)
            return smaller.train(policy, rows, out, on_step, options, scorer_for, **source)
        run_options = self.options(**options)
        steps_sample = isinstance(run_options, SamplingOptions) and not self.samples_ahead
        run_options.check_watch(samples=steps_sample)
        check_independent(run_options.watch, *source.values())

        run_data = RunData(run_options, rows, self.seed, partial(read_prompts, run_options))
        policy = engine.memory.prepare_training(as_policy(model, self), self)
        kind = prompting.asynchronous.AsynchronousSampler if self.samples_ahead else prompting.sampler.ServedSampler
        sampler = kind(self, out) if self.sampler else None

        def learner(run: Run) -> Learner:
            prompts, held_out = run_data.divide(run, partial(self.encode, policy))
            scorer = scorer_for(policy)
            run_options.allow([scorer])
            self.check(scorer, prompts)
            sampled = policy if sampler is None else policy.sampled_by(sampler)
            made = self.learner(sampled, scorer)  # before the policy is sharded, as the learner copies it
            made.sampler = sampler
            if sampler is not None:
                sampler.check(policy, prompts, self.sampling())
            if held_out:
                return made.learn_from(prompts, run_data.hold_out(run, made, policy, held_out))
            answered = prompts if steps_sample else ()
            trained = (p.tokens for p in prompts)
            watch = make_watch(run, run_options, self, sampled, trained=trained, prompts=answered, is_rewarded=True)
            return made.learn_from(prompts, watch)

        try:
            return train(learner, self, policy, out, run_options, on_step, data=rows, **source)
        finally:
            if sampler is not None:
                sampler.close()

    def encode(self, policy: Policy, prompts: Sequence[Prompt], left_out: LeftOut) -> list[EncodedPrompt]:
        """The prompts in the policy's tokens, without those that leave no room for a sample."""
        encoded, _ = data.encoding.encode_prompts(
            policy.tokenizer,
            prompts,
            room=self.max_new_tokens,
            context=policy.context,
            longest=self.max_length,
            left_out=left_out,
        )
        return encoded


def read_prompts(run_options: PolicyOptions, source: Source, split: str) -> tuple[list[Prompt], LeftOut]:
    """The prompts of a split, and the rows left out. Raises InputError where those are too many."""
    left_out = LeftOut(run_options.strict)
    prompts = data.load_prompts(source, split=split, columns=run_options.columns, left_out=left_out)
    left_out.require_few(run_options.max_bad)
    return prompts, left_out


@dataclass(kw_only=True)
class AsynchronousMethod(OnlineMethod, ABC):
    """A method that can learn from samples of the policy of some steps ago."""

    stale_steps: int = 0
    """Let servers sample this many steps ahead while a step trains, so that each step learns from samples of the policy
    that many steps ago; 0 waits for samples of the current policy."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stale_steps < 0:
            raise InputError(f"stale_steps must not be negative, but is {self.stale_steps}.")
        if self.stale_steps and not self.sampler:
            raise InputError("stale_steps needs servers that sample ahead: give sampler.")

    @property
    def samples_ahead(self) -> bool:
        return self.stale_steps > 0

    @property
    def kept_versions(self) -> int:
        return self.stale_steps + 1 if self.stale_steps else 0


class AsynchronousLearner(Learner):
    """A policy whose samples servers may draw ahead of its steps."""

    method: AsynchronousMethod
    policy: Policy

    @property
    def ahead(self) -> prompting.asynchronous.AsynchronousSampler | None:
        """The sampler that draws ahead, None if samples are drawn in each step."""
        return self.sampler if self.method.samples_ahead else None  # type: ignore[return-value]

    def before(self, step: int, run: Run, optimizer: Optimizer) -> bool:
        """Request the samples of this step and of `stale_steps` more, unless already requested."""
        if self.ahead is not None:
            method = self.method
            self.ahead.forget(step)
            for later in range(step, min(step + method.stale_steps + 1, self.total)):
                prompts = [prompt.tokens for prompt in self.batch(later)]
                self.ahead.ask(later, step, self.policy, prompts, method.group_size, method.sampling(later))
        return super().before(step, run, optimizer)

    def state(self) -> dict[str, Any]:
        return {} if self.ahead is None else {"ahead": self.ahead.state(self.policy)}

    def restore(self, state: Mapping[str, Any], run: Run, optimizer: Optimizer) -> None:
        if self.ahead is not None:
            self.ahead.restore(state.get("ahead", ()))


@dataclass(kw_only=True)
class RewardMethod(OnlineMethod, ABC):
    """A method whose samples are scored by a reward."""

    def fit(
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        reward: Reward | Callable[..., Sequence[float]] | str | Path,
        out: str | Path,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Result:
        """Train on the rows' prompts with a reward, as `Method.fit` does.

        Args:
            data: a file or a name on the Hugging Face Hub, whose prompts are used; or several, each with :WEIGHT
                for a mix; in Python also a `datasets.Dataset`, a list of rows, or a mapping of files to weights.
            reward: what scores the samples: a reward model's folder, module:function, a verifier (exact, number, math,
                regex:PATTERN, reasoning-gym, constraints), a URL, a small world (cafe), beats:JUDGE (how a judge
                compares a sample with the row's completion), or a weighted sum such as "runs/rm/model + 0.5 *
                rewards:brief"; in Python also a function or any `Reward`.
        """
        scorer_for = partial(feedback.named.as_reward, reward)
        return self.train(model, data, out, on_step, options, scorer_for, reward=reward)


@dataclass(kw_only=True)
class DialogueMethod(RewardMethod, ABC):
    """A reward method that can also train on whole conversations with a simulated user."""

    user: str | Callable[..., Any] | None = None
    """Converse with a simulated user from each prompt on: module:function, which gets the messages so far and returns
    what the user says next, or None; or a small world's guest (counter). Only the policy's turns are trained on."""
    max_turns: int = 4
    """The most turns the policy takes in a conversation with a user."""
    reward_at: Literal["end", "turns", "turns-to-go"] = "end"
    """Which turns of a conversation are rewarded: the last (end); or each, where every turn learns from the sum of all
    rewards (turns), or from the rewards from that turn on (turns-to-go)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.user is not None and self.samples_ahead:
            raise InputError("turns with a user cannot be sampled ahead: leave stale_steps out.")
        if self.max_turns < 1:
            raise InputError(f"max_turns must be at least 1, not {self.max_turns}.")
        for name in ("max_turns", "reward_at"):
            if self.user is None and getattr(self, name) != getattr(DialogueMethod, name):
                raise InputError(f"{name} {getattr(self, name)} is for conversations: give a user.")

    def dialogue(self) -> Dialogue | None:
        """The dialogue with the simulated user, if there is one. Raises InputError where the user is unknown."""
        if self.user is None:
            return None
        return feedback.users.Dialogue(feedback.users.user_of(self.user), self.max_turns, self.reward_at)

    def check(self, scorer: Any, prompts: Sequence[EncodedPrompt]) -> None:
        super().check(scorer, prompts)
        if (dialogue := self.dialogue()) is not None:
            for encoded in prompts:
                dialogue.check(encoded.prompt, encoded.row)


@dataclass(kw_only=True)
class JudgeMethod(OnlineMethod, ABC):
    """A method whose samples are compared by a judge, in both orders if the judge may favor one."""

    def fit(
        self,
        model: Policy | str | Path,
        data: Source,
        *,
        judge: Judge | Callable[..., Sequence[float | None]] | str | Path,
        out: str | Path,
        on_step: OnStep | None = None,
        **options: Any,
    ) -> Result:
        """Train on the rows' prompts with a judge, as `Method.fit` does.

        Args:
            data: a file or a name on the Hugging Face Hub, whose prompts are used; or several, each with :WEIGHT
                for a mix; in Python also a `datasets.Dataset`, a list of rows, or a mapping of files to weights.
            judge: what compares the samples (in both orders, where it might favor one): the folder of a preference or
                reward model, ai:MODEL or the YAML file of an AI judge, module:function, or any reward; in Python also a
                function or any `Judge`.
        """

        def both_orders(policy: Policy) -> Judge:
            return feedback.judge.BothOrders(feedback.named.as_judge(judge, policy))

        return self.train(model, data, out, on_step, options, both_orders, judge=judge)
