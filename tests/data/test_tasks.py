"""Files of tasks read strictly, and their rows as examples: every fault is named in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from accord.data.examples import Example, examples_of, normalized, overlapping
from accord.data.formats import dialogue, to_prompt
from accord.data.tasks import Task, clusters_named, read_tasks
from accord.data.templates import check_template, content_free, fill
from accord.errors import InputError
from accord.records import Demonstration, Message
from tests.commands.small import write_jsonl

ROWS: list[dict[str, Any]] = [
    {"text": "good day", "label": "yes", "kind": "a", "instances": [{"input": "x"}], "ways": ["yes", "no"]},
    {"text": "bad day", "label": "No.", "kind": "b", "instances": [{"input": "y"}], "ways": ["no", "yes"]},
    {"text": "bye", "label": "yes", "kind": "a", "instances": [{"input": "z"}], "ways": ["yes", "maybe"]},
]
GOOD: dict[str, Any] = {"data": "rows.jsonl", "metric": "exact", "prompt": "{text} ?", "output": "label"}
CHOICE = {**GOOD, "metric": "options", "options": ["yes", "no"]}


def written(folder: Path, task: Any, rows: list[dict[str, Any]] = ROWS) -> Path:
    """A file with one task in one cluster, and its rows beside it."""
    write_jsonl(folder / "rows.jsonl", rows)
    file = folder / "tasks.yaml"
    file.write_text(yaml.safe_dump({"clusters": {"mood": {"day": task}}}))
    return file


def only(folder: Path, task: Any) -> Task:
    (found,) = read_tasks(written(folder, task))
    return found


def test_a_task_is_read_as_it_is_written(tmp_path: Path) -> None:
    given = CHOICE | {"prompt": ["{text} ?", "{{{text}}}"], "split": "train[1:]", "limit": 2, "where": {"kind": "a"}}
    assert only(tmp_path, given | {"max_new_tokens": 5, "train_split": "train[:1]"}) == Task(
        cluster="mood",
        name="day",
        data=tmp_path / "rows.jsonl",
        metric="options",
        prompts=("{text} ?", "{{{text}}}"),
        output="label",
        options=("yes", "no"),
        where={"kind": "a"},
        split="train[1:]",
        train_split="train[:1]",
        limit=2,
        max_new_tokens=5,
    )
    assert only(tmp_path, GOOD | {"chance": 0.25}).chance == 0.25
    assert only(tmp_path, CHOICE | {"options": [1, 2.5]}).options == ("1", "2.5")
    assert only(tmp_path, CHOICE | {"options": "ways"}).options == "ways"


def test_only_so_many_instructions_are_taken(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD | {"prompt": ["{text} ?", "say {text}", "{text}"]})
    assert read_tasks(file, templates=2)[0].prompts == ("{text} ?", "say {text}")
    assert len(read_tasks(file, templates=9)[0].prompts) == 3
    with pytest.raises(InputError, match="--templates must be at least 1, not 0"):
        read_tasks(file, templates=0)


def test_data_may_lie_in_another_folder(tmp_path: Path) -> None:
    file = written(tmp_path, GOOD)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(InputError, match="there is no file"):
        read_tasks(file, other)
    write_jsonl(other / "rows.jsonl", ROWS[:1])
    assert read_tasks(file, other)[0].data == other / "rows.jsonl"


def test_rows_to_train_on_may_be_in_another_file(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "more.jsonl", [{"text": "good night", "label": "no"}, {"text": "good day", "label": "yes"}])
    task = only(tmp_path, GOOD | {"train_data": "more.jsonl", "split": "train[:2]"})
    assert [e.prompts for e in examples_of(task)] == [("good day ?",), ("bad day ?",)]
    assert examples_of(task, training=True) == [
        Example(1, ("good night ?",), ("no",)),
        Example(2, ("good day ?",), ("yes",)),
    ]
    # Both are asked about and trained on in rows 1 and 2, but of different files.
    assert overlapping(task) == 0
    assert overlapping(only(tmp_path, GOOD | {"train_data": "rows.jsonl", "train_split": "train[:2]"})) == 2
    missing = only(tmp_path, GOOD | {"train_data": "more.jsonl", "train_split": "train[2:]"})
    with pytest.raises(InputError, match="more.jsonl has no rows for the task mood/day"):
        examples_of(missing, training=True)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("rows.jsonl", "a task is a mapping with data, metric, output, prompt"),
        (GOOD | {"promt": "x"}, "unknown key 'promt'; did you mean prompt?; a task takes data, metric,"),
        ({k: v for k, v in GOOD.items() if k != "output"}, "the key 'output' is missing"),
        (GOOD | {"data": "none.jsonl"}, "there is no file"),
        (GOOD | {"data": 3}, "'data' must be text, not 3"),
        (GOOD | {"train_data": "none.jsonl"}, "none.jsonl"),
        (GOOD | {"train_data": ["rows.jsonl"]}, "'train_data' must be text, not ['rows.jsonl']"),
        (GOOD | {"metric": "rouge"}, "there is no metric 'rouge'; did you mean rouge-l?; the metrics are exact,"),
        (GOOD | {"metric": "options"}, "the key 'options' and the metric 'options' go together"),
        (GOOD | {"options": ["a", "b"]}, "the key 'options' and the metric 'options' go together"),
        (CHOICE | {"options": [True, False]}, "holds true or false, which are no texts: put the options in quotes"),
        (CHOICE | {"options": ["yes"]}, "two or more different texts, not yes"),
        (CHOICE | {"options": ["yes", "yes "]}, "two or more different texts, not yes, yes"),
        (CHOICE | {"options": ["yes", ["no"]]}, "every option must be a text"),
        (CHOICE | {"options": {"yes": 1}}, "'options' must be a list of answers, or the column"),
        (GOOD | {"prompt": []}, "'prompt' must be an instruction template, or a list of them"),
        (GOOD | {"prompt": "{text"}, "has a stray {: write {{ for the sign itself"),
        (GOOD | {"prompt": "a } b"}, "has a stray }: write }} for the sign itself"),
        (GOOD | {"limit": 0}, "'limit' must be a whole number from 1 up, not 0"),
        (GOOD | {"max_new_tokens": True}, "'max_new_tokens' must be a whole number from 1 up, not True"),
        (GOOD | {"where": "kind"}, "'where' must be a mapping"),
        (GOOD | {"prompt": ["{text} ?", "what ?"]}, "'prompt' has a template without any {column}"),
        (
            GOOD | {"prefix": "mood :"},
            "'prefix' has a template without any {column}, the same for every row: 'mood :'",
        ),
        (GOOD | {"prefix": ["{text}"]}, "'prefix' must be text, not ['{text}']"),
        (GOOD | {"prefix": ""}, "'prefix' must be an instruction template"),
        (GOOD | {"rationale": 3}, "'rationale' must be text, not 3"),
        (GOOD | {"chance": 1}, "'chance' must be the accuracy of guessing, from 0 to below 1, not 1"),
        (GOOD | {"chance": ".25"}, "from 0 to below 1, not '.25'"),
    ],
)
def test_a_faulty_task_is_named(task: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        read_tasks(written(tmp_path, task))
    assert message in str(error.value) and "task mood/day: " in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("clusters: [", "is not valid YAML"),
        ("- a", "must hold `clusters`"),
        ("clusters: {}", "has no clusters"),
        ("clusters: {mood: {}}", "the cluster mood must hold tasks by name"),
        ("clusters: {}\nmore: 1", "and nothing else"),
        ("formats: 3\nclusters: {a: {}}", "tasks.yaml, formats: this must be a mapping with some of separator"),
        ("formats: {seperator: x}\nclusters: {a: {}}", "unknown key 'seperator'; did you mean separator?"),
        ("formats: {inverse: x}\nclusters: {a: {}}", "'inverse' has a template without any {column}"),
        ("formats: {inverse: '{rationale}'}\nclusters: {a: {}}", "the template '{rationale}' lacks {answer}."),
        ("formats: {inverse_cot: '{answer}'}\nclusters: {a: {}}", "the template '{answer}' lacks {rationale}."),
        ("formats: {inverse: '{answer} {x}'}\nclusters: {a: {}}", "may name {answer}, and not 'x'."),
        ("formats: {answer_phrase: ' '}\nclusters: {a: {}}", "'answer_phrase' must be text that is not empty, not ' '"),
        ("formats: {separator: 3}\nclusters: {a: {}}", "'separator' must be text that is not empty, not 3"),
    ],
)
def test_a_faulty_file_is_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tasks.yaml").write_text(text)
    with pytest.raises(InputError, match="tasks.yaml") as error:
        read_tasks(tmp_path / "tasks.yaml")
    assert message in str(error.value)
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_tasks(tmp_path / "none.yaml")


def test_clusters_by_name(tmp_path: Path) -> None:
    tasks = [Task(c, c, tmp_path, "exact", ("x",), "y") for c in ("mood", "size", "mood")]
    assert clusters_named("size, mood", tasks) == ["size", "mood"]
    assert clusters_named(None, tasks) == []
    with pytest.raises(InputError, match="no cluster 'moods'; did you mean mood.; the clusters are mood, size."):
        clusters_named("moods", tasks)


def test_templates() -> None:
    row = {"a b": 1, "text": "{text}", "deep": {"list": [{"x": 2.5}]}}
    template = " {{{a b}}} {text} {deep.list.0.x} "
    check_template(template)
    assert fill(template, row) == "{1} {text} 2.5"  # what a row holds is text, and never a template
    assert content_free(template) == "{}"
    for wrong in ("{none}", "{deep.list.1.x}", "{text.0}"):
        with pytest.raises(InputError, match="there is no column"):
            fill(wrong, row)
    with pytest.raises(InputError, match="'deep' must hold text or a number, not dict"):
        fill("{deep}", row)


def test_rows_become_examples(tmp_path: Path) -> None:
    task = only(tmp_path, GOOD | {"prompt": ["{text} ?", "{instances.0.input}"]})
    assert examples_of(task, limit=2) == [
        Example(1, ("good day ?", "x"), ("yes",)),
        Example(2, ("bad day ?", "y"), ("No.",)),
    ]
    # Lines are counted in the file, whatever is picked; a task's own limit is not raised.
    of_kind = only(tmp_path, GOOD | {"where": {"kind": "a"}, "limit": 1, "split": "train[1:]", "train_split": "train"})
    assert [e.row for e in examples_of(of_kind, limit=5)] == [3]
    assert [e.row for e in examples_of(of_kind, training=True)] == [1, 3]
    either = only(tmp_path, GOOD | {"where": {"kind": ["a", "b"], "instances.0.input": "y"}})
    assert [e.row for e in examples_of(either)] == [2]


def test_reasons_are_read_of_rows_to_train_on(tmp_path: Path) -> None:
    task = only(tmp_path, GOOD | {"rationale": "kind", "prefix": "mood : {text}"})
    assert [(e.prefix, e.rationale) for e in examples_of(task, training=True)][1] == ("mood : bad day", "b")
    # To be asked about a row needs no reasons.
    task = only(tmp_path, GOOD | {"rationale": "none"})
    assert [e.rationale for e in examples_of(task)] == ["", "", ""]


def test_an_answer_is_the_option_it_means(tmp_path: Path) -> None:
    rows = examples_of(only(tmp_path, CHOICE))
    assert [e.references for e in rows] == [("yes",), ("no",), ("yes",)]  # "No." is the option no
    by_row = examples_of(only(tmp_path, CHOICE | {"options": "ways"}))
    assert [e.options for e in by_row] == [("yes", "no"), ("no", "yes"), ("yes", "maybe")]


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        (GOOD | {"prompt": "{texts}"}, 1, "there is no column 'texts'; the row has text, label"),
        (GOOD | {"output": "answer"}, 1, "there is no column 'answer'"),
        (GOOD | {"output": "instances"}, 1, "'instances' must hold an answer, or a list of right answers"),
        (CHOICE | {"options": ["yes", "never"]}, 2, "the answer 'No.' is not among the options 'yes', 'never'"),
        (CHOICE | {"options": "text"}, 1, "'text' must hold a list of options, not 'good day'"),
        (CHOICE | {"options": "instances"}, 1, "the column 'instances': every option must be a text"),
        (GOOD | {"where": {"size": 1}}, 1, "there is no column 'size'"),
        (GOOD | {"prefix": "mood: {txt}"}, 1, "there is no column 'txt'"),
        (GOOD | {"rationale": "why"}, 1, "there is no column 'why'"),
        (GOOD | {"rationale": "ways"}, 1, "the column 'ways' must hold the rationale as text, not ['yes', 'no']"),
    ],
)
def test_a_faulty_row_is_named(task: Any, row: int, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        examples_of(only(tmp_path, task), training=True)
    assert f"rows.jsonl, line {row}, for the task mood/day: " in str(error.value) and message in str(error.value)


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no rows that have 'c' as 'kind' for the task mood/day"):
        examples_of(only(tmp_path, GOOD | {"where": {"kind": "c"}}))
    with pytest.raises(InputError, match="has no rows for the task mood/day"):
        examples_of(only(tmp_path, GOOD | {"split": "train[3:]"}))


def test_both_forms_of_a_question() -> None:
    chat = Demonstration((Message("user", "hi ?"),), (Message("assistant", "yes"),))
    assert dialogue("hi ?", "yes", "chat") == chat
    assert dialogue("hi ?", "yes", "plain") == Demonstration("hi ?", " yes")
    assert (to_prompt("hi ?", "chat"), to_prompt("hi ?", "plain")) == (chat.prompt, "hi ?")
    assert dialogue("", "Hi there.", "plain") == Demonstration("", "Hi there.")  # a text begins with no space


def test_only_options_may_be_asked_for_by_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'prompt' must be an instruction template, or a list of them"):
        only(tmp_path, GOOD | {"prompt": ""})
    with pytest.raises(InputError, match="line 1, for the task mood/day: a prompt is empty."):
        examples_of(
            only(
                tmp_path,
                GOOD
                | {"prompt": "{text}"}
                | {"data": write_jsonl(tmp_path / "b.jsonl", [{"text": " ", "label": "x"}])},
            )
        )
    assert [e.prompts for e in examples_of(only(tmp_path, CHOICE | {"prompt": ""}))] == [("",)] * 3


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Yes", "yes"),
        ("  yes\n", "yes"),
        ("Yes.", "yes"),
        ("yes !?", "yes"),
        ("Not  Suitable.", "not suitable"),
        ("3.5", "3.5"),
        ("3.", "3"),
        ("e.g. this", "e.g. this"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("(b)", "(b)"),
        ("...", "..."),
        ("", ""),
    ],
)
def test_what_counts_in_an_answer(text: str, plain: str) -> None:
    assert normalized(text) == plain == normalized(plain)
