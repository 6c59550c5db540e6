"""`accord score` against plain forwards of transformers, a forward a completion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from accord.records import Demonstration, Message, Preference, Prompt, Ranking, Row
from tests.commands.small import accord, read_jsonl, save_model, write_jsonl
from tests.data.conftest import WORDS

CHAT = (Message("user", "hi"),)
CHAT_TOKENS = [WORDS.index(w) for w in ("<system>", "good", "</s>", "<user>", "hi", "</s>", "<assistant>")]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_model(tmp_path_factory.mktemp("models") / "base")


def scored(base: str, folder: Path, rows: list[Row], *options: object) -> list[dict[str, object]]:
    data = write_jsonl(folder / "rows.jsonl", rows)
    assert accord("score", "--model", base, "--data", data, "--out", folder / "scores.jsonl", *options) == 0
    return read_jsonl(folder / "scores.jsonl")


def plain(base: str, prompt: list[int], completion: list[int]) -> float:
    """log p(completion | prompt) by transformers alone, in float64."""
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    with torch.no_grad():
        logp = network(input_ids=torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
    return sum(float(logp[len(prompt) + j - 1, token]) for j, token in enumerate(completion))


@pytest.mark.parametrize("budget", [8, 4096])
def test_preferences(base: str, tmp_path: Path, budget: int) -> None:
    rows = [
        Preference("hi", "hello good day", "bad"),
        Preference("good day bye", "bye", "hi hi hi hi"),
        Preference(CHAT, (Message("assistant", "bye bad"),), (Message("assistant", "hello"),)),
    ]
    tokens = [([6], [7, 8, 10, 2], [9, 2]), ([8, 10, 11], [11, 2], [6, 6, 6, 6, 2]), (CHAT_TOKENS, [11, 9, 2], [7, 2])]
    found = scored(base, tmp_path, list(rows), "--tokens-per-pass", budget)
    assert [(r["chosen_tokens"], r["rejected_tokens"]) for r in found] == [(4, 2), (2, 5), (3, 2)]
    for row, (prompt, chosen, rejected) in zip(found, tokens, strict=True):
        assert row["chosen_logp"] == pytest.approx(plain(base, prompt, chosen), abs=1e-4)
        assert row["rejected_logp"] == pytest.approx(plain(base, prompt, rejected), abs=1e-4)


def test_demonstrations_and_rankings(base: str, tmp_path: Path) -> None:
    (row,) = scored(base, tmp_path, [Demonstration("bye", "good bye")])
    assert row == {"completion_logp": pytest.approx(plain(base, [11], [8, 11, 2]), abs=1e-4), "completion_tokens": 3}
    (row,) = scored(base, tmp_path, [Ranking("hi", ("good", "bad day"), (1, 0))])
    expected = [plain(base, [6], [8, 2]), plain(base, [6], [9, 10, 2])]
    assert row == {"completions_logp": pytest.approx(expected, abs=1e-4), "completions_tokens": [2, 3]}


def test_only_the_assistant_s_turns_are_summed(base: str, tmp_path: Path) -> None:
    turns = (Message("assistant", "bye"), Message("user", "hi"), Message("assistant", "day"))
    (row,) = scored(base, tmp_path, [Demonstration(CHAT, turns)])
    said = [WORDS.index(w) for w in ("bye", "</s>", "<user>", "hi", "</s>", "<assistant>", "day", "</s>")]
    first = plain(base, CHAT_TOKENS, said[:2])
    second = plain(base, CHAT_TOKENS + said[:6], said[6:])
    assert row == {"completion_logp": pytest.approx(first + second, abs=1e-4), "completion_tokens": 4}


def test_what_cannot_be_scored(base: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for row, said in (
        (Prompt("hi"), "row 1: there is no completion to score."),
        (Demonstration("hi", "bye " * 60), "row 1: 62 tokens do not fit into the model's context of 48."),
    ):
        data, out = write_jsonl(tmp_path / "rows.jsonl", [row]), tmp_path / "scores.jsonl"
        assert accord("score", "--model", base, "--data", data, "--out", out) == 2
        assert capsys.readouterr().err == f"accord: {data}, {said}\n"
        assert not out.exists()
