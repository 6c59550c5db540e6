"""Logs of other trainers: each format as rows, each name as a column, and the alarms, whose steps are found by hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from math import inf, isfinite, nan
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.results import AlarmsResult, load
from accord.train.alarms import RULES
from accord.train.history import History
from accord.train.other_logs import Listener, read_log
from accord.train.trainers import COLUMNS, TRAINERS, Reading, readings_of, trainer_of
from tests.commands.small import accord, write_jsonl

ENDED = [0.0, 0.0, 1.0, 1.0]
"""The share of samples that are cut: at step 3 none ends, where all did, and `collapse` rings."""
ENTROPY = [1.4, 1.4, 0.01, 0.01]
"""At step 4 it has been twice on end below a twentieth of 1.4: `entropy-collapse` rings."""
KL = [0.0, 0.1, 0.5, 0.6]
"""Nats a token: with 20 tokens each 0, 2, 10 and 12 nats, of which 12 - 0 at step 4 is above 10, and 10 - 0 at step 3
not below it: `kl-burst` rings at step 3."""
RUNG = [(3, "collapse"), (3, "kl-burst"), (4, "entropy-collapse")]
TOKENS = [20.0] * 4


def table(**columns: Iterable[float]) -> list[dict[str, float]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


VERL = {
    "critic/score/mean": [0.5] * 4,
    "actor/kl_loss": KL,
    "actor/ppo_kl": [0.01] * 4,
    "actor/entropy": ENTROPY,
    "response_length/mean": TOKENS,
    "response_length/clip_ratio": ENDED,
}
GRPO = {
    "loss": [0.0] * 4,
    "reward": [0.5] * 4,
    "kl": KL,
    "entropy": ENTROPY,
    "completions/mean_length": TOKENS,
    "completions/clipped_ratio": ENDED,
}
OPENRLHF = {
    "policy_loss": [0.0] * 4,
    "reward": [0.5] * 4,
    "kl": KL,
    "entropy_loss": ENTROPY,
    "response_length": TOKENS,
    "response_clip_ratio": ENDED,
}
STEPS = range(1, 5)


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_csv(path: Path, rows: list[Mapping[str, Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def verl_file(folder: Path) -> Path:
    rows = [{"step": step, "data": row} for step, row in zip(STEPS, table(**VERL), strict=True)]
    return Path(write_jsonl(folder / "run.jsonl", rows))


def openrlhf_lines(folder: Path) -> Path:
    rows = [{"global_step": step, **row} for step, row in zip(STEPS, table(**OPENRLHF), strict=True)]
    return Path(write_jsonl(folder / "run.jsonl", rows))


def trl_checkpoint(folder: Path) -> Path:
    """The last of two checkpoints, with an evaluation's entry of its own and the one that ends a run."""
    entries = [{**row, "step": step, "epoch": 0.1 * step} for step, row in zip(STEPS, table(**GRPO), strict=True)]
    more = [{"eval_loss": 0.1, "eval_runtime": 3.0, "step": 4}, {"train_loss": 0.0, "step": 4}]
    write_json(folder / "checkpoint-10" / "trainer_state.json", {"log_history": entries + more})
    write_json(folder / "checkpoint-9" / "trainer_state.json", {"log_history": entries[:1]})
    return folder


def wandb_history(folder: Path) -> Path:
    """`run.history().to_csv()`: prefixes, empty cells, a row of its own for the evaluation, another count of steps."""
    rows: list[dict[str, Any]] = []
    for step, row in zip(STEPS, table(**GRPO), strict=True):
        names = {f"train/{name}": value for name, value in row.items()}
        rows.append({"_step": 7 * step, "train/global_step": step, **names, "eval/loss": ""})
        rows.append({"_step": 7 * step + 1, **dict.fromkeys(["train/global_step", *names], "NaN"), "eval/loss": 0.3})
    return write_csv(folder / "history.csv", rows)


def wandb_chart(folder: Path) -> Path:
    """The web page's export of a chart: `RUN - METRIC` with the least and the most beside."""
    rows = []
    for step, row in zip(STEPS, table(**VERL), strict=True):
        named = {f"brave - sun - {name}{end}": value for name, value in row.items() for end in ("", "__MIN", "__MAX")}
        rows.append({"Step": step, **named})
    return write_csv(folder / "chart.csv", rows)


def openrlhf_of_wandb(folder: Path) -> Path:
    rows = [{"train/global_step": step, **{f"train/{k}": v for k, v in row.items()}} for step, row in
            zip(STEPS, table(**OPENRLHF), strict=True)]  # fmt: skip
    return write_json(folder / "history.json", rows)


@pytest.mark.parametrize(
    ("write", "trainer"),
    [
        (verl_file, "verl"),
        (wandb_chart, "verl"),
        (trl_checkpoint, "trl-grpo"),
        (wandb_history, "trl-grpo"),
        (openrlhf_lines, "openrlhf-ppo"),
        (openrlhf_of_wandb, "openrlhf-ppo"),
    ],
)
def test_the_same_run_in_each_format_rings_at_the_same_steps(write: Any, trainer: str, tmp_path: Path) -> None:
    log = read_log(write(tmp_path))
    assert [row["step"] for row in log.rows] == list(STEPS)
    assert trainer_of(log.names) == trainer
    listener = Listener(readings_of(trainer, {}, log.names))
    assert [(one.step, one.name) for row in log.rows for one in listener.see(row)] == RUNG


def test_accords_own_metrics_ring_as_they_did(tmp_path: Path) -> None:
    own = {"tokens_per_second": [1.0] * 4, "reward": [0.5] * 4, "kl": [20 * kl for kl in KL], "entropy": ENTROPY}
    rows = [{"step": s, **row} for s, row in zip(STEPS, table(**own, ended=[1 - e for e in ENDED]), strict=True)]
    write_jsonl(tmp_path / "metrics.jsonl", rows)
    log = read_log(tmp_path)
    readings = readings_of(trainer_of(log.names), {}, log.names)
    listener = Listener(readings)
    assert [(one.step, one.name) for row in log.rows for one in listener.see(row)] == RUNG
    assert {one.column for one in readings} == {"reward", "kl", "entropy", "ended"}


def test_what_is_logged_apart_for_a_step_is_one_row_and_steps_made_again_replace_those_before(tmp_path: Path) -> None:
    rows = [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
        {"step": 2, "eval_loss": 5.0},
        {"step": 3, "loss": 3.0},
        {"step": 2, "loss": 2.5},
        {"step": 3, "loss": "inf", "eval_loss": True, "text": "no number"},
    ]
    log = read_log(write_jsonl(tmp_path / "log.jsonl", rows))
    assert log.rows == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 2.5, "eval_loss": 5.0}]
    assert log.warnings == ["the run went back and made steps again: shown are those that it made last."]
    assert log.names == {"step": 2, "loss": 2, "eval_loss": 1}


def test_a_last_line_that_is_cut_off_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 1, "loss": 1}\n{"step": 2, "lo', encoding="utf-8")
    log = read_log(tmp_path / "log.jsonl")
    assert log.rows == [{"step": 1, "loss": 1.0}]
    assert log.warnings == [f"{tmp_path / 'log.jsonl'}: its last line is cut off, and left out."]


def test_numbers_that_are_none_are_told(tmp_path: Path) -> None:
    rows = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": nan}, {"step": 3, "loss": inf, "kl": "NaN"}]
    log = read_log(write_jsonl(tmp_path / "log.jsonl", rows))
    assert log.rows == [{"step": 1, "loss": 1.0}]
    assert log.warnings == ["not finite, and left out: loss in 2 rows."]


def test_rows_without_steps_are_counted(tmp_path: Path) -> None:
    assert read_log(write_jsonl(tmp_path / "log.jsonl", [{"loss": 1}, {"loss": 2}])).rows == [
        {"step": 1, "loss": 1.0},
        {"step": 2, "loss": 2.0},
    ]


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
COIN = [0.5 + 0.1 * (-1) ** i for i in range(80)]
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
        for row in table(step=range(1, 100), **some) if some else []:
            history.add(row)
            seen = seen or rule.look(history) is not None
        return seen

    def table(**given: Any) -> list[dict[str, float]]:
        return [dict(zip(given, row, strict=True)) for row in zip(*given.values(), strict=False)]

    assert rung(columns) and way in rule.ways({"step", *columns})
    for name in columns:
        less = {other: values for other, values in columns.items() if other != name}
        assert not rung(less) and way not in rule.ways({"step", *less})


def test_the_command_tells_how_it_read_and_what_rang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert accord("alarms", verl_file(tmp_path), "--out", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert "not judged: no watched" in " ".join(said.split()) and "actor/ppo_kl" in said
    result = load(tmp_path / "out")
    assert isinstance(result, AlarmsResult)
    assert (result.trainer, result.rows, result.first, result.last) == ("verl", 4, 1, 4)
    assert [(one.step, one.alarm) for one in result.alarms] == RUNG
    assert {one.column: one.read for one in result.columns if one.column} == {
        "reward": "critic/score/mean",
        "kl": "actor/kl_loss * response_length/mean",
        "entropy": "actor/entropy",
        "length": "response_length/mean",
        "ended": "1 - response_length/clip_ratio",
    }
    (other,) = [one for one in result.columns if not one.column]
    assert other.read == "actor/ppo_kl" and "not the divergence from the reference" in other.why
    judged = {one.alarm: one.said for one in result.judged}
    assert judged["collapse"] == "rang at step 3" and judged["kl-runaway"] == "silent"
    assert judged["loss-rise"] == "of other methods" and judged["flat-rewards"] == "not judged: no reward_std"
    assert list(result.frame()["step"]) == [3, 3, 4]


def test_columns_that_accord_does_not_know_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward = [i / 20 for i in range(1, 40)]
    rows = table(step=range(1, 40), fitness=reward, gold=reward[:20] + reward[18::-1])
    log = write_jsonl(tmp_path / "log.jsonl", rows)
    assert accord("alarms", log) == 2
    assert "the log has fitness, gold, step, of which accord knows none" in capsys.readouterr().err
    given = ("--columns", "reward=fitness,watched=gold")
    assert accord("alarms", log, *given, "--stop-when", "collapse") == 0
    assert accord("alarms", log, *given, "--stop-when", "collapse,overoptimization") == 3
    assert "the alarm overoptimization rings at step 26: the reward rose" in capsys.readouterr().err


def test_rows_that_stand_apart_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = write_json(tmp_path / "trainer_state.json", {"log_history": [{"step": 10 * i, "loss": 1} for i in (1, 2, 3)]})
    assert accord("alarms", tmp_path) == accord("alarms", log) == 0
    assert "rows stand 10 steps apart: where an alarm counts steps, these are rows." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            [{"step": 1, "loss": 1.0}, {"step": 1, "loss": 2.0, "_runtime": 3}, {"step": 1, "eval_loss": 2.0}],
            "logged again for a step, with another number: loss 1 times; shown is the later.",
        ),
        (
            [{"step": 1, "train/loss": 1.0, "loss": 2.0}],
            "train/loss and loss are one name here: where a row has both, the last is read.",
        ),
        ([{"step": "step 1", "loss": 1.0}], "the steps are no numbers: rows are counted instead."),
        ([{"step": 1, "loss": 10**400}, {"step": 2, "loss": 1.0}], "not finite, and left out: loss in 1 rows."),
    ],
)
def test_what_of_a_log_is_passed_over_is_told(rows: list[dict[str, Any]], said: str, tmp_path: Path) -> None:
    assert read_log(write_jsonl(tmp_path / "log.jsonl", rows)).warnings == [said]


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
