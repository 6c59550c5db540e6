"""`accord world`: the files of a small world with known truth.

`accord tasks`: demonstrations of some clusters of tasks, for a model that is then asked about the others.

`accord data`: how the rows of a file are read, and what of them a model would be trained on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table
from rich.text import Text as Line

from accord import data as rows_of
from accord import engine
from accord.console import legible, show, status
from accord.engine.config import require_seed
from accord.errors import InputError, LeftOut
from accord.evaluate.options import ChatOptions, takes
from accord.outputs import require_file, require_folder, save_rows
from accord.records import Preference, Prompt, Row, Text, Tokenization, row_to_json
from accord.records import show as as_text

if TYPE_CHECKING:
    from accord.data.formats import Format
    from accord.data.task_mix import Mixed
    from accord.data.tasks import Task
    from accord.engine import Branch, Policy, Tree


MOST_CHOICES = 10_000_000
"""Choices of all users together, a row each."""
WIDEST = 8192
"""The widest model of a small world: of the café's layers it has some ten billion numbers."""


def world(
    out: str,
    *,
    name: Literal["cafe", "counter", "facts", "shelf", "sums"] = "cafe",
    seed: int = 0,
    width: int | None = None,
    tastes: Literal["opposite", "overlapping", "groups", "directions"] | None = None,
    users: int | None = None,
    choices: int | None = None,
) -> Path:
    """Write a small world: demonstrations, prompts to train on and to evaluate on, and an untrained model.

    Args:
        out: the folder to write.
        name: which world: cafe (questions about dishes, with a gold reward), counter (conversations about prices, with
            a gold reward for every turn and a simulated guest), facts (questions about people, half of which no text
            answers, with probes), shelf (92 tasks on rows of things, in 16 clusters) or sums (addition on a
            scratchpad).
        seed: decides everything that is drawn at random.
        width: of the untrained model; of the café a multiple of 12, 192 (1.1 M parameters) unless given, of counter,
            facts and shelf a multiple of 8, 96 (0.5 M parameters) unless given.
        tastes: write the choices of users of the café too, who have tastes of their own, as comparisons.jsonl, and of a
            quarter as many others as comparisons-unseen.jsonl: opposite or overlapping tastes, four groups, or all
            directions of three features.
        users: of comparisons.jsonl, 800 unless given.
        choices: of each user, 24 unless given.

    Raises:
        InputError: no model has that width, or an option is for another world.
    """
    further = {option: value for option, value in (("users", users), ("choices", choices)) if value is not None}
    if name != "cafe" and tastes is not None:
        raise InputError(f"--tastes is for the world cafe; {name} has no users.")
    for option, value in further.items():
        if tastes is None:
            raise InputError(f"--{option} is for users with tastes of their own; say which by --tastes.")
        if value < 1:
            raise InputError(f"--{option} must be at least 1, not {value}.")
    if (users or 0) * (choices or 1) > MOST_CHOICES or (choices or 0) > MOST_CHOICES:
        raise InputError(f"--users times --choices must be at most {MOST_CHOICES:,}; give fewer of either.")
    if width is not None and width > WIDEST:
        raise InputError(f"--width must be at most {WIDEST:,}, not {width:,}.")
    if name == "sums" and width is not None:
        raise InputError(f"--width is for the worlds cafe, counter, facts and shelf; the model of {name} has one size.")
    require_seed(seed)
    require_folder(out)
    from accord.worlds import cafe, counter, facts, shelf, sums

    if name == "sums":
        sums.write(Path(out), seed)
    elif name == "shelf":
        shelf.write(Path(out), seed, shelf.WIDTH if width is None else width)
    elif name == "counter":
        counter.write(Path(out), seed, counter.WIDTH if width is None else width)
    elif name == "facts":
        facts.write(Path(out), seed, facts.WIDTH if width is None else width)
    else:
        guests = cafe.Guests(tastes, **further) if tastes is not None else None
        cafe.write(Path(out), seed, cafe.WIDTH if width is None else width, guests)
    return Path(out)


def tasks(
    tasks: str,
    out: str,
    *,
    leave_out: str | None = None,
    max_clusters: int | None = None,
    data: str | None = None,
    per_task: int = 3000,
    mixing_temperature: float = 1.0,
    rows: int | None = None,
    templates: int | None = None,
    formats: str | None = None,
    shots: int | None = None,
    form: Literal["chat", "plain"] = "chat",
    seed: int = 0,
) -> Path:
    """Write demonstrations of the tasks of all clusters but those left out, to fine-tune on with `accord sft`.

    Tasks are mixed in proportion to their rows, each counting --per-task at most; a row is put in one of its task's
    instructions, drawn at random.

    Args:
        tasks: a YAML file of tasks in clusters, a file or folder in one of the field's own layouts, or probes.
        out: the JSONL file to write.
        leave_out: the cluster, or several with commas, to hold out for evaluation.
        max_clusters: only so many of the clusters not left out, the first in an order drawn by the seed.
        data: the folder of the tasks' data files, where they are not beside the tasks file.
        per_task: rows beyond which a task gets no larger share.
        mixing_temperature: 1 mixes in proportion, higher ones bring all tasks' shares nearer to equal.
        rows: rows to write; all there are, up to --per-task of each task, unless given.
        templates: only so many instructions of each task, the first.
        formats: how rows are written, each in one format drawn by its weight: zero:2,few:1,cot:1,few-cot:1,inverse:1,
            inverse-cot:1, or prefix; zero, or few where --shots are given, unless given.
        shots: exemplars before each row of few and few-cot: so many other rows of its task, with their answers; 3
            unless given.
        form: chat writes chats of two turns, plain texts for models without a chat template.
        seed: decides which clusters, rows and instructions, and their order.

    Raises:
        InputError: the tasks, their rows or an option cannot be used, or nothing is left to train on.
    """
    _check_mix(per_task, rows, shots, mixing_temperature)
    from accord.data.examples import overlapping
    from accord.data.formats import weighted_formats
    from accord.data.task_mix import mixture
    from accord.data.tasks import clusters_beyond, clusters_named, read_tasks

    written = weighted_formats(formats, shots, form, seed)
    known = read_tasks(tasks, data, templates)
    require_file(out, tasks, [file for task in known for file in (task.data, task.training_file)])
    left = clusters_named(leave_out, known)
    left += clusters_beyond(max_clusters, left, known, seed)
    mixed, notes = mixture(
        known, left, per_task=per_task, temperature=mixing_temperature, total=rows, formats=written, seed=seed
    )
    for line in notes:
        status(line)
    for task in known:
        if task.cluster not in left and (n := overlapping(task)):
            status(f"{task.label}: {n} rows are evaluated on too; set split and train_split")
    save_rows(out, map(row_of_task, mixed))
    show(rows_of_tasks(known, mixed), rows_of_formats(written, mixed))
    return Path(out)


def _check_mix(per_task: int, rows: int | None, shots: int | None, mixing_temperature: float) -> None:
    for option, count in (("per-task", per_task), ("rows", rows), ("shots", shots)):
        if count is not None and count < 1:
            raise InputError(f"--{option} must be at least 1, not {count}.")
    if mixing_temperature <= 0:
        raise InputError(f"--mixing-temperature must be positive, not {mixing_temperature:g}.")


def row_of_task(mixed: Mixed) -> dict[str, Any]:
    """A demonstration with where it is from, how it is written, and its answer alone, as verifiers read it."""
    more = {"cluster": mixed.task.cluster, "task": mixed.task.name, "format": mixed.format.name}
    answer = {} if mixed.answer is None else {"answer": mixed.answer}
    return {**row_to_json(mixed.demonstration), **more, **answer}


def rows_of_tasks(tasks: Sequence[Task], mixed: Sequence[Mixed]) -> Table:
    """How many rows each task has in the mix."""
    counts = Counter(row.task.label for row in mixed)
    grid = Table("cluster", "task", "rows", "share")
    for task in tasks:
        n = counts[task.label]
        grid.add_row(task.cluster, task.name, str(n), f"{n / len(mixed):.1%}")
    return grid


def rows_of_formats(formats: Iterable[Format], mixed: Sequence[Mixed]) -> Table:
    """How many rows of the mix are written in each format."""
    counts = Counter(row.format for row in mixed)
    grid = Table("format", "rows", "share")
    for format in formats:
        grid.add_row(format.name, str(counts[format]), f"{counts[format] / len(mixed):.1%}")
    return grid


@takes(ChatOptions)
def data(
    file: str | list[str], *, model: str | None = None, first: int = 3, max_length: int = 512, **options: Any
) -> None:
    """Show how the rows of a file are read: as what, how many, how long, the first ones, and what is left out and why.

    With a model the first rows are shown as its chat template writes them, what is trained on between marks, and
    lengths are in tokens.

    Args:
        file: a file, a folder or a Hub name; or several, each with :WEIGHT for a mix.
        model: a folder, a Hugging Face Hub name, or smollm2, whose tokenizer and chat template read the rows.
        first: how many rows to show.
        max_length: tokens of prompt and completion; longer completions are cut, rows with longer prompts left out.
        options: the fields of `ChatOptions`.

    Raises:
        InputError: the file cannot be read, or none of its rows can be used.
    """
    if first < 0:
        raise InputError(f"--first must be 0 or more, not {first}.")
    if max_length < 1:
        raise InputError(f"max_length must be at least 1, not {max_length}.")
    asked, left_out = ChatOptions(**options), LeftOut()
    rows = rows_of.load_data(file, split=asked.split, limit=asked.limit, columns=asked.columns, left_out=left_out)
    policy = asked.templated(engine.load.load_model(model)) if model else None
    trees: list[Tree] = []
    if policy and not isinstance(rows[0], Prompt):
        trees = rows_of.encoding.encode(
            policy.tokenizer, rows, max_length=max_length, context=policy.context, left_out=left_out
        ).trees
    show(summary(rows_of.mix.called(file), rows, trees))
    for reason in (*left_out.taken, *left_out.lines()):
        status(reason)
    lines = [marked(policy, tree) for tree in trees[:first]] if policy else []
    for number, line in enumerate(lines or [plain(row) for row in rows[:first]], 1):
        show(Line(f"row {number}", "bold"), line)


def summary(file: str, rows: Sequence[Row], trees: Sequence[Tree]) -> Table:
    """What the rows are, and how long their prompts and completions."""
    prompts = [row.prompt for row in rows]
    completions = [completion for row in rows for completion in rows_of.encoding.branches_of(row)[0]]
    unit = "tokens" if trees else "characters"
    lengths = {"prompt": [len(as_text(text)) for text in prompts], "completion": [len(as_text(c)) for c in completions]}
    if trees:
        lengths = {
            "prompt": [len(tree.prompt) for tree in trees],
            "completion": [len(branch.tokens) for tree in trees for branch in tree.branches],
        }
    grid = Table(file, "")
    form = "tokens" if isinstance(rows[0], Tokenization) else _form(prompts + completions)
    grid.add_row("read as", f"{type(rows[0]).__name__.lower()}s, {form}")
    grid.add_row("rows", f"{len(rows):,}")
    for name, found in lengths.items():
        if found:
            grid.add_row(f"{name}, {unit}", f"{min(found):,} to {max(found):,}, the middle {median(found):,.0f}")
    doubts = [row.probability for row in rows if isinstance(row, Preference) and row.probability != 1]
    if doubts:
        grid.add_row("may be wrong", f"{len(doubts):,} rows, chosen_probability {min(doubts):.3f} to {max(doubts):.3f}")
    return grid


def _form(texts: Iterable[Text]) -> str:
    chats = {not isinstance(text, str) for text in texts if text}
    return "chats and plain texts" if len(chats) > 1 else "chats" if chats == {True} else "plain texts"


def plain(row: Row) -> Line:
    """A row as text, its prompt before its completions; tokens as they are, those trained on between ⟦ and ⟧."""
    if isinstance(row, Tokenization):
        tokens = zip(row.tokens, row.trained, strict=True)
        return Line(" ".join(f"⟦{token}⟧" if is_trained else str(token) for token, is_trained in tokens))
    completions, ranks = rows_of.encoding.branches_of(row)
    line = Line(legible(as_text(row.prompt)), "dim")
    for i, completion in enumerate(completions):
        rank = f" (rank {ranks[i]})" if ranks else ""
        line.append(f"\n-> completion{rank}: ", "bold").append(legible(as_text(completion)), "not dim")
    return line


def marked(policy: Policy, tree: Tree) -> Line:
    """A tree as the model reads it; what it is trained on stands between ⟦ and ⟧."""
    line = Line(_spelled(policy, tree.prompt), "dim")
    for i, branch in enumerate(tree.branches):
        rank = f" (rank {tree.ranks[i]})" if tree.ranks else ""
        line.append(f"\n-> completion{rank}: ", "bold")
        for is_trained, text in _stretches(policy, branch):
            line.append(f"⟦{text}⟧" if is_trained else text, "not dim" if is_trained else "dim")
    return line


def _stretches(policy: Policy, branch: Branch) -> Iterator[tuple[bool, str]]:
    trained = branch.trained or (True,) * len(branch.tokens)
    for is_trained, some in groupby(zip(trained, branch.tokens, strict=True), key=lambda pair: pair[0]):
        yield is_trained, _spelled(policy, tuple(token for _, token in some))


def _spelled(policy: Policy, tokens: Sequence[int]) -> str:
    return legible(str(policy.tokenizer.decode(list(tokens))))
