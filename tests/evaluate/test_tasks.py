"""Options ranked in three ways, and the means that clusters are summed up by."""

from __future__ import annotations

import numpy as np
import pytest

from accord.evaluate.statistics import Interval, wilson
from accord.evaluate.task_rows import average_rows, cluster_row, mean_of_intervals, task_row
from accord.evaluate.task_scores import option_scores
from accord.results.tasks import ClusterRow


def test_options_are_ranked_as_they_are_a_token_or_less_what_they_are_anyway() -> None:
    logps, tokens, priors = [-2.0, -3.0, -4.0], [1, 2, 4], [-1.0, -1.5, -4.0]
    assert option_scores(logps, tokens, None, "sum") == [-2.0, -3.0, -4.0]
    assert option_scores(logps, tokens, None, "mean") == [-2.0, -1.5, -1.0]
    assert option_scores(logps, tokens, priors, "pmi") == [-1.0, -1.5, 0.0]
    with pytest.raises(ValueError, match="without the row"):
        option_scores(logps, tokens, None, "pmi")


def test_the_mean_of_intervals_by_hand() -> None:
    # Distances below .3 and .4, above .6 and .8: half of their Pythagorean sums .5 and 1.
    found = mean_of_intervals([Interval(0.5, 0.2, 1.1, 10), Interval(0.7, 0.3, 1.5, 30)])
    assert (found.estimate, found.low, found.high, found.n) == pytest.approx((0.6, 0.35, 1.1, 40))
    one = Interval(0.4, 0.1, 0.5, 7)
    assert mean_of_intervals([one]) == Interval(0.4, pytest.approx(0.1), pytest.approx(0.5), 7)  # type: ignore[arg-type]


def test_the_interval_of_a_mean_of_intervals_covers() -> None:
    # Three tasks of 60 rows at rates .95, .5 and .2, whose mean is .55: 95% intervals hold it 93 to 97% of the time.
    draws = np.random.default_rng(0).binomial(60, [0.95, 0.5, 0.2], size=(4000, 3))
    found = [mean_of_intervals([wilson(int(k), 60) for k in row]) for row in draws]
    assert 0.93 <= np.mean([interval.low <= 0.55 <= interval.high for interval in found]) <= 0.97


def test_a_task_and_its_cluster_in_numbers() -> None:
    scores = {"base": [1.0, 0.0, 0.0, 0.0], "tuned": [1.0, 1.0, 1.0, 0.0]}
    task = task_row("day", "options", 2, scores, 0.5, None)
    assert (task.n, task.chance, task.templates, task.metric) == (4, 0.5, 2, "options")
    assert task.scores["base"].estimate == 0.25
    assert list(task.gains) == ["tuned"] and task.gains["tuned"].estimate == 0.5
    other = task_row("night", "exact", 2, {"base": [0.0] * 4, "tuned": [1.0] * 4}, None, {"base": 1.0, "tuned": 0.5})
    cluster = cluster_row("times", True, [task, other])
    assert cluster.held_out and [t.name for t in cluster.tasks] == ["day", "night"]
    # The mean is over tasks, as FLAN's: (.25 + 0) / 2 and (.75 + 1) / 2; the gain (.5 + 1) / 2.
    assert cluster.mean["base"].estimate == 0.125 and cluster.mean["tuned"].estimate == 0.875
    assert cluster.gains["tuned"].estimate == 0.75
    assert cluster.mean["base"].low < 0.125 < cluster.mean["base"].high


def test_what_is_above_chance_by_hand() -> None:
    # Chance .5: .75 is half of the way from there to 1, .5 nothing of it, and a gain of .25 counts twice.
    half = task_row("day", "options", 1, {"base": [1.0, 0.0] * 2, "tuned": [1.0, 1.0, 1.0, 0.0]}, 0.5, None)
    assert (half.normalized["base"].estimate, half.normalized["tuned"].estimate) == (0.0, 0.5)
    assert half.normalized["tuned"].low == pytest.approx(2 * half.scores["tuned"].low - 1)
    assert half.normalized["tuned"].high == pytest.approx(2 * half.scores["tuned"].high - 1)
    assert half.normalized_gains["tuned"].estimate == 0.5
    # Chance .2: a score of 0 is a quarter below it, and a gain of 1 counts 1.25 times.
    fifth = task_row("night", "exact", 1, {"base": [0.0] * 4, "tuned": [1.0] * 4}, 0.2, {"base": 1.0, "tuned": 1.0})
    assert fifth.normalized["base"].estimate == pytest.approx(-0.25) and fifth.normalized["tuned"].estimate == 1.0
    both = cluster_row("times", True, [half, fifth])
    assert both.normalized["base"].estimate == pytest.approx(-0.125) and both.normalized["tuned"].estimate == 0.75
    assert both.normalized_gains["tuned"].estimate == pytest.approx((0.5 + 1.25) / 2)
    unknown = cluster_row(
        "words", False, [half, task_row("own", "exact", 1, {"base": [1.0], "tuned": [0.0]}, None, {})]
    )
    assert unknown.normalized == {} == unknown.normalized_gains and unknown.mean["tuned"].estimate == 0.375


def test_averages_are_over_clusters_those_held_out_apart() -> None:
    def cluster(name: str, held_out: bool, *scores: float) -> ClusterRow:
        tasks = [task_row(f"{name}{i}", "options", 1, {"base": [s, s]}, 0.5, None) for i, s in enumerate(scores)]
        return cluster_row(name, held_out, tasks)

    # A cluster of three tasks counts no more than one of one: (0 + 1) / 2.
    rows = [cluster("a", True, 0.0, 0.0, 0.0), cluster("b", True, 1.0), cluster("c", False, 1.0)]
    held_out, held_in = average_rows(rows)
    assert (held_out.name, held_out.clusters, held_in.name, held_in.clusters) == ("held out", 2, "held in", 1)
    assert held_out.mean["base"].estimate == 0.5 and held_out.normalized["base"].estimate == 0.0
    assert held_in.mean["base"].estimate == 1.0 == held_in.normalized["base"].estimate
    assert [(a.name, a.clusters) for a in average_rows(rows[2:])] == [("all", 1)]
