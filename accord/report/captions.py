"""What each column of metrics is called, and the sentence under its curve that says what to see."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import partial


@dataclass(frozen=True)
class Metric:
    """How a column of metrics is shown: its title, what to look for, and the value that means chance."""

    title: str
    look_for: str = ""
    chance: float | None = None
    is_share: bool = False
    is_main: bool = True


_share = partial(Metric, is_share=True)
_aside = partial(Metric, is_main=False)

REWARDS = ("reward", "watched")
"""What is optimized and what watches it."""

PART = "reward of "
"""What the columns of a reward's parts begin with; the part's name follows."""

HELD_OUT = "eval_"
"""What the columns of rows held out begin with; that of the rows trained on follows."""

METRICS = {
    "loss": Metric("Loss", "It should fall and then level off; a jump means too high a learning rate."),
    "accuracy": _share(
        "Pairs ordered rightly",
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
    "kept_reward": Metric("Reward of the samples kept", "What is learned from; the reward of all samples follows it."),
    "kept": _share("Samples kept", "The rest teach nothing."),
    "right": _share("Samples that are right", "Each round samples anew, so it moves from round to round, and up."),
    "solved": _share("Prompts with a right sample", "Where it nears 100%, the prompts have little left to teach."),
    "rationalized": _share(
        "Prompts solved with a hint", "Only with the answer as a hint; it should shrink as more are solved without."
    ),
    "labeled": _share("Prompts with a label", "Those whose samples agree on an answer; the rest teach nothing."),
    "agreement": _share(
        "Samples that agree", "The mean share of a prompt's samples with its commonest answer, right or wrong."
    ),
    "labels_right": _share("Labels that are right", "Where it falls, the policy learns its own mistakes."),
    "flat_groups": _share(
        "Prompts that teach nothing",
        "Their samples all score the same: near 100%, prompts are too easy or too hard, or the reward is too coarse.",
    ),
    "ties": _share("Pairs that tie", "Without a winner there is little to learn from a pair, or nothing."),
    "teacher_kl": Metric("KL to the teacher (nats)", "It should fall, and levels off as near as the student can come."),
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
    "round": _aside("Round", "Each begins with fresh samples of the policy."),
    "reward_std": _aside("Spread of the rewards", "Near zero, nothing tells good samples from bad ones."),
    "invalid": _share(
        "Comparisons without a verdict", "They are left out; many are a judge to look at.", is_main=False
    ),
    "value_loss": _aside("Value loss", "It should fall as the value model learns what to expect."),
    "explained_variance": _share(
        "Returns that the value model explains",
        "At zero or below, its values are of no more use than one number for all.",
        0.0,
        is_main=False,
    ),
    "kl_coefficient": _aside("KL coefficient", "What a nat costs; where there is a target, it adapts to hold it."),
    "ratio": _aside("Ratio of new to old probability", "It should stay near one.", 1.0),
    "clip_fraction": _share(
        "Ratios clipped",
        "Above about 30%, each batch of samples is being used for too many or too large updates.",
        is_main=False,
    ),
    "approximate_kl": _aside(
        "KL of a step's updates (nats a token)", "A jump means that the updates of one step are too many or too large."
    ),
    "sampler_drift": _aside(
        "Sampler against trainer (nats a token)", "Rounding alone: it should be small, and must not grow."
    ),
    "off_policy_drift": _aside(
        "Off-policyness (nats a token)",
        "Between the policy and the older one that sampled: it grows with the steps taken.",
    ),
    "staleness": _aside("Staleness (steps)", "By how many steps the weights that sampled are behind."),
    "importance_weight": _aside(
        "Importance weights", "pi over the sampler's probability, capped: the mean should stay near one.", 1.0
    ),
    "handover_seconds": _aside("Weights to the sampler (s)", "What a step waits for servers to have the new weights."),
    "samples_wait_seconds": _aside("Waiting for samples (s)", "Near zero, where servers sample ahead and keep up."),
    "gradient_norm": _aside("Gradient norm", "Spikes mark batches that pull hard; clipping bounds them."),
    "learning_rate": _aside("Learning rate", "The schedule as it was run."),
    "tokens_per_second": _aside("Tokens a second", "Steady is well; a drop is another process or longer rows."),
}
"""Columns in the order in which they are shown."""

IN_CONTEXT = {
    "entropy": {
        "loss": _aside("Policy loss", "It hovers around zero and need not fall: it is no measure of progress.")
    },
    "round": {
        "loss": Metric("Loss", "It falls within a round, and begins again with the next."),
        "reward": Metric("Reward of the samples", "It moves from round to round, and should rise."),
    },
    "baseline": {
        "chosen_reward": Metric("Implicit reward of the desirable", "It should rise above the other.", 0.0),
        "rejected_reward": Metric("Implicit reward of the undesirable", "It should fall below the other.", 0.0),
    },
    "teacher_kl": {"reward": _aside("Reward of the samples", "The divergence from the teacher, negative.")},
    "ties": {
        "reward": _share("Chance to win", "Always a half, as both sides of each pair are samples.", is_main=False)
    },
    "invalid": {
        "reward": _share(
            "Chance to win", "Against an opponent that learns too, a half is a draw; the dashed line.", 0.5
        )
    },
}
"""What columns mean where another is measured, too; the first that fits counts."""


def metric_for(name: str, measured: Collection[str]) -> Metric:
    """How to show the column `name` of a run that measured these columns; other names speak for themselves."""
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
    """The columns in the order in which they are shown: after each its parts and rows held out, unknown ones last."""
    order = {name: index for index, name in enumerate(METRICS)}

    def place(name: str) -> tuple[int, bool]:
        of = "reward" if name.startswith(PART) else name.removeprefix(HELD_OUT)
        return order.get(of, len(order)), of != name

    return sorted(dict.fromkeys(names), key=place)


def in_a_sentence(title: str) -> str:
    """A title without its capital, unless it begins with an abbreviation."""
    return title if title[:2].isupper() else title[:1].lower() + title[1:]


def score_of(measured: Collection[str]) -> str:
    """What the number beside a sample of such a run is: a reward, a chance to win, or, where nobody scored, nothing."""
    return "" if "teacher_kl" in measured else "chance to win" if "invalid" in measured else "reward"
