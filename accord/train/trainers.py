"""What other trainers call the numbers that alarms look at: the one table of their names and accord's columns.

How a number is read is written as its name, which may stand in `1 - NAME`, of a share of the rest, or `NAME * LENGTH`,
of a mean over tokens whose sum over a completion is wanted, as KL is in accord's rows: the mean over all tokens, times
the mean length of a completion, is the mean of that sum. Names are of trl 1.x and its releases since 0.12, verl 0.5 and
later, and OpenRLHF 0.8 and later; W&B's prefixes `train/` and `eval/` are taken off before (transformers'
`rewrite_logs`, OpenRLHF's logger).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from accord.errors import InputError, nearest

COLUMNS = {
    "loss": "what is trained on costs",
    "epoch": "passes over the rows so far",
    "reward": "the samples' mean reward, before any price of divergence",
    "reward_std": "the spread of the samples' rewards",
    "watched": "an independent measure of the samples, which is not trained on",
    "flat_groups": "the share of prompts whose samples all score the same",
    "kl": "nats of divergence from the reference, a completion",
    "teacher_kl": "nats of divergence from a teacher, a completion",
    "entropy": "the policy's entropy",
    "length": "tokens of a sample",
    "length_correlation": "the correlation of reward and length within a step",
    "ended": "the share of samples that end by themselves",
    "repetition": "the share of 4-grams that repeat earlier ones of their sample",
    "sampler_drift": "nats a token by which sampler and trainer differ",
    "accuracy": "the share of pairs ordered rightly",
    "margin": "chosen's (implicit) reward less that of the rejected",
    "chosen_reward": "the implicit reward of the chosen",
    "rejected_reward": "the implicit reward of the rejected",
    "round": "the round, each with a loss that starts anew",
    "eval_loss": "what rows held out cost",
    "eval_loss_high": "the upper end of its 95% interval",
    "eval_accuracy": "the share of pairs held out that are ordered rightly",
    "eval_accuracy_high": "the upper end of its 95% interval",
    "eval_teacher_kl": "divergence from a teacher on prompts held out",
    "eval_teacher_kl_high": "the upper end of its 95% interval",
}
"""accord's columns that alarms look at, and what each is."""


@dataclass(frozen=True)
class Trainer:
    """Whose log it is: what is said of it, names of which any tells it, and how its numbers are read.

    `reads` has for each column of accord's how it is read: the first of these ways that a log has. `others` are names
    that look like a column and are something else, and what.
    """

    title: str
    signs: tuple[str, ...]
    reads: Mapping[str, tuple[str, ...]]
    others: Mapping[str, str] = field(default_factory=dict)


ROWS = {"loss": ("loss",), "epoch": ("epoch",), "eval_loss": ("eval_loss",)}
"""What the Trainer of transformers logs, and all of trl's with it."""
IMPLICIT = {
    "chosen_reward": ("rewards/chosen",),
    "rejected_reward": ("rewards/rejected",),
    "margin": ("rewards/margins",),
    "accuracy": ("rewards/accuracies",),
    "eval_accuracy": ("eval_rewards/accuracies",),
}
WITHIN = "how far an update went from the policy that sampled, which is not the divergence from the reference"
LESS_KL = "the reward less the price of divergence"
PROBABILITIES = "a difference of probabilities, where sampler_drift is one of their logarithms"

TRAINERS: dict[str, Trainer] = {
    "accord": Trainer("accord", ("tokens_per_second",), {name: (name,) for name in COLUMNS}),
    "verl": Trainer(
        "verl",
        ("critic/score/mean", "actor/pg_loss", "actor/ppo_kl"),
        {
            "reward": ("critic/score/mean",),
            "kl": (
                "actor/kl_loss * response_length/mean",
                "actor/reward_kl_penalty * response_length/mean",
            ),
            "entropy": ("actor/entropy", "actor/entropy_loss"),
            "length": ("response_length/mean",),
            "ended": ("1 - response_length/clip_ratio",),
        },
        {
            "actor/ppo_kl": WITHIN,
            "critic/rewards/mean": LESS_KL,
            "training/rollout_probs_diff_mean": PROBABILITIES,
            "rollout_corr/kl": "signed, where sampler_drift is the mean of absolute differences",
        },
    ),
    "trl-grpo": Trainer(
        "trl, GRPO or RLOO",
        ("completions/mean_length", "completion_length", "frac_reward_zero_std"),
        {
            **ROWS,
            "reward": ("reward",),
            "reward_std": ("reward_std",),
            "flat_groups": ("frac_reward_zero_std",),
            "kl": ("kl * completions/mean_length", "kl * completion_length"),
            "entropy": ("entropy",),
            "length": ("completions/mean_length", "completion_length"),
            "ended": ("1 - completions/clipped_ratio",),
            "sampler_drift": ("sampling/sampling_logp_difference/mean",),
        },
    ),
    "trl-ppo": Trainer(
        "trl, PPO, Online DPO, Nash-MD or XPO, or RLOO before 0.22",
        ("objective/kl", "objective/scores", "objective/rlhf_reward"),
        {
            **ROWS,
            **IMPLICIT,
            "reward": ("objective/scores", "objective/model_scores"),
            "kl": ("objective/kl",),
            "entropy": ("policy/entropy_avg", "objective/entropy"),
            "ended": ("val/contain_eos_token", "val/model_contain_eos_token"),
        },
        {"policy/approxkl_avg": WITHIN, "objective/rlhf_reward": LESS_KL},
    ),
    "trl-dpo": Trainer(
        "trl, DPO or KTO",
        ("rewards/margins", "rewards/chosen"),
        {**ROWS, **IMPLICIT},
        {"kl": "the baseline of KTO, by completions of other prompts"},
    ),
    "trl-reward": Trainer(
        "trl, a reward model",
        ("mean_reward", "eval_mean_reward"),
        {**ROWS, "accuracy": ("accuracy",), "margin": ("margin",), "eval_accuracy": ("eval_accuracy",)},
    ),
    "openrlhf-ppo": Trainer(
        "OpenRLHF, PPO, GRPO, RLOO or REINFORCE++",
        ("response_clip_ratio", "total_length", "policy_loss"),
        {
            "reward": ("reward",),
            "kl": ("kl * response_length",),
            "entropy": ("entropy_loss",),
            "length": ("response_length",),
            "ended": ("1 - response_clip_ratio",),
        },
        {"ppo_kl": WITHIN, "return": LESS_KL},
    ),
    "openrlhf-dpo": Trainer(
        "OpenRLHF, DPO",
        (),
        {
            "loss": ("loss",),
            "accuracy": ("acc",),
            "chosen_reward": ("chosen_reward",),
            "rejected_reward": ("reject_reward",),
            "eval_loss": ("eval_loss",),
            "eval_accuracy": ("acc_mean",),
        },
    ),
    "openrlhf-reward": Trainer(
        "OpenRLHF, a reward model", (), {"loss": ("loss",), "accuracy": ("acc",), "eval_loss": ("eval_loss",)}
    ),
    "transformers": Trainer("transformers or trl, SFT", ("loss", "eval_loss", "train_loss"), ROWS),
}
"""By name, in the order in which a log is asked whether it is theirs."""

_BOTH = "reject_reward"
"""What OpenRLHF logs of DPO and of reward models alike: of the one an implicit reward, of the other a score."""


@dataclass(frozen=True)
class Reading:
    """A column of accord's in another's log: the name there, what it is multiplied by, and whether it is the rest."""

    column: str
    name: str
    times: str = ""
    is_rest: bool = False

    @classmethod
    def of(cls, column: str, way: str) -> Reading:
        """From how it is written: `NAME`, `1 - NAME` or `NAME * LENGTH`."""
        found = re.fullmatch(r"\s*(1\s+-\s+|1-)?(\S+?)(?:\s*\*\s*(\S+))?\s*", way)
        if found is None or (found[1] and found[3]):
            raise InputError(
                f"--columns.{column} is to be NAME, '1 - NAME' or 'NAME * LENGTH', by names of the log, not {way!r}."
            )
        return cls(column, found[2], found[3] or "", bool(found[1]))

    @property
    def names(self) -> tuple[str, ...]:
        """What it needs of the log."""
        return (self.name, self.times) if self.times else (self.name,)

    def __str__(self) -> str:
        rest = "1 - " if self.is_rest else ""
        return f"{rest}{self.name}{f' * {self.times}' if self.times else ''}"

    def of_row(self, row: Mapping[str, float]) -> float | None:
        """The column's value in a row of the log; None where the row has not all of it."""
        if any(name not in row for name in self.names):
            return None
        value = 1.0 - row[self.name] if self.is_rest else row[self.name]
        return value * row[self.times] if self.times else value


def trainer_of(names: Collection[str], given: str | None = None) -> str | None:
    """Whose log has these names, which is `given` where they do not tell; None where nobody's.

    Raises InputError where no such trainer is known, or the names are those of two kinds of OpenRLHF's runs.
    """
    if given is not None:
        if given not in TRAINERS:
            hint = nearest(given, TRAINERS) or f": there are {', '.join(TRAINERS)}."
            raise InputError(f"trainer: none is called {given!r}{hint}")
        return given
    if _BOTH in names:
        raise InputError(
            f"the log has {_BOTH}, which OpenRLHF logs of DPO and of reward models: say which by --trainer "
            "openrlhf-dpo or --trainer openrlhf-reward."
        )
    return next((name for name, trainer in TRAINERS.items() if any(sign in names for sign in trainer.signs)), None)


def readings_of(trainer: str | None, columns: Mapping[str, str], names: Collection[str]) -> list[Reading]:
    """How a log with these names is read: by what `columns` says of accord's columns, else as its trainer's.

    Left out are columns of which the log does not have all names.
    """
    known = TRAINERS[trainer].reads if trainer else {}
    ways = {**known, **{column: (way,) for column, way in columns.items()}}
    every = ([Reading.of(column, way) for way in some] for column, some in ways.items())
    found = [[one for one in some if all(name in names for name in one.names)] for some in every]
    return [some[0] for some in found if some]


def require_columns(columns: Mapping[str, str], names: Collection[str] | None = None) -> None:
    """Raise InputError where what is said of columns is none of accord's, or names what a log with `names` has not."""
    for column, way in columns.items():
        if column not in COLUMNS:
            hint = nearest(column, COLUMNS) or f": they are {', '.join(COLUMNS)}."
            raise InputError(f"alarms look at no column {column!r}{hint}")
        for name in Reading.of(column, way).names:
            if names is not None and name not in names:
                hint = nearest(name, names) or f"; it has {_listed(names)}."
                raise InputError(f"--columns.{column}: the log has no {name!r}{hint}")


def require_readings(readings: Sequence[Reading], names: Collection[str]) -> None:
    """Raise InputError where nothing of a log with these names is known."""
    if not readings:
        raise InputError(
            f"the log has {_listed(names)}, of which accord knows none: say which is what, as by "
            f"--columns reward=NAME,kl=NAME (accord's are {', '.join(COLUMNS)})."
        )


def _listed(names: Collection[str], most: int = 20) -> str:
    """Names in a sentence, no more than some of them."""
    shown = sorted(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "") or "no numbers"
