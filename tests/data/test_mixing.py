"""Training mixes: exact proportions, and nothing of what is held out."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from accord.data.examples import examples_of, overlapping
from accord.data.formats import Format
from accord.data.task_mix import mixture, quotas
from accord.data.tasks import Task
from accord.errors import InputError
from accord.records import Message
from tests.commands.small import write_jsonl


def test_proportions_by_hand() -> None:
    # FLAN: every data set counts with its rows, 3,000 of them at most.
    assert quotas([100, 10_000, 3_000], 3_000) == [100, 3_000, 3_000]
    # Of 610 rows 10, 300 and 300: the same proportions.
    assert quotas([100, 10_000, 3_000], 3_000, total=610) == [10, 300, 300]
    # Temperature 2 takes roots: sizes 1, 4, 9 weigh 1, 2, 3.
    assert quotas([1, 4, 9], 100, temperature=2, total=12) == [2, 4, 6]
    # 10 rows over three equal sets: 3 1/3 each, and what is left goes to the first.
    assert quotas([5, 5, 5], 100, total=10) == [4, 3, 3]
    # 10 rows over 3, 6 and 7 of 16 are 1.875, 3.75 and 4.375: the two largest remainders get the two left over.
    assert quotas([3, 6, 7], 100, total=10) == [2, 4, 4]
    assert quotas([0, 4], 100, total=3) == [0, 3]
    # The lower the temperature, the more has the largest, without numbers beyond measure.
    assert quotas([3, 2_999, 3_000], 3_000, temperature=1e-320, total=10) == [0, 0, 10]


@given(
    st.lists(st.integers(0, 5000), min_size=1, max_size=8).filter(any),
    st.integers(1, 4000),
    st.sampled_from([1.0, 2.0, 5.0]),
    st.none() | st.integers(1, 500),
)
def test_quotas_are_within_a_row_of_their_share(
    sizes: list[int], cap: int, temperature: float, total: int | None
) -> None:
    found = quotas(sizes, cap, temperature, total)
    weights = [min(size, cap) ** (1 / temperature) if size else 0.0 for size in sizes]
    whole = sum(min(size, cap) for size in sizes) if total is None else total
    assert sum(found) == whole
    assert all(abs(n - whole * w / sum(weights)) < 1 + 1e-6 for n, w in zip(found, weights, strict=True))
    if total is None and temperature == 1.0:
        assert found == [min(size, cap) for size in sizes]


def task(folder: Path, cluster: str, name: str, rows: int, file: str = "", **more: str) -> Task:
    """A task over a file of numbered rows, asked in two ways."""
    data = folder / (file or f"{name}.jsonl")
    if not data.exists():
        write_jsonl(data, [{"x": f"{data.stem} {i}", "y": f"{i}"} for i in range(1, rows + 1)])
    return Task(cluster, name, data, "exact", ("{x} first", "{x} second"), "y", **more)


def text(rows: object) -> list[str]:
    return [m.demonstration.prompt[0].content for m in rows]  # type: ignore[attr-defined]


@pytest.fixture
def three(tmp_path: Path) -> list[Task]:
    return [task(tmp_path, "a", "a1", 7), task(tmp_path, "a", "a2", 3), task(tmp_path, "b", "b1", 20)]


def test_a_mix_holds_each_row_once(three: list[Task]) -> None:
    mixed, told = mixture(three, [], per_task=5)
    assert Counter(m.task.name for m in mixed) == {"a1": 5, "a2": 3, "b1": 5} and not told
    assert len({m.demonstration for m in mixed}) == 13
    assert all(
        m.demonstration.completion == (Message("assistant", t.split()[1]),)
        for m, t in zip(mixed, text(mixed), strict=True)
    )
    assert {t.split()[2] for t in text(mixed)} == {"first", "second"}
    assert mixture(three, [], per_task=5) == (mixed, told)
    assert mixture(three, [], per_task=5, seed=1)[0] != mixed


def test_a_longer_mix_repeats_rows_only_when_all_were_taken(three: list[Task]) -> None:
    mixed, _ = mixture(three[1:2], [], per_task=100, total=7)
    assert sorted(Counter(t.split()[1] for t in text(mixed)).values()) == [2, 2, 3]


def test_plain_text(three: list[Task]) -> None:
    mixed, _ = mixture(three[1:2], [], per_task=1, formats={Format("plain"): 1.0})
    row = mixed[0].demonstration
    assert isinstance(row.prompt, str) and row.completion == f" {row.prompt.split()[1]}"


def test_rows_held_out_are_not_trained_on_under_another_name(tmp_path: Path) -> None:
    # Both clusters ask about the same 10 rows: b is asked about the last 4, so a may learn from the first 6.
    tasks = [
        task(tmp_path, "a", "a1", 10, "both.jsonl"),
        task(tmp_path, "b", "b1", 10, "both.jsonl", split="train[6:]"),
    ]
    mixed, told = mixture(tasks, ["b"], per_task=100)
    assert sorted(int(t.split()[1]) for t in text(mixed)) == [1, 2, 3, 4, 5, 6]
    assert told == ["a/a1: 4 rows left out, which held-out clusters are evaluated on"]


def test_overlap_of_rows_trained_on_and_asked_about(tmp_path: Path) -> None:
    split = {"split": "train[6:]", "train_split": "train[:7]"}
    assert overlapping(task(tmp_path, "a", "a1", 10, **split)) == 1
    assert overlapping(task(tmp_path, "a", "a2", 10)) == 10


def test_nothing_to_train_on(three: list[Task]) -> None:
    with pytest.raises(InputError, match="no row is left to train on: leave fewer clusters out"):
        mixture(three, ["a", "b"], per_task=5)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.sampled_from("xyz"), st.integers(0, 8), st.integers(1, 6)),
        min_size=2,
        max_size=6,
    ),
    st.sets(st.sampled_from("abc"), min_size=1, max_size=2),
    st.none() | st.integers(1, 40),
)
def test_what_is_held_out_never_leaks(
    drawn: list[tuple[str, str, int, int]], left_out: set[str], total: int | None
) -> None:
    """Tasks of three clusters over three shared files, each asked about some run of rows."""
    with tempfile.TemporaryDirectory() as name:
        tasks = [
            task(Path(name), cluster, f"t{i}", 14, f"{file}.jsonl", split=f"train[{start}:{start + length}]")
            for i, (cluster, file, start, length) in enumerate(drawn)
        ]
        held_out = {(t.data.stem, str(e.row)) for t in tasks if t.cluster in left_out for e in examples_of(t)}
        try:
            mixed, _ = mixture(tasks, sorted(left_out), per_task=9, total=total)
        except InputError:
            assert all(t.cluster in left_out for t in tasks)
            return
        assert not {m.task.cluster for m in mixed} & left_out
        assert not {(t.split()[0], t.split()[1]) for t in text(mixed)} & held_out
        assert total is None or len(mixed) == total
