"""Alarms of rows on made-up series: each rule's sentence by hand, and of one how often it rings, and should."""

from __future__ import annotations

from math import log

import numpy as np
import pytest

from accord.train.history import curved_noise
from tests.train.test_alarms import told, wobbling


def test_a_loss_that_rises_and_stays() -> None:
    """1.3 and then 4, alternately more and less by .1: noise .2 / sqrt 2, z = 2.7 / (noise sqrt 1.1), which is 18."""
    up = [1.3, *wobbling(np.full(14, 4.0), 0.1)]
    assert told(loss=up) == [
        (11, "loss-rise", "the loss rose from 1.3 at the start to 4, the mean of 10 steps, and stays there")
    ]
    assert told(loss=[*up[:6], 1.2, *up[6:]]) == []  # it is back in between
    late = [*wobbling(np.full(20, 1.0), 0.05), *wobbling(np.full(12, 1.5), 0.05)]
    assert told(loss=late) == [
        (30, "loss-rise", "the loss rose from 1.05 at the start to 1.5, the mean of 10 steps, and stays there")
    ]
    assert told(loss=[2.0, *late]) == [
        (31, "loss-rise", "the loss rose from 1 to 1.5, means of 10 steps, and stays there")
    ]
    assert told(loss=up, reward=np.zeros(15)) == []  # of samples that are rewarded
    assert told(loss=late, round=[1] * 20 + [2] * 12) == []  # the next round begins anew
    assert told(loss=wobbling(np.full(40, 1.0), 0.9)) == []  # noise alone


def test_a_loss_of_pairs_is_compared_with_knowing_nothing() -> None:
    wild = [0.693, 2.5, 3.7, 1.8, 4.2, 1.9, 2.0, 6.3, 1.6, 1.9, 5.1]
    (seen,) = told(loss=wild, accuracy=[0.5] * 11, margin=np.arange(11.0))
    assert seen[:2] == (11, "loss-rise") and seen[2].startswith("the loss rose from 0.693 at the start to 3.1,")
    labeled = told(loss=[0.5, *[0.8] * 10], chosen_reward=np.arange(11.0))
    assert [step for step, *_ in labeled] == [11]
    # a head that is drawn at random says .3 by luck; log 2 is what it would cost to know nothing, and 1.5 times is more
    lucky = {"accuracy": [0.5] * 11, "margin": [0.4] * 11}
    assert told(loss=[0.3, *[0.8] * 10], **lucky) == []
    assert [step for step, *_ in told(loss=[0.3, *[0.1, 2.9] * 5], **lucky)] == [11]  # 1.5 is twice as much


def test_rows_held_out_cost_more_while_those_trained_on_cost_less() -> None:
    """What is held out falls to 1 at step 5 and rises by 1 a step, with no noise around that; training falls by 0.1.

    The fall of training since step 5 is that from step 6 to the last. Its noise is .1 / sqrt 2, but for a first step of
    .2, so that at step 9 z = .3 / (sqrt 2 s) with s^2 = (.04 + 7 * .01) / 16, which is 2.6, and at step 10 it is 3.5.
    """
    held = np.abs(np.arange(16.0) - 4) + 1
    trained = np.array([1.1, *(1 - np.arange(1, 16) / 10)])
    given = {"loss": trained, "eval_loss": held, "eval_loss_high": held + 0.5}
    assert told(**given) == [
        (
            10,
            "overfitting",
            "the held-out loss rose from 1 at step 5, its lowest, to 6, while the training loss fell from 0.5 to 0.1",
        )
    ]
    renamed = {"teacher_kl": trained, "eval_teacher_kl": held, "eval_teacher_kl_high": held + 0.5}
    assert [(step, name) for step, name, _ in told(**renamed)] == [(10, "overfitting")]
    assert told(**{**given, "eval_loss_high": held + 20}) == []  # still within the interval
    assert told(**{**given, "loss": -trained}) == []  # training must fall
    assert told(**{**given, "eval_loss": held[::-1]}) == []  # what falls is no alarm
    assert curved_noise(np.arange(9.0) ** 2) == pytest.approx(2 / 0.6745 / 6**0.5)  # second differences of 2
    assert curved_noise(3 * np.arange(9.0)) == 0 == curved_noise(np.arange(2.0))


def test_pairs_that_both_become_unlikely_and_pairs_learned_by_heart() -> None:
    down = -np.arange(30.0) / 10
    (seen,) = told(chosen_reward=down, rejected_reward=1.2 * down)
    assert seen[1] == "likelihood-displacement" and seen[0] == 10  # the mean of 5 ... 9 is -0.7, the margin 0.14
    assert "fell to -0.7, more than their margin of 0.14" in seen[2]
    assert told(chosen_reward=down, rejected_reward=3 * down) == []
    once = {"accuracy": np.ones(60), "margin": np.arange(60.0)}
    (heart,) = told(**once, epoch=np.arange(60) / 20)
    # the last twenty rows must lie past the first pass, epoch > 1: rows 22 ... 41 with epochs 21/20 ... 40/20
    assert heart[:2] == (41, "memorizing")
    assert heart[2] == "100.0% of the pairs are ordered correctly, and their margin grew from 10.5 to 30.5"
    assert told(**once, epoch=np.arange(60) / 60) == []


LOG_2 = wobbling(np.full(170, log(2)), 0.01)


def test_a_model_that_knows_no_more_than_a_coin() -> None:
    """Of 160 rows the last 80: accuracies .5 + .02 by turns more and less by .1, whose noise is .2 / sqrt 2.

    z = .02 / (.2 / sqrt 2) sqrt 80, which is 1.3; at most .52 + 2 * .0158 = .552 is likely. Of .56 with twice the noise
    z is 1.9, and at most .623 is likely, which may be worth having.
    """
    coin = {"loss": LOG_2, "accuracy": wobbling(np.full(170, 0.52), 0.1), "margin": np.zeros(170)}
    assert told(**coin) == [
        (
            160,
            "nothing-learned",
            "in the last 80 steps 52% of the pairs were ordered correctly, at a loss of 0.693: chance gives 50% and "
            "0.693",
        )
    ]
    assert told(**{**coin, "loss": LOG_2 - 0.01}) == []  # z = .01 / (.02 / sqrt 2) sqrt 80, which is 6.3
    assert told(**{**coin, "accuracy": wobbling(np.full(170, 0.56), 0.2)}) == []
    assert told(**{**coin, "accuracy": wobbling(np.full(170, 0.54), 0.05)}) == []  # z = .04 / (.1 / sqrt 2) sqrt 80
    assert told(**coin, chosen_reward=np.zeros(170)) == []  # DPO's
    assert told(**{name: column[:159] for name, column in coin.items()}) == []


def test_a_model_that_is_still_warming_up_has_not_failed_to_learn() -> None:
    """The learning rate is highest in row 70: the 160 rows that count are 70 to 229 at the earliest."""
    coin = {"accuracy": wobbling(np.full(240, 0.5), 0.05), "loss": wobbling(np.full(240, log(2)), 0.01)}
    rate = np.minimum(np.arange(1, 241) / 70, 1 - (np.arange(1, 241) - 70) / 1000)
    assert [step for step, *_ in told(**coin, learning_rate=rate)] == [229]
    assert [step for step, *_ in told(**coin, learning_rate=np.ones(240))] == [160]
    learned = {**coin, "loss": np.where(np.arange(240) < 200, coin["loss"], coin["loss"] - 0.05)}
    assert told(**learned, learning_rate=rate) == []


def test_a_model_that_knows_pairs_by_heart_and_no_others() -> None:
    """Rows held out are measured every tenth step: the sixth time at step 60, and what counts at 160."""
    measured = {"eval_accuracy": 0.51, "eval_accuracy_high": 0.55, "eval_loss": 0.7, "eval_loss_high": 0.71}
    learned = {"loss": 0.3, "accuracy": 0.9, "margin": 1.0}

    def seen(steps: int = 170, **others: float) -> list[tuple[int, str]]:
        held = {name: np.full(steps, np.nan) for name in measured}
        for name, value in (measured | others).items():
            held[name][9::10] = value
        return [alarm[:2] for alarm in told(**{n: np.full(steps, v) for n, v in learned.items()}, **held)]

    assert seen() == [(160, "nothing-learned")]
    assert seen(eval_accuracy_high=0.61) == []  # too few pairs to tell, or worth having
    assert seen(eval_loss_high=0.69) == []
    assert seen(159) == []


@pytest.mark.parametrize(("right", "rings"), [(0.5, 20), (0.65, 0)])
def test_how_often_a_coin_and_a_model_that_has_learned_ring(right: float, rings: int) -> None:
    """Twenty runs of 200 steps of 16 pairs each: margins of spread .3, of which such a share is above 0."""
    generator = np.random.default_rng(0)
    mean = 0.3 * {0.5: 0.0, 0.65: 0.3853}[right]  # the quantiles of a normal distribution
    runs = [generator.normal(mean, 0.3, (200, 16)) for _ in range(20)]
    found = [told(loss=np.log1p(np.exp(-m)).mean(1), accuracy=(m > 0).mean(1), margin=m.mean(1)) for m in runs]
    assert sum(any(name == "nothing-learned" for _, name, _ in alarms) for alarms in found) == rings
