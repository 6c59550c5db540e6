"""`accord evaluate overoptimization`: curves from runs, from files of scored samples, and from samples drawn."""

from __future__ import annotations

import json
from math import exp, log
from pathlib import Path
from typing import Any

import pytest

from tests.commands.small import accord, read_jsonl, save_model, write_jsonl

COMMAND = "evaluate overoptimization"


def length(completions: list[str], **_: object) -> list[float]:
    """The proxy: characters."""
    return [float(len(text)) for text in completions]


def brevity(completions: list[str], **_: object) -> list[float]:
    """The gold: fewer characters."""
    return [-float(len(text)) for text in completions]


HERE = "tests.commands.test_overoptimization"


def traced(out: Path, *options: object) -> dict[str, Any]:
    assert accord(*COMMAND.split(), "--out", out, *options) == 0
    return json.loads((out / "evaluation.json").read_text())


def refused(out: Path, capsys: pytest.CaptureFixture[str], *options: object) -> str:
    assert accord(*COMMAND.split(), "--out", out, *options) == 2
    assert not out.exists()
    return capsys.readouterr().err


def run_folder(folder: Path, gold: str = "watched") -> str:
    """A run whose gold is 1 + d (2 - log d): it turns at d = e, and ends at d = 4."""
    folder.mkdir(parents=True)
    steps = [(i / 10) for i in range(41)]
    rows = [
        {"step": i + 1, "kl": d**2, "reward": d, gold: 1 + d * (2 - (log(d) if d else 0))} for i, d in enumerate(steps)
    ]
    write_jsonl(folder / "metrics.jsonl", [*rows, {"step": 42, "kl": 17.0, "reward": 5.0}])
    return str(folder)


def test_a_run_s_curve_its_fit_and_its_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = traced(tmp_path / "out", "--runs.ppo", run_folder(tmp_path / "ppo"))
    assert (found["kind"], found["proxy"], found["gold"], found["warnings"]) == (
        "overoptimization",
        "reward",
        "watched",
        [],
    )
    [curve] = found["curves"]
    assert (curve["name"], curve["source"], curve["fit"]["form"]) == ("ppo", "training", "rl")
    values = [curve["fit"][name]["estimate"] for name in ("a", "b", "turn", "peak")]
    assert values == pytest.approx([2, 1, exp(1), exp(1)])
    assert (curve["fit"]["start"], curve["fit"]["r2"], curve["fit"]["reach"]) == pytest.approx((1, 1, 4))
    # 41 measured steps in 40 points: the first two steps, at d = 0 and .1, share one.
    first, *_, last = curve["points"]
    assert len(curve["points"]) == 40 and last["at"] == 41 and last["distance"] == pytest.approx(4)
    assert (first["at"], first["distance"], first["proxy"]) == pytest.approx((1.5, 0.005**0.5, 0.05))
    assert "│ ppo   │ 2.000 │ 1.000 │ 2.72 [2.72, 2.72] │ 2.718 │ 1.000 │ 4.00  │" in capsys.readouterr().out


def test_a_short_run_has_points_and_no_fit(tmp_path: Path) -> None:
    rows = [{"step": 1, "kl": -0.1, "reward": 1.0, "rm": 0.5}, {"step": 2, "kl": 4.0, "reward": 2.0, "rm": 0.7}]
    (tmp_path / "run").mkdir()
    write_jsonl(tmp_path / "run" / "metrics.jsonl", rows)
    found = traced(tmp_path / "out", "--runs.x", tmp_path / "run", "--gold", "rm")
    assert found["curves"][0]["fit"] is None
    assert found["curves"][0]["points"] == [
        {"distance": 0.0, "at": 1.0, "proxy": 1.0, "gold": 0.5},  # an estimate below 0 is no distance
        {"distance": 2.0, "at": 2.0, "proxy": 2.0, "gold": 0.7},
    ]
    assert found["warnings"] == ["x: its training curve has 2 of the 8 steps that a fit needs."]
    write_jsonl(tmp_path / "run" / "metrics.jsonl", rows * 5)
    found = traced(tmp_path / "out", "--runs.x", tmp_path / "run", "--gold", "rm")
    assert found["warnings"] == ["x: its training curve has 2 of the 3 different distances that a fit needs."]


def test_scored_samples_give_best_of_n_and_the_sweep(tmp_path: Path) -> None:
    # 4 samples of 2 prompts with proxies 1, 2, 3, 4 and gold 0, 1, 1, 0: best of n by hand, from C(i-1, n-1) / C(4, n).
    rows = [
        {"prompt": p, "completion": f"{p} {i}", "reward": i, "truth": g}
        for p in ("a", "b")
        for i, g in ((1, 0.0), (2, 1.0), (3, 1.0), (4, 0.0))
    ]
    file = write_jsonl(tmp_path / "scored.jsonl", rows)
    found = traced(tmp_path / "out", "--samples", file, "--gold", "truth")
    best, sweep = found["curves"]
    assert [(c["name"], c["source"]) for c in found["curves"]] == [("best of n", "best of n"), ("sweep", "sweep")]
    points = [(p["at"], p["distance"] ** 2, p["proxy"], p["gold"]) for p in best["points"]]
    assert points == [
        pytest.approx((1, 0, 2.5, 0.5)),
        pytest.approx((2, log(2) - 1 / 2, (2 + 2 * 3 + 3 * 4) / 6, 3 / 6)),
        pytest.approx((3, log(3) - 2 / 3, (3 + 3 * 4) / 4, 1 / 4)),
        pytest.approx((4, log(4) - 3 / 4, 4, 0)),
    ]
    assert best["fit"]["form"] == "best of n" and best["fit"]["start"] == 0.5
    assert [p["at"] for p in sweep["points"]] == [None]  # 4 samples are never 20 effective ones
    assert found["warnings"] == [
        "sweep: with 4 samples per prompt the sweep is its start alone, since any further point needs more than 20: "
        "draw more, such as --n 64.",
        "sweep: its sweep curve has 1 of the 3 points that a fit needs.",
    ]


def test_numbers_of_samples_are_for_samples_that_are_drawn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_folder(tmp_path / "ppo")
    for option in ("--n", "--limit"):
        said = refused(tmp_path / "out", capsys, "--runs.ppo", run, option, 8)
        assert "--n and --limit are for drawing samples: leave them out, or give --model and --data." in said


def test_prompts_with_more_samples_keep_as_many_as_the_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"prompt": p, "completion": "x" * i, "reward": i, "watched": 1}
        for p, n in (("a", 3), ("b", 2))
        for i in range(n)
    ]
    found = traced(tmp_path / "out", "--samples", write_jsonl(tmp_path / "s.jsonl", rows))
    assert [p["at"] for p in found["curves"][0]["points"]] == [1, 2]
    assert "1 of 5 samples of" in capsys.readouterr().err


def test_samples_are_drawn_scored_and_kept(tmp_path: Path) -> None:
    model = save_model(tmp_path / "model")
    data = write_jsonl(tmp_path / "prompts.jsonl", [{"prompt": "hi"}, {"prompt": "good day"}])
    options = ("--model", model, "--data", data, "--n", 6, "--max-new-tokens", 4, "--dtype", "float32")
    judged = ("--reward", f"{HERE}:length", "--judge", f"{HERE}:brevity")
    first = traced(tmp_path / "out", *options, *judged)
    scored = read_jsonl(tmp_path / "out" / "scored.jsonl")
    assert len(scored) == 12 and all(row["reward"] == -row["watched"] == len(row["completion"]) for row in scored)
    again = traced(tmp_path / "again", "--samples", tmp_path / "out" / "scored.jsonl")
    assert again["curves"] == first["curves"]
    best = first["curves"][0]["points"]
    assert [p["gold"] for p in best] == pytest.approx([-p["proxy"] for p in best])
    assert best[-1]["proxy"] == pytest.approx(sum(max(r["reward"] for r in scored[i : i + 6]) for i in (0, 6)) / 2)


def test_what_cannot_be_traced_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, run = tmp_path / "out", run_folder(tmp_path / "run")
    assert "there is nothing to trace" in refused(out, capsys)
    line = refused(out, capsys, "--runs.a", run, "--gold", "truth")
    assert "the metrics of a lack 'truth'" in line and "there are kl, reward, step, watched" in line
    (tmp_path / "bare").mkdir()
    write_jsonl(tmp_path / "bare" / "metrics.jsonl", [{"step": 1, "reward": 1.0, "watched": 1.0}])
    assert "lack 'kl': a run measures its divergence" in refused(out, capsys, "--runs.a", tmp_path / "bare")
    assert "there is no metrics.jsonl in it" in refused(out, capsys, "--runs.a", tmp_path)
    assert "to draw samples give --data and --reward and --judge too" in refused(out, capsys, "--model", "m")
    assert "to draw samples give --model and --judge too" in refused(
        out, capsys, "--runs.a", run, "--data", "d.jsonl", "--reward", "r"
    )
    assert "'reward' is both the optimized reward" in refused(out, capsys, "--runs.a", run, "--gold", "reward")
    assert "leave out --model and --data" in refused(out, capsys, "--model", "m", "--samples", "s.jsonl")
    lonely = write_jsonl(tmp_path / "s.jsonl", [{"prompt": "hi", "completion": "a", "reward": 1, "watched": 1}])
    assert "has one sample of the prompt 'hi'" in refused(out, capsys, "--samples", lonely)
    line = refused(out, capsys, "--samples", lonely, "--proxy", "score")
    assert "line 1: the column 'score' holds no finite number; name another by --proxy, or have --reward score" in line
    empty = write_jsonl(tmp_path / "empty.jsonl", [])
    assert "empty.jsonl has no rows; give samples" in refused(out, capsys, "--samples", empty)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "metrics.jsonl").write_text('{"step": 1, "k\n{"step": 2, "kl": 0}\n')
    assert f"{broken / 'metrics.jsonl'} does not hold one JSON object per line" in refused(
        out, capsys, "--runs.a", broken
    )


def test_a_file_where_the_folder_should_be_is_told_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    for out in (taken, taken / "inside"):
        assert accord(*COMMAND.split(), "--out", out, "--runs.a", tmp_path / "absent") == 2
        assert f"{out} cannot be a folder, since {taken} is a file" in capsys.readouterr().err
    assert taken.read_text() == "mine"
