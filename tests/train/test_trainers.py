"""How other trainers' names are read as columns, and the ways in which each alarm sees by them."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf, isfinite, nan
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.train.alarms import RULES
from accord.train.history import History
from accord.train.other_logs import Listener
from accord.train.trainers import COLUMNS, TRAINERS, Reading, readings_of, trainer_of


def table(**columns: Iterable[float]) -> list[dict[str, float]]:
    """Rows, as many as the shortest column has."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=False)]


def test_readings_are_numbers_their_rest_and_their_sums() -> None:
    row = {"a": 0.25, "b": 8.0}
    assert Reading.of("kl", "a * b").of_row(row) == 2.0
    assert Reading.of("ended", "1 - a").of_row(row) == Reading.of("ended", "1-a").of_row(row) == 0.75
    assert Reading.of("reward", "1-best/mean").of_row({"best/mean": 0.5}) == 0.5
    assert Reading.of("kl", "a * c").of_row(row) is None
    assert str(Reading.of("kl", "a*b")) == "a * b" and str(Reading.of("ended", "1-a")) == "1 - a"


def test_every_name_in_the_table_is_read_and_every_column_that_alarms_need_is_known() -> None:
    for trainer in TRAINERS.values():
        assert set(trainer.reads) <= set(COLUMNS)
        for column, ways in trainer.reads.items():
            assert [str(Reading.of(column, way)) for way in ways] == list(ways)
    assert {name for rule in RULES for way in rule.needs for name in way.split()} <= {*COLUMNS, "step"}


def test_the_names_of_each_trainer_tell_it() -> None:
    assert trainer_of({"rewards/chosen", "rewards/margins", "loss", "kl"}) == "trl-dpo"
    assert trainer_of({"objective/kl", "rewards/margins", "loss"}) == "trl-ppo"
    assert trainer_of({"mean_reward", "accuracy", "margin", "loss"}) == "trl-reward"
    assert trainer_of({"loss", "grad_norm", "mean_token_accuracy"}) == "transformers"
    assert trainer_of({"fitness"}) is None


def test_dpo_of_trl_is_read_as_accords() -> None:
    """Margins of 0 in the first row, so that what knowing nothing costs is the first loss.

    The chosen fall by 0.2 a row from 0, the rejected by 0.25: at row 10 their means over the last five rows are -1.4
    and -1.75, a margin of .35, which -1.4 outweighs.
    """
    rows = table(**{
        "step": range(1, 11),
        "loss": [0.69] * 10,
        "rewards/chosen": [-0.2 * i for i in range(10)],
        "rewards/rejected": [-0.25 * i for i in range(10)],
        "rewards/margins": [0.05 * i for i in range(10)],
    })  # fmt: skip
    listener = Listener(readings_of("trl-dpo", {}, rows[0].keys()))
    rung = [(one.step, one.name, one.saw) for row in rows for one in listener.see(row)]
    assert [(step, name) for step, name, _ in rung] == [(10, "likelihood-displacement")]
    assert rung[0][2].startswith("the implicit reward of the chosen fell to -1.4, more than their margin of 0.35")


def test_more_of_a_row_is_looked_at_with_what_it_had() -> None:
    """The reward climbs and what an evaluation measures falls, each logged by itself: as in one row it rings at 26."""
    reward = [i / 20 for i in range(1, 40)]
    watched = reward[:20] + reward[18::-1]
    listener = Listener([Reading("reward", "r"), Reading("watched", "e")])
    rung = []
    for step, (up, down) in enumerate(zip(reward, watched, strict=True), start=1):
        assert listener.see({"step": step, "r": up}) == []
        rung += listener.see({"step": step, "e": down})
    assert [(one.step, one.name) for one in rung][:1] == [(26, "overoptimization")]


def test_ways_to_see_an_alarm_and_what_is_missing() -> None:
    rules = {rule.name: rule for rule in RULES}
    assert rules["collapse"].ways({"reward", "reward_std", "ended"}) == ["ended", "reward reward_std"]
    assert rules["overoptimization"].lacks({"reward", "kl"}) == ["watched"]
    assert rules["overoptimization"].lacks({"loss"}) == ["watched", "reward"]
    assert rules["loss-rise"].ways({"loss", "reward"}) == []


CLIMB = [i / 20 for i in range(1, 40)]

FALL = CLIMB[:20] + CLIMB[18::-1]

UP = [i + 0.5 * (-1) ** i for i in range(30)]

COIN = [0.5 + 0.1 * (-1) ** i for i in range(160)]

WORSE = {"high": [0.55] * 30, "held": [0.5] * 10 + [0.9] * 20, "own": [30.0 - i for i in range(30)]}

RINGS: dict[str, dict[str, list[float]]] = {
    "watched reward": {"watched": FALL, "reward": CLIMB},
    "watched margin": {"watched": FALL, "margin": CLIMB},
    "watched chosen_reward": {"watched": FALL, "chosen_reward": CLIMB},
    "reward length": {"reward": UP, "length": [10 + value for value in UP]},
    "repetition": {"repetition": [0.02] * 10 + [0.5] * 20},
    "entropy": {"entropy": [1.0] * 5 + [0.1] * 5},
    "ended": {"ended": [1.0, 0.0]},
    "length reward": {"length": [18.0, 3.0, 2.0, 2.0], "reward": [0.5] * 4},
    "reward reward_std": {"reward": [0.6, 0.62] * 6 + [0.1] * 2, "reward_std": [0.25] * 14},
    "kl": {"kl": [0.0] * 12 + [5.0]},
    "teacher_kl": {"teacher_kl": [1.0] * 12 + [5.0]},
    "kl reward": {"kl": [i / 4 for i in range(60)], "reward": [0.1 * (-1) ** i for i in range(60)]},
    "reward_std": {"reward_std": [1.0] * 5 + [0.01] * 10},
    "flat_groups": {"flat_groups": [1.0] * 10},
    "sampler_drift": {"sampler_drift": [0.1] * 3},
    "loss": {"loss": [1.0] + [9.0] * 10},
    "chosen_reward rejected_reward": {
        "chosen_reward": [-0.2 * i for i in range(10)],
        "rejected_reward": [-0.25 * i for i in range(10)],
    },
    "accuracy margin epoch": {"accuracy": [1.0] * 40, "margin": [*CLIMB, 2.0], "epoch": [2.0] * 40},
    "step loss eval_loss eval_loss_high": {
        "loss": WORSE["own"], "eval_loss": WORSE["held"], "eval_loss_high": WORSE["high"],
    },
    "step teacher_kl eval_teacher_kl eval_teacher_kl_high": {
        "teacher_kl": WORSE["own"], "eval_teacher_kl": WORSE["held"], "eval_teacher_kl_high": WORSE["high"],
    },
    "accuracy loss": {"accuracy": COIN, "loss": [value + 0.2 for value in COIN]},
}  # fmt: skip
"""Columns in which an alarm rings, by the way to see it."""


@pytest.mark.parametrize(("rule", "way"), [(rule, way) for rule in RULES for way in rule.needs])
def test_an_alarm_rings_by_each_way_to_see_it_and_not_without_one_of_its_columns(rule: Any, way: str) -> None:
    columns = RINGS[way]
    assert set(way.split()) - {"step"} == set(columns)

    def rung(some: dict[str, list[float]]) -> bool:
        history, seen = History(), False
        for row in table(step=range(1, 200), **some) if some else []:
            history.add(row)
            seen = seen or rule.check(history) is not None
        return seen

    assert rung(columns) and way in rule.ways({"step", *columns})
    for name in columns:
        less = {other: values for other, values in columns.items() if other != name}
        assert not rung(less) and way not in rule.ways({"step", *less})


numbers = st.sampled_from([0.0, 1.5, nan, inf])


@given(
    st.lists(st.tuples(st.booleans(), st.dictionaries(st.sampled_from("abc"), numbers))),
    st.lists(st.integers(0, 20), max_size=3),
)
def test_columns_in_common_are_those_of_the_rows_as_they_stand(
    rows: list[tuple[bool, dict[str, float]]], when: list[int]
) -> None:
    history, whole = History(), list[dict[str, float]]()
    for i, (is_more, row) in enumerate(rows):
        if is_more and whole:
            history.extend(row)
            whole[-1] |= row
        else:
            history.add(row)
            whole.append(dict(row))
        if i in when or i == len(rows) - 1:
            for names in (("a",), ("b", "a"), ("a", "z")):
                kept = [[row[n] for n in names] for row in whole if all(isfinite(row.get(n, nan)) for n in names)]
                found = [column.tolist() for column in history.of(*names)]
                assert found == [[row[k] for row in kept] for k in range(len(names))]
