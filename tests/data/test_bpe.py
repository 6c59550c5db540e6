"""A tokenizer trained on text: any text comes back, one text gives one tokenizer, turns end, how far it compresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

import accord
from accord.data import bpe
from accord.data.chat import encode_completion, encode_prompt
from accord.errors import InputError
from accord.files import changed
from accord.records import Message
from tests.commands.small import accord as command
from tests.commands.small import write_jsonl

TEXT = "the cat sat on the mat . the cat sat on the hat .\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer of 280 tokens in a folder, as the command writes it."""
    place = tmp_path_factory.mktemp("bpe")
    (place / "a.txt").write_text(TEXT * 40)
    return accord.tokenizer(str(place / "a.txt"), str(place / "tokenizer"), vocab_size=280)


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)


def test_frequent_pairs_within_words_become_tokens() -> None:
    """By hand: of "aab" x 3, "aabb" x 2 and "ab" x 2, with spaces before all but the first, "ab" is there 7 times."""
    made = bpe.train(["aab aab aab", " aabb aabb ab ab"], 263)
    assert sorted(made.get_vocab(), key=made.get_vocab().__getitem__)[260:] == ["ab", "aab", "Ġaab"]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.sampled_from(["<|im_end|>", "a <|pad|>  b"]))
def test_any_text_comes_back_as_it_was(tokenizer: Any, text: str) -> None:
    tokens = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(tokens) == text


def test_one_text_gives_one_tokenizer_in_any_order(folder: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "data.md"
    lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
    made = [bpe.train(some, 600).backend_tokenizer.to_str() for some in (lines, lines, lines[::-1])]
    assert made[0] == made[1] == made[2]
    assert changed(folder) is None


def test_a_text_ends_with_the_end_token_and_an_answer_as_chatml_has_it(tokenizer: Any) -> None:
    assert (tokenizer.eos_token, tokenizer.pad_token) == ("<|endoftext|>", "<|pad|>")
    plain = encode_completion(tokenizer, "", "the cat").tokens
    assert tokenizer.decode(list(plain)) == "the cat<|endoftext|>"
    asked = (Message("user", "the mat"),)
    assert tokenizer.decode(list(encode_prompt(tokenizer, asked))) == (
        "<|im_start|>user\nthe mat<|im_end|>\n<|im_start|>assistant\n"
    )
    said = encode_completion(tokenizer, asked, (Message("assistant", "the cat"),)).tokens
    assert tokenizer.decode(list(said)) == "the cat<|im_end|>"


def test_texts_of_rows_of_all_kinds(tmp_path: Path) -> None:
    chat = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    rows = write_jsonl(tmp_path / "chat.jsonl", [{"messages": chat}])
    pairs = write_jsonl(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    ranked = write_jsonl(tmp_path / "ranked.jsonl", [{"prompt": "p", "completions": ["q", "r"], "ranks": [0, 1]}])
    text = write_jsonl(tmp_path / "text.jsonl", [{"text": "d"}, {"text": "e"}])
    assert list(bpe.texts_of([rows, pairs, ranked, text])) == ["hi", "yes", "a", "b", "c", "p", "q", "r", "d", "e"]
    assert list(bpe.texts_of({text: 1.0, pairs: 1.0})) == ["d", "a", "b", "c"]
    tokens = write_jsonl(tmp_path / "tokens.jsonl", [{"input_ids": [1, 2]}])
    with pytest.raises(
        InputError,
        match=r"tokens\.jsonl, row 1: the row holds tokens, and a tokenizer is trained on text",
    ):
        list(bpe.texts_of(tokens))
    (tmp_path / "half.jsonl").write_text('{"text": "a\\ud800"}\n')
    with pytest.raises(InputError, match=r"half\.jsonl, line 1: 'text' holds"):
        list(bpe.texts_of(tmp_path / "half.jsonl"))


def test_how_far_it_compresses(tokenizer: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every word of the text is a token by now, its space with it: 50 bytes in 15 tokens."""
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.txt").write_text("q" * 100)
    assert bpe.compression(tokenizer, [TEXT]) == bpe.Compression(1, 50, 15)
    given = ("tokenizer", "--data", tmp_path / "a.txt", "--eval-data", tmp_path / "b.txt", "--vocab-size", 900)
    assert command(*given, "--out", tmp_path / "out") == 0
    out, err = capsys.readouterr()
    assert [word for word in out.splitlines()[-2 - 1].split() if word != "│"][1:] == ["1", "100", "100", "1.00"]
    assert "tokens, not 900: no other pair occurs twice in the text" in err
    assert command(*given, "--out", tmp_path / "out") == 0  # its own folder may be written anew
    (tmp_path / "out" / "notes").write_text("mine")
    assert command(*given, "--out", tmp_path / "out") == 2
    assert (tmp_path / "out" / "notes").read_text() == "mine"
