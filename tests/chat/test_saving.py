"""What a chat saves reads straight back, and the command, to which lines are piped."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from accord.chat.conversation import Conversation, Reply, Turn, append, save_comparisons
from accord.data import load_data
from accord.engine.load import load_model
from accord.engine.models import Policy
from accord.errors import InputError
from accord.records import Completion, Demonstration, Message, Preference, Ranking
from tests.chat.sessions import HI, Heard, assistant, said
from tests.commands.small import accord, write_jsonl


def turn(first: str, second: str, preferred: object = None, prompts: tuple[object, object] = (HI, HI)) -> Turn:
    answers = [Reply(p, (), text, Completion((), (), "end")) for p, text in zip(prompts, (first, second), strict=True)]  # type: ignore[arg-type]
    return Turn("hi", tuple(answers), preferred)  # type: ignore[arg-type]


def test_preferences_and_ties_read_back_from_their_files(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    talk = Conversation("", [turn("a", "b", "1"), turn("c", "d", "2"), turn("e", "f", "tie"), turn("g", "h")])
    talk.turns.append(turn("i", "j", "1", (HI, (Message("user", "bye"),))))
    assert save_comparisons(talk, file) == (
        f"2 preferences appended to {file}; 1 tie appended to {tmp_path / 'pairs.ties.jsonl'}; "
        "turn 5 is left out: the two models had been told different things before it."
    )
    expected = [Preference(HI, assistant("a"), assistant("b")), Preference(HI, assistant("d"), assistant("c"))]
    assert load_data(file) == expected
    assert load_data(tmp_path / "pairs.ties.jsonl") == [Ranking(HI, (assistant("e"), assistant("f")), (0, 0))]
    talk.turns = [*talk.turns[:4], turn("k", "k\u2028l", "2")]
    assert save_comparisons(talk, file) == f"1 preference appended to {file}."
    assert load_data(file) == [*expected, Preference(HI, assistant("k\u2028l"), assistant("k"))]
    with pytest.raises(InputError, match="there is no new preference to save"):
        save_comparisons(talk, file)


def test_equal_answers_make_no_comparison_and_a_saved_preference_stays(policy: Policy, tmp_path: Path) -> None:
    heard = Heard(policy, policy)
    heard.session.conversation.turns = [turn("a", "a")]
    shown = heard("/prefer 1")
    assert shown == "both go on from answer 1; it makes no comparison to keep, as its two answers are equal.\n"
    heard.session.conversation.turns = [turn("a", "b")]
    file = tmp_path / "p.jsonl"
    assert heard("/prefer 1").endswith("from answer 1; /save FILE keeps the comparison.\n")
    assert heard(f"/save {file}", "/prefer 2").endswith("that preference is saved already, and stays as it is.\n")
    assert load_data(file) == [Preference(HI, assistant("a"), assistant("b"))]


def test_a_file_that_would_not_read_back_is_left_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    write_jsonl(file, [Demonstration("hi", "bye")])
    before = file.read_bytes()
    with pytest.raises(InputError, match=r"rows\.jsonl would not read back \(row 2: the row has the columns prompt, c"):
        append(file, [{"prompt": "hi", "chosen": "a", "rejected": "b"}])
    assert file.read_bytes() == before
    with pytest.raises(InputError, match=r"give a file whose name ends in \.jsonl"):
        append(tmp_path / "rows.csv", [])
    file.write_text('{"prompt": "hi", "completion": "a", "completion": "b"}\n')
    with pytest.raises(InputError, match="is not JSONL .the key 'completion' twice in an object., so nothing"):
        append(file, [{"prompt": "hi", "completion": "c"}])
    file.write_text("no json\n")
    with pytest.raises(InputError, match="is not JSONL .Expecting value"):
        append(file, [{"prompt": "hi", "completion": "a"}])


def piped(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))


def test_the_command_with_lines_piped_in(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "said.jsonl"
    options = ("--max-new-tokens", 5, "--temperature", 1.5, "--seed", 3, "--dtype", "float32", "--reward", "cafe")
    piped(monkeypatch, "hi", f"/save {file}")
    assert accord("chat", folder / "base", *options) == 0
    [answer] = said(load_model(str(folder / "base")), HI)
    shown = capsys.readouterr().out
    assert f"\n> hi\n{answer}\nreward 0." in shown and "1 demonstration appended" in shown
    assert load_data(file) == [Demonstration(HI, assistant(answer))]
    piped(monkeypatch, "hi", "/prefer tie", f"/save {tmp_path / 'p.jsonl'}")
    assert accord("chat", folder / "base", "--other", folder / "base", *options) == 0
    [row] = load_data(tmp_path / "p.ties.jsonl")
    assert isinstance(row, Ranking) and row.completions[0] == assistant(answer) and row.ranks == (0, 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--best-of", 4), "the best of 4 answers needs --reward to choose by."),
        (("--best-of", 0, "--reward", "cafe"), "the best of 0 answers is none; give 1 or more."),
        (("--reward", "number"), "--reward number reads a row of data, and a chat has none"),
        (("--temperature", -1), "temperature must not be negative"),
        (("--other", "./nowhere"), "there is no model folder ./nowhere."),
    ],
)
def test_options_that_do_not_fit_are_a_sentence(
    folder: Path, options: tuple[object, ...], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert accord("chat", folder / "base", "--dtype", "float32", *options) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error
