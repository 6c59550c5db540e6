"""Alarms: what the numbers of a run say when training goes wrong, while there is time to stop it.

A rule is a pure function of the rows so far, over whichever columns a run has: a sentence with the numbers it saw, or
None where it sees nothing. A change counts where it is beyond noise. A peak is looked for over the whole run, so that
the z which is asked of a fall from it is larger; the thresholds and the rates of false alarms are in docs/alarms.md. An
alarm is raised once, and again only after its rule was silent for `SILENCE` rows on end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import log
from typing import Any, TypeAlias

from accord.errors import InputError, nearest
from accord.train.history import ENDS, History, bent_noise, grown, moving, noise, z

SILENCE = 10
"""Rows on end in which a rule must see nothing before its alarm can be raised again."""


@dataclass(frozen=True)
class Alarm:
    """An alarm as it was raised: after which step, which, what it saw, and what to try."""

    step: int
    name: str
    saw: str
    advice: str

    def as_row(self) -> dict[str, Any]:
        """It as a row of alarms.jsonl."""
        return {"step": self.step, "alarm": self.name, "saw": self.saw, "try": self.advice}


class Alarms:
    """The alarms of a run as its rows come in."""

    def __init__(self) -> None:
        self.history = History()
        self._silent: dict[str, int] = {}

    def see(self, row: Mapping[str, Any]) -> list[Alarm]:
        """The alarms that one more row raises."""
        self.history.add(row)
        raised = []
        for rule in RULES:
            saw = rule.look(self.history)
            silent = self._silent.get(rule.name, SILENCE)
            if saw is not None and silent >= SILENCE:
                raised.append(Alarm(int(row.get("step", len(self.history.rows))), rule.name, saw, rule.advice))
            self._silent[rule.name] = silent + 1 if saw is None else 0
        return raised


def raised(rows: Iterable[Mapping[str, Any]]) -> list[Alarm]:
    """All alarms that the rows of a run raise, in order."""
    alarms = Alarms()
    return [alarm for row in rows for alarm in alarms.see(row)]


def chosen(names: str | None) -> tuple[str, ...]:
    """The alarms named, with commas between them; InputError where there is none of a name."""
    wanted = tuple(name.strip() for name in names.split(",")) if names else ()
    known = [rule.name for rule in RULES]
    for name in wanted:
        if name not in known:
            hint = nearest(name, known) or f"; the alarms are {', '.join(known)}"
            raise InputError(f"stop_when: there is no alarm {name!r}{hint}.")
    return wanted


WINDOWS = (4, 8, 16, 32)
"""Measurements in the means that a peak of the watched measure is looked for in."""
RECENT = 10
"""Rows that a jump stands out from, in which nothing told samples apart, and through which a loss that rose stays."""
SOON = 3
"""Rows in which a young run may go wrong: what it was before them is its start."""
FAR = 10.0
"""Nats within so few rows that no step can justify: the best of n samples is log n - 1 + 1/n away, of 60,000 as far."""
BEYOND, CLEARLY = 3.0, 5.5
"""z of a change that is beyond noise, and of one that is beyond the noise of a whole run's search."""


Look: TypeAlias = Callable[[History], str | None]


@dataclass(frozen=True)
class Rule:
    """What an alarm is raised by, and what it advises."""

    name: str
    look: Look
    advice: str


RULES: list[Rule] = []
"""All alarms, in the order in which they are looked for."""


def advising(advice: str) -> Callable[[Look], Look]:
    """Makes a function the rule of the alarm of its name, with what is to be tried then."""

    def add(look: Look) -> Look:
        RULES.append(Rule(look.__name__.replace("_", "-"), look, advice))
        return look

    return add


@advising(
    "take the model in best/, raise what divergence costs (the KL coefficient, beta or tau), or stop earlier; more "
    "comparisons of such samples make the reward harder to exploit"
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
    "fitted to, or lower max_new_tokens"
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


@advising("look at the samples; raise the KL coefficient, or add a reward that counts repeated words against a sample")
def repetition(history: History) -> str | None:
    """The share of repeated 4-grams in the samples has grown by a tenth of all."""
    before, after, climbed = grown(history.of("repetition")[0])
    if after - before < 0.1 or climbed < CLEARLY:
        return None
    return f"{after:.0%} of the samples' 4-grams repeat earlier ones of the same sample, from {before:.0%} at the start"


@advising("raise the KL coefficient, lower the learning rate, or stop earlier")
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
    return f"the entropy fell from {before:.3g} to {after:.3g} nats a token: the samples become alike"


@advising("lower the learning rate, or warm up longer; where something is watched, best/ is the model from before")
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


@advising("lower the learning rate, the updates of a step or max_grad_norm; go on from a checkpoint before it")
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


@advising("lower the learning rate, or max_grad_norm; warm up longer; go on from a checkpoint before it")
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


@advising("stop: the distance buys nothing more; raise the KL coefficient, or give a kl_target where there is one")
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
    "take harder or easier prompts, more samples of each or a higher temperature, or a reward that is less coarse"
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
    "different models"
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


@advising("raise beta, lower the learning rate, or drop pairs whose two completions are nearly the same")
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


@advising("fewer epochs, a lower learning rate, or more pairs; judge it on held-out pairs")
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
    "the next one better"
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
