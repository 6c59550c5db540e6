"""Names that other trainers give to the metrics that alarms look at: the table from their names to accord's columns.

A reading is written as a name, as `1 - NAME` for the complement of a share, or as `NAME * LENGTH` for a mean over
tokens where the sum over a completion is wanted, as for KL: the mean over all tokens times the mean completion length
is the mean of that sum. Names are of trl 1.x and its releases since 0.12, verl 0.5 and later, and OpenRLHF 0.8 and
later; W&B's prefixes `train/` and `eval/` are removed first (transformers' `rewrite_logs`, OpenRLHF's logger).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from accord.errors import InputError, nearest

COLUMNS = {
    "loss": "the training loss",
    "learning_rate": "the learning rate",
    "epoch": "passes over the rows so far",
    "reward": "the samples' mean reward, before any KL penalty",
    "reward_std": "the spread of the samples' rewards",
    "watched": "an independent measure of the samples that is not trained on",
    "flat_groups": "the share of prompts whose samples all score the same",
    "kl": "divergence from the reference, in nats per completion",
    "teacher_kl": "divergence from a teacher, in nats per completion",
    "entropy": "the policy's entropy",
    "length": "tokens per sample",
    "length_correlation": "the correlation of reward and length within a step",
    "ended": "the share of samples that end by themselves",
    "repetition": "the share of 4-grams that repeat earlier ones of the same sample",
    "sampler_drift": "the difference between sampler and trainer, in nats per token",
    "accuracy": "the share of pairs ordered correctly",
    "margin": "the (implicit) reward of the chosen minus that of the rejected",
    "chosen_reward": "the implicit reward of the chosen",
    "rejected_reward": "the implicit reward of the rejected",
    "round": "the round; in each the loss starts anew",
    "eval_loss": "the loss on held-out rows",
    "eval_loss_high": "the upper end of its 95% interval",
    "eval_accuracy": "the share of held-out pairs ordered correctly",
    "eval_accuracy_high": "the upper end of its 95% interval",
    "eval_teacher_kl": "divergence from a teacher on held-out prompts",
    "eval_teacher_kl_high": "the upper end of its 95% interval",
}
"""accord's columns that alarms look at, and their meanings."""


@dataclass(frozen=True)
class Trainer:
    """A trainer: its title, names that identify its logs, and how its metrics are read.

    `reads` has, for each of accord's columns, the possible readings; the first that a log supports is used. `others`
    are names that look like a column but mean something else, with that meaning.
    """

    title: str
    signs: tuple[str, ...]
    reads: Mapping[str, tuple[str, ...]]
    others: Mapping[str, str] = field(default_factory=dict)


ROWS = {name: (name,) for name in ("loss", "learning_rate", "epoch", "eval_loss")}
"""Logged by the Trainer of transformers, and so by all of trl's."""
IMPLICIT = {
    "chosen_reward": ("rewards/chosen",),
    "rejected_reward": ("rewards/rejected",),
    "margin": ("rewards/margins",),
    "accuracy": ("rewards/accuracies",),
    "eval_accuracy": ("eval_rewards/accuracies",),
}
WITHIN = "divergence of an update from the sampling policy, not from the reference"
LESS_KL = "the reward minus the KL penalty"
PROBABILITIES = "a difference of probabilities; sampler_drift is a difference of log-probabilities"

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
            "rollout_corr/kl": "a signed mean; sampler_drift is a mean of absolute differences",
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
        "OpenRLHF, a reward model",
        (),
        {"loss": ("loss",), "learning_rate": ("lr",), "accuracy": ("acc",), "eval_loss": ("eval_loss",)},
    ),
    "transformers": Trainer("transformers or trl, SFT", ("loss", "eval_loss", "train_loss"), ROWS),
}
"""By name, in the order in which a log is tested for their names."""

_BOTH = "reject_reward"
"""Logged by OpenRLHF for DPO (an implicit reward) and for reward models (a score) alike."""


@dataclass(frozen=True)
class Reading:
    """How a column of accord's is read from another log: a name, an optional factor, and whether 1 minus the value."""

    column: str
    name: str
    times: str = ""
    is_rest: bool = False

    @classmethod
    def of(cls, column: str, way: str) -> Reading:
        """Parse `NAME`, `1 - NAME` or `NAME * LENGTH`."""
        match = re.fullmatch(r"\s*(1\s+-\s+|1-)?(\S+?)(?:\s*\*\s*(\S+))?\s*", way)
        if match is None or (match[1] and match[3]):
            raise InputError(
                f"--columns.{column} is to be NAME, '1 - NAME' or 'NAME * LENGTH', by names of the log, not {way!r}."
            )
        return cls(column, match[2], match[3] or "", bool(match[1]))

    @property
    def names(self) -> tuple[str, ...]:
        """The names it needs from the log."""
        return (self.name, self.times) if self.times else (self.name,)

    def __str__(self) -> str:
        rest = "1 - " if self.is_rest else ""
        return f"{rest}{self.name}{f' * {self.times}' if self.times else ''}"

    def of_row(self, row: Mapping[str, float]) -> float | None:
        """The column's value in a row of the log; None where the row lacks a name."""
        if any(name not in row for name in self.names):
            return None
        value = 1.0 - row[self.name] if self.is_rest else row[self.name]
        return value * row[self.times] if self.times else value


def trainer_of(names: Collection[str], given: str | None = None) -> str | None:
    """The trainer whose log has these names, or `given`, if not None; None where no trainer matches.

    Raises InputError where `given` is unknown, or the names fit two kinds of OpenRLHF runs.
    """
    if given is not None:
        if given not in TRAINERS:
            hint = nearest(given, TRAINERS) or f": the known ones are {', '.join(TRAINERS)}."
            raise InputError(f"trainer: none is called {given!r}{hint}")
        return given
    if _BOTH in names:
        raise InputError(
            f"the log has {_BOTH}, which OpenRLHF logs for both DPO and reward models: say which by --trainer "
            "openrlhf-dpo or --trainer openrlhf-reward."
        )
    return next((name for name, trainer in TRAINERS.items() if any(sign in names for sign in trainer.signs)), None)


def readings_of(trainer: str | None, columns: Mapping[str, str], names: Collection[str]) -> list[Reading]:
    """How a log with these names is read: by `columns` (accord's column to a reading), else by its trainer's table.

    Columns whose names the log lacks are left out.
    """
    known = TRAINERS[trainer].reads if trainer else {}
    ways = {**known, **{column: (way,) for column, way in columns.items()}}
    every = ([Reading.of(column, way) for way in some] for column, some in ways.items())
    readings = [[one for one in some if all(name in names for name in one.names)] for some in every]
    return [some[0] for some in readings if some]


def require_columns(columns: Mapping[str, str], names: Collection[str] | None = None) -> None:
    """Raise InputError for an unknown column of accord's, or a reading that needs a name the log lacks."""
    for column, way in columns.items():
        if column not in COLUMNS:
            hint = nearest(column, COLUMNS) or f": they are {', '.join(COLUMNS)}."
            raise InputError(f"alarms look at no column {column!r}{hint}")
        for name in Reading.of(column, way).names:
            if names is not None and name not in names:
                hint = nearest(name, names) or f"; it has {_listed(names)}."
                raise InputError(f"--columns.{column}: the log has no {name!r}{hint}")


def require_readings(readings: Sequence[Reading], names: Collection[str]) -> None:
    """Raise InputError where no name of the log is known."""
    if not readings:
        raise InputError(
            f"the log has {_listed(names)}, and accord knows none of them: map its names by "
            f"--columns reward=NAME,kl=NAME (accord's columns are {', '.join(COLUMNS)})."
        )


def _listed(names: Collection[str], most: int = 20) -> str:
    """Names in a sentence, at most `most` of them."""
    shown = sorted(names)
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "") or "no numbers"
