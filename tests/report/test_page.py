"""The page as a whole: what it shows, what it never does, and folders with pieces missing or broken."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from accord.errors import InputError
from accord.report import write_comparison, write_report
from tests.report.evaluations import write_everything
from tests.report.folders import HOSTILE, metrics, write_pipeline, write_rows, write_run
from tests.report.pages import Page


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(write_pipeline(tmp_path_factory.mktemp("report") / "cafe"))


@pytest.fixture(scope="module")
def page(pipeline: Path) -> Page:
    return Page(pipeline)


def test_a_pipeline_has_every_section(pipeline: Path, page: Page) -> None:
    assert pipeline.name == "report.html"
    sections = ["pipeline", "results", "comparisons", "frontier", "answers", "curves", "samples", "settings"]
    assert list(page.sections) == [*sections, "environment"]


def test_the_flow_shows_each_stage_with_its_time(page: Page) -> None:
    text = " ".join(page.sections["pipeline"].split())
    for name, time in [("sft", "30 s"), ("ppo", "1 min 50 s"), ("pairs", "1.0 s")]:
        assert name in text and time in text
    assert "0.2 s, skipped" in text
    # Drawn twice, level and upright. Nine stages; of their fourteen inputs these nine arrows do not follow from others:
    # base-sft, sft-samples, samples-pairs, pairs-rm, pairs-dpo, rm-ppo, rm-agreement, dpo-verdict, ppo-verdict.
    drawn = [attributes.get("class") for _, attributes in page.tags]
    assert drawn.count("stage ran") == 2 * 8 and drawn.count("stage skipped") == 2 * 1
    assert drawn.count("shaft") == 2 * 9


def test_the_result_table_has_the_evaluations_numbers(page: Page) -> None:
    rows = {row[0]: row[1:] for row in page.tables}
    assert rows["Model"] == ["cafe", "reward", "Wins against sft", "KL from sft", "Length", "Ended"]
    assert rows["ppo"] == [
        "0.644 (0.624 to 0.664)",
        "2.25 (2.15 to 2.35)",
        "82.3% (77.3%–87.3%) 3 ties, 1 invalid",
        "6.25 (6.05 to 6.45)",
        "16.8",
        "97.5%",
    ]
    assert rows["sft"] == ["0.353 (0.333 to 0.373)", "0.020 (−0.080 to 0.120)", "–", "–", "14.5", "97.5%"]
    assert rows["reward model"] == ["71.2% (69.1%–73.3%)", "73.1%", "1800", "2"]


def test_a_win_rate_is_colored_only_when_its_interval_excludes_an_even_match(page: Page) -> None:
    bars = [a.get("class") for tag, a in page.tags if tag == "svg" and (a.get("class") or "").startswith("bar ")]
    # Two scores of each of four models have no middle; base loses, dpo and ppo win; the reward model beats chance.
    assert [bar for bar in bars if bar != "bar "] == ["bar below", "bar above", "bar above", "bar above"]


def test_the_headline_names_the_best_model_first(page: Page) -> None:
    head = " ".join(re.sub(r"<[^>]+>", "", page.source.split("<header>")[1].split("</header>")[0]).split())
    assert "Against sft, judged by cafe on 256 prompts: ppo wins 82.3% (77.3%–87.3%), dpo wins 71.6%" in head
    assert "Of held-out comparisons reward model agrees with 71.2% (69.1%–73.3%), where the noise in the labels" in head


def test_curves_are_captioned_with_their_ends(page: Page) -> None:
    # PPO's entropy is 3 - 1.8 t with t = step / 40: the first four steps mean 2.8875, the last four 1.2675.
    assert "From 2.89 to 1.27. A fast fall to zero" in page.sections["curves"]
    assert page.sections["curves"].count("Pairs ordered correctly") == 2
    assert page.sections["curves"].count("Policy loss") == 2  # its title, and the line that opens the fold it is in


def test_answers_are_text_and_nothing_in_them_hides(page: Page) -> None:
    shown = "<script>alert('owned')</script> & \"quotes\" <|im_end|>⟨U+001B⟩[31m ⟨U+202E⟩gnirts↵\n"
    assert page.answers[0] == shown
    assert page.answers[2] == "the coffee is warm and the staff is kind . 咖啡 ☕"
    assert page.answers[3] == "(empty)"
    assert HOSTILE not in page.source


def test_the_page_needs_nothing_else(page: Page) -> None:
    tags = {tag for tag, _ in page.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "image", "foreignobject"}
    for _, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on")
            assert name not in ("src", "srcset", "action")
            if name in ("href", "xlink:href"):
                assert value is not None and value.startswith("#")
    assert not re.search(r"url\((?!#)|@import|https?://", page.source)


def test_names_from_outside_are_escaped_everywhere(tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>$x$"
    pair = {"estimate": 0.5, "low": 0.4, "high": 0.6, "n": 4}
    models = [{"name": name, "scores": {nasty: pair}, "win_rate": pair, "kl": pair} for name in (nasty, "other")]
    evaluation = {"kind": "models", "judge": nasty, "against": "other", "reference": nasty, "models": models}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    (tmp_path / "config.yaml").write_text(f"command: ppo\n'{nasty}': '{nasty}'\n")
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, nasty: 1.0}) + "\n")
    (tmp_path / "samples.jsonl").write_text(json.dumps({"step": nasty, "prompt": nasty, "completion": nasty}) + "\n")
    page = Page(write_report(tmp_path))
    assert "img" not in {tag for tag, _ in page.tags}
    assert nasty in page.sections["frontier"] and nasty in page.sections["settings"]


def test_a_run_has_a_page_of_its_own(tmp_path: Path) -> None:
    page = Page(write_report(write_run(tmp_path / "ppo", "ppo", 100)))
    assert list(page.sections) == ["lineage", "frontier", "curves", "samples", "settings", "environment"]
    # The first step's sample and the last one's, not the one between.
    assert [text for text in page.answers if text.startswith("answer")] == ["answer of step 1", "answer of step 100"]
    assert "torch 2.13, transformers 5.23" in page.sections["environment"]
    assert "accord ppo --out 'a b'" in page.sections["environment"]
    # Every step took .3 s.
    assert "100 steps · 30 s · " in page.sections["curves"]


def test_what_is_missing_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text('{"step": 3, "loss": 1.5}\n')
    page = Page(write_report(tmp_path))
    assert list(page.sections) == ["curves"]
    assert "1.50 in the only step measured." in page.sections["curves"]


def test_a_pipeline_of_which_nothing_is_left_but_its_plan(tmp_path: Path) -> None:
    stages = [{"name": "a", "command": "sft", "folder": "a", "seconds": None}, {"name": "b", "inputs": {"model": "a"}}]
    (tmp_path / "pipeline.json").write_text(json.dumps({"stages": stages}))
    assert list(Page(write_report(tmp_path)).sections) == ["pipeline", "settings"]
    (tmp_path / "pipeline.json").write_text(json.dumps({"name": "empty", "stages": []}))
    assert list(Page(write_report(tmp_path)).sections) == []


def test_an_evaluation_with_nulls_shows_dashes(tmp_path: Path) -> None:
    models = [{"name": "only", "scores": {"cafe": {"estimate": float("nan")}}, "win_rate": None, "length": None}]
    evaluation = {"kind": "models", "judge": "cafe", "against": "sft", "models": models}
    (tmp_path / "evaluation.json").write_text(json.dumps(evaluation))
    assert Page(write_report(tmp_path)).tables == [["Model", "Length", "Ended"], ["only", "–", "–"]]


def test_a_long_run_stays_a_small_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("command: ppo\n")
    write_rows(tmp_path / "metrics.jsonl", metrics("ppo", 5000))
    page = Page(write_report(tmp_path))
    assert "5,000 steps" in page.sections["curves"]
    # Eleven curves of at most twice 240 points and a frontier of twice 500; 15 bytes write a point.
    assert len(page.source) < 150_000


def test_lone_surrogates_do_not_stop_the_page(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("command: sft\n")
    (tmp_path / "samples.jsonl").write_text('{"step": 1, "prompt": "p", "completion": "\\ud83d half"}\n')
    (tmp_path / "environment.json").write_text('{"machine": "\\udfff", "\\ud800": 1}')
    page = Page(write_report(tmp_path))
    assert page.answers == ["p", "⟨U+D83D⟩ half"]
    assert "⟨U+D800⟩" in page.sections["environment"]


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match="is neither a run nor a pipeline: it holds none of pipeline.json, config.yaml"
    ):
        write_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
@pytest.mark.parametrize("which", ["pipeline", "everything", "comparison"])
def test_nothing_overflows_a_phone(pipeline: Path, tmp_path: Path, which: str) -> None:
    page = pipeline
    if which == "everything":
        page = write_report(write_everything(tmp_path / "everything"))
    if which == "comparison":
        runs = [write_run(tmp_path / f"a-run-with-quite-a-long-name-{place}", "ppo", 12) for place in range(5)]
        page = write_comparison(runs, tmp_path)
    # Headless windows have a least width, so a frame of 390 pixels is the phone; a script in a copy measures it.
    script = "<script>document.title = 'width ' + document.documentElement.scrollWidth</script></body>"
    copy = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    (tmp_path / "copy.html").write_text(copy.replace("</body>", script), encoding="utf-8")
    frame = "<iframe src=copy.html width=390 height=800 onload='document.title = this.contentDocument.title'></iframe>"
    (tmp_path / "phone.html").write_text(f"<!doctype html><title>none</title>{frame}", encoding="utf-8")
    quiet = "--no-first-run --disable-quic --disable-background-networking --disable-component-update --disable-sync"
    how = "--headless --no-sandbox --disable-gpu --hide-scrollbars --allow-file-access-from-files"
    until = ["--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'user'}", "--dump-dom"]
    command = ["chromium", *quiet.split(), *how.split(), *until]
    environment = {**os.environ, "HOME": str(tmp_path)}
    url = (tmp_path / "phone.html").as_uri()
    done = subprocess.run([*command, url], capture_output=True, text=True, timeout=60, env=environment, check=True)
    assert "<title>width 390</title>" in done.stdout
