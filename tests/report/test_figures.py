"""Pictures and tables of evaluations, without a page: families, cells, frontiers, turning points, tokens in color."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from accord.errors import InputError
from accord.report import write_report
from accord.report.frontier import lines, measured_frontier
from accord.report.html import BOUNDS, LONGEST, log_ratio, shaded, strength
from accord.report.models import ModelTable, by_labels, family, points_by_labels, shade
from accord.report.overoptimization import arrays, fitted, overoptimization_section
from accord.report.synthesis import by_principles
from accord.results import CritiqueResult, Interval, parse
from tests.report.evaluations import EVERYTHING
from tests.report.evaluations.answers import CRITIQUE, PASSES
from tests.report.evaluations.models import FRONTIER, MODELS, OVEROPTIMIZATION
from tests.report.folders import interval
from tests.report.pages import Page


def test_figures_of_runs_that_differ_in_their_principles() -> None:
    def with_first(k: int, score: float, **more: object) -> CritiqueResult:
        few = {"principles": CRITIQUE["principles"][:k]}
        last = {**CRITIQUE["revisions"][1], "scores": {"cafe": interval(score, 0.05)}}
        found = parse({**CRITIQUE, **few, **more, "revisions": [CRITIQUE["revisions"][0], last]})
        assert isinstance(found, CritiqueResult)
        return found

    critiqued, direct = [with_first(2, 0.7), with_first(1, 0.5)], with_first(2, 0.9, is_direct=True)
    [figure] = by_principles([*critiqued, direct])
    assert figure == by_principles(critiqued)[0] and figure.title == "cafe by number of principles"
    assert "over 100 prompts" in figure.caption
    others = [
        with_first(1, 0.5, is_direct=True),
        with_first(1, 0.5, constitution="other"),
        with_first(1, 0.5, model="m"),
    ]
    assert len(by_principles([*critiqued, direct, *others])) == 2
    assert by_principles([with_first(2, 0.7), with_first(2, 0.5)]) == ()


def test_wins_by_labels_are_ordered_within_a_family() -> None:
    rows = {row["name"]: row for row in MODELS["models"]}
    named = {"sft": ("people", None), "dpo": ("dpo-1000", 1100), "ppo": ("dpo-300", 400)}
    models = [{**rows[old], "name": new, "labels": labels} for old, (new, labels) in named.items()]
    found = parse({**MODELS, "against": "people", "models": models})
    points = [(labels, of, rate.estimate) for labels, of, rate in points_by_labels(found)]
    assert points == [(400, "dpo", 0.823), (1100, "dpo", 0.716)]
    assert [figure.title for figure in by_labels([ModelTable("labels", found)])] == ["Wins over people by labels"]
    assert by_labels([ModelTable("verdict", parse(MODELS))]) == []


def test_names_that_differ_by_a_number_at_their_end_are_a_family() -> None:
    given = ["dpo-300", "dpo-1000", "ppo", "sft_2", "dpo", "7"]
    assert list(map(family, given)) == ["dpo", "dpo", "ppo", "sft", "dpo", "7"]


def test_a_cell_is_colored_only_when_its_interval_excludes_an_even_match() -> None:
    assert shade(Interval(0.9, 0.49, 1.0)) == 0
    assert shade(Interval(0.52, 0.51, 0.53)) == 1
    assert shade(Interval(0.0, 0.0, 0.1)) == -5


def test_passes_in_a_file_of_before(tmp_path: Path) -> None:
    (tmp_path / "verification.json").write_text(json.dumps({**PASSES, "kind": "verification"}))
    assert list(Page(write_report(tmp_path)).sections) == ["passes"]


def test_a_frontier_says_who_gets_most_where_all_have_arrived() -> None:
    figure = measured_frontier(parse(FRONTIER))
    assert figure is not None
    caption = figure.caption
    assert caption.startswith("The highest cafe, 0.700, is ppo (0.05) at √KL 2.00.")
    # Best-of-8 ends at sqrt(log 8 - 7/8) = 1.0975. There dpo, from .45 at .7 to .6 at 1.5, has .45 + .15 * .3975 / .8;
    # ppo, from .5 at 1 to .7 at 2, at .5 + .2 * .0975; best of 8 at .35 + .3.
    assert "At √KL 1.10, which all methods reach: best of n 0.650, dpo 0.525, ppo 0.519." in caption
    assert "Best-of-n lies at its bound" in caption


def test_models_may_be_called_best_of_n_too() -> None:
    score = {"estimate": 0.5, "low": 0.4, "high": 0.6}
    point = {"name": "sft best", "coefficient": None, "kl": {"estimate": 1.0, "low": 0.9, "high": 1.1}, "score": score}
    family = {"name": "best of n", "points": [point]}
    figure = measured_frontier(parse({"kind": "frontier", "judge": "cafe", "families": [family], "best_of_n": []}))
    assert figure is not None and "sft best" in figure.svg


def test_best_of_n_is_drawn_at_its_divergence_where_that_is_known() -> None:
    exact = [{**row, "kl": interval(row["kl_bound"] / 4, 0.0)} for row in FRONTIER["best_of_n"]]
    result = parse({**FRONTIER, "best_of_n": exact})
    drawn, bound = lines(result)
    assert [family.name for family in drawn] == ["ppo", "dpo", "best of n"]
    assert bound is not None
    # A quarter of the divergence is half of the distance.
    assert drawn[-1].points[-1].distance == pytest.approx(bound.points[-1].distance / 2)
    figure = measured_frontier(result)
    assert figure is not None and "which its divergence never exceeds" in figure.caption


def test_a_fall_that_the_fit_does_not_see_is_doubtful() -> None:
    points = [{"distance": d, "proxy": d, "gold": g} for d, g in ((0.0, 0.0), (0.5, 1.0), (1.0, 0.9))]
    fit = {"form": "rl", "a": interval(1.0, 0.0), "b": interval(0.1, 0.0), "turn": None, "peak": None, "r2": 0.9}
    curve = {"name": "ppo", "source": "training", "points": points, "fit": fit}
    found = overoptimization_section(parse({"kind": "overoptimization", "curves": [curve]}))
    assert "gold peaks at √KL 0.500 and has fallen by 10.0% of its gain at the end" in found.figures[0].caption
    assert "The fitted curve does not turn down: the fall may be chance." in found.figures[0].caption


def test_both_sides_of_a_win_rate_are_rounded_alike() -> None:
    # 1 - .8625 is .13749999999999996 in floating point, and would be printed as 13.7% beside 86.25%'s mirror, 13.75%.
    assert Interval(0.8625, 0.829, 0.895).mirrored() == Interval(0.1375, 0.105, 0.171)


def test_an_answer_of_the_reference_has_no_log_ratio() -> None:
    assert log_ratio((("a", 0.0), (" b", 0.0))) is None
    assert log_ratio((("a", 0.5), (" b", -0.5))) == 0


def test_the_fitted_curve_passes_through_points_that_lie_on_it() -> None:
    for curve in overoptimization_section(parse(OVEROPTIMIZATION)).curves:
        line = fitted(curve)
        assert line is not None
        assert line[1][-1] == pytest.approx(arrays(curve)[2][-1])  # both end at the last distance


def test_gold_that_never_rises() -> None:
    points = [{"distance": d, "proxy": d, "gold": 1.0 - d} for d in (0.0, 0.5, 1.0)]
    curve = {"name": "ppo", "source": "training", "points": points, "fit": None}
    empty = {"name": "none", "source": "training"}
    found = overoptimization_section(parse({"kind": "overoptimization", "gold": "truth", "curves": [curve, empty]}))
    assert found.figures[0].caption.startswith("ppo: truth never rises above its start. Solid: truth, on the right.")
    assert len(found.curves) == 1


def test_tokens_are_shaded_by_their_log_ratio() -> None:
    html = str(shaded([("a", 0.05), (" b", 0.1), (" c", -0.6), (" d", 9.0), (" e", -4.0)]))
    spans = re.findall(r'<span title="([^"]*)"(?: class="(\w+)")?>([^<]*)</span>', html)
    assert spans == [
        ("+0.050 nats", "", "a"),
        ("+0.100 nats", "m1", "b"),
        ("−0.600 nats", "l2", "c"),
        ("+9.00 nats", "m5", "d"),
        ("−4.00 nats", "l5", "e"),
    ]
    assert re.sub(r"<[^>]*>", "", html) == "a b c d e"
    assert [strength(-bound) for bound in BOUNDS] == [1, 2, 3, 4, 5]


def test_spaces_between_tokens_are_no_signs_but_those_that_end_the_text_are() -> None:
    html = str(shaded([("a ", 0.0), ("\n", 0.0), ("b ", 0.0)]))
    assert re.sub(r"<[^>]*>", "", html) == "a \nb·"


def test_long_answers_are_cut_within_a_token() -> None:
    html = re.sub(r"<[^>]*>", "", str(shaded([("x" * (LONGEST - 1), 1.0), ("yz", 1.0), ("w" * 10, 1.0)])))
    assert html == "x" * (LONGEST - 1) + "y … 11 more characters"


@pytest.mark.parametrize("tokens", [None, "text", [["a"]], [["a", None]], [[1, 2.0]], [["a", float("nan")]]])
def test_without_tokens_the_text_is_shown(tmp_path: Path, tokens: Any) -> None:
    answer = {"model": "m", "text": "as it is", "scores": {}, "tokens": tokens}
    evaluation = {"kind": "models", "models": [], "side_by_side": [{"prompt": "p", "answers": [answer]}]}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    page = Page(write_report(tmp_path))
    assert page.answers == ["as it is"]
    assert "log-ratio" not in page.source.split("</style>")[1]


@pytest.mark.parametrize("kind", [evaluation["kind"] for evaluation in EVERYTHING.values()])
def test_an_evaluation_of_which_only_the_kind_is_left(tmp_path: Path, kind: str) -> None:
    (tmp_path / "evaluation.json").write_text(json.dumps({"kind": kind}))
    others = {"synthesis": "instruct", "learning_curve": "annotate curve", "critique": "critique"}
    others |= {"sweep": "sweep", "alarms": "alarms", "plan": "plan"}
    command = others.get(kind, f"evaluate {kind}")
    with pytest.raises(InputError, match=rf"evaluation\.json cannot be read .*; run accord {command} again"):
        write_report(tmp_path)
