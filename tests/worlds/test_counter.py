"""The counter: what is right to answer at each turn, whatever was said before, and what guests go on to ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from accord.data import load_data, load_prompts
from accord.engine.load import load_model
from accord.errors import InputError
from accord.feedback.named import reward_named
from accord.records import Demonstration, Message, Prompt, text_to_json
from accord.worlds import counter
from accord.worlds.counter.talk import AFTER, Answer, guest, read_menu, right
from accord.worlds.counter.texts import VOCABULARY
from tests.commands.small import accord

MENU = "soup two coins and pie five coins ."


def chat(*texts: str) -> tuple[Message, ...]:
    """What is said in turn, the guest first."""
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


@pytest.mark.parametrize(
    ("message", "way"),
    [
        ((f"{MENU} how much is the pie ?",), "pie five coins ."),
        ((f"{MENU} how much for three pie ?",), "three pie fifteen coins ."),
        ((f"{MENU} what is good today ?",), "take the soup ."),
        ((f"{MENU} what is good today ?",), "the pie ."),
        # "It" is what the assistant chose.
        ((f"{MENU} what is good today ?", "the soup .", "how much is it ?"), "that is two coins ."),
        ((f"{MENU} what is good today ?", "take the pie .", "how much is it ?"), "pie five coins ."),
        ((f"{MENU} what is good today ?", "take the pie .", "make it two ."), "that is ten coins ."),
        ((f"{MENU} how much is the pie ?", "that is six coins .", "and the other one ?"), "soup two coins ."),
        # The assistant spoke of another dish than it was asked about, which is then the last.
        ((f"{MENU} how much is the pie ?", "soup two coins .", "and the other one ?"), "that is five coins ."),
        # "It" is the dish of two turns before.
        (
            (
                f"{MENU} how much is the pie ?",
                "that is five coins .",
                "and one of each ?",
                "seven .",
                "make it three .",
            ),
            "three pie fifteen coins .",
        ),
        ((f"{MENU} how much is the soup ?", "two .", "and one of each ?"), "one of each seven coins ."),
        ((f"{MENU} what is good today ?", "no idea .", "the soup : make it three ."), "three soup six coins ."),
    ],
)
def test_what_is_right_follows_from_what_was_said(message: tuple[str, ...], way: str) -> None:
    assert counter.gold(chat(*message), way) == 1
    assert any(way in answer.ways() for answer in right(chat(*message)))
    assert counter.gold(chat(*message), way.upper().replace(" .", ".")) == 1  # neither case nor spaces matter
    assert counter.gold(chat(*message), f"{way} {way}") == counter.gold(chat(*message), "") == 0
    for wrong in ("that is four coins .", "take the cake .", "three soup nine coins ."):
        assert counter.gold(chat(*message), wrong) == 0


def test_no_answer_is_right_where_nothing_is_known() -> None:
    assert right(()) == ()
    assert right(chat("how much is the pie ?")) == ()
    assert right(chat(f"{MENU} how much is it ?")) == ()  # neither dish was named alone
    assert counter.gold("how much is it ?", "that is two coins .") == 0
    assert counter.gold(f"{MENU} how much is the pie ?", (Message("assistant", "that is five coins ."),)) == 1
    assert read_menu("soup two coins and soup five coins . how much is it ?") is None


def test_a_guest_goes_on_as_planned_and_names_what_the_answer_did_not() -> None:
    plan = ["it", "and three of them ?"]
    asked = chat(f"{MENU} what is good today ?", "take the soup .")
    assert guest(text_to_json(asked), plan) == "how much is it ?"  # type: ignore[arg-type]
    for unclear in ("the soup and the pie .", "take the cake .", ""):
        told = chat(f"{MENU} what is good today ?", unclear)
        assert guest(text_to_json(told), plan) == "the soup : how much is it ?"  # type: ignore[arg-type]
    later = (*asked, *chat("how much is it ?", "two ."))
    assert guest(text_to_json(later), plan) == "and three of them ?"  # type: ignore[arg-type]
    ended = (*later, *chat("and three of them ?", "six ."))
    assert guest(text_to_json(ended), plan) is None  # type: ignore[arg-type]


def test_demonstrations_slip_as_often_as_they_say_and_their_guests_can_be_answered() -> None:
    rights = []
    for row in counter.conversations(0, 1500):
        said = tuple(Message(m["role"], m["content"]) for m in row["messages"])
        assert 4 <= len(said) <= 8
        for i in range(1, len(said), 2):
            assert right(said[:i])
            rights.append(counter.gold(said[:i], said[i].content))
    # 4,500 answers, of which 15% are wrong: a standard deviation of .5%.
    assert len(rights) > 4000 and sum(rights) / len(rights) == pytest.approx(0.85, abs=0.025)


def test_what_follows_a_question_needs_it() -> None:
    assert set(AFTER) == {"price", "count", "advice", "it", "other", "each"}
    assert Answer("price", "pie", 5).ways() == ("pie five coins .", "that is five coins .")


def test_held_out_menus_are_in_no_other_text() -> None:
    held_out = {prompt.prompt[0].content.split(" . ")[0] for prompt in counter.heldout(0, 300)}  # type: ignore[union-attr]
    texts = [str(row.completion) for row in counter.corpus(0, 3000)]
    rows = [*counter.conversations(0, 300), *counter.single(0, 300)]
    texts += [row["messages"][0]["content"] for row in rows]
    texts += [prompt.prompt[0].content for prompt in counter.prompts(0, 300)]  # type: ignore[union-attr]
    assert len(held_out) > 120 and not any(menu in text for menu in held_out for text in texts)


def test_every_text_is_of_the_vocabulary_and_the_seed_decides_it() -> None:
    tokenizer = counter.tokenizer()
    texts = [str(row.completion) for row in counter.corpus(0, 500)]
    texts += [message["content"] for row in counter.conversations(0, 200) for message in row["messages"]]
    for text in texts:
        tokens = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in tokens and tokenizer.decode(tokens) == text and len(tokens) < 128
    assert len(VOCABULARY) == len(set(VOCABULARY)) == len(tokenizer)
    for draw in (counter.corpus, counter.conversations, counter.single, counter.prompts, counter.heldout):
        assert draw(0, 20) == draw(0, 20) != draw(1, 20)


def test_the_files(tmp_path: Path) -> None:
    assert accord("world", "--name", "counter", "--out", tmp_path / "w", "--width", 16) == 0
    written = {name: load_data(str(tmp_path / "w" / f"{name}.jsonl")) for name in ("corpus", "conversations", "single")}
    assert all(isinstance(row, Demonstration) for rows in written.values() for row in rows)
    turns = sum(m.role == "assistant" for row in written["conversations"] for m in row.completion)  # type: ignore[union-attr]
    assert len(written["single"]) == turns  # as many demonstrated answers
    prompts = load_prompts(str(tmp_path / "w" / "heldout.jsonl"))
    assert len(prompts) == 400 and all(isinstance(p, Prompt) and len(p.columns["plan"]) == 3 for p in prompts)
    assert load_model(str(tmp_path / "w" / "init")).context == 128
    assert repr(reward_named("counter")).count("gold")
    with pytest.raises(InputError, match="multiple of 8, not 20"):
        counter.new_model(0, 20)
