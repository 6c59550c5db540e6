"""Files of answers: their first completion of every prompt, whatever the order, and the first prompt that one lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from accord.errors import InputError
from accord.evaluate.answers import AnswerFile, require_same_prompts
from accord.records import Message, Prompt
from tests.commands.small import write_jsonl


def written(path: Path, *rows: tuple[str, str], **columns: Any) -> AnswerFile:
    return AnswerFile(write_jsonl(path, [{"prompt": p, "completion": c, **columns} for p, c in rows]))


def test_the_first_completion_of_every_prompt_in_the_order_asked_for(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", ("q", "one"), ("r", "two"), ("q", "three"), answer=7)
    assert file.prompts == [Prompt("q", {"answer": 7}), Prompt("r", {"answer": 7})]
    prompts = [Prompt("r", {"gold": 1}), Prompt("q")]
    answers = file.answers("people", prompts)
    assert (answers.name, [s.text for s in answers.samples]) == ("people", ["two", "one"])
    assert [s.prompt for s in answers.samples] == prompts
    assert answers.length is None and answers.characters == [3, 3]


def test_answers_that_were_cut_are_known_as_such_and_may_be_empty(tmp_path: Path) -> None:
    for stop, expected in (("length", "length"), ("end", "end")):
        file = written(tmp_path / f"{stop}.jsonl", ("q", ""), stop=stop)
        (sample,) = file.answers("m", file.prompts).samples
        assert (sample.text, sample.completion.stop) == ("", expected)


def test_a_chat_answers_by_what_the_assistant_says(tmp_path: Path) -> None:
    row = {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]}
    file = AnswerFile(write_jsonl(tmp_path / "chat.jsonl", [row]))
    assert file.prompts[0].prompt == (Message("user", "q"),)
    assert file.answers("m", file.prompts).samples[0].text == "a"


def test_the_first_prompt_that_one_file_lacks_is_named(tmp_path: Path) -> None:
    one = written(tmp_path / "one.jsonl", ("q", "a"), ("r", "b"))
    same = written(tmp_path / "same.jsonl", ("r", "c"), ("q", "d"))
    more = written(tmp_path / "more.jsonl", ("r", "c"), ("s", "e"), ("q", "d"), ("t", "f"))
    require_same_prompts([one, same])
    for files in ([one, more], [more, one], [one, same, more]):
        with pytest.raises(InputError) as error:
            require_same_prompts(files)
        assert f"the prompt 's' is in {more.path} but not in {one.path}" in str(error.value)


def test_a_file_without_completions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a sample needs the columns prompt and completion; the row has prompt"):
        AnswerFile(write_jsonl(tmp_path / "x.jsonl", [{"prompt": "q"}]))
    with pytest.raises(InputError, match="holds no rows"):
        AnswerFile(write_jsonl(tmp_path / "y.jsonl", []))
