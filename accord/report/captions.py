"""What each curve is called, and the sentence under it that says what to see."""

from __future__ import annotations

from dataclasses import dataclass

from accord.report.series import Series, ends
from accord.report.text import number, percent


@dataclass(frozen=True)
class Metric:
    """How a column of metrics is shown: its title, what to look for, and the value that means chance."""

    title: str
    look_for: str = ""
    is_share: bool = False
    chance: float | None = None
    is_main: bool = True


METRICS = {
    "loss": Metric("Loss", "It should fall and then level off; a jump means too high a learning rate."),
    "accuracy": Metric(
        "Pairs ordered rightly",
        "The share of pairs whose chosen completion scores higher; the dashed line is chance.",
        is_share=True,
        chance=0.5,
    ),
    "margin": Metric(
        "Margin, chosen over rejected",
        "It should grow from zero; growth without end on few pairs is memorising.",
        chance=0.0,
    ),
    "reward": Metric("Reward of the samples", "It should rise and then level off."),
    "kl": Metric(
        "KL to the reference (nats)",
        "How far the policy has moved; distance that brings no more reward is wasted, or worse.",
    ),
    "length": Metric(
        "Length of the samples (tokens)",
        "Length that climbs together with the reward means that the reward pays for length.",
    ),
    "ended": Metric(
        "Samples that end by themselves",
        "It should near 100%; the rest ran into the length limit.",
        is_share=True,
    ),
    "entropy": Metric("Entropy of the policy (nats)", "A fast fall to zero means that all samples have become alike."),
    "value_loss": Metric("Value loss", "It should fall as the value model learns what to expect.", is_main=False),
    "clip_fraction": Metric(
        "Ratios clipped",
        "Above about 30%, each batch of samples is being used for too many or too large updates.",
        is_share=True,
        is_main=False,
    ),
    "gradient_norm": Metric(
        "Gradient norm", "Spikes mark batches that pull hard; clipping bounds them.", is_main=False
    ),
    "learning_rate": Metric("Learning rate", "The schedule as it was run.", is_main=False),
    "tokens_per_second": Metric(
        "Tokens a second", "Steady is well; a drop is another process or longer rows.", is_main=False
    ),
}

POLICY_LOSS = Metric(
    "Policy loss", "It hovers around zero and need not fall: progress is in the reward.", is_main=False
)


def metric_for(name: str, measured: set[str]) -> Metric:
    """How to show the column `name` of a run that measured these columns; other names speak for themselves.

    Where samples are rewarded and held near a reference, the loss is the policy's surrogate and no measure of progress.
    """
    if name == "loss" and {"reward", "kl"} <= measured:
        return POLICY_LOSS
    return METRICS.get(name) or Metric(name.replace("_", " ").capitalize(), is_main=False)


def caption(metric: Metric, series: Series) -> str:
    """From where to where the curve went, what to look for, and how many steps had no finite value."""
    shown = percent if metric.is_share else number
    first, last = ends(series.values)
    text = f"{shown(last)} in the only step measured." if len(series) == 1 else f"From {shown(first)} to {shown(last)}."
    if metric.look_for:
        text += f" {metric.look_for}"
    if series.broken:
        steps = "1 step" if series.broken == 1 else f"{series.broken} steps"
        text += f" Not finite in {steps}, left out here."
    return text
