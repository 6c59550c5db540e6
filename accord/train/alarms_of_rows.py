"""Alarms of training on rows: their loss, and the share of pairs that the model orders correctly."""

from __future__ import annotations

from math import log

from accord.train.history import (
    RECENT,
    Z_CHANGE,
    Z_SEARCH,
    History,
    alarm_rule,
    curved_noise,
    moving_means,
    noise,
    trend,
    z,
)  # fmt: skip

MIN_ROWS = 160
"""Rows from the highest learning rate on after which a model that can learn from the pairs has begun to: a new head has
been seen to take up to ninety."""
USEFUL = 0.6
"""The lowest accuracy on pairs that is useful; chance gives a half."""


@alarm_rule(
    "lower the learning rate, or max_grad_norm; warm up longer; continue from a checkpoint before the rise",
    "loss",
    apart_from=("reward",),
)
def loss_rise(history: History) -> str | None:
    """The loss exceeds an earlier level in each of ten rows: by a quarter, and beyond noise.

    It is compared with the first row, before any update, and with the lowest mean of ten rows. The rule does not apply
    to rewarded samples, whose loss need not fall; in methods with rounds each round is compared with its own start.
    """
    if "reward" in history:
        return None
    rounds, loss = history.of("round", "loss")
    loss = loss[rounds == rounds[-1]] if len(rounds) else history.of("loss")[0]
    if len(loss) <= RECENT:
        return None
    start, now, mean = float(loss[0]), loss[-RECENT:], float(loss[-RECENT:].mean())
    if "accuracy" in history or "chosen_reward" in history:
        start = max(start, untrained_loss(history))
        risen = mean >= 2 * start or (mean >= 1.5 * start and now.min() > start)
    else:
        risen = now.min() > start and mean >= 1.25 * start and z(mean - start, noise(now), RECENT, 1) >= Z_SEARCH
    if start > 0 and risen:
        return f"the loss rose from {start:.3g} at the start to {mean:.3g}, the mean of {RECENT} steps, and stays there"
    lowest = moving_means(loss[:-RECENT], RECENT)
    if not len(lowest):
        return None
    at = int(lowest.argmin())
    low, spread = float(lowest[at]), max(noise(now), noise(loss[at : at + RECENT]))
    if now.min() <= low or mean < 1.25 * low or z(mean - low, spread, RECENT, RECENT) < Z_SEARCH:
        return None
    return f"the loss rose from {low:.3g} to {mean:.3g}, means of {RECENT} steps, and stays there"


def untrained_loss(history: History) -> float:
    """The loss of an untrained model without noise: log 2 for pairs; 0 where the first row has its exact value.

    A policy that is its own reference has margins, or implicit rewards, of exactly 0 at the start.
    """
    known = [column[0] for column in history.of("margin") + history.of("chosen_reward") if len(column)]
    return 0.0 if 0 in known else log(2)


@alarm_rule(
    "raise beta, lower the learning rate, or drop pairs whose two completions are nearly the same",
    "chosen_reward rejected_reward",
)
def likelihood_displacement(history: History) -> str | None:
    """The chosen completions lose more probability than their margin over the rejected ones amounts to."""
    good, bad = history.of("chosen_reward", "rejected_reward")
    (_, chosen_now, climbed), (_, rejected_now, _) = trend(good), trend(bad)
    lead = chosen_now - rejected_now
    if chosen_now > -0.5 or -chosen_now < lead or rejected_now >= 0 or climbed > -Z_CHANGE:
        return None
    return (
        f"the implicit reward of the chosen fell to {chosen_now:.3g}, more than their margin of {lead:.3g}: both "
        "become unlikely, and other completions gain"
    )


@alarm_rule(
    "fewer epochs, a lower learning rate, or more pairs; judge the model on held-out pairs",
    "accuracy margin epoch",
)
def memorizing(history: History) -> str | None:
    """After the first pass all pairs are ordered correctly, and the margin keeps growing."""
    accuracy, margin, epoch = history.of("accuracy", "margin", "epoch")
    size = 2 * RECENT
    if len(margin) < 2 * size or epoch[-size] <= 1 or accuracy[-size:].mean() < 0.99:
        return None
    before, after, climbed = trend(margin[-2 * size :], size)
    if after < 1.1 * before or climbed < Z_CHANGE:
        return None
    right = accuracy[-size:].mean()
    return f"{right:.1%} of the pairs are ordered correctly, and their margin grew from {before:.3g} to {after:.3g}"


@alarm_rule(
    "take the model in best/, or end such runs with --patience; for the next run fewer epochs, a lower learning rate, "
    "or more rows",
    "step loss eval_loss eval_loss_high",
    "step teacher_kl eval_teacher_kl eval_teacher_kl_high",
)
def overfitting(history: History) -> str | None:
    """The held-out loss exceeds the 95% interval at its minimum, while the training loss has fallen since.

    There must be six measurements or more. The last two must lie above that interval, and their mean above the minimum
    beyond noise; of the steps since the minimum the last third must have a lower training loss than the first third.
    """
    name, measure = ("teacher_kl", "divergence") if "eval_teacher_kl" in history else ("loss", "loss")
    at, held_out, high = history.of("step", f"eval_{name}", f"eval_{name}_high")
    if len(held_out) < 6:
        return None
    low = int(held_out[:-2].argmin())
    steps, trained = history.of("step", name)
    if not (steps > at[low]).any():
        return None
    third = max(1, int((steps > at[low]).sum()) // 3)
    before, now = trained[steps > at[low]][:third].mean(), trained[-third:].mean()
    rise = z(held_out[-2:].mean() - held_out[low], curved_noise(held_out), 2, 1)
    fall = z(before - now, noise(trained), third, third)
    if held_out[-2:].min() <= high[low] or rise < Z_SEARCH or fall < Z_CHANGE:
        return None
    return (
        f"the held-out {measure} rose from {held_out[low]:.3g} at step {at[low]:.0f}, its lowest, to "
        f"{held_out[-1]:.3g}, while the training {measure} fell from {before:.3g} to {now:.3g}"
    )


@alarm_rule(
    "check that chosen and rejected are the right way round, and differ; a lower learning rate where all completions "
    "now score alike, else a higher one; more pairs, or fewer passes over them",
    "accuracy loss",
    apart_from=("chosen_reward", "reward"),
)
def nothing_learned(history: History) -> str | None:
    """A reward or preference model orders pairs no better than chance, in training or on held-out rows.

    The loss is at the chance level, and hardly more than half of the pairs are ordered correctly: either both within
    noise over the last eighty rows, or by the 95% intervals of the last two of six or more held-out measurements. There
    must be enough pairs to tell chance from a useful accuracy (`USEFUL`), and 160 rows since the learning rate was
    highest: steps of the warm-up before may be too small to learn by.
    """
    if "chosen_reward" in history or "reward" in history:  # a policy: its reward is bought with divergence
        return None
    accuracy, loss = history.of("accuracy", "loss")
    (rates,) = history.of("learning_rate")
    warmup = int(rates.argmax()) if len(rates) else 0
    if len(loss) - warmup < MIN_ROWS:
        return None
    right, cost = accuracy[-MIN_ROWS // 2 :], loss[-MIN_ROWS // 2 :]
    share, error = float(right.mean()), noise(right) / len(right) ** 0.5
    gained = z(log(2) - cost.mean(), noise(cost), len(cost))
    if gained < Z_CHANGE and share - 0.5 < Z_CHANGE * error and share + 2 * error < USEFUL:
        return (
            f"in the last {len(right)} steps {share:.0%} of the pairs were ordered correctly, at a loss of "
            f"{cost.mean():.3g}: chance gives 50% and {log(2):.3g}"
        )
    ends = history.of("eval_accuracy", "eval_accuracy_high", "eval_loss", "eval_loss_high")
    held, high, costs, most = (column[-2:] for column in ends)
    if len(ends[0]) < 6 or high.max() >= USEFUL or most.min() < log(2):
        return None
    return (
        f"of the held-out pairs {held[-1]:.0%} are ordered correctly (95% interval up to {high[-1]:.0%}), at a loss "
        f"of {costs[-1]:.3g}: chance gives 50% and {log(2):.3g}"
    )


RULES = (loss_rise, likelihood_displacement, memorizing, overfitting, nothing_learned)
"""In the order in which they are checked."""
