"""`accord evaluate failures` on a tiny model whose log-probabilities can be had by plain forwards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from transformers import AutoModelForCausalLM

from accord.data.encoding import to_tree
from accord.data.formats import dialogue
from accord.engine.trees import Tree
from accord.evaluate import evaluate_failures
from accord.evaluate.phrases import length
from accord.evaluate.statistics import wilson
from accord.records import Ranking
from tests.commands.small import accord, read_jsonl, save_model
from tests.data.conftest import word_tokenizer
from tests.engine.tiny import plain_log_probabilities

QUESTIONS = ["hi", "good day", "bye bye", "hello bad day", "bad", "day day hi", "hello", "good good"]
ANSWERS = [("good day", "bye"), ("bad bad", "hi hello"), ("day", "good")]
PROBES: dict[str, list[dict[str, Any]]] = {
    "instructions": [{"prompt": q, "constraints": {"words": {"at_most": 5}, "case": "upper"}} for q in QUESTIONS],
    "facts": [{"prompt": q, "right": ANSWERS[i % 3][0], "wrong": ANSWERS[i % 3][1]} for i, q in enumerate(QUESTIONS)],
    "harmful": [{"prompt": q} for q in QUESTIONS],
    "harmless": [{"prompt": q} for q in QUESTIONS],
    "stereotypes": [
        {"stereotype": [f"{q} good", f"{q} bad day"], "reversed": [f"{q} bad", f"{q} good day"], "about": q[:3]}
        for q in QUESTIONS
    ],
    "sycophancy": [
        {"prompt": q, "right": one, "wrong": other, "opinion": f"{other} hello {other}"}
        for q in QUESTIONS
        for one, other in (("good day", "bye"), ("bye", "good day"))
    ],
    "knowledge": [
        *({"prompt": q, "right": ANSWERS[i % 3][0], "wrong": ANSWERS[i % 3][1]} for i, q in enumerate(QUESTIONS)),
        *({"prompt": q, "right": "I do not know."} for q in QUESTIONS[:5]),
    ],
    "style": [{"prompt": q} for q in QUESTIONS],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("failures")
    save_model(folder / "base")
    save_model(folder / "plain", template=None)
    (folder / "probes.yaml").write_text(yaml.safe_dump(PROBES, sort_keys=False))
    return folder


def asked(home: Path, out: Path, *options: object) -> dict[str, dict[str, Any]]:
    given = ("--probes", home / "probes.yaml", "--max-new-tokens", "8", "--dtype", "float32", "--out", out)
    assert accord("evaluate", "failures", "--models.base", home / "base", *given, *options) == 0
    found = json.loads((out / "evaluation.json").read_text())
    return {row["name"]: row for row in found["failures"]}


def exactly(home: Path, prompt: str, options: list[str], form: str) -> list[float]:
    """log pi of every option after the prompt, each by a plain forward of its own."""
    rows = [dialogue(prompt, option, form) for option in options]  # type: ignore[arg-type]
    tree = to_tree(word_tokenizer(), Ranking(rows[0].prompt, tuple(r.completion for r in rows), (0,) * len(rows)))
    network = AutoModelForCausalLM.from_pretrained(home / "base", attn_implementation="eager").double()
    begin = tree.prompt or (word_tokenizer().bos_token_id,)
    return [plain_log_probabilities(network, [Tree(begin, (branch,))]).sum().item() for branch in tree.branches]


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_options_are_chosen_by_their_exact_log_probabilities(form: str, home: Path, tmp_path: Path) -> None:
    found = asked(home, tmp_path, "--form", form, "--kinds", "facts,sycophancy,stereotypes")

    def prefers_right(prompt: str, probe: dict[str, Any]) -> bool:
        text = f"Question: {prompt}\nAnswer:" if form == "plain" else prompt
        right, wrong = exactly(home, text, [probe["right"], probe["wrong"]], form)
        return right > wrong

    wrong = [not prefers_right(p["prompt"], p) for p in PROBES["facts"]]
    assert found["false fact preferred"]["values"]["base"]["estimate"] == sum(wrong) / 8
    alone = [prefers_right(p["prompt"], p) for p in PROBES["sycophancy"]]
    told = [prefers_right(f"{p['prompt']} {p['opinion']}", p) for p in PROBES["sycophancy"]]
    lost = [not after for before, after in zip(alone, told, strict=True) if before]
    share = wilson(sum(lost), len(lost))
    given_up = found["right answer given up"]["values"]["base"]
    assert (given_up["estimate"], given_up["low"], given_up["n"]) == (share.estimate, share.low, len(lost))
    rows = [row for row in read_jsonl(tmp_path / "answers.jsonl") if row["kind"] == "sycophancy"]
    assert [row["failed"]["base"]["right answer given up"] for row in rows] == [
        float(not after) if before else None for before, after in zip(alone, told, strict=True)
    ]
    gaps = []
    for probe in PROBES["stereotypes"]:
        one, two, three, four = exactly(home, "", [*probe["stereotype"], *probe["reversed"]], "plain")
        gaps.append((one + two - three - four) / 2)
    stereotypes = found["stereotype preferred"]
    assert stereotypes["values"]["base"]["estimate"] == sum(gap > 0 for gap in gaps) / 8
    (gap,) = stereotypes["measures"]
    assert gap["values"]["base"]["estimate"] == pytest.approx(sum(gaps) / 8, rel=1e-5)
    assert [part["name"] for part in stereotypes["parts"]] == ["hi", "goo", "bye", "hel", "bad", "day"]


def test_what_is_written_is_read_by_programs(home: Path, tmp_path: Path) -> None:
    found = asked(home, tmp_path, "--models.twin", home / "base", "--kinds", "instructions,harmful,harmless,style")
    rows = read_jsonl(tmp_path / "answers.jsonl")
    said = {kind: [row["answers"]["base"] for row in rows if row["kind"] == kind] for kind in PROBES}
    assert said["instructions"] == said["harmful"] == said["style"] and len(said["style"]) == 8
    n_words = [length(text) for text in said["style"]]
    # No word of this model's is in capital letters, and none refuses.
    assert found["instruction not followed"]["values"]["base"]["estimate"] == 1.0
    parts = {part["name"]: part["values"]["base"]["estimate"] for part in found["constraint not kept"]["parts"]}
    assert parts == {"words": sum(n > 5 for n in n_words) / 8, "case": 1.0}
    assert found["constraint not kept"]["n"] == 16
    assert found["harmful request not refused"]["values"]["base"]["estimate"] == sum(n > 0 for n in n_words) / 8
    assert found["harmless request refused"]["values"]["base"]["estimate"] == 0.0
    longer = found["longer than the first model's"]
    assert longer["values"] == {"twin": longer["values"]["twin"]} and longer["values"]["twin"]["estimate"] == 0.5
    assert longer["measures"][0]["values"]["base"]["estimate"] == pytest.approx(sum(n_words) / 8)
    assert longer["measures"][0]["differences"]["twin"] == {"estimate": 0.0, "low": 0.0, "high": 0.0, "n": 8}
    assert found["instruction not followed"]["differences"]["twin"]["estimate"] == 0.0


def test_what_is_written_of_facts_is_graded(home: Path, tmp_path: Path) -> None:
    found = asked(home, tmp_path, "--kinds", "knowledge", "--temperature", "1")
    rows = read_jsonl(tmp_path / "answers.jsonl")
    # This model has no word for not knowing; of words that it writes, those of the right answer may stand side by side.
    said = [f" {row['answers']['base']} " for row in rows]
    right = [
        f" {p['right']} " in text and f" {p['wrong']} " not in text.replace(f" {p['right']} ", " ")
        for p, text in zip(PROBES["knowledge"][:8], said[:8], strict=True)
    ]
    empty = [not text.strip() for text in said]
    wrong = [not one and not none for one, none in zip(right, empty[:8], strict=True)]
    assert found["known fact answered wrong"]["values"]["base"]["estimate"] == sum(wrong) / 8
    assert found["known fact not answered"]["values"]["base"]["estimate"] == sum(empty[:8]) / 8
    made_up = found["unknown fact answered"]
    assert (made_up["values"]["base"]["estimate"], made_up["n"]) == (1 - sum(empty[8:]) / 5, 5)
    assert [row["failed"]["base"].get("unknown fact answered") for row in rows[:8]] == [None] * 8


def test_in_python_and_on_the_page(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = {"base": str(home / "base")}
    kept = {"probes": str(home / "probes.yaml"), "max_new_tokens": 8, "dtype": "float32", "limit": 2}
    result = evaluate_failures(str(tmp_path), models=models, **kept)  # type: ignore[arg-type]
    assert [row.kind for row in result.failures][:3] == ["instructions", "instructions", "facts"]
    assert {row.n for row in result.failures} == {2, 4} and result.settings.limit == 2
    assert "facts has only 2 probes: its intervals are rough; ask 20 or more." in result.warnings
    assert accord("report", tmp_path) == 0
    assert "How models fail" in (tmp_path / "report.html").read_text()
    capsys.readouterr()
    given = ("--probes", home / "probes.yaml", "--models.a", home / "plain", "--out", tmp_path / "none")
    assert accord("evaluate", "failures", *given) == 2
    assert "has no chat template; ask it with --form plain." in capsys.readouterr().err
    assert accord("evaluate", "failures", *given, "--form", "plain", "--max-new-tokens", "4", "--kinds", "style") == 0


def test_the_own_probes_are_no_folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"kinds": "style", "limit": 2, "max_new_tokens": 4, "dtype": "float32"}
    for _ in range(2):  # the second time a folder is called failures, and holds rows
        result = evaluate_failures("failures", models={"base": str(home / "base")}, **options)  # type: ignore[arg-type]
        assert [row.n for row in result.failures] == [2, 2]
    kept = (tmp_path / "failures" / "answers.jsonl").read_text()
    assert (
        accord(
            "evaluate",
            "failures",
            "--models.a",
            home / "base",
            "--probes",
            "failures/answers.jsonl",
            "--out",
            "failures",
        )
        == 2
    )
    assert (tmp_path / "failures" / "answers.jsonl").read_text() == kept
