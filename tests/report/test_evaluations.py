"""Evaluations on the page: their numbers, their captions, and what a hostile text can do there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from accord.errors import InputError
from accord.report import write_report
from accord.report.critique import by_principles
from accord.report.frontier import lines, measured_frontier
from accord.report.html import BOUNDS, LONGEST, log_ratio, shaded, strength
from accord.report.models import ModelTable, by_labels, family, points_by_labels, shade
from accord.report.overoptimization import arrays, fitted, turning
from accord.results import CritiqueResult, Interval, parse
from tests.report.evaluations import CRITIQUE, EVERYTHING, FRONTIER, MODELS, OVEROPTIMIZATION, PASSES, write_everything
from tests.report.folders import interval
from tests.report.pages import Page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_report(write_everything(tmp_path_factory.mktemp("report") / "everything")))


def words(page: Page, section: str) -> str:
    return " ".join(page.sections[section].split())


def rows(page: Page) -> dict[str, list[str]]:
    return {row[0]: row[1:] for row in page.tables}


def test_every_kind_of_evaluation_has_its_section(page: Page) -> None:
    before = ["alarms", "pipeline", "results", "matrix", "comparisons", "personal", "users", "judge"]
    before += ["learning-curve", "agreement", "tasks"]
    after = [
        "passes",
        "failures",
        "sweep",
        "log",
        "plan",
        "synthesis",
        "critique",
        "frontier",
        "overoptimization",
        "answers",
        "curves",
        "samples",
    ]
    assert list(page.sections) == [*before, *after, "settings", "environment"]


def test_alarms_over_a_log(page: Page) -> None:
    said = words(page, "log")
    assert "runs/<log>.jsonl, a log of verl, steps 1 to 20: 1 alarm." in said
    assert "kl-burst step 7 the divergence <jumped> What to try a lower rate" in said
    table = rows(page)
    assert table["kl-runaway"] == ["silent", "kl and reward"]
    assert table["overoptimization"] == ["not judged: no watched", ""]
    assert table["loss-rise"] == ["of other methods", ""]
    assert table["not read"] == ["actor/ppo_kl: another <divergence>", "20"]
    assert "Other names of the log: perf/<mfu>." in said


def test_a_plan_of_many_cards(page: Page) -> None:
    said = words(page, "plan")
    assert "models/<8B>: 8.03 billion weights. grpo: 512 prompts a step. All of it is arithmetic." in said
    assert rows(page)["1,024"] == ["2.5", "no: loading", "9,216", "4,213", "3.5", "1,000", "sampling"]
    assert "A card has 80 GB. It rests on: bytes of a card 8e+10 (given)." in said


def test_a_sweep(page: Page) -> None:
    assert ["kl_coefficient by learning_rate", "0.0001", "0.001"] in page.tables
    table = rows(page)
    assert table["0.75"][0] == "0.5 0.4 to 0.7 0.0% collapsed (10.0%–90.0%)"
    assert table["0.85"] == ["0.5 0.4 to 0.7 50.0% collapsed (10.0%–90.0%)", "–"]
    assert "the loss of <row> 1 is not finite" in words(page, "sweep")


def test_answers_revised_by_a_constitution(page: Page) -> None:
    table, text = rows(page), words(page, "critique")
    assert table["first answer"][:4] == ["–", "–", "2 cut", "21.5"]
    assert table["1"][:4] == ["70", "8", "20 cut, 2 echo (3 critiques cut off)", "30.2"]
    assert table["1"][4:] == ["0.550 (0.500 to 0.600)", "0.150 (0.110 to 0.190)"]
    assert table["harmless <b>"] == ["60", "0.120 (0.080 to 0.160)"] and table["honest"] == ["40", "–"]
    assert "base answered 100 prompts and revised its answers 1 time by the constitution mine.yaml" in text
    assert "of which 2 principles were drawn from. 90 prompts ended with an answer that can be used; 70 of" in text
    assert "From 0.400 to 0.550, with 95% intervals. On the same prompts the last revision is +0.150" in text
    assert "cafe by number of principles" not in text


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


def test_a_judge_beside_people(page: Page) -> None:
    table, text = rows(page), words(page, "judge")
    assert table["ai:smollm2 agrees with people"] == ["62.0% (55.0%–69.0%)", "196"]
    assert table["of <b>web"][1] == "90" and table["preferred answer longer by -40 to -3 characters"][1] == "49"
    assert table["Log-odds that standing first adds"] == ["1.75 (1.45 to 2.05)", "0"]
    assert table["The longer answer wins"][1] == "0.530" and table["Invalid: no letter"] == ["4", "0"]
    assert "prefers the longer answer more often than people do" in text


def test_instructions_that_a_model_made(page: Page) -> None:
    table, text = rows(page), words(page, "synthesis")
    assert table["length too short"] == ["97", "24.2% (20.2%–28.2%)", "0"]
    assert table["echo all the same"][2] == "5" and not any(row.startswith("empty") for row in table)
    assert table["instruction"] == ["11.2", "6.00", "10.0", "18.0"]
    assert "base was asked by self-instruct, from 175 seed tasks, in 4 rounds: 3 of 400 proposed" in text
    assert "2 are classification, as the model says" in text and "is 0.667" in text
    assert "On average 0.412. 66.7% lie below 0.5." in text
    assert "2 different first words" in text and "3 rounds in a row accepted nothing" in text


def test_what_more_labels_would_buy(page: Page) -> None:
    text = words(page, "learning-curve")
    assert "Reward models of 400 labels agree with 70.0% [67.0, 73.0] of what is held out" in text
    assert "Twice as many would buy 1.4 points [0.6, 2.2], 200 more 0.9 points [0.5, 1.3]." in text
    assert "An accuracy of 72% takes 1,111 [612, more than 4,000] labels." in text
    assert "start from sft" in text and "3 rows that prefer no answer" in text
    assert "100200400800" in text  # under the picture


def test_the_matrix_has_each_pair_from_both_sides(page: Page) -> None:
    # The order is the board's. ppo beats dpo in 53% (47% to 59%), so dpo beats ppo in 47% (41% to 53%).
    assert ["", "ppo", "dpo", "sft"] in page.tables
    matrix = {row[0]: row[1:] for row in page.tables if len(row) == 4 and "·" in row}
    assert matrix["dpo"][0] == "47.0% 41.0%–53.0% at equal length 56.0%"
    assert matrix["sft"][:2] == [
        "17.7% 12.7%–22.7% at equal length 26.9%",
        "28.4% 23.4%–33.4% at equal length 29.8%",
    ]
    # 82.3% and 71.6% are 3 and 2 tenths from a half; 53% may be even.
    found = ModelTable("verdict", parse(MODELS)).cells
    assert [found[pair].shade for pair in (("ppo", "sft"), ("sft", "ppo"), ("dpo", "sft"), ("ppo", "dpo"))] == [
        3,
        -3,
        2,
        0,
    ]


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


def test_pairs_and_board(page: Page) -> None:
    table = rows(page)
    assert table["ppo against sft"] == [
        "82.3% (77.3%–87.3%)", "73.1% (68.1%–78.1%)", "180 : 71, p 4.2e−12", "3", "1", "53.0%", "12.0%",
    ]  # fmt: skip
    assert ["ppo", "0.610 (0.490 to 0.730)", "106 (85.0 to 127)"] in page.tables
    assert "cafe answered 12% of pairs differently" in words(page, "results")
    assert "at equal length 73.1% (68.1%–78.1%)" in words(page, "results")


def test_a_reward_model_on_trial(page: Page) -> None:
    table, text = rows(page), words(page, "comparisons")
    assert table["chosen shorter"] == ["41.0% (38.0%–44.0%)", "800"]
    assert table["longer pays two more sentences"] == ["83.0% (79.0%–87.0%)", "0.900 (0.800 to 1.00)", "256"]
    assert table["repeated said twice"][0] == "22.0% (17.0%–27.0%)"
    # At 75% it is right in 66% to 74%, at 95% in 77% to 85%; at 55% and 65% the intervals hold what it says.
    assert "Expected calibration error 6.1% (4.9%–7.3%)" in text and "Too sure where it says 75%, 95%." in text
    # Only the probe that pays is red: what it is to be fooled is no success.
    bars = [a.get("class") for tag, a in page.tags if tag == "svg" and "bar" in (a.get("class") or "").split()]
    assert bars.count("bar below") == 3  # sft on the board, chosen shorter, and the probe longer


def test_agreement_of_annotators(page: Page) -> None:
    assert rows(page)["ann and cyd"] == ["70.0% (64.0%–76.0%)", "0.400 (0.280 to 0.520)", "180"]
    text = words(page, "agreement")
    assert "Ceiling for any model 86.1% (83.1%–89.1%)" in text and "Krippendorff's alpha 0.530 (0.450 to 0.610)" in text


def test_clusters_of_tasks(page: Page) -> None:
    scores = ["20.0% (16.0%–24.0%)", "40.0% (35.0%–45.0%)"]
    above = ["-6.7% (-12.0%–-1.3%)", "20.0% (13.3%–26.7%)"]
    assert [row[1:] for row in page.tables if row[0] == "sorting held out"] == [
        ["mean of 1", *scores],
        ["mean of 1", *above],
    ]
    measure = "rank classification, 150 rows, chance 25.0%"
    assert [row[1:] for row in page.tables if row[0] == "letters"] == [[measure, *scores], [measure, *above]]
    assert [row[1:] for row in page.tables if row[0] == "Clusters, held out"] == [
        ["mean of 1", *scores],
        ["mean of 1", *above],
    ]
    assert [row[2:] for row in page.tables if row[0] == "Clusters, held in"][1] == ["–", "–"]
    assert "Generated with max_new_tokens 16, temperature 0.0." in words(page, "tasks")


def test_passes(page: Page) -> None:
    table = rows(page)
    assert ["Model", "pass@1", "pass@4", "Majority of 4", "Length", "Ended"] in page.tables
    assert table["star"] == ["40.0% (35.0%–45.0%)", "62.0% (57.0%–67.0%)", "51.0% (46.0%–56.0%)", "12.2", "98.0%"]
    assert table["base"][2] == "–"
    head = re.sub(r"<[^>]+>", "", page.source.split("<header>")[1].split("</header>")[0])
    lead = "With one sample of each of 200 prompts: star is right in 40.0% (35.0%–45.0%), base is right in 10.0% (6.0%–"
    assert lead in " ".join(head.split())
    assert "200 prompts of test.jsonl, 4 samples of each at temperature 0.7." in words(page, "passes")


def test_failures(page: Page) -> None:
    table = rows(page)
    assert table["false fact preferred 40 probes, by lot 50.0%"] == [
        "30.0% 20.0%–40.0%",
        "5.0% 1.0%–9.0% −25.0 points (−37.5 to −12.5)",
    ]
    assert table["list-like 24 probes"] == ["–", "96.0% 92.0%–100.0%"]
    # The shade is a fifth of the share each: .30 the second of five, .05 none, .96 the last.
    matrix = page.source.split('id="failures"')[1].split("</table>")[0]
    assert re.findall(r'<td class="(\w+)"', matrix) == ["b2", "even", "none", "b5"]
    assert table["words of an answer"] == ["24", "40.0 (35.0 to 45.0)", "61.5 (56.5 to 66.5)", "21.5 (17.5 to 25.5)"]
    assert table["space <b>"] == ["10", "40.0% (20.0%–60.0%)", "10.0% (0.0%–20.0%)", "–"]
    assert table["body"] == ["30", "20.0% (10.0%–30.0%)", "–", "–"]
    text = words(page, "failures")
    assert "harmful has 3 probes" in text and "Probes: failures, asked in a chat." in text


def test_what_is_known_of_users(page: Page) -> None:
    assert ["Model", "k = 0", "k = 4", "Worst group"] in page.tables
    table = rows(page)
    assert table["pooled: pooled"] == ["48.9% (46.9%–50.9%)", "–", "–"]
    assert table["reads: reads choices"][1:] == ["97.0% (96.4%–97.6%)", "<b>kind: 96.7% (95.7%–97.7%)"]
    assert "given k of their own, over 200 users of unseen.jsonl; intervals are over users." in words(page, "personal")


def test_how_users_like_the_answers(page: Page) -> None:
    assert ["Who answers", "k = 0", "k = 4", "Worst group"] in page.tables
    table = rows(page)
    assert table["fspo"] == ["51.0% (49.0%–53.0%)", "83.0% (81.0%–85.0%)", "stern: 81.0% (78.0%–84.0%)"]
    assert table["sft, best of 16"] == ["95.0% (94.0%–96.0%)", "–", "–"]
    assert "to one of sft that was given none, over 200 users of unseen.jsonl and 800 questions" in words(page, "users")


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
    assert "At √KL 1.10, which all reach: best of n 0.650, dpo 0.525, ppo 0.519." in caption
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
    assert figure is not None and "which its divergence never passes" in figure.caption


def test_overoptimization_is_read_from_the_points(page: Page) -> None:
    found = turning(parse(OVEROPTIMIZATION))
    assert [figure.title for figure in found.figures] == ["Training", "Best of n"]
    # d (.3 - .2 log d) is highest at exp(.5) = 1.649; of the points at eighths, 1.625 is the nearest. There the gain is
    # 1.625 (.3 - .2 * .48551) = .32971, at the end 3 (.3 - .2 * 1.09861) = .24083: 27.0% of it is lost.
    assert found.figures[0].caption.startswith(
        "ppo, seed 0: cafe peaks at √KL 1.62 and has fallen by 27.0% of its gain at the end, while reward still rises."
    )
    assert found.figures[1].caption.startswith(
        "best of n: cafe is still at its height where the curve ends, at √KL 2.00."
    )
    assert rows(page)["ppo, seed 0"] == [
        "d (a − b log d)", "0.300 (0.290 to 0.310)", "0.200 (0.190 to 0.210)", "1.65 (1.45 to 1.85)",
        "0.330 (0.320 to 0.340)", "1.00",
    ]  # fmt: skip


def test_a_fall_that_the_fit_does_not_see_is_doubtful() -> None:
    points = [{"distance": d, "proxy": d, "gold": g} for d, g in ((0.0, 0.0), (0.5, 1.0), (1.0, 0.9))]
    fit = {"form": "rl", "a": interval(1.0, 0.0), "b": interval(0.1, 0.0), "turn": None, "peak": None, "r2": 0.9}
    curve = {"name": "ppo", "source": "training", "points": points, "fit": fit}
    found = turning(parse({"kind": "overoptimization", "curves": [curve]}))
    assert "gold peaks at √KL 0.500 and has fallen by 10.0% of its gain at the end" in found.figures[0].caption
    assert "The fitted curve has not turned: the fall may be chance." in found.figures[0].caption


def test_both_sides_of_a_win_rate_are_rounded_alike() -> None:
    # 1 - .8625 is .13749999999999996 in floating point, and would be printed as 13.7% beside 86.25%'s mirror, 13.75%.
    assert Interval(0.8625, 0.829, 0.895).mirrored() == Interval(0.1375, 0.105, 0.171)


def test_an_answer_of_the_reference_has_no_log_ratio() -> None:
    assert log_ratio((("a", 0.0), (" b", 0.0))) is None
    assert log_ratio((("a", 0.5), (" b", -0.5))) == 0


def test_the_fitted_curve_passes_through_points_that_lie_on_it() -> None:
    for curve in turning(parse(OVEROPTIMIZATION)).curves:
        line = fitted(curve)
        assert line is not None
        assert line[1][-1] == pytest.approx(arrays(curve)[2][-1])  # both end at the last distance


def test_gold_that_never_rises() -> None:
    points = [{"distance": d, "proxy": d, "gold": 1.0 - d} for d in (0.0, 0.5, 1.0)]
    curve = {"name": "ppo", "source": "training", "points": points, "fit": None}
    empty = {"name": "none", "source": "training"}
    found = turning(parse({"kind": "overoptimization", "gold": "truth", "curves": [curve, empty]}))
    assert found.figures[0].caption.startswith(
        "ppo: truth never rises above where it begins. Solid: truth, on the right."
    )
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


def test_a_hostile_token_stays_text(page: Page) -> None:
    assert page.answers[2] == "<script>alert('owned')</script>⟨U+001B⟩[31m ⟨U+202E⟩↵\n"
    assert "script" not in {tag for tag, _ in page.tags}
    # +.02 + 1.2 - .3 + 4.6 - 2.5 + 0 = 3.02.
    assert "log-ratio +3.02" in words(page, "answers")


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
