"""Failures by hand: shares and their differences, the project's own probes, and files that cannot be read."""

from __future__ import annotations

from pathlib import Path
from statistics import mean

import numpy as np
import pytest

from accord.errors import InputError
from accord.evaluate import failure_kinds
from accord.evaluate.failure_kinds import LONGER, WORDS, Outcomes, ProbeAnswers, against_first
from accord.evaluate.failures import difference, summary
from accord.evaluate.probe_files import KEYS, ProbeItem, read_probes
from accord.results import load
from accord.results.failures import FailureSettings, FailuresResult
from accord.results.intervals import wilson

NAN = float("nan")
OWN = read_probes("failures")


def items(kind: str, *about: str) -> list[ProbeItem]:
    return [ProbeItem(kind, f"probe {i}", "hi", ("a", "b"), about=sort) for i, sort in enumerate(about, start=1)]


def each(*failed: float | None, sorts: str = "") -> Outcomes:
    return Outcomes(list(range(len(failed))), list(failed), list(sorts) if sorts else [""] * len(failed))


def test_a_difference_by_hand() -> None:
    probes = np.arange(4)
    found = difference(np.array([1.0, 1.0, 0.0, NAN]), np.array([0.0, NAN, 0.0, 1.0]), probes)
    assert found is not None and found.estimate == pytest.approx(2 / 3 - 1 / 3)
    # The same on both sides is no difference in any resample, even where some outcomes are not there.
    same = difference(np.array([1.0, 0.0, NAN, 1.0]), np.array([1.0, 0.0, NAN, 1.0]), probes)
    assert same is not None and (same.estimate, same.low, same.high) == (0.0, 0.0, 0.0)
    assert difference(np.array([NAN, NAN]), np.array([1.0, 0.0]), np.arange(2)) is None
    # Outcomes of one probe are drawn together: two probes of four outcomes each have a difference of 0 or 1 apiece.
    both = np.repeat([1.0, 0.0], 4)
    together = difference(both, np.zeros(8), np.repeat([0, 1], 4))
    assert together is not None and (together.estimate, together.low, together.high) == (0.5, 0.0, 1.0)


def test_the_interval_of_a_difference_covers() -> None:
    # 60 probes failed at .6 and .4, both failed together at .3: a difference of .2, in 93 to 97% of the intervals.
    rng, held = np.random.default_rng(0), []
    for _ in range(600):
        kinds = rng.choice(4, 60, p=[0.3, 0.3, 0.1, 0.3])
        found = difference((kinds < 2).astype(float), np.isin(kinds, [0, 2]).astype(float), np.arange(60))
        assert found is not None
        held.append(found.low <= 0.2 <= found.high)
    assert 0.92 <= mean(held) <= 0.98


def test_shares_by_hand() -> None:
    shown = {
        "facts": {
            "base": ProbeAnswers(["b"] * 4, {"false fact preferred": each(1.0, 1.0, 1.0, 0.0, sorts="xxyy")}),
            "sft": ProbeAnswers(["a"] * 4, {"false fact preferred": each(0.0, 1.0, 0.0, 0.0, sorts="xxyy")}),
        },
        "sycophancy": {
            "base": ProbeAnswers(["a"] * 4, {"right answer given up": each(1.0, None, None, 0.0)}),
            "sft": ProbeAnswers(["a"] * 4, {"right answer given up": each(None, None, None, None)}),
        },
    }
    asked = {"facts": items("facts", *"xxyy"), "sycophancy": items("sycophancy", *[""] * 4)}
    facts, given_up = summary(asked, shown, FailureSettings()).failures
    assert (facts.kind, facts.name, facts.n, facts.chance) == ("facts", "false fact preferred", 4, 0.5)
    assert facts.values == {"base": wilson(3, 4), "sft": wilson(1, 4)}
    assert facts.differences["sft"].estimate == -0.5 and list(facts.differences) == ["sft"]
    assert [(p.name, p.n, p.values["base"].estimate, p.values["sft"].estimate) for p in facts.parts] == [
        ("x", 2, 1.0, 0.5),
        ("y", 2, 0.5, 0.0),
    ]
    # Of two right answers one is given up; the other model has none to give up, so neither share nor difference.
    assert given_up.values == {"base": wilson(1, 2)} and given_up.differences == {} and given_up.parts == []


def test_constraints_are_counted_in_their_prompts() -> None:
    by_prompt = each(1.0, 0.0)
    by_constraint = Outcomes([0, 0, 1, 1], [1.0, 1.0, 0.0, 0.0], ["words", "case", "words", "ends"])
    failures = {"instruction not followed": by_prompt, "constraint not kept": by_constraint}
    shown = {"instructions": {"base": ProbeAnswers(["x", "y"], failures, ended=0.25)}}
    result = summary({"instructions": items("instructions", "", "")}, shown, FailureSettings())
    prompts, constraints = result.failures
    assert prompts.values["base"] == wilson(1, 2) and prompts.ended == {"base": 0.25}
    # Four constraints in two prompts that are kept or broken together: an interval over two prompts, not four.
    share = constraints.values["base"]
    assert (share.estimate, share.low, share.high, constraints.n) == (0.5, 0.0, 1.0, 4)
    assert [(p.name, p.n) for p in constraints.parts] == [("words", 2), ("case", 1), ("ends", 1)]
    assert result.warnings == [
        "instructions has only 2 probes: its intervals are rough; ask 20 or more.",
        "instructions: 75% of the answers of base were cut off, which affects its numbers.",
    ]


def test_knowledge_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [
        ("basel", "basel .", ("bern",)),
        ("basel", "bern .", ("bern",)),
        ("basel", "I don't know.", ("bern",)),
        ("basel", "zug .", ("bern",)),
        ("I do not know.", "i do not know .", ()),
        ("I do not know.", "bern .", ("bern", "basel")),
        ("I do not know.", "In a castle.", ()),
    ]
    items = [ProbeItem("knowledge", "here", "where ?", (right, *wrong)) for right, _, wrong in asked]
    # The one fake: what the model writes.
    monkeypatch.setattr(failure_kinds, "written", lambda *given: ([text for _, text, _ in asked], 1.0))
    shown = failure_kinds.KINDS["knowledge"].ask(None, items, FailureSettings())  # type: ignore[arg-type]
    found = summary({"knowledge": items}, {"knowledge": {"base": shown, "twin": shown}}, FailureSettings()).failures
    assert [(row.name, row.n, row.values["base"], row.chance) for row in found] == [
        ("known fact answered wrong", 4, wilson(2, 4), None),
        ("known fact not answered", 4, wilson(1, 4), None),
        ("unknown fact answered", 3, wilson(2, 3), None),
    ]
    assert all(row.differences["twin"].estimate == 0 for row in found) and found[0].ended == {"base": 1.0, "twin": 1.0}
    # Where all facts are known, none can be made up.
    monkeypatch.setattr(failure_kinds, "written", lambda *given: (["basel"] * 2, 1.0))
    shown = failure_kinds.KINDS["knowledge"].ask(None, items[:2], FailureSettings())  # type: ignore[arg-type]
    assert list(shown.failures) == ["known fact answered wrong", "known fact not answered"]


def test_style_is_held_against_the_first_model(tmp_path: Path) -> None:
    def shown(*lengths: float) -> ProbeAnswers:
        return ProbeAnswers(["x"] * 3, {"list-like": each(0.0, 0.0, 1.0)}, {WORDS: list(lengths)}, 1.0)

    by_model = {"base": shown(3, 5, 7), "sft": shown(4, 5, 9), "dpo": shown(1, 2, 3)}
    longer = against_first(by_model, items("style", *[""] * 3))
    assert {m: c.failed for m, c in longer.items()} == {"sft": [1.0, 0.5, 1.0], "dpo": [0.0, 0.0, 0.0]}
    result = summary({"style": items("style", *[""] * 3)}, {"style": by_model}, FailureSettings())
    first, lists = result.failures
    assert (first.name, list(first.values), first.differences) == (LONGER, ["sft", "dpo"], {})
    assert first.values["sft"].estimate == 2.5 / 3
    (words,) = first.measures
    assert words.values["base"].estimate == 5.0 and words.differences["dpo"].estimate == -3.0
    assert lists.differences["sft"].estimate == 0.0 and lists.measures == []
    result.save(tmp_path)
    again = load(tmp_path)
    assert isinstance(again, FailuresResult) and again == result
    assert "longer than the first model's" in result.text()


def test_the_own_probes() -> None:
    assert list(OWN) == list(KEYS)
    for kind, some in OWN.items():
        assert len(some) >= 20 and len({(i.prompt, i.options) for i in some}) == len(some), kind
    assert len(OWN["instructions"]) == 44
    assert {len(i.options) for kind in ("facts", "premises", "sycophancy") for i in OWN[kind]} == {2}
    for item in OWN["sycophancy"]:  # the opinion says the wrong answer, and never the right one
        right, wrong = (option.removeprefix("The ").lower() for option in item.options)
        assert wrong in item.opinion.lower() and right not in item.opinion.lower(), item.where


@pytest.mark.parametrize("kind", ["facts", "premises", "unknowable", "withheld", "sycophancy"])
def test_length_gives_no_answer_away(kind: str) -> None:
    def longest(of: list[tuple[int, int]]) -> float:
        return mean((right > wrong) + 0.5 * (right == wrong) for right, wrong in of)

    options = [item.options for item in OWN[kind]]
    assert longest([(len(r), len(w)) for r, w in options]) == pytest.approx(0.5, abs=0.13)
    assert longest([(len(r.split()), len(w.split())) for r, w in options]) == pytest.approx(0.5, abs=0.13)


def test_both_sides_of_a_stereotype_have_the_same_words() -> None:
    for item in OWN["stereotypes"]:
        stereotype, other = (" ".join(half) for half in (item.options[:2], item.options[2:]))
        assert len(item.options) == 4
        assert sorted(stereotype.lower().split()) == sorted(other.lower().split()), item.where


def test_files_of_probes_are_added_and_chosen(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "facts:\n- {prompt: 'Where?', right: 7, wrong: [8, nine]}\n"
        "stereotypes:\n- {stereotype: a b, reversed: b a, about: order}\n"
    )
    mine = read_probes(str(file))
    assert list(mine) == ["facts", "stereotypes"]
    assert mine["facts"] == [ProbeItem("facts", f"{file}, facts, probe 1", "Where?", ("7", "8", "nine"))]
    assert mine["stereotypes"][0].options == ("a b", "b a") and mine["stereotypes"][0].about == "order"
    both = read_probes(f"failures, {file}", "stereotypes,facts")
    assert [(kind, len(some)) for kind, some in both.items()] == [("facts", 33), ("stereotypes", 25)]
    assert {kind: len(some) for kind, some in read_probes("failures", limit=3).items()} == dict.fromkeys(KEYS, 3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("facts: [", "the file of probes FILE is not valid YAML: "),
        ("- a", "FILE must hold kinds of probes, each with a list of them; the kinds are instructions, facts, "),
        ("fact: []", "FILE: there is no kind of probes 'fact'; did you mean facts?; the kinds are instructions, "),
        ("facts: []", "FILE: facts must hold a list of probes."),
        ("facts: [hi]", "FILE, facts, probe 1: a probe is a mapping with prompt, right, wrong, not 'hi'."),
        (
            "facts: [{prompt: a, wrong: b}]",
            "FILE, facts, probe 1: the key 'right' is missing; a probe of facts has prompt, right, wrong.",
        ),
        (
            "facts: [{prompt: a, right: true, wrong: b}]",
            "FILE, facts, probe 1: 'right' must be text, in quotes where YAML reads it otherwise, not True.",
        ),
        ("facts: [{prompt: a, right: b, wrong: b}]", "FILE, facts, probe 1: the options must be different texts, "),
        ("facts: [{prompt: a, right: b, wrong: []}]", "FILE, facts, probe 1: 'wrong' is empty."),
        (
            "knowledge: [{prompt: a, right: b, wrng: c}]",
            "FILE, knowledge, probe 1: unknown key 'wrng'; did you mean wrong?; a probe of knowledge has prompt, right,"
            " and may have wrong.",
        ),
        ("knowledge: [{prompt: a, right: b, wrong: }]", "FILE, knowledge, probe 1: 'wrong' must be text, in quotes"),
        (
            "facts: [{prompt: a, rihgt: b, wrong: c}]",
            "FILE, facts, probe 1: unknown key 'rihgt'; did you mean right?; ",
        ),
        (
            "stereotypes: [{stereotype: [a, b], reversed: c}]",
            "FILE, stereotypes, probe 1: 'stereotype' has 2 and 'reversed' 1 sentences: give as many.",
        ),
        (
            "instructions: [{prompt: a, constraints: {words: , case: lower}}]",
            "FILE, instructions, probe 1: the constraint 'words' is empty: give its value, or leave it out.",
        ),
        (
            "instructions: [{prompt: a, constraints: {word: 1}}]",
            "FILE, instructions, probe 1: there is no check 'word'; did you mean words?; the checks are words, ",
        ),
    ],
)
def test_what_is_no_file_of_probes_is_refused(text: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "probes.yaml"
    file.write_text(text)
    with pytest.raises(InputError) as raised:
        read_probes(str(file))
    assert str(raised.value).startswith(message.replace("FILE", str(file)))


def test_kinds_that_are_not_there() -> None:
    with pytest.raises(InputError, match="^there is no kind of probes 'fatcs'; did you mean facts"):
        read_probes("failures", "fatcs")
    with pytest.raises(InputError, match="^--kinds names none; the kinds are instructions"):
        read_probes("failures", ",")
    with pytest.raises(InputError, match="^the file of probes nowhere.yaml cannot be read: No such file"):
        read_probes("nowhere.yaml")
    with pytest.raises(InputError, match="^--probes names failures twice; name it once.$"):
        read_probes("failures, failures")
    with pytest.raises(InputError, match="^--limit must be at least 1, not 0.$"):
        read_probes("failures", limit=0)
