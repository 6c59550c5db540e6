"""`accord critique` from the command line, with a real model that is tiny, a server, and wrong uses of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from accord import load_data
from accord.prompting.local import Local
from accord.prompting.requests import Reply
from accord.records import Demonstration, Preference
from accord.results import load
from accord.results.critique import CritiqueResult
from tests.commands.small import QUICK, accord, read_jsonl, write_jsonl
from tests.data.conftest import TEMPLATE, WORDS, word_tokenizer
from tests.engine.tiny import SIZES, policy_of
from tests.feedback.serving import serving
from tests.interrupted import interrupt_calls
from tests.prompting.faulty import Faulty
from tests.report.folders import HOSTILE

PROMPTS = [{"prompt": [{"role": "user", "content": f"hello {word}"}]} for word in ("good", "bad", "day", "bye", "hi")]
FILES = (
    "critiques.jsonl",
    "demonstrations.jsonl",
    "preferences.jsonl",
    "evaluation.json",
    "config.yaml",
    "report.html",
)
CANARY = "sk-canary-0123456789"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama that says any of twelve words with much the same probability, and reads prompts of a few hundred."""
    config = LlamaConfig(**SIZES, vocab_size=len(WORDS), pad_token_id=None, max_position_embeddings=512)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = policy_of(LlamaForCausalLM(config))
    policy.tokenizer = word_tokenizer(template=TEMPLATE)
    return str(policy.save(tmp_path_factory.mktemp("model")))


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)


@pytest.fixture
def constitution(tmp_path: Path) -> str:
    file = tmp_path / "mine.yaml"
    names = ("day", "hi", "bye")
    rows = [{"name": n, "prefer": f"good {n}", "critique": f"bad {n}", "revision": f"hello {n}"} for n in names]
    file.write_text(yaml.safe_dump({"principles": rows}))
    return str(file)


def critique(model: str, data: str, constitution: str, out: Path, *more: object) -> list[object]:
    given = ("--model", model, "--data", data, "--constitution", constitution, "--out", out, "--requests", 2)
    return ["critique", *given, "--rounds", 2, "--max-new-tokens", 12, "--temperature", 1, "--top-p", 1, *more]


def words(completions: list[Any]) -> list[float]:
    return [len(one[0]["content"].split()) for one in completions]


SCORE = "tests.commands.test_critique:words"


def test_a_tiny_model_revises_and_is_tuned_on_it(
    model: str, data: str, constitution: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert accord(*critique(model, data, constitution, out, "--score", SCORE)) == 0
    assert f"wrote {out / 'demonstrations.jsonl'}" in capsys.readouterr().out
    rows, result = read_jsonl(out / "critiques.jsonl"), load(out)
    assert isinstance(result, CritiqueResult) and [row["prompt"] for row in rows] == [row["prompt"] for row in PROMPTS]
    for row in rows:
        scores = [len(answer.split()) if row["answers"][0] else None for answer in row["answers"]]
        assert row["scores"] == {SCORE: scores} and len(scores) == 3
        assert {*row["principles"]} <= {"day", "hi", "bye"}
    known = [row["scores"][SCORE] for row in rows if row["answers"][0]]
    for i, revision in enumerate(result.revisions):
        assert revision.scores[SCORE].estimate == pytest.approx(sum(one[i] for one in known) / len(known))
    usable = [row for row in rows if not all(row["faults"])]
    demonstrations = load_data(str(out / "demonstrations.jsonl"))
    assert [d.completion[0].content for d in demonstrations] == [row["answers"][-1] for row in usable]  # type: ignore
    assert all(isinstance(row, Demonstration) for row in demonstrations) and result.demonstrations == len(usable)
    assert all(isinstance(row, Preference) for row in load_data(str(out / "preferences.jsonl")))
    assert "Answers revised by a constitution" in (out / "report.html").read_text(encoding="utf-8")
    given = ("--model", model, "--data", out / "demonstrations.jsonl", "--out", tmp_path / "sft")
    assert accord("sft", *given, *QUICK) == 0


@pytest.mark.parametrize("form", ["chat", "plain"])
def test_stopped_it_goes_on_bit_for_bit(
    model: str,
    data: str,
    constitution: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    form: str,
) -> None:
    whole, stopped = tmp_path / "whole" / "run", tmp_path / "stopped" / "run"
    given = ("--form", form, "--score", SCORE)
    assert accord(*critique(model, data, constitution, whole, *given)) == 0
    calls = interrupt_calls(monkeypatch, 4, 11)  # in the first batch, and in the second of a later run
    capsys.readouterr()
    assert [accord(*critique(model, data, constitution, stopped, *given)) for _ in range(3)] == [130, 130, 0]
    assert "critiques.jsonl has 2 of 5 prompts" in capsys.readouterr().err
    for name in FILES:
        assert (whole / name).read_bytes() == (stopped / name).read_bytes()
    with (stopped / "critiques.jsonl").open("ab") as file:
        file.write(b'{"round": 3, "of"')  # torn off
    asked = calls[0]
    assert accord(*critique(model, data, constitution, stopped, "--form", form)) == 0  # another score, or none
    assert calls[0] == asked and read_jsonl(stopped / "critiques.jsonl")[0]["scores"] == {}


def test_a_folder_of_other_settings_is_refused(
    model: str, data: str, constitution: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert accord(*critique(model, data, constitution, out)) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    others = {
        "rounds 2, and not 1": ("--rounds", 1),
        "direct False, and not True": ("--direct",),
        "principles_sha256": ("--principles", 2),
        "data_sha256": ("--limit", 3),
    }
    for message, given in others.items():
        capsys.readouterr()
        assert accord(*critique(model, data, constitution, out, *given)) == 2
        assert f"{out} was begun with {message}" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in out.iterdir()}


def test_wrong_uses_end_with_a_sentence(
    model: str, data: str, constitution: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    wrong = {
        "--principles 4": ("--principles", 4),
        "principles must be positive": ("--principles", 0),
        "rounds must be positive": ("--rounds", 0),
        "requests must be positive": ("--requests", 0),
        "there is no constitution nobody: name a YAML file, or accord or hhh": ("--constitution", "nobody"),
        "there is no file": ("--data", tmp_path / "none.jsonl"),
        "--score names a score twice": ("--score", "cafe", "cafe"),
        "'caffe' is neither a verifier": ("--score", "caffe"),
        "has no column 'answer', which": ("--score", "exact"),
        "--top-p must not be over 1": ("--top-p", 2),
        "--form must be one of auto, chat, plain": ("--form", "talk"),
        "there is no model": ("--model", str(tmp_path / "no" / "model")),
    }
    for message, given in wrong.items():
        assert accord(*critique(model, data, constitution, out, *given)) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not out.exists()


def test_a_model_that_answers_nothing(
    model: str, data: str, constitution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(Local, "__call__", lambda self, requests: [Reply(text=None, reason="too long")] * len(requests))
    out = tmp_path / "out"
    assert accord(*critique(model, data, constitution, out)) == 2
    assert "no answer can be used (no answer, no reply): too long; " in capsys.readouterr().err
    assert len(read_jsonl(out / "critiques.jsonl")) == 5 and not (out / "demonstrations.jsonl").exists()


def test_a_hostile_server_is_escaped_and_the_key_stays_secret(
    data: str, constitution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SERVER_KEY", CANARY)

    def told(prompt: str, n: int) -> str:
        return "401" if len(server.asked) == 9 else f"text:{HOSTILE} {prompt} \ud83d {n}"

    out = tmp_path / "out"
    with serving(Faulty(told)) as server:
        words = [*critique("small", data, constitution, out), "--server", server.url, "--key", "SERVER_KEY"]
        words += ["--parallel", 1]
        assert [accord(*words), accord(*words)] == [2, 0]
        asked = [json.dumps(body, sort_keys=True) for _, _, body in server.asked]
    assert len(asked) - len(set(asked)) == 1  # only what was refused
    shown = "".join(capsys.readouterr())
    assert "the same command goes on" in shown and CANARY not in shown and "\x1b[31m" not in shown
    assert not any(CANARY in path.read_text(encoding="utf-8") for path in out.iterdir())
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script" not in page and "&lt;script&gt;alert(" in page and "\x1b" not in page and "\u202e" not in page
    assert read_jsonl(out / "critiques.jsonl")[0]["answers"][0].startswith("<script>")


def test_a_recipe_goes_on_and_its_page_has_the_figure_by_principles(
    model: str, data: str, constitution: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = {"model": model, "data": data, "constitution": constitution, "score": [SCORE], "max_new_tokens": 12}
    stages = {
        name: {"command": "critique", **made, "requests": 2, "temperature": 1, "principles": k}
        for name, k in (("one", 1), ("three", 3))
    }
    stages["sft"] = {"command": "sft", "model": model, "data": "${three}/demonstrations.jsonl", "max_steps": 1}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({"name": "cai", "description": "", "variables": {}, "stages": stages}, sort_keys=False)
    )
    interrupt_calls(monkeypatch, 7)
    assert [accord("run", recipe, "--out", tmp_path / "runs") for _ in range(2)] == [130, 0]
    assert (tmp_path / "runs" / "sft" / "model").is_dir()
    assert "by number of principles" in (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")
