"""The card in a model's folder: what it says, what the Hub's client reads of it, and what it must not give away."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from accord import load_model, load_preference_model, load_reward_model, report
from accord.data.encoding import encode_prompts
from accord.engine.networks import SMOLLM2
from accord.feedback.learned import LearnedJudge, LearnedReward
from accord.records import Comparison, Demonstration, Message, Preference, Prompt
from accord.report import card
from accord.results import Interval
from accord.results.models import Drawing
from accord.results.passes import PassesResult, PassRow
from accord.train.alarms import Alarm
from tests.commands.small import QUICK, accord, save_model, write_jsonl

PAIRS = [Preference("hi", "hello", "no"), Preference("bye", "good bye", "no"), Preference("hi", "good", "a")] * 2
MODELS = {"policy": {"architectures": ["LlamaForCausalLM"]}}


def run_folder(
    folder: Path,
    settings: dict[str, Any],
    metrics: list[dict[str, Any]] = [],  # noqa: B006
    alarms: list[dict[str, Any]] = [],  # noqa: B006
    config: dict[str, Any] = MODELS["policy"],
) -> Path:
    """The files of a finished run that a card is made of."""
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text(json.dumps(config))
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    (folder / "environment.json").write_text(json.dumps({"python": "3.11", "versions": {"torch": "2.13"}}))
    for name, rows in (("metrics", metrics), ("alarms", alarms)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def text_of(folder: Path, **more: str) -> str:
    (file,) = report.write_card(folder, **more)
    return file.read_text(encoding="utf-8")


def section(text: str, title: str) -> str:
    return text.split(f"## {title}\n\n")[1].split("\n\n## ")[0].rstrip()


def test_every_run_writes_one_that_the_hub_can_read(tmp_path: Path) -> None:
    base, out = save_model(tmp_path / "base"), tmp_path / "runs" / "dpo"
    data = write_jsonl(tmp_path / "pairs.jsonl", [*PAIRS, Preference("hi", "a", "a")])
    assert accord("dpo", "--model", base, "--data", data, "--out", out, "--max-bad", "0.2", *QUICK) == 0
    read = ModelCard.load(out / "model" / "README.md")
    assert read.data.to_dict() == {
        "library_name": "transformers", "pipeline_tag": "text-generation", "tags": ["accord", "dpo"],
    }  # fmt: skip
    assert read.text.strip().startswith("# `dpo`\n\nA language model, trained by `accord dpo`.")
    assert section(read.text, "Data").splitlines() == [
        "- data: `pairs.jsonl`, split `train`",
        "- read as 6 preferences",
        "- rows left out because they could not be used: 1",
    ]
    method = section(read.text, "Method")
    assert "loss = - log sigmoid(beta" in method and "arXiv:2305.18290), eq. 7" in method
    settings = yaml.safe_load(section(read.text, "Settings").removeprefix("```yaml\n").removesuffix("\n```"))
    kept = yaml.safe_load((out / "config.yaml").read_text())
    named = {"model": "base", "data": "pairs.jsonl"}
    assert settings == {k: v for k, v in (kept | named).items() if v is not None and k != "command"}
    assert str(tmp_path) not in read.text and "- transformers " in section(read.text, "Versions")
    # What its owner writes in it stays.
    (out / "model" / "README.md").write_text("mine")
    assert accord("dpo", "--model", base, "--data", data, "--out", out, "--max-bad", "0.2", *QUICK, "--resume") == 0
    assert (out / "model" / "README.md").read_text() == "mine"


@pytest.mark.parametrize(
    ("rows", "method", "message"),
    [
        (PAIRS, "kto", "read as 12 labeled completions"),
        ([Demonstration("hi", "hello"), Demonstration("bye", "good bye")], "sft", "read as 2 completions"),
    ],
)
def test_what_rows_became(rows: list[Any], method: str, message: str, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "run"
    assert accord(method, "--model", save_model(tmp_path / "base"), "--data", data, "--out", out, *QUICK) == 0
    assert f"- {message}\n" in (out / "model" / "README.md").read_text()


def used(folder: Path) -> dict[str, Any]:
    """What the card's own code leaves, run on the card's own folder, with words that the small tokenizer has."""
    code = section((folder / "README.md").read_text(), "Use").removeprefix("```python\n").removesuffix("\n```")
    for theirs, ours in (("OWNER/NAME", str(folder)), ("What is a preference?", "hi"), ("A choice.", "hello")):
        code = code.replace(theirs, ours)
    found: dict[str, Any] = {}
    exec(code.replace("A cat.", "no"), found)
    return found


def test_its_code_gives_in_transformers_what_accord_gives(tmp_path: Path) -> None:
    base, data = save_model(tmp_path / "base"), write_jsonl(tmp_path / "pairs.jsonl", PAIRS)
    common = ("--model", base, "--data", data, *QUICK, "--track", "none", "--out")
    for command, *more in (("dpo",), ("reward",), ("preference", "--planes", "2")):
        assert accord(command, *common, tmp_path / command, *more) == 0
    asked, answers = (Message("user", "hi"),), [(Message("assistant", text),) for text in ("hello", "no")]
    policy = load_model(tmp_path / "dpo" / "model")
    (prompt,), _ = encode_prompts(policy.tokenizer, [Prompt(asked)], room=1, context=policy.context, longest=32)
    assert used(tmp_path / "dpo" / "model")["prompt"]["input_ids"][0].tolist() == list(prompt.tokens)
    score = float(LearnedReward(load_reward_model(tmp_path / "reward" / "model")).texts([(asked, answers[0])]))
    assert used(tmp_path / "reward" / "model")["reward"] == pytest.approx(score, abs=1e-5)
    judge = LearnedJudge(load_preference_model(tmp_path / "preference" / "model"))
    (verdict,) = judge([Comparison(asked, *answers)])
    assert used(tmp_path / "preference" / "model")["probability"] == pytest.approx(verdict.first_wins, abs=1e-5)


def test_results_and_their_intervals(tmp_path: Path) -> None:
    """Worked out by hand: the last ten of 12 losses are 1 ... 10; 36 of 40 pairs are ordered rightly."""
    rows = [{"step": s, "loss": float(s - 2), "accuracy": 0.9, "seconds": 1.0} for s in range(1, 13)]
    for step, loss, high in ((4, 2.0, 2.5), (8, 1.5, None), (12, 1.0, 1.25)):
        rows[step - 1] |= {"eval_loss": loss, "eval_loss_low": 0.75, "eval_loss_high": high}
    settings = {"command": "dpo", "model": "m", "batch_size": 4}
    found = section(text_of(run_folder(tmp_path / "run", settings, rows)), "Results").splitlines()
    assert found[:3] == [
        "- `eval_loss`: 1 [0.75, 1.25], after step 12",
        # 5.5 -+ 2.2622 * 3.0277 / sqrt(10); Wilson's of 36 of 40: (0.9 + 1.9207 / 40 -+ ...) / (1 + 3.8415 / 40)
        "- `loss`: 5.5 [3.334, 7.666], the last 10 steps",
        "- `accuracy`: 0.9 [0.7695, 0.9604], the last 10 steps",
    ]
    assert found[3] == "" and found[4].startswith("Intervals are 95%.") and len(found) == 5


def test_a_single_step_has_no_interval(tmp_path: Path) -> None:
    ring = Alarm(1, "length", "it grew", "look").as_row()
    text = text_of(run_folder(tmp_path / "run", {"command": "sft"}, [{"step": 1, "loss": 0.125}], [ring]))
    assert section(text, "Alarms") == "- step 1, `length`: `it grew`"
    assert "- `loss`: 0.125 at the last step" in text


def test_the_base_model_is_the_one_on_the_hub_that_it_all_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def base_of(name: str, **settings: str) -> dict[str, Any]:
        found = ModelCard(text_of(run_folder(tmp_path / name, {"command": "sft", **settings}))).data.to_dict()
        return {key: found[key] for key in ("base_model", "datasets") if key in found}

    assert base_of("runs/sft", model="org/base-1.5B", data="org/pairs:fine") == {
        "base_model": "org/base-1.5B", "datasets": ["org/pairs"],
    }  # fmt: skip
    assert base_of("runs/dpo", model="runs/sft/model", data="data/pairs.jsonl") == {"base_model": "org/base-1.5B"}
    assert base_of("runs/short", model="smollm2", data="5 rows") == {"base_model": SMOLLM2}
    (tmp_path / "org" / "mine").mkdir(parents=True)
    assert base_of("runs/own", model="org/mine", data="org/mine") == {}  # a folder here, and no name on the Hub
    assert base_of("runs/gone", model="models/base/model") == {}


MARKDOWN = MarkdownIt("commonmark").enable("table")
HOSTILE = (
    "](http://evil) <script>alert(1)</script> ![x](http://evil/x.png) `a` ```\n\n# Heading\n---\n| a | b | \u202e e.com"
)


def test_what_others_wrote_stands_as_code(tmp_path: Path) -> None:
    settings = {"command": "grpo", "model": HOSTILE, "data": HOSTILE, "split": HOSTILE, "reward": HOSTILE}
    alarms = [{"step": 3, "alarm": HOSTILE, "saw": HOSTILE}]
    rows = [{"step": 1, "reward": 1.0, f"reward of {HOSTILE}": 1.0}]
    plain = text_of(run_folder(tmp_path / "run", {"command": "grpo"}, [{"step": 1, "reward": 1.0}]))
    text = text_of(run_folder(tmp_path / HOSTILE[:9].replace("/", "") / "run", settings, rows, alarms))
    assert ModelCard(text).data.to_dict() == ModelCard(plain).data.to_dict()
    assert "\u202e" not in text

    def shape(text: str) -> set[str]:
        tokens = MARKDOWN.parse(ModelCard(text).text)
        return {token.type for one in tokens for token in [one, *(one.children or [])]}

    assert shape(text) <= shape(plain) | {"code_inline"}


@given(st.text(max_size=40))
def test_any_text_is_one_piece_of_code(text: str) -> None:
    (_, line, _) = MARKDOWN.parse(f"- {card.code(text)}")[2:5]
    assert [child.type for child in line.children or []] == ["code_inline"]
    tokens = MARKDOWN.parse(card.fenced(text, "text") + "\nafter")
    assert [token.type for token in tokens] == ["fence", "paragraph_open", "inline", "paragraph_close"]


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("/home/jane/data/pairs.jsonl", "pairs.jsonl"),
        ("/home/jane/runs/rm/model + 0.5 * mean(/home/jane/a/model, ~/b/best)", "rm + 0.5 * mean(a, b best)"),
        ("../../jane/rows.parquet", "rows.parquet"),
        ("file:///home/jane/rows.csv", "rows.csv"),
        ("C:\\Users\\jane\\pairs.jsonl", "pairs.jsonl"),
        ("runs/sft/model", "runs/sft/model"),
        ("org/name", "org/name"),
        ("2 * https://me:hunter2@host/score?key=abc + cafe", "2 * https://host/score + cafe"),
        ("reasoning-gym:chain_sum?size=200", "reasoning-gym:chain_sum?size=200"),
        ("regex:^a/b$", "regex:^a/b$"),
    ],
)
def test_what_is_made_public(message: str, shown: str) -> None:
    assert card.public(message) == shown
    assert card.public(3.5) == 3.5


def test_a_path_that_is_there_is_called_by_its_last_part(tmp_path: Path) -> None:
    (file := tmp_path / "of jane" / "pairs (1).jsonl").parent.mkdir()
    file.touch()
    assert card.public(str(file)) == "pairs (1).jsonl"
    assert card.public(f"0.5 * {Path.home()}/a.jsonl") == "0.5 * a.jsonl"


def test_an_evaluation_is_added_once(tmp_path: Path) -> None:
    model = run_folder(tmp_path / "run", {"command": "sft"}) / "model"
    before = text_of(tmp_path / "run")
    half = Interval(0.5, 0.4, 0.6, 100)
    drawn = Drawing(temperature=1.0, max_new_tokens=8, seed=0)
    row = PassRow(name="sft", passes={1: half})
    PassesResult(prompts=100, samples=1, sampling=drawn, models=[row]).save(tmp_path / "evaluation")
    for _ in range(2):
        report.add_evaluation(model, tmp_path / "evaluation")
    added = (model / "README.md").read_text().removeprefix(before)
    assert added.count("## Evaluation: passes") == 1
    assert re.search(r"│ sft +│ 50.0% \[40.0, 60.0\]", added)
    assert ModelCard.load(model / "README.md").data.to_dict()["library_name"] == "transformers"
