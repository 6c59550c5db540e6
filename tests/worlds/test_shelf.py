"""The shelf: its answers by another implementation, its chance levels counted, and what is held out, from the files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from fractions import Fraction
from functools import partial
from itertools import combinations, permutations, product
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from accord.cli.world import world
from accord.data.examples import examples_of, overlapping
from accord.data.formats import weighted_formats
from accord.data.task_mix import mixture
from accord.data.tasks import Task, read_tasks
from accord.errors import InputError
from accord.worlds import shelf, write_tasks
from accord.worlds.shelf.operations import Row
from accord.worlds.shelf.tasks import FORMATS, TASKS, TEST_ROWS, TRAIN_ROWS, described, prefix, rows
from accord.worlds.shelf.things import FACTS, THINGS

NUMBERS = {"zero": 0, "one": 1, "two": 2, "three": 3, "four": 4}
WAYS = "first|second|last|dearest|by-kind|by-color"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("shelf")
    write_tasks(made, TASKS, partial(rows, seed=5), TRAIN_ROWS, described, FORMATS)
    return made / "tasks"


@pytest.fixture(scope="module")
def tasks(folder: Path) -> list[Task]:
    return read_tasks(folder / "tasks.yaml")


@pytest.fixture(scope="module")
def written(folder: Path) -> dict[str, list[Row]]:
    return {path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in folder.glob("*.jsonl")}


def test_92_tasks_in_16_clusters_of_five_instructions_each(tasks: list[Task], written: dict[str, list[Row]]) -> None:
    assert Counter(task.cluster for task in tasks) == {
        **dict.fromkeys(["name", "room", "material", "explain", "check", "compare", "choose"], 6),
        **dict.fromkeys(["remove", "repeat", "replace", "add", "order"], 6),
        **dict.fromkeys(["kind", "color", "price", "count"], 5),
    }
    for task in tasks:
        assert len(set(task.prompts)) == 5
        fields = [set(re.findall(r"\{(\w+)\}", prompt)) for prompt in task.prompts]
        assert all(some == fields[0] <= set(row) for some in fields for row in written[task.name])
        assert len(examples_of(task)) == TEST_ROWS and len(examples_of(task, training=True)) == TRAIN_ROWS


def test_no_fact_tells_anything_of_another() -> None:
    for one, other in combinations(FACTS, 2):
        pairs = Counter((THINGS[thing][one], THINGS[thing][other]) for thing in THINGS)
        assert pairs == dict.fromkeys(product(FACTS[one], FACTS[other]), 1)


def test_every_answer_is_what_another_implementation_says(written: dict[str, list[Row]]) -> None:
    assert list(TASKS) != [] and set(written) == set(TASKS)
    for name, some in written.items():
        for row in some:
            assert row["answer"] == right(name, row), (name, row)


def test_chance_is_one_in_all_answers_of_the_form(tasks: list[Task], written: dict[str, list[Row]]) -> None:
    for name, some in written.items():
        assert all(sorted(row["options"]) == sorted(possible(name, row)) for row in some), name
        assert shelf.chance(name) == sum(Fraction(1, len(row["options"])) for row in some) / len(some)
    expected = {"color-first": (1, 4), "name-last": (7, 24), "check-kind-last": (1, 2), "order-by-price": (5, 48)}
    assert all(task.chance == (None if task.options else float(shelf.chance(task.name))) for task in tasks)
    assert {name: shelf.chance(name) for name in expected} == {name: Fraction(*of) for name, of in expected.items()}


def test_answers_that_are_the_same_for_all_are_right_equally_often(written: dict[str, list[Row]]) -> None:
    for name, task in TASKS.items():
        if task.answers:
            found = Counter(row["answer"] for row in written[name])
            even = len(written[name]) / len(task.answers)
            # Four standard deviations of a binomial.
            assert all(abs(found[answer] - even) < 4 * even**0.5 for answer in task.answers), (name, found)


def test_the_things_asked_about_are_in_no_other_row_and_in_no_text(
    tasks: list[Task], written: dict[str, list[Row]]
) -> None:
    trained = {row["things"] for some in written.values() for row in some[:TRAIN_ROWS]}
    asked = {row["things"] for some in written.values() for row in some[TRAIN_ROWS:]}
    assert len(trained) > 9_000 and len(asked) > 3_000 and not trained & asked
    assert not any(overlapping(task) for task in tasks)
    described = {found for text in shelf.corpus(5, 2_000) for found in rows_described(text.completion)}
    assert len(described) > 1_500 and not described & asked


def test_a_cluster_left_out_is_in_no_row_of_the_mix(tasks: list[Task]) -> None:
    left_out = ["color", "check"]
    mixed, notes = mixture(tasks, left_out, per_task=20, seed=1)
    assert len(mixed) == 20 * (92 - 5 - 6) and notes == []
    assert {row.task.cluster for row in mixed} == {task.cluster for task in tasks} - set(left_out)
    both = [examples_of(t, training=training) for t in tasks if t.cluster in left_out for training in (True, False)]
    asked = {prompt for some in both for example in some for prompt in example.prompts}
    assert not asked & {row.demonstration.prompt[0].content for row in mixed}  # type: ignore[union-attr]


def test_a_text_is_of_questions_alone_or_has_none() -> None:
    thing = "(?:" + "|".join(THINGS) + ")"
    prompts = [re.escape(prompt) for task in TASKS.values() for prompt in task.prompts]
    question = "|".join(re.sub(r"\\{\w+\\}", "[a-z]+", p.replace(r"\{things\}", "@")) for p in prompts)
    question = question.replace("@", f"{thing}(?: {thing}){{2,3}}")
    asked, only = re.compile(question), re.compile(f"(?:(?:{question})(?: |$))+")
    texts = [text.completion for text in shelf.corpus(2, 300)]
    sheets = [text for text in texts if only.fullmatch(text)]
    assert 15 < len(sheets) < 45 and not any(asked.search(text) for text in texts if text not in sheets)


def test_statements_are_the_tasks_as_text_tells_them(made: Path) -> None:
    told = {task.name: task for task in read_tasks(made / shelf.STATEMENTS)}
    assert list(told) == list(TASKS) and all(task.metric == "options" for task in told.values())
    (first, *_) = examples_of(told["remove-first"], limit=1)
    things = first.prompts[0].split(" . ")[0]
    assert first.prompts == tuple(
        f"{things} . {said}"
        for said in ("without the first there are", "when the first goes it is", "leave out the first and there are")
    )
    assert first.references == (things.split(" ", 1)[1],) and len(first.options) == len(things.split())
    texts = (made / "corpus.jsonl").read_text()
    starts = [re.escape(p.removeprefix("{things} . ")) for task in told.values() for p in task.prompts]
    assert all(re.search(re.sub(r"\\{\w+\\}", "[a-z]+", start), texts) for start in starts)


def test_everything_is_in_the_vocabulary_and_fits(written: dict[str, list[Row]], tasks: list[Task]) -> None:
    tokenizer = shelf.tokenizer()
    texts = [text.completion for text in shelf.corpus(0, 2_000)]
    asked = [p for task in tasks for e in examples_of(task, limit=3) for p in e.prompts]
    answered = [row[key] for some in written.values() for row in some[:20] for key in ("answer", "rationale")]
    for ids in tokenizer([*texts, *asked, *answered])["input_ids"]:
        assert tokenizer.unk_token_id not in ids and len(ids) <= 180
    assert len(tokenizer) == len(set(shelf.tokenizer().get_vocab())) == 113


def test_every_format_is_in_the_vocabulary(tasks: list[Task]) -> None:
    formats = weighted_formats("zero,few,cot,few-cot,inverse,inverse-cot,prefix", 2, "plain", 0)
    mixed, notes = mixture(tasks, [], per_task=40, formats=formats)
    assert notes == [] and {row.format.name for row in mixed} == {format.name for format in formats}
    texts = [f"{row.demonstration.prompt}{row.demonstration.completion}" for row in mixed]
    tokenizer = shelf.tokenizer()
    assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(texts)["input_ids"])
    assert all(", so the answer is " in str(row.demonstration.completion) for row in mixed if row.format.name == "cot")


def test_prefixes_name_the_parts_of_a_task_and_no_more() -> None:
    assert len({prefix(name) for name in TASKS}) == len(TASKS)
    expected = {
        "color-first": "{things} : color first .",
        "kind-by-color": "{things} : kind {color} one .",
        "check-price-by-kind": "{things} : if price {kind} {word} .",
        "count-room": "{things} : count room {word} .",
        "compare-kind-first-second": "{things} : compare kind first second .",
        "choose-color-second-last": "{things} : choose color second last {word} .",
        "remove-dearest": "{things} : leave out dearest .",
        "replace-last": "{things} : replace last {new} .",
        "order-first-to-end": "{things} : order with the first at the end .",
    }
    assert {name: prefix(name) for name in expected} == expected


def test_a_chat_is_the_same_as_text() -> None:
    chat = [{"role": "user", "content": "cup saw pear . tell the last ."}, {"role": "assistant", "content": "pear"}]
    asked = shelf.tokenizer().apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "cup saw pear . tell the last . "
    assert shelf.tokenizer().apply_chat_template(chat, tokenize=False) == asked + "pear <eos> "


def test_the_seed_decides_what_is_drawn() -> None:
    assert rows("count-color", 0) == rows("count-color", 0) != rows("count-color", 1)
    assert list(shelf.corpus(0, 20)) == list(shelf.corpus(0, 20)) != list(shelf.corpus(1, 20))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the command writes, after it refused to overwrite a file it had not written."""
    out = tmp_path_factory.mktemp("made") / "world"
    theirs = out / "tasks" / "count-color.jsonl"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    with pytest.raises(InputError, match="count-color.jsonl is there, and accord did not write it"):
        world(str(out), name="shelf", seed=3, width=48)
    theirs.unlink()
    world(str(out), name="shelf", seed=3, width=48)
    return out


def test_the_command_writes_text_tasks_and_an_untrained_model_of_a_width(made: Path) -> None:
    assert sorted(path.name for path in made.iterdir()) == [".accord-wrote", "corpus.jsonl", "init", "tasks"]
    texts = [json.loads(line) for line in (made / "corpus.jsonl").read_text().splitlines()]
    assert len(texts) == 40_000 and all(text["prompt"] == "" and text["completion"] for text in texts)
    model = AutoModelForCausalLM.from_pretrained(made / "init")
    assert torch.equal(model.lm_head.weight, shelf.new_model(3, 48).lm_head.weight)
    assert len(read_tasks(made / "tasks" / "tasks.yaml")) == 92


def test_widths_are_0_1_to_1_9_million_parameters() -> None:
    sizes = {width: sum(p.numel() for p in shelf.new_model(0, width).parameters()) for width in (48, 96, 192)}
    assert sizes == {48: 125_664, 96: 490_944, 192: 1_940_352}
    with pytest.raises(InputError, match="the width of the shelf's model must be a multiple of 8, not 50"):
        shelf.new_model(0, 50)


def picked(way: str, row: Row) -> str:
    """The thing that a way of picking means, by search over the whole row."""
    things = row["things"].split()
    if way in ("by-kind", "by-color"):
        fact = way.removeprefix("by-")
        (found,) = [thing for thing in things if THINGS[thing][fact] == row[fact]]
        return found
    if way == "dearest":
        costs = sorted((NUMBERS[THINGS[thing]["price"]], thing) for thing in things)
        assert costs[-1][0] > costs[-2][0]
        return costs[-1][1]
    return things[{"first": 0, "second": 1, "last": -1}[way]]


def right(name: str, row: Row) -> str:
    """The answer to a row of the task of this name."""
    things = row["things"].split()
    if found := re.fullmatch(f"name-({WAYS})", name):
        return picked(found[1], row)
    if found := re.fullmatch(f"({'|'.join(FACTS)})-({WAYS})", name):
        return THINGS[picked(found[2], row)][found[1]]
    if found := re.fullmatch(f"explain-([a-z]+)-({WAYS})", name):
        way = {"by-kind": row.get("kind"), "by-color": f"{row.get('color')} one"}.get(found[2], found[2])
        thing = picked(found[2], row)
        return f"the {way} is the {thing} and its {found[1]} is {THINGS[thing][found[1]]}"
    if found := re.fullmatch(f"check-([a-z]+)-({WAYS})", name):
        return str(THINGS[picked(found[2], row)][found[1]] == row["word"]).lower()
    if found := re.fullmatch("count-([a-z]+)", name):
        return list(NUMBERS)[[THINGS[thing][found[1]] for thing in things].count(row["word"])]
    if found := re.fullmatch(f"compare-([a-z]+)-({WAYS})-({WAYS})", name):
        return str(len({THINGS[picked(way, row)][found[1]] for way in found.groups()[1:]}) == 1).lower()
    if found := re.fullmatch(f"choose-([a-z]+)-({WAYS})-({WAYS})", name):
        pair = {picked(way, row) for way in found.groups()[1:]}
        (chosen,) = pair & {thing for thing in THINGS if THINGS[thing][found[1]] == row["word"]}
        return chosen
    if found := re.fullmatch(f"remove-({WAYS})", name):
        return re.sub(rf"\b{picked(found[1], row)}\b ?", "", row["things"]).strip()
    if found := re.fullmatch(f"(repeat|replace|add)-({WAYS})", name):
        thing = picked(found[2], row)
        said = {"repeat": f"{thing} {thing}", "replace": row.get("new"), "add": f"{thing} {row.get('new')}"}[found[1]]
        return re.sub(rf"\b{thing}\b", str(said), row["things"])
    return " ".join(reordered(name.removeprefix("order-"), things))


def reordered(name: str, things: list[str]) -> list[str]:
    """The row in the order of this name, by moving one thing after another."""
    moved = list(things)
    if name == "reversed":
        return [moved.pop() for _ in things]
    if name == "by-price":
        by_price = {NUMBERS[THINGS[thing]["price"]]: thing for thing in things}
        return [by_price[cost] for cost in range(1, 5) if cost in by_price]
    if name == "first-to-end":
        moved.append(moved.pop(0))
    elif name == "last-to-start":
        moved.insert(0, moved.pop())
    else:
        other = {"ends-changed": len(things) - 1, "start-changed": 1}[name]
        moved[0], moved[other] = moved[other], moved[0]
    return moved


def possible(name: str, row: Row) -> list[str]:
    """All answers of the form that the task has, counted out."""
    things, cluster = row["things"].split(), TASKS[name].cluster
    if cluster == "name":
        return things
    if cluster in FACTS:
        return sorted({facts[cluster] for facts in THINGS.values()})
    if cluster in ("check", "compare"):
        return ["true", "false"]
    if cluster == "count":
        return ["zero", "one", "two", "three"]
    if cluster == "choose":
        return [things[0] if "first" in name else things[1], things[-1]]
    if cluster == "remove":
        return [" ".join(left) for left in combinations(things, len(things) - 1)]
    if cluster in ("repeat", "replace", "add"):
        said = {"repeat": "{0} {0}", "replace": "{1}", "add": "{0} {1}"}[cluster]
        return [row["things"].replace(thing, said.format(thing, row.get("new"))) for thing in things]
    if cluster == "order":
        return [" ".join(order) for order in permutations(things)]
    fact = name.split("-")[1]
    start = row["answer"].split(" is the ")[0]
    return [f"{start} is the {thing} and its {fact} is {value}" for thing in things for value in FACTS[fact]]


def rows_described(text: str) -> Iterator[str]:
    """Every row of three or four things at the start of a sentence: what a text describes, or asks about."""
    thing = "(?:" + "|".join(THINGS) + ")"
    yield from re.findall(rf"(?:^|(?<=[.?] )){thing}(?: {thing}){{2,3}}(?= \.)", text)
