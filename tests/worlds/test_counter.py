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

MENU = "the soup costs two coins and the pie costs five coins ."


def chat(*texts: str) -> tuple[Message, ...]:
    """What is said in turn, the guest first."""
    return tuple(Message("assistant" if i % 2 else "user", text) for i, text in enumerate(texts))


@pytest.mark.parametrize(
    ("said", "way"),
    [
        ((f"{MENU} how much is the pie ?",), "the pie costs five coins ."),
        ((f"{MENU} which costs less ?",), "the soup costs less ."),
        ((f"{MENU} which costs more ?",), "the pie ."),
        ((f"{MENU} how much are three of the pie ?",), "three of them cost fifteen coins ."),
        ((f"{MENU} which costs less ?", "the soup .", "how much is it ?"), "it costs two coins ."),
        # The assistant was wrong, and "it" is what it named.
        ((f"{MENU} which costs less ?", "the pie .", "how much is it ?"), "the pie costs five coins ."),
        ((f"{MENU} which costs less ?", "the pie .", "make it two ."), "that makes ten coins ."),
        (
            (f"{MENU} how much is the pie ?", "it costs six coins .", "and the other one ?"),
            "the soup costs two coins .",
        ),
        (
            (f"{MENU} how much is the pie ?", "the soup costs two coins .", "and the other one ?"),
            "it costs five coins .",
        ),
        # "Them" is the dish of two turns before.
        (
            (
                f"{MENU} how much is the soup ?",
                "it costs two coins .",
                "and the other one ?",
                "five .",
                "make it three .",
            ),
            "three of them cost six coins .",
        ),
        ((f"{MENU} how much is the soup ?", "two .", "and one of each ?"), "one of each costs seven coins ."),
        ((f"{MENU} which costs less ?", "no idea .", "the soup : make it three ."), "three of them cost six coins ."),
    ],
)
def test_what_is_right_follows_from_what_was_said(said: tuple[str, ...], way: str) -> None:
    assert counter.gold(chat(*said), way) == 1
    answer = right(chat(*said))
    assert answer is not None and way in answer.ways()
    assert counter.gold(chat(*said), way.upper().replace(" .", ".")) == 1  # neither case nor spaces matter
    assert counter.gold(chat(*said), f"{way} {way}") == counter.gold(chat(*said), "") == 0
    for wrong in ("it costs four coins .", "the trout .", "that makes twelve coins ."):
        assert counter.gold(chat(*said), wrong) == 0


def test_no_answer_is_right_where_nothing_is_known() -> None:
    assert right(()) is None
    assert right(chat("how much is the pie ?")) is None
    assert right(chat(f"{MENU} how much is it ?")) is None  # neither dish was named alone
    assert counter.gold("how much is it ?", "it costs two coins .") == 0
    assert counter.gold(f"{MENU} how much is the pie ?", (Message("assistant", "it costs five coins ."),)) == 1
    assert read_menu("the soup costs two coins and the soup costs five coins . how much is it ?") is None


def test_a_guest_goes_on_as_planned_and_names_what_the_answer_did_not() -> None:
    plan = ["it", "and three of them ?"]
    asked = chat(f"{MENU} which costs less ?", "the soup costs less .")
    assert guest(text_to_json(asked), plan) == "how much is it ?"  # type: ignore[arg-type]
    unclear = chat(f"{MENU} which costs more ?", "the soup and the pie .")
    assert guest(text_to_json(unclear), plan) == "the pie : how much is it ?"  # type: ignore[arg-type]
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
            assert right(said[:i]) is not None
            rights.append(counter.gold(said[:i], said[i].content))
    # 4,500 answers, of which 15% are wrong: a standard deviation of .5%.
    assert len(rights) > 4000 and sum(rights) / len(rights) == pytest.approx(0.85, abs=0.025)


def test_what_follows_a_question_needs_it() -> None:
    assert set(AFTER) == {"price", "count", "less", "more", "it", "other", "each"}
    assert Answer("price", "pie", 5).ways() == ("the pie costs five coins .", "it costs five coins .")


def test_held_out_menus_are_in_no_other_text() -> None:
    held_out = {prompt.prompt[0].content.split(" . ")[0] for prompt in counter.heldout(0, 300)}  # type: ignore[union-attr]
    texts = [str(row.completion) for row in counter.corpus(0, 3000)]
    rows = [*counter.conversations(0, 300), *counter.single(0, 300)]
    texts += [row["messages"][0]["content"] for row in rows]
    texts += [prompt.prompt[0].content for prompt in counter.prompts(0, 300)]  # type: ignore[union-attr]
    assert len(held_out) > 250 and not any(menu in text for menu in held_out for text in texts)


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
