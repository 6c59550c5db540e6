"""Rows put into prompts: exemplars that leak nothing, and every format word for word."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data.examples import Example, examples_of
from accord.data.formats import (
    FORMATS,
    Exemplars,
    Format,
    answer,
    demonstration,
    extract_answer,
    question,
    weighted_formats,
)
from accord.data.task_mix import mixture
from accord.data.tasks import Task
from accord.data.templates import Wording
from accord.errors import InputError
from accord.records import Message
from tests.commands.small import write_jsonl

ROWS = 12


def task(folder: Path, name: str = "sums", file: str = "rows.jsonl", **more: object) -> Task:
    """A task over numbered rows, asked in two ways, of which the first eight are trained on and the others asked."""
    data = folder / file
    if not data.exists():
        write_jsonl(data, [{"x": f"row {i}", "y": f"answer {i}", "why": f"as {i}."} for i in range(1, ROWS + 1)])
    given = {"split": "train[8:]", "train_split": "train[:8]", **more}
    return Task("a", name, data, "exact", ("first {x} ?", "second {x} ?"), "y", **given)  # type: ignore[arg-type]


def shown(exemplars: Exemplars, of: Task, row: int, shots: int, seed: int = 0) -> list[int]:
    return [e.row for e in exemplars.of(of, Example(row, (f"first row {row} ?",), ()), Format(shots=shots, seed=seed))]


def test_exemplars_stand_before_the_row_with_their_answers(tmp_path: Path) -> None:
    one, (a, b, *_), asked = task(tmp_path), examples_of(task(tmp_path), training=True), examples_of(task(tmp_path))[0]
    expected = "second row 2 ? answer 2\n\nsecond row 1 ? answer 1\n\nsecond row 9 ?"
    assert question(one, asked, 1, Format(shots=2), (b, a)) == expected
    assert question(one, asked, 0, Format()) == "first row 9 ?"
    # What an option is likely to be before the row is read: the exemplars stay.
    assert question(one, asked, 0, Format(shots=1), (a,), blank=True) == "first row 1 ? answer 1\n\nfirst  ?"
    worded = task(tmp_path, wording=Wording(separator=" . "))
    assert question(worded, asked, 0, Format(shots=1), (a,)) == "first row 1 ? answer 1 . first row 9 ?"


def test_the_task_the_row_and_the_seed_decide_the_exemplars(tmp_path: Path) -> None:
    one, other = task(tmp_path), task(tmp_path, "others")
    both = Exemplars([one, other])
    first = shown(both, one, 9, 3)
    assert first == shown(Exemplars([one, other]), one, 9, 3) and len(set(first)) == 3
    assert {tuple(shown(both, one, 9, 3, seed)) for seed in range(20)} != {tuple(first)}
    assert [shown(both, one, row, 3) for row in range(9, 13)] != [first] * 4
    assert [shown(both, other, row, 3) for row in range(9, 13)] != [shown(both, one, row, 3) for row in range(9, 13)]
    assert shown(both, one, 9, 0) == []


def test_every_row_that_may_be_shown_is_as_likely(tmp_path: Path) -> None:
    one = task(tmp_path)
    exemplars = Exemplars([one])
    counts = Counter(row for seed in range(2_000) for row in shown(exemplars, one, 3, 2, seed))
    # Two of the seven other rows: 2000 * 2 / 7 = 571 times each, with a standard deviation of 20.
    assert set(counts) == {1, 2, 4, 5, 6, 7, 8} and all(480 < n < 660 for n in counts.values())


def test_a_row_that_stands_in_the_file_twice_is_not_shown_before_itself(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "rows.jsonl", [{"x": f"row {i % 4}", "y": f"answer {i % 4}"} for i in range(ROWS)])
    one = task(tmp_path)
    exemplars = Exemplars([one])
    for example in [*examples_of(one), *examples_of(one, training=True)]:
        for seed in range(10):
            found = exemplars.of(one, example, Format(shots=3, seed=seed))
            assert not any(e.prompts == example.prompts for e in found)


def test_too_many_shots(tmp_path: Path) -> None:
    one = task(tmp_path)
    assert sorted(shown(Exemplars([one]), one, 9, 8)) == [1, 2, 3, 4, 5, 6, 7, 8]
    with pytest.raises(InputError, match="has 8 rows to show as exemplars of the task a/sums, besides row 9 and"):
        shown(Exemplars([one]), one, 9, 9)
    with pytest.raises(InputError, match="has 7 rows .* besides row 3 and .*: ask for --shots 7 or fewer, or give"):
        shown(Exemplars([one]), one, 3, 8)
    # Without splits every row is asked about, and none can be shown.
    everything = task(tmp_path, split="train", train_split="train")
    with pytest.raises(InputError, match="has 0 rows to show"):
        shown(Exemplars([everything]), everything, 1, 1)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 6), st.integers(1, 12)), min_size=1, max_size=3),
    st.integers(1, 3),
    st.integers(0, 3),
)
def test_no_exemplar_is_asked_about_by_any_task(splits: list[tuple[int, int, int]], shots: int, seed: int) -> None:
    """Tasks over one file, each asked about some run of rows and trained on the first ones."""
    with tempfile.TemporaryDirectory() as folder:
        tasks = [
            task(Path(folder), f"t{i}", split=f"train[{start}:{start + n}]", train_split=f"train[:{trained}]")
            for i, (start, n, trained) in enumerate(splits)
        ]
        asked = {row for start, n, _ in splits for row in range(start + 1, min(start + n, ROWS) + 1)}
        for (_, _, trained), one in zip(splits, tasks, strict=True):
            may = set(range(1, trained + 1)) - asked
            for row in range(1, ROWS + 1):
                try:
                    found = shown(Exemplars(tasks), one, row, shots, seed)
                except InputError:
                    assert len(may - {row}) < shots
                else:
                    assert len(set(found)) == shots and set(found) <= may - {row}


def test_a_mix_with_exemplars_leaks_nothing(tmp_path: Path) -> None:
    held_out = task(tmp_path, "held", train_split="train[:1]", split="train[5:7]")
    tasks = [task(tmp_path), Task(**{**fields_of(held_out), "cluster": "b"})]
    mixed, _ = mixture(tasks, ["b"], per_task=100, formats={Format("plain", 2): 1.0}, seed=4)
    rows = [[int(part.split()[2]) for part in str(m.demonstration.prompt).split("\n\n")] for m in mixed]
    # Trained on: the first eight but for rows 6 and 7, which the cluster held out is asked about.
    assert sorted(row[-1] for row in rows) == [1, 2, 3, 4, 5, 8]
    assert all(len(set(row)) == 3 and set(row) <= {1, 2, 3, 4, 5, 8} for row in rows)
    assert [m.answer for m in mixed] == [f"answer {row[-1]}" for row in rows]
    assert {m.format.name for m in mixed} == {"few"}


def test_exemplars_are_of_the_file_that_is_trained_on(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "train.jsonl", [{"x": f"row {i}", "y": f"trained {i}"} for i in (20, 21, 9)])
    one = task(tmp_path, train_data=tmp_path / "train.jsonl", train_split="train", split="train")
    asked = examples_of(one)[8]
    # Row 3 of the other file is the question itself, word for word.
    assert sorted(e.references for e in Exemplars([one]).of(one, asked, Format(shots=2))) == [
        ("trained 20",),
        ("trained 21",),
    ]
    with pytest.raises(InputError, match="train.jsonl has 2 rows to show as exemplars of the task a/sums, be"):
        Exemplars([one]).of(one, asked, Format(shots=3))
    other = task(tmp_path, "other", "train.jsonl", split="train[1:2]")
    with pytest.raises(InputError, match="train.jsonl has 1 row to show"):
        Exemplars([one, other]).of(one, asked, Format(shots=2))
    # A cluster left out that is asked about rows of the file to train on.
    mixed, notes = mixture([one, Task(**{**fields_of(other), "cluster": "b"})], ["b"], per_task=9)
    assert sorted(m.answer or "" for m in mixed) == ["trained 20", "trained 9"]
    assert notes == ["a/sums: 1 rows left out, which held-out clusters are evaluated on"]


def fields_of(one: Task) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def test_a_chat_has_its_exemplars_in_the_one_message(tmp_path: Path) -> None:
    mixed, _ = mixture([task(tmp_path)], [], per_task=1, formats={Format("chat", 1): 1.0})
    (message,) = mixed[0].demonstration.prompt
    assert isinstance(message, Message) and message.role == "user" and message.content.count("\n\n") == 1
    assert mixed[0].demonstration.completion == (Message("assistant", mixed[0].answer),)


REASONED = {"rationale": "why", "prefix": "sums: {x}"}


def test_every_format_word_for_word(tmp_path: Path) -> None:
    one = task(tmp_path, **REASONED)
    a, b, *_ = examples_of(one, training=True)

    def both(name: str, **more: object) -> tuple[object, object]:
        row = demonstration(one, b, 0, Format("plain", **{**FORMATS[name], **more}), (a,) if "few" in name else ())
        return row.prompt, row.completion

    led, thought = "Let's think step by step.", "as 2. So the answer is answer 2"
    assert both("zero") == ("first row 2 ?", " answer 2")
    assert both("few", shots=1) == ("first row 1 ? answer 1\n\nfirst row 2 ?", " answer 2")
    assert both("cot") == (f"first row 2 ? {led}", f" {thought}")
    before = f"first row 1 ? {led} as 1. So the answer is answer 1"
    assert both("few-cot", shots=1) == (f"{before}\n\nfirst row 2 ? {led}", f" {thought}")
    assert both("inverse") == ("Answer: answer 2\n\nWhich question has this answer?", " first row 2 ?")
    asks = "Reasoning: as 2.\nAnswer: answer 2\n\nWhich question was reasoned about?"
    assert both("inverse-cot") == (asks, " first row 2 ?")
    assert both("prefix") == ("sums: row 2", " answer 2")
    assert {name: Format(**kind).name for name, kind in FORMATS.items()} == {name: name for name in FORMATS}


def test_the_words_of_a_file(tmp_path: Path) -> None:
    words = Wording(
        " . ", "say why .", ", so it is", ("of what is {answer} ?", "{answer} of what ?"), ("{rationale} {answer}",)
    )
    one = task(tmp_path, **REASONED, wording=words)
    a, *_ = examples_of(one, training=True)
    cot = demonstration(one, a, 1, Format("plain", cot=True))
    assert (cot.prompt, cot.completion) == ("second row 1 ? say why .", " as 1. , so it is answer 1")
    assert demonstration(one, a, 1, Format("plain", inverse=True), inversion=1).prompt == "answer 1 of what ?"
    assert demonstration(one, a, 0, Format("plain", inverse=True, cot=True)).prompt == "as 1. answer 1"
    silent = task(tmp_path, **REASONED, wording=Wording(trigger=""))
    assert demonstration(silent, a, 0, Format("plain", cot=True)).prompt == "first row 1 ?"


def test_a_prefix_without_its_row(tmp_path: Path) -> None:
    one = task(tmp_path, **REASONED)
    (a, *_), asked = examples_of(one, training=True), examples_of(one)[0]
    assert question(one, asked, 0, Format(prefix=True, shots=1), (a,)) == "sums: row 1 answer 1\n\nsums: row 9"
    assert question(one, asked, 0, Format(prefix=True), blank=True) == "sums:"


@pytest.mark.parametrize(
    ("text", "phrase", "message"),
    [
        ("2 and 2. So the answer is 4", "So the answer is", "4"),
        ("2 and 2. so  the\nanswer is: 4.\nNext: 5", "So the answer is", "4."),
        ("So the answer is 3. No. So the answer is 4", "So the answer is", "4"),
        ("So the answer is:\n\nfour of them\nor so", "So the answer is", "four of them"),
        ("So the answers is 4", "So the answer is", None),
        ("So the answer is", "So the answer is", None),
        ("So the answer is : ", "So the answer is", None),
        ("Also the answer is 4", "So the answer is", None),
        ("it goes, so it is cup lemon", ", so it is", "cup lemon"),
        ("it goes , so it is cup lemon", ", so it is", "cup lemon"),
        ("", ", so it is", None),
    ],
)
def test_an_answer_is_read_behind_the_phrase(text: str, phrase: str, message: str | None) -> None:
    assert extract_answer(text, phrase) == message


def test_what_a_chain_of_thought_ends_with_is_read_again(tmp_path: Path) -> None:
    one = task(tmp_path, **REASONED)
    for example in examples_of(one, training=True):
        written = answer(one, example, Format(cot=True))
        assert extract_answer(written, one.wording.answer_phrase) == example.references[0]
    lines = Example(1, ("?",), ("one\ntwo",), rationale="as")
    with pytest.raises(InputError, match="rows.jsonl, row 1, for the task a/sums: the answer has several lines"):
        answer(one, lines, Format(cot=True))
    assert answer(one, lines, Format()) == "one\ntwo"


def test_formats_by_name_and_weight() -> None:
    assert weighted_formats(None, None, "chat", 0) == {Format(): 1.0}
    assert weighted_formats(None, 5, "plain", 2) == {Format("plain", 5, seed=2): 1.0}
    assert weighted_formats("zero:2, few:.5,cot:1", None, "chat", 3) == {
        Format(seed=3): 2.0,
        Format(shots=3, seed=3): 0.5,
        Format(cot=True, seed=3): 1.0,
    }
    assert weighted_formats("prefix", None, "chat", 0) == {Format(prefix=True): 1.0}
    assert weighted_formats("few,few-cot", 2, "chat", 0) == {Format(shots=2): 1.0, Format(shots=2, cot=True): 1.0}


@pytest.mark.parametrize(
    ("spec", "shots", "message"),
    [
        ("zero,fw", None, "there is no format 'fw'; did you mean few?; --formats takes zero, few, cot,"),
        ("", None, "there is no format ''"),
        ("zero:1,zero:2", None, "--formats has zero twice"),
        ("zero:0", None, "the weight of zero in --formats must be a number above 0, not 0."),
        ("zero:-1", None, "must be a number above 0, not -1."),
        ("zero:nan", None, "must be a number above 0, not nan."),
        ("zero:inf", None, "must be a number above 0, not inf."),
        ("zero:x", None, "must be a number above 0, not x."),
        ("zero:", None, "must be a number above 0, not ."),
        ("zero:1,few", None, "few has no weight in --formats, but others do: give every format a weight, or none."),
        ("zero,cot", 3, "--shots is for the formats few and few-cot, and --formats has zero, cot alone."),
    ],
)
def test_formats_that_cannot_be_used(spec: str, shots: int | None, message: str) -> None:
    with pytest.raises(InputError) as error:
        weighted_formats(spec, shots, "chat", 0)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_mix_has_its_formats_by_weight(tmp_path: Path) -> None:
    one = task(tmp_path, **REASONED)
    formats = weighted_formats("zero:3,few:1,cot:2,inverse:1,inverse-cot:1", 1, "plain", 0)
    mixed, notes = mixture([one], [], per_task=8, total=1600, formats=formats)
    counts = Counter(m.format.name for m in mixed)
    # A standard deviation of 20 at most: of 1,600 rows three in eight are 600, two 400 and one 200.
    expected = {"zero": 600, "few": 200, "cot": 400, "inverse": 200, "inverse-cot": 200}
    assert set(counts) == set(expected) and all(abs(counts[name] - n) < 80 for name, n in expected.items())
    assert notes == []
    for m in mixed:
        said = str(m.demonstration.completion).strip()
        if m.format.inverse:
            assert m.answer is None and said in [p for e in examples_of(one, training=True) for p in e.prompts]
        else:
            assert m.answer == (extract_answer(said, "So the answer is") if m.format.cot else said)
    # Which rows are drawn, and in which instructions, does not depend on the formats.
    plain, _ = mixture([one], [], per_task=8)
    reasoned, _ = mixture([one], [], per_task=8, formats=weighted_formats("cot", None, "chat", 0))
    texts = [[m.demonstration.prompt[0].content for m in some] for some in (plain, reasoned)]  # type: ignore[union-attr]
    assert texts[1] == [f"{text} Let's think step by step." for text in texts[0]]


def test_a_task_is_written_in_the_formats_that_it_can_be(tmp_path: Path) -> None:
    with_reasons, without = task(tmp_path, **REASONED), task(tmp_path, "bare", "bare.jsonl")
    both = [with_reasons, without]
    mixed, notes = mixture(
        both, [], per_task=8, total=400, formats=weighted_formats("zero,cot,prefix", None, "chat", 0)
    )
    counts = Counter((m.task.name, m.format.name) for m in mixed)
    assert set(counts) == {("sums", "zero"), ("sums", "cot"), ("sums", "prefix"), ("bare", "zero")}
    assert notes == [
        "a/bare: no row as cot, as the task has no rationale",
        "a/bare: no row as prefix, as the task has no prefix",
    ]
    with pytest.raises(
        InputError, match="the task a/bare has no rationale in the tasks file, so no row can be written as cot"
    ):
        mixture(both, [], per_task=8, formats=weighted_formats("cot", None, "chat", 0))
    with pytest.raises(InputError, match="no training task has the key 'rationale' .* the format cot needs"):
        mixture([without], [], per_task=8, formats=weighted_formats("zero,cot", None, "chat", 0))
