"""Titles of the columns of metrics, and the sentence under each curve that says what to look for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial


@dataclass(frozen=True)
class Metric:
    """How a column of metrics is shown: its title, what to look for, and its value at chance."""

    title: str
    look_for: str = ""
    chance: float | None = None
    is_share: bool = False
    is_main: bool = True


_share = partial(Metric, is_share=True)
_aside = partial(Metric, is_main=False)

REWARDS = ("reward", "watched")
"""The optimized reward and the independent measure."""

PART = "reward of "
"""Prefix of the columns of a reward's parts."""

HELD_OUT = "eval_"
"""Prefix of the columns of held-out rows."""

METRICS = {
    "loss": Metric("Loss", "It should fall and then level off; a jump means too high a learning rate."),
    "accuracy": _share(
        "Pairs ordered correctly",
        "The share of pairs whose chosen completion scores higher; the dashed line is chance.",
        0.5,
    ),
    "margin": Metric(
        "Margin, chosen over rejected", "It should grow from zero; growth without end on few pairs is memorizing.", 0.0
    ),
    "chosen_reward": Metric(
        "Implicit reward of the chosen",
        "Below zero, even the chosen completions have become less likely than they were at the start.",
        0.0,
    ),
    "rejected_reward": Metric("Implicit reward of the rejected", "It should stay below that of the chosen.", 0.0),
    "reward": Metric("Reward of the samples", "It should rise and then level off."),
    "watched": Metric(
        "Watched measure of the samples",
        "It is never trained on: where it falls while the reward rises, the reward is being exploited.",
    ),
    "kept_reward": Metric("Reward of the samples kept", "These are trained on; the reward of all samples follows it."),
    "kept": _share("Samples kept", "The rest are not trained on."),
    "right": _share("Correct samples", "Each round samples anew, so it changes between rounds; it should rise."),
    "solved": _share("Prompts with a correct sample", "Near 100%, the prompts have little left to teach."),
    "rationalized": _share(
        "Prompts solved with a hint", "Only with the answer as a hint; it should shrink as more are solved without."
    ),
    "labeled": _share("Prompts with a label", "Those whose samples agree on an answer; the rest teach nothing."),
    "agreement": _share(
        "Samples that agree", "The mean share of a prompt's samples with its most frequent answer, right or wrong."
    ),
    "labels_right": _share("Correct labels", "Where it falls, the policy learns its own mistakes."),
    "flat_groups": _share(
        "Prompts that teach nothing",
        "All their samples score the same: near 100%, prompts are too easy or too hard, or the reward is too coarse.",
    ),
    "ties": _share("Pairs that tie", "There is little or nothing to learn from a pair without a winner."),
    "teacher_kl": Metric("KL to the teacher (nats)", "It should fall and level off where the student comes no closer."),
    "kl": Metric(
        "KL to the reference (nats)",
        "How far the policy has moved; distance that brings no more reward is wasted, or worse.",
    ),
    "baseline": Metric(
        "Baseline of rewards (nats)",
        "How far the policy has moved, by completions of other prompts; rewards are counted from here.",
    ),
    "length": Metric(
        "Length of the samples (tokens)",
        "Length that climbs together with the reward means that the reward pays for length.",
    ),
    "repetition": _share(
        "Repeated 4-grams in a sample", "A climb means that samples go in circles, which some rewards pay for."
    ),
    "length_correlation": _aside(
        "Correlation of reward and length", "Near one, a longer sample is a better one to this reward.", 0.0
    ),
    "ended": _share("Samples that end by themselves", "It should near 100%; the rest ran into the length limit."),
    "entropy": Metric("Entropy of the policy (nats)", "A fast fall to zero means that all samples have become alike."),
    "round": _aside("Round", "Each begins with fresh samples from the policy."),
    "reward_std": _aside("Spread of the rewards", "Near zero, the reward does not tell good samples from bad ones."),
    "invalid": _share(
        "Comparisons without a verdict", "They are left out; if there are many, check the judge.", is_main=False
    ),
    "value_loss": _aside("Value loss", "It should fall as the value model learns what to expect."),
    "explained_variance": _share(
        "Returns that the value model explains",
        "At zero or below, its values are no better than a constant.",
        0.0,
        is_main=False,
    ),
    "kl_coefficient": _aside("KL coefficient", "The price of a nat; with a target, it adapts to hold it."),
    "ratio": _aside("Ratio of new to old probability", "It should stay near one.", 1.0),
    "clip_fraction": _share(
        "Ratios clipped",
        "Above about 30%, each batch of samples is being used for too many or too large updates.",
        is_main=False,
    ),
    "approximate_kl": _aside(
        "KL of a step's updates (nats per token)", "A jump means that a step has too many or too large updates."
    ),
    "sampler_drift": _aside(
        "Sampler against trainer (nats per token)", "Due to rounding only: it should be small and must not grow."
    ),
    "off_policy_drift": _aside(
        "Off-policyness (nats per token)",
        "Between the policy and the older one that sampled: it grows with the steps between them.",
    ),
    "staleness": _aside("Staleness (steps)", "How many steps the sampling weights are behind."),
    "importance_weight": _aside(
        "Importance weights", "pi over the sampler's probability, capped: the mean should stay near one.", 1.0
    ),
    "handover_seconds": _aside("Weights to the sampler (s)", "The wait until servers have the new weights."),
    "samples_wait_seconds": _aside("Waiting for samples (s)", "Near zero where servers sample ahead and keep up."),
    "gradient_norm": _aside("Gradient norm", "Spikes are batches with large gradients; clipping bounds them."),
    "learning_rate": _aside("Learning rate", "The schedule as run."),
    "tokens_per_second": _aside("Tokens per second", "A drop means another process or longer rows."),
}
"""Columns in the order in which they are shown."""

IN_CONTEXT = {
    "entropy": {
        "loss": _aside("Policy loss", "It hovers around zero and need not fall: it does not measure progress.")
    },
    "round": {
        "loss": Metric("Loss", "It falls within a round and starts anew with the next."),
        "reward": Metric("Reward of the samples", "It changes between rounds, and should rise."),
    },
    "baseline": {
        "chosen_reward": Metric("Implicit reward of the desirable", "It should rise above the other.", 0.0),
        "rejected_reward": Metric("Implicit reward of the undesirable", "It should fall below the other.", 0.0),
    },
    "teacher_kl": {"reward": _aside("Reward of the samples", "The divergence from the teacher, negative.")},
    "ties": {"reward": _share("Chance to win", "Always a half: both sides of each pair are samples.", is_main=False)},
    "invalid": {
        "reward": _share(
            "Chance to win", "Against an opponent that learns too, a half (the dashed line) is a draw.", 0.5
        )
    },
}
"""Other meanings of columns in runs that also measure a given column; the first match counts."""


def metric_for(name: str, measured: Collection[str]) -> Metric:
    """How to show the column `name` of a run that measured these columns; unknown columns are shown by name."""
    for other, meanings in IN_CONTEXT.items():
        if other in measured and name in meanings:
            return meanings[name]
    if name.startswith(PART):
        return Metric(f"Reward, by {name.removeprefix(PART)} alone", "One part of the reward, before its weight.")
    if name.startswith(HELD_OUT):
        same = metric_for(name.removeprefix(HELD_OUT), measured)
        return replace(same, title=f"Held-out {in_a_sentence(same.title)}", look_for="")
    return METRICS.get(name) or Metric(name.replace("_", " ").capitalize(), is_main=False)


def in_order(names: Iterable[str]) -> list[str]:
    """The columns in display order: each followed by its parts and its held-out column, unknown ones last."""
    order = {name: index for index, name in enumerate(METRICS)}

    def place(name: str) -> tuple[int, bool]:
        of = "reward" if name.startswith(PART) else name.removeprefix(HELD_OUT)
        return order.get(of, len(order)), of != name

    return sorted(dict.fromkeys(names), key=place)


def in_a_sentence(title: str) -> str:
    """A title in lower case, unless it begins with an abbreviation."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def score_of(measured: Collection[str]) -> str:
    """The name of the number beside a sample: reward, chance to win, or empty where there is none."""
    return "" if "teacher_kl" in measured else "chance to win" if "invalid" in measured else "reward"
