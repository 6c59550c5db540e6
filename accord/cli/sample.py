"""`accord sample`: completions of prompts, one per row: all samples, the best by a reward, those above a threshold, or
those found by a search."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite, isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any

from accord import engine, feedback
from accord.cli.conversations import ConversationOptions
from accord.console import progress_bar, status
from accord.errors import InputError, named_rows
from accord.evaluate.options import AnswerOptions, takes
from accord.feedback.options import RewardOptions
from accord.outputs import require_file, save_rows
from accord.records import EncodedPrompt, Prompt, Sample, Text, text_to_json

if TYPE_CHECKING:
    from accord.engine import Policy, Sampling
    from accord.feedback.reward import Reward

BRANCH = 4
"""Default number of continuations of each beam in a search by reward."""


MOST = 1_000_000
"""The most samples of a prompt."""
MOST_BEAMS = 1000
"""The most beams of a search, continuations of each, and tokens per block."""
MOST_PENALTY = 100
"""The largest power of its length by which a completion's log-probability is divided."""


@dataclass(kw_only=True)
class ChoicesOptions(AnswerOptions):
    """The user's choices that a policy reads before each prompt."""

    choices: str | None = None
    """For a model trained by `accord fspo`: a file or Hub name of preferences or rankings with a column user."""
    given: int | None = None
    """How many of the user's choices in --choices to put before each prompt."""

    def require_both(self) -> None:
        """Raise InputError where only one of the two is given, or the number is negative."""
        if (self.choices is None) != (self.given is None):
            raise InputError("--choices and --given go together: a file of choices, and how many of each row's user.")
        if self.given is not None and self.given < 0:
            raise InputError(f"--given must be a number of choices, 0 or more, not {self.given}.")

    def reads(self, rows: Sequence[Prompt]) -> list[Text] | None:
        """The rows' prompts with their users' choices before them; None where no choices are asked for."""
        if not self.given or self.choices is None:
            return None
        from accord.data.choices import Choices, with_choices

        known = Choices.read(self.choices)
        return [with_choices(row.prompt, known.before(row, self.given, i)) for i, row in enumerate(rows)]


@dataclass(kw_only=True)
class SampleOptions(RewardOptions, ConversationOptions, ChoicesOptions):
    """How many samples are drawn for each prompt, and which are kept."""

    n: int = 1
    """Completions per prompt."""
    reward: str | None = None
    """A verifier (number, ...), a reward model, module:function, a URL, cafe, or a sum: "M + 0.5 * number"."""
    best_of: int | None = None
    """Sample this many completions per prompt and keep the one with the highest reward."""
    keep: int = 1
    """With --best-of, keep this many completions, the best first."""
    at_least: float | None = None
    """Keep only samples with at least this reward; with a verifier, 1 keeps the right ones."""
    top_k: int = 0
    """Draw only from the k most likely tokens (0: all)."""
    top_p: float = 1.0
    """Draw only from the most likely tokens that together have this probability (1: all)."""
    beams: int | None = None
    """Beam search for the likeliest completions with this many beams; with --block, the number kept by reward."""
    length_penalty: float = 1.0
    """Beam search divides a completion's log-probability by its length to this power; 0 favors short completions."""
    block: int | None = None
    """Search by reward: every this many tokens, extend each of the --beams (1) and keep those with the highest
    reward."""
    branch: int | None = None
    """Continuations drawn from each beam (default: 4)."""

    def __post_init__(self) -> None:
        RewardOptions.__post_init__(self)
        ConversationOptions.__post_init__(self)
        for option, count in (("n", self.n), ("best-of", self.best_of), ("keep", self.keep)):
            require_count(option, count)
        for option, chosen_by in (("best-of", self.best_of), ("at-least", self.at_least)):
            if chosen_by is not None and self.reward is None:
                raise InputError(f"--{option} needs --reward to choose by.")
        if self.best_of is not None and self.n != 1:
            raise InputError(f"--best-of {self.best_of} says how many samples are drawn; leave --n out.")
        if self.best_of is not None and self.temperature == 0:
            raise InputError("--best-of has nothing to choose from at --temperature 0, where all samples are the same.")
        if self.keep > (self.best_of or 1):
            raise InputError(f"--keep {self.keep} keeps the best of the samples of --best-of, which must be as many.")
        if self.at_least is not None and isnan(self.at_least):
            raise InputError("--at-least must be a number.")
        single = {"best-of": self.best_of, "at-least": self.at_least, "beams": self.beams, "block": self.block}
        for option, value in (single | {"choices": self.choices}).items():
            if value is not None:
                self.leave_out(option)
        self.require_both()
        self._check_search()

    def _check_search(self) -> None:
        for option, count in (("beams", self.beams), ("block", self.block), ("branch", self.branch)):
            require_count(option, count, MOST_BEAMS)
        if self.branch is not None and self.block is None:
            raise InputError("--branch is about --block; give how many tokens lie between two choices.")
        if self.length_penalty != 1 and (self.beams is None or self.block is not None):
            raise InputError("--length-penalty is about beam search by likelihood; give --beams, without --block.")
        if not abs(self.length_penalty) <= MOST_PENALTY:
            how = f"from -{MOST_PENALTY} to {MOST_PENALTY}" if isfinite(self.length_penalty) else "finite"
            raise InputError(f"--length-penalty must be {how}, not {self.length_penalty}.")
        if self.beams is None and self.block is None:
            return
        if self.sampler is not None:
            raise InputError("--sampler draws samples, and --beams and --block search here; leave it out.")
        if self.best_of is not None:
            raise InputError("--beams and --block search for the best as they go; leave --best-of out.")
        if self.stop:
            raise InputError("--beams and --block end completions at the end of a turn alone; leave --stop out.")
        if self.n > (self.beams or 1):
            raise InputError(
                f"--n {self.n} is more completions than a search with {self.beams or 1} beams finds; give more --beams."
            )
        if self.block is None and (self.temperature, self.top_k, self.top_p) != (1, 0, 1):
            raise InputError(
                "--beams takes the likeliest completions and draws none; leave --temperature, --top-k and --top-p out, "
                "or give --block and --reward."
            )
        if self.block is not None and self.reward is None:
            raise InputError("--block needs --reward to search by.")
        if self.block is not None and self.temperature == 0:
            raise InputError("--block has nothing to choose from at --temperature 0, where all samples are the same.")

    @property
    def samples(self) -> int:
        """Samples per prompt."""
        return self.best_of or self.n

    def sampling(self) -> Sampling:
        return replace(super().sampling(), top_k=self.top_k, top_p=self.top_p)

    def kept(self, samples: Sequence[Sample], rewards: Sequence[float]) -> list[tuple[Sample, float]]:
        """The samples that are kept with their rewards, prompt by prompt; prints how many were not kept.

        Of equal rewards the earlier sample comes first.

        Raises InputError where none is kept, or a reward is not finite.
        """
        scored = list(zip(samples, rewards, strict=True))
        if not all(map(isfinite, rewards)):
            rows = named_rows(sample.row for sample, reward in scored if not isfinite(reward))
            raise InputError(f"--reward {self.reward} gives samples of {rows} a reward that is not finite.")
        groups = [scored[i : i + self.samples] for i in range(0, len(scored), self.samples)]
        if self.best_of is not None:
            groups = [sorted(group, key=lambda s: -s[1])[: self.keep] for group in groups]
        passed = [[s for s in group if self.at_least is None or s[1] >= self.at_least] for group in groups]
        kept = [s for group in passed for s in group]
        if not kept:
            best = max(reward for _, reward in scored)
            raise InputError(
                f"no sample has a reward of at least {self.at_least:g}: the highest is {best:g}; lower --at-least, or "
                "sample more with --n or --best-of."
            )
        none = sum(not group for group in passed)
        without = f", and none of {none} of the {len(passed)} prompts" if none else ""
        if len(kept) < len(scored):
            status(f"sample: kept {len(kept)} of {len(scored)} samples{without}")
        return kept


def require_count(option: str, count: int | None, most: int = MOST) -> None:
    """Raise InputError where a count of samples or beams is below 1 or above `most`."""
    if count is not None and not 1 <= count <= most:
        bound = "at least 1" if count < 1 else f"at most {most:,}"
        raise InputError(f"--{option} must be {bound}, not {count}.")


@takes(SampleOptions)
def sample(model: str, data: str | list[str], out: str, **options: Any) -> Path:
    """Sample completions of prompts, and write rows of prompt, completion, log-probability and stop reason.

    With --reward, rows have their `reward` too, and --best-of and --at-least choose which are written: `accord sft` on
    these is rejection-sampling fine-tuning, on the exact tokens that were drawn. --beams searches for the likeliest
    completions instead of sampling, --block for those with the highest reward. Other columns of the prompts' rows are
    copied, except completions and the like.

    In conversations, --turn samples one of the assistant's turns again (its number is the column `turn`), and --user
    samples whole conversations: each of the model's turns is a row, with its `turn` and `conversation`, counted from 1.
    With --choices and --given the model reads choices of each row's `user` before its prompt (docs/personalization.md);
    the prompt in the output is the row's own.

    Args:
        model: a folder, a Hugging Face Hub name, or smollm2.
        data: a file, Hub name or reasoning-gym:NAME whose rows have prompts, or several, each with :WEIGHT for a mix.
        out: the JSONL file to write.
        options: the fields of `SampleOptions`.

    Raises:
        InputError: the options contradict each other, a row lacks what the reward reads, or no sample is good enough.
    """
    settings = SampleOptions(**options)
    require_file(out, model, data, options)
    from accord.evaluate.answers import encoded, sampled

    policy = settings.templated(engine.load.load_model(model, dtype=settings.dtype))
    rows = settings.prompts(data)
    prompts = encoded(policy, rows, settings, reads=settings.reads(rows))
    score = feedback.named.reward_named(settings.reward, policy) if settings.reward is not None else None
    settings.allow([] if score is None else [score])
    if score:
        feedback.reward.check_prompts(score, prompts)
    if settings.user is not None:
        samples = settings.converse(policy, prompts, settings.n)
    else:
        samples = _searched(policy, prompts, settings, score) or sampled(
            policy, prompts, settings.samples, settings.sampling(), by=settings
        )
    kept = settings.kept(samples, score(samples).tolist()) if score else [(s, None) for s in samples]
    save_rows(out, (_row(s, r) for s, r in kept))
    if unwritten := sorted({name for s, _ in kept for name, value in _columns(s) if not _is_json(value)}):
        named = ", ".join(map(repr, unwritten[:5])) + (f" and {len(unwritten) - 5} more" * (len(unwritten) > 5))
        status(f"sample: left out of rows, as JSON holds no such values: {named}.")
    return Path(out)


def _searched(
    policy: Policy, prompts: Sequence[EncodedPrompt], settings: SampleOptions, score: Reward | None
) -> list[Sample]:
    """The completions found by --beams or --block; empty where neither is given."""
    if settings.beams is None and settings.block is None:
        return []
    beams = settings.beams or 1
    with progress_bar("search", len(prompts) * settings.n) as done:
        if settings.block is None or score is None:
            return engine.search.beam_search(
                policy,
                prompts,
                settings.n,
                settings.sampling(),
                beams=beams,
                length_penalty=settings.length_penalty,
                progress=done,
            )
        return engine.search.guided_search(
            policy,
            prompts,
            settings.n,
            settings.sampling(),
            score=score,
            beams=beams,
            branch=settings.branch or BRANCH,
            block=settings.block,
            progress=done,
        )


def _row(sample: Sample, reward: float | None) -> dict[str, Any]:
    completion = sample.completion
    return {
        **{name: value for name, value in _columns(sample) if _is_json(value)},
        "prompt": text_to_json(sample.prompt.prompt),
        "completion": sample.text,
        "completion_ids": list(completion.tokens),
        "logprob": sum(completion.logprobs),
        "tokens": len(completion.tokens),
        "stop": completion.stop,
        **({} if reward is None else {"reward": reward}),
    }


def _columns(sample: Sample) -> Iterator[tuple[str, Any]]:
    """The columns of the prompt's row that are copied to the output; an earlier reward is not."""
    from accord.data.conventions import kept_columns

    return ((name, value) for name, value in kept_columns(sample.prompt.columns).items() if name != "reward")


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True
