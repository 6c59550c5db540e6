"""Alarms on made-up series, each rule's sentence by hand, and how often they cry wolf."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest

from accord.errors import InputError
from accord.train.alarms import RULES, SILENCE, Alarm, Alarms, chosen, raised
from accord.train.history import History, noise, trend, z

ADVICE = {rule.name: rule.advice for rule in RULES}


def rows(**columns: Any) -> list[dict[str, float]]:
    """A row a step of these columns."""
    return [
        {"step": i + 1, **dict(zip(columns, values, strict=True))}
        for i, values in enumerate(zip(*columns.values(), strict=True))
    ]


def told(**columns: Any) -> list[tuple[int, str, str]]:
    """What is raised: step, name and what was seen."""
    return [(alarm.step, alarm.name, alarm.saw) for alarm in raised(rows(**columns))]


def wobbling(values: Any, by: float) -> np.ndarray:
    """The values, alternately more and less by so much."""
    return np.asarray(values, float) + by * (-1.0) ** np.arange(len(values))


def test_noise_is_that_of_successive_differences() -> None:
    assert noise(np.array([0.0, 2.0, 0.0, 2.0])) == pytest.approx(2**0.5)  # d = 2: sqrt(4 / 2)
    assert noise(np.arange(100.0)) == pytest.approx(0.5**0.5)  # a trend of 1 a row is no more noise than that
    assert noise(np.array([3.0])) == 0
    assert z(3.0, 2.0, 4, 4) == pytest.approx(3 / (2 * 0.5**0.5))
    assert (z(1.0, 0.0, 4), z(-1.0, 0.0, 4), z(0.0, 0.0, 4)) == (inf, -inf, 0)


def test_columns_are_finite_numbers_in_the_rows_that_have_them_all() -> None:
    history = History()
    for row in ({"a": 1.0}, {"a": nan, "b": 2.0}, {"a": 3, "b": 4.0}, {"b": None, "a": 5.0}, {"a": "x"}):
        history.add(row)
    assert [column.tolist() for column in history.of("a", "b")] == [[3.0], [4.0]]
    assert history.of("a")[0].tolist() == [1.0, 3.0, 5.0] and history.of("c")[0].tolist() == []
    before, after, _ = trend(np.arange(20.0))
    assert (before, after) == (2.0, 17.0)  # the means of 0 ... 4 and of 15 ... 19


def test_over_optimization_is_reward_up_and_the_watched_measure_down() -> None:
    """Both climb by 1/20 a step for 20 steps, then the watched measure falls as fast.

    The best four, rows 18 ... 21 or 19 ... 22, are worth 0.95, and the last four at row n (41.5 - n) / 20. The noise is
    1 / (20 sqrt 2), so that z = 5.5 is a fall of 5.5 / 40, which n = 26 is the first to reach; there the four are worth
    0.775, and their reward 24.5 / 20.
    """
    up = np.arange(1, 40) / 20
    down = np.concatenate([up[:20], up[18::-1]])
    first = told(reward=up, watched=down)[0]
    assert first[:2] == (26, "overoptimization")
    assert first[2].endswith(
        " to 1.23 while the watched measure fell from its peak of 0.95 to 0.775 (means of 4 measurements)"
    )
    assert told(reward=up, watched=up) == []
    assert told(reward=down, watched=down) == []  # the reward must rise
    assert told(reward=up) == []  # nothing is watched


def test_an_alarm_is_raised_once_and_again_only_after_a_silence() -> None:
    kl = [0.0] * 12 + [5.0] + [5.0] * 12 + [20.0] + [20.0] * 2
    seen = told(kl=kl)
    assert seen == [
        (13, "kl-burst", "the divergence jumped to 5 nats from at most 0 in the 10 steps before"),
        (26, "kl-burst", "the divergence jumped to 20 nats from at most 5 in the 10 steps before"),
    ]
    assert [step for step, _, _ in told(kl=[0.0] * 12 + [5.0] + [5.0] * (SILENCE - 2) + [20.0])] == [13]


def test_length_must_grow_with_the_reward_and_be_paid_within_a_step() -> None:
    steps = np.arange(30)
    longer, reward = wobbling(10 + steps, 0.5), wobbling(steps / 10, 0.01)
    paid = np.full(30, 0.8)
    seen = told(reward=reward, length=longer, length_correlation=paid)
    # at row 10, the first with five and five: 10 + 2 + 0.5 / 5 of rows 0 ... 4, and 10 + 7 - 0.5 / 5 of rows 5 ... 9
    assert seen == [
        (
            10,
            "length",
            "the samples grew from 12.1 to 16.9 tokens together with the reward; within a step their correlation is "
            "0.80",
        )
    ]
    assert told(reward=reward, length=longer)[0][2].endswith("together with the reward")
    assert told(reward=reward, length=longer, length_correlation=0 * paid) == []
    assert told(reward=-reward, length=longer, length_correlation=paid) == []
    assert told(reward=reward, length=wobbling(20 + steps / 10, 0.5), length_correlation=paid) == []


def test_repetition_and_entropy_are_measured_from_the_start() -> None:
    level = [0.02] * 10 + [0.5] * 20
    (seen,) = told(repetition=level)
    assert seen[1] == "repetition" and seen[2].endswith("up from 2%")
    fall = told(entropy=[1.0] * 5 + [0.1] * 10)
    assert fall == [(10, "entropy-collapse", "the entropy fell from 1 to 0.1 nats: the samples are becoming alike")]
    assert told(entropy=[1.0] * 5 + [0.3] * 30) == []


def test_a_divergence_that_no_step_can_justify_rings_in_that_step() -> None:
    """Of a run that begins, and so of fewer rows than ten."""
    assert told(kl=[0.003, 13.8, 28.8]) == [
        (2, "kl-burst", "the divergence jumped to 13.8 nats from at most 0.003 at the start")
    ]
    assert [step for step, *_ in told(kl=[0.0, 5.0, 8.0, 16.0, 30.0])] == [
        4
    ]  # by 16 in the three steps since the first
    assert told(kl=[0.0, 2.0, 5.0, 8.0, 11.0, 14.0, 17.0]) == []  # nine nats in three steps
    assert told(kl=[20.0, 29.0, 39.0]) == []  # held to another model than its start, and not twice as far
    assert told(teacher_kl=[5.0, 50.0]) == []  # of no known start: prompts may be shorter and longer


def test_an_entropy_that_is_gone_within_three_steps() -> None:
    assert told(entropy=[1.39, 1.33, 0.0004, 0.0001]) == [
        (4, "entropy-collapse", "the entropy fell from 1.36 to 0.0004 nats: the samples are becoming alike")
    ]
    assert [step for step, *_ in told(entropy=[1.4, 0.01, 0.002])] == [3]
    assert told(entropy=[1.4, 0.01, 1.4, 0.1, 0.1]) == []  # once, or a fourteenth


def test_samples_that_are_no_answers_any_more() -> None:
    assert told(ended=[1.0, 0.0]) == [(2, "collapse", "only 0% of the samples end by themselves, down from 100%")]
    assert told(ended=[0.7, 0.0]) == []  # of eight samples none ends in one row of 15,000
    # 18 tokens, then the mean of those and 5: four rows on, three are below a fifth of it
    shrunk = told(length=[18.0, 3.0, 2.0, 2.0], reward=[0.5] * 4)
    assert shrunk == [(4, "collapse", "the samples shrank from 18 to 3 tokens, and their reward did not rise")]
    assert told(length=[18.0, 3.0, 2.0, 2.0], reward=[0.5, 0.6, 0.7, 0.8]) == []  # brevity is what is paid
    assert told(length=[18.0, 3.0, 9.0, 2.0], reward=[0.5] * 4) == []
    good = wobbling(np.full(12, 0.6), 0.02).tolist()
    assert told(reward=[*good, 0.1, 0.05], reward_std=[0.25] * 14) == [
        (14, "collapse", "the reward fell from 0.6, the mean of 10 steps, to 0.1 at most in the two since")
    ]
    assert told(reward=[*good, 0.1, 0.6], reward_std=[0.25] * 14) == []
    assert told(reward=[*good, 0.4, 0.4], reward_std=[0.25] * 14) == []  # samples of one step are as far apart


def test_a_divergence_that_buys_nothing_runs_away() -> None:
    kl, flat = np.arange(60) / 4, wobbling(np.zeros(60), 0.1)
    (seen,) = [alarm for alarm in told(kl=kl, reward=flat) if alarm[1] != "kl-burst"]
    # halves of the first forty: means 9.5 / 4 and 29.5 / 4
    assert seen[:2] == (40, "kl-runaway")
    assert seen[2].startswith("in 40 steps the divergence went from 2.38 to 7.38 nats, and the reward from ")
    assert told(kl=kl, reward=flat + np.arange(60)) == []


def test_rewards_that_tell_nothing_apart() -> None:
    (seen,) = told(reward_std=[1.0] * 10 + [0.02] * 10)
    assert seen == (
        20,
        "flat-rewards",
        "the spread of rewards within a step fell from 1 at the start to 0.02",
    )
    (groups,) = told(flat_groups=[1.0] * 12, reward_std=[0.3] * 12)
    assert groups[:2] == (10, "flat-rewards") and "100% of the prompts" in groups[2]
    assert told(reward_std=[0.0] * 12, teacher_kl=[1.0] * 12) == []  # there the reward is the divergence


def test_sampler_and_trainer_must_agree() -> None:
    large, growing = told(sampler_drift=[0.1] * 3), told(sampler_drift=[0.001] * 20 + [0.02] * 10)
    assert large[0] == (
        3,
        "sampler-drift",
        "sampler and trainer differ by 0.1 nats per token; bfloat16 rounding gives about 0.01",
    )
    assert [name for _, name, _ in growing] == ["sampler-drift"]
    assert told(sampler_drift=[0.012] * 40) == []


def test_names_of_alarms() -> None:
    assert chosen("length, kl-burst") == ("length", "kl-burst") and chosen(None) == chosen("") == ()
    with pytest.raises(InputError, match=r"stop_when: there is no alarm 'lenght'; did you mean length\?"):
        chosen("kl-burst,lenght")
    with pytest.raises(InputError, match="the alarms are overoptimization, length, repetition, entropy-collapse"):
        chosen("xyz")


def test_an_alarm_as_a_row() -> None:
    (alarm,) = raised(rows(entropy=[1.0] * 5 + [0.1] * 10))
    assert isinstance(alarm, Alarm) and alarm.as_row() == {
        "step": 10, "alarm": "entropy-collapse", "saw": alarm.saw, "try": ADVICE["entropy-collapse"],
    }  # fmt: skip


def test_healthy_noise_raises_next_to_nothing() -> None:
    """40 runs of what a healthy run looks like: independent noise around curves that level off.

    Fewer than one such run in a hundred raises an alarm, and at one in a hundred four of 40 have a chance of 0.08%.
    """
    generator, wrong = np.random.default_rng(0), 0
    steps = np.arange(100)
    rise = 1 - np.exp(-steps / 20)
    for _ in range(40):

        def around(curve: Any, spread: float) -> np.ndarray:
            return curve + spread * generator.standard_normal(100)

        alarms = Alarms()
        columns = {
            "reward": around(2 * rise, 0.2), "watched": around(0.4 + 0.3 * rise, 0.03),
            "length": around(15 + 4 * rise, 1.0), "length_correlation": around(0.3, 0.1),
            "repetition": around(0.02, 0.01), "entropy": around(1.4 - 0.6 * rise, 0.05), "kl": around(8 * rise, 0.4),
            "reward_std": around(1 - 0.7 * rise, 0.05), "sampler_drift": around(0.002, 0.0003),
        }  # fmt: skip
        wrong += any([alarms.see(row) for row in rows(**columns)])
    assert wrong < 4


def gamed(seed: int, *, by: str) -> tuple[list[dict[str, float]], np.ndarray]:
    """REINFORCE on a policy that only chooses how long to be: 1 + Poisson(exp(theta)) words, 64 answers a step.

    Gold is most between 10 and 24 words, as in the café, min(1, n / 10, (24 / n)^2), and varies for other reasons too.

    Returns:
        the run's rows, and the exact expectation of gold before every step.
    """
    generator, theta, found, exact = np.random.default_rng(seed), np.log(11.0), [], []
    words = np.arange(1, 120)
    log_factorials = np.concatenate([[0.0], np.log(words).cumsum()])[:-1]
    for step in range(80):
        chance = np.exp((words - 1) * theta - np.exp(theta) - log_factorials)
        n = 1.0 + generator.poisson(np.exp(theta), 64)
        truth = np.minimum(np.minimum(1, words / 10), (24 / words) ** 2)
        value = {"length": n, "gold": truth[n.astype(int) - 1] + 0.2 * generator.standard_normal(64)}
        exact.append(float(chance @ truth))
        reward = value[by]
        found.append({
            "step": step + 1, "reward": reward.mean(), "watched": value["gold"].mean(), "length": n.mean(),
            "reward_std": reward.std(), "length_correlation": np.corrcoef(reward, n)[0, 1],
        })  # fmt: skip
        theta += 0.02 * float(((reward - reward.mean()) * (n - 1 - np.exp(theta))).mean()) / reward.std() / n.std()
    return found, np.array(exact)


@pytest.mark.parametrize("seed", range(5))
def test_a_reward_that_pays_for_length_is_found_out_before_gold_falls_by_a_tenth(seed: int) -> None:
    found, gold = gamed(seed, by="length")
    first = {alarm.name: alarm.step for alarm in reversed(raised(found))}
    assert gold[-1] < 0.5 * gold.max()  # it is hacked in the end
    assert gold[first["length"] - 1] > 0.9 * gold[: first["length"]].max()
    assert gold[first["overoptimization"] - 1] > 0.8 * gold.max()
    assert raised(gamed(seed, by="gold")[0]) == []
