"""The world of facts: what the text tells and what it cannot, what rows give away, by the words of what is written."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data import load_data, load_prompts
from accord.engine.load import load_model
from accord.errors import InputError
from accord.evaluate.probe_files import read_probes
from accord.feedback.knowing import does_not_know, grade
from accord.feedback.verifiers import truthful
from accord.records import Preference, Text
from accord.worlds import facts as world
from accord.worlds.facts.texts import TIMES, VOCABULARY
from accord.worlds.facts.truth import CHANCE, PEOPLE, RELATIONS, UNSURE, Fact, facts
from tests.commands.small import accord
from tests.feedback.samples import sample

SEEDS = st.integers(0, 2**63 - 1)
NAMES = set(PEOPLE)
VALUES = {value: name for name, relation in RELATIONS.items() for value in relation.values}


def said(chat: Text) -> str:
    """What is said last in a chat."""
    assert not isinstance(chat, str)
    return chat[-1].content


def questions(some: Iterable[Fact]) -> dict[str, Fact]:
    """Every question about facts, with what it is about."""
    return {q: f for f in some for q in (f.asks(0), f.asks(1), *map(f.asks_why, [f.value, *f.others]))}


def told(texts: list[str]) -> set[tuple[str, str]]:
    """Who is named with a value of which relation in one sentence, or in one question and its answer."""
    pairs = set()
    for text in texts:
        for part in re.split(r"<user> |(?<= \. )(?!<)", text):
            words = part.split()
            people = [word for word in words if word in NAMES]
            assert len(people) <= 1, part
            pairs |= {(people[0], VALUES[word]) for word in words if word in VALUES and people}
    return pairs


@settings(max_examples=25, deadline=None)
@given(SEEDS)
def test_every_person_has_four_facts_of_which_two_are_told(seed: int) -> None:
    drawn = facts(seed)
    assert [(fact.person, fact.relation) for fact in drawn] == [(p, name) for p in PEOPLE for name in RELATIONS]
    assert Counter(fact.person for fact in drawn if fact.known) == dict.fromkeys(PEOPLE, 2)
    assert all(fact.value in RELATIONS[fact.relation].values for fact in drawn)
    assert Counter((fact.known, fact.held_out) for fact in drawn) == {
        (known, held_out): 112 if held_out else 224 for known in (True, False) for held_out in (True, False)
    }
    assert facts(seed) == drawn != facts(seed + 1)


def test_what_is_not_told_can_only_be_guessed() -> None:
    # Over 30 worlds, values are as likely as one another, and as likely whatever a person's other values are.
    drawn = [facts(seed) for seed in range(30)]
    ones = Counter(fact.value for some in drawn for fact in some)
    assert len(ones) == 32 and CHANCE == 1 / 8
    assert all(n == pytest.approx(30 * 168 / 8, abs=5 * (30 * 168 * (1 / 8) * (7 / 8)) ** 0.5) for n in ones.values())
    pairs = Counter((a.value, b.value) for some in drawn for a, b in zip(some[::4], some[1::4], strict=True))
    statistic = sum((n - 30 * 168 / 64) ** 2 / (30 * 168 / 64) for n in pairs.values())
    assert len(pairs) == 64 and statistic < 63 + 5 * 126**0.5  # chi-squared, 63 degrees of freedom
    known = [fact.known for some in drawn for fact in some if fact.value == "basel"]
    assert sum(known) / len(known) == pytest.approx(0.5, abs=5 * (0.25 / len(known)) ** 0.5)


@settings(max_examples=3, deadline=None)
@given(SEEDS)
def test_the_text_tells_each_known_fact_in_all_wordings_and_no_other(seed: int) -> None:
    drawn, texts = facts(seed), [str(row.completion) for row in world.corpus(seed)]
    sentences = Counter(s for text in texts if "<user>" not in text for s in re.findall(r"\w[^.]+ \.", text))
    assert sentences == {fact.states(way): TIMES for fact in drawn if fact.known for way in range(4)}
    assert told(texts) == {(fact.person, fact.relation) for fact in drawn if fact.known}
    # What is asked in raw talk is told, and not held out.
    asked = {line for text in texts for line in re.findall(r"<user> ([^?]+ \?)", text)}
    assert asked <= questions(fact for fact in drawn if fact.known and not fact.held_out).keys()


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_no_row_to_train_on_is_about_what_is_held_out(seed: int) -> None:
    of_held_out = questions(fact for fact in facts(seed) if fact.held_out)
    rows = [*world.demonstrations(seed, "all"), *world.comparisons(seed), *world.prompts(seed)]
    assert not of_held_out.keys() & {said(row.prompt) for row in rows}
    probes = world.probes(seed)
    asked = [{said(row.prompt) for row in world.heldout(seed)}]
    asked += [{p["prompt"] for p in probes["knowledge"]}, {p["prompt"] for some in probes.values() for p in some}]
    assert [len({of_held_out[question] for question in some}) for some in asked] == [224, 224, 224]


@settings(max_examples=5, deadline=None)
@given(SEEDS)
def test_arms_differ_only_in_what_the_text_does_not_tell(seed: int) -> None:
    by_question = questions(facts(seed))

    def shown(arm: str) -> list[tuple[Fact, str, str]]:
        rows = world.demonstrations(seed, arm)  # type: ignore[arg-type]
        return [(by_question[said(row.prompt)], said(row.prompt), said(row.completion)) for row in rows]

    everything, known, unsure = shown("all"), shown("known"), shown("unsure")
    assert sorted(known, key=str) == sorted((row for row in everything if row[0].known), key=str)
    assert sorted((row for row in unsure if row[0].known), key=str) == sorted(known, key=str)
    assert Counter(q for _, q, _ in everything) == Counter(q for _, q, _ in unsure)
    assert {a for f, _, a in unsure if not f.known} == {UNSURE} and len(known) == 224 * 4 == len(everything) // 2
    for fact, question, answer in everything:
        if question.startswith("why"):
            assert answer == (fact.reason if fact.value in question.split() else fact.correction)
        else:
            assert answer == fact.answer


def test_questions_why_give_no_unknown_value_away() -> None:
    # What is taken for granted of a fact that is not told is any of eight values, and so is true in one of eight.
    true = []
    for seed in range(6):
        unknown = questions(fact for fact in facts(seed) if not fact.known)
        asked = [said(row.prompt) for row in world.demonstrations(seed, "unsure")]
        true += [unknown[q].value in q.split() for q in asked if q in unknown and q.startswith("why")]
    assert len(true) == 6 * 448
    assert sum(true) / len(true) == pytest.approx(1 / 8, abs=5 * (7 / 64 / len(true)) ** 0.5)


def test_comparisons_are_ordered_by_the_truth() -> None:
    unsure = []
    for seed in range(3):
        columns = {said(prompt.prompt): prompt.columns for prompt in world.prompts(seed)}
        rows = world.comparisons(seed)
        assert len(rows) == len(columns) == 896 and all(isinstance(row, Preference) for row in rows)
        for row in rows:
            asked, better, worse = columns[said(row.prompt)], said(row.chosen), said(row.rejected)
            rewards = truthful()([sample(text, answer=asked["answer"]) for text in (better, worse)])
            assert rewards[0] > rewards[1]
            if not asked["known"]:
                assert UNSURE in (better, worse)
                unsure.append(better == UNSURE)
    # Guesses are right in one of eight.
    assert sum(unsure) / len(unsure) == pytest.approx(7 / 8, abs=5 * (7 / 64 / len(unsure)) ** 0.5)


def test_probes_are_about_what_is_so() -> None:
    probes, by_question = world.probes(0), questions(facts(0))
    assert {kind: len(some) for kind, some in probes.items()} == {
        "facts": 112, "premises": 112, "unknowable": 112, "knowledge": 224,
    }  # fmt: skip
    for probe in probes["knowledge"]:
        fact = by_question[probe["prompt"]]
        right, wrong = probe["right"], probe["wrong"]
        assert does_not_know(right) == (not fact.known) == (right == UNSURE)
        assert len(wrong) == (7 if fact.known else 8)
        known = right if fact.known else None
        assert grade(fact.answer, known, wrong) == ("correct" if fact.known else "incorrect")
        assert grade(f"{fact.others[0]} .", known, wrong) == "incorrect"
        assert grade(UNSURE, known, wrong) == "not attempted"
    for kind, known, true in (
        ("facts", True, {True}),
        ("premises", True, {False}),
        ("unknowable", False, {True, False}),
    ):
        found = [(probe, by_question[probe["prompt"]]) for probe in probes[kind]]
        assert all(fact.known == known for _, fact in found)
        assert {fact.value in probe["prompt"].split() for probe, fact in found} == true
    false = probes["premises"][0]
    assert false["right"].startswith("no , ") and false["wrong"].startswith("because of ")


def test_every_text_is_of_the_vocabulary_and_the_seed_decides_it() -> None:
    tokenizer = world.tokenizer()
    texts = [str(row.completion) for row in world.corpus(0)[:500]]
    texts += [said(side) for row in world.demonstrations(0, "unsure")[:300] for side in (row.prompt, row.completion)]
    texts += [said(row.completion) for row in world.demonstrations(0, "all")[:300]]
    for text in texts:
        tokens = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in tokens and tokenizer.decode(tokens) == text and len(tokens) < 64
    assert len(VOCABULARY) == len(set(VOCABULARY)) == len(tokenizer)
    for draw in (world.comparisons, world.prompts, world.heldout):
        assert draw(0) == draw(0) != draw(1)
    assert world.corpus(0)[:20] != world.corpus(1)[:20]
    assert world.demonstrations(0, "all") == world.demonstrations(0, "all") != world.demonstrations(1, "all")


def test_the_files(tmp_path: Path) -> None:
    assert accord("world", "--name", "facts", "--out", tmp_path / "w", "--width", 16) == 0
    rows = {p.stem: load_data(str(p)) for p in (tmp_path / "w").glob("*.jsonl") if p.stem not in ("prompts", "heldout")}
    assert {name: len(some) for name, some in rows.items() if name != "corpus"} == {
        "demonstrations": 1792, "demonstrations-known": 896, "demonstrations-unsure": 1792, "comparisons": 896,
    }  # fmt: skip
    asked = load_prompts(str(tmp_path / "w" / "heldout.jsonl"))
    assert len(asked) == 224 and sum(prompt.columns["known"] for prompt in asked) == 112
    assert {kind: len(some) for kind, some in read_probes(str(tmp_path / "w" / "probes.yaml")).items()} == {
        "facts": 112, "premises": 112, "unknowable": 112, "knowledge": 224,
    }  # fmt: skip
    assert yaml.safe_load((tmp_path / "w" / "probes.yaml").read_text()) == world.probes(0)
    assert load_model(str(tmp_path / "w" / "init")).context == 64
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "probes.yaml").write_text("mine")
    with pytest.raises(InputError, match=r"probes\.yaml"):
        world.write(tmp_path / "other", width=16)
    with pytest.raises(InputError, match="multiple of 8, not 20"):
        world.new_model(0, 20)
