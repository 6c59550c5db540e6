"""Alarms of training on samples: their reward, the policy's divergence from its reference, and the samples' quality."""

from __future__ import annotations

from accord.train.history import (
    EARLY,
    ENDS,
    RECENT,
    Z_CHANGE,
    Z_SEARCH,
    History,
    alarm_rule,
    moving_means,
    noise,
    trend,
    z,
)  # fmt: skip

WINDOWS = (4, 8, 16, 32)
"""Window sizes, in measurements, of the moving means in which a peak of the watched measure is searched."""
FAR_KL = 10.0
"""Nats of KL in a few rows that no step can justify: best-of-n has log n - 1 + 1/n, which is 10 at n = 60,000."""


@alarm_rule(
    "take the model in best/, raise the price of divergence (the KL coefficient, beta or tau), or stop earlier; more "
    "comparisons of such samples make the reward harder to exploit",
    "watched reward",
    "watched margin",
    "watched chosen_reward",
)
def overoptimization(history: History) -> str | None:
    """The watched measure has fallen from its peak while the reward has risen since, both beyond noise.

    For methods without samples the implicit reward counts: its margin, or that of the chosen completions.
    """
    proxy_of = next((name for name in ("reward", "margin", "chosen_reward") if name in history), "reward")
    reward, watched = history.of(proxy_of, "watched")
    for size in WINDOWS:
        if len(watched) < 2 * size:
            break
        mean, proxy = moving_means(watched, size), moving_means(reward, size)
        peak = int(mean[:-size].argmax())
        fall, rise = mean[peak] - mean[-1], proxy[-1] - proxy[peak]
        if z(fall, noise(watched), size, size) >= Z_SEARCH and z(rise, noise(reward), size, size) >= Z_CHANGE:
            return (
                f"the {proxy_of.replace('_', ' ')} rose from {proxy[peak]:.3g} to {proxy[-1]:.3g} while the watched "
                f"measure fell from its peak of {mean[peak]:.3g} to {mean[-1]:.3g} (means of {size} measurements)"
            )
    return None


@alarm_rule(
    "look at the longest samples; subtract a price per token from the reward, balance the lengths in the comparisons "
    "it was fitted to, or lower max_new_tokens",
    "reward length",
)
def length(history: History) -> str | None:
    """Samples are a fifth longer than at the start, the reward rose too, and longer samples of a step score higher."""
    reward, longer = history.of("reward", "length")
    before, after, climbed = trend(longer)
    paid = history.of("length_correlation")[0][-ENDS:]
    if after < 1.2 * before or climbed < Z_SEARCH or trend(reward)[2] < Z_CHANGE or (len(paid) and paid.mean() < 0.5):
        return None
    within = f"; within a step their correlation is {paid.mean():.2f}" if len(paid) else ""
    return f"the samples grew from {before:.3g} to {after:.3g} tokens together with the reward{within}"


@alarm_rule(
    "look at the samples; raise the KL coefficient, or add a reward that counts repeated words against a sample",
    "repetition",
)
def repetition(history: History) -> str | None:
    """The share of repeated 4-grams in the samples has grown by a tenth or more."""
    before, after, climbed = trend(history.of("repetition")[0])
    if after - before < 0.1 or climbed < Z_SEARCH:
        return None
    return f"{after:.0%} of the samples' 4-grams repeat earlier ones of the same sample, up from {before:.0%}"


@alarm_rule(
    "raise the KL coefficient, lower the learning rate, or stop earlier",
    "entropy",
)
def entropy_collapse(history: History) -> str | None:
    """The policy's entropy is a fifth of its start, or, early in a run, twice in a row a twentieth."""
    (entropy,) = history.of("entropy")
    before, after, _ = trend(entropy)
    fallen = before > 0 and after <= 0.2 * before
    if not fallen and len(entropy) >= EARLY:
        before, after = float(entropy[: -EARLY + 1][:ENDS].mean()), float(entropy[-EARLY + 1 :].max())
        fallen = before > 0 and after <= 0.05 * before
    if not fallen:
        return None
    return f"the entropy fell from {before:.3g} to {after:.3g} nats: the samples are becoming alike"


@alarm_rule(
    "lower the learning rate, or warm up longer; in a run with --watch, best/ is the model from before",
    "ended",
    "length reward",
    "reward reward_std",
)
def collapse(history: History) -> str | None:
    """Samples stop being answers: suddenly they do not end, are a fifth as long, or have a far lower reward.

    A length counts where it stays for three rows and the reward did not rise; a fall of the reward where it stays for
    two and exceeds the largest spread within a step.
    """
    (ended,), (spread,) = history.of("ended"), history.of("reward_std")
    if len(ended) > 1 and (before := float(ended[:-1][:ENDS].mean())) >= 0.8 and ended[-1] <= 0.1:
        return f"only {ended[-1]:.0%} of the samples end by themselves, down from {before:.0%}"
    paid, length = history.of("reward", "length")
    if len(length) > EARLY:
        before, after = float(length[:-EARLY][:ENDS].mean()), float(length[-EARLY:].max())
        if after <= 0.2 * before and paid[-EARLY:].mean() <= paid[:-EARLY][:ENDS].mean():
            return f"the samples shrank from {before:.3g} to {after:.3g} tokens, and their reward did not rise"
    (reward,) = history.of("reward")
    if len(reward) < RECENT + 2 or not len(spread):
        return None
    good, now = reward[-RECENT - 2 : -2], float(reward[-2:].max())
    fall = float(good.mean()) - now
    if z(fall, noise(good), RECENT, 1) < Z_SEARCH or fall < spread.max():
        return None
    return f"the reward fell from {good.mean():.3g}, the mean of {RECENT} steps, to {now:.3g} at most in the two since"


@alarm_rule(
    "lower the learning rate, the updates per step or max_grad_norm; continue from a checkpoint before the jump",
    "kl",
    "teacher_kl",
)
def kl_burst(history: History) -> str | None:
    """The divergence is twice the maximum of the ten steps before, by more than a nat and beyond noise.

    Early in a run: twice its value three steps ago, by more nats than any step can justify.
    """
    name = "kl" if "kl" in history else "teacher_kl"
    (kl,) = history.of(name)
    if len(kl) > RECENT:
        before, least = kl[-1 - RECENT : -1], max(1.0, Z_SEARCH * noise(kl[-1 - RECENT : -1]))
        when = f"in the {RECENT} steps before"
    elif len(kl) > 1 and name == "kl":  # it is 0 at the start, so even the first step can stand out
        before, least, when = kl[: max(1, len(kl) - EARLY)], FAR_KL, "at the start"
    else:
        return None
    most = float(before.max())
    if kl[-1] - most < max(most, least):
        return None
    return f"the divergence jumped to {kl[-1]:.3g} nats from at most {most:.3g} {when}"


@alarm_rule(
    "stop: more divergence no longer raises the reward; raise the KL coefficient, or set kl_target where it exists",
    "kl reward",
)
def kl_runaway(history: History) -> str | None:
    """Over the last forty rows the divergence grew by half and by two nats, and the reward did not grow."""
    kl, reward = (trend(column[-40:], 20) for column in history.of("kl", "reward"))
    (early, late, climbed), (poor, rich, gained) = kl, reward
    if late - early < max(0.5 * early, 2.0) or climbed < Z_SEARCH or gained >= Z_CHANGE:
        return None
    return (
        f"in 40 steps the divergence went from {early:.3g} to {late:.3g} nats, and the reward from {poor:.3g} to "
        f"{rich:.3g}"
    )


@alarm_rule(
    "take harder or easier prompts, more samples of each or a higher temperature, or a reward that is less coarse",
    "reward_std",
    "flat_groups",
    apart_from=("teacher_kl",),
)
def flat_rewards(history: History) -> str | None:
    """Rewards barely tell samples apart: their spread is a twentieth of the start's, or nearly all groups are flat."""
    if "teacher_kl" in history:  # distillation has no reward besides the divergence
        return None
    (spread,), (flat,) = history.of("reward_std"), history.of("flat_groups")
    if len(flat) >= RECENT and flat[-RECENT:].mean() >= 0.95:
        share = f"{flat[-RECENT:].mean():.0%} of the prompts"
        return f"in the last {RECENT} steps all samples of {share} scored the same"
    if len(spread) < RECENT:
        return None
    before, after = float(spread[:ENDS].mean()), float(spread[-RECENT:].mean())
    if after > 0.05 * before:
        return None
    return f"the spread of rewards within a step fell from {before:.3g} at the start to {after:.3g}"


@alarm_rule(
    "compute in float32 (--dtype float32) to see whether rounding causes it; if not, sampler and trainer use "
    "different models",
    "sampler_drift",
)
def sampler_drift(history: History) -> str | None:
    """Sampler and trainer log-probabilities differ by more than rounding explains, or increasingly."""
    (drift,) = history.of("sampler_drift")
    if len(drift) >= 3 and (now := float(drift[-3:].mean())) > 0.05:
        return f"sampler and trainer differ by {now:.3g} nats per token; bfloat16 rounding gives about 0.01"
    before, after, climbed = trend(drift)
    if after < max(3 * before, 0.005) or climbed < Z_SEARCH:
        return None
    return f"the difference between sampler and trainer grew from {before:.3g} to {after:.3g} nats per token"


RULES = (
    overoptimization, length, repetition, entropy_collapse, collapse, kl_burst, kl_runaway, flat_rewards, sampler_drift,
)  # fmt: skip
"""In the order in which they are checked."""
