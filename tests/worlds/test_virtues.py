"""The café's constitution, and the people who criticize, revise and judge by it."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import yaml

from accord.feedback.constitution import read_constitution
from accord.records import Demonstration, Message
from accord.worlds import cafe
from accord.worlds.cafe.grammar import DISHES, FUNCTION_WORDS, POSITIVE_WORDS, Topic
from accord.worlds.cafe.texts import CONTEXT, HELD_OUT
from accord.worlds.cafe.virtues import BAD, GOOD, NOTHING, SKILL, SLIPS, VIRTUES, Virtue

ROWS = cafe.critiques(0, 12_000)
KIND, TOPIC, VARIED = VIRTUES


def turns(row: Demonstration) -> list[str]:
    assert not isinstance(row.prompt, str)
    return [message.content for message in row.prompt]


def of(virtue: Virtue, kind: int) -> list[tuple[list[str], str]]:
    """The turns and completions of a virtue's critiques, 0, revisions, 1, direct ones, 2, or verdicts, 3."""
    place = VIRTUES.index(virtue)
    rows = [row for i, row in enumerate(ROWS) if i % len(VIRTUES) == place and i // len(VIRTUES) % 4 == kind]
    return [(turns(row), str(row.completion)) for row in rows]


def test_the_constitution_is_one(tmp_path: Path) -> None:
    file = tmp_path / "constitution.yaml"
    file.write_text(yaml.safe_dump(cafe.constitution()))
    principles = read_constitution(str(file))
    assert [(p.name, p.critique, p.revision) for p in principles] == [(v.name, v.critique, v.revision) for v in VIRTUES]


def test_rows_are_the_same_again_in_words_of_the_cafe_and_of_no_question_held_out() -> None:
    assert cafe.critiques(0, 60) == ROWS[:60] and cafe.critiques(1, 60) != ROWS[:60]
    tokenizer, held_out = cafe.tokenizer(), {text for text, _ in HELD_OUT}
    for row in ROWS[:600]:
        tokens = tokenizer.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in row.prompt], add_generation_prompt=True, return_dict=False
        )
        tokens += tokenizer(row.completion)["input_ids"]
        assert len(tokens) < CONTEXT and tokenizer.unk_token_id not in tokens
        assert turns(row)[0] not in held_out


@pytest.mark.parametrize(
    ("virtue", "text", "places"),
    [
        (KIND, "the soup is bland and plain . it is fresh .", [3, 5]),
        (KIND, "guests love the soup .", []),
        (TOPIC, "the pie is fresh . guests love the soup .", [1]),
        (VARIED, "the soup is fresh . the crust is fresh and fresh .", [8, 10]),
        (VARIED, "it is very fresh . it is very tasty .", []),
    ],
)
def test_which_words_are_against_a_virtue(virtue: Virtue, text: str, places: list[int]) -> None:
    assert virtue.faults(text.split(), Topic("soup")) == places


def test_a_good_answer_is_called_good() -> None:
    soup = Topic("soup")
    said = ["the", "soup", "is", "fresh", "and", "bland", "and", "tasty", "."]
    assert KIND.goodness(said, soup) == 1 / (1 + math.exp(-1))
    assert TOPIC.goodness(["the", "soup", "."], soup) == 1 / (1 + math.exp(-3))
    assert TOPIC.goodness(["the", "pie", "."], soup) == 1 / (1 + math.exp(3))


def test_so_many_words_are_named_and_no_others() -> None:
    named = there = 0
    for said, critique in of(KIND, 0):
        words = said[1].split()
        wrong = {words[i] for i in KIND.faults(words, Topic(""))}
        told = set(critique.split()) - {"and", "."}
        assert critique == NOTHING or told <= wrong
        if len(wrong) == len(KIND.faults(words, Topic(""))):  # one that is there twice may be found twice
            named, there = named + len(told & wrong), there + len(wrong)
    assert abs(named / there - SKILL) < 4 * math.sqrt(SKILL * (1 - SKILL) / there)


def test_what_was_named_is_put_right_but_for_slips() -> None:
    slips, rows = 0, of(KIND, 1)
    for said, revised in rows:
        before, after, named = said[1].split(), revised.split(), set(said[3].split())
        assert len(before) == len(after)
        changed = [(a, b) for a, b in zip(before, after, strict=True) if a != b]
        if said[3] == NOTHING:
            named = set()
        slips += any(a not in named or b not in POSITIVE_WORDS for a, b in changed) or any(
            a in named and a not in FUNCTION_WORDS and a in after and a not in POSITIVE_WORDS for a in before
        )
    assert slips / len(rows) < 1.3 / SLIPS


@pytest.mark.parametrize("virtue", VIRTUES, ids=lambda virtue: virtue.name)
def test_revisions_raise_the_gold_reward_and_verdicts_follow_the_virtue(virtue: Virtue) -> None:
    for kind in (1, 2):
        asked = [((Message("user", said[0]),), said[1], done) for said, done in of(virtue, kind)]
        gains = [cafe.gold(prompt, after) - cafe.gold(prompt, before) for prompt, before, after in asked]
        assert sum(gains) / len(gains) > 0.02
    good = {True: [0, 0], False: [0, 0]}
    for said, done in of(virtue, 3):
        topic = next(Topic(word) for word in said[0].split() if word in DISHES)
        of_its_kind = good[virtue.goodness(said[1].split(), topic) > 0.5]
        of_its_kind[0] += done == GOOD
        of_its_kind[1] += 1
        assert done in (GOOD, BAD)
    assert good[True][0] / good[True][1] > 0.7 > 0.35 > good[False][0] / good[False][1]
