"""`accord evaluate frontier`: families of models over their coefficients, beside best of n."""

from __future__ import annotations

import json
from math import log
from pathlib import Path
from typing import Any

import pytest

from accord.evaluate.frontier import coefficient
from tests.commands.small import QUICK, accord, save_model, write_jsonl

HERE = "tests.commands.test_overoptimization"
OPTIONS = ("--max-new-tokens", 4, "--dtype", "float32", "--judge", f"{HERE}:length")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and two DPO runs from it that pay .1 and .5 for a nat."""
    folder = tmp_path_factory.mktemp("home")
    base = save_model(folder / "base")
    pairs = write_jsonl(folder / "pairs.jsonl", [{"prompt": "hi", "chosen": "good", "rejected": "bad"}])
    write_jsonl(folder / "prompts.jsonl", [{"prompt": "hi"}, {"prompt": "good day"}, {"prompt": "bye"}])
    for beta in (0.1, 0.5):
        options = ("--model", base, "--data", pairs, "--out", folder / f"dpo-{beta}", "--beta", beta)
        assert accord("dpo", *options, *QUICK, "--learning-rate", "1e-2") == 0
    return folder


def measured(home: Path, out: Path, *options: object) -> dict[str, Any]:
    given = ("--data", home / "prompts.jsonl", "--reference", home / "base", "--out", out, *OPTIONS)
    assert accord("evaluate", "frontier", *given, *options) == 0
    return json.loads((out / "evaluation.json").read_text())


def test_families_with_their_coefficients_and_best_of_n(home: Path, tmp_path: Path) -> None:
    models = f"[{home}/dpo-0.5/model, {home}/dpo-0.1/model]"
    found = measured(home, tmp_path, "--families.dpo", models, "--best-of-n", 4, "--reward", f"{HERE}:length")
    assert (found["kind"], found["prompts"]) == ("frontier", 3)
    reference, dpo = found["families"]
    [start] = reference["points"]
    assert (start["coefficient"], start["kl"]["estimate"]) == (None, 0)
    assert {(p["name"], p["coefficient"]) for p in dpo["points"]} == {("dpo-0.1", 0.1), ("dpo-0.5", 0.5)}
    assert [p["kl"]["estimate"] for p in dpo["points"]] == sorted(p["kl"]["estimate"] for p in dpo["points"])
    # The proxy is the judge, so the score of the best of n rises with n, below the bound of divergence.
    best = found["best_of_n"]
    assert [(p["n"], p["kl_bound"]) for p in best] == [(n, pytest.approx(log(n) - (n - 1) / n)) for n in (1, 2, 3, 4)]
    assert all(p["kl"]["estimate"] <= p["kl_bound"] + 1e-12 for p in best)
    scores = [p["score"]["estimate"] for p in best]
    assert scores == sorted(scores)
    assert found["warnings"] == ["only 3 prompts: fewer than 20 make the intervals unreliable"]


def test_models_without_a_run_have_no_coefficient(home: Path, tmp_path: Path) -> None:
    assert coefficient(str(home / "base")) is None
    (tmp_path / "config.yaml").write_text("kl_coefficient: 0.02\nbeta: 3\n")
    assert coefficient(str(tmp_path / "model")) == 0.02
    (tmp_path / "config.yaml").write_text("- no settings")
    assert coefficient(str(tmp_path / "model")) is None


def test_options_that_do_not_fit_are_named(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where: tuple[object, ...] = (
        "--data",
        home / "prompts.jsonl",
        "--reference",
        home / "base",
        "--out",
        tmp_path / "out",
    )
    given = (*where, *OPTIONS, "--families.dpo", f"[{home}/dpo-0.1/model]")
    for options, said in (
        (("--best-of-n", 4), "--best-of-n and --reward go together"),
        (("--reward", f"{HERE}:length"), "--best-of-n and --reward go together"),
        (("--best-of-n", 1, "--reward", f"{HERE}:length"), "--best-of-n must be at least 2, not 1"),
        (("--families.ppo", "[]"), "--families.ppo names no model; give one, or several in brackets"),
    ):
        assert accord("evaluate", "frontier", *given, *options) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_one_model_needs_no_brackets(home: Path, tmp_path: Path) -> None:
    found = measured(home, tmp_path, "--families.dpo", home / "dpo-0.1" / "model")
    assert [(f["name"], [p["name"] for p in f["points"]]) for f in found["families"]] == [
        ("base", ["base"]),
        ("dpo", ["dpo-0.1"]),
    ]
