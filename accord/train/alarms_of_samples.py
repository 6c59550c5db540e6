"""Alarms of samples: what a policy is paid for them, how far it has gone for that, and what has become of them."""

from __future__ import annotations

from accord.train.history import (
    BEYOND,
    CLEARLY,
    ENDS,
    RECENT,
    SOON,
    History,
    advising,
    grown,
    moving,
    noise,
    z,
)  # fmt: skip

WINDOWS = (4, 8, 16, 32)
"""Measurements in the means that a peak of the watched measure is looked for in."""
FAR = 10.0
"""Nats within so few rows that no step can justify: the best of n samples is log n - 1 + 1/n away, of 60,000 as far."""


@advising(
    "take the model in best/, raise what divergence costs (the KL coefficient, beta or tau), or stop earlier; more "
    "comparisons of such samples make the reward harder to exploit",
    "watched reward",
    "watched margin",
    "watched chosen_reward",
)
def overoptimization(history: History) -> str | None:
    """The watched measure has fallen from its peak, and the reward has risen since, both beyond noise.

    Methods without samples have an implicit reward, which is shown by its margin or by that of the chosen.
    """
    proxy_of = next((name for name in ("reward", "margin", "chosen_reward") if name in history), "reward")
    reward, watched = history.of(proxy_of, "watched")
    for size in WINDOWS:
        if len(watched) < 2 * size:
            break
        mean, proxy = moving(watched, size), moving(reward, size)
        peak = int(mean[:-size].argmax())
        fall, rise = mean[peak] - mean[-1], proxy[-1] - proxy[peak]
        if z(fall, noise(watched), size, size) >= CLEARLY and z(rise, noise(reward), size, size) >= BEYOND:
            return (
                f"the {proxy_of.replace('_', ' ')} rose from {proxy[peak]:.3g} to {proxy[-1]:.3g} while the watched "
                f"measure fell from its peak of {mean[peak]:.3g} to {mean[-1]:.3g} (means of {size} measurements)"
            )
    return None


@advising(
    "look at the longest samples; take a price per token off the reward, balance the lengths of the comparisons it was "
    "fitted to, or lower max_new_tokens",
    "reward length",
)
def length(history: History) -> str | None:
    """Samples are a fifth longer than at the start, the reward rose with it, and longer samples get more of it."""
    reward, longer = history.of("reward", "length")
    before, after, climbed = grown(longer)
    paid = history.of("length_correlation")[0][-ENDS:]
    if after < 1.2 * before or climbed < CLEARLY or grown(reward)[2] < BEYOND or (len(paid) and paid.mean() < 0.5):
        return None
    within = f"; within a step their correlation is {paid.mean():.2f}" if len(paid) else ""
    return f"the samples grew from {before:.3g} to {after:.3g} tokens together with the reward{within}"


@advising(
    "look at the samples; raise the KL coefficient, or add a reward that counts repeated words against a sample",
    "repetition",
)
def repetition(history: History) -> str | None:
    """The share of repeated 4-grams in the samples has grown by a tenth of all."""
    before, after, climbed = grown(history.of("repetition")[0])
    if after - before < 0.1 or climbed < CLEARLY:
        return None
    return f"{after:.0%} of the samples' 4-grams repeat earlier ones of the same sample, from {before:.0%} at the start"


@advising(
    "raise the KL coefficient, lower the learning rate, or stop earlier",
    "entropy",
)
def entropy_collapse(history: History) -> str | None:
    """The policy's entropy is a fifth of what it was; in a young run, twice on end a twentieth."""
    (entropy,) = history.of("entropy")
    before, after, _ = grown(entropy)
    fallen = before > 0 and after <= 0.2 * before
    if not fallen and len(entropy) >= SOON:
        before, after = float(entropy[: -SOON + 1][:ENDS].mean()), float(entropy[-SOON + 1 :].max())
        fallen = before > 0 and after <= 0.05 * before
    if not fallen:
        return None
    return f"the entropy fell from {before:.3g} to {after:.3g} nats: the samples become alike"


@advising(
    "lower the learning rate, or warm up longer; where something is watched, best/ is the model from before",
    "ended",
    "length reward",
    "reward reward_std",
)
def collapse(history: History) -> str | None:
    """Samples are no answers any more: they do not end, are a fifth as long, or are worth far less, all of a sudden.

    Lengths count three times on end, and where the reward did not rise; what samples are worth counts twice, and by
    more than the most that samples of one step were apart.
    """
    (ended,), (spread,) = history.of("ended"), history.of("reward_std")
    if len(ended) > 1 and (before := float(ended[:-1][:ENDS].mean())) >= 0.8 and ended[-1] <= 0.1:
        return f"{ended[-1]:.0%} of the samples end, where {before:.0%} did: the others are cut"
    paid, length = history.of("reward", "length")
    if len(length) > SOON:
        before, after = float(length[:-SOON][:ENDS].mean()), float(length[-SOON:].max())
        if after <= 0.2 * before and paid[-SOON:].mean() <= paid[:-SOON][:ENDS].mean():
            return f"the samples shrank from {before:.3g} to {after:.3g} tokens, and their reward did not rise"
    (reward,) = history.of("reward")
    if len(reward) < RECENT + 2 or not len(spread):
        return None
    good, now = reward[-RECENT - 2 : -2], float(reward[-2:].max())
    fall = float(good.mean()) - now
    if z(fall, noise(good), RECENT, 1) < CLEARLY or fall < spread.max():
        return None
    return f"the reward fell from {good.mean():.3g}, the mean of {RECENT} steps, to {now:.3g} at most in the two since"


@advising(
    "lower the learning rate, the updates of a step or max_grad_norm; go on from a checkpoint before it",
    "kl",
    "teacher_kl",
)
def kl_burst(history: History) -> str | None:
    """The divergence is twice the most of the ten steps before, by more than a nat and beyond noise.

    In a young run it is twice what it was three steps ago, by more nats than any step can justify.
    """
    name = "kl" if "kl" in history else "teacher_kl"
    (kl,) = history.of(name)
    if len(kl) > RECENT:
        before, least = kl[-1 - RECENT : -1], max(1.0, CLEARLY * noise(kl[-1 - RECENT : -1]))
        when = f"in the {RECENT} steps before"
    elif len(kl) > 1 and name == "kl":  # which is 0 at the start, so that even the first step stands out from it
        before, least, when = kl[: max(1, len(kl) - SOON)], FAR, "at the start"
    else:
        return None
    most = float(before.max())
    if kl[-1] - most < max(most, least):
        return None
    return f"the divergence jumped to {kl[-1]:.3g} nats from at most {most:.3g} {when}"


@advising(
    "stop: the distance buys nothing more; raise the KL coefficient, or give a kl_target where there is one",
    "kl reward",
)
def kl_runaway(history: History) -> str | None:
    """Over the last forty rows the divergence grew by half and two nats, and the reward did not."""
    kl, reward = (grown(column[-40:], 20) for column in history.of("kl", "reward"))
    (early, late, climbed), (poor, rich, gained) = kl, reward
    if late - early < max(0.5 * early, 2.0) or climbed < CLEARLY or gained >= BEYOND:
        return None
    return (
        f"in 40 steps the divergence went from {early:.3g} to {late:.3g} nats, and the reward from {poor:.3g} to "
        f"{rich:.3g}"
    )


@advising(
    "take harder or easier prompts, more samples of each or a higher temperature, or a reward that is less coarse",
    "reward_std",
    "flat_groups",
    apart_from=("teacher_kl",),
)
def flat_rewards(history: History) -> str | None:
    """Nothing tells samples apart: their spread is a twentieth of the start's, or nearly all groups score the same."""
    if "teacher_kl" in history:  # whose samples have no reward but the divergence
        return None
    (spread,), (flat,) = history.of("reward_std"), history.of("flat_groups")
    if len(flat) >= RECENT and flat[-RECENT:].mean() >= 0.95:
        share = f"{flat[-RECENT:].mean():.0%} of the prompts"
        return f"in the last {RECENT} steps {share} had samples that all score the same"
    if len(spread) < RECENT:
        return None
    before, after = float(spread[:ENDS].mean()), float(spread[-RECENT:].mean())
    if after > 0.05 * before:
        return None
    return f"the rewards of a step spread by {after:.3g}, from {before:.3g} at the start: nothing tells samples apart"


@advising(
    "compute in float32 (--dtype float32) to see whether it is rounding; if it is not, sampler and trainer see "
    "different models",
    "sampler_drift",
)
def sampler_drift(history: History) -> str | None:
    """Sampler and trainer differ by more than rounding explains, or ever more."""
    (drift,) = history.of("sampler_drift")
    if len(drift) >= 3 and (now := float(drift[-3:].mean())) > 0.05:
        return f"sampler and trainer differ by {now:.3g} nats a token, where bfloat16 rounding gives about 0.01"
    before, after, climbed = grown(drift)
    if after < max(3 * before, 0.005) or climbed < CLEARLY:
        return None
    return f"the difference of sampler and trainer grew from {before:.3g} to {after:.3g} nats a token"


RULES = (
    overoptimization, length, repetition, entropy_collapse, collapse, kl_burst, kl_runaway, flat_rewards, sampler_drift,
)  # fmt: skip
"""In the order in which they are looked for."""
