"""Rows put into prompts: exemplars that leak nothing, and every format word for word."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from accord.data.examples import Example, examples_of
from accord.data.formats import Exemplars, Format, question
from accord.data.task_mix import mixture
from accord.data.tasks import Task, Wording
from accord.errors import InputError
from accord.records import Message
from tests.commands.small import write_jsonl

ROWS = 12


def task(folder: Path, name: str = "sums", file: str = "rows.jsonl", **more: object) -> Task:
    """A task over numbered rows, asked in two ways, of which the first eight are trained on and the others asked."""
    data = folder / file
    if not data.exists():
        write_jsonl(data, [{"x": f"row {i}", "y": f"answer {i}"} for i in range(1, ROWS + 1)])
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
    with pytest.raises(InputError, match="has 8 rows to show as exemplars of the task a/sums, beside row 9,"):
        shown(Exemplars([one]), one, 9, 9)
    with pytest.raises(InputError, match="has 7 rows .* beside row 3, .*: ask for --shots 7 or fewer, or give it more"):
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
    mixed, _ = mixture(tasks, ["b"], per_task=100, format=Format("plain", 2), seed=4)
    rows = [[int(part.split()[2]) for part in str(m.demonstration.prompt).split("\n\n")] for m in mixed]
    # Trained on: the first eight but for rows 6 and 7, which the cluster held out is asked about.
    assert sorted(row[-1] for row in rows) == [1, 2, 3, 4, 5, 8]
    assert all(len(set(row)) == 3 and set(row) <= {1, 2, 3, 4, 5, 8} for row in rows)
    assert [m.answer for m in mixed] == [f"answer {row[-1]}" for row in rows]
    assert {m.format.name for m in mixed} == {"few"}


def fields_of(one: Task) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__dataclass_fields__}


def test_a_chat_has_its_exemplars_in_the_one_message(tmp_path: Path) -> None:
    mixed, _ = mixture([task(tmp_path)], [], per_task=1, format=Format("chat", 1))
    (message,) = mixed[0].demonstration.prompt
    assert isinstance(message, Message) and message.role == "user" and message.content.count("\n\n") == 1
    assert mixed[0].demonstration.completion == (Message("assistant", mixed[0].answer),)
