"""Alarms of rows: what they cost as a model learns from them, and what of pairs it orders rightly."""

from __future__ import annotations

from math import log

from accord.train.history import (
    BEYOND,
    CLEARLY,
    RECENT,
    History,
    advising,
    bent_noise,
    grown,
    moving,
    noise,
    z,
)  # fmt: skip

LATE = 80
"""Rows by which who can learn from pairs has begun to: in the first forty a new head may not have found what tells
them apart."""
WORTH = 0.6
"""The share of pairs ordered rightly that is worth having: a coin gets half of them."""


@advising(
    "lower the learning rate, or max_grad_norm; warm up longer; go on from a checkpoint before it",
    "loss",
    apart_from=("reward",),
)
def loss_rise(history: History) -> str | None:
    """What is learned costs more than it did, in each of ten rows: by a quarter, and beyond noise.

    It is compared with the first row, before any update, and with the lowest mean of ten rows. Where samples are
    rewarded a loss need not fall, and each round of a method has a start of its own.
    """
    if "reward" in history:
        return None
    rounds, loss = history.of("round", "loss")
    loss = loss[rounds == rounds[-1]] if len(rounds) else history.of("loss")[0]
    if len(loss) <= RECENT:
        return None
    start, now, mean = float(loss[0]), loss[-RECENT:], float(loss[-RECENT:].mean())
    if "accuracy" in history or "chosen_reward" in history:
        start = max(start, knowing_nothing(history))
        risen = mean >= 2 * start or (mean >= 1.5 * start and now.min() > start)
    else:
        risen = now.min() > start and mean >= 1.25 * start and z(mean - start, noise(now), RECENT, 1) >= CLEARLY
    if start > 0 and risen:
        return f"the loss rose from {start:.3g} at the start to {mean:.3g}, the mean of {RECENT} steps, and stays there"
    lowest = moving(loss[:-RECENT], RECENT)
    if not len(lowest):
        return None
    at = int(lowest.argmin())
    low, spread = float(lowest[at]), max(noise(now), noise(loss[at : at + RECENT]))
    if now.min() <= low or mean < 1.25 * low or z(mean - low, spread, RECENT, RECENT) < CLEARLY:
        return None
    return f"the loss rose from {low:.3g} to {mean:.3g}, means of {RECENT} steps, and stays there"


def knowing_nothing(history: History) -> float:
    """What a model that knows nothing yet costs, without noise: in pairs log 2; 0 where the first row says it.

    A policy that is its own reference has margins, or implicit rewards, of exactly 0 there.
    """
    known = [column[0] for column in history.of("margin") + history.of("chosen_reward") if len(column)]
    return 0.0 if 0 in known else log(2)


@advising(
    "raise beta, lower the learning rate, or drop pairs whose two completions are nearly the same",
    "chosen_reward rejected_reward",
)
def likelihood_displacement(history: History) -> str | None:
    """The chosen completions lose more probability than their margin over the rejected is worth."""
    good, bad = history.of("chosen_reward", "rejected_reward")
    (_, chosen_now, climbed), (_, rejected_now, _) = grown(good), grown(bad)
    lead = chosen_now - rejected_now
    if chosen_now > -0.5 or -chosen_now < lead or rejected_now >= 0 or climbed > -BEYOND:
        return None
    return (
        f"the implicit reward of the chosen fell to {chosen_now:.3g}, more than their margin of {lead:.3g}: both "
        "become unlikely, and other completions gain"
    )


@advising(
    "fewer epochs, a lower learning rate, or more pairs; judge it on held-out pairs",
    "accuracy margin epoch",
)
def memorizing(history: History) -> str | None:
    """After the first pass every pair is ordered rightly, and the margin grows on."""
    accuracy, margin, epoch = history.of("accuracy", "margin", "epoch")
    size = 2 * RECENT
    if len(margin) < 2 * size or epoch[-size] <= 1 or accuracy[-size:].mean() < 0.99:
        return None
    before, after, climbed = grown(margin[-2 * size :], size)
    if after < 1.1 * before or climbed < BEYOND:
        return None
    right = accuracy[-size:].mean()
    return f"{right:.1%} of the pairs are ordered rightly, and their margin grew from {before:.3g} to {after:.3g}"


@advising(
    "take the model in best/, or end such runs by --patience; fewer epochs, a lower learning rate, or more rows make "
    "the next one better",
    "step loss eval_loss eval_loss_high",
    "step teacher_kl eval_teacher_kl eval_teacher_kl_high",
)
def overfitting(history: History) -> str | None:
    """Rows held out cost more than the 95% interval at their lowest, while what is trained on has become cheaper since.

    Of six measurements or more the last two lie above that interval, and their mean above the lowest beyond noise; of
    the steps since then the last third cost less than the first third.
    """
    name = "teacher_kl" if "eval_teacher_kl" in history else "loss"
    at, held_out, high = history.of("step", f"eval_{name}", f"eval_{name}_high")
    if len(held_out) < 6:
        return None
    low = int(held_out[:-2].argmin())
    steps, trained = history.of("step", name)
    if not (steps > at[low]).any():
        return None
    third = max(1, int((steps > at[low]).sum()) // 3)
    before, now = trained[steps > at[low]][:third].mean(), trained[-third:].mean()
    rise = z(held_out[-2:].mean() - held_out[low], bent_noise(held_out), 2, 1)
    fall = z(before - now, noise(trained), third, third)
    if held_out[-2:].min() <= high[low] or rise < CLEARLY or fall < BEYOND:
        return None
    return (
        f"what rows held out cost rose from {held_out[low]:.3g} at step {at[low]:.0f}, its lowest, to "
        f"{held_out[-1]:.3g}, while what is trained on fell from {before:.3g} to {now:.3g}"
    )


@advising(
    "see that chosen and rejected are the right way round, and differ; a lower learning rate where all completions "
    "score alike by now, else a higher one; more pairs, or fewer passes over them",
    "accuracy loss",
    apart_from=("chosen_reward", "reward"),
)
def nothing_learned(history: History) -> str | None:
    """A reward or preference model knows no more than a coin, of what it is trained on or of what is held out.

    The loss is what knowing nothing costs, and hardly more than half of the pairs are ordered rightly: both within
    noise of that, over the last half of 80 rows or more; or by the 95% intervals of rows held out, of which the last
    two of six or more count. There must be pairs enough to tell that from what is worth having. Rows of the warm-up,
    up to where the learning rate is highest, do not count: steps so small may not have found it yet.
    """
    if "chosen_reward" in history or "reward" in history:  # a policy's, bought with distance
        return None
    accuracy, loss = history.of("accuracy", "loss")
    (rates,) = history.of("learning_rate")
    if len(loss) < LATE or (len(rates) and rates.argmax() > len(rates) - LATE // 2):
        return None
    right, cost = accuracy[-LATE // 2 :], loss[-LATE // 2 :]
    share, error = float(right.mean()), noise(right) / len(right) ** 0.5
    gained = z(log(2) - cost.mean(), noise(cost), len(cost))
    if gained < BEYOND and share - 0.5 < BEYOND * error and share + 2 * error < WORTH:
        return (
            f"in the last {len(right)} steps {share:.0%} of the pairs were ordered rightly, at a loss of "
            f"{cost.mean():.3g}: a coin has 50% and {log(2):.3g}"
        )
    ends = history.of("eval_accuracy", "eval_accuracy_high", "eval_loss", "eval_loss_high")
    held, high, costs, most = (column[-2:] for column in ends)
    if len(ends[0]) < 6 or high.max() >= WORTH or most.min() < log(2):
        return None
    return (
        f"of the pairs held out {held[-1]:.0%} are ordered rightly, at most {high[-1]:.0%} at 95%, at a loss of "
        f"{costs[-1]:.3g}: a coin has 50% and {log(2):.3g}"
    )


RULES = (loss_rise, likelihood_displacement, memorizing, overfitting, nothing_learned)
"""In the order in which they are looked for."""
