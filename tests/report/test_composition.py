"""What a pretraining says its text is made of: computed by hand, printed at the start, kept, and drawn on the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.methods import Pretrain
from accord.report.composition import composition_of
from tests.commands.small import QUICK, accord, read_jsonl, save_model, write_jsonl
from tests.report.pages import Page

METHOD = {"batch_size": 2, "max_steps": 6, "max_length": 8, "dtype": "float32"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, 6 texts of a word in a.jsonl, 2 of three words in b.jsonl; one of 30 words, and one of tokens."""
    folder = tmp_path_factory.mktemp("composition")
    save_model(folder / "m")
    write_jsonl(folder / "a.jsonl", [{"text": "hi"}] * 6)
    write_jsonl(folder / "b.jsonl", [{"text": "good bad day"}] * 2)
    write_jsonl(folder / "long.jsonl", [{"text": " ".join(["hi"] * 30)}, {"text": "bye"}])
    write_jsonl(folder / "tokens.jsonl", [{"input_ids": [6, 7, 2]}] * 2)
    return folder


def composition(folder: Path, data: Any, out: str, **options: Any) -> list[dict[str, Any]]:
    run = Pretrain(**METHOD).fit(str(folder / "m"), data, out=folder / out, track="none", **options)
    return read_jsonl(run.folder / "composition.jsonl")


def test_a_mix_in_documents_bytes_tokens_and_epochs(folder: Path) -> None:
    """Weights of 1 and 1 take 2 rows of each file: 4 rows, so 6 steps of 2 are 3 passes; each has an end token."""
    a, b = str(folder / "a.jsonl"), str(folder / "b.jsonl")
    assert composition(folder, {a: 1, b: 1}, "mix") == [
        {"file": a, "weight": 1.0, "documents": 2, "of": 6, "bytes": 4, "tokens": 4, "share": 4 / 12, "epochs": 1.0},
        {"file": b, "weight": 1.0, "documents": 2, "of": 2, "bytes": 24, "tokens": 8, "share": 8 / 12, "epochs": 3.0},
    ]
    page = Page(folder / "mix" / "report.html")
    drawn = " ".join(page.sections["curves"].split())
    assert "Composition of the text" in drawn and f"66.7% of the tokens of a pass over the data are from {b}." in drawn
    assert "8 tokens, read 3.00 times" in drawn and "4 tokens, read once" in drawn and "2 of 6" in drawn


def test_a_text_in_pieces_is_one_document_and_rows_held_out_are_none(folder: Path) -> None:
    """31 tokens in 5 pieces of 7 at most, and 2 tokens in one: 6 trees, 3 steps a pass."""
    long = str(folder / "long.jsonl")
    expected = {"file": long, "weight": None, "documents": 2, "of": 2, "bytes": 92, "tokens": 33, "share": 1.0}
    assert composition(folder, long, "long") == [{**expected, "epochs": 2.0}]
    [half] = composition(folder, long, "half", eval_split=0.5)
    assert (half["documents"], half["of"]) == (1, 2) and half["bytes"] in (3, 89)
    [of_tokens] = composition(folder, str(folder / "tokens.jsonl"), "tokens")
    assert (of_tokens["bytes"], of_tokens["documents"], of_tokens["tokens"]) == (None, 2, 4)


def test_it_is_printed_at_the_start(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.chdir(folder)
    given = ("pretrain", "--model", "m", "--data", "a.jsonl:3", "b.jsonl:1", *QUICK, "--track", "none", "--out", "said")
    assert accord(*given) == 0
    table, _, after = capsys.readouterr().err.partition("pretrain 1/2")
    assert "│ a.jsonl │ 3      │ 6 of 6    │ 12    │ 12     │ 60.0% │ 0.50   │" in table and after
    assert "│ b.jsonl │ 1      │ 2 of 2    │ 24    │ 8      │ 40.0% │ 0.50   │" in table


def test_rows_that_say_too_little_are_not_drawn() -> None:
    whole = {"file": "<b>", "documents": 1, "of": 1, "tokens": 1, "share": 1.0, "epochs": 1.0}
    made = composition_of([whole, {"file": "x"}, {**whole, "tokens": None}, {}])
    assert made is not None and made.figure is None and [row["file"] for row in made.files] == ["<b>"]
    assert composition_of([{"file": "x"}]) is None
