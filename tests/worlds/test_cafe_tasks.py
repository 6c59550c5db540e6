"""The café's tasks: in its words, with answers that are right, and none both taught and asked."""

from __future__ import annotations

from functools import partial

import pytest

from accord.data.examples import examples_of, overlapping
from accord.data.task_mix import mixture
from accord.data.tasks import Task, read_tasks
from accord.worlds import cafe, write_tasks
from accord.worlds.cafe.grammar import DISHES, NEGATIVE, OTHERS, PERSONS, POSITIVE, POSITIVE_WORDS, fluency, split
from accord.worlds.cafe.tasks import TASKS, TEST_ROWS, TRAIN_ROWS, rows


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> list[Task]:
    folder = tmp_path_factory.mktemp("cafe")
    write_tasks(folder, TASKS, partial(rows, seed=3), TRAIN_ROWS)
    return read_tasks(folder / "tasks" / "tasks.yaml")


def test_four_clusters_of_three_tasks_each(tasks: list[Task]) -> None:
    assert [t.cluster for t in tasks] == [c for c in ("feeling", "reading", "choosing", "writing") for _ in range(3)]
    assert {t.metric for t in tasks} == {"options", "exact", "rouge-l"}
    for task in tasks:
        assert len(examples_of(task)) == TEST_ROWS and len(examples_of(task, training=True)) == TRAIN_ROWS
        assert overlapping(task) == 0 and len(task.prompts) >= 2


def test_everything_is_said_in_the_words_of_the_cafe(tasks: list[Task]) -> None:
    tokenizer = cafe.tokenizer()
    for task in tasks:
        for example in examples_of(task):
            texts = [*example.prompts, *example.references, *example.options]
            tokens = tokenizer(texts)["input_ids"]
            assert not any(tokenizer.unk_token_id in ids for ids in tokens), texts
            assert max(map(len, tokens[: len(example.prompts)])) + 40 < 128


def test_the_seed_decides_the_rows_and_all_are_different() -> None:
    for name in TASKS:
        assert rows(name, 0) == rows(name, 0) != rows(name, 1)
        assert len({row["text"] for row in rows(name, 0)}) == TEST_ROWS + TRAIN_ROWS


def test_feelings_are_what_the_words_say() -> None:
    for name, (kind, unkind) in {"review": ("lovely", "awful"), "guests": ("adore", "dislike")}.items():
        found = rows(name, 0)
        assert {row["answer"] for row in found} == {kind, unkind}
        assert 200 < sum(row["answer"] == kind for row in found) < 300
        assert not any({kind, unkind} & set(split(row["text"])) for row in found)
    assert all((row["answer"] == "enjoy") == bool(POSITIVE_WORDS & set(split(row["text"]))) for row in rows("visit", 0))


def test_what_is_read_stands_in_the_text() -> None:
    for name, among in (("dish", DISHES), ("person", PERSONS), ("price", OTHERS["NUMBER"].split())):
        for row in rows(name, 0):
            assert [word for word in split(row["text"]) if word in among] == [row["answer"]]


def test_the_right_dish_is_chosen() -> None:
    for name, words in (("better", POSITIVE["ADJ"].split()), ("worse", NEGATIVE["ADJ"].split())):
        for row in rows(name, 0):
            sentence = next(s for s in row["text"].split(" .") if set(words) & set(split(s)))
            assert row["answer"] in split(sentence) and row["answer"] in row["dishes"]
    for row in rows("priced", 0):
        assert f"the {row['answer']} costs {row['number']} coins" in row["text"]
    firsts = sum(row["answer"] == row["dishes"][0] for row in rows("better", 0))
    assert 200 < firsts < 300  # the place gives nothing away


def test_what_is_written_follows_from_the_text() -> None:
    for row in rows("pronoun", 0):
        (dish,) = set(DISHES) & set(split(row["text"]))
        assert f" {row['answer']}".replace(" it ", f" the {dish} ", 1) == f" {row['text']}"
    for row in rows("words", 0):
        right, wrong = (fluency(split(f"{row['text']} {way}")) for way in sorted(row["ways"], key=row["answer"].__ne__))
        assert right == 1.0 > wrong


def test_a_mix_without_a_cluster(tasks: list[Task]) -> None:
    mixed, told = mixture(tasks, ["reading"], per_task=100)
    assert len(mixed) == 900 and not told
    assert {m.task.cluster for m in mixed} == {"feeling", "choosing", "writing"}
