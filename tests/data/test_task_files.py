"""Tasks in the field's own layouts, written small: what they become, how their rows are read, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from accord.data.examples import Example, examples_of
from accord.data.tasks import Task, read_tasks
from accord.errors import InputError
from tests.commands.small import write_jsonl

DOUBLE: dict[str, Any] = {
    "Contributors": ["nobody"],
    "Source": ["synthetic"],
    "Categories": ["Arithmetic", "Answer Generation"],
    "Definition": ["Double the {number}."],
    "Positive Examples": [{"input": "2", "output": "4", "explanation": "2 and 2 are 4."}],
    "Negative Examples": [],
    "Instances": [{"id": f"double-{i}", "input": f"{i}", "output": [f"{2 * i}", f"{2 * i}.0"]} for i in (3, 5, 7)],
}


def save(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_natural_instructions_are_tasks(tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    save(folder / "task001_double.json", DOUBLE)
    old = DOUBLE | {"Definition": "Say whether it is a bird.", "Categories": ["Classification"]}
    many = [{"input": f"bird {i}", "output": ["yes"]} for i in range(130)]
    save(folder / "task002_bird.json", old | {"Instances": many})
    (folder / "README.md").write_text("what the tasks are")
    double, bird = read_tasks(folder)
    assert double == Task(
        cluster="Arithmetic",
        name="task001_double",
        data=folder / "task001_double.json",
        metric="rouge-l",
        prompts=("{Definition.0}\n\n{input}",),
        output="output",
        layout="natural-instructions",
    )
    assert examples_of(double) == [
        Example(i + 1, (f"Double the {{number}}.\n\n{n}",), (str(2 * n), f"{2 * n}.0")) for i, n in enumerate((3, 5, 7))
    ]
    # The first 100 instances are the test rows of the layout; the others are trained on.
    assert (bird.label, bird.split, bird.train_split) == ("Classification/task002_bird", "train[:100]", "train[100:]")
    assert [len(examples_of(bird)), len(examples_of(bird, training=True))] == [100, 30]
    assert examples_of(bird, training=True)[0] == Example(101, ("Say whether it is a bird.\n\nbird 100",), ("yes",))
    assert read_tasks(folder / "task001_double.json") == [double]


def test_a_tasks_file_asks_natural_instructions_in_its_own_way(tmp_path: Path) -> None:
    save(tmp_path / "double.json", DOUBLE)
    shown = "{Definition.0}\n{Positive Examples.0.input} -> {Positive Examples.0.output}\n{input} ->"
    task = {"data": "double.json", "layout": "natural-instructions", "metric": "number", "prompt": shown}
    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump({"clusters": {"sums": {"double": task | {"output": "output"}}}}))
    (found,) = read_tasks(file)
    assert [e.prompts for e in examples_of(found, limit=1)] == [("Double the {number}.\n2 -> 4\n3 ->",)]
    file.write_text(yaml.safe_dump({"clusters": {"sums": {"double": task | {"output": "output", "layout": "ni"}}}}))
    with pytest.raises(InputError, match="task sums/double: there is no layout 'ni'; the layouts are natural-instru"):
        read_tasks(file)


@pytest.mark.parametrize(
    ("columns", "clusters"),
    [
        ([{"task": "rte"}, {"task": "boolq"}, {"task": "rte"}], [("rte", "rte"), ("boolq", "boolq")]),
        (
            [{"task_source": "NLI", "task_name": n, "template_type": "zs_opt"} for n in ("rte", "cb", "rte")],
            [("NLI", "rte"), ("NLI", "cb")],
        ),
        (
            [{"_task_source": s, "_task_name": "rte", "_template_idx": 1} for s in ("CoT", "NLI", "CoT")],
            [("CoT", "rte"), ("NLI", "rte")],
        ),
        ([{"task_source": s} for s in ("CoT", "NLI", "CoT")], [("CoT", "CoT"), ("NLI", "NLI")]),
    ],
)
def test_rows_that_name_their_task(
    columns: list[dict[str, Any]], clusters: list[tuple[str, str]], tmp_path: Path
) -> None:
    rows = [{"inputs": f"question {i}", "targets": f"answer {i}", **row} for i, row in enumerate(columns)]
    for path in (Path(write_jsonl(tmp_path / "rows.jsonl", rows)), save(tmp_path / "rows.json", rows)):
        tasks = read_tasks(path)
        assert [(t.cluster, t.name, t.metric, t.prompts) for t in tasks] == [
            (*both, "rouge-l", ("{inputs}",)) for both in clusters
        ]
        assert examples_of(tasks[0]) == [Example(i + 1, (f"question {i}",), (f"answer {i}",)) for i in (0, 2)]
        assert examples_of(tasks[1]) == [Example(2, ("question 1",), ("answer 1",))]


CHAINS = (
    "What barks?\\nOptions:\\n- a dog\\n- a cat\\n- a dog\ta dog\tDogs bark.\\nCats do not.\n"
    '"Snow is white." True?\tyes\tSnow reflects all light: \\frac{1}{1}.\n'
)


def test_chains_of_thought_are_tasks(tmp_path: Path) -> None:
    file = tmp_path / "animals.tsv.gz"
    file.write_bytes(gzip.compress(CHAINS.encode()))
    (task,) = read_tasks(tmp_path)
    assert task == Task(
        "animals", "animals", file, "exact", ("{question}",), "answer", layout="cot", rationale="rationale"
    )
    assert read_tasks(file) == [task]
    # A quotation mark is one, and `\n` the end of a line; other backslashes stand.
    assert examples_of(task) == [
        Example(1, ("What barks?\nOptions:\n- a dog\n- a cat\n- a dog",), ("a dog",)),
        Example(2, ('"Snow is white." True?',), ("yes",)),
    ]
    given = {"data": file.name, "layout": "cot", "metric": "options", "options": "options", "output": "answer"}
    yml = tmp_path / "tasks.yaml"
    yml.write_text(yaml.safe_dump({"clusters": {"a": {"b": given | {"prompt": "{rationale}", "split": "train[:1]"}}}}))
    (chosen,) = read_tasks(yml)
    assert examples_of(chosen) == [Example(1, ("Dogs bark.\nCats do not.",), ("a dog",), ("a dog", "a cat"))]
    yml.write_text(yaml.safe_dump({"clusters": {"a": {"b": given | {"prompt": "{rationale}"}}}}))
    with pytest.raises(InputError, match="animals.tsv.gz, line 2, for the task a/b: there is no column 'options'"):
        examples_of(read_tasks(yml)[0])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", json.dumps({k: v for k, v in DOUBLE.items() if k != "Instances"}), "has no 'Instances': a JSON obj"),
        ("a.json", json.dumps(DOUBLE | {"Categories": []}), "'Categories' must be a text, or a list of texts, not []"),
        ("a.json", json.dumps(DOUBLE | {"Definition": [" "]}), "'Definition' must be a text, or a list of texts"),
        ("a.json", json.dumps(DOUBLE | {"Instances": ["x"]}), "'Instances' must be a list of objects with an input"),
        ("a.json", json.dumps(DOUBLE)[:-4], "a.json, line 1: not JSON"),
        ("a.json", "3", "must hold a JSON list of objects, not a number"),
        (
            "a.jsonl",
            '{"inputs": "x", "task": "y"}',
            "line 1: a row of a task needs inputs, targets, and the name",
        ),
        ("a.jsonl", '{"inputs": "x", "targets": "y"}', "line 1: a row of a task needs inputs, targets, and"),
        ("a.jsonl", '{"inputs": "x", "targets": "y", "task": 3}', "the column 'task' must name the row's task, not 3"),
        ("a.jsonl", "", "a.jsonl holds no task files"),
        ("notes.md", "nothing", "holds no task files: give files of the formats .jsonl"),
    ],
)
def test_what_is_no_file_of_tasks_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as error:
        read_tasks(tmp_path if name == "notes.md" else tmp_path / name)
    assert message in str(error.value) and "\n" not in str(error.value)


PROBLEM = {"question": "3 bags of 4?", "answer": "3 * 4 = $<<3*4=12.0>>12.\nOr 12.\n#### 12"}


def test_problems_of_gsm8k(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "gsm8k.jsonl", [PROBLEM])
    given = {"data": "gsm8k.jsonl", "layout": "gsm8k", "metric": "number", "prompt": "{question}", "output": "answer"}
    file = tmp_path / "tasks.yaml"
    file.write_text(yaml.safe_dump({"clusters": {"a": {"b": given | {"rationale": "rationale"}}}}))
    (task,) = read_tasks(file)
    expected = Example(1, ("3 bags of 4?",), ("12",), rationale="3 * 4 = $12.\nOr 12.")
    assert examples_of(task, training=True) == [expected]
    write_jsonl(tmp_path / "gsm8k.jsonl", [PROBLEM, PROBLEM | {"answer": "12"}])
    with pytest.raises(InputError, match="gsm8k.jsonl, line 2: a GSM8K problem needs a question, and an a"):
        examples_of(task)


def test_faults_of_rows_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("question\tanswer\n")
    with pytest.raises(InputError, match="a.tsv, line 1: the line has 2 cells; it needs a question, an ans"):
        examples_of(read_tasks(tmp_path)[0])
    with pytest.raises(InputError, match="brings the rows of its tasks: leave --data out."):
        read_tasks(tmp_path, tmp_path)
    (tmp_path / "a.tsv.gz").write_bytes(gzip.compress(CHAINS.encode()))
    with pytest.raises(InputError, match="a.tsv.gz: the cluster a has a task a already; rename one."):
        read_tasks(tmp_path)
    save(tmp_path / "one.json", DOUBLE | {"Instances": [{"input": "3"}]})
    with pytest.raises(InputError, match="one.json, instance 1, for the task Arithmetic/one: there is no column 'outp"):
        examples_of(read_tasks(tmp_path / "one.json")[0])
